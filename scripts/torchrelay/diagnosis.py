"""Why a container failed: the Python traceback out of the server's log, and the likely cause and mend of the common ones."""

import re
from dataclasses import dataclass

TRACEBACK = "Traceback (most recent call last):"
# TorchServe writes each line of its worker behind a time, a level, a thread and a logger:
# "2026-01-01T10:00:00,123 [INFO ] W-9000-digits_1.0-stdout MODEL_LOG - ModuleNotFoundError: ..."
PREFIX = re.compile(r"^\S*\d{2}:\d{2}:\d{2}\S* \[\w+ *\] \S+ (?:\S+ )?- ")
MODEL_LOG = "MODEL_LOG - "
LOG_LINES = 40


@dataclass(frozen=True)
class Cause:
    """A common failure: what to look for in the traceback or log, and what to do about it."""

    pattern: re.Pattern[str]
    fix: str


def _cause(pattern: str, fix: str) -> Cause:
    return Cause(re.compile(pattern), fix)


CAUSES = (
    _cause(
        r"(?:ModuleNotFoundError: No module named|ImportError: No module named) '?(?P<what>[\w.]+)",
        "add the package that provides {what} to requirements.txt, or the file to extra_files in model.yaml",
    ),
    _cause(
        r"size mismatch for (?P<what>\S+?):",
        "the weights' shape of {what} is not the network's: check init_args in model.yaml",
    ),
    _cause(
        r"[Mm]issing key|[Uu]nexpected key",
        "the weights are of another network: check model_file and init_args in model.yaml",
    ),
    _cause(
        r"Weights only load failed|WeightsUnpickler|UnpicklingError",
        "the file holds more than tensors: save `model.state_dict()`, a TorchScript or a safetensors file",
    ),
    _cause(
        r"TypeError: (?P<what>\w+)\(\) (?:missing|got an unexpected|takes)",
        "check init_args in model.yaml against {what}()",
    ),
    _cause(
        r"MemoryError|DefaultCPUAllocator|OutOfMemoryError|Cannot allocate memory",
        "raise resources.memory in model.yaml",
    ),
    _cause(r"No space left on device", "the model writes more than /tmp holds: write less, or raise resources.memory"),
    _cause(r"Read-only file system: '(?P<what>[^']+)'", "the image is read-only: write to /tmp instead of {what}"),
    _cause(r"[Pp]ermission denied: '(?P<what>[^']+)'", "the container is not root: write to /tmp instead of {what}"),
    _cause(
        r"Temporary failure in name resolution|Network is unreachable|NameResolutionError|Failed to establish a new connection",
        "the model reaches for the network, and is proved without one: put what it needs into extra_files or requirements.txt",
    ),
    _cause(
        r"No GPU is visible|CUDA.*not available|Found no NVIDIA driver",
        "no GPU is there: set device: cpu, or use a GPU machine",
    ),
    _cause(r"SyntaxError|IndentationError", "correct the syntax: `torchrelay check` names the line"),
)


def worker_lines(log: str) -> list[str]:
    """Return the log without the server's own prefixes, one line per line of the worker."""
    lines = []
    for line in log.splitlines():
        _, found, rest = line.partition(MODEL_LOG)
        lines.append(rest if found else PREFIX.sub("", line))
    return lines


def python_traceback(log: str) -> str:
    """Return the last Python traceback of a server log, "" when there is none.

    A Java stack trace (`at org.pytorch.serve...`) is never part of it.
    """
    lines = worker_lines(log)
    starts = [index for index, line in enumerate(lines) if line.strip() == TRACEBACK]
    if not starts:
        return ""
    block = [TRACEBACK]
    for line in lines[starts[-1] + 1 :]:
        if line.startswith(("\tat ", "    at ")):
            continue
        block.append(line)
        if line and not line.startswith((" ", "\t")):
            break
    return "\n".join(block)


def likely_fix(text: str) -> str:
    """Return what mends a failure whose traceback or log this is; "" when it is none of the common ones."""
    for cause in CAUSES:
        if match := cause.pattern.search(text):
            return cause.fix.format(**{"what": "", **match.groupdict()})
    return ""


def log_tail(log: str) -> str:
    """Return the last lines, for a failure without a traceback."""
    return "\n".join(log.splitlines()[-LOG_LINES:])
