"""The repositories that act works on: a clean export of this one, and model repositories that call it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/tabular"
STUBS = Path(__file__).parent / "stubs"
OWN = "org/deploy"
OUTPUTS_JOB = "outputs"
"""The job of the caller's workflow that receives serve.yml's outputs."""
OUTPUTS = ("endpoint", "image", "verdict", "results")
ZERO = "0" * 40

PERSON = {"NAME": "T", "EMAIL": "t@example.com"}
AUTHOR = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in PERSON.items()},
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **AUTHOR}, capture_output=True, text=True, check=False, errors="replace"
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def export(folder: Path, leave_out: tuple[str, ...] = ("tests/", "benchmarks/")) -> Path:
    """Copy the files of the working tree, without those that no action reads: act copies a mapped folder whole at each use."""
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith(leave_out):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def used(folder: Path) -> Iterator[str]:
    """Yield every `uses:` of a repository's workflows and actions."""

    def of(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("uses"), str):
                yield node["uses"]
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from of(child)

    for pattern in (".github/workflows/*.yml", "actions/*/action.yml"):
        for file in sorted(folder.glob(pattern)):
            yield from of(yaml.safe_load(file.read_text()))


def local_repositories(folders: list[Path], own: Mapping[str, Path]) -> list[str]:
    """Return act's flags for every `owner/name@ref` that these repositories use: `own` ones, else stubs.

    Raises AssertionError for an action without a stub: nothing may be fetched.
    """
    flags: dict[str, Path] = {}
    for name in (name for folder in folders for name in used(folder)):
        path, _, ref = name.partition("@")
        if path.startswith("./") or name.startswith("docker://"):
            continue
        repository = "/".join(path.split("/")[:2])
        place = own.get(repository) or STUBS / repository.replace("/", "__")
        assert place.is_dir(), f"{name} has no stand-in: make tests/workflow/stubs/{repository.replace('/', '__')}"
        flags[f"{repository}@{ref}"] = place
    return [f"--local-repository {name}={place}" for name, place in sorted(flags.items())]


def caller(inputs: Mapping[str, Any], own: str = OWN, secrets: Mapping[str, str] | None = None) -> str:
    """Return the README's caller workflow with these inputs, and a job after it that receives its outputs."""
    script = "".join(f'printf \'{name}=%s\\n\' "${name.upper()}" >> "$GITHUB_OUTPUT"\n' for name in OUTPUTS)
    workflow = {
        "on": {"push": {"branches": ["main"]}, "pull_request": {}, "pull_request_target": {}, "workflow_dispatch": {}},
        "permissions": {},
        "jobs": {
            "serve": {
                "uses": f"{own}/.github/workflows/serve.yml@main",
                "permissions": {"contents": "read", "id-token": "write", "pull-requests": "write"},
                "with": dict(inputs),
                **({"secrets": {name: f"${{{{ secrets.{value} }}}}" for name, value in secrets.items()}} if secrets else {}),
            },
            OUTPUTS_JOB: {
                "needs": "serve",
                "if": "always()",
                "runs-on": "ubuntu-latest",
                "steps": [{"run": script, "env": {name.upper(): f"${{{{ needs.serve.outputs.{name} }}}}" for name in OUTPUTS}}],
            },
        },
    }
    return json.dumps(workflow, indent=2)


class ModelRepository:
    """A model repository, `acme/models`, with a workflow that calls serve.yml."""

    def __init__(self, folder: Path, inputs: Mapping[str, Any] | None = None, own: str = OWN) -> None:
        self.folder, self.inputs, self.own = folder, dict(inputs or {}), own
        folder.mkdir(parents=True)
        git(folder, "init", "--quiet", "--initial-branch=main")
        git(folder, "remote", "add", "origin", "https://github.com/acme/models.git")
        self.call()

    def call(self, inputs: Mapping[str, Any] | None = None, secrets: Mapping[str, str] | None = None) -> None:
        """Write the workflow, with these inputs over the repository's own."""
        self.write(".github/workflows/deploy.yml", caller(self.inputs | dict(inputs or {}), self.own, secrets))

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert text.count(old) == 1, f"{name}: {old!r} is there {text.count(old)} times"
        self.write(name, text.replace(old, new))

    def add_model(self, name: str, port: int, place: str = ".", samples: tuple[str, ...] = ("setosa", "text_is_refused")) -> None:
        """Put examples/tabular here: 28 numbers, verified in seconds."""
        folder = self.folder / place
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("model.py", "model.pt", "weights.lock"):
            shutil.copyfile(EXAMPLE / file, folder / file)
        (folder / "samples").mkdir()
        for sample in samples:
            shutil.copyfile(EXAMPLE / "samples" / f"{sample}.json", folder / "samples" / f"{sample}.json")
        lines = (EXAMPLE / "model.yaml").read_text().split("targets:")[0].replace("name: tabular", f"name: {name}")
        (folder / "model.yaml").write_text(f"{lines}targets:\n  docker: {{port: {port}}}\n")

    def commit(self, message: str = "change") -> str:
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--allow-empty", "--message", message)
        return self.head

    @property
    def head(self) -> str:
        return git(self.folder, "rev-parse", "HEAD")

    def pushed(self, before: str = ZERO, **more: Any) -> dict[str, Any]:
        """GitHub's payload of a push of HEAD to main."""
        message = git(self.folder, "log", "-1", "--format=%B")
        return {
            "ref": "refs/heads/main",
            "before": before,
            "after": self.head,
            "created": before == ZERO,
            "deleted": False,
            "forced": False,
            "head_commit": {"id": self.head, "message": message, "author": {"name": "T", "email": "t@example.com"}},
            "commits": [{"id": self.head, "message": message}],
            "repository": _REPOSITORY,
            "sender": {"login": "somebody"},
            **more,
        }

    def proposed(self, base: str, number: int = 7, head: str = "feature", fork: str = "", **more: Any) -> dict[str, Any]:
        """GitHub's payload of a pull request of HEAD against main at `base`, from this repository or from `fork`."""
        origin = {"full_name": fork, "fork": True} if fork else _REPOSITORY
        return {
            "action": "synchronize",
            "number": number,
            "pull_request": {
                "number": number,
                "title": "a change",
                "body": "",
                "base": {"ref": "main", "sha": base, "repo": _REPOSITORY},
                "head": {"ref": head, "sha": self.head, "repo": origin},
                "user": {"login": "somebody"},
                **more,
            },
            "repository": _REPOSITORY,
            "sender": {"login": "somebody"},
        }

    def dispatched(self, **inputs: str) -> dict[str, Any]:
        """GitHub's payload of a run by hand on main."""
        return {"ref": "refs/heads/main", "inputs": inputs, "repository": _REPOSITORY, "sender": {"login": "somebody"}}


def branched(repository: ModelRepository, branch: str, name: str = "branched") -> ModelRepository:
    """Clone a model repository and check out a new branch of its head; the original does not change."""
    folder = repository.folder.parent / f"{name}-{len(list(repository.folder.parent.iterdir()))}"
    git(repository.folder, "clone", "--quiet", ".", str(folder))
    git(folder, "remote", "set-url", "origin", "https://github.com/acme/models.git")
    git(folder, "checkout", "--quiet", "-B", branch)
    clone = copy.copy(repository)
    clone.folder, clone.inputs = folder, dict(repository.inputs)
    return clone


_REPOSITORY = {"full_name": "acme/models", "name": "models", "default_branch": "main", "fork": False, "owner": {"login": "acme"}}
