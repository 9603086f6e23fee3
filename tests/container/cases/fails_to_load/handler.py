"""A handler whose model cannot be loaded."""


def handle(data, context):
    raise RuntimeError("no such weights: the test's own failure")
