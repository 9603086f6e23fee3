"""Loads an exported learner. What this Python lacks and only training needed gets a stand-in."""

from __future__ import annotations

import pickle
import types
from pathlib import Path
from typing import Any

STAND_INS: list[str] = []
"""The names in the file that this Python does not have, in the file's order."""


class StandIn:
    """Replaces an author's class or function (a metric, a labelling function): it loads, and does nothing."""

    def __new__(cls, *_arguments: Any, **_named: Any) -> StandIn:
        """Accept any arguments."""
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


def stand_in(module: str, name: str) -> type:
    """Return a separate class for each name, so that messages can name it."""
    missing = f"{module}.{name}"
    if missing not in STAND_INS:
        STAND_INS.append(missing)
    return type(name.rpartition(".")[2], (StandIn,), {"__module__": module, "__qualname__": name})


class Unpickler(pickle.Unpickler):
    """Python's unpickler, with stand-ins for what cannot be imported."""

    def find_class(self, module: str, name: str) -> Any:
        """See the class."""
        try:
            return super().find_class(module, name)
        except (ModuleNotFoundError, AttributeError):
            if module.partition(".")[0] in ("torch", "fastai"):
                raise  # the version does not fit, and a stand-in would hide that
            return stand_in(module, name)


def _load(file: Any, **named: Any) -> Any:
    return Unpickler(file, **named).load()


def learner(path: Path) -> Any:
    """Return the learner on the CPU, in float32."""
    from fastai.learner import load_learner  # noqa: PLC0415 -- fastai takes seconds to import, and must load after the confinement

    module = types.ModuleType("pickle_with_stand_ins")
    vars(module).update({name: value for name, value in vars(pickle).items() if not name.startswith("__")})
    vars(module).update(Unpickler=Unpickler, load=_load)
    return load_learner(path, cpu=True, pickle_module=module)
