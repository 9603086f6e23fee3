"""Remove from the serving environment what no server reads, and compile the rest.

It runs at build time, because the image's root is read-only.
What goes: torch's C++ tests, headers, static libraries and tools, and the packages' own test suites. torch_shm_manager stays:
`import torch` fails without it. The headers are for compiling extensions, and the image has no compiler.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import sysconfig
from pathlib import Path

TORCH = ("test", "include", "share", "lib/*.a", "bin/[!t]*", "bin/t[!o]*", "lib/lib*_test.so")
PACKAGES = ("numpy/**/tests", "sympy/**/tests", "networkx/**/tests", "mpmath/tests", "numpy/**/*.a", "**/__pycache__")


def remove(root: Path, pattern: str) -> None:
    """Remove every file and folder below `root` that matches `pattern`."""
    for path in list(root.glob(pattern)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()


def main() -> None:
    """Trim the environment of the running interpreter."""
    site = Path(sysconfig.get_paths()["platlib"])
    for pattern in TORCH:
        remove(site / "torch", pattern)
    for pattern in PACKAGES:
        remove(site, pattern)
    # Hashes that nobody checks: the files stay valid whatever times the image's layers give them. The result is ignored, because
    # packages carry files in the syntax of a newer Python (torch/testing/_internal/py312_intrinsics.py).
    compileall.compile_dir(site, quiet=2, workers=0, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    main()
