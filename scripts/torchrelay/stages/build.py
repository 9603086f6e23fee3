"""Build: turns the runtime image and the archive into the model's image, in layers that this module writes itself.

runtime < dependencies < other versions < weights < handler (< the result of the handler's own setup): nothing above an unchanged
layer changes, and a handler edit changes a few KB. The weights' layer is a tar header around the bytes inside the `.mar`: nothing
is copied, one hash pass is enough.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrelay.core import paths
from torchrelay.core.files import read_json, write_json
from torchrelay.core.progress import Progress
from torchrelay.core.workspace import Workspace
from torchrelay.image import openapi, versions
from torchrelay.image.dependencies import dependencies_layer
from torchrelay.image.mar import Archived
from torchrelay.image.runtime import RuntimeSettings, ensure_runtime
from torchrelay.image.serving import serving_config
from torchrelay.image.setup import setup_layer
from torchrelay.model.model import Model
from torchrelay.model.samples import Sample
from torchrelay.oci.blobs import Blob, Slice
from torchrelay.oci.image import Image, load_image, save_image
from torchrelay.oci.layers import TAR, TAR_FORMAT, Layer, LayerFile, tar_layer, tar_parts

EMBEDDED_LIMIT = 1 << 20


@dataclass(frozen=True)
class Built:
    """A finished model image, and whether it existed already."""

    image: Image
    skipped: bool

    def summary(self) -> dict[str, Any]:
        """Return what the CLI prints: digests and the size of each layer in bytes, as pushed."""
        return {
            "digest": self.image.digest,
            "config_digest": self.image.config_digest,
            "layers": [
                {"digest": layer.blob.digest, "size": layer.blob.size, "created_by": layer.created_by}
                for layer in self.image.layers
            ],
            "skipped": self.skipped,
        }


def _weights_layer(archived: Archived, folder: str, progress: Progress) -> Layer:
    place = archived.entries[archived.weights]
    path = archived.path.resolve()
    source = Slice(path, place.offset, place.size, path.stat().st_mtime_ns)
    file = LayerFile(f"{folder}/{archived.weights}", source, place.size)
    key = hashlib.sha256(f"{TAR_FORMAT} {file.path} {place.size} {place.sha256}".encode()).hexdigest()
    record = paths.cache_dir() / "layers" / f"weights-{key}.json"
    parts = tuple(tar_parts([file]))
    if isinstance(known := read_json(record), dict) and {"digest", "size"} <= known.keys():
        return Layer(Blob(known["digest"], known["size"], parts), known["digest"], TAR, "torchrelay weights")
    with progress.task("hash the weights layer", place.size) as task:
        layer = tar_layer([file], "torchrelay weights", task)
    write_json(record, {"digest": layer.blob.digest, "size": layer.blob.size})
    return layer


def _handler_layer(archived: Archived, folder: str, serving: dict[str, Any], openapi_json: bytes, progress: Progress) -> Layer:
    files = []
    for name, place in archived.entries.items():
        if name != archived.weights:
            source = Slice(archived.path.resolve(), place.offset, place.size)
            # Small files go into the record, so that it outlives the archive; a vocabulary of gigabytes stays in the archive.
            content = source if place.size > EMBEDDED_LIMIT else b"".join(source.chunks())
            files.append(LayerFile(f"{folder}/{name}", content, place.size))
    document = json.dumps(serving, indent=2, sort_keys=True).encode() + b"\n"
    files.append(LayerFile(paths.IMAGE_SERVING.lstrip("/"), document, len(document)))
    files.append(LayerFile(paths.IMAGE_OPENAPI.lstrip("/"), openapi_json, len(openapi_json)))
    with progress.task("handler layer", None) as task:
        return tar_layer(files, "torchrelay handler", task)


def compose(runtime: Image, added: list[Layer], labels: dict[str, str]) -> Image:
    """Return the runtime image with layers on top: same runtime and layers, same digest."""
    config = json.loads(runtime.config_bytes)
    config["rootfs"]["diff_ids"] += [layer.diff_id for layer in added]
    config["history"] += [{"created_by": layer.created_by} for layer in added]
    config["config"]["Labels"] = {**(config["config"].get("Labels") or {}), **labels}
    annotations = {key: value for key, value in labels.items() if key.startswith("org.opencontainers.")}
    return Image(config, (*runtime.layers, *added), annotations)


def run(
    model_dir: Path,
    model: Model,
    archived: Archived,
    samples: list[Sample],
    progress: Progress,
    settings: RuntimeSettings | None = None,
) -> Built:
    """Compose the model image and record it under `.torchrelay/image.json`.

    Raises DockerUnavailable, BuildFailed, DependenciesUnresolved, DiskFull. Needs Docker only for a runtime image or for
    dependencies that are not in the cache yet.
    """
    workspace = Workspace(model_dir)
    settings = settings or RuntimeSettings.from_environment(model.device)
    runtime = ensure_runtime(settings, progress)
    folder = paths.image_model_dir(model.name).lstrip("/")
    added: list[Layer] = []
    deps_dir, dependencies = None, None
    if model.requirements:
        requirements = (model_dir / model.requirements).read_bytes()
        deps_dir, dependencies = dependencies_layer(model_dir, runtime, requirements, progress)
        added.append(dependencies)
    others = versions.other_versions(model_dir, model, archived.version)
    added += [versions.version_layer(model_dir, one, progress) for one in others]
    added.append(_weights_layer(archived, folder, progress))
    setup = setup_layer(model_dir, runtime, archived, dependencies, folder, progress)
    if setup is not None and deps_dir in (None, paths.IMAGE_DEPS):
        deps_dir = setup[0] or deps_dir
    folders = [(one.version, paths.image_version_dir(one.version)) for one in others]
    serving = serving_config(model, archived.version, samples, deps_dir, paths.image_model_dir(model.name), folders)
    document = openapi.rendered(model_dir, model, archived.version, samples)
    added.append(_handler_layer(archived, folder, serving, document, progress))
    if setup is not None:
        added.append(setup[1])  # on top, so that its changes in the model's folder win
    labels = {
        "org.opencontainers.image.title": model.name,
        "org.opencontainers.image.version": archived.version,
        "org.torchrelay.runtime": runtime.annotations["org.torchrelay.runtime"],
    }
    image = compose(runtime, added, labels)
    before = load_image(workspace.image_record)
    skipped = before is not None and before[0].digest == image.digest
    save_image(workspace.image_record, image, digest=image.digest, config_digest=image.config_digest, name=model.name)
    return Built(image, skipped)
