"""Decides which models a run builds and whether it deploys them, from the event, the inputs and the changed files."""

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
from torchrelay.model.weights_lock import LOCK_NAME
from torchrelay.workflow.checkout import Checkout
from torchrelay.workflow.event import Event, baseline
from torchrelay.workflow.inputs import Inputs

REFUSED = "pull_request_target"
DEPLOYING = ("", "schedule")  # "": started outside GitHub; events that are neither here nor in `_deploys` deploy nothing
MAX_MODELS = 256  # GitHub's limit of jobs in a matrix
PLAIN = "letters, digits, space and . _ + @ - between slashes, no space or - at the start, no space at the end"


@dataclass(frozen=True)
class ModelFolder:
    """A model that may be built.

    `dir` is its folder as the user wrote it. `folder` is the real path of that folder, `elsewhere` the paths outside of it that the
    model uses, both as `Checkout` returns them. `remote`: the weights are not a file of the repository. `unpinned`: their digest is
    not known. `problems` are the mistakes because of which the name cannot be read.
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
    """Return whether a path is a folder or is inside it; everything is inside ""."""
    return not folder or path == folder or path.startswith(f"{folder}/")


def changed_models(models: list[ModelFolder], every: Iterable[str], changed: Iterable[str]) -> list[ModelFolder]:
    """Return the models that these changed paths belong to.

    A path belongs to the innermost model folder (of all in `every`) around it, and to each model that names it or links to it.
    A changed submodule is one path, above the files in it.
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
    """Return the innermost of some folders that contains a path; "" if none does."""
    while path and path not in folders:
        path = path.rpartition("/")[0]
    return path


def select_folders(patterns: list[str], folders: list[str], is_model: Mapping[str, bool] | None = None) -> list[str]:
    """Return the folders that the input `models` selects, in its order; all of `folders` if it selects none.

    `is_model` says of folders that were named in full whether they have a model.yaml. Raises InputsInvalid.
    """
    chosen: list[str] = []
    for pattern in patterns:
        folder = normalise(pattern)
        if (is_model or {}).get(folder):
            chosen.append(folder)
        elif matching := [one for one in folders if _matches(folder.split("/"), one.split("/"))]:
            chosen += matching
        elif any(character in folder for character in "*?["):
            raise InputsInvalid(f"models: no folder with a {FILE} matches {shown(folder)}", "correct the input `models`")
        else:
            near = nearest(folder, folders)
            raise InputsInvalid(
                f"models: {shown(folder)} has no {FILE}", f"did you mean {near}?" if near else "correct the input `models`"
            )
    if not chosen and not folders:
        raise InputsInvalid(f"there is no model: no folder has a {FILE}", "run `torchrelay init` and commit its files")
    return list(dict.fromkeys(chosen or folders))


def normalise(pattern: str) -> str:
    """Return a folder or pattern without `./` and a trailing slash. Raises InputsInvalid if it points outside the repository."""
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if pattern.startswith(("/", "~")) or ".." in parts or "\\" in pattern:
        raise InputsInvalid(
            f"models: {shown(pattern)} is outside the repository",
            "write folders relative to the top of the repository, with / between",
        )
    return "/".join(parts) or "."


def _matches(pattern: list[str], parts: list[str]) -> bool:
    """Match a path part by part; `**` matches any number of parts."""
    reached = {0}
    for part in pattern:
        if part == "**":
            reached = set(range(min(reached), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatch.fnmatchcase(parts[at], part)}
        if not reached:
            return False
    return len(parts) in reached


def require_plain(folder: str) -> None:
    """Reject a folder name that a shell or another later reader could interpret. Raises InputsInvalid."""
    for part in folder.split("/"):
        plain = all(character.isalnum() or character in " ._+@-" for character in part)
        if not plain or part != part.strip(" ") or part.startswith("-") or part == "..":
            raise InputsInvalid(
                f"models: the folder {shown(folder)} has a name that is not allowed: use {PLAIN}", "rename the folder"
            )
    if len(folder) > 512:
        raise InputsInvalid(f"models: the folder {shown(folder)} is longer than 512 characters", "rename the folder")


@dataclass(frozen=True)
class RunPlan:
    """The models that the run builds, what it does with them, and why; `fetched` are those whose weights need credentials."""

    models: list[ModelFolder]
    deploy: bool
    fetched: list[ModelFolder]
    diff: bool
    comment: bool
    attest: bool
    dry_run: bool
    reason: str

    def summary(self) -> dict[str, Any]:
        """Return the outputs for the workflow's jobs; each matrix is one for GitHub's `strategy`."""
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


def decide(event: Event, inputs: Inputs, models: list[ModelFolder], affected: list[ModelFolder], reason: str) -> RunPlan:
    """Decide what the run does; `affected` are those of the selected `models` that it builds, for this reason.

    Raises:
        InputsInvalid: two models have the same name, or the inputs contradict each other.
        ModelInvalid: the name of an affected model cannot be read from its model.yaml.
    """
    _require_names(models, affected)
    if len(affected) > MAX_MODELS:
        message = f"models: {len(affected)} models are too many: GitHub runs at most {MAX_MODELS} jobs of a matrix"
        raise InputsInvalid(message, "select fewer with the input `models`")
    deploy = bool(affected) and _deploys(event, inputs) and not inputs.dry_run and "deploy" not in inputs.skip
    _require_destination(inputs, models, affected if deploy else [])
    fetched = [model for model in affected if model.remote] if inputs.weights_role and not event.from_fork else []
    _require_private(event, fetched)
    _require_pins(fetched)
    names = ", ".join(model.name for model in affected[:5]) + (", ..." if len(affected) > 5 else "")
    return RunPlan(
        models=affected,
        deploy=deploy,
        fetched=fetched,
        # A fork chooses the samples: they are not sent to the endpoint that serves users.
        diff=bool(affected and inputs.live_url) and not event.from_fork and "diff" not in inputs.skip,
        comment=bool(affected) and event.name == "pull_request" and "comment" not in inputs.skip,
        attest=bool(deploy and inputs.repository) and "attest" not in inputs.skip,
        dry_run=inputs.dry_run,
        reason=f"{len(affected)} of {len(models)} models: {reason}{f': {names}' if names else ''}",
    )


def _deploys(event: Event, inputs: Inputs) -> bool:
    """Return whether an event may deploy. Commits of two branches have no order, so the default branch alone may.

    `any-branch-environments` lists the exceptions for manual runs. GitHub does not distinguish capitals in the names of
    environments, so neither does this rule.
    """
    if event.name == "workflow_dispatch":
        allowed = {name.casefold() for name in inputs.any_branch_environments}
        return event.on_default_branch or inputs.environment.casefold() in allowed
    return event.name in DEPLOYING or (event.name == "push" and event.on_default_branch)


def _require_private(event: Event, fetched: list[ModelFolder]) -> None:
    if fetched and event.in_public:
        raise InputsInvalid(
            "weights-role: weights and image pass between jobs as artifacts, which anyone can download from a public repository",
            "make the repository private, or remove weights-role if the weights are public",
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
                f"change `name:` in one {FILE}: image and endpoint are named after it",
            )
        seen[model.name] = model


def _require_destination(inputs: Inputs, models: list[ModelFolder], deployed: list[ModelFolder]) -> None:
    if len(models) > 1 and inputs.repository and not inputs.repository.endswith("/"):
        fix = f"write `repository: {inputs.repository}/`: the trailing slash adds the model's name"
        raise InputsInvalid(f"repository: one image repository cannot hold {len(models)} models", fix)
    for model in deployed:
        target = inputs.target or model.target
        if target == "local":
            raise InputsInvalid(
                f"target: {shown(model.dir)} deploys to `local`, not possible in a workflow", "set the input `target`"
            )
        if target == "kubernetes" and not inputs.repository:
            raise InputsInvalid("repository: the kubernetes target pulls images from a registry", "set the input `repository`")


def _require_pins(models: list[ModelFolder]) -> None:
    """Require a digest: the fetch job stores weights by it. Without one, build would download them, and has no credentials."""
    for model in models:
        if model.unpinned:
            raise InputsInvalid(
                f"weights-role: the weights of {shown(model.dir)} have no digest yet",
                f"run `torchrelay fetch {printable(model.dir)}` once and commit the {LOCK_NAME} that it writes",
            )


def plan_run(root: Path, inputs: Inputs, environment: Mapping[str, str] = os.environ, base_ref: str = "") -> RunPlan:
    """Plan the run for a checkout; `base_ref` replaces the commit of GitHub's event to compare with.

    Raises:
        InputsInvalid: the inputs or the event are not allowed.
        ModelInvalid: see `decide`.
        SystemRefused: git refuses to read the repository.
    """
    event = Event.of(environment)
    if event.name == REFUSED:
        raise InputsInvalid(
            f"the event {REFUSED} is not allowed: it runs the code of any pull request with this repository's credentials",
            "write `on: pull_request` in the workflow that calls serve.yml",
        )
    if not root.is_dir():
        raise InputsInvalid(f"{printable(str(root))} is not a folder", "check out the repository first")
    checkout = Checkout.at(root)
    tracked = checkout.tracked()
    is_model = {folder: (root / folder / FILE).is_file() for folder in map(normalise, inputs.models)}
    every = {path for folder in tracked.models if (path := checkout.path(folder)) is not None}
    models = [_read(checkout, tracked.links, every, folder) for folder in select_folders(inputs.models, tracked.models, is_model)]
    base = baseline(checkout, event, base_ref)
    if base.none:
        return decide(event, inputs, models, [], base.reason)
    paths = checkout.changed(base.commit) if base.commit else None
    if paths is None:
        return decide(event, inputs, models, models, base.reason)
    if event.workflow in paths:
        return decide(event, inputs, models, models, f"the calling workflow {base.reason}")
    return decide(event, inputs, models, changed_models(models, every, paths), base.reason)


def _read(checkout: Checkout, links: Mapping[str, str], every: Collection[str], folder: str) -> ModelFolder:
    require_plain(folder)
    real = checkout.path(folder)
    if real is None:
        raise InputsInvalid(f"models: {shown(folder)} links to a folder outside the repository", "move it into the repository")
    try:
        loaded = load(checkout.root / folder)
    except ModelInvalid as error:
        return ModelFolder("", folder, real, problems=tuple(error.problems))
    model = loaded.model
    named = [inside for path in _named_paths(model) if (inside := checkout.path(f"{folder}/{path}")) is not None]
    unresolved = checkout.unresolved_path(folder)
    own_links = [link for link in links if innermost(link, every) == real or below(unresolved, link)]
    elsewhere = tuple(dict.fromkeys([*named, *own_links, *(links[link] for link in own_links)]))
    if "name" in loaded.bad:
        return ModelFolder("", folder, real, elsewhere, problems=tuple(loaded.problems))
    pinned = model.weights.sha256 or (checkout.root / folder / LOCK_NAME).is_file()
    return ModelFolder(
        model.name, folder, real, elsewhere, model.first_target, remote=model.weights.scheme != "file", unpinned=not pinned
    )


def _named_paths(model: Model) -> list[str]:
    """Return the paths in a model.yaml: the model uses them even if they are in the folder of another model inside its own."""
    weights = model.weights.inside if model.weights.scheme == "file" else None
    options = [value for value in file_options(model.handler, model.handler_args).values() if isinstance(value, str)]
    paths = [weights, model.handler_file, model.model_file, model.requirements, model.samples, *model.extra_files, *options]
    return [path for path in paths if path]
