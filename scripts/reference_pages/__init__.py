"""Writes the reference pages in docs/reference/ from the code, and the generated parts of hand-written pages."""
