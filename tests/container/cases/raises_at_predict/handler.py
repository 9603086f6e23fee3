"""A handler that loads, and fails at every request."""


def preprocess(sample):  # noqa: ARG001 -- the contract has it
    raise LookupError("nothing can be looked up: the test's own failure")
