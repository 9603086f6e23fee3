"""A small image with everything in its layers that a bill of materials reads, and the bundle of it: no Docker, no build."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.model.origin import Source
from torchrelay.oci.image import Image
from torchrelay.oci.layers import Layer, LayerFile, tar_layer
from torchrelay.verification.verdict import Verdict

SITE = "opt/torchrelay/venv/lib/python3.11/site-packages"
WEIGHTS = b"weights" * 1000
STATUS = """\
Package: zlib1g
Status: install ok installed
Source: zlib
Architecture: amd64
Version: 1:1.2.13.dfsg-1
Description: compression
 Status: deinstall ok config-files

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: bash
Status: hold ok installed
Source: bash (5.2.15-2)
Architecture: amd64
Version: 5.2.15-2+b7
"""
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: Zlib

License: Zlib
 This software is provided 'as-is'
"""


def layer(created_by: str, files: dict[str, bytes]) -> Layer:
    with Quiet().task("", None) as task:
        return tar_layer([LayerFile(path, content, len(content)) for path, content in files.items()], created_by, task)


def metadata(name: str, version: str, *more: str) -> bytes:
    return "\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *more, "", "Name: not a header"]).encode()


def python(name: str, version: str, *more: str, site: str = SITE) -> dict[str, bytes]:
    return {f"{site}/{name}-{version}.dist-info/METADATA": metadata(name, version, *more)}


def runtime() -> Layer:
    return layer(
        "torchrelay runtime",
        {
            "var/lib/dpkg/status": STATUS.encode(),
            "usr/lib/os-release": b'ID=debian\nVERSION_ID="12"\n',
            "usr/share/doc/zlib1g/copyright": COPYRIGHT.encode(),
            "usr/share/doc/bash/copyright": b"Bash is free software.\nLicense: not machine-readable\n",
            "opt/torchrelay/jre/release": b'JAVA_VERSION="17.0.21"\n',
            **python("torchserve", "0.12.0", "License: Apache License Version 2.0"),
            **python("torch", "2.13.0+cpu", "License-Expression: BSD-3-Clause"),
            **python("Typing_Extensions", "4.0", "Classifier: License :: OSI Approved :: MIT License", "License: ignored"),
            f"{SITE}/setuptools/_vendor/zipp-3.0.dist-info/METADATA": metadata("zipp", "3.0"),
            "usr/lib/python3/dist-packages/debian-1.0.dist-info/METADATA": metadata("debian", "1.0"),
        },
    )


def model_layers(name: str = "digits", weights: bytes = WEIGHTS) -> tuple[Layer, Layer]:
    folder = f"opt/torchrelay/models/{name}"
    serving = {"name": name, "version": "1.0", "model_dir": f"/{folder}", "environment": {"KEPT": "out"}}
    small = {
        f"{folder}/torchrelay.json": json.dumps({"name": name, "weights": "model.pt"}).encode(),
        f"{folder}/requirements.txt": b"lightgbm==4.5.0\n",
        "opt/torchrelay/serving.json": json.dumps(serving).encode(),
    }
    return layer("torchrelay weights", {f"{folder}/model.pt": weights}), layer("torchrelay handler", small)


def image(*layers: Layer) -> Image:
    chosen = layers or (runtime(), *model_layers())
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {"org.torchrelay.runtime": "a" * 64}},
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in chosen]},
        "history": [],
    }
    return Image(config, tuple(chosen), {"org.opencontainers.image.title": "digits"})


def verdict(of: Image, **changed: Any) -> Verdict:
    facts: dict[str, Any] = {
        "result": "passed",
        "model": "digits",
        "version": "1.0",
        "image": of.digest,
        "config": of.config_digest,
        "samples_digest": "",
        "conditions": "",
        "concurrency": 1,
        "ready_s": 1.0,
        "load_s": 0.5,
        "total_s": 2.0,
        "samples": [],
    }
    return Verdict(**{**facts, **changed})


def model(**changed: Any) -> Model:
    facts = {"name": "digits", "weights": "s3://bucket/digits/model.pt?versionId=7", "handler": "image-classifier"}
    return Model.model_validate({**facts, **changed})


@dataclass(frozen=True)
class Bundle:
    """What attest takes of a bundle."""

    folder: Path
    image: Image
    verdict: Verdict
    model: Model = field(default_factory=model)
    version: str = "1.0"
    source: Source = field(default_factory=lambda: Source("acme/digits", "c" * 40, "refs/heads/main", 7, "", "ada"))
