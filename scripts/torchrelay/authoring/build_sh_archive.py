"""Packs the archive that the flags of handlers/build.sh describe, through a temporary model directory."""

import argparse
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from torchrelay.core import progress
from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.paths import weights_cache
from torchrelay.model import server_config, source_archives
from torchrelay.model.model import FILE
from torchrelay.model.outside import named_by_user
from torchrelay.model.yaml_document import parse
from torchrelay.stages import archive, check, fetch

# The names that TorchServe allows in its routes. model.yaml is stricter, because containers get its names too.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
FLAGS = {
    "name": "--model_name", "version": "--version", "weights": "--checkpoint_file", "handler": "--model_file",
    "requirements": "--requirements_file", "extra_files": "--extra_files",
}  # fmt: skip


def _existing(path: str, flag: str) -> Path:
    file = Path(path)
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "does not exist"
        raise ModelInvalid([Problem(flag, None, "", f"{path} {what}", f"give the path of a file, relative to {Path.cwd()}")])
    return file


def _write_model_dir(folder: Path, flags: argparse.Namespace) -> None:
    """Write the model directory that the flags describe; the weights stay where they are."""
    handler = _existing(flags.model_file, "--model_file")
    if handler.suffix != ".py":
        raise ModelInvalid(
            [Problem("--model_file", None, "", f"{handler} is not a Python file", "give the file that calls handler_factory")]
        )
    shutil.copyfile(handler, folder / handler.name)
    model: dict[str, Any] = {"name": "model", "version": flags.version, "handler": handler.name, "extra_files": []}
    model["weights"] = {"uri": str(_existing(flags.checkpoint_file, "--checkpoint_file").resolve())}
    if flags.weights_format:
        model["weights"]["format"] = flags.weights_format
    if flags.requirements_file:
        shutil.copyfile(_existing(flags.requirements_file, "--requirements_file"), folder / "requirements.txt")
    if flags.config_file:
        shutil.copyfile(_existing(flags.config_file, "--config_file"), folder / server_config.FILE)
    archives = [_existing(name.strip(), "--extra_files") for name in (flags.extra_files or "").split(",") if name.strip()]
    in_config = _archives_in_config(folder)
    for source in archives:
        if source.name in in_config:
            shutil.copyfile(source, folder / source.name)
            continue
        try:
            files = source_archives.read(source)
        except ValueError as error:
            fix = f"pack it with `tar -czf {source.stem}.tar.gz -C FOLDER file1 file2 directory/`"
            raise ModelInvalid([Problem("--extra_files", None, "", f"{source} {error}", fix)]) from error
        for name, content in files.items():
            target = folder / name
            if target.exists() or target == folder / FILE:
                reason = "which exists already" if target.exists() else "but the flags replace that file"
                raise ModelInvalid(
                    [Problem("--extra_files", None, "", f"{source} holds {name}, {reason}", "keep only one of them")]
                )
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            except (FileExistsError, NotADirectoryError) as error:
                message = f"{source} holds {name}, but its folder has the same name as a file"
                raise ModelInvalid([Problem("--extra_files", None, "", message, "rename one of them")]) from error
        model["extra_files"] += sorted(files)
    for missing in sorted(in_config - {source.name for source in archives}):
        message = f"system.extraFiles names {missing}, but --extra_files does not"
        raise ModelInvalid([Problem(str(flags.config_file), None, "", message, f"add --extra_files {missing}, or remove the key")])
    (folder / "model.yaml").write_text(yaml.safe_dump(model))


def _archives_in_config(folder: Path) -> set[str]:
    """Return the names in the configuration's system.extraFiles; `check` reports anything wrong with them."""
    path = folder / server_config.FILE
    if not path.is_file():
        return set()
    system = parse(path.read_bytes(), server_config.FILE).value.get("system")
    names = system.get("extraFiles") if isinstance(system, dict) else None
    listed = names.split(",") if isinstance(names, str) else names if isinstance(names, list) else []
    return {name.strip() for name in listed if isinstance(name, str) and name.strip()}


def _in_flags(error: ModelInvalid, flags: argparse.Namespace) -> ModelInvalid:
    """Return the problems with the flags that were typed instead of the fields of model.yaml."""
    files = {"model-config.yaml": flags.config_file, "requirements.txt": flags.requirements_file}
    files |= {Path(flags.model_file).name: flags.model_file}
    problems = []
    for problem in error.problems:
        if problem.file == "model.yaml":
            flag = FLAGS.get(re.split(r"[.\[]", problem.field)[0], "")
            fix = re.sub(r"write `weights: .*format: (\w+)\}`", r"add `--weights_format \1`", problem.fix)
            problems.append(Problem(flag or "build.sh", None, "", problem.message, fix))
        else:
            problems.append(
                Problem(files.get(problem.file) or problem.file, problem.line, problem.field, problem.message, problem.fix)
            )
    return ModelInvalid(problems)


def build(flags: argparse.Namespace) -> Path:
    """Write the archive that the flags describe.

    Raises:
        TorchrelayError: an input is wrong; nothing is written.
    """

    if not NAME.fullmatch(flags.model_name):
        rule = "letters, digits, _, . and -, starting with a letter or digit"
        raise ModelInvalid([Problem("--model_name", None, "", f"{flags.model_name!r} is not a legal name ({rule})")])
    output = Path(flags.export_path)
    if not output.is_dir():
        raise ModelInvalid([Problem("--export_path", None, "", f"{output} is not a folder", "create it first")])
    with tempfile.TemporaryDirectory(prefix="torchrelay-build-") as scratch, named_by_user():
        folder = Path(scratch)
        try:
            _write_model_dir(folder, flags)
            checked = check.run(folder, with_samples=False)
        except ModelInvalid as error:
            raise _in_flags(error, flags) from error
        device = {} if "device" in checked.model.model_fields_set else {"device": "auto"}  # the device that the server assigns
        model = checked.model.model_copy(update={"name": flags.model_name, **device})
        fetched = fetch.run(folder, model, cache=weights_cache(), progress=progress.progress())
        path = output / f"{flags.model_name}.mar"
        version, shown = flags.version, progress.progress()
        archive.run(folder, model, fetched, version, shown, output=path, setup_at_start=flags.setup_at_start)
    return path
