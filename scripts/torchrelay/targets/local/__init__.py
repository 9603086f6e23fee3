"""The local target: processes on this machine, without Docker."""
