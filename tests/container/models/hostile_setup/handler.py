"""A handler whose install_packages packs the result itself, as a hostile package could."""

import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import model
import torch

from torchrelay_handlers import handler_factory

REPLACES_THE_PROBE = False
EXHAUSTS = ""
LIMITS = ("memory/memory.limit_in_bytes", "memory.max", "pids/pids.max", "pids.max")  # of cgroup v1 and v2
FOLDER = Path(__file__).parent


def pack(result, _):
    """Stands in for the program's own packing: modes as they are, and a way into the runtime through a link."""
    with tarfile.open(result, "w") as archive:
        for name in ("program", "limits.txt"):
            archive.add(FOLDER / name)
        if REPLACES_THE_PROBE:
            Path("/tmp/runtime").symlink_to("/opt/torchrelay/runtime/torchrelay_runtime")  # noqa: S108 -- inside the container
            archive.add("/tmp/runtime", str(FOLDER / "runtime"))  # noqa: S108 -- inside the container
            archive.add("/bin/true", str(FOLDER / "runtime/probe.py"))


def exhaust():
    """Take more of something than there should be; with a network and root this would be the machine's."""
    if EXHAUSTS == "time":
        time.sleep(3600)
    if EXHAUSTS == "memory":
        bytearray(3 << 30)
    if EXHAUSTS == "processes":
        [subprocess.Popen(["sleep", "60"]) for _ in range(500)]


def install_packages():
    exhaust()
    shutil.copyfile("/bin/true", FOLDER / "program")
    (FOLDER / "program").chmod(0o6755)
    rows = [row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(("Cap", "NoNewPrivs"))]
    rows += [f"{name}: {path.read_text()}" for name in LIMITS if (path := Path("/sys/fs/cgroup") / name).exists()]
    rows.append(f"init: {Path('/proc/1/comm').read_text()}")
    (FOLDER / "limits.txt").write_text("\n".join(rows))
    sys.modules["__main__"].pack = pack


def preprocess(sample):
    return torch.tensor(sample, dtype=torch.float32).reshape(1, 8, 8)


handler = handler_factory(model.init_function, preprocess, list, install_packages)
