"""The part that runs confined in the Python that has fastai. Its only third-party packages are that Python's."""
