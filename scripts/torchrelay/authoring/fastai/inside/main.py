"""`python -I main.py read|prove ASKED.json`: one step in the sandbox; its answer is a JSON file, and tensors beside it.

ASKED: `scratch` (a folder, the only one that is written to), `seconds`, `file_bytes`, and what the step needs. Nothing of it is a
secret, and nothing that it writes is believed by the caller without a look.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

_SOURCES = Path(__file__).resolve().parents[4]
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/sys/devices/system")
_PROCESS = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/dev/urandom", "/dev/zero")


def main() -> None:
    """Confine this process, then take the step."""
    step, asked_file = sys.argv[1], Path(sys.argv[2])
    asked: dict[str, Any] = json.loads(asked_file.read_text(encoding="utf-8"))
    sys.path[:0] = [str(_SOURCES), *asked.get("import_from", [])]
    from torchrelay.authoring.fastai.inside import confine  # noqa: PLC0415 -- found by the line above

    scratch = Path(asked["scratch"])
    readable = [sys.prefix, sys.base_prefix, *sys.path, *_SYSTEM, *_PROCESS]
    confine.limit(asked["seconds"] * (os.cpu_count() or 1), asked["file_bytes"])
    fenced = confine.files([Path(place) for place in readable], [scratch, Path("/dev/null")])
    unplugged = confine.calls()
    from torchrelay.authoring.fastai.inside import prove, read  # noqa: PLC0415 -- after the confinement

    work = read if step == "read" else prove
    answer = {"fenced": fenced, "unplugged": unplugged, **work.step(asked, scratch)}
    (scratch / f"{step}.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
