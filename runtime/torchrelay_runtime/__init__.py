"""What runs inside a model's container beside the server: PID 1, the front proxy, readiness and the probe.

Standard library only. `torchserve/` is the one folder that knows TorchServe.
"""
