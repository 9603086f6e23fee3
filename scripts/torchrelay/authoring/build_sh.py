"""What handlers/build.sh runs: seed 004's flags over the archive stage, through a model directory that lasts as long as the run."""

import argparse
import difflib
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from torchrelay.core.errors import ModelInvalid, Problem, TorchrelayError

if TYPE_CHECKING:
    from torchrelay.stages.check import Checked

USAGE = """\
handlers/build.sh --model_name NAME --model_file FILE --checkpoint_file FILE --version VERSION
                  [--config_file FILE] [--requirements_file FILE] [--extra_files FILE] [--export_path FOLDER] [--setup_at_start]"""
EPILOG = (
    "It writes NAME.mar, which TorchServe 0.12 loads; the same inputs give the same bytes. Paths are relative to where you are."
)
# What TorchServe takes as a name in its routes; a model.yaml is stricter, as its names become those of containers, too.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
FLAGS = {
    "name": "--model_name", "version": "--version", "weights": "--checkpoint_file", "handler": "--model_file",
    "requirements": "--requirements_file", "extra_files": "--extra_files",
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Usage and one line, with the flag that was probably meant."""
        flags = [flag for action in self._actions for flag in action.option_strings if not flag.startswith("---")]
        for word in re.findall(r"unrecognized arguments: (-\S+)", message):
            near = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"usage: {USAGE}\nbuild.sh: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The flags; dashes are taken for underscores."""
    made = _Parser(prog="handlers/build.sh", usage=USAGE, epilog=EPILOG, allow_abbrev=False)

    def flag(name: str, text: str, **told: Any) -> None:
        made.add_argument(f"--{name}", *{f"--{name.replace('_', '-')}"} - {f"--{name}"}, help=text, **told)

    flag("model_name", "name of the model; the server's route is /predictions/NAME", required=True, metavar="NAME")
    flag("model_file", "Python file that makes the handler: handler = handler_factory(...)", required=True, metavar="FILE")
    flag("checkpoint_file", "the weights: a state_dict, safetensors, TorchScript or .pt2", required=True, metavar="FILE")
    flag("version", "version of the model, 1.0 say; the server's route is /predictions/NAME/VERSION", required=True)
    flag("config_file", "model-config.yaml: workers, batching, device and system.extraFiles", metavar="FILE")
    flag("requirements_file", "requirements.txt; a server with install_py_dep_per_model=true installs it", metavar="FILE")
    flag("extra_files", "tar.gz (tar, zip) of source files, unpacked beside the model file; several: a,b", metavar="FILE")
    flag("export_path", "folder to write NAME.mar to (default: here)", default=".", metavar="FOLDER")
    flag("setup_at_start", "run install_packages and unpack_dependencies when the server loads the model", action="store_true")
    return made


def _given(path: str, flag: str) -> Path:
    found = Path(path)
    if not found.is_file():
        what = "is a folder, not a file" if found.is_dir() else "does not exist"
        raise ModelInvalid([Problem(flag, None, "", f"{path} {what}", f"give the path of a file, from {Path.cwd()}")])
    return found


def _lay_out(folder: Path, told: argparse.Namespace) -> None:
    """A model directory of the flags; weights stay where they are."""
    import yaml  # noqa: PLC0415 -- so that a Python without it gets `main`'s words

    from torchrelay.model import server_config, source_archives  # noqa: PLC0415
    from torchrelay.model.model import FILE  # noqa: PLC0415

    handler = _given(told.model_file, "--model_file")
    if handler.suffix != ".py":
        raise ModelInvalid(
            [Problem("--model_file", None, "", f"{handler} is no Python file", "give the file with handler_factory")]
        )
    shutil.copyfile(handler, folder / handler.name)
    model: dict[str, Any] = {"name": "model", "version": told.version, "handler": handler.name, "extra_files": []}
    model["weights"] = str(_given(told.checkpoint_file, "--checkpoint_file").resolve())
    if told.requirements_file:
        shutil.copyfile(_given(told.requirements_file, "--requirements_file"), folder / "requirements.txt")
    if told.config_file:
        shutil.copyfile(_given(told.config_file, "--config_file"), folder / server_config.FILE)
    archives = [_given(name.strip(), "--extra_files") for name in (told.extra_files or "").split(",") if name.strip()]
    named = _named_by_config(folder)
    for archive in archives:
        if archive.name in named:
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
                taken = "which is there already" if target.exists() else "and the flags say what it would"
                raise ModelInvalid([Problem("--extra_files", None, "", f"{archive} holds {name}, {taken}", "keep one")])
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            except (FileExistsError, NotADirectoryError) as error:
                message = f"{archive} holds {name}, and a file is where its folder belongs"
                raise ModelInvalid([Problem("--extra_files", None, "", message, "rename one")]) from error
        model["extra_files"] += sorted(files)
    for missing in sorted(named - {archive.name for archive in archives}):
        message = f"system.extraFiles names {missing}, which --extra_files does not give"
        raise ModelInvalid([Problem(str(told.config_file), None, "", message, f"add --extra_files {missing}, or remove the key")])
    (folder / "model.yaml").write_text(yaml.safe_dump(model))


def _named_by_config(folder: Path) -> set[str]:
    """What the configuration's system.extraFiles names; anything wrong with it is told by `check`."""
    from torchrelay.model import server_config  # noqa: PLC0415 -- as above
    from torchrelay.model.yaml_document import parse  # noqa: PLC0415

    path = folder / server_config.FILE
    if not path.is_file():
        return set()
    system = parse(path.read_bytes(), server_config.FILE).value.get("system")
    names = system.get("extraFiles") if isinstance(system, dict) else None
    listed = names.split(",") if isinstance(names, str) else names if isinstance(names, list) else []
    return {name.strip() for name in listed if isinstance(name, str) and name.strip()}


def _in_flags(error: ModelInvalid, told: argparse.Namespace) -> ModelInvalid:
    """The problems in terms of what was typed: no model.yaml was."""
    files = {"model-config.yaml": told.config_file, "requirements.txt": told.requirements_file}
    files |= {Path(told.model_file).name: told.model_file}
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


def build(told: argparse.Namespace) -> Path:
    """Write the archive that the flags describe.

    Raises:
        TorchrelayError: an input is wrong; nothing is written.
    """
    from torchrelay.core import progress  # noqa: PLC0415 -- as above
    from torchrelay.core.paths import weights_cache  # noqa: PLC0415
    from torchrelay.stages.archive import archive  # noqa: PLC0415
    from torchrelay.stages.check import check  # noqa: PLC0415
    from torchrelay.stages.fetch import fetch  # noqa: PLC0415

    if not NAME.fullmatch(told.model_name):
        rule = "letters, digits, _, . and -, beginning with a letter or digit"
        raise ModelInvalid([Problem("--model_name", None, "", f"{told.model_name!r} is not a legal name ({rule})")])
    output = Path(told.export_path)
    if not output.is_dir():
        raise ModelInvalid([Problem("--export_path", None, "", f"{output} is not a folder", "make it first")])
    with tempfile.TemporaryDirectory(prefix="torchrelay-build-") as scratch:
        folder = Path(scratch)
        try:
            _lay_out(folder, told)
            checked: Checked = check(folder, with_samples=False)
        except ModelInvalid as error:
            raise _in_flags(error, told) from error
        device = {} if "device" in checked.model.model_fields_set else {"device": "auto"}  # whatever the server assigns
        model = checked.model.model_copy(update={"name": told.model_name, **device})
        fetched = fetch(folder, model, cache=weights_cache(), progress=progress.progress())
        path = output / f"{told.model_name}.mar"
        archive(folder, model, fetched, told.version, progress.progress(), output=path, setup_at_start=told.setup_at_start)
    return path


def main(argv: list[str] | None = None) -> int:
    """Run the script; 0 when the archive is written."""
    told = parser().parse_args(argv)
    try:
        print(build(told))
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
