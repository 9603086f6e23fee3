"""The only place that starts git: no program that a repository names runs, in its configuration, its attributes or its submodules.

A repository is untrusted: an unpacked folder may contain a `.git`, and a checkout a bare repository. Fixed keys are overridden by
name. Drivers have free names (`filter.NAME.clean`), so the repository's own configuration is listed first, which runs nothing, and
every key in it that names a program is emptied. The user's and the system's configuration stay as they are: Git LFS is in them.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

TIMEOUT_S = 60
HARDENING = (
    "-c",
    "core.fsmonitor=false",
    "-c",
    f"core.hooksPath={os.devnull}",
    "-c",
    "core.pager=cat",
    "-c",
    "core.sshCommand=false",
    "-c",
    "safe.bareRepository=explicit",
    "-c",
    "protocol.allow=never",
    "--no-pager",
)
# Nothing is fetched: a partial clone would run the programs of its remote to complete itself.
QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
# git reads a submodule's configuration in a separate process, where these overrides do not reach the names of its drivers.
SUBMODULES = "--ignore-submodules=dirty"
PROGRAM = re.compile(
    r"""(?sx)
    filter\..*\.(clean|smudge|process) | diff\.external | diff\..*\.(command|textconv) | merge\..*\.driver
    | (merge|diff)tool\..*\.(cmd|path) | alias\..* | credential\.(.*\.)?helper | remote\..*\.(uploadpack|receivepack|vcs|proxy)
    | submodule\..*\.update | gpg\.(.*\.)?program | gpg\.ssh\.defaultkeycommand | pager\..* | (browser|man)\..*\.(cmd|path)
    | lfs\.(extension|customtransfer)\..* | lfs\.standalonetransferagent | hook\..*\.command | trailer\..*\.(command|cmd)
    | (core|sequence)\.editor | core\.(askpass|gitproxy|alternaterefscommand) | interactive\.difffilter
    | uploadpack\.packobjectshook
    """
)
"""Keys of a configuration that name a program; git lists them in lower case, except for the names of drivers."""


def git_bytes(arguments: list[str], folder: Path, *, any_owner: bool = False) -> "subprocess.CompletedProcess[bytes]":
    """Run git in a folder and return its exit code and output; a git that is missing or hangs counts as one that failed (127).

    `any_owner` also reads a repository that belongs to another user (`safe.directory`), as in a container's checkout.
    """
    trusted = ["-c", "safe.directory=*"] if any_owner else []
    start = ["git", *HARDENING, *trusted, "-C", str(folder)]
    environment = {**os.environ, **QUIET}
    listed = _run([*start, "config", "--list", "--show-scope", "--name-only", "--null"], environment)
    if listed.returncode != 0:
        return listed
    verb = arguments[:1] + [SUBMODULES] * (arguments[:1] == ["status"])
    return _run([*start, *verb, *arguments[1:]], emptied(listed.stdout, environment))


def emptied(listing: bytes, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which every program that the repository's own configuration names is empty.

    `listing` has scopes and keys in turn, each followed by a zero byte.
    """
    parts = listing.split(b"\0")[:-1]
    own = {os.fsdecode(key) for scope, key in zip(parts[::2], parts[1::2], strict=True) if scope in (b"local", b"worktree")}
    keys = sorted(key for key in own if PROGRAM.fullmatch(key))
    count = environment.get("GIT_CONFIG_COUNT", "0")
    first = int(count) if count.isdecimal() else 0
    added = {f"GIT_CONFIG_KEY_{first + at}": key for at, key in enumerate(keys)}
    added |= {f"GIT_CONFIG_VALUE_{first + at}": "" for at in range(len(keys))}
    return {**environment, **added, "GIT_CONFIG_COUNT": str(first + len(keys))}


def _run(command: list[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, b"", str(error).encode())


def run_git(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run git as `git_bytes` does, with its output as text; bytes that are not UTF-8 become surrogates."""
    done = git_bytes(arguments, folder)
    output, errors = (part.decode(errors="surrogateescape") for part in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, output, errors)
