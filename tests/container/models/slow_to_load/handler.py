"""A handler whose model takes longer to load than the server to start."""

import time


def handle(data, _context):
    if data is None:
        time.sleep(6)
        return None
    return ["loaded"] * len(data)
