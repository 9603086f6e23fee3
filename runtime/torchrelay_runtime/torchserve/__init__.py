"""TorchServe 0.12: its configuration, its command and its workers' state. `server.py` implements `contract.Server`."""
