"""The bill of materials has every record except files that upper layers delete, the same bytes each time, and CycloneDX's form."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests import messages
from tests.errors import fails
from tests.small_image import SITE, WEIGHTS, image, layer, metadata, model, model_layers, python, runtime
from torchrelay.attestation import image_contents
from torchrelay.attestation.image_contents import contents
from torchrelay.attestation.packages import Package, debian_licences, debian_purl, dpkg_status, purl, pypi_purl, python_metadata
from torchrelay.attestation.provenance import public_uri
from torchrelay.attestation.sbom import sbom
from torchrelay.core.errors import BundleInvalid
from torchrelay.core.progress import Quiet
from torchrelay.oci.blobs import from_bytes
from torchrelay.oci.image import Image, canonical
from torchrelay.oci.layers import TAR_GZIP, Layer

# What of bom-1.6.schema.json (CycloneDX/specification) our documents use, and nothing else; by hand they met all of it.
TEXT = {"type": "string", "minLength": 1}
HASH = {
    "type": "object",
    "additionalProperties": False,
    "required": ["alg", "content"],
    "properties": {"alg": {"enum": ["SHA-256"]}, "content": {"pattern": "^[0-9a-f]{64}$"}},
}
LICENSE = {
    "oneOf": [
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["license"],
            "properties": {
                "license": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["name"],
                    "properties": {"name": TEXT, "acknowledgement": {"enum": ["declared", "concluded"]}},
                }
            },
        },
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["expression"],
            "properties": {"expression": TEXT, "acknowledgement": {"enum": ["declared", "concluded"]}},
        },
    ]
}
TYPES = ["application", "container", "file", "library", "machine-learning-model", "operating-system", "platform"]
COMPONENT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["type", "name"],
    "properties": {
        "type": {"enum": TYPES},
        "bom-ref": TEXT,
        "name": TEXT,
        "version": {"type": "string", "maxLength": 1024},
        "purl": {"type": "string", "pattern": "^pkg:"},
        "hashes": {"type": "array", "items": HASH},
        # Either licences or one expression, never both.
        "licenses": {"oneOf": [{"items": LICENSE["oneOf"][0]}, {"items": LICENSE["oneOf"][1], "maxItems": 1}]},
        "properties": {"items": {"required": ["name", "value"], "properties": {"value": {"type": "string"}}}},
        "externalReferences": {"items": {"required": ["type", "url"], "properties": {"type": {"enum": ["distribution"]}}}},
        "evidence": {"properties": {"occurrences": {"items": {"required": ["location"]}}}, "additionalProperties": False},
        "components": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/definitions/component"}},
    },
}
CYCLONEDX = {
    "definitions": {"component": COMPONENT},
    "type": "object",
    "additionalProperties": False,
    "required": ["bomFormat", "specVersion", "serialNumber", "version", "metadata", "components"],
    "properties": {
        "$schema": {"enum": ["http://cyclonedx.org/schema/bom-1.6.schema.json"]},
        "bomFormat": {"enum": ["CycloneDX"]},
        "specVersion": {"enum": ["1.6"]},
        "serialNumber": {"pattern": "^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
        "version": {"type": "integer", "minimum": 1},
        "metadata": {
            "additionalProperties": False,
            "properties": {"component": {"$ref": "#/definitions/component"}, "tools": {"type": "object"}},
        },
        "components": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/definitions/component"}},
        "dependencies": {
            "items": {"required": ["ref"], "additionalProperties": False, "properties": {"ref": TEXT, "dependsOn": {}}}
        },
    },
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHRELAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def bill(of: Image) -> dict[str, Any]:
    return sbom(of, contents(of, Quiet()), model())


def references(document: dict[str, Any]) -> list[str]:
    parts = [part for component in document["components"] for part in component.get("components", [])]
    return [component["bom-ref"] for component in [*document["components"], *parts]]


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in document["components"]}


def test_an_image_is_listed_from_its_layers() -> None:
    components = by_name(bill(image()))
    assert sorted(components) == ["Typing_Extensions", "bash", "debian", "digits", "openjdk", "torch", "torchserve", "zlib1g"]
    assert components["zlib1g"]["purl"] == "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64&distro=debian-12&upstream=zlib"
    assert components["zlib1g"]["licenses"] == [{"license": {"name": "Zlib", "acknowledgement": "declared"}}]
    assert components["bash"]["purl"].endswith("&upstream=bash%405.2.15-2")
    assert "licenses" not in components["bash"]  # its copyright file is not machine-readable: nothing is guessed
    assert components["torch"]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    assert components["torch"]["licenses"] == [{"expression": "BSD-3-Clause", "acknowledgement": "declared"}]
    assert components["torchserve"]["licenses"][0]["license"]["name"] == "Apache License Version 2.0"
    assert components["Typing_Extensions"]["purl"] == "pkg:pypi/typing-extensions@4.0"
    assert components["Typing_Extensions"]["licenses"][0]["license"]["name"] == "MIT License"
    assert components["openjdk"]["version"] == "17.0.21"
    assert components["debian"]["type"] == "operating-system"  # and not Debian's own Python package, which dpkg lists


def test_an_image_without_records_has_no_components() -> None:
    assert bill(image(layer("torchrelay handler", {"etc/hosts": b""})))["components"] == []


def test_the_model_is_listed_with_its_weights_and_where_they_came_from() -> None:
    from hashlib import sha256

    document = bill(image())
    assert by_name(document)["digits"]["type"] == "machine-learning-model"
    (weights,) = by_name(document)["digits"]["components"]
    assert weights["name"] == "model.pt"
    assert weights["hashes"] == [{"alg": "SHA-256", "content": sha256(WEIGHTS).hexdigest()}]
    assert weights["externalReferences"] == [{"type": "distribution", "url": "s3://bucket/digits/model.pt?versionId=7"}]
    root = document["metadata"]["component"]
    assert (root["type"], root["name"], root["version"]) == ("container", "digits", "1.0")
    assert root["purl"] == f"pkg:oci/digits@{image().digest}"


def test_another_version_in_the_image_is_listed_with_all_its_files() -> None:
    from hashlib import sha256

    home = "opt/torchrelay/versions/0.9"
    old = layer("torchrelay version 0.9", {f"{home}/old.pt": b"old weights", f"{home}/MAR-INF/MANIFEST.json": b"{}"})
    listed: list[Any] = [{"version": "0.9", "model_dir": f"/{home}"}, {"version": 1}, "odd"]
    own = {"name": "digits", "version": "1.0", "model_dir": "/opt/torchrelay/models/digits"}
    serving = {**own, "versions": listed}
    handler = layer("torchrelay handler", {"opt/torchrelay/serving.json": json.dumps(serving).encode()})
    document = bill(image(runtime(), old, *model_layers(), handler))
    (component,) = [one for one in document["components"] if one["bom-ref"] == "model@0.9"]
    assert (component["type"], component["name"], component["version"]) == ("machine-learning-model", "digits", "0.9")
    assert {one["name"]: one["hashes"][0]["content"] for one in component["components"]} == {
        "old.pt": sha256(b"old weights").hexdigest(),
        "MAR-INF/MANIFEST.json": sha256(b"{}").hexdigest(),
    }
    jsonschema.validate(document, CYCLONEDX)


def test_a_version_called_weights_has_its_own_reference() -> None:
    serving = {"name": "digits", "version": "1.0", "model_dir": "/opt/torchrelay/models/digits"}
    listed = [{"version": "weights", "model_dir": "/opt/torchrelay/versions/weights"}]
    config = layer("torchrelay handler", {"opt/torchrelay/serving.json": json.dumps({**serving, "versions": listed}).encode()})
    document = bill(image(runtime(), *model_layers(), config))
    assert {"model/weights", "model@weights"} <= set(references(document))
    assert bill(image(runtime(), *model_layers(), config)) == document


def test_licences_are_sorted() -> None:
    many = "".join(f"License: {letter}\n text\n" for letter in "QWERTZUIOPASDFGHJKLYXCVBNM")
    head = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
    upper = layer("torchrelay setup", {"usr/share/doc/zlib1g/copyright": f"{head}{many}".encode()})
    names = [row["license"]["name"] for row in by_name(bill(image(runtime(), upper, *model_layers())))["zlib1g"]["licenses"]]
    assert names == sorted("QWERTZUIOPASDFGHJKLYXCVBNM")


def test_the_same_image_gives_the_same_bytes_and_another_image_another_serial(own_cache: Path) -> None:
    first = canonical(bill(image()))
    assert canonical(bill(image())) == first  # from the cache
    for record in (own_cache / "scans").iterdir():
        record.unlink()
    assert canonical(bill(image())) == first
    other = image(runtime(), *model_layers(weights=b"others"))
    assert bill(other)["serialNumber"] != json.loads(first)["serialNumber"]


def test_it_keeps_the_rules_of_cyclonedx() -> None:
    document = bill(image())
    jsonschema.Draft7Validator(CYCLONEDX).validate(document)
    listed = references(document)
    assert len(set(listed)) == len(listed)
    root = document["metadata"]["component"]["bom-ref"]
    dependencies = {row["ref"]: row.get("dependsOn", []) for row in document["dependencies"]}
    assert dependencies.keys() <= {root, *listed}
    assert dependencies[root] == sorted(component["bom-ref"] for component in document["components"])
    document["components"][0]["typo"] = 1  # the control
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(CYCLONEDX).validate(document)


def test_an_upper_layer_replaces_and_takes_away() -> None:
    upper = layer(
        "torchrelay dependencies",
        {
            f"{SITE}/torch-2.14.0.dist-info/METADATA": metadata("torch", "2.14.0"),
            f"{SITE}/.wh.torch-2.13.0+cpu.dist-info": b"",
            "usr/share/doc/zlib1g/.wh..wh..opq": b"",
            "opt/torchrelay/.wh.jre": b"",
            **python("numpy", "2.4.6", site="opt/torchrelay/deps/lib/python3.11/site-packages"),
        },
    )
    components = by_name(bill(image(runtime(), upper, *model_layers())))
    assert components["torch"]["version"] == "2.14.0"
    assert components["numpy"]["evidence"]["occurrences"][0]["location"].startswith("/opt/torchrelay/deps/")
    assert "licenses" not in components["zlib1g"]
    assert "openjdk" not in components
    assert {"torchserve", "bash"} <= components.keys()


def test_one_package_in_two_places_is_one_component_with_both() -> None:
    again = layer(
        "torchrelay dependencies", python("torchserve", "0.12.0", site="opt/torchrelay/deps/lib/python3.11/site-packages")
    )
    document = bill(image(runtime(), again, *model_layers()))
    places = [place["location"] for place in by_name(document)["torchserve"]["evidence"]["occurrences"]]
    assert places == sorted(places)
    assert len(places) == 2


def test_a_layer_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    really = image_contents.scan

    def counted(one: Layer, diff_id: str, task: Any) -> Any:
        read.append(diff_id)
        return really(one, diff_id, task)

    monkeypatch.setattr(image_contents, "scan", counted)
    bill(image())
    assert len(read) == 3
    bill(image(runtime(), *model_layers(weights=b"others")))
    assert len(read) == 4


def test_a_record_of_the_cache_that_was_cut_short_is_made_again(own_cache: Path) -> None:
    whole = canonical(bill(image()))
    for record in (own_cache / "scans").iterdir():
        record.write_bytes(record.read_bytes()[:40])
    assert canonical(bill(image())) == whole


def squeezed(one: Layer, cut: int = 0) -> Layer:
    data = gzip.compress(b"".join(one.blob.chunks()), mtime=0)
    return Layer(from_bytes(data[: len(data) - cut]), one.diff_id, TAR_GZIP, one.created_by)


def test_a_gzipped_layer_gives_the_same_document() -> None:
    plain, packed = image(), image(squeezed(runtime()), *model_layers())
    assert [one["bom-ref"] for one in bill(packed)["components"]] == [one["bom-ref"] for one in bill(plain)["components"]]


@pytest.mark.parametrize("damaged", [squeezed(runtime(), cut=20), squeezed(runtime(), cut=2000)])
def test_a_layer_that_ends_early_is_refused(damaged: Layer) -> None:
    with fails(BundleInvalid, words=messages.ENDS_EARLY):
        bill(image(damaged, *model_layers()))


def test_a_layer_with_another_digest_than_in_the_config_is_refused(own_cache: Path) -> None:
    honest = image()
    other = replace(runtime(), diff_id=honest.layers[1].diff_id)
    with fails(BundleInvalid, words=messages.NO_LAYER):
        bill(image(other, *model_layers()))
    assert not (own_cache / "scans").exists()


def test_a_record_of_boundless_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_contents, "RECORD_LIMIT", 100)
    with fails(BundleInvalid, words=messages.TOO_LARGE):
        bill(image())


def test_dpkg_status() -> None:
    assert dpkg_status("") == []
    assert dpkg_status("Package: a\nStatus: install ok installed\nVersion: 1\nSource: b (2)") == [Package("a", "1", "", "b@2")]
    assert dpkg_status("Package: a\nStatus: install ok unpacked\nVersion: 1") == []
    assert dpkg_status("Package:\nStatus: install ok installed\nVersion: 1") == []


@pytest.mark.parametrize(
    ("lines", "licences"),
    [
        (["License: MIT"], ("MIT",)),
        (["License: UNKNOWN"], ()),
        (["License: the whole text", "  of it"], ()),
        (["Classifier: License :: OSI Approved", "Classifier: License :: Public Domain"], ("Public Domain",)),
        (["License-Expression: MIT OR Apache-2.0", "License: x"], ("MIT OR Apache-2.0",)),
    ],
)
def test_python_licences_as_declared(lines: list[str], licences: tuple[str, ...]) -> None:
    package = python_metadata(metadata("a", "1", *lines).decode())
    assert package is not None
    assert package.licences == licences


@pytest.mark.parametrize("text", ["Name: a\n\nVersion: 1", "Name: a\nVersion:", "Name: /\nVersion: 1"])
def test_metadata_without_name_or_version_is_not_a_package(text: str) -> None:
    assert python_metadata(text) is None


def test_debian_licences_are_names_from_machine_readable_files_only() -> None:
    head = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
    assert debian_licences(f"{head}License: MIT\n text\n\nLicense: GPL-2+\nLicense: MIT\n") == ("GPL-2+", "MIT")
    assert debian_licences("License: MIT\n") == ()


def test_package_urls() -> None:
    assert str(purl("generic", "a b", "1+2")) == "pkg:generic/a%20b@1%2B2"
    assert str(pypi_purl(Package("A_b.C", "1!2"))) == "pkg:pypi/a-b.c@1%212"
    assert str(debian_purl(Package("g++", "1~2", "all"), "debian", "")) == "pkg:deb/debian/g%2B%2B@1~2?arch=all"


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("https://host/a b.pt?X-Amz-Signature=secret", "https://host/a%20b.pt"),
        ("s3://bucket/key?versionId=7", "s3://bucket/key?versionId=7"),
        ("hf://org/repo/model.pt@main", "hf://org/repo/model.pt@main"),
        ("models/model 1.pt", "models/model%201.pt"),
        ("models/100%.pt", "models/100%25.pt"),
    ],
)
def test_an_address_is_published_without_its_signature(uri: str, public: str) -> None:
    assert public_uri(uri) == public
