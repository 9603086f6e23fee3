"""Finds why a container failed: the Python traceback in the server's log, and the likely cause and fix of common failures."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

TRACEBACK = "Traceback (most recent call last):"
CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
# A worker's line starts with a time, a level and a thread, in the format of the runtime's log4j2.xml or TorchServe's own:
# "2026-01-01T10:00:00,123 INFO  W-9000-digits_1.0-stdout ModuleNotFoundError: ..."
# "2026-01-01T10:00:00,123 [INFO ] W-9000-digits_1.0-stdout MODEL_LOG - ModuleNotFoundError: ..."
WORKER_LINE = re.compile(r"^\S*\d\d:\d\d:\d\d[,.]\d+ \[?[A-Z]+ *\]? +W-\d+-\S+-std(?:out|err) ?(?:MODEL_LOG - )?(?P<text>.*)$")
# TorchServe's worker adds this exception after the informative one (ts/model_service_worker.py).
WORKER_EXCEPTION = re.compile(r"RuntimeError: \d{3} - ")
JAVA_FRAME = re.compile(r"\s+(?:at [\w.$]+\(|\.\.\. \d+ more)|\s+at .*\[\S*:\S*\]$")
# From org.pytorch.serve.wlm.BatchAggregator, and from its WorkerThread or ts/model_service_worker.py: at least one per attempt.
LOAD_FAILED = ("Load model failed: ", "Backend worker process died.")
TOO_SLOW = "did not respond in given time"
LOG_LINES = 40


@dataclass(frozen=True)
class Cause:
    """A common failure: its pattern in a traceback or log, and its fix."""

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
        "{what} has another shape in the weights than in the network: check init_args in model.yaml",
    ),
    _cause(
        r"[Mm]issing key|[Uu]nexpected key|does not fit the network that init_function makes",
        "the weights belong to another network: check model_file and init_args in model.yaml",
    ),
    _cause(
        r"is a damaged file",
        "the weights are incomplete: write or upload them again, then run `torchrelay fetch --update-lock`",
    ),
    _cause(
        r"Weights only load failed|WeightsUnpickler|UnpicklingError",
        "the file contains more than tensors: save `model.state_dict()`, or a safetensors file",
    ),
    _cause(
        r"TypeError: (?P<what>init_function|[\w.]+\.__init__)\(\) (?:missing|got an unexpected|takes)",
        "check init_args in model.yaml against {what}()",
    ),
    _cause(
        r"MemoryError|DefaultCPUAllocator|OutOfMemoryError|Cannot allocate memory",
        "raise resources.memory in model.yaml",
    ),
    _cause(r"No space left on device", "the model writes more than fits in /tmp: write less, or raise resources.memory"),
    _cause(r"Read-only file system: '(?P<what>[^']+)'", "the image is read-only: write to /tmp instead of {what}"),
    _cause(r"[Pp]ermission denied: '(?P<what>[^']+)'", "the container does not run as root: write to /tmp instead of {what}"),
    _cause(
        r"Temporary failure in name resolution|Network is unreachable|NameResolutionError|Failed to establish a new connection",
        "the model uses the network, but is verified without one: put what it needs into extra_files or requirements.txt",
    ),
    _cause(
        r"No GPU is visible|CUDA.*not available|Found no NVIDIA driver",
        "this machine has no GPU: set device: cpu, or use a GPU machine",
    ),
    _cause(r"SyntaxError|IndentationError", "correct the syntax: `torchrelay check` names the line"),
)


def worker_lines(log: str) -> list[str]:
    """Return the lines that the model's process printed; all lines when none has a worker's prefix."""
    lines = [match["text"] for line in log.splitlines() if (match := WORKER_LINE.match(line))]
    return lines or log.splitlines()


def python_traceback(log: str) -> str:
    """Return the last informative Python traceback of a server log, with its causes; "" when there is none.

    It never contains a Java stack trace (`at org.pytorch.serve...`).
    """
    tracebacks = list(_tracebacks(worker_lines(log))) or list(_tracebacks(log.splitlines()))
    informative = [block for block in tracebacks if not WORKER_EXCEPTION.match(exception_of(block))]
    return (informative or tracebacks or [""])[-1]


def exception_of(traceback: str) -> str:
    """Return the line of a traceback that names the exception."""
    plain = [line for line in traceback.splitlines() if line and not line.startswith((" ", "\t"))]
    return plain[-1] if plain else ""


def _tracebacks(lines: list[str]) -> Iterator[str]:
    block: list[str] = []
    named = chained = False  # whether the exception's own line was read, and the words that join it to the next traceback
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
    """Return whether the server tried to load the model and failed."""
    return any(sign in log for sign in LOAD_FAILED)


def load_failure(log: str, otherwise: str = "its process died") -> str:
    """Return the reason why the model did not load, in one line: its exception, if it raised one."""
    return exception_of(python_traceback(log)) or ("it takes longer than timeouts.startup_s" if TOO_SLOW in log else otherwise)


def likely_fix(text: str) -> str:
    """Return the fix for a failure with this traceback or log; "" when it is not a common one."""
    for cause in CAUSES:
        if match := cause.pattern.search(text):
            return cause.fix.format(**{"what": "", **match.groupdict()})
    return ""


def log_tail(log: str) -> str:
    """Return the last lines without Java's stack traces, for a failure without a Python traceback."""
    return "\n".join([line for line in log.splitlines() if line.strip() and not JAVA_FRAME.match(line)][-LOG_LINES:])
