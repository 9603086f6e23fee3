"""Why a container failed: the Python traceback out of the server's log, and the likely cause and mend of the common ones."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

TRACEBACK = "Traceback (most recent call last):"
CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
# The worker's lines come behind a time, a level and a thread, in the form of the runtime's log4j2.xml or in TorchServe's own:
# "2026-01-01T10:00:00,123 INFO  W-9000-digits_1.0-stdout ModuleNotFoundError: ..."
# "2026-01-01T10:00:00,123 [INFO ] W-9000-digits_1.0-stdout MODEL_LOG - ModuleNotFoundError: ..."
WORKER_LINE = re.compile(r"^\S*\d\d:\d\d:\d\d[,.]\d+ \[?[A-Z]+ *\]? +W-\d+-\S+-std(?:out|err) ?(?:MODEL_LOG - )?(?P<text>.*)$")
# TorchServe's worker adds this exception of its own after the one that tells something (ts/model_service_worker.py).
ECHO = re.compile(r"RuntimeError: \d{3} - ")
JAVA_FRAME = re.compile(r"\s+(?:at [\w.$]+\(|\.\.\. \d+ more)|\s+at .*\[\S*:\S*\]$")
# Of org.pytorch.serve.wlm.BatchAggregator, and of its WorkerThread or ts/model_service_worker.py: one at least per attempt.
LOAD_FAILED = ("Load model failed: ", "Backend worker process died.")
TOO_SLOW = "did not respond in given time"
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
        r"[Mm]issing key|[Uu]nexpected key|does not fit the network that init_function makes",
        "the weights are of another network: check model_file and init_args in model.yaml",
    ),
    _cause(
        r"is a damaged file",
        "the weights were cut short: write or upload them again, then run `torchrelay fetch --update-lock`",
    ),
    _cause(
        r"Weights only load failed|WeightsUnpickler|UnpicklingError",
        "the file holds more than tensors: save `model.state_dict()`, a TorchScript or a safetensors file",
    ),
    _cause(
        r"TypeError: (?P<what>init_function|[\w.]+\.__init__)\(\) (?:missing|got an unexpected|takes)",
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
    """Return what the model's process has printed; all lines when none is marked as its own."""
    found = [match["text"] for line in log.splitlines() if (match := WORKER_LINE.match(line))]
    return found or log.splitlines()


def python_traceback(log: str) -> str:
    """Return the last Python traceback of a server log that tells something, with those it was raised from; "" when there is none.

    A Java stack trace (`at org.pytorch.serve...`) is never part of it.
    """
    found = list(_tracebacks(worker_lines(log))) or list(_tracebacks(log.splitlines()))
    telling = [block for block in found if not ECHO.match(exception_of(block))]
    return (telling or found or [""])[-1]


def exception_of(traceback: str) -> str:
    """Return the line of a traceback that names the exception."""
    plain = [line for line in traceback.splitlines() if line and not line.startswith((" ", "\t"))]
    return plain[-1] if plain else ""


def _tracebacks(lines: list[str]) -> Iterator[str]:
    block: list[str] = []
    named = chained = False  # the exception's own line has come; words that join it to the next traceback as well
    for line in lines:
        if line.strip() == TRACEBACK:
            if block and not chained:
                yield "\n".join(block)
                block = []
            block.append(TRACEBACK)
            named = chained = False
        elif not block:
            continue
        elif line.startswith(CHAINED):
            block += ["", line, ""]
            chained = True
        elif not line.strip() or JAVA_FRAME.match(line):
            continue
        elif line.startswith((" ", "\t")):
            block.append(line)
        elif named or chained:
            yield "\n".join(block)
            block = []
        else:
            block.append(line)
            named = True
    if block:
        yield "\n".join(block)


def has_failed_to_load(log: str) -> bool:
    """Tell whether the server has tried to load the model and could not."""
    return any(sign in log for sign in LOAD_FAILED)


def load_failure(log: str, otherwise: str = "its process died") -> str:
    """Return in a line why the model did not load: its exception, if it raised one."""
    return exception_of(python_traceback(log)) or ("it takes longer than timeouts.startup_s" if TOO_SLOW in log else otherwise)


def likely_fix(text: str) -> str:
    """Return what mends a failure whose traceback or log this is; "" when it is none of the common ones."""
    for cause in CAUSES:
        if match := cause.pattern.search(text):
            return cause.fix.format(**{"what": "", **match.groupdict()})
    return ""


def log_tail(log: str) -> str:
    """Return the last lines, for a failure without a traceback, without Java's stack traces."""
    return "\n".join([line for line in log.splitlines() if line.strip() and not JAVA_FRAME.match(line)][-LOG_LINES:])
