"""What runs in the Python that has fastai, confined: of this package it imports only what needs no third-party package."""
