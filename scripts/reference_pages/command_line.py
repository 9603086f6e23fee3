"""The pages on the command line, from its own help, and on exit codes, from the classes of errors."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from reference_pages.markdown import page, plain, table
from torchrelay.cli import main
from torchrelay.core import errors

INTRODUCTION = """\
Verbs on one model take its directory (default `.`). A result is printed as one JSON object with `--json`; progress and log go to
stderr. An option is also an environment variable where its row names one; an empty variable counts as absent. Where there is
`--dry-run`, it prints what would be done. Completed work, known by its digest, is skipped: a second `relay` pushes nothing and
restarts nothing. After an interruption the next run continues.
"""
ERRORS = """\
Both are public. With `--json` a failure is one object on stdout: `{"error": {"kind", "message", "fix", "exit_code"}}`, with
`problems` (file, line, field, message, fix) where a file is wrong; wrong usage (exit code 2) and defects (1) print text on stderr
alone. Each kind links to its section in Troubleshooting.
"""


def commands() -> Iterator[tuple[str, Any, Any]]:
    """Yield path, command and context of every verb, in the order of the help."""
    group: Any = get_command(vars(main)["app"])
    context = group.make_context("torchrelay", [], resilient_parsing=True)
    yield "torchrelay", group, context
    yield from _below("torchrelay", group, context)


def _below(path: str, group: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command.hidden:
            continue
        inner = command.make_context(name, [], parent=context, resilient_parsing=True)
        yield f"{path} {name}", command, inner
        if hasattr(command, "list_commands"):
            yield from _below(f"{path} {name}", command, inner)


def default_of(parameter: Any) -> str:
    """Return an option's default in words."""
    if parameter.required:
        return "required"
    default = parameter.default
    if (
        default is None
        or default is False
        or default == ""
        or callable(default)
        or not isinstance(default, str | int | float | Path)
    ):
        return ""
    return f"`{default}`"


def parameters_table(command: Any, context: Any) -> str:
    """Return a table of a verb's arguments and options."""
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        variable = parameter.envvar if isinstance(parameter.envvar, str) else ""
        help_text = getattr(parameter, "help", "") or ""
        rows.append([f"`{record[0]}`", help_text, default_of(parameter), f"`{variable}`" if variable else ""])
    return table(["argument or option", "description", "default", "variable"], rows) if rows else ""


def command_line() -> str:
    """Return the page on the command line."""
    blocks = []
    for path, command, context in commands():
        help_text = plain(inspect.cleandoc(command.help or ""))
        usage = " ".join([path, *command.collect_usage_pieces(context)])
        blocks += [f"## {path}", help_text, f"```text\n{usage}\n```", parameters_table(command, context)]
    return page(
        "Command line",
        "the command's own help",
        INTRODUCTION,
        *blocks,
    )


def error_classes() -> list[type[errors.TorchrelayError]]:
    """Return every class of error with its exit code, by exit code."""
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.TorchrelayError)]
    return sorted((one for one in classes if one is not errors.TorchrelayError), key=lambda one: one.exit_code)


def exit_codes() -> str:
    """Return the page on exit codes and error kinds."""
    rows: list[list[object]] = [
        [0, "", "Success."],
        [1, "", "A defect of Torchrelay, with its traceback: please report it."],
        [2, "", "Wrong usage of the command line."],
    ]
    for one in error_classes():
        sentence = " ".join(inspect.cleandoc(one.__doc__ or "").split("\n\n")[0].split())
        rows.append([one.exit_code, f"[`{one.kind}`](../troubleshooting.md#{one.kind})", sentence])
    return page(
        "Exit codes and error kinds",
        "scripts/torchrelay/core/errors.py",
        ERRORS,
        table(["exit code", "kind", "meaning"], rows),
    )
