"""The shipped handlers and the options of `handler_args`, as the handler library's own catalogue lists them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrelay.core import library
from torchrelay.core.text import meant, printable

_CATALOGUE = library.load("catalogue")
_CLASSNAMES = library.load("recipes/classnames")

SHIPPED: tuple[str, ...] = tuple(sorted(_CATALOGUE.SHIPPED))


def option_problems(handler: str, handler_args: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return option, message and fix of every mistake in `handler_args`."""
    known = _CATALOGUE.options_of(handler)
    return [
        (problem.option, "unknown key", meant(problem.option, [one for one in known if not one.startswith("internal-")]))
        if problem.option not in known
        else (problem.option, printable(problem.message, 400), printable(problem.fix, 400))
        for problem in _CATALOGUE.check_options(handler, handler_args)
    ]


def file_options(handler: str, handler_args: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that name a file of the model directory, with its path."""
    known = _CATALOGUE.options_of(handler)
    return {key: value for key, value in handler_args.items() if key in known and known[key].file and isinstance(value, str)}


def complete_options(handler: str, handler_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return `handler_args` on top of the defaults, sizes of pictures in numbers. Raises ValueError with every mistake in it."""
    options: dict[str, Any] = _CATALOGUE.with_defaults(handler, handler_args)
    if "max_pixels" in options:
        options["max_pixels"], options["max_request_pixels"] = _CATALOGUE.pixel_limits(options)
    return options


def class_names(model_dir: Path, handler: str, handler_args: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes, None when there are none. Raises ValueError when their file cannot be read."""
    names: list[str] | None = _CLASSNAMES.read_classes(complete_options(handler, handler_args).get("classes"), model_dir)
    return names
