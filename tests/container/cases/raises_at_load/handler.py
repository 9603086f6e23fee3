"""A handler whose network cannot be made."""


def init_function(width):
    raise RuntimeError(f"no network of width {width}: the test's own failure")
