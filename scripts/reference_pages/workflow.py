"""The pages on serve.yml and the composite actions, from their YAML."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from reference_pages.markdown import ROOT, literal, page, table


def inputs_table(declared: Mapping[str, Any]) -> str:
    """Return a table of inputs."""
    rows = [
        [
            f"`{name}`",
            one.get("description", ""),
            "required" if one.get("required") else "" if one.get("default") in (None, "") else literal(one["default"]),
        ]
        for name, one in declared.items()
    ]
    return table(["input", "description", "default"], rows)


def described(head: str, declared: Mapping[str, Any]) -> str:
    """Return a table of names and descriptions."""
    return table([head, "description"], [[f"`{name}`", one.get("description", "")] for name, one in declared.items()])


def jobs_of(text: str, jobs: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, permissions with their reasons, environment and steps of each job of a workflow."""
    for name, job in jobs.items():
        start = re.search(rf"^  {name}:\n", text, re.MULTILINE)
        body = text[start.end() :] if start else ""
        body = re.split(r"^  [a-z]", body, maxsplit=1, flags=re.MULTILINE)[0]
        allowed = re.search(r"^    permissions:\n((?:      .*\n)+)", body, re.MULTILINE)
        reasons = [line.strip() for line in allowed[1].splitlines()] if allowed else []
        shown = "<br>".join(re.sub(r"^(\S+ \S+)\s*#\s*(.*)$", r"`\1`: \2", line) for line in reasons)
        steps = [str(step.get("uses", "")).partition("@")[0].rpartition("/")[2] for step in job.get("steps", [])]
        environment = job.get("environment", "")
        yield f"`{name}`", shown or "none", "`environment`" if environment else "", ", ".join(f"`{one}`" for one in steps if one)


def serve_yml() -> str:
    """Return the page on the reusable workflow."""
    text = (ROOT / ".github/workflows/serve.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    called = workflow[True]["workflow_call"]  # YAML 1.1 reads the key `on` as true
    return page(
        "serve.yml",
        ".github/workflows/serve.yml",
        "The reusable workflow that a model repository calls. `workflow_dispatch` starts it by hand with the same inputs.",
        "## Inputs",
        inputs_table(called["inputs"]),
        "## Secrets",
        described("secret", called["secrets"]),
        "## Outputs",
        described("output", called["outputs"]),
        "## Jobs and their permissions",
        "The caller grants the sum of these; each job takes only its own.",
        table(["job", "permissions and why", "GitHub environment", "steps"], jobs_of(text, workflow["jobs"])),
        "## Repository variables",
        table(
            ["variable", "description"],
            [
                [
                    "`TORCHRELAY_TORCH_INDEX`",
                    "Package index with the CPU build of torch. Without it a CPU image holds the CUDA build: gigabytes.",
                ],
                ["`TORCHRELAY_BASE_IMAGE`", "Base image of the runtime image."],
                [
                    "`TORCHRELAY_VERIFY_KEY`",
                    "Public keys (PEM, one after the other): deploy only images whose passing verdict was signed by one of them. "
                    "Required with the secret `signing-key`.",
                ],
            ],
        ),
    )


def actions() -> str:
    """Return the page on the composite actions."""
    blocks = []
    for file in sorted((ROOT / "actions").glob("*/action.yml")):
        name = file.parent.name
        if name.startswith("__"):
            continue
        action = yaml.safe_load(file.read_text(encoding="utf-8"))
        blocks += [f"## {name}", " ".join(action["description"].split())]
        if action.get("inputs"):
            blocks.append(inputs_table(action["inputs"]))
        if action.get("outputs"):
            blocks.append(described("output", action["outputs"]))
    return page(
        "Actions",
        "actions/*/action.yml",
        "One composite action per stage. Each can be used on its own after `org/deploy/actions/setup@main`, as "
        "`org/deploy/actions/NAME@main`.",
        *blocks,
    )
