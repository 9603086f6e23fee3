"""export-fastai: makes a model directory from a learner's file, which is loaded in a sandbox, and only when it is trusted."""

import logging
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrelay.authoring.fastai import directory, learner, sandbox, tensorfile
from torchrelay.authoring.fastai.learner import LearnerDescription, refused
from torchrelay.authoring.fastai.model_source import DescriptionInvalid
from torchrelay.authoring.fastai.pickle_names import PickleNames, read_names
from torchrelay.authoring.init import default_name
from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import printable
from torchrelay.stages import check

log = logging.getLogger(__name__)
DANGER = (
    "is a pickle, a program that can do everything that you can: read your files and keys, and send them away. "
    "Its names were read; it was not run"
)
MOST_DIFFERENCE = 1e-3  # relative to the largest output; float32 and a different order of additions give a hundredth of this


@dataclass(frozen=True)
class Options:
    """What the user asked for; `size` is (height, width) of the pictures, for a learner that does not resize them."""

    learner: Path
    output: Path
    trust: bool = False
    python: str | None = None
    size: tuple[int, int] | None = None
    seconds: int = 600
    unsafe: bool = False
    """Load the file also where this machine cannot isolate it."""


@dataclass(frozen=True)
class Exported:
    """What was written. `difference` is the largest one between an output of the learner and of the export; `largest`: output."""

    output: Path
    files: list[str]
    handler: str
    classes: int
    difference: float
    largest: float
    warnings: list[str]


def plan(options: Options) -> list[str]:
    """Return what would be done. The file's names are read and the flag is required, as in `export`.

    Raises:
        ModelInvalid: see `export`.
    """
    _require_places(options)
    _require_trust(options, read_names(options.learner))
    python = sandbox.python_with_fastai(options.python)
    with tempfile.TemporaryDirectory(prefix="torchrelay-fastai-") as folder:
        sandbox.Sandbox(python, Path(folder), options.seconds, options.unsafe).require_isolation()
    isolation = "even if this machine cannot isolate it" if options.unsafe else "isolated"
    return [
        f"load {printable(options.learner.name)} with {python}, {isolation}, in at most {options.seconds} s",
        f"write {printable(str(options.output))}: model.yaml, model.py, {directory.WEIGHTS}, classes and a sample",
    ]


def export(options: Options) -> Exported:
    """Write the model directory: all of it, or nothing.

    Raises:
        ModelInvalid: the file is not trusted, cannot be loaded or holds something unsupported; or the directory exists already.
    """
    _require_places(options)
    with tempfile.TemporaryDirectory(prefix="torchrelay-fastai-") as folder:
        file = Path(folder) / "learner.pkl"
        shutil.copyfile(options.learner, file)  # the file that is read here is the one that is loaded
        _require_trust(options, read_names(file))
        return _exported(options, Path(folder), file)


def _require_places(options: Options) -> None:
    if not options.learner.is_file():
        raise refused(f"{printable(str(options.learner))} is not a file")
    output = options.output
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        fix = "choose another folder: nothing is overwritten"
        raise ModelInvalid([Problem(printable(str(output)), None, "", "exists already", fix)])


def _require_trust(options: Options, names: PickleNames) -> None:
    name = printable(options.learner.name)
    if names.forbidden:
        raise refused(f"{name} refers to {', '.join(map(printable, names.forbidden[:10]))}, which no learner needs; it was not run")
    if not options.trust:
        fix = (
            "if you know who made it and how it reached you, add --trust-pickle. It is then loaded without your credentials, "
            "network and files"
        )
        raise refused(f"{name} {DANGER}: {names.summary()}", fix)


def _exported(options: Options, folder: Path, file: Path) -> Exported:
    box = sandbox.Sandbox(sandbox.python_with_fastai(options.python), folder, options.seconds, options.unsafe)
    box.require_isolation()
    limit = 4 * file.stat().st_size + (64 << 20)
    described = learner.parse(box.step("read", {"size": list(options.size) if options.size else None}, [file], limit))
    try:
        tensors = [box.take("read", name, limit) for name in ("weights.safetensors", "output.safetensors")]
        for one in tensors:
            tensorfile.read(one)
        files = directory.files(described, default_name(options.output), printable(options.learner.name))
    except (DescriptionInvalid, ValueError, OSError) as error:
        raise refused(f"{learner.INVALID}: {printable(str(error))}") from error
    (folder / "model.py").write_bytes(files["model.py"])
    mode = "RGB" if described.channels == 3 else "L"
    request = described.model_dump(include={"size", "picture", "fit", "mean", "std"}) | {"mode": mode}
    difference, largest = require_parity(box.step("verify", request, [*tensors, folder / "model.py"], limit))
    try:
        weights = box.take("verify", directory.WEIGHTS, limit)
    except (ValueError, OSError) as error:
        raise refused(f"its weights were not written: {printable(str(error))}") from error
    write(options.output, files, weights)
    handler = "image-segmenter" if described.task == "segment" else "image-classifier"
    written = sorted([*files, directory.WEIGHTS])
    return Exported(options.output, written, handler, described.count, difference, largest, _warnings(described))


def require_parity(comparison: dict[str, Any]) -> tuple[float, float]:
    """Return the largest difference of an output, and the largest output.

    Raises:
        ModelInvalid: the exported network and the learner return different numbers.
    """
    difference, largest = comparison.get("difference"), comparison.get("largest")
    if not isinstance(difference, float) or not isinstance(largest, float):
        raise refused("the exported network could not be compared with the learner")
    if not difference <= MOST_DIFFERENCE * max(1.0, largest):  # also true for NaN
        message = f"the exported network and the learner differ by {difference:.3g}; the largest output is {largest:.3g}"
        raise refused(message, "the learner changes pictures in a way that its transforms do not show; this cannot be exported")
    return difference, largest


def write(output: Path, files: dict[str, bytes], weights: Path) -> None:
    """Write a model directory that passes check: all of it, or nothing.

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
        check.run(part)
        part.replace(output)  # also if it is an empty folder
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _warnings(described: LearnerDescription) -> list[str]:
    warnings = []
    if described.stand_ins:
        names = ", ".join(printable(name) for name in described.stand_ins[:10])
        warnings.append(f"missing, but not needed for predictions: {names}")
    if directory.class_names(described) is None:
        warnings.append(
            f"the learner names {len(described.vocab)} classes, but its network has {described.count}: the classes have no names"
        )
    return warnings


def next_steps(exported: Exported) -> list[str]:
    """Return what the author does next."""
    where = shlex.quote(printable(str(exported.output)))
    return [
        f"torchrelay relay {where}",
        f"to add samples: put your own pictures into {where}/samples, then run torchrelay samples record {where}",
    ]
