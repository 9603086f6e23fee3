"""Communicates with GitHub's runner: commands and annotations on stderr, values through the files that the runner names.

The runner interprets lines of a step's stdout and stderr as commands: `::name key=value::data` at the start of a line, after
optional blanks, and the older `##[name]data` anywhere in a line (actions/runner 2.336, Runner.Common/ActionCommand.cs; act 0.2.87,
pkg/runner/command.go, accepts both only at the start). Output of a model, a sample or a container must never be a command. Two
defences: `HarmlessStream` defuses every line that this process writes, and `stop` makes the runner ignore commands for the rest of
the step. Our own commands are written between a resume and a new stop, in one write; during it the first defence protects, because
two pipes have no common order.
"""

import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import IO, Any

from torchrelay.core.errors import GateFailed, ModelInvalid, Problem, TorchrelayError, UnsafeName
from torchrelay.core.text import printable

log = logging.getLogger("torchrelay")

MAX_OUTPUT = 512 * 1024  # bytes as UTF-16, which is how GitHub counts; a job's outputs may be 1 MiB together
MAX_MESSAGE = 4000  # characters of one annotation; GitHub cuts at 4096
MIN_SECRET = 4  # characters; masking a shorter line of a secret would hide half of the log
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMMAND = re.compile(r"((?:\A|[\r\n])[^\S\r\n]*:)(?=:)|(##)(?=\[)")


def on_github(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a runner of GitHub Actions, or act, reads the output of this process."""
    return environment.get("GITHUB_ACTIONS") == "true"


def harmless(text: str) -> str:
    """Return the text with a space inserted into everything that a runner would read as the start of a command."""
    return _COMMAND.sub(lambda match: f"{match[0]} ", text)


def as_json(value: Any, separators: tuple[str, str] | None = None) -> str:
    """Return JSON that contains no command for the runner; the value is unchanged."""
    return json.dumps(value, separators=separators).replace("##[", "#\\u0023[")


class HarmlessStream:
    """A stream whose lines are never commands, however the writes split them."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.line = ""  # the written part of the current line, or enough of it to recognise a command
        self.lock = RLock()

    def write(self, text: str) -> int:
        """See io.TextIOBase.write."""
        with self.lock:
            # The space goes before the last character of a command's start, so never into the part that is already written.
            defused = harmless(self.line + text)[len(self.line) :]
            self.stream.write(defused)
            tail = re.split(r"[\r\n]", self.line + defused)[-1]
            self.line = tail if len(tail) < 64 else f"{'x' if tail.strip() else ' '}{tail[-2:]}"
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """See io.TextIOBase.writelines."""
        self.write("".join(lines))

    def isatty(self) -> bool:
        """Return False: act gives a step a terminal that nobody sees."""
        return False

    def command(self, text: str) -> None:
        """Write trusted lines unchanged, starting on a new line."""
        with self.lock:
            self.stream.write(("\n" if self.line else "") + text)
            self.stream.flush()
            self.line = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def shield() -> None:
    """Make stdout and stderr harmless for the rest of this process, if a runner reads them."""
    if on_github():
        for name in ("stdout", "stderr"):
            if not isinstance(getattr(sys, name), HarmlessStream):
                setattr(sys, name, HarmlessStream(getattr(sys, name)))


class _Stopped:
    """The token that makes the runner accept commands again; empty while it accepts them. One per process, like its log."""

    token = ""


def _write(lines: str) -> None:
    """Write to the runner, on stderr: a shell often redirects stdout, and the runner reads both."""
    with suppress(OSError, ValueError):  # the reader is gone: not a reason to fail
        sys.stdout.flush()
        # By name: when a reader goes away, typer wraps the stream again and passes unknown attributes through.
        getattr(sys.stderr, "command", HarmlessStream(sys.stderr).command)(lines)


def stop() -> None:
    """Make the runner ignore commands until `resume`, or until the end of the step."""
    if on_github() and not _Stopped.token:
        _Stopped.token = secrets.token_hex(24)
        _write(f"::stop-commands::{_Stopped.token}\n")


def resume() -> None:
    """Make the runner accept commands again; every verb that called `stop` ends with this."""
    if _Stopped.token:
        _write(f"::{_Stopped.token}::\n")
        _Stopped.token = ""


def resume_at_once() -> None:
    """Resume from a signal handler, which may interrupt a write to the stream."""
    if _Stopped.token:
        os.write(2, f"\n::{_Stopped.token}::\n".encode())


def escaped(data: str) -> str:
    """Return the data of a command, escaped for the runner."""
    return data.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def command(name: str, data: str = "", **properties: str | int | None) -> str:
    """Return one command as a line without line end; properties without a value are left out."""
    pairs = [
        f"{key}={escaped(str(value)).replace(':', '%3A').replace(',', '%2C')}"
        for key, value in properties.items()
        if value not in (None, "")
    ]
    return f"::{name}{' ' if pairs else ''}{','.join(pairs)}::{escaped(data)}"


def send(*commands: str) -> None:
    """Send commands to the runner, also while it ignores others."""
    if on_github() and commands:
        token, lines = _Stopped.token, "".join(f"{one}\n" for one in commands)
        _write(f"::{token}::\n{lines}::stop-commands::{token}\n" if token else lines)


def mask(value: str) -> None:
    """Make the runner replace a secret with *** from now on, as a whole and line by line; outside a runner, do nothing."""
    lines = {line.strip() for line in value.splitlines()}
    # act reads a `::` in the data of `::add-mask::` as part of the name; the older form works (act 0.2.87)
    send(
        *(
            f"##[add-mask]{escaped(one).replace(']', '%5D').replace(';', '%3B')}" if "::" in one else command("add-mask", one)
            for one in sorted(lines)
            if len(one) >= MIN_SECRET
        )
    )


def place_of(file: str, folder: Path | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the path of a model's file relative to GitHub's workspace; unchanged if it is outside."""
    workspace = environment.get("GITHUB_WORKSPACE")
    if not workspace or "\n" in file:
        return file
    full = Path(os.path.normpath(Path.cwd() / (folder or Path()) / file))
    for root in (Path(workspace), Path(workspace).resolve()):
        if full.is_relative_to(root):
            return str(full.relative_to(root))
    return file


def _message(text: str) -> str:
    # act reads the last `::` of a line as the end of the properties (0.2.87), so the message must not contain one.
    lines = "\n".join(printable(line, MAX_MESSAGE) for line in text.splitlines()).replace("::", ": :")
    return lines if len(lines) <= MAX_MESSAGE else f"{lines[:MAX_MESSAGE]}... (see the log for the rest)"


def annotation(level: str, message: str, *, title: str = "") -> str:
    """Return an annotation of the run; `level` is error, warning or notice."""
    return command(level, _message(message), title=printable(title))


def problem_annotation(level: str, problem: Problem, folder: Path | None, title: str = "") -> str:
    """Return an annotation at a file and line of the model's repository."""
    message = ": ".join(part for part in (problem.field, problem.message) if part)
    fix = f"\nfix: {problem.fix}" if problem.fix else ""
    file = printable(place_of(problem.file, folder))
    return command(level, _message(message + fix), file=file, line=problem.line, title=printable(title))


def failed(error: TorchrelayError, folder: Path | None) -> None:
    """Annotate the run with its errors: one per problem at its file and line, otherwise one with the error's kind as title."""
    if isinstance(error, (ModelInvalid, GateFailed)) and error.problems:
        send(*(problem_annotation("error", one, folder, error.kind) for one in error.problems))
    else:
        send(annotation("error", str(error), title=error.kind))


def notice(text: str) -> None:
    """Show information to the reader of the run: an annotation on GitHub, a log line elsewhere."""
    if on_github():
        send(annotation("notice", text))
    else:
        log.info("%s", text)


class Annotations(logging.Handler):
    """Turns warnings and errors into annotations; a `Problem` among the arguments provides file and line."""

    def __init__(self, level: int, folder: Callable[[], Path | None]) -> None:
        super().__init__(level)
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler.emit."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        arguments = record.args if isinstance(record.args, tuple) else ()
        problems = [one for one in arguments if isinstance(one, Problem)]
        annotations = [problem_annotation(level, one, self._folder()) for one in problems]
        send(*(annotations or [annotation(level, record.getMessage())]))


def _append(variable: str, name: str, value: str) -> None:
    """Append a value to one of the runner's files; without a runner, do nothing."""
    file = os.environ.get(variable)
    if not file:
        return
    end = f"end_{secrets.token_hex(24)}"  # random, so that no value can end it early and set another name
    with Path(file).open("a", encoding="utf-8", errors="backslashreplace", newline="") as opened:
        opened.write(f"{name}<<{end}\n{value}\n{end}\n")


def export_env(name: str, value: str) -> None:
    """Set an environment variable for the following steps.

    Raises UnsafeName if the name is not valid.
    """
    if not _VARIABLE.fullmatch(name):
        raise UnsafeName(f"{printable(name)!r} is not a valid name for an environment variable")
    _append("GITHUB_ENV", name, value)


def as_output(value: Any) -> str:
    """Return a value as the text of an output: strings unchanged, true or false, "" for None, anything else as compact JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else as_json(value, (",", ":"))


def outputs(result: Mapping[str, Any]) -> None:
    """Write every value of a verb's result as an output of the step, with its name in kebab-case."""
    if not os.environ.get("GITHUB_OUTPUT"):
        return
    for key, value in result.items():
        name, text = key.replace("_", "-"), as_output(value)
        if not _NAME.fullmatch(name):
            log.warning("output %s is left out: its name is not valid", printable(name))
        elif len(text.encode("utf-16-le", "surrogatepass")) > MAX_OUTPUT:
            log.warning("output %s is left out: it is larger than %d KiB; use --json to get it", name, MAX_OUTPUT // 1024)
        else:
            _append("GITHUB_OUTPUT", name, text)
