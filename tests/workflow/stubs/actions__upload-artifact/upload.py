"""What upload-artifact v5 does with its inputs; a folder stands in for the service.

As there: a name is taken once in an attempt of a run, hidden files stay behind, the least common ancestor of several paths is the
root, characters that Windows refuses are refused, and neither file modes nor empty folders travel.
"""

import glob
import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

FORBIDDEN_NAME = re.compile(r'["<>|*?\r\n:\\/]')
FORBIDDEN_PATH = re.compile(r'["<>|*?\r\n:]')


def fail(message: str) -> None:
    print(f"::error::{message}")
    sys.exit(1)


def hidden(name: str) -> bool:
    return name.startswith(".") and os.environ["HIDDEN"] != "true"


def walk(path: Path) -> list[Path]:
    if hidden(path.name):
        return []
    if not path.is_dir():
        return [path] if path.exists() else []
    return [file for child in sorted(path.iterdir()) for file in walk(child)]


def matches(pattern: str) -> set[Path]:
    return {Path(hit) for hit in glob.glob(pattern, recursive=True, include_hidden=True)}  # noqa: PTH207 -- patterns may be absolute


def search_root(pattern: str) -> Path:
    """The part of a pattern before its first wildcard."""
    parts = Path(pattern).parts
    plain = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:plain])


def main() -> None:
    name = os.environ["NAME"]
    if not name or FORBIDDEN_NAME.search(name):
        fail(f"the artifact name is not valid: {name!r}")
    lines = [line.strip() for line in os.environ["FILES"].splitlines() if line.strip()]
    patterns = [str(Path.cwd() / line) for line in lines if line[0] not in "!#"]
    excluded = {file for line in lines if line[0] == "!" for file in matches(str(Path.cwd() / line[1:].strip()))}
    files = sorted({file for pattern in patterns for hit in matches(pattern) for file in walk(hit)} - excluded)
    if not files:
        message = f"No files were found with the provided path: {os.environ['FILES']}. No artifacts will be uploaded."
        if os.environ["IF_NO_FILES_FOUND"] == "error":
            fail(message)
        if os.environ["IF_NO_FILES_FOUND"] == "warn":
            print(f"::warning::{message}")
        return
    roots = [search_root(pattern) for pattern in patterns]
    root = Path(os.path.commonpath(roots))
    if len(roots) == 1 and files == [roots[0]]:
        root = root.parent
    for file in files:
        if FORBIDDEN_PATH.search(str(file.relative_to(root))):
            fail(f"the path is not valid in an artifact: {str(file.relative_to(root))!r}")
    store = Path(os.environ["ACT_ARTIFACTS"]) / os.environ["GITHUB_RUN_ID"] / os.environ["GITHUB_RUN_ATTEMPT"]
    target = store / name
    if target.exists() and os.environ["OVERWRITE"] == "true":
        shutil.rmtree(target)
    fresh = store.parent / f"incoming-{os.getpid()}"
    digest = hashlib.sha256()
    for file in files:
        place = fresh / file.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
        digest.update(f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    store.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(fresh)
        fail(f"Failed to CreateArtifact: (409) Conflict: an artifact with this name already exists on the workflow run: {name}")
    fresh.rename(target)
    with Path(os.environ["GITHUB_OUTPUT"]).open("a") as output:
        output.write(f"artifact-id={len(list(store.iterdir()))}\nartifact-url=https://github.invalid/artifacts/{name}\n")
        output.write(f"artifact-digest={digest.hexdigest()}\n")
    print(f"{name}: {len(files)} files")


if __name__ == "__main__":
    main()
