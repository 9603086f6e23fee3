"""Containers for the corpora: a shipped handler with limits that a request can reach, and the image's own description."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.container.corpus import encoded, pictures, tensors, texts
from tests.container.corpus.case import JSON, Case
from tests.container.harness import HOME, NAME, SERVING, Container, Factory, add
from tests.container.test_batches import EXAMPLES, text_model
from torchrelay.core.paths import IMAGE_OPENAPI
from torchrelay.image import openapi
from torchrelay.model.model import Batch, load_model
from torchrelay.model.samples import load_samples
from torchrelay.stages.archive import plan_entries

LARGEST_BODY_MIB = 2
BATCH = 16
VERSION = str(SERVING["version"])


@dataclass(frozen=True)
class Kind:
    """A model directory and its extra options, a request that it answers, and one of its `instances`."""

    make: Callable[[Path], Path]
    good: Case
    instance: object
    options: dict[str, Any] = field(default_factory=dict)

    def of_every_size(self) -> list[Case]:
        """A request of each number of samples that one batch may hold: torch keeps memory for every size it has seen."""
        bodies = (json.dumps({"instances": [self.instance] * count}).encode() for count in range(1, BATCH + 1))
        return [Case(f"{count + 1} instances", body, JSON, wanted="answered") for count, body in enumerate(bodies)]


def example(name: str) -> Callable[[Path], Path]:
    """Return the unchanged directory of an example."""
    return lambda _: EXAMPLES / name


def segmenter(folder: Path) -> Path:
    """A model directory whose network is one convolution: the example's network would take most of the test's time."""
    torch.manual_seed(1)
    torch.save(nn.Conv2d(3, 6, 1).state_dict(), folder / "model.pt")
    (folder / "model.py").write_text("from torch import nn\n\n\ndef init_function():\n    return nn.Conv2d(3, 6, 1)\n")
    keys = "name: segments\nweights: model.pt\nhandler: image-segmenter\nmodel_file: model.py\n"
    (folder / "model.yaml").write_text(keys + "handler_args: {answer: [mask, size, png, classes]}\n")
    return folder


_NUMBERS = Case("good", json.dumps(tensors.GOOD).encode(), JSON, wanted="answered")
_PICTURE = Case("good", pictures.picture(), pictures.PNG, wanted="answered")
_TEXT = Case("good", texts.GOOD.encode(), texts.TEXT, wanted="answered")
_ENCODED = base64.b64encode(pictures.picture()).decode()
_PIXELS = {"max_instances": encoded.MOST, "max_pixels": pictures.MOST_PIXELS}
KINDS = {
    "tensor": Kind(example("tabular"), _NUMBERS, tensors.GOOD, {"max_instances": tensors.MOST}),
    "image-classifier": Kind(example("digits"), _PICTURE, _ENCODED, _PIXELS),
    "image-segmenter": Kind(segmenter, _PICTURE, _ENCODED, _PIXELS),
    "text-classifier": Kind(text_model, _TEXT, texts.GOOD, {"max_instances": texts.MOST, "max_characters": texts.LONGEST}),
}


@dataclass(frozen=True)
class KindServer:
    """A running container of a kind, and its OpenAPI document."""

    name: str
    container: Container
    document: bytes

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]


def image_of(
    container: Factory, folder: Path, good: Case, options: dict[str, Any], largest_mib: int = LARGEST_BODY_MIB
) -> tuple[str, bytes]:
    """The folder's archive, unpacked over the runtime image, to be served in batches of up to BATCH; and its OpenAPI document."""
    model = load_model(folder)
    changed = {"name": NAME, "max_body_mb": largest_mib, "handler_args": model.handler_args | options}
    model = model.model_copy(update={"batch": Batch(size=BATCH, delay_ms=1), **changed})
    samples = load_samples(folder, model) if (folder / "samples").is_dir() else []
    described = openapi.rendered(folder, model, VERSION, samples)
    weights = folder / model.weights.uri
    warmup = {"content_type": good.content_type, "body": base64.b64encode(good.body).decode()}
    serving = SERVING | {"batch_size": BATCH, "warmup": warmup, "max_body_bytes": largest_mib << 20}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, "Dockerfile", f"FROM {container.runtime}\nCOPY opt /opt\n".encode())
        for entry in plan_entries(folder, model, weights, weights.name, VERSION):
            with entry.open() as file:
                add(archive, f"{HOME.lstrip('/')}/models/{NAME}/{entry.name}", file.read())
        add(archive, f"{HOME.lstrip('/')}/serving.json", json.dumps(serving).encode())
        add(archive, IMAGE_OPENAPI.lstrip("/"), described)
    return container.build(buffer.getvalue()), described


def served(container: Factory, folder: Path, good: Case, options: dict[str, Any]) -> tuple[Container, bytes]:
    """A ready container of `image_of`, and its OpenAPI document."""
    tag, described = image_of(container, folder, good, options)
    return container.start(tag, cpus=2.0).wait_ready(), described
