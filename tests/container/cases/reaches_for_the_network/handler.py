"""A handler that downloads while it loads, which would work on a laptop and fail in production."""

import urllib.request

from model import Digits


def init_function(width):
    urllib.request.urlopen("https://example.com/vocabulary.txt", timeout=5)
    return Digits(width)
