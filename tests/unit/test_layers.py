"""Layers are real tars whose digest depends on names and contents alone, and weights stay where they are."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

from torchrelay.core.progress import Quiet
from torchrelay.oci import layers
from torchrelay.oci.blobs import Blob, Slice
from torchrelay.oci.image import Image, load_image, save_image


def make(files: list[layers.LayerFile]) -> layers.Layer:
    with Quiet().task("", None) as task:
        return layers.tar_layer(files, "test", task)


def test_a_layer_is_a_tar_with_fixed_owners_and_times(tmp_path: Path) -> None:
    weights = tmp_path / "m.mar"
    weights.write_bytes(b"headWEIGHTS" + b"tail")
    layer = make([layers.LayerFile("opt/m/model.pt", Slice(weights, 4, 7), 7), layers.LayerFile("opt/h.py", b"x", 1)])
    data = b"".join(layer.blob.chunks())
    assert layer.blob.digest == "sha256:" + hashlib.sha256(data).hexdigest() == layer.diff_id
    assert len(data) == layer.blob.size
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["opt", "opt/m", "opt/h.py", "opt/m/model.pt"]
        assert {(member.uid, member.gid, member.mtime) for member in archive} == {(0, 0, 0)}
        assert archive.extractfile("opt/m/model.pt").read() == b"WEIGHTS"  # type: ignore[union-attr] # its kind is known here


def test_a_layer_does_not_depend_on_the_order_of_its_files() -> None:
    files = [layers.LayerFile("b", b"2", 1), layers.LayerFile("a", b"1", 1)]
    assert make(files).diff_id == make(files[::-1]).diff_id


def test_weights_are_described_not_copied(tmp_path: Path) -> None:
    weights = tmp_path / "m.mar"
    weights.write_bytes(bytes(1000))
    layer = make([layers.LayerFile("m", Slice(weights, 0, 1000), 1000)])
    assert Slice(weights, 0, 1000) in layer.blob.parts
    assert Blob.from_json(layer.blob.to_json()) == layer.blob


def test_a_record_without_its_weights_is_not_an_image(tmp_path: Path) -> None:
    weights = tmp_path / "m.mar"
    weights.write_bytes(bytes(1000))
    layer = make([layers.LayerFile("m", Slice(weights, 0, 1000), 1000)])
    image = Image({"rootfs": {"diff_ids": [layer.diff_id]}}, (layer,), {})
    save_image(tmp_path / "image.json", image)
    loaded = load_image(tmp_path / "image.json")
    assert loaded is not None
    assert loaded[0].digest == image.digest
    weights.write_bytes(bytes(10))
    assert load_image(tmp_path / "image.json") is None
    weights.unlink()
    assert load_image(tmp_path / "image.json") is None


def test_a_file_over_8_gib_has_a_header_with_its_size() -> None:
    parts = layers.tar_parts([layers.LayerFile("big", Slice(Path("x"), 0, 9 << 30), 9 << 30)])
    headers = b"".join(part for part in parts if isinstance(part, bytes))
    with tarfile.open(fileobj=io.BytesIO(headers)) as archive:
        first = archive.next()
    assert first is not None
    assert (first.name, first.size) == ("big", 9 << 30)


def test_the_manifest_is_single_platform_oci() -> None:
    manifest = json.loads(Image({"rootfs": {"diff_ids": []}}, (), {}).manifest_bytes)
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert "manifests" not in manifest


def test_an_archive_written_again_is_no_longer_the_image_s(tmp_path: Path) -> None:
    weights = tmp_path / "m.mar"
    weights.write_bytes(bytes(1000))
    layer = make([layers.LayerFile("m", Slice(weights, 0, 1000, weights.stat().st_mtime_ns), 1000)])
    save_image(tmp_path / "image.json", Image({"rootfs": {"diff_ids": [layer.diff_id]}}, (layer,), {}))
    assert load_image(tmp_path / "image.json") is not None
    os.utime(weights, ns=(1, 1))
    assert load_image(tmp_path / "image.json") is None
