"""Torchrelay: a PyTorch model directory in, a verified and running endpoint out."""

__version__ = "0.1.0"
