"""Build with Go, while the first tests run, what the later ones need: minutes on a machine that has not run them before."""

from tests import gotools
from tests.cluster import cluster

if __name__ == "__main__":
    for tool in ("cosign", "act"):
        gotools.ensure(tool)
    for program in ("hyperkube", "kubectl", "pause"):
        cluster.ensure(program)
