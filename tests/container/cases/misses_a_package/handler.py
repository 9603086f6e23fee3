"""A handler that imports what no requirements file names."""

import a_package_that_is_not_there


def preprocess(sample):
    return a_package_that_is_not_there.loads(sample)
