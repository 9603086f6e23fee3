"""export-fastai: a learner's file in, a model directory out; the file is loaded in a sandbox, and only when it is trusted."""

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrelay.authoring.fastai import directory, sandbox, tensorfile
from torchrelay.authoring.fastai import learner as told
from torchrelay.authoring.fastai.model_source import DescriptionInvalid
from torchrelay.authoring.fastai.pickle_names import Look, look
from torchrelay.authoring.fastai.refusal import refused
from torchrelay.authoring.init import default_name
from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import printable
from torchrelay.stages.check import check

log = logging.getLogger(__name__)
DANGER = (
    "is a pickle, a program that may do all that you may: read your files and keys, and send them away. "
    "It was looked at and not run"
)
MOST_DIFFERENCE = 1e-3  # of an output, relative to the largest: float32 and another order of additions come to a hundredth of it


@dataclass(frozen=True)
class Options:
    """What was asked; `size` is (height, width) of the pictures, for a learner that does not resize them."""

    learner: Path
    output: Path
    trust: bool = False
    python: str | None = None
    size: tuple[int, int] | None = None
    seconds: int = 600


@dataclass(frozen=True)
class Exported:
    """What was written; `difference` is the largest of an output number between the learner's network and the exported one."""

    output: Path
    files: list[str]
    handler: str
    classes: int
    difference: float
    largest: float
    warnings: list[str]


def plan(options: Options) -> list[str]:
    """What would be done; the file is looked at, and the flag asked for, as ever.

    Raises:
        ModelInvalid: see `export`.
    """
    _demand_places(options)
    _demand_trust(options, look(options.learner))
    python = sandbox.python_with_fastai(options.python)
    kept = "namespaces of its own" if sandbox.can_unshare() else "no namespace of its own (unshare gives none here)"
    return [
        f"load {printable(options.learner.name)} with {python}, with {kept}, at most {options.seconds} s",
        f"write {printable(str(options.output))}: model.yaml, model.py, {directory.WEIGHTS}, classes and a sample",
    ]


def export(options: Options) -> Exported:
    """Write the model directory; all of it, or nothing.

    Raises:
        ModelInvalid: the file is not trusted, cannot be loaded, or holds what is not supported; or there is a directory already.
    """
    _demand_places(options)
    with tempfile.TemporaryDirectory(prefix="torchrelay-fastai-") as folder:
        learner = Path(folder) / "learner.pkl"
        shutil.copyfile(options.learner, learner)  # what is looked at is what is loaded
        _demand_trust(options, look(learner))
        return _exported(options, Path(folder), learner)


def _demand_places(options: Options) -> None:
    if not options.learner.is_file():
        raise refused(f"{printable(str(options.learner))} is not a file")
    output = options.output
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        fix = "choose another one: nothing is overwritten"
        raise ModelInvalid([Problem(printable(str(output)), None, "", "exists already", fix)])


def _demand_trust(options: Options, seen: Look) -> None:
    name = printable(options.learner.name)
    if seen.never:
        raise refused(f"{name} names {', '.join(map(printable, seen.never[:10]))}, which no learner needs; it was not run")
    if not options.trust:
        fix = (
            "if you know who made it and how it came here, add --trust-pickle: it is then loaded without your credentials, network "
            "and files, as far as this machine can keep them from it"
        )
        raise refused(f"{name} {DANGER}: {seen.told()}", fix)


def _exported(options: Options, folder: Path, file: Path) -> Exported:
    box = sandbox.Sandbox(sandbox.python_with_fastai(options.python), folder, options.seconds)
    room = 4 * file.stat().st_size + (64 << 20)
    learner = told.believed(box.step("read", {"size": list(options.size) if options.size else None}, [file], room))
    try:
        tensors = [box.take("read", name, room) for name in ("weights.safetensors", "output.safetensors")]
        for one in tensors:
            tensorfile.read(one)
        files = directory.files(learner, default_name(options.output), printable(options.learner.name))
    except (DescriptionInvalid, ValueError, OSError) as error:
        raise refused(f"{told.UNBELIEVED}: {printable(str(error))}") from error
    (folder / "model.py").write_bytes(files["model.py"])
    mode = "RGB" if learner.channels == 3 else "L"
    asked = learner.model_dump(include={"size", "picture", "fit", "mean", "std"}) | {"mode": mode}
    difference, largest = demand_parity(box.step("prove", asked, [*tensors, folder / "model.py"], room))
    try:
        weights = box.take("prove", directory.WEIGHTS, room)
    except (ValueError, OSError) as error:
        raise refused(f"its weights were not written: {printable(str(error))}") from error
    write(options.output, files, weights)
    handler = "image-segmenter" if learner.task == "segment" else "image-classifier"
    written = sorted([*files, directory.WEIGHTS])
    return Exported(options.output, written, handler, learner.count, difference, largest, _warnings(learner))


def demand_parity(proof: dict[str, Any]) -> tuple[float, float]:
    """The largest difference of an output, and the largest output.

    Raises:
        ModelInvalid: the exported network answers otherwise than the learner.
    """
    difference, largest = proof.get("difference"), proof.get("largest")
    if not isinstance(difference, float) or not isinstance(largest, float):
        raise refused("the exported network could not be held against the learner")
    if not difference <= MOST_DIFFERENCE * max(1.0, largest):  # NaN is refused as well
        message = f"the exported network answers otherwise than the learner, by {difference:.3g} of {largest:.3g}"
        raise refused(message, "something that the learner does to pictures is not seen in its transforms")
    return difference, largest


def write(output: Path, files: dict[str, bytes], weights: Path) -> None:
    """Write a model directory that passes check; all of it, or nothing.

    Raises:
        ModelInvalid: it does not pass.
    """
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for name, content in files.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(content)
        shutil.copyfile(weights, part / weights.name)
        check(part)
        os.replace(part, output)  # noqa: PTH105 -- onto an empty folder too
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _warnings(learner: told.Told) -> list[str]:
    found = []
    if learner.stand_ins:
        names = ", ".join(printable(name) for name in learner.stand_ins[:10])
        found.append(f"not to be had, and not needed for predictions: {names}")
    if directory.class_names(learner) is None:
        found.append(
            f"the learner names {len(learner.vocab)} classes and its network tells {learner.count} apart: they have no names"
        )
    return found


def next_steps(exported: Exported) -> list[str]:
    """What to do with it."""
    where = printable(str(exported.output))
    return [
        f"torchrelay relay {where}",
        f"pictures of your own as samples: put them into {where}/samples, then torchrelay samples record {where}",
    ]
