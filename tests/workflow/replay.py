"""Repeats a run's deploy job, like GitHub's "Re-run failed jobs": plan and build keep their outputs and artifacts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

SERVE = ".github/workflows/serve.yml"


def without_build(deploy: Path, folder: Path, planned: Mapping[str, str]) -> Path:
    """Copy the deploy repository with a serve.yml whose plan gives these outputs and whose build does nothing."""
    shutil.copytree(deploy, folder)
    workflow: dict[Any, Any] = yaml.safe_load((folder / SERVE).read_text())
    workflow["on"] = workflow.pop(True)  # YAML 1.1's reading of `on`
    jobs = workflow["jobs"]
    keep = "".join(f'printf \'{name}=%s\\n\' "$V{n}" >> "$GITHUB_OUTPUT"\n' for n, name in enumerate(planned))
    values = {f"V{n}": value for n, value in enumerate(planned.values())}
    jobs["plan"]["steps"] = [{"id": "plan", "run": keep, "env": values}]
    jobs["build"]["steps"] = [{"run": "true"}]
    (folder / SERVE).write_text(yaml.safe_dump(workflow, sort_keys=False))
    return folder


def steps_of(deploy: Path, job: str) -> list[str]:
    """Return the `uses` of a job's steps, in their order."""
    workflow = yaml.safe_load((deploy / SERVE).read_text())
    return [step["uses"] for step in workflow["jobs"][job]["steps"]]
