"""A handler whose model cannot be loaded."""


def handle(_data, _context):
    raise RuntimeError("no such weights: the test's own failure")
