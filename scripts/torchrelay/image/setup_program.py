"""Runs a handler's install_packages and unpack_dependencies inside the image that is to serve it, and packs what they made.

    python setup_program.py MODEL_DIR DEPS_DIR RESULT.tar

A program for the container alone: standard library, and the handler library beside the model.
"""

import sys
import tarfile
import traceback
from pathlib import Path


def state(roots: list[Path]) -> dict[str, tuple[int, int, int]]:
    """Every file and link below the roots, with what changes when it is written."""
    found = {}
    for root in roots:
        for path in root.rglob("*"):
            status = path.lstat()
            if not path.is_dir() or path.is_symlink():
                found[str(path)] = (status.st_size, status.st_mtime_ns, status.st_mode)
    return found


def run(model_dir: Path) -> None:
    """Find the handler as a worker would, and set it up."""
    from torchrelay_handlers import resolve, settings, setup_functions, system  # noqa: PLC0415 -- beside the model alone
    from torchrelay_handlers.adapters.local import LocalContext  # noqa: PLC0415
    from torchrelay_handlers.handler import Handler  # noqa: PLC0415

    told = settings.read(model_dir)
    system.unpack(system.read(LocalContext(model_dir).model_yaml_config).extra_files, model_dir)
    found = resolve.find(told, model_dir)
    if isinstance(found, Handler):
        setup_functions.set_up(found.install_packages, found.unpack_dependencies, model_dir)


def main() -> int:
    """Write the tar of what is new or changed; what goes wrong is told in one line, behind a traceback."""
    model_dir, deps, result = map(Path, sys.argv[1:4])
    roots = [model_dir, deps]
    before = state(roots)
    sys.path[:0] = [str(model_dir)]
    sys.dont_write_bytecode = True
    try:
        run(model_dir)
    except Exception as error:
        traceback.print_exc()
        print(f"ERROR: {error}", flush=True)
        return 1
    after = state(roots)
    changed = [path for path in sorted(after) if before.get(path) != after[path] and "__pycache__" not in Path(path).parts]
    pack(result, changed)
    return 0


def pack(result: Path, paths: list[str]) -> None:
    """Write a tar of files by absolute path, and of the folders around them, with fixed owners and times."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
        return info

    folders = sorted({str(parent) for path in paths for parent in Path(path).parents} - {"/"})
    with tarfile.open(result, "w", format=tarfile.PAX_FORMAT, dereference=False) as archive:
        for path in [*folders, *paths]:
            archive.inodes.clear()  # type: ignore[attr-defined] # else a second name of a file is stored as a link to the first
            archive.add(path, arcname=path.lstrip("/"), recursive=False, filter=plain)


if __name__ == "__main__":
    sys.exit(main())
