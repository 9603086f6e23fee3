"""`python -I main.py probe|read|verify REQUEST.json`: one step in the sandbox. Its answer is a JSON file with tensors beside it.

REQUEST: `scratch` (the only folder that is written to), `seconds`, `file_bytes`, `import_from`, `unsafe` (go on unconfined), and
the step's own fields. It has no secrets. The caller validates everything that a step writes.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[3]
PROBE = "probe"
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/sys/devices/system")
_PROCESS = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/dev/urandom", "/dev/zero")


def main() -> None:
    """Confine this process, then run the step."""
    step, request_file = sys.argv[1], Path(sys.argv[2])
    request: dict[str, Any] = json.loads(request_file.read_text(encoding="utf-8"))
    sys.path[:0] = request.get("import_from", [])
    _make_importable(_PACKAGE)
    from torchrelay.authoring.fastai.inside import confine  # noqa: PLC0415 -- importable only after the line above

    scratch = Path(request["scratch"])
    readable = [sys.prefix, sys.base_prefix, *sys.path, str(_PACKAGE), *_SYSTEM, *_PROCESS]
    confine.limit(request["seconds"] * (os.cpu_count() or 1), request["file_bytes"])
    fenced = confine.files([Path(path) for path in readable], [scratch, Path("/dev/null")])
    unplugged = confine.calls()
    if step != PROBE and not (fenced and unplugged) and not request["unsafe"]:
        sys.exit("this machine has no Landlock or no seccomp filter, so nothing was loaded")
    module = importlib.import_module(f"torchrelay.authoring.fastai.inside.{step}")  # now, because torch must load confined
    answer = {"fenced": fenced, "unplugged": unplugged, **module.step(request, scratch)}
    (scratch / f"{step}.json").write_text(json.dumps(answer), encoding="utf-8")


def _make_importable(folder: Path) -> None:
    """Make one package importable, but not its neighbours: an installed package has those of another Python beside it."""
    spec = importlib.util.spec_from_file_location(folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is not a package")
    sys.modules[folder.name] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main()
