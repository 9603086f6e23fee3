"""The inputs of serve.yml. GitHub checks only their types and act checks nothing, so each one is checked here.

`INPUTS` is their only table; serve.yml declares the same names.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchrelay.core.errors import InputsInvalid, RegistryError
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.text import meant, printable, shown
from torchrelay.core.urls import LONGEST, Refused, web_address
from torchrelay.oci.reference import parse_reference
from torchrelay.targets import TARGETS

SKIPPABLE = ("diff", "comment", "attest", "deploy")
LONGEST_LIST = 65_536  # characters
_ROLE = re.compile(r"arn:aws(-cn|-us-gov)?:iam::\d{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}", re.ASCII)
_REGION = re.compile(r"[a-z]{2}(-[a-z]{2,12}){1,3}-\d{1,2}", re.ASCII)
_ENVIRONMENT = re.compile(r"(?!.*--)(?=.{1,100}\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
"""In artifact names `--` follows it, so that the names of one environment never start with those of another."""
_RUNNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


def _matching(pattern: re.Pattern[str], description: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise Refused(f"{shown(value)} is not {description}")
        return value

    return check


def _target(value: str) -> str:
    allowed = sorted(set(TARGETS) - {"local"})
    if value not in allowed:
        reason = "builds no image, so a workflow has nothing to verify" if value == "local" else "is not a target"
        raise Refused(f"{shown(value)} {reason}; {meant(value, allowed)}")
    return value


def _repository(value: str) -> str:
    try:
        parse_reference(value + "model" if value.endswith("/") else value, "tag")
    except RegistryError as error:
        raise Refused(f"{printable(error.message)}; {error.fix}") from error
    return value


def _skip(value: str) -> list[str]:
    parts = [word for word in re.split(r"[\s,]+", value) if word]
    for part in parts:
        if part not in SKIPPABLE:
            raise Refused(f"{shown(part)} cannot be skipped; {meant(part, SKIPPABLE)}")
    return list(dict.fromkeys(parts))


def _lines(value: str) -> list[str]:
    return list(dict.fromkeys(line.strip() for line in value.splitlines() if line.strip()))


def _environments(value: str) -> list[str]:
    return [_environment(line) for line in _lines(value)]


def _boolean(value: str) -> bool:
    if value not in ("true", "false"):
        raise Refused(f"{shown(value)} is not a boolean; write true or false")
    return value == "true"


_environment = _matching(_ENVIRONMENT, "a valid environment name; use letters, digits and . _ - but not --, at most 100 characters")
_role_arn = _matching(_ROLE, "the ARN of a role; write arn:aws:iam::123456789012:role/NAME")


@dataclass(frozen=True)
class Input:
    """One input: the function that checks and converts its text, its default, and whether it may have several lines."""

    check: Callable[[str], Any]
    default: Any = ""
    lines: bool = False


INPUTS: dict[str, Input] = {
    "models": Input(_lines, [], lines=True),
    "target": Input(_target),
    "repository": Input(_repository),
    "environment": Input(_environment, "production"),
    "any-branch-environments": Input(_environments, [], lines=True),
    "skip": Input(_skip, [], lines=True),
    "dry-run": Input(_boolean, default=False),
    "aws-role": Input(_role_arn),
    "aws-region": Input(_matching(_REGION, "an AWS region; write for example eu-central-1")),
    "weights-role": Input(_role_arn),
    "live-url": Input(web_address),
    "runner": Input(_matching(_RUNNER, "the label of a runner; use letters, digits and . _ -"), "ubuntu-latest"),
}


@dataclass(frozen=True)
class Inputs:
    """The inputs of one run, checked and converted; one field per entry of `INPUTS`."""

    models: list[str]
    target: str
    repository: str
    environment: str
    any_branch_environments: list[str]
    skip: list[str]
    dry_run: bool
    aws_role: str
    aws_region: str
    weights_role: str
    live_url: str
    runner: str


def parse_inputs(text: str) -> Inputs:
    """Parse `toJSON(inputs)`: one JSON object of strings and booleans; empty text and null count as absent.

    Raises InputsInvalid, which names every wrong input.
    """
    try:
        values = parse_untrusted(text or "{}", object_pairs_hook=_unique)
    except ValueError as error:
        reason = "an input appears twice" if isinstance(error, Refused) else "they are not JSON"
        raise InputsInvalid(f"the inputs cannot be read: {reason}", "pass ${{ toJSON(inputs) }}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputsInvalid("the inputs are not a JSON object", "pass ${{ toJSON(inputs) }}")
    return check_inputs(values)


def check_inputs(values: Mapping[str, Any]) -> Inputs:
    """Check every input and convert it. Raises InputsInvalid, which names every wrong input."""
    problems = [f"input {shown(name)} is unknown; {meant(name, INPUTS)}" for name in values if name not in INPUTS]
    converted: dict[str, Any] = {}
    for name, rule in INPUTS.items():
        try:
            converted[name.replace("-", "_")] = _convert(rule, values.get(name))
        except Refused as refused:
            problems.append(f"input {name}: {refused}")
    if problems:
        raise InputsInvalid("\n".join(problems), "correct `with:` in the job that calls serve.yml")
    return Inputs(**converted)


def _convert(rule: Input, value: Any) -> Any:
    if isinstance(value, bool):
        value = "true" if value else "false"
    if value is None or value == "":
        return rule.default
    if not isinstance(value, str):
        raise Refused(f"{shown(value)} is not text")
    longest = LONGEST_LIST if rule.lines else LONGEST
    if len(value) > longest:
        raise Refused(f"is longer than {longest} characters")
    allowed = "\r\n\t" if rule.lines else ""
    for character in value:
        if not character.isprintable() and character not in allowed:
            raise Refused(f"contains {printable(character)}, which is not a printable character")
    return rule.check(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise Refused
    return dict(pairs)
