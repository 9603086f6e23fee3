"""Requests in one batch are answered as each is alone: every shipped handler and example.

Tolerance: numbers to 1e-4 (a batch is added up in another order than a sample alone), a mask to one pixel in a thousand, all else
exactly. A bad request gets the same 4xx as alone. A handler that answers its batch by `data[0]` fails the same test.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import math
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.container.harness import JSON, PREDICT, Answer, Container, Factory
from torchrelay.core.paths import ROOT
from torchrelay.model.model import Batch, load_model
from torchrelay.stages.archive import plan_entries

EXAMPLES = ROOT / "examples"
SIZES = (1, 2, 7, 32)
PNG = "image/png"
DATA_0 = """
import torch
from torch import nn

class ByTheFirst:
    def initialize(self, context):
        self.model = nn.Flatten()

    def handle(self, data, context):
        answer = self.model(torch.tensor([data[0]["body"]])).sum().item()  # a usual mistake, with a list of the right length
        return [answer] * len(data)
"""
WORDS = ["red", "green", "blue", "up", "down", "left", "right", "the"]
TEXT_MODEL = """
from torch import nn

class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, ids):
        return self.head(self.table(ids).mean(1))
"""


@dataclass(frozen=True)
class Body:
    """One request."""

    content: bytes
    content_type: str = JSON


def png(pixels: np.ndarray) -> Body:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Body(buffer.getvalue(), PNG)


def noise(height: int, width: int) -> Callable[[int], Body]:
    """Blots: unlike noise of single pixels, they survive scaling and stay different."""
    return lambda seed: png(
        np.random.default_rng(seed).integers(0, 256, (4, 4), np.uint8).repeat(height // 4, 0).repeat(width // 4, 1)
    )


def scene(seed: int) -> Body:
    spec = importlib.util.spec_from_file_location("scenes_of_the_example", EXAMPLES / "segmentation/scenes.py")
    assert spec is not None
    assert spec.loader is not None
    scenes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scenes)
    return png(np.asarray(scenes.scene(seed, 60, 80)[0]))


def numbers(seed: int) -> Body:
    dice = random.Random(seed)
    return Body(json.dumps([dice.uniform(0, 8) if seed % 2 else dice.randint(0, 8) for _ in range(4)]).encode())


def text(seed: int) -> Body:
    dice = random.Random(seed)
    return Body(json.dumps({"text": " ".join(dice.choices(WORDS, k=dice.randint(1, 6)))}).encode())


BAD_JSON = [Body(b"{"), Body(b'{"a": 1, "a": 2}'), Body(b"null"), Body(b"[[1], [2, 3]]"), Body(b"[1, true, 2, 3]")]
BAD_IMAGES = [Body(scene(0).content[:300], PNG), Body(b"GIF89a", PNG), Body(b"no image", PNG), Body(b'{"image": "?"}'), Body(b"{}")]
BAD_TEXTS = [Body(b"{"), Body(b'{"text": 3}'), Body(b"[]"), Body(b'{"text": ""}'), Body(b"\xff", "text/plain")]

KINDS: dict[str, tuple[Callable[[int], Body], list[Body]]] = {
    "tabular": (numbers, BAD_JSON),  # tensor
    "digits": (noise(8, 8), BAD_IMAGES),  # image-classifier
    "segmentation": (scene, BAD_IMAGES),  # image-segmenter
    "resnet-factory": (noise(32, 32), BAD_IMAGES),  # handler_factory
    "text": (text, BAD_TEXTS),  # text-classifier
}


def text_model(folder: Path) -> Path:
    """A model directory for text-classifier, which no example shows."""
    torch.manual_seed(1)
    table, head = nn.Embedding(8, 4), nn.Linear(4, 3)
    torch.save(
        {"table.weight": table.weight.data * 3, "head.weight": head.weight.data, "head.bias": head.bias.data}, folder / "model.pt"
    )
    (folder / "model.py").write_text(TEXT_MODEL)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    keys = "name: text\nweights: model.pt\nhandler: text-classifier\nmodel_file: model.py\n"
    (folder / "model.yaml").write_text(keys + "handler_args: {vocab: vocab.txt, classes: [a, b, c], example: red up, top_k: 3}\n")
    return folder


def data_0(folder: Path) -> Path:
    torch.save({}, folder / "model.pt")
    (folder / "handler.py").write_text(DATA_0)
    (folder / "model.yaml").write_text("name: first\nweights: model.pt\nhandler: handler.py\n")
    return folder


def served(container: Factory, folder: Path, good: Body) -> Container:
    """The folder's archive, unpacked over the runtime image and serving, in batches of up to 32."""
    model = load_model(folder).model_copy(update={"batch": Batch(size=32, delay_ms=30)})
    weights = folder / model.weights.uri
    warmup = {"content_type": good.content_type, "body": base64.b64encode(good.content).decode()}
    files = {}
    for entry in plan_entries(folder, model, weights, weights.name, "1.0"):
        with entry.open() as file:
            files[entry.name] = file.read()
    tag = container.archive_image(files, {"batch_size": 32, "batch_delay_ms": 30, "warmup": warmup})
    return container.start(tag, cpus=2.0).wait_ready()


def together(on: Container, bodies: Sequence[Body]) -> list[Answer]:
    """Send all at the same moment."""
    answers: list[Answer | None] = [None] * len(bodies)
    start = threading.Barrier(len(bodies))

    def send(row: int) -> None:
        start.wait(20)
        answers[row] = on.send("POST", PREDICT, bodies[row].content, bodies[row].content_type)

    threads = [threading.Thread(target=send, args=(row,)) for row in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    return [answer for answer in answers if answer is not None]


def same(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, dict) and isinstance(got, dict):
        return wanted.keys() == got.keys() and all(
            near_mask(wanted[key], got[key]) if key == "base64_prediction" else same(wanted[key], got[key]) for key in wanted
        )
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(map(same, wanted, got))
    if isinstance(wanted, float) and isinstance(got, float):
        return math.isclose(wanted, got, rel_tol=1e-4, abs_tol=1e-4)
    if isinstance(wanted, int) and isinstance(got, int) and wanted > 100:  # pixels of a class
        return math.isclose(wanted, got, rel_tol=0.01)
    return bool(wanted == got)


def near_mask(wanted: str, got: str) -> bool:
    masks = [np.frombuffer(base64.b64decode(text), np.uint8) for text in (wanted, got)]
    return masks[0].shape == masks[1].shape and bool((masks[0] != masks[1]).mean() <= 0.001)


def differences(on: Container, good: Sequence[Body], poison: Sequence[Body]) -> list[str]:
    """The requests that are answered differently together and alone; [] if there are none."""
    everything = [*good, *poison]
    alone = {body: together(on, [body])[0] for body in everything}
    failures = [f"{body.content[:40]!r} alone: {alone[body].status}" for body in good if alone[body].status != 200]
    failures += [
        f"poison {body.content[:40]!r} alone: {alone[body].status}" for body in poison if not 400 <= alone[body].status < 500
    ]
    if len({answer.body for body, answer in alone.items() if body in good}) < len(good) // 2:
        failures.append("the samples are answered alike: nothing would show that they were mixed up")
    dice = random.Random(3)
    for size in SIZES:
        for _ in range(max(2, 12 // size)):
            bodies = dice.sample(everything, size)
            if size > 1 and not any(body in poison for body in bodies):
                bodies[dice.randrange(size)] = dice.choice(poison)
            for body, answer in zip(bodies, together(on, bodies), strict=True):
                wanted = alone[body]
                if (wanted.status, wanted.headers.get("content-type")) != (
                    answer.status,
                    answer.headers.get("content-type"),
                ) or not same(wanted.json, answer.json):
                    failures.append(
                        f"{body.content[:40]!r} among {size}: {answer.status} {answer.body[:80]!r}, alone {wanted.body[:80]!r}"
                    )
    return failures


@pytest.mark.parametrize("name", KINDS)
def test_answers_are_the_same_in_any_batch(container: Factory, name: str, tmp_path: Path) -> None:
    make, poison = KINDS[name]
    good = [make(seed) for seed in range(1, 33)]
    folder = text_model(tmp_path) if name == "text" else EXAMPLES / name
    on = served(container, folder, good[0])
    assert differences(on, good, poison) == []
    assert on.logs().count("model loaded on") == 1, "a worker was restarted"


def test_a_handler_that_reads_only_data_0_fails_the_same_test(container: Factory, tmp_path: Path) -> None:
    good = [numbers(seed) for seed in range(1, 33)]
    failures = differences(served(container, data_0(tmp_path), good[0]), good, BAD_JSON[:1])
    assert [line for line in failures if "among 32: 200" in line]
