"""Makes a release: a commit in which every reference to this repository is the exact tag, that tag, and the major tag moved to it.

    python scripts/release.py prepare 1.2.3        changes the tree: references, __version__
    python scripts/release.py commit 1.2.3 ...     commits and tags locally, writes the archive and the notes
    python scripts/release.py push 1.2.3           pushes the exact tag, then moves v1

The commit's parent is on main, but only tags point to it: main keeps `@main`.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import references

ROOT = Path(__file__).resolve().parents[1]
CHANGELOG = "CHANGELOG.md"
VERSION_FILE = "scripts/torchrelay/__init__.py"
AUTHOR = ("-c", "user.name=github-actions[bot]", "-c", "user.email=41898282+github-actions[bot]@users.noreply.github.com")
NUMBERS = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


def tag_of(version: str) -> str:
    """Return the exact tag of a version. Raises references.Refused."""
    tag = f"v{version}"
    if not references.TAG.fullmatch(tag):
        raise references.Refused(f"{version!r} is not an exact version: write 1.2.3 or 1.2.3-rc.1")
    return tag


def notes(changelog: str, version: str) -> str:
    """Return the entry of a version in CHANGELOG.md. Raises references.Refused if there is none."""
    match = re.search(rf"^## \[?{re.escape(version)}\]?(?: [^\n]*)?$(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if not match or not match[1].strip():
        raise references.Refused(f"{CHANGELOG} has no entry `## {version}`: add one on main first")
    return match[1].strip() + "\n"


def prepared(tree: dict[str, str], version: str) -> dict[str, str]:
    """Return the tree of the release. Raises references.Refused."""
    tag = tag_of(version)
    notes(tree.get(CHANGELOG, ""), version)
    text, count = re.subn(r'^__version__ = ".*"$', f'__version__ = "{version}"', tree.get(VERSION_FILE, ""), flags=re.MULTILINE)
    if count != 1:
        raise references.Refused(f"{VERSION_FILE} must set __version__ exactly once")
    return references.released(tree | {VERSION_FILE: text}, tag)


def moves_major(version: str, tags: Iterable[str]) -> bool:
    """Return whether the major tag moves to this version: not to a candidate, and not back from a newer version."""
    match = NUMBERS.fullmatch(f"v{version}")
    if not match:
        return False
    own = tuple(map(int, match.groups()))
    others = (tuple(map(int, other.groups())) for tag in tags if (other := NUMBERS.fullmatch(tag)))
    return all(other <= own for other in others if other[0] == own[0])


def git(root: Path, *arguments: str) -> str:
    """Run git; if it fails, its own message on stderr is enough."""
    print("+ git", *arguments, flush=True)
    process = subprocess.run(["git", *arguments], cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        raise references.Refused(f"git {arguments[0]} failed with exit code {process.returncode}")
    return process.stdout.strip()


def commit(root: Path, version: str, archive: Path, notes_file: Path) -> None:
    """Commit and tag the tree that `prepare` wrote; nothing is pushed.

    An existing tag of the same tree is kept: an earlier run made it and failed later. Raises references.Refused for another tree.
    """
    tag = tag_of(version)
    notes_file.write_text(notes((root / CHANGELOG).read_text(), version))
    git(root, *AUTHOR, "commit", "--all", "--quiet", "--message", f"release: {tag}")
    if not git(root, "tag", "--list", tag):
        git(root, *AUTHOR, "tag", "--annotate", "--message", tag, tag)
    elif git(root, "rev-parse", f"refs/tags/{tag}^{{tree}}") != git(root, "rev-parse", "HEAD^{tree}"):
        raise references.Refused(f"{tag} already exists with another tree: a release never changes, so choose another version")
    git(root, "archive", "--format=tar.gz", f"--prefix=torchrelay-{version}/", f"--output={archive}", tag)


def push(root: Path, version: str) -> None:
    """Push the exact tag, which is new or unchanged, then the major tag, which may move."""
    tag = tag_of(version)
    major = tag.partition(".")[0]
    remote_tags = [line.rpartition("refs/tags/")[2] for line in git(root, "ls-remote", "--tags", "--refs", "origin").splitlines()]
    git(root, "push", "origin", f"refs/tags/{tag}:refs/tags/{tag}")
    if moves_major(version, remote_tags):
        git(root, "push", "--force", "origin", f"refs/tags/{tag}^{{commit}}:refs/tags/{major}")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=["prepare", "commit", "push"])
    parser.add_argument("version")
    parser.add_argument("--archive", type=Path, default=Path("torchrelay.tar.gz"))
    parser.add_argument("--notes", type=Path, default=Path("notes.md"))
    options = parser.parse_args(arguments)
    try:
        if options.step == "prepare":
            before = references.read(root)
            print("\n".join(references.write(root, before, prepared(before, options.version))))
        elif options.step == "commit":
            commit(root, options.version, options.archive, options.notes)
        else:
            push(root, options.version)
    except references.Refused as refused:
        sys.stderr.write(f"release: {refused}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
