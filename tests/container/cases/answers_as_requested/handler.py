"""A handler that does what the request says, so that one container serves many tests.

{"sleep": s}  {"exit": code}  {"break": true}: die, and fail to load from then on   {"report": true}: what the worker's process sees
"""

import json
import os
import time
from pathlib import Path

BROKEN = Path("/tmp/broken")  # noqa: S108


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
    told = json.loads(body) if isinstance(body, bytes | bytearray) else body
    if told.get("break"):
        BROKEN.touch()
    if told.get("break") or "exit" in told:
        os._exit(told.get("exit", 1))
    answers = {"pid": os.getpid(), "echo": told.get("echo"), "version": os.environ.get("DECLARED")}
    return answers | (report() if told.get("report") else {}), float(told.get("sleep", 0))


def handle(data, _context):
    if BROKEN.exists():
        raise RuntimeError("broken as the test asked")
    if data is None:
        return None
    answers = [answer(row) for row in data]
    time.sleep(max(seconds for _, seconds in answers))
    return [one for one, _ in answers]
