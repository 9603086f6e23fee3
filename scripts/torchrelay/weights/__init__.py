"""Weights: their sources, the download, and the checks of what arrived."""
