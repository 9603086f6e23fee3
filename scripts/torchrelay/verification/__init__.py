"""Asks a running model and judges its replies."""
