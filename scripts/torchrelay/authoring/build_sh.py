"""The program behind handlers/build.sh: reads its flags, and reports a Python that lacks a package."""

import argparse
import difflib
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from torchrelay.core.errors import TorchrelayError

if TYPE_CHECKING:
    pass

USAGE = """\
handlers/build.sh --model_name NAME --model_file FILE --checkpoint_file FILE --version VERSION
                  [--config_file FILE] [--requirements_file FILE] [--extra_files FILE] [--export_path FOLDER] [--setup_at_start]"""
EPILOG = (
    "Writes NAME.mar, which TorchServe 0.12 loads. The same inputs give the same bytes. Paths are relative to the current folder."
)


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
    flag("weights_format", "torchscript, pt2 or aoti: the weights execute code when they are loaded", metavar="FORMAT")
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


def main(argv: list[str] | None = None) -> int:
    """Run the script; return 0 when the archive is written."""
    flags = parser().parse_args(argv)
    try:
        from torchrelay.authoring import build_sh_archive  # noqa: PLC0415 -- a missing package is reported below

        print(build_sh_archive.build(flags))
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
