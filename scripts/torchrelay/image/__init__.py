"""What goes into a model's image."""
