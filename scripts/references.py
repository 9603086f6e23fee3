"""Lists and checks this repository's references to itself, and changes them for a release or another owner.

A called workflow cannot use `./actions/x`, because that path is in the caller's workspace. So every file names this repository and
one ref in full: `@main` on main, the exact tag in a release. The line of serve.yml that uses actions/setup defines both.

    python scripts/references.py list
    python scripts/references.py check
    python scripts/references.py release v1.2.3
    python scripts/references.py adopt --owner acme --repo serving
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVE = ".github/workflows/serve.yml"
OWNER = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}", re.ASCII)
REPO = re.compile(r"(?!\.{1,2}$)(?!.*\.git$)[A-Za-z0-9._-]{1,100}", re.ASCII)
TAG = re.compile(r"v(?:0|[1-9]\d{0,5})(?:\.(?:0|[1-9]\d{0,5})){2}(?:-rc\.[1-9]\d{0,3})?", re.ASCII)
HOME = re.compile(r"uses: ([\w.-]+/[\w.-]+)/actions/setup@([\w./-]+)")
LOCAL = re.compile(r"""uses:\s*["']?(\./\S*)""")
SKIPPED = {".git", ".venv", "node_modules", "__pycache__"}


class Refused(Exception):
    """The change is not possible; the message is the reason. Nothing was written."""


@dataclass(frozen=True)
class Reference:
    """One mention with a ref, e.g. `org/deploy/actions/setup@main`."""

    file: str
    line: int
    text: str
    ref: str


def pinned(home: str) -> re.Pattern[str]:
    """Match what GitHub or act resolves: `OWNER/REPO/path@ref`, but not a token's claim, which has `@refs/tags/v1`."""
    return re.compile(rf"(?<![\w.-]){re.escape(home)}(?:/[\w.*-]+)*@(?!refs/)(?P<ref>\w(?:[\w./-]*\w)?)")


def raw(home: str) -> re.Pattern[str]:
    """Match the URL of a file or folder at a ref: its content, or its page on GitHub."""
    name = re.escape(home)
    return re.compile(rf"(?:raw\.githubusercontent\.com/{name}|github\.com/{name}/(?:blob|tree))/(?P<ref>[\w.-]+)(?=/)")


def mention(home: str) -> re.Pattern[str]:
    """Match the repository's name, with or without a ref, but not a longer name that contains it."""
    return re.compile(rf"(?<![\w.-]){re.escape(home)}(?![\w-])(?!\.(?!git\b)\w)")


def home_of(tree: Mapping[str, str]) -> tuple[str, str]:
    """Return `OWNER/REPO` and the ref that serve.yml uses. Raises Refused."""
    match = HOME.search(tree.get(SERVE, ""))
    if not match:
        raise Refused(f"{SERVE} does not use OWNER/REPO/actions/setup@REF, which defines this repository's name")
    return match[1], match[2]


def references(tree: Mapping[str, str], home: str) -> list[Reference]:
    """Return every mention of this repository that has a ref."""
    mentions = []
    for name, text in tree.items():
        for pattern in (pinned(home), raw(home)):
            for match in pattern.finditer(text):
                mentions.append(Reference(name, text.count("\n", 0, match.start()) + 1, match[0], match["ref"]))
    return sorted(mentions, key=lambda one: (one.file, one.line))


def problems(tree: Mapping[str, str]) -> list[str]:
    """Return every reference that disagrees: another ref, a `uses:` without a ref, a `./` that would be the caller's."""
    home, ref = home_of(tree)
    wrong = [f"{one.file}:{one.line}: {one.text}: the ref must be {ref}" for one in references(tree, home) if one.ref != ref]
    for name, text in tree.items():
        if not name.endswith((".yml", ".yaml")):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if local := LOCAL.search(line):
                wrong.append(f"{name}:{number}: {local[1]} is in the caller's workspace: write {home}/...@{ref}")
            elif re.search(r"^\s*(?:- )?uses:", line) and mention(home).search(line) and not pinned(home).search(line):
                wrong.append(f"{name}:{number}: {line.strip()}: the ref is missing")
    return wrong


def released(tree: Mapping[str, str], tag: str) -> dict[str, str]:
    """Return the tree with every reference to this repository at a tag. Raises Refused."""
    if not TAG.fullmatch(tag):
        raise Refused(f"{tag!r} is not an exact version: write v1.2.3 or v1.2.3-rc.1")
    home, _ = home_of(tree)

    def at_tag(match: re.Match[str]) -> str:
        start = match.start("ref") - match.start()
        return match[0][:start] + tag

    return _agreed({name: raw(home).sub(at_tag, pinned(home).sub(at_tag, text)) for name, text in tree.items()})


def adopted(tree: Mapping[str, str], owner: str, repo: str) -> dict[str, str]:
    """Return the tree for another owner and repository, at the same ref. Raises Refused."""
    if not OWNER.fullmatch(owner):
        raise Refused(f"{owner!r} is not a valid owner: use letters, digits and single hyphens between them, at most 39")
    if not REPO.fullmatch(repo):
        raise Refused(f"{repo!r} is not a valid repository name: use letters, digits and . _ - , at most 100, not ending in .git")
    home, _ = home_of(tree)
    new = f"{owner}/{repo}"
    changed = _agreed({name: mention(home).sub(lambda _: new, text) for name, text in tree.items()})
    if new != home and (left := [name for name, text in changed.items() if mention(home).search(text)]):
        raise Refused(f"{home} still appears in {', '.join(left)}")
    return changed


def _agreed(tree: dict[str, str]) -> dict[str, str]:
    wrong = problems(tree)
    if wrong:
        raise Refused("the changed references would disagree:\n" + "\n".join(wrong))
    return tree


def listed(root: Path) -> list[str]:
    """Return the repository's files: those that git would commit, or all of them outside a git repository."""
    if (root / ".git").exists():
        command = ["git", "ls-files", "-coz", "--exclude-standard"]
        names = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
        return sorted(name for name in set(names) if name)
    inside = (path.relative_to(root) for path in root.rglob("*"))
    return sorted(str(path) for path in inside if not SKIPPED.intersection(path.parts))


def read(root: Path) -> dict[str, str]:
    """Return every text file by name; line ends are unchanged."""
    tree = {}
    for name in listed(root):
        path = root / name
        if path.is_symlink() or not path.is_file():
            continue
        try:
            tree[name] = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
    return tree


def write(root: Path, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Write the changed files, each atomically, and return their names."""
    changed = [name for name, text in after.items() if text != before[name]]
    for name in changed:
        path = root / name
        temporary = path.with_name(f".{path.name}.references")
        temporary.write_bytes(after[name].encode())
        temporary.chmod(path.stat().st_mode)
        temporary.replace(path)
    return changed


def rewrite(root: Path, change: Callable[[Mapping[str, str]], dict[str, str]]) -> list[str]:
    """Change the whole tree or nothing. Raises Refused."""
    before = read(root)
    return write(root, before, change(before))


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run one verb."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="print every reference to this repository that has a ref")
    verbs.add_parser("check", help="fail if the references disagree")
    verbs.add_parser("release", help="set every ref to an exact tag").add_argument("tag")
    adopt = verbs.add_parser("adopt", help="change owner and repository everywhere")
    adopt.add_argument("--owner", required=True)
    adopt.add_argument("--repo", required=True)
    options = parser.parse_args(arguments)
    try:
        if options.verb == "list":
            tree = read(root)
            for one in references(tree, home_of(tree)[0]):
                print(f"{one.file}:{one.line}: {one.text}")
        elif options.verb == "check":
            tree = read(root)
            if wrong := problems(tree):
                raise Refused("\n".join(wrong))
            print("{}@{} everywhere".format(*home_of(tree)))
        else:
            change = released if options.verb == "release" else adopted
            values = (options.tag,) if options.verb == "release" else (options.owner, options.repo)
            changed = rewrite(root, lambda tree: change(tree, *values))
            home, ref = home_of(read(root))
            print("\n".join([*changed, f"{len(changed)} files changed: {home}@{ref} everywhere"]))
    except Refused as refused:
        sys.stderr.write(f"references: {refused}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
