"""Real git on hostile repositories: each trick runs its program with plain git, and none with the project's."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from torchrelay.core.git import git_bytes, run_git
from torchrelay.core.paths import ROOT
from torchrelay.model.model import Model
from torchrelay.model.origin import origin_of
from torchrelay.model.version import resolved_version
from torchrelay.workflow.checkout import Checkout

MODEL = Model.model_validate({"name": "digits", "weights": "model.pt", "handler": "tensor"})
IDENTITY = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]


def plain(folder: Path, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=check, capture_output=True, text=True, timeout=60)


@dataclass(frozen=True)
class Repository:
    """A repository with one commit, and the program that its tricks name: it leaves a mark."""

    folder: Path
    program: Path
    mark: Path

    def config(self, *pairs: str) -> None:
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            plain(self.folder, "config", "--file", str(self.folder / ".git/config"), key, value, check=True)

    def attributes(self, text: str) -> None:
        (self.folder / ".git/info").mkdir(exist_ok=True)
        (self.folder / ".git/info/attributes").write_text(text)

    def touch(self) -> None:
        """Make the index doubt every file, so that their contents are read."""
        for path in self.folder.rglob("*.txt"):
            earlier = path.stat().st_mtime - 100
            os.utime(path, (earlier, earlier))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    folder, program, mark = tmp_path / "repository", tmp_path / "program", tmp_path / "ran"
    (folder / "m").mkdir(parents=True)
    (folder / "m/model.yaml").write_text("name: digits\n")
    (folder / "m/data.txt").write_text("data\n")
    plain(folder, "init", "--quiet", check=True)
    plain(folder, "add", ".", check=True)
    plain(folder, "commit", "--quiet", "--message", "first", check=True)
    program.write_text(f"#!/bin/sh\ntouch {mark}\ncat 2>/dev/null\n")
    program.chmod(0o755)
    return Repository(folder, program, mark)


def monitor(repository: Repository) -> None:
    repository.config("core.fsmonitor", str(repository.program))


def hooks(repository: Repository) -> None:
    folder = repository.folder / "hooks"
    folder.mkdir()
    (folder / "post-index-change").symlink_to(repository.program)
    repository.config("core.hooksPath", str(folder))
    repository.touch()


def default_hooks(repository: Repository) -> None:
    (repository.folder / ".git/hooks").mkdir(exist_ok=True)
    (repository.folder / ".git/hooks/post-index-change").symlink_to(repository.program)
    repository.touch()


def clean_filter(repository: Repository, name: str = "f", verb: str = "clean") -> None:
    repository.config(f"filter.{name}.{verb}", str(repository.program))
    repository.attributes(f"* filter={name}\n")
    repository.touch()


def included_filter(repository: Repository) -> None:
    (repository.folder / "more").write_text(f'[filter "f"]\n\tclean = {repository.program}\n')
    repository.config("include.path", "../more")
    repository.attributes("* filter=f\n")
    repository.touch()


def filter_included_for_this_folder(repository: Repository) -> None:
    (repository.folder / "more").write_text(f'[filter "f"]\n\tclean = {repository.program}\n')
    repository.config(f"includeIf.gitdir:{repository.folder}/.path", str(repository.folder / "more"))
    repository.attributes("* filter=f\n")
    repository.touch()


def filter_of_the_worktree(repository: Repository) -> None:
    repository.config("extensions.worktreeConfig", "true")
    (repository.folder / ".git/config.worktree").write_text(f'[filter "f"]\n\tclean = {repository.program}\n')
    repository.attributes("* filter=f\n")
    repository.touch()


def committed_filter(repository: Repository) -> None:
    (repository.folder / ".gitattributes").write_text("* filter=f\n")
    plain(repository.folder, "add", ".")
    plain(repository.folder, "commit", "--quiet", "--message", "attributes")
    repository.config("filter.f.clean", str(repository.program), "filter.f.required", "true")
    repository.touch()


def submodule(repository: Repository) -> None:
    inner = repository.folder / "inner"
    inner.mkdir()
    (inner / "data.txt").write_text("data\n")
    plain(inner, "init", "--quiet", check=True)
    plain(inner, "add", ".", check=True)
    plain(inner, "commit", "--quiet", "--message", "first", check=True)
    plain(repository.folder, "add", "inner", check=True)
    plain(repository.folder, "commit", "--quiet", "--message", "inner", check=True)
    Repository(inner, repository.program, repository.mark).config("filter.g.clean", str(repository.program))
    Repository(inner, repository.program, repository.mark).attributes("* filter=g\n")
    repository.touch()


def bare_repository_in_a_folder(repository: Repository) -> None:
    """A bare repository can be committed: its folder has no name that git refuses."""
    folder = repository.folder / "m"
    plain(repository.folder, "init", "--quiet", "--bare", str(folder), check=True)
    hostile = Repository(folder, repository.program, repository.mark)
    for key, value in (("core.bare", "false"), ("core.worktree", ".."), ("core.fsmonitor", str(hostile.program))):
        plain(folder, "config", "--file", str(folder / "config"), key, value, check=True)


def partial_clone(repository: Repository, *remote: str) -> None:
    """A missing object makes git ask the remote for it."""
    repository.program.write_text(f"#!/bin/sh\ntouch {repository.mark}\nexit 1\n")
    tree = plain(repository.folder, "rev-parse", "HEAD^{tree}").stdout.strip()
    (repository.folder / ".git/objects" / tree[:2] / tree[2:]).unlink()
    repository.config("remote.origin.promisor", "true", "extensions.partialClone", "origin", "core.repositoryformatversion", "1")
    repository.config("remote.origin.url", str(repository.folder), *remote)


def partial_clone_over_ssh(repository: Repository) -> None:
    partial_clone(repository, "remote.origin.url", "ssh://host/x", "core.sshCommand", str(repository.program))


def partial_clone_of_a_folder(repository: Repository) -> None:
    partial_clone(repository, "remote.origin.uploadpack", str(repository.program))


def partial_clone_by_a_command(repository: Repository) -> None:
    partial_clone(repository, "remote.origin.url", f"ext::{repository.program}", "protocol.ext.allow", "always")


def pager(repository: Repository) -> None:
    repository.config("core.pager", str(repository.program), "pager.status", str(repository.program))


def textconv(repository: Repository) -> None:
    repository.config("diff.d.textconv", str(repository.program))
    repository.attributes("* diff=d\n")
    (repository.folder / "m/data.txt").write_text("other\n")


def diff_command(repository: Repository) -> None:
    repository.config("diff.d.command", str(repository.program))
    repository.attributes("* diff=d\n")
    (repository.folder / "m/data.txt").write_text("other\n")


def external_diff(repository: Repository) -> None:
    repository.config("diff.external", str(repository.program))
    (repository.folder / "m/data.txt").write_text("other\n")


def alias(repository: Repository) -> None:
    repository.config("alias.show-all", f"!{repository.program}")


def gpg(repository: Repository) -> None:
    tree = plain(repository.folder, "rev-parse", "HEAD^{tree}").stdout.strip()
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n"
    commit = f"tree {tree}\nauthor t <t> 0 +0000\ncommitter t <t> 0 +0000\n{signature}\nsigned\n"
    command = ["git", "hash-object", "-t", "commit", "-w", "--stdin", "--literally"]
    done = subprocess.run(command, cwd=repository.folder, input=commit, capture_output=True, text=True, check=True)
    plain(repository.folder, "update-ref", "HEAD", done.stdout.strip(), check=True)
    repository.config("gpg.program", str(repository.program), "log.showSignature", "true")


STATUS = ("status", "--porcelain")
TRICKS: dict[str, tuple[Callable[[Repository], None], tuple[str, ...]]] = {
    "file system monitor": (monitor, STATUS),
    "hooks": (hooks, ("update-index", "--refresh")),
    "hooks in their usual folder": (default_hooks, ("update-index", "--refresh")),
    "clean filter": (clean_filter, STATUS),
    "clean filter, its name has an equals sign": (lambda one: clean_filter(one, "a=b.c"), STATUS),
    "clean filter, in capitals": (lambda one: clean_filter(one, "F", "CLEAN"), STATUS),
    "filter process": (lambda one: clean_filter(one, verb="process"), STATUS),
    "filter, included": (included_filter, STATUS),
    "filter, included for this folder": (filter_included_for_this_folder, STATUS),
    "filter of the worktree": (filter_of_the_worktree, STATUS),
    "filter by a committed attribute": (committed_filter, STATUS),
    "submodule": (submodule, STATUS),
    "bare repository": (bare_repository_in_a_folder, ("-C", "m", *STATUS)),
    "partial clone over ssh": (partial_clone_over_ssh, STATUS),
    "partial clone of a folder": (partial_clone_of_a_folder, STATUS),
    "partial clone by a command": (partial_clone_by_a_command, STATUS),
    "pager": (pager, ("--paginate", "log")),
    "textconv": (textconv, ("diff",)),
    "diff command": (diff_command, ("diff", "--ext-diff")),
    "external diff": (external_diff, ("diff", "--ext-diff")),
    "alias": (alias, ("show-all",)),
    "gpg program": (gpg, ("log", "-1")),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_no_program_of_a_repository_runs(repository: Repository, trick: str) -> None:
    prepare, arguments = TRICKS[trick]
    prepare(repository)
    repository.mark.unlink(missing_ok=True)
    model_dir = repository.folder / "m"

    run_git(list(arguments), repository.folder)
    git_bytes(list(STATUS), model_dir, any_owner=True)
    resolved_version(MODEL, model_dir)
    origin_of(model_dir, {})
    checkout = Checkout.at(model_dir)
    if checkout.top is not None:
        checkout.shallow()
        if (commit := checkout.commit("HEAD")) is not None:
            checkout.tracked()
            checkout.changed(commit)
    assert not repository.mark.exists()

    if trick == "pager":  # git starts a pager at a terminal only
        plain(repository.folder, "config", "alias.terminal", "!script -qec 'git log' /dev/null </dev/null")
        arguments = ("terminal",)
    repository.touch()  # the index may know the files again
    plain(repository.folder, *arguments)
    assert repository.mark.exists(), "the control: with plain git the trick works"


def test_a_committed_bare_repository_is_not_read(repository: Repository) -> None:
    bare_repository_in_a_folder(repository)
    assert plain(repository.folder / "m", "rev-parse", "--git-dir").returncode == 0
    assert run_git(["rev-parse", "--git-dir"], repository.folder / "m").returncode != 0


def test_filters_of_the_users_own_configuration_still_work(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git LFS is one: without its filter every file of it would count as changed."""
    (tmp_path / "global").write_text('[filter "upper"]\n\tclean = tr a-z A-Z\n\trequired = true\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "global"))
    (repository.folder / "m/.gitattributes").write_text("*.txt filter=upper\n")
    plain(repository.folder, "add", "--renormalize", ".", check=True)
    plain(repository.folder, "add", ".", check=True)
    plain(repository.folder, "commit", "--quiet", "--message", "upper", check=True)
    repository.touch()
    assert "dirty" not in resolved_version(MODEL, repository.folder / "m")
    repository.config("filter.upper.clean", str(repository.program))
    resolved_version(MODEL, repository.folder / "m")
    assert not repository.mark.exists()


def test_a_callers_own_variables_are_kept(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"COUNT": "1", "KEY_0": "user.name", "VALUE_0": "mine"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{key}", value)
    clean_filter(repository)
    assert run_git(["config", "user.name"], repository.folder).stdout == "mine\n"
    assert run_git(["config", "filter.f.clean"], repository.folder).stdout == "\n"
    assert not repository.mark.exists()


def test_nothing_else_starts_git() -> None:
    argv = r"""\[\s*["']git["']|system\(f?["']git\b|(run|Popen|which)\(\s*f?["']git\b"""
    library = r"^\s*(import|from) (git|dulwich|pygit2)\b"
    starts = re.compile(f"{argv}|{library}", re.MULTILINE)
    folders = ("scripts/torchrelay", "handlers", "runtime", "actions")
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 200
    assert [str(file.relative_to(ROOT)) for file in files if starts.search(file.read_text())] == [
        "scripts/torchrelay/core/git.py",
        "scripts/torchrelay/doctor/machine.py",  # asks only whether it is on the PATH
    ]
