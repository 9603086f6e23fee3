"""The programs that run beside the server in a model's container: PID 1, the front proxy, readiness and the probe.

Standard library only. `torchserve/` is the one folder that knows TorchServe.
"""
