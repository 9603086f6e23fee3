"""A release with real git: the changed tree, its tags, and the unchanged main."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import references
import release

ROOT = references.ROOT
AUTHOR = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in (("NAME", "T"), ("EMAIL", "t@example.com"))},
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **AUTHOR}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository that holds this one's files, with entries in the changelog."""
    folder = tmp_path_factory.mktemp("release")
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    git(folder, "clone", "--quiet", str(folder / "origin.git"), "first")
    first = folder / "first"
    for name in references.listed(ROOT):
        if (ROOT / name).is_file():
            (first / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, first / name)
    versions = ("1.10.0", "1.2.3", "1.3.0-rc.1")
    entries = "".join(f"## {version} - 2026-01-02\n\n### Added\n\n- {version} things.\n\n" for version in versions)
    (first / "CHANGELOG.md").write_text((first / "CHANGELOG.md").read_text() + "\n" + entries)
    git(first, "checkout", "--quiet", "-B", "main")
    git(first, "add", "--all")
    git(first, "commit", "--quiet", "--message", "all")
    git(first, "push", "--quiet", "origin", "main")
    return folder / "origin.git"


@pytest.fixture
def checkout(origin: Path, tmp_path: Path) -> Path:
    """A clone of a copy of it with a detached HEAD, as in a workflow."""
    shutil.copytree(origin, tmp_path / "origin.git")
    git(tmp_path, "clone", "--quiet", str(tmp_path / "origin.git"), "clone")
    git(tmp_path / "clone", "checkout", "--quiet", "--detach")
    return tmp_path / "clone"


def released(checkout: Path, version: str, tmp_path: Path) -> None:
    assert release.main(["prepare", version], checkout) == 0
    more = ["--archive", str(tmp_path / f"{version}.tar.gz"), "--notes", str(tmp_path / "notes.md")]
    assert release.main(["commit", version, *more], checkout) == 0
    assert release.main(["push", version], checkout) == 0
    git(checkout, "checkout", "--quiet", "--detach", "main")


def theirs(tmp_path: Path, revision: str, name: str) -> str:
    return git(tmp_path / "origin.git", "show", f"{revision}:{name}")


def test_a_release_commit_refers_to_its_own_tag_everywhere(checkout: Path, tmp_path: Path) -> None:
    released(checkout, "1.2.3", tmp_path)
    serve = theirs(tmp_path, "v1.2.3", references.SERVE)
    assert serve.count("@v1.2.3") > 15
    assert "@main" not in serve
    assert '__version__ = "1.2.3"' in theirs(tmp_path, "v1.2.3", release.VERSION_FILE)
    assert "@main" in theirs(tmp_path, "main", references.SERVE), "main goes on saying main"
    assert git(tmp_path / "origin.git", "rev-parse", "v1") == git(tmp_path / "origin.git", "rev-parse", "v1.2.3^{commit}")
    assert (tmp_path / "notes.md").read_text() == "### Added\n\n- 1.2.3 things.\n"
    with tarfile.open(tmp_path / "1.2.3.tar.gz") as archive:
        file = archive.extractfile(f"torchrelay-1.2.3/{references.SERVE}")
        assert file is not None
        assert file.read().decode().strip() == serve


def test_the_released_tree_passes_the_workflow_tests(checkout: Path) -> None:
    assert release.main(["prepare", "1.2.3"], checkout) == 0
    tests = ["tests/unit/test_workflows.py", "tests/unit/test_workflows_claims.py", "tests/unit/test_workflows_references.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", *tests]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout


def test_the_major_tag_never_moves_back(checkout: Path, tmp_path: Path) -> None:
    origin = tmp_path / "origin.git"
    for version, major in (("1.10.0", "1.10.0"), ("1.2.3", "1.10.0"), ("1.3.0-rc.1", "1.10.0")):
        released(checkout, version, tmp_path)
        assert git(origin, "rev-parse", "v1") == git(origin, "rev-parse", f"v{major}^{{commit}}")


def test_an_exact_tag_is_never_moved(checkout: Path, tmp_path: Path) -> None:
    released(checkout, "1.2.3", tmp_path)
    was = git(tmp_path / "origin.git", "rev-parse", "v1.2.3")
    git(checkout, "tag", "--delete", "v1.2.3")
    (checkout / "more").touch()
    git(checkout, "add", "more")
    assert release.main(["prepare", "1.2.3"], checkout) == 0
    assert (
        release.main(["commit", "1.2.3", "--archive", str(tmp_path / "a.tar.gz"), "--notes", str(tmp_path / "n.md")], checkout) == 0
    )
    assert release.main(["push", "1.2.3"], checkout) == 1
    assert git(tmp_path / "origin.git", "rev-parse", "v1.2.3") == was


def test_a_second_run_reuses_its_tag_and_refuses_another_tree(checkout: Path, tmp_path: Path) -> None:
    released(checkout, "1.2.3", tmp_path)
    was = git(tmp_path / "origin.git", "rev-parse", "v1.2.3")
    first = (tmp_path / "1.2.3.tar.gz").read_bytes()
    shutil.rmtree(checkout)
    git(tmp_path, "clone", "--quiet", str(tmp_path / "origin.git"), "clone")
    git(checkout, "checkout", "--quiet", "--detach", "main")
    released(checkout, "1.2.3", tmp_path)
    assert git(tmp_path / "origin.git", "rev-parse", "v1.2.3") == was
    assert (tmp_path / "1.2.3.tar.gz").read_bytes() == first, "the archive is that of the tag"
    (checkout / "more").touch()
    git(checkout, "add", "more")
    assert release.main(["prepare", "1.2.3"], checkout) == 0
    more = ["--archive", str(tmp_path / "a.tar.gz"), "--notes", str(tmp_path / "n.md")]
    assert release.main(["commit", "1.2.3", *more], checkout) == 1
    assert not (tmp_path / "a.tar.gz").exists()


@pytest.mark.parametrize("version", ["9.9.9", "v1.2.3", "1.2", "1.2.3; id", ""])
def test_a_refused_release_changes_nothing(checkout: Path, version: str) -> None:
    assert release.main(["prepare", version], checkout) == 1
    assert git(checkout, "status", "--short") == ""
