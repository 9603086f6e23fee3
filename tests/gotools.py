"""Programs that are published as Go modules only: built once at a pinned version and kept in the tests' cache.

`python -m tests.gotools NAME...` builds them and prints their paths.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cache import CACHE, build_lock

# name -> package and version
TOOLS = {
    "act": "github.com/nektos/act@v0.2.89",
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
    "cosign": "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.2",
}


def ensure(name: str) -> Path:
    """Return the program's path; build it first if it is missing."""
    package = TOOLS[name]
    folder = CACHE / "bin" / f"{name}-{package.rpartition('@')[2]}"
    program = folder / name
    with build_lock(folder / "lock", name):
        if not program.exists():
            if shutil.which("go") is None:
                sys.exit(f"{name} is built with Go: install Go 1.24 or later, then run it again")
            sys.stderr.write(f"building {package}\n")
            output = folder / "output"
            environment = {**os.environ, "GOBIN": str(output), "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"}
            subprocess.run(["go", "install", package], check=True, env=environment, stdout=sys.stderr)
            (output / name).replace(program)
            output.rmdir()
    return program


if __name__ == "__main__":
    for requested in sys.argv[1:]:
        print(ensure(requested))
