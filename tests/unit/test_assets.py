"""What the command reads beside its modules is packed into the wheel: setup.py's list covers every path in core/paths.py."""

import ast
import re
from pathlib import Path

import pytest

from torchrelay.core import paths

NAMED = {name: path for name, path in vars(paths).items() if name.isupper() and isinstance(path, Path) and name != "ROOT"}


def assets() -> list[Path]:
    (value,) = [
        statement.value
        for statement in ast.parse((paths.ROOT / "setup.py").read_text()).body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "ASSETS"
    ]
    return [paths.ROOT / name for name in ast.literal_eval(value)]


@pytest.mark.parametrize("name", sorted(name for name in NAMED if not name.startswith("_")))
def test_a_path_of_the_command_is_packed_into_the_wheel(name: str) -> None:
    path = NAMED[name]
    assert path.exists()
    assert any(path.is_relative_to(asset) for asset in assets()), f"{path} is not in ASSETS of setup.py"


def test_every_asset_exists() -> None:
    assert [asset for asset in assets() if not asset.exists()] == []


def test_only_the_paths_module_names_files_of_the_checkout() -> None:
    modules = {file for file in (paths.ROOT / "scripts/torchrelay").rglob("*.py") if re.search(r"\bROOT /", file.read_text())}
    assert modules == {Path(paths.__file__)}
