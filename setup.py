"""Packs into the wheel what the command reads beside its modules; everything else about the build is in pyproject.toml.

A build step for setuptools (https://setuptools.pypa.io/en/latest/userguide/extension.html), as package data can name only files
inside the package, and these files have their places at the top of the repository. The step also puts them into the sdist.
"""

import shutil
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build

ASSETS = (
    "handlers/torchrelay_handlers", "runtime", "k8s/base", "schema",
    "Dockerfile", "requirements/runtime.txt", "requirements/jre.txt", ".github/workflows/serve.yml",
)  # fmt: skip
"""Whole folders, and files: torchrelay/core/paths.py finds them under the same names in torchrelay/assets."""
IGNORED = {"__pycache__"}


class BuildAssets(Command):
    """Copies ASSETS to torchrelay/assets. An editable installation reads the checkout itself."""

    user_options = ()

    def initialize_options(self) -> None:
        """Set what setuptools sets on every step."""
        self.build_lib: str | None = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Build where the other steps build."""
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def get_source_files(self) -> list[str]:
        """Return the files, relative to the project; the sdist takes them from here."""
        files = [file for name in ASSETS for file in ([Path(name)] if Path(name).is_file() else Path(name).rglob("*"))]
        return sorted(file.as_posix() for file in files if file.is_file() and not IGNORED.intersection(file.parts))

    def get_output_mapping(self) -> dict[str, str]:
        """Return each file of the wheel with the file that it is a copy of."""
        return {str(self._folder() / name): name for name in self.get_source_files()}

    def get_outputs(self) -> list[str]:
        """Return the files of the wheel."""
        return list(self.get_output_mapping())

    def run(self) -> None:
        """Copy, after removing what an earlier build left."""
        if self.editable_mode:
            return
        shutil.rmtree(self._folder(), ignore_errors=True)
        for target, source in self.get_output_mapping().items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)

    def _folder(self) -> Path:
        return Path(self.build_lib or "", "torchrelay", "assets")


build.sub_commands.append(("build_assets", None))
setup(cmdclass={"build_assets": BuildAssets})
