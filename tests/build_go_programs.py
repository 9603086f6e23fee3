"""Build every Go program that the tests use; `make test-machine` starts it in the background, because it takes minutes once."""

from tests import gotools
from tests.cluster import cluster

if __name__ == "__main__":
    for tool in ("cosign", "act"):
        gotools.ensure(tool)
    for program in ("hyperkube", "kubectl", "pause"):
        cluster.ensure(program)
