"""fetch of weights that are in the model directory."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import messages
from tests.errors import fails
from torchrelay.core import digests
from torchrelay.core.errors import ModelInvalid, TorchrelayError, WeightsChanged, WeightsMissing
from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.stages import fetch
from torchrelay.stages.fetch import Fetched, planned

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.pt").write_bytes(CONTENT)
    return folder


def get(model_dir: Path, uri: str = "model.pt", sha256: str | None = None, *, update_lock: bool = False) -> Fetched:
    model = Model.model_validate({"name": "m", "handler": "tensor", "weights": {"uri": uri, "sha256": sha256}})
    cache = model_dir.parent / "cache"
    return fetch.run(model_dir, model, cache=cache, progress=Quiet(), update_lock=update_lock)


def test_a_file_is_read_in_place_and_locked(model_dir: Path) -> None:
    assert get(model_dir) == Fetched(model_dir / "model.pt", len(CONTENT), SHA256, "model.pt", cached=True)
    assert json.loads((model_dir / "weights.lock").read_text()) == {
        "source": "model.pt",
        "size": len(CONTENT),
        "sha256": SHA256,
        "version": "",
    }
    assert not (model_dir.parent / "cache").exists()


def test_an_unchanged_file_is_hashed_once_and_a_changed_one_again(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = digests.sha256_of

    def counted(path: Path, advance: Callable[[int], None]) -> str:
        read.append(path)
        return real(path, advance)

    monkeypatch.setattr(digests, "sha256_of", counted)
    get(model_dir)
    get(model_dir)
    assert len(read) == 1
    stat = (model_dir / "model.pt").stat()
    (model_dir / "model.pt").write_bytes(CONTENT[::-1])  # same size
    os.utime(model_dir / "model.pt", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # and the old time of change
    with pytest.raises(WeightsChanged):
        get(model_dir)
    assert len(read) == 2


def test_a_changed_file_is_refused_without_update_lock(model_dir: Path) -> None:
    get(model_dir)
    (model_dir / "model.pt").write_bytes(b"retrained")
    with fails(WeightsChanged, "weights.lock", hashlib.sha256(b"retrained").hexdigest()) as caught:
        get(model_dir)
    assert "--update-lock" in caught.value.fix
    assert get(model_dir, update_lock=True).size == len(b"retrained")
    assert get(model_dir).size == len(b"retrained")


def test_a_newly_declared_digest_allows_the_change_too(model_dir: Path) -> None:
    get(model_dir)
    (model_dir / "model.pt").write_bytes(b"retrained")
    assert get(model_dir, sha256=hashlib.sha256(b"retrained").hexdigest().upper()).size == len(b"retrained")


def test_a_wrong_declared_digest_is_refused(model_dir: Path) -> None:
    with fails(WeightsChanged, "model.yaml", "0" * 64):
        get(model_dir, sha256="0" * 64)
    assert not (model_dir / "weights.lock").exists()


def test_another_address_starts_another_agreement(model_dir: Path) -> None:
    get(model_dir)
    (model_dir / "new.pt").write_bytes(b"new")
    assert get(model_dir, "new.pt").size == 3
    assert json.loads((model_dir / "weights.lock").read_text())["source"] == "new.pt"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", messages.EMPTY_FILE),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", messages.LFS_POINTER),
        (b"<!DOCTYPE html>", messages.WEB_PAGE),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(model_dir: Path, content: bytes, message: str) -> None:
    (model_dir / "model.pt").write_bytes(content)
    with fails(WeightsMissing, words=message):
        get(model_dir)
    assert not (model_dir / "weights.lock").exists()


@pytest.mark.parametrize(("uri", "words"), [("none.pt", messages.NO_FILE), ("folder", messages.NOT_REGULAR)])
def test_a_missing_file_or_a_folder_is_refused(model_dir: Path, uri: str, words: str) -> None:
    (model_dir / "folder").mkdir()
    with fails(WeightsMissing, uri, words=words):
        get(model_dir, uri)


def test_a_dangling_link_is_a_missing_file(model_dir: Path) -> None:
    (model_dir / "link.pt").symlink_to("nowhere.pt")
    with fails(WeightsMissing, "link.pt", words=messages.NO_FILE):
        get(model_dir, "link.pt")


@pytest.mark.parametrize(
    "lock",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"source": "model.pt", "size": -1, "sha256": "x", "version": ""}',
        b'{"source": "model.pt", "size": 7000, "sha256": "%s", "version": "", "extra": 1}' % SHA256.encode(),
    ],
)
def test_a_damaged_lock_is_refused(model_dir: Path, lock: bytes) -> None:
    (model_dir / "weights.lock").write_bytes(lock)
    with fails(ModelInvalid, "weights.lock"):
        get(model_dir)
    assert (model_dir / "weights.lock").read_bytes() == lock
    assert get(model_dir, update_lock=True).sha256 == SHA256
    assert get(model_dir).sha256 == SHA256


def test_a_dry_run_reports_its_plan(model_dir: Path) -> None:
    model = Model.model_validate({"name": "m", "handler": "tensor", "weights": "model.pt"})
    assert planned(model_dir, model, cache=model_dir / "c") == f"read {model_dir / 'model.pt'} in place"
    far = Model.model_validate({"name": "m", "handler": "tensor", "weights": "https://example.org/m.pt"})
    assert planned(model_dir, far, cache=model_dir / "c").startswith("fetch https://example.org/m.pt into ")
    assert not (model_dir / "weights.lock").exists()


def test_every_refusal_is_an_error_with_its_own_exit_code() -> None:
    assert issubclass(WeightsMissing, TorchrelayError)
    assert {WeightsMissing.exit_code, WeightsChanged.exit_code} == {11, 12}
