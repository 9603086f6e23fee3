"""A handler whose network takes for ever."""

import time


def init_function(width):  # noqa: ARG001 -- the contract has it
    time.sleep(3600)
