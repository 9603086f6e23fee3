"""Programs that are published as Go modules alone: built once at a pinned version, kept in a cache beside the checkout's own.

`python tests/gotools.py NAME...` builds them and prints where they are.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchrelay-tests"

# name -> package and version
TOOLS = {
    "act": "github.com/nektos/act@v0.2.89",
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
    "cosign": "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.2",
}


def ensure(name: str) -> Path:
    """Return the program, built if need be; two processes do not build it twice."""
    package = TOOLS[name]
    folder = CACHE / "bin" / f"{name}-{package.rpartition('@')[2]}"
    program = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not program.exists():
            if shutil.which("go") is None:
                sys.exit(f"{name} is built with Go: install Go 1.24 or later, then run it again")
            sys.stderr.write(f"building {package}\n")
            made = folder / "made"
            environment = {**os.environ, "GOBIN": str(made), "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"}
            subprocess.run(["go", "install", package], check=True, env=environment, stdout=sys.stderr)
            (made / name).replace(program)
            made.rmdir()
    return program


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(ensure(wanted))
