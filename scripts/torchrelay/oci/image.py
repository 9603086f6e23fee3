"""An image as files and digests: config, manifest and layers, independent of any daemon or registry."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torchrelay.core.files import read_json, write_json
from torchrelay.oci.blobs import Blob, from_bytes, sha256_digest
from torchrelay.oci.layers import Layer

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


@dataclass(frozen=True)
class Image:
    """A single-platform OCI image (linux/amd64); `config` is the OCI image config."""

    config: dict[str, Any]
    layers: tuple[Layer, ...]
    annotations: dict[str, str]

    @cached_property
    def config_bytes(self) -> bytes:
        """The bytes of the config that are hashed: sorted keys, no spaces."""
        return canonical(self.config)

    @cached_property
    def config_digest(self) -> str:
        """The identity of the running image; `docker images --no-trunc` shows it as the image id."""
        return sha256_digest(self.config_bytes)

    @cached_property
    def manifest_bytes(self) -> bytes:
        """The bytes of the manifest that are pushed."""
        return canonical(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {"mediaType": CONFIG_TYPE, "digest": self.config_digest, "size": len(self.config_bytes)},
                "layers": [layer.descriptor() for layer in self.layers],
                "annotations": self.annotations,
            }
        )

    @cached_property
    def digest(self) -> str:
        """Digest of the manifest, which registries and Kubernetes call the image's digest."""
        return sha256_digest(self.manifest_bytes)

    def blobs(self) -> list[Blob]:
        """Return the blobs that a registry must have before it accepts the manifest."""
        unique = {layer.blob.digest: layer.blob for layer in self.layers}
        return [*unique.values(), from_bytes(self.config_bytes)]


def canonical(value: Any) -> bytes:
    """Return JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def save_image(path: Path, image: Image, **facts: Any) -> None:
    """Write an image's record, with additional facts about its build."""
    layers = [
        {
            **layer.blob.to_json(),
            "diff_id": layer.diff_id,
            "media_type": layer.media_type,
            "created_by": layer.created_by,
        }
        for layer in image.layers
    ]
    write_json(path, {"config": image.config, "layers": layers, "annotations": image.annotations, **facts})


def load_image(path: Path) -> tuple[Image, dict[str, Any]] | None:
    """Read a record; None when it is missing or damaged, or when a file with one of its layers is gone or changed."""
    record = read_json(path)
    try:
        layers = tuple(
            Layer(Blob.from_json(layer), layer["diff_id"], layer["media_type"], layer["created_by"]) for layer in record["layers"]
        )
        image = Image(record["config"], layers, record["annotations"])
    except (KeyError, TypeError, ValueError):
        return None
    if not all(layer.blob.present() for layer in image.layers):
        return None
    return image, record
