"""Runs a handler's install_packages and unpack_dependencies inside the runtime image and packs the files that they create.

    python setup_program.py MODEL_DIR DEPS_DIR RESULT.tar

It runs only in the container, with the standard library and the handler library beside the model.
"""

import sys
import tarfile
import traceback
from pathlib import Path


def state(roots: list[Path]) -> dict[str, tuple[int, int, int]]:
    """Return every file and link below the roots, with size, time of change and mode: one of them changes when it is written."""
    files = {}
    for root in roots:
        for path in root.rglob("*"):
            status = path.lstat()
            if not path.is_dir() or path.is_symlink():
                files[str(path)] = (status.st_size, status.st_mtime_ns, status.st_mode)
    return files


def run(model_dir: Path) -> None:
    """Find the handler as a worker does, and run its setup functions."""
    from torchrelay_handlers import handler, resolve, settings, setup_functions, system  # noqa: PLC0415 -- on the path that main adds
    from torchrelay_handlers.adapters.local import LocalContext  # noqa: PLC0415 -- on the path that main adds

    handler_settings = settings.read(model_dir)
    system.unpack(system.read(LocalContext(model_dir).model_yaml_config).extra_files, model_dir)
    chosen = resolve.find(handler_settings, model_dir)
    if isinstance(chosen, handler.Handler):
        setup_functions.set_up(chosen.install_packages, chosen.unpack_dependencies, model_dir)


def main() -> int:
    """Write a tar of the new and changed files; an error is printed as a traceback and one line that begins with ERROR."""
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
    """Write a tar of files by absolute path and of the folders above them, with fixed owners and times."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
        return info

    folders = sorted({str(parent) for path in paths for parent in Path(path).parents} - {"/"})
    with tarfile.open(result, "w", format=tarfile.PAX_FORMAT, dereference=False) as archive:
        for path in [*folders, *paths]:
            archive.inodes.clear()  # type: ignore[attr-defined] # otherwise a second name of a file is stored as a link
            archive.add(path, arcname=path.lstrip("/"), recursive=False, filter=plain)


if __name__ == "__main__":
    sys.exit(main())
