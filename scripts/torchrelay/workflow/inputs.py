"""The inputs of serve.yml: GitHub checks their types and act checks nothing, so each is held against its rule here.

`INPUTS` is the one table of them; the workflow declares the same names.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchrelay.core.errors import InputsInvalid, RegistryError
from torchrelay.core.text import meant, printable, shown
from torchrelay.core.urls import LONGEST, Refused, web_address

SKIPPABLE = ("diff", "comment", "attest", "deploy")
LONGEST_LIST = 65_536
_ROLE = re.compile(r"arn:aws(-cn|-us-gov)?:iam::\d{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}", re.ASCII)
_REGION = re.compile(r"[a-z]{2}(-[a-z]{2,12}){1,3}-\d{1,2}", re.ASCII)
_ENVIRONMENT = re.compile(r"(?!.*--)(?=.{1,100}\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
"""Stands before `--` in the names of artifacts: no environment's names begin with those of another."""
_RUNNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


def _form(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise Refused(f"{shown(value)} is not {what}")
        return value

    return check


def _target(value: str) -> str:
    from torchrelay.targets import TARGETS  # noqa: PLC0415 -- only runs that name one pay for the targets' imports

    allowed = sorted(set(TARGETS) - {"local"})
    if value not in allowed:
        why = "builds no image, so a workflow has nothing to prove" if value == "local" else "is no target"
        raise Refused(f"{shown(value)} {why}; {meant(value, allowed)}")
    return value


def _repository(value: str) -> str:
    from torchrelay.oci.reference import parse_reference  # noqa: PLC0415 -- as in _target

    try:
        parse_reference(value + "model" if value.endswith("/") else value, "tag")
    except RegistryError as error:
        raise Refused(f"{printable(error.message)}; {error.fix}") from error
    return value


def _skip(value: str) -> list[str]:
    stages = [word for word in re.split(r"[\s,]+", value) if word]
    for stage in stages:
        if stage not in SKIPPABLE:
            raise Refused(f"{shown(stage)} cannot be skipped; {meant(stage, SKIPPABLE)}")
    return list(dict.fromkeys(stages))


def _lines(value: str) -> list[str]:
    return list(dict.fromkeys(line.strip() for line in value.splitlines() if line.strip()))


def _boolean(value: str) -> bool:
    if value not in ("true", "false"):
        raise Refused(f"{shown(value)} is not a boolean; write true or false")
    return value == "true"


_ROLE_FORM = _form(_ROLE, "the ARN of a role; write arn:aws:iam::123456789012:role/NAME")


@dataclass(frozen=True)
class Input:
    """One input: what checks and converts its text, what it is when it is absent, and whether it may span lines."""

    check: Callable[[str], Any]
    default: Any = ""
    lines: bool = False


INPUTS: dict[str, Input] = {
    "models": Input(_lines, [], lines=True),
    "target": Input(_target),
    "repository": Input(_repository),
    "environment": Input(
        _form(_ENVIRONMENT, "an environment whose name artifacts can bear; letters, digits and . _ - but no --, at most 100"),
        "production",
    ),
    "skip": Input(_skip, [], lines=True),
    "dry-run": Input(_boolean, default=False),
    "aws-role": Input(_ROLE_FORM),
    "aws-region": Input(_form(_REGION, "a region; write for example eu-central-1")),
    "weights-role": Input(_ROLE_FORM),
    "live-url": Input(web_address),
    "runner": Input(_form(_RUNNER, "the label of a runner; letters, digits and . _ -"), "ubuntu-latest"),
}


@dataclass(frozen=True)
class Inputs:
    """What the workflow was called with, every value as its rule made it."""

    models: list[str]
    target: str
    repository: str
    environment: str
    skip: list[str]
    dry_run: bool
    aws_role: str
    aws_region: str
    weights_role: str
    live_url: str
    runner: str


def parse(text: str) -> Inputs:
    """Read `toJSON(inputs)`: one JSON object of strings and booleans; empty text and null are absent.

    Raises InputsInvalid, naming every input that is wrong.
    """
    try:
        given = json.loads(text or "{}", object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        why = "an input is given twice" if isinstance(error, Refused) else "it is not JSON"
        raise InputsInvalid(f"the inputs cannot be read: {why}", "pass ${{ toJSON(inputs) }}") from error
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise InputsInvalid("the inputs are not a JSON object", "pass ${{ toJSON(inputs) }}")
    return validated(given)


def validated(given: Mapping[str, Any]) -> Inputs:
    """Hold every given input against its rule. Raises InputsInvalid, naming every input that is wrong."""
    problems = [f"input {shown(name)} is unknown; {meant(name, INPUTS)}" for name in given if name not in INPUTS]
    values: dict[str, Any] = {}
    for name, rule in INPUTS.items():
        try:
            values[name.replace("-", "_")] = _value(rule, given.get(name))
        except Refused as refused:
            problems.append(f"input {name}: {refused}")
    if problems:
        raise InputsInvalid("\n".join(problems), "correct `with:` where serve.yml is called")
    return Inputs(**values)


def _value(rule: Input, given: Any) -> Any:
    if isinstance(given, bool):
        given = "true" if given else "false"
    if given is None or given == "":
        return rule.default
    if not isinstance(given, str):
        raise Refused(f"{shown(given)} is not text")
    longest = LONGEST_LIST if rule.lines else LONGEST
    if len(given) > longest:
        raise Refused(f"is longer than {longest} characters")
    allowed = "\r\n\t" if rule.lines else ""
    for character in given:
        if not character.isprintable() and character not in allowed:
            raise Refused(f"holds {printable(character)}, a character that cannot be printed")
    return rule.check(given)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise Refused
    return dict(pairs)
