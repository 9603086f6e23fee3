"""The archive has the content of torch-model-archiver's in every format, and is made again only after a change."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import ArchiveInvalid, ModelInvalid, WeightsChanged
from torchrelay.core.paths import ROOT, cache_dir
from torchrelay.core.progress import Quiet
from torchrelay.core.workspace import Workspace
from torchrelay.image.mar import Archived
from torchrelay.model.model import load_model
from torchrelay.stages import archive as archiving
from torchrelay.stages import check, fetch
from torchrelay.stages.fetch import Fetched


@pytest.fixture(params=["digits", "tabular"])
def model_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    target = tmp_path / str(request.param)
    shutil.copytree(ROOT / "examples" / request.param, target, ignore=shutil.ignore_patterns(".torchrelay", "weights.lock"))
    return target


def make(model_dir: Path, *, version: str = "1.0") -> Archived:
    model = load_model(model_dir)
    fetched = fetch.run(model_dir, model, cache=cache_dir(), progress=Quiet())
    return archiving.run(model_dir, model, fetched, version, Quiet())


def test_it_equals_torch_model_archivers_own(model_dir: Path, tmp_path: Path) -> None:
    archived = make(model_dir)
    with zipfile.ZipFile(archived.path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    manifest = json.loads(content["MAR-INF/MANIFEST.json"])["model"]
    staging = tmp_path / "staging"
    for name, data in content.items():
        if not name.startswith("MAR-INF/"):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            own = model_dir / name  # the user's files as they are, not as our archive has them
            (staging / name).write_bytes(own.read_bytes() if own.is_file() else data)
    named = {manifest[key] for key in ("handler", "serializedFile", "configFile", "modelFile") if key in manifest}
    extra = [str(path) for path in staging.iterdir() if path.name not in named | {"torchrelay_handlers"}]
    packages = tmp_path / "packages"  # the archiver drops a folder's own name
    shutil.copytree(staging / "torchrelay_handlers", packages / "torchrelay_handlers")
    command = [
        sys.executable, "-m", "model_archiver.model_packaging",
        "--model-name", manifest["modelName"], "--version", manifest["modelVersion"],
        "--serialized-file", str(staging / manifest["serializedFile"]), "--handler", str(staging / manifest["handler"]),
        "--config-file", str(staging / manifest["configFile"]), "--extra-files", ",".join([*extra, str(packages)]),
        "--export-path", str(tmp_path),
    ]  # fmt: skip
    if "modelFile" in manifest:
        command += ["--model-file", str(staging / manifest["modelFile"])]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / f"{manifest['modelName']}.mar") as archive:
        theirs = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    their_manifest = json.loads(theirs.pop("MAR-INF/MANIFEST.json"))
    our_manifest = json.loads(content.pop("MAR-INF/MANIFEST.json"))
    assert our_manifest.pop("createdOn") == "01/01/1980 00:00:00"
    their_manifest.pop("createdOn")
    assert our_manifest == their_manifest
    assert content == theirs


def test_two_folders_on_two_days_give_the_same_bytes(model_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "copy"
    shutil.copytree(model_dir, other, copy_function=shutil.copy)  # new times, not copy2's
    assert make(model_dir).path.read_bytes() == make(other).path.read_bytes()


def test_an_unchanged_model_is_not_archived_again_and_a_changed_one_is(model_dir: Path) -> None:
    first = make(model_dir)
    before = first.path.stat().st_mtime_ns
    again = make(model_dir)
    assert again.skipped
    assert again.path.stat().st_mtime_ns == before
    assert again.entries == first.entries
    with (model_dir / "model.py").open("a") as file:
        file.write("\n# edited\n")
    edited = make(model_dir)
    assert not edited.skipped
    assert edited.inputs != first.inputs
    first.path.write_bytes(b"cut short")
    assert not make(model_dir).skipped


def test_weights_that_change_while_they_are_archived_leave_nothing(model_dir: Path) -> None:
    model = load_model(model_dir)
    real = fetch.run(model_dir, model, cache=cache_dir(), progress=Quiet())
    stale = Fetched(real.path, real.size, "0" * 64, real.source, cached=False)
    with pytest.raises(WeightsChanged):
        archiving.run(model_dir, model, stale, "1.0", Quiet())
    assert not list(Workspace(model_dir).root.glob("*.mar"))


def test_other_formats_hold_the_same_files(model_dir: Path, tmp_path: Path) -> None:
    model = load_model(model_dir)
    fetched = fetch.run(model_dir, model, cache=cache_dir(), progress=Quiet())
    mar = make(model_dir)
    archiving.export(model_dir, model, fetched, "1.0", Quiet(), "tgz", tmp_path / "m.tar.gz")
    archiving.export(model_dir, model, fetched, "1.0", Quiet(), "no-archive", tmp_path / "folder")
    with tarfile.open(tmp_path / "m.tar.gz") as archive:
        assert {name.removeprefix(f"{model.name}/") for name in archive.getnames()} == set(mar.entries)
    folder = tmp_path / "folder"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(mar.entries)


def test_a_model_config_of_the_users_own_adds_keys(model_dir: Path) -> None:
    (model_dir / "model-config.yaml").write_text("jobQueueSize: 3\nhandler: {mine: true}\n")
    with zipfile.ZipFile(make(model_dir).path) as archive:
        config = yaml.safe_load(archive.read("model-config.yaml"))
    assert config["jobQueueSize"] == 3
    assert config["handler"] == {"mine": True}
    assert config["maxBatchDelay"] >= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "model-config.yaml:1"),
        ("- a\n", "model-config.yaml"),
        ("jobQueueSize: 3\nbatchSize: 4\n", "model-config.yaml:2: batchSize: is 4, and batch.size is "),
    ],
)
def test_a_wrong_model_config_is_found_by_check(model_dir: Path, text: str, message: str) -> None:
    (model_dir / "model-config.yaml").write_text(text)
    with pytest.raises(ModelInvalid, match=re.escape(message)):
        check.run(model_dir)


def test_an_unpacked_export_has_no_stale_file_and_keeps_other_folders(model_dir: Path, tmp_path: Path) -> None:
    model = load_model(model_dir)
    fetched = fetch.run(model_dir, model, cache=cache_dir(), progress=Quiet())
    folder = Workspace(model_dir).root / model.name
    folder.mkdir()
    (folder / "stale.py").write_text("")
    archiving.export(model_dir, model, fetched, "1.0", Quiet(), "no-archive", folder)
    assert not (folder / "stale.py").exists()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious").write_text("")
    with fails(ArchiveInvalid, words=messages.NOT_EMPTY_FOLDER):
        archiving.export(model_dir, model, fetched, "1.0", Quiet(), "no-archive", theirs)
    assert (theirs / "precious").exists()
