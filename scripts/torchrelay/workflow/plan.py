"""Plan: which models a run builds and whether it deploys them, out of the event, the inputs and what git says changed."""

import fnmatch
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchrelay.core.errors import InputsInvalid, ModelInvalid, Problem
from torchrelay.core.text import nearest, printable, shown
from torchrelay.model.handlers import file_options
from torchrelay.model.model import FILE, Model, load
from torchrelay.model.weights_lock import NAME as LOCK
from torchrelay.workflow.checkout import Checkout
from torchrelay.workflow.event import Event, baseline
from torchrelay.workflow.inputs import INPUTS, Inputs

REFUSED = "pull_request_target"
DEPLOYING = ("", "schedule")  # "": by hand, off GitHub; every other that is not named here or in `_deploys` deploys nothing
PRODUCTION = INPUTS["environment"].default
MOST = 256  # jobs of a matrix: GitHub's limit
PLAIN = "letters, digits, space and . _ + @ - between slashes, no space or - at the start, no space at the end"


@dataclass(frozen=True)
class ModelFolder:
    """A model that may be built: its name, its folder as it was named, where that really lies, and what it reads elsewhere.

    A folder and the paths `elsewhere` are as `Checkout` gives them. `remote`: its weights are no file of the repository;
    `unpinned`: no digest was agreed on for them. `problems` are those that hide its name.
    """

    name: str
    dir: str
    folder: str
    elsewhere: tuple[str, ...] = ()
    target: str = ""
    remote: bool = False
    unpinned: bool = False
    problems: tuple[Problem, ...] = ()


def below(path: str, folder: str) -> bool:
    """Tell whether a path is a folder or lies in it; everything lies in ""."""
    return not folder or path == folder or path.startswith(f"{folder}/")


def changed_models(models: list[ModelFolder], every: Iterable[str], changed: Iterable[str]) -> list[ModelFolder]:
    """Return the models that a change of these paths is a change of.

    A path belongs to the innermost of `every` model's folders around it, and to whoever names it or links to it. A changed
    submodule is a path above what it holds.
    """
    folders = set(every) | {model.folder for model in models}
    paths = list(changed)
    owners = {innermost(path, folders) for path in paths}

    def touched(model: ModelFolder) -> bool:
        around = {"/".join(model.folder.split("/")[:end]) for end in range(1, model.folder.count("/") + 2)}
        elsewhere = any(below(path, other) for other in model.elsewhere for path in paths)
        return model.folder in owners or elsewhere or not around.isdisjoint(paths)

    return [model for model in models if touched(model)]


def innermost(path: str, folders: Collection[str]) -> str:
    """Return the innermost of some folders around a path, "" when there is none."""
    while path and path not in folders:
        path = path.rpartition("/")[0]
    return path


def selected(patterns: list[str], found: list[str], is_model: Mapping[str, bool] | None = None) -> list[str]:
    """Return the folders that the input `models` names, in its order; all that were found when it names none.

    `is_model` knows folders that were named outright: whether each holds a model.yaml. Raises InputsInvalid.
    """
    chosen: list[str] = []
    for pattern in patterns:
        folder = normal(pattern)
        if (is_model or {}).get(folder):
            chosen.append(folder)
        elif matching := [one for one in found if _matches(folder.split("/"), one.split("/"))]:
            chosen += matching
        elif any(character in folder for character in "*?["):
            raise InputsInvalid(f"models: no folder with a {FILE} matches {shown(folder)}", "correct the input `models`")
        else:
            near = nearest(folder, found)
            raise InputsInvalid(
                f"models: {shown(folder)} holds no {FILE}", f"did you mean {near}?" if near else "correct the input `models`"
            )
    if not chosen and not found:
        raise InputsInvalid(f"there is no model: no folder holds a {FILE}", "run `torchrelay init`, and commit what it makes")
    return list(dict.fromkeys(chosen or found))


def normal(pattern: str) -> str:
    """Return a folder or pattern without `./` and a slash at the end. Raises InputsInvalid when it leaves the repository."""
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if pattern.startswith(("/", "~")) or ".." in parts or "\\" in pattern:
        raise InputsInvalid(f"models: {shown(pattern)} leaves the repository", "write folders relative to its top, / between them")
    return "/".join(parts) or "."


def _matches(pattern: list[str], parts: list[str]) -> bool:
    """Match a path, part by part; `**` stands for any number of parts."""
    reached = {0}
    for one in pattern:
        if one == "**":
            reached = set(range(min(reached), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatch.fnmatchcase(parts[at], one)}
        if not reached:
            return False
    return len(parts) in reached


def require_plain(folder: str) -> None:
    """Refuse a folder whose name could mean more than a name to whatever reads it later. Raises InputsInvalid."""
    for part in folder.split("/"):
        plain = all(character.isalnum() or character in " ._+@-" for character in part)
        if not plain or part != part.strip(" ") or part.startswith("-") or part == "..":
            raise InputsInvalid(f"models: the folder {shown(folder)} is not plain: {PLAIN}", "rename the folder")
    if len(folder) > 512:
        raise InputsInvalid(f"models: the folder {shown(folder)} is longer than 512 characters", "rename the folder")


@dataclass(frozen=True)
class Plan:
    """What the run does with which models, and why; `fetched` are those whose weights are read with credentials."""

    models: list[ModelFolder]
    deploy: bool
    fetched: list[ModelFolder]
    diff: bool
    comment: bool
    attest: bool
    dry_run: bool
    reason: str

    def summary(self) -> dict[str, Any]:
        """Return what the CLI prints, and the workflow's jobs go by; each matrix is one for GitHub's `strategy`."""
        return {
            "matrix": {"include": [self._row(model) for model in self.models]},
            "fetch-matrix": {"include": [self._row(model) for model in self.fetched]},
            "count": len(self.models),
            "build": bool(self.models),
            "deploy": self.deploy,
            "fetch": bool(self.fetched),
            "diff": self.diff,
            "comment": self.comment,
            "attest": self.attest,
            "dry-run": self.dry_run,
            "reason": self.reason,
        }

    def _row(self, model: ModelFolder) -> dict[str, Any]:
        return {"model": model.name, "dir": model.dir, "fetch": model in self.fetched}


def decided(event: Event, inputs: Inputs, models: list[ModelFolder], affected: list[ModelFolder], why: str) -> Plan:
    """Say what is done with the models that are affected, out of those that were named.

    Raises:
        InputsInvalid: two models of one name, or inputs that do not go together.
        ModelInvalid: the model.yaml of an affected one does not say its name.
    """
    _require_names(models, affected)
    if len(affected) > MOST:
        raise InputsInvalid(f"{len(affected)} models are more than the {MOST} jobs that GitHub runs for one matrix", "name fewer")
    deploy = bool(affected) and _deploys(event, inputs) and not inputs.dry_run and "deploy" not in inputs.skip
    _require_destination(inputs, models, affected if deploy else [])
    fetched = [model for model in affected if model.remote] if inputs.weights_role and not event.from_fork else []
    _require_private(event, fetched)
    _require_pins(fetched)
    names = ", ".join(model.name for model in affected[:5]) + (", ..." if len(affected) > 5 else "")
    return Plan(
        models=affected,
        deploy=deploy,
        fetched=fetched,
        diff=bool(affected and inputs.live_url) and "diff" not in inputs.skip,
        comment=bool(affected) and event.name == "pull_request" and "comment" not in inputs.skip,
        attest=bool(deploy and inputs.repository) and "attest" not in inputs.skip,
        dry_run=inputs.dry_run,
        reason=f"{len(affected)} of {len(models)} models: {why}{f': {names}' if names else ''}",
    )


def _deploys(event: Event, inputs: Inputs) -> bool:
    """Tell whether an event may deploy: commits of two branches have no order, so only one branch goes to production."""
    if event.name == "workflow_dispatch":
        return event.on_default_branch or inputs.environment != PRODUCTION
    return event.name in DEPLOYING or (event.name == "push" and event.on_default_branch)


def _require_private(event: Event, fetched: list[ModelFolder]) -> None:
    if fetched and event.in_public:
        raise InputsInvalid(
            "weights-role: weights and image travel as artifacts, and anybody can download those of a public repository",
            "make the repository private, or leave weights-role out for weights that are public",
        )


def _require_names(models: list[ModelFolder], affected: list[ModelFolder]) -> None:
    nameless = [replace(problem, file=f"{model.dir}/{problem.file}") for model in affected for problem in model.problems]
    if nameless:
        raise ModelInvalid(nameless)
    seen: dict[str, ModelFolder] = {}
    for model in models:
        if model.name and model.name in seen:
            raise InputsInvalid(
                f"models: {shown(seen[model.name].dir)} and {shown(model.dir)} are both called {model.name}",
                f"give one another `name:` in its {FILE}: it names the image and the endpoint",
            )
        seen[model.name] = model


def _require_destination(inputs: Inputs, models: list[ModelFolder], deployed: list[ModelFolder]) -> None:
    if len(models) > 1 and inputs.repository and not inputs.repository.endswith("/"):
        fix = f"write `repository: {inputs.repository}/`: a slash at the end adds the model's name"
        raise InputsInvalid(f"repository: one repository cannot hold {len(models)} models", fix)
    for model in deployed:
        target = inputs.target or model.target
        if target == "local":
            raise InputsInvalid(f"models: {shown(model.dir)} goes to `local`, which is for laptops", "give the input `target`")
        if target == "kubernetes" and not inputs.repository:
            raise InputsInvalid("repository: kubernetes pulls images from a registry", "give the input `repository`")


def _require_pins(models: list[ModelFolder]) -> None:
    """The job that fetches hands on bytes by their digest; without one, build would ask the source itself, which it may not."""
    for model in models:
        if model.unpinned:
            raise InputsInvalid(
                f"weights-role: the weights of {shown(model.dir)} have no digest to hand them on by",
                f"run `torchrelay fetch {printable(model.dir)}` once, and commit the {LOCK} that it writes",
            )


def plan(root: Path, inputs: Inputs, environment: Mapping[str, str] = os.environ, base_ref: str = "") -> Plan:
    """Plan the run of a checkout. `base_ref`, off GitHub: what to compare with.

    Raises:
        InputsInvalid: the inputs or the event are refused.
        ModelInvalid: see `decided`.
        SystemRefused: git refuses to read the repository.
    """
    event = Event.of(environment)
    if event.name == REFUSED:
        raise InputsInvalid(
            f"{REFUSED} runs the code of anybody's pull request with this repository's credentials, so it is refused",
            "write `on: pull_request` in the workflow that calls serve.yml",
        )
    if not root.is_dir():
        raise InputsInvalid(f"{printable(str(root))} is no folder", "check the repository out first")
    checkout = Checkout.at(root)
    tracked = checkout.tracked()
    literal = {one: (root / one / FILE).is_file() for one in map(normal, inputs.models)}
    every = {found for folder in tracked.models if (found := checkout.path(folder)) is not None}
    models = [_read(checkout, tracked.links, every, folder) for folder in selected(inputs.models, tracked.models, literal)]
    base = baseline(checkout, event, base_ref)
    if base.none:
        return decided(event, inputs, models, [], base.why)
    paths = checkout.changed(base.commit) if base.commit else None
    if paths is None:
        return decided(event, inputs, models, models, base.why)
    if event.workflow in paths:
        return decided(event, inputs, models, models, f"{base.why}, as has the workflow that calls")
    return decided(event, inputs, models, changed_models(models, every, paths), base.why)


def _read(checkout: Checkout, links: Mapping[str, str], every: Collection[str], folder: str) -> ModelFolder:
    require_plain(folder)
    real = checkout.path(folder)
    if real is None:
        raise InputsInvalid(f"models: {shown(folder)} leads out of the repository", "put the folder into it")
    try:
        loaded = load(checkout.root / folder)
    except ModelInvalid as error:
        return ModelFolder("", folder, real, problems=tuple(error.problems))
    model = loaded.model
    named = [found for path in _named(model) if (found := checkout.path(f"{folder}/{path}")) is not None]
    written = checkout.written(folder)
    own = [link for link in links if innermost(link, every) == real or below(written, link)]
    elsewhere = tuple(dict.fromkeys([*named, *own, *(links[link] for link in own)]))
    if "name" in loaded.bad:
        return ModelFolder("", folder, real, elsewhere, problems=tuple(loaded.problems))
    pinned = model.weights.sha256 or (checkout.root / folder / LOCK).is_file()
    return ModelFolder(
        model.name, folder, real, elsewhere, model.first_target, remote=model.weights.scheme != "file", unpinned=not pinned
    )


def _named(model: Model) -> list[str]:
    """Return the paths that a model.yaml names: those in the folder of a model within this one are changes of this one too."""
    weights = model.weights.inside if model.weights.scheme == "file" else None
    options = [value for value in file_options(model.handler, model.handler_args).values() if isinstance(value, str)]
    some = [weights, model.handler_file, model.model_file, model.requirements, model.samples, *model.extra_files, *options]
    return [path for path in some if path]
