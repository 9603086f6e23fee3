"""The program behind handlers/build.sh: packs an archive from flags alone, through a temporary model directory."""

import argparse
import difflib
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from torchrelay.core.errors import ModelInvalid, Problem, TorchrelayError
from torchrelay.core.paths import weights_cache

if TYPE_CHECKING:
    from torchrelay.stages.check import Checked

USAGE = """\
handlers/build.sh --model_name NAME --model_file FILE --checkpoint_file FILE --version VERSION
                  [--config_file FILE] [--requirements_file FILE] [--extra_files FILE] [--export_path FOLDER] [--setup_at_start]"""
EPILOG = (
    "Writes NAME.mar, which TorchServe 0.12 loads. The same inputs give the same bytes. Paths are relative to the current folder."
)
# The names that TorchServe allows in its routes. model.yaml is stricter, because containers get its names too.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
FLAGS = {
    "name": "--model_name", "version": "--version", "weights": "--checkpoint_file", "handler": "--model_file",
    "requirements": "--requirements_file", "extra_files": "--extra_files",
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print the usage and one line, with the flag that was probably meant."""
        flags = [flag for action in self._actions for flag in action.option_strings if not flag.startswith("---")]
        for word in re.findall(r"unrecognized arguments: (-\S+)", message):
            near = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"usage: {USAGE}\nbuild.sh: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser; flags can be written with dashes or underscores."""
    result = _Parser(prog="handlers/build.sh", usage=USAGE, epilog=EPILOG, allow_abbrev=False)

    def flag(name: str, text: str, **options: Any) -> None:
        result.add_argument(f"--{name}", *{f"--{name.replace('_', '-')}"} - {f"--{name}"}, help=text, **options)

    flag("model_name", "name of the model; the server's route is /predictions/NAME", required=True, metavar="NAME")
    flag("model_file", "Python file that defines the handler: handler = handler_factory(...)", required=True, metavar="FILE")
    flag("checkpoint_file", "the weights: a state_dict, safetensors, TorchScript or .pt2", required=True, metavar="FILE")
    flag("version", "version of the model, for example 1.0; the server's route is /predictions/NAME/VERSION", required=True)
    flag("config_file", "model-config.yaml: workers, batching, device and system.extraFiles", metavar="FILE")
    flag("requirements_file", "requirements.txt; installed by a server that has install_py_dep_per_model=true", metavar="FILE")
    flag(
        "extra_files",
        "tar.gz (tar, zip) of source files, unpacked beside the model file; several: a,b",
        metavar="FILE",
    )
    flag("export_path", "folder for NAME.mar (default: the current one)", default=".", metavar="FOLDER")
    flag("setup_at_start", "run install_packages and unpack_dependencies when the server loads the model", action="store_true")
    return result


def _existing(path: str, flag: str) -> Path:
    file = Path(path)
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "does not exist"
        raise ModelInvalid([Problem(flag, None, "", f"{path} {what}", f"give the path of a file, relative to {Path.cwd()}")])
    return file


def _write_model_dir(folder: Path, flags: argparse.Namespace) -> None:
    """Write the model directory that the flags describe; the weights stay where they are."""
    import yaml  # noqa: PLC0415 -- a Python without PyYAML must reach `main`, which reports it

    from torchrelay.model import server_config, source_archives  # noqa: PLC0415 -- they need PyYAML too
    from torchrelay.model.model import FILE  # noqa: PLC0415 -- it needs pydantic, which `main` reports when it is missing

    handler = _existing(flags.model_file, "--model_file")
    if handler.suffix != ".py":
        raise ModelInvalid(
            [Problem("--model_file", None, "", f"{handler} is not a Python file", "give the file that calls handler_factory")]
        )
    shutil.copyfile(handler, folder / handler.name)
    model: dict[str, Any] = {"name": "model", "version": flags.version, "handler": handler.name, "extra_files": []}
    model["weights"] = str(_existing(flags.checkpoint_file, "--checkpoint_file").resolve())
    if flags.requirements_file:
        shutil.copyfile(_existing(flags.requirements_file, "--requirements_file"), folder / "requirements.txt")
    if flags.config_file:
        shutil.copyfile(_existing(flags.config_file, "--config_file"), folder / server_config.FILE)
    archives = [_existing(name.strip(), "--extra_files") for name in (flags.extra_files or "").split(",") if name.strip()]
    in_config = _archives_in_config(folder)
    for archive in archives:
        if archive.name in in_config:
            shutil.copyfile(archive, folder / archive.name)
            continue
        try:
            files = source_archives.read(archive)
        except ValueError as error:
            fix = f"pack it with `tar -czf {archive.stem}.tar.gz -C FOLDER file1 file2 directory/`"
            raise ModelInvalid([Problem("--extra_files", None, "", f"{archive} {error}", fix)]) from error
        for name, content in files.items():
            target = folder / name
            if target.exists() or target == folder / FILE:
                reason = "which exists already" if target.exists() else "but the flags replace that file"
                raise ModelInvalid(
                    [Problem("--extra_files", None, "", f"{archive} holds {name}, {reason}", "keep only one of them")]
                )
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            except (FileExistsError, NotADirectoryError) as error:
                message = f"{archive} holds {name}, but its folder has the same name as a file"
                raise ModelInvalid([Problem("--extra_files", None, "", message, "rename one of them")]) from error
        model["extra_files"] += sorted(files)
    for missing in sorted(in_config - {archive.name for archive in archives}):
        message = f"system.extraFiles names {missing}, but --extra_files does not"
        raise ModelInvalid([Problem(str(flags.config_file), None, "", message, f"add --extra_files {missing}, or remove the key")])
    (folder / "model.yaml").write_text(yaml.safe_dump(model))


def _archives_in_config(folder: Path) -> set[str]:
    """Return the names in the configuration's system.extraFiles; `check` reports anything wrong with them."""
    from torchrelay.model import server_config  # noqa: PLC0415 -- it needs PyYAML, which `main` reports when it is missing
    from torchrelay.model.yaml_document import parse  # noqa: PLC0415 -- it needs PyYAML too

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
            problems.append(Problem(flag or "build.sh", None, "", problem.message, problem.fix))
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
    from torchrelay.core import progress  # noqa: PLC0415 -- it needs rich, which `main` reports when it is missing
    from torchrelay.stages import archive, check, fetch  # noqa: PLC0415 -- the stages need pydantic

    if not NAME.fullmatch(flags.model_name):
        rule = "letters, digits, _, . and -, starting with a letter or digit"
        raise ModelInvalid([Problem("--model_name", None, "", f"{flags.model_name!r} is not a legal name ({rule})")])
    output = Path(flags.export_path)
    if not output.is_dir():
        raise ModelInvalid([Problem("--export_path", None, "", f"{output} is not a folder", "create it first")])
    with tempfile.TemporaryDirectory(prefix="torchrelay-build-") as scratch:
        folder = Path(scratch)
        try:
            _write_model_dir(folder, flags)
            checked: Checked = check.run(folder, with_samples=False)
        except ModelInvalid as error:
            raise _in_flags(error, flags) from error
        device = {} if "device" in checked.model.model_fields_set else {"device": "auto"}  # the device that the server assigns
        model = checked.model.model_copy(update={"name": flags.model_name, **device})
        fetched = fetch.run(folder, model, cache=weights_cache(), progress=progress.progress())
        path = output / f"{flags.model_name}.mar"
        version, shown = flags.version, progress.progress()
        archive.run(folder, model, fetched, version, shown, output=path, setup_at_start=flags.setup_at_start)
    return path


def main(argv: list[str] | None = None) -> int:
    """Run the script; return 0 when the archive is written."""
    flags = parser().parse_args(argv)
    try:
        print(build(flags))
    except TorchrelayError as error:
        sys.stderr.write(f"build.sh: {error}\n")
        return error.exit_code
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"build.sh: {sys.executable} has no package {error.name}\n  fix: run `make .venv/.dev`, or set TORCHRELAY_PYTHON\n"
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
