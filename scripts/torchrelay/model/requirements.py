"""Checks requirements.txt by pip's rules, line by line, before the image is built."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from torchrelay.core.errors import Problem
from torchrelay.core.text import nearest, printable, shown

MAX_BYTES = 1 << 20
PROVIDED = {"torch", "torchserve", "torch-model-archiver", "torchrelay", "torchrelay-handlers"}

_URL_OPTIONS = {"-i", "--index-url", "--extra-index-url", "-f", "--find-links"}
_OPTIONS = {*_URL_OPTIONS, "--no-index", "--no-binary", "--only-binary", "--prefer-binary", "--pre", "--require-hashes"}
_OPTIONS |= {"--trusted-host", "--use-feature"}
_FILES = {"-r", "--requirement", "-c", "--constraint"}  # pip runs in the image, where the other file is not
_PATHS = {"-e", "--editable"}
_HASH = re.compile(r"\s--hash[= ](\S+)")


def problems(text: str, name: str) -> tuple[list[Problem], list[Problem]]:
    """Return the mistakes and the warnings."""
    name = printable(name)
    mistakes: list[Problem] = []
    loose: list[str] = []
    seen: dict[str, int] = {}
    for line, content in _logical_lines(text):
        if content.startswith("-"):
            mistakes += _option_problems(content, name, line)
            continue
        requirement = _requirement(content, name, line)
        if isinstance(requirement, Problem):
            mistakes.append(requirement)
            continue
        key = canonicalize_name(requirement.name)
        if key in PROVIDED:
            message = f"{requirement.name} comes with the runtime image, which pins it"
            mistakes.append(Problem(name, line, "", message, "remove the line"))
        elif key in seen and requirement.marker is None:
            mistakes.append(Problem(name, line, "", f"{requirement.name} is already required at line {seen[key]}", "keep one"))
        elif requirement.url is None and not any(part.operator in {"==", "==="} for part in requirement.specifier):
            loose.append(requirement.name)
        seen.setdefault(key, line)
    return mistakes, [_unpinned(loose, name)] if loose else []


def _unpinned(loose: list[str], name: str) -> Problem:
    names = printable(", ".join(loose), 120)
    fix = "write name==version: a later build could install another version"
    return Problem(name, None, "", f"no exact version for {names}", fix)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with backslash continuations joined and comments cut, as pip does it, with the number of their first line."""
    start, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            joined += line[:-1]
            continue
        content = re.sub(r"(^|\s+)#.*$", "", joined + line).strip()
        if content:
            yield start, content
        start, joined = 0, ""
    if joined.strip():
        yield start, joined.strip()


def _requirement(content: str, name: str, line: int) -> Requirement | Problem:
    for digest in _HASH.findall(content):
        if not re.fullmatch(r"sha(256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})", digest):
            return Problem(name, line, "", f"{shown(digest)} is not a hash", "write --hash=sha256:... as `pip hash` prints it")
    bare = _HASH.sub("", content).strip()
    if bare.startswith((".", "/", "~")) or bare.endswith(".whl"):
        fix = "publish the package, or list its files in extra_files"
        return Problem(name, line, "", f"{shown(bare)} is a path, which does not exist where the image is built", fix)
    try:
        requirement = Requirement(bare)
    except (InvalidRequirement, ValueError, RecursionError) as error:
        reason = printable(str(error).partition("\n")[0], 160)
        fix = "write for example numpy==2.1.0"
        return Problem(name, line, "", f"{shown(bare)} is not a requirement: {reason}", fix)
    if requirement.url and _has_password(requirement.url):
        return Problem(name, line, "", "the address carries a password", "give it by the environment of the build")
    return requirement


def _option_problems(content: str, name: str, line: int) -> list[Problem]:
    option, _, value = re.sub(r"[\s=]+", " ", content, count=1).partition(" ")
    if option in _FILES | _PATHS:
        what = "another file" if option in _FILES else "a folder"
        message = f"{option} names {what}, which does not exist where the image is built"
        return [Problem(name, line, "", message, "write its lines here" if option in _FILES else "publish the package")]
    if option not in _OPTIONS:
        near = nearest(option, _OPTIONS | _FILES)
        fix = f"did you mean {near}?" if near else "remove it"
        return [Problem(name, line, "", f"{shown(option)} is not an option of requirements files", fix)]
    if option in _URL_OPTIONS and _has_password(value):
        fix = "give the address by PIP_INDEX_URL in the environment of the build"
        return [Problem(name, line, "", "the address carries a password", fix)]
    return []


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.password) and not (parts.password or "").startswith("${")
