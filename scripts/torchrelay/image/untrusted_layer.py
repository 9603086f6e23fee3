"""A layer from files that untrusted code left in a container: nothing of its tar is used but names, contents, links and the x bit.

The tar is read whole before anything is written. The layer can only add paths below the allowed folders: a symbolic link must
lead to a path in its own folder, with every link on the way resolved, and no path leads through a link.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from torchrelay.core.errors import DependenciesUnresolved, TorchrelayError
from torchrelay.core.text import printable
from torchrelay.oci.blobs import Slice
from torchrelay.oci.layers import BLOCK, END
from torchrelay.oci.tar_reader import BadTar, Kind, TarEntry, read_tar

FORMAT = 1  # raise it with any change to what is kept or written: keys of cached layers contain it
MOST_ENTRIES = 300_000
LONGEST_PATH = 4096  # bytes, as in Linux
LONGEST_NAME = 255  # bytes, as in Linux
MOST_LINKS = 40  # on the way to one file, as in Linux
MOST_STEPS = 10_000_000  # names to follow in all links together
WHITEOUT = ".wh."  # OCI image-spec: such a name deletes a path of a lower layer


@dataclass(frozen=True)
class Allowed:
    """What a container is allowed to leave: `folders` and `protected` are paths in the image without the leading slash."""

    author: str
    """Who left the files, for messages: `the handler's setup`."""
    folders: tuple[str, ...]
    most_bytes: int
    protected: tuple[str, ...] = ()
    """Files and folders of lower layers that stay as they are."""


@dataclass(frozen=True)
class _Kept:
    kind: Kind
    target: str = ""
    content: Slice | None = None
    executable: bool = False


@dataclass
class UntrustedLayer:
    """The checked entries of a tar, by path in the image without the leading slash; `parts` yields the layer's own tar."""

    allowed: Allowed
    entries: dict[str, _Kept] = field(default_factory=dict)
    parents: set[str] = field(default_factory=set)
    size: int = 0
    seen: int = 0
    steps: int = 0

    @property
    def names(self) -> list[str]:
        """Return the paths of files and links, in order."""
        return sorted(path for path, entry in self.entries.items() if entry.kind is not Kind.FOLDER)

    def parts(self) -> Iterator[bytes]:
        """Yield the tar: parents first, names in order, owner root, time 0, mode 0755 for folders and programs, otherwise 0644."""
        for path in sorted(self.parents | self.entries.keys()):
            entry = self.entries.get(path, _Kept(Kind.FOLDER))
            info = tarfile.TarInfo(path)
            if entry.kind is Kind.SYMLINK:
                info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, entry.target
            elif entry.content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.size, info.mode = entry.content.size, 0o755 if entry.executable else 0o644
            yield info.tobuf(tarfile.PAX_FORMAT)
            if entry.content is not None:
                yield from entry.content.chunks()
                yield bytes(-entry.content.size % BLOCK)
        yield END


def checked_layer(chunks: Iterator[bytes], allowed: Allowed, spool: Path, below: str = "") -> UntrustedLayer:
    """Read a tar whose names are relative to `below`; contents are kept in the file `spool`, which the layer reads later.

    Raises DependenciesUnresolved, which names the entry.
    """
    layer = UntrustedLayer(allowed)
    try:
        with spool.open("wb") as file:
            for member, content in read_tar(chunks):
                path = _path(layer, member, below)
                layer.size += member.size
                layer.seen += 1
                _check_size(layer)
                if path is None:
                    continue
                start = file.tell()
                for piece in content:
                    file.write(piece)
                layer.entries[path] = _kept(layer, member, path, below, Slice(spool, start, member.size))
    except BadTar as error:
        problem = f"which {error.problem}" if error.problem.startswith("is ") else f"which is not usable: {error.problem}"
        raise _refused(allowed, error.name or "its result", f"{problem}, not a file of the model") from error
    for path in layer.entries:
        _add_parents(layer, path)
    for path, entry in layer.entries.items():
        if entry.kind is Kind.SYMLINK:
            layer.entries[path] = _Kept(Kind.SYMLINK, _resolved(layer, path, entry.target))
    return layer


def _refused(allowed: Allowed, name: str, problem: str) -> TorchrelayError:
    return DependenciesUnresolved(
        f"{allowed.author} left {printable(name)!r}, {problem}",
        "leave files and relative links in the model's folder and in pip's packages only",
    )


def _check_size(layer: UntrustedLayer) -> None:
    most = layer.allowed.most_bytes
    if layer.size > most or layer.seen > MOST_ENTRIES:
        raise DependenciesUnresolved(
            f"{layer.allowed.author} left more than {most} bytes or {MOST_ENTRIES} files",
            "remove what the model does not need, or set TORCHRELAY_INSTALL_LAYER to a larger size",
        )


def _path(layer: UntrustedLayer, entry: TarEntry, below: str) -> str | None:
    """Return the entry's path in the image; None for the allowed folders themselves and those above them."""
    allowed = layer.allowed
    name = entry.name.removesuffix("/") if entry.kind is Kind.FOLDER else entry.name
    path = f"{below}{name}"
    names = path.split("/")
    if any(one in ("", ".", "..") for one in names):
        raise _refused(allowed, entry.name, "which is not a plain path: not a file of the model")
    if len(path.encode()) > LONGEST_PATH or any(len(one.encode()) > LONGEST_NAME for one in names):
        raise _refused(allowed, entry.name, "whose name is too long")
    if any(f"{folder}/".startswith(f"{path}/") for folder in allowed.folders):
        if entry.kind is not Kind.FOLDER:
            raise _refused(allowed, entry.name, f"which is a {entry.kind}, not a folder")
        return None
    if not any(path.startswith(f"{folder}/") for folder in allowed.folders):
        raise _refused(allowed, entry.name, "which is not a file of the model")
    if any(one.startswith(WHITEOUT) for one in names):
        raise _refused(allowed, entry.name, f"which would delete a file of the image: names that begin with {WHITEOUT} do")
    for protected in allowed.protected:
        inside = path == protected or path.startswith(f"{protected}/")
        if inside or (entry.kind is not Kind.FOLDER and protected.startswith(f"{path}/")):
            raise _refused(allowed, entry.name, f"which would replace {protected!r} of the image")
    if path in layer.entries:
        raise _refused(allowed, entry.name, "which is there twice")
    return path


def _kept(layer: UntrustedLayer, entry: TarEntry, path: str, below: str, content: Slice) -> _Kept:
    if entry.kind is Kind.FILE:
        return _Kept(Kind.FILE, content=content, executable=entry.executable)
    if len(entry.target.encode()) > LONGEST_PATH:
        raise _refused(layer.allowed, path, "which is a link whose target is too long")
    if entry.kind is not Kind.HARDLINK:
        return _Kept(entry.kind, entry.target)
    original = layer.entries.get(f"{below}{entry.target}")
    if original is None or original.content is None:
        raise _refused(layer.allowed, path, f"which is a hard link to {printable(entry.target)!r}: not a file of the model")
    layer.size += original.content.size  # it becomes a file with the same content
    _check_size(layer)
    return original


def _add_parents(layer: UntrustedLayer, path: str) -> None:
    """Add the folders on the way to `path`. Raises when one of them is not a folder."""
    if layer.entries[path].kind is Kind.FOLDER:
        layer.parents.add(path)
    for parent in map(str, PurePosixPath(path).parents):
        entry = layer.entries.get(parent)
        if entry is not None and entry.kind is not Kind.FOLDER:
            raise _refused(layer.allowed, path, f"which leads through {parent!r}, a {entry.kind}")
        if parent != ".":
            layer.parents.add(parent)


def _resolved(layer: UntrustedLayer, path: str, target: str) -> str:
    """Return the link's relative target. Raises when the way to its file leaves the allowed folder at any step."""
    folder = next(one for one in layer.allowed.folders if path.startswith(f"{one}/"))
    outside = _refused(layer.allowed, path, f"which is a link to {printable(target)!r}: it leads out of {folder!r}")

    def follow(link: str, position: list[str]) -> tuple[list[str], list[str]]:
        """Return where a link in `position` starts, and the names to go on with."""
        if not link or (link.startswith("/") and not f"{link}/".startswith(f"/{folder}/")):
            raise outside
        return ([], link.removeprefix(f"/{folder}").split("/")) if link.startswith("/") else (position, link.split("/"))

    parent = path.removeprefix(f"{folder}/").split("/")[:-1]
    position, names = follow(target, list(parent))
    relative = "/".join([*[".."] * len(parent), *filter(None, names)]) if target.startswith("/") else target
    todo, links = names[::-1], 0
    while todo:
        name = todo.pop()
        layer.steps += len(position) + 1
        if layer.steps > MOST_STEPS:
            raise _refused(layer.allowed, path, "which is one of too many links")
        if name == "..":
            # A folder that is not in this layer may be a link in a lower one: then its parent is elsewhere.
            if not position or "/".join([folder, *position]) not in layer.parents:
                raise outside
            position.pop()
        elif name not in ("", "."):
            position.append(name)
            entry = layer.entries.get("/".join([folder, *position]))
            if entry is not None and entry.kind is Kind.SYMLINK:
                links += 1
                if links > MOST_LINKS:
                    raise _refused(layer.allowed, path, "which is a link in a circle")
                position, more = follow(entry.target, position[:-1])
                todo += more[::-1]
    return relative or "."
