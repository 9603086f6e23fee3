"""A handler that writes beside its model, as many do on a laptop."""

from pathlib import Path

from model import Digits


def init_function(width):
    (Path(__file__).parent / "cache.bin").write_bytes(b"cached")
    return Digits(width)
