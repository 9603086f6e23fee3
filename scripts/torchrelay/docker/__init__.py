"""A Docker daemon: its images, its containers, and commands inside them."""
