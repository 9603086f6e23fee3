"""Images and registries; knows no model."""
