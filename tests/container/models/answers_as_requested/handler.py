"""A handler that does what the request says, so that one container serves many tests.

{"sleep": s}  {"exit": code}  {"break": true}: die, and fail to load from then on   {"report": true}: what the worker's process sees
"""

import json
import os
import time
from pathlib import Path

BROKEN = Path("/tmp/broken")  # noqa: S108 -- inside the container


def report():
    import torch

    return {
        "uid": os.getuid(),
        "torch_threads": torch.get_num_threads(),
        "omp": os.environ.get("OMP_NUM_THREADS"),
        "python_path": os.environ["PYTHONPATH"].split(os.pathsep),
        "declared": os.environ.get("DECLARED"),
    }


def answer(row):
    body = row.get("data") or row.get("body") or {}
    request = json.loads(body) if isinstance(body, bytes | bytearray) else body
    if request.get("break"):
        BROKEN.touch()
    if request.get("break") or "exit" in request:
        os._exit(request.get("exit", 1))
    answers = {"pid": os.getpid(), "echo": request.get("echo"), "version": os.environ.get("DECLARED")}
    return answers | (report() if request.get("report") else {}), float(request.get("sleep", 0))


def handle(data, _context):
    if BROKEN.exists():
        raise RuntimeError("broken as the test asked")
    if data is None:
        return None
    answers = [answer(row) for row in data]
    time.sleep(max(seconds for _, seconds in answers))
    return [one for one, _ in answers]
