"""The network: its weights, its device, and running many samples through it in batches."""
