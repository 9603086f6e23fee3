"""How this process talks to GitHub's runner: commands and annotations on stderr, values by the files that it names.

The runner takes lines of a step's stdout and stderr for commands: `::name key=value::data` at the start of a line, leading blanks
allowed, and the older `##[name]data` anywhere in it (actions/runner 2.336, Runner.Common/ActionCommand.cs; act 0.2.87,
pkg/runner/command.go, wants both at the start). What a model, a sample or a container prints must never be one. Two walls: every
line that this process writes is made harmless by `Harmless`, and `stop` tells the runner to take no command from the rest of the
step. Our own go out between a resume and a new stop, in one write; meanwhile the first wall holds, as two pipes have no common
order.
"""

import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import IO, Any

from torchrelay.core.errors import GateFailed, ModelInvalid, Problem, TorchrelayError, UnsafeName
from torchrelay.core.text import printable

log = logging.getLogger("torchrelay")

MAX_OUTPUT = 512 * 1024  # bytes as UTF-16, which is how GitHub counts; a job's outputs may be 1 MiB together
MAX_MESSAGE = 4000  # characters of one annotation; GitHub cuts at 4096
MIN_SECRET = 4  # a shorter line of a secret would star out half the log
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMMAND = re.compile(r"((?:\A|[\r\n])[^\S\r\n]*:)(?=:)|(##)(?=\[)")


def on_github(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a runner of GitHub Actions, or act, reads what this process prints."""
    return environment.get("GITHUB_ACTIONS") == "true"


def harmless(text: str) -> str:
    """Return the text with a space inside whatever a runner would take for the start of a command."""
    return _COMMAND.sub(lambda found: f"{found[0]} ", text)


def as_json(value: Any, separators: tuple[str, str] | None = None) -> str:
    """Return JSON in which no runner finds a command; the value is unchanged."""
    return json.dumps(value, separators=separators).replace("##[", "#\\u0023[")


class Harmless:
    """A stream whose lines are never commands, however they are cut into writes."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.line = ""  # what of the current line is out already, or enough of it to know how it goes on
        self.lock = RLock()

    def write(self, text: str) -> int:
        """See io.TextIOBase.write."""
        with self.lock:
            # The space goes before the last character of a start, so it is never in what is out already.
            told = harmless(self.line + text)[len(self.line) :]
            self.stream.write(told)
            tail = re.split(r"[\r\n]", self.line + told)[-1]
            self.line = tail if len(tail) < 64 else f"{'x' if tail.strip() else ' '}{tail[-2:]}"
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """See io.TextIOBase.writelines."""
        self.write("".join(lines))

    def isatty(self) -> bool:
        """No: act gives a step a terminal, which nobody looks at."""
        return False

    def command(self, text: str) -> None:
        """Write lines of our own as they are, on lines of their own."""
        with self.lock:
            self.stream.write(("\n" if self.line else "") + text)
            self.stream.flush()
            self.line = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def shield() -> None:
    """Make both streams harmless until this process ends, when a runner reads them."""
    if on_github():
        for name in ("stdout", "stderr"):
            if not isinstance(getattr(sys, name), Harmless):
                setattr(sys, name, Harmless(getattr(sys, name)))


class _Stopped:
    """The word that resumes; empty while the runner takes commands."""

    word = ""


def _tell(lines: str) -> None:
    """Write to the runner; stderr, because a shell often pipes stdout elsewhere, and the runner reads both."""
    with suppress(OSError, ValueError):  # nobody listens any more: no reason to fail
        sys.stdout.flush()
        # By name: typer wraps the stream once more when a reader goes away, and hands on what it does not know.
        getattr(sys.stderr, "command", Harmless(sys.stderr).command)(lines)


def stop() -> None:
    """Ask the runner to take no command until `resume`; it forgets that by itself at the end of the step."""
    if on_github() and not _Stopped.word:
        _Stopped.word = secrets.token_hex(24)
        _tell(f"::stop-commands::{_Stopped.word}\n")


def resume() -> None:
    """Let the runner take commands again; every command that called `stop` ends with it."""
    if _Stopped.word:
        _tell(f"::{_Stopped.word}::\n")
        _Stopped.word = ""


def resume_at_once() -> None:
    """Resume from a signal's handler, where a stream may be half-way through a write."""
    if _Stopped.word:
        os.write(2, f"\n::{_Stopped.word}::\n".encode())


def escaped(data: str) -> str:
    """Return the data of a command as the runner unescapes it."""
    return data.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def command(name: str, data: str = "", **properties: str | int | None) -> str:
    """Return one command as a line, without its end; properties without a value are left out."""
    given = [
        f"{key}={escaped(str(value)).replace(':', '%3A').replace(',', '%2C')}"
        for key, value in properties.items()
        if value not in (None, "")
    ]
    return f"::{name}{' ' if given else ''}{','.join(given)}::{escaped(data)}"


def send(*commands: str) -> None:
    """Give the runner commands, also while others' are stopped."""
    if on_github() and commands:
        word, lines = _Stopped.word, "".join(f"{one}\n" for one in commands)
        _tell(f"::{word}::\n{lines}::stop-commands::{word}\n" if word else lines)


def mask(value: str) -> None:
    """Have the runner replace a secret by *** from here on, whole and line by line; elsewhere nothing is printed."""
    lines = {line.strip() for line in value.splitlines()}
    # act reads a `::` in the data of `::add-mask::` as part of the name; the older form has no such trap (act 0.2.87)
    send(
        *(
            f"##[add-mask]{escaped(one).replace(']', '%5D').replace(';', '%3B')}" if "::" in one else command("add-mask", one)
            for one in sorted(lines)
            if len(one) >= MIN_SECRET
        )
    )


@contextmanager
def group(title: str) -> Iterator[None]:
    """Fold the lines of the block in GitHub's log."""
    send(command("group", printable(title)))
    try:
        yield
    finally:
        send(command("endgroup"))


def place_of(file: str, folder: Path | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return a file of the model as GitHub names it: relative to the workspace; as it is when it lies elsewhere."""
    workspace = environment.get("GITHUB_WORKSPACE")
    if not workspace or "\n" in file:
        return file
    full = Path(os.path.normpath(Path.cwd() / (folder or Path()) / file))
    for root in (Path(workspace), Path(workspace).resolve()):
        if full.is_relative_to(root):
            return str(full.relative_to(root))
    return file


def _message(text: str) -> str:
    # act takes the last `::` of the line for the end of the properties (0.2.87): none in the message.
    lines = "\n".join(printable(line, MAX_MESSAGE) for line in text.splitlines()).replace("::", ": :")
    return lines if len(lines) <= MAX_MESSAGE else f"{lines[:MAX_MESSAGE]}... (the log has all of it)"


def annotation(level: str, message: str, *, title: str = "") -> str:
    """Return an annotation of the run: `level` is error, warning or notice."""
    return command(level, _message(message), title=printable(title))


def problem_annotation(level: str, problem: Problem, folder: Path | None, title: str = "") -> str:
    """Return an annotation at file and line of the model's repository."""
    message = ": ".join(part for part in (problem.field, problem.message) if part)
    fix = f"\nfix: {problem.fix}" if problem.fix else ""
    file = printable(place_of(problem.file, folder))
    return command(level, _message(message + fix), file=file, line=problem.line, title=printable(title))


def failed(error: TorchrelayError, folder: Path | None) -> None:
    """Annotate the run with why it failed: one error for each mistake at its file and line, else one with the kind as title."""
    if isinstance(error, (ModelInvalid, GateFailed)) and error.problems:
        send(*(problem_annotation("error", one, folder, error.kind) for one in error.problems))
    else:
        send(annotation("error", str(error), title=error.kind))


def notice(text: str) -> None:
    """Tell what the reader of the run should see though nothing is wrong: an annotation on GitHub, a line elsewhere."""
    if on_github():
        send(annotation("notice", text))
    else:
        log.info("%s", text)


class Annotations(logging.Handler):
    """Makes annotations of warnings and errors; a `Problem` among the arguments gives file and line."""

    folder: Path | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler.emit."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        arguments = record.args if isinstance(record.args, tuple) else ()
        problems = [one for one in arguments if isinstance(one, Problem)]
        told = [problem_annotation(level, one, Annotations.folder) for one in problems]
        send(*(told or [annotation(level, record.getMessage())]))


def _append(variable: str, name: str, value: str) -> None:
    """Append a value to one of the runner's files; nothing where there is no runner."""
    file = os.environ.get(variable)
    if not file:
        return
    end = f"end_{secrets.token_hex(24)}"  # random: no value can close it early and go on with a name of its own
    with Path(file).open("a", encoding="utf-8", errors="backslashreplace", newline="") as opened:
        opened.write(f"{name}<<{end}\n{value}\n{end}\n")


def export_env(name: str, value: str) -> None:
    """Set a variable for the steps after this one.

    Raises UnsafeName for what is no variable's name.
    """
    if not _VARIABLE.fullmatch(name):
        raise UnsafeName(f"{printable(name)!r} is not the name of a variable")
    _append("GITHUB_ENV", name, value)


def add_path(folder: Path) -> None:
    """Put a folder on the PATH of the steps after this one.

    Raises UnsafeName for a name of more than one line.
    """
    if len(str(folder).splitlines()) != 1:
        raise UnsafeName(f"{printable(str(folder))!r} is not the name of one folder")
    file = os.environ.get("GITHUB_PATH")
    if file:
        with Path(file).open("a", encoding="utf-8") as opened:
            opened.write(f"{folder}\n")


def as_output(value: Any) -> str:
    """Return a value as an output: text as it is, true or false, nothing for None, all else as compact JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else as_json(value, (",", ":"))


def outputs(result: Mapping[str, Any]) -> None:
    """Write every value of a verb's result as an output of the step, under its name in kebab-case."""
    if not os.environ.get("GITHUB_OUTPUT"):
        return
    for key, value in result.items():
        name, text = key.replace("_", "-"), as_output(value)
        if not _NAME.fullmatch(name):
            log.warning("output %s is left out: it is not a name that an output can have", printable(name))
        elif len(text.encode("utf-16-le", "surrogatepass")) > MAX_OUTPUT:
            log.warning("output %s is left out: it is larger than %d KiB; --json has it", name, MAX_OUTPUT // 1024)
        else:
            _append("GITHUB_OUTPUT", name, text)
