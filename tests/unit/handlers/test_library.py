"""The handler library as archives carry it: whole, with its sub-packages."""

from torchrelay.core import paths
from torchrelay.stages.archive import library_entries


def test_an_archive_carries_every_module_and_every_folder_is_a_package() -> None:
    names = {entry.name for entry in library_entries()}
    assert names == {f"torchrelay_handlers/{file.relative_to(paths.HANDLERS).as_posix()}" for file in paths.HANDLERS.rglob("*.py")}
    folders = {name.rpartition("/")[0] for name in names}
    assert {f"torchrelay_handlers/{folder}" for folder in ("bodies", "network", "recipes", "adapters")} < folders
    assert {f"{folder}/__init__.py" for folder in folders} <= names
