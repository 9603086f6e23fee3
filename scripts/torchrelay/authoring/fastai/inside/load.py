"""Loads an exported learner; what its training alone needed, and this Python lacks, gets a stand-in."""

from __future__ import annotations

import pickle
import types
from pathlib import Path
from typing import Any

STAND_INS: list[str] = []
"""What was named in the file and is not to be had here, in its order."""


class StandIn:
    """Takes the place of a class or function of the author's (a metric, a labelling function): loads, and does nothing."""

    def __new__(cls, *_arguments: Any, **_named: Any) -> StandIn:
        """Take whatever arguments the missing one was made with."""
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Forget it."""


def stand_in(module: str, name: str) -> type:
    """A class of its own for a name, so that it is told by name where it turns up in what is exported."""
    told = f"{module}.{name}"
    if told not in STAND_INS:
        STAND_INS.append(told)
    return type(name.rpartition(".")[2], (StandIn,), {"__module__": module, "__qualname__": name})


class Unpickler(pickle.Unpickler):
    """Python's own, that replaces what cannot be imported."""

    def find_class(self, module: str, name: str) -> Any:
        """See the class."""
        try:
            return super().find_class(module, name)
        except (ModuleNotFoundError, AttributeError):
            if module.partition(".")[0] in ("torch", "fastai"):
                raise  # a version that does not fit: a stand-in would hide it
            return stand_in(module, name)


def _load(file: Any, **named: Any) -> Any:
    return Unpickler(file, **named).load()


def learner(path: Path) -> Any:
    """The learner on the CPU, in float32."""
    from fastai.learner import load_learner  # noqa: PLC0415 -- seconds, and this runs after the confinement

    module = types.ModuleType("pickle_with_stand_ins")
    vars(module).update({name: value for name, value in vars(pickle).items() if not name.startswith("__")})
    vars(module).update(Unpickler=Unpickler, load=_load)
    return load_learner(path, cpu=True, pickle_module=module)
