"""The files of the model directory that an export writes, beside the weights."""

import itertools
import json
import re
from typing import Any

from torchrelay.authoring.fastai import picture
from torchrelay.authoring.fastai.learner import Classified, Segmented, Told
from torchrelay.authoring.fastai.model_source import model_file
from torchrelay.authoring.templates import GITIGNORE
from torchrelay.model.model import SCHEMA_URL

WEIGHTS = "model.pt"
NEAR = 1e-3  # confidences nearer to each other than this may change places on another machine
TOLERANCE = 0.005

MODEL_YAML = """\
# yaml-language-server: $schema={schema}
name: {name}
weights: {weights}            # a state_dict; the learner's weights, unchanged
handler: {handler}
handler_args:
{arguments}
model_file: model.py          # init_function makes the network in pure PyTorch: the image needs no fastai
samples: samples              # what the learner itself answered
device: cpu
batch: {{size: 8, delay_ms: 1}}
resources: {{cpu: 1, memory: 2Gi}}
targets:
  docker: {{port: 8080}}
"""


def files(told: Told, name: str, origin: str) -> dict[str, bytes]:
    """Every file with its content; `origin` is the learner's file name.

    Raises:
        DescriptionInvalid: the network is described otherwise than the tables say.
    """
    names = class_names(told)
    answers = "[N, classes, H, W], scores" if told.task == "segment" else f"[N, {told.count}], a score per class"
    shape = (told.channels, told.size[0], told.size[1])
    arguments = handler_args(told, names)
    yaml = MODEL_YAML.format(
        schema=SCHEMA_URL,
        name=name if re.fullmatch(r"[a-z][a-z0-9-]*", name) else json.dumps(name),
        weights=WEIGHTS,
        handler="image-segmenter" if told.task == "segment" else "image-classifier",
        arguments="\n".join(f"  {key}: {value}" for key, value in arguments.items()),
    )
    found = {
        "model.yaml": yaml.encode(),
        "model.py": model_file(told.network, f"The network of {origin}, a learner of fastai.", shape, answers).encode(),
        ".gitignore": GITIGNORE.encode(),
        "samples/learner.png": picture.png(*told.picture),
        "samples/learner.json": (json.dumps(sample(told, names), indent=2, ensure_ascii=False) + "\n").encode(),
    }
    if names is not None:
        text = "\n".join(names) + "\n"
        listed = is_list(names)
        found["classes.txt" if listed else "classes.json"] = (text if listed else json.dumps(names, ensure_ascii=False)).encode()
    return found


def class_names(told: Told) -> list[str] | None:
    """The learner's vocabulary, None when it does not fit the network's outputs."""
    return list(told.vocab) if len(told.vocab) == told.count else None


def is_list(names: list[str]) -> bool:
    """Whether a text file with one name a line can hold them: none is empty, and none is changed by being a line."""
    return all(name and name == name.strip() and len(name.splitlines()) == 1 for name in names)


def handler_args(told: Told, names: list[str] | None) -> dict[str, str]:
    """The handler's options as YAML writes them."""
    found: dict[str, str] = {}
    if names is not None:
        found["classes"] = "classes.txt" if is_list(names) else "classes.json"
    found["size"] = f"{told.size}            # height and width of the network's input, in pixels"
    found["fit"] = told.fit
    found["mode"] = "RGB" if told.channels == 3 else "L"
    found["mean"] = _numbers(told.mean)
    found["std"] = _numbers(told.std)
    if told.task == "segment":
        found["answer"] = "[mask, size, classes]"
    else:
        found["activation"] = told.activation
        if told.activation == "sigmoid":
            found["top_k"] = f"{told.count}            # several classes may be true at once: all are answered"
    return found


def _numbers(values: list[float]) -> str:
    return json.dumps([float(f"{value:.7g}") for value in values])  # float32 has no more digits


def sample(told: Told, names: list[str] | None) -> dict[str, Any]:
    """The picture, and what the learner answered to it as far as another machine must answer the same."""
    expect = _mask(told.answer, names) if isinstance(told.answer, Segmented) else _classes(told, told.answer, names)
    return {"request": {"body_file": "learner.png", "content_type": "image/png"}, "expect": expect}


def _named(place: int, names: list[str] | None) -> str:
    return names[place] if names is not None else str(place)


def _classes(told: Told, answer: Classified, names: list[str] | None) -> dict[str, Any]:
    ranked = sorted(enumerate(answer.confidences), key=lambda pair: -pair[1])
    if told.activation == "softmax" and (len(ranked) == 1 or ranked[0][1] - ranked[1][1] > NEAR):
        value = {"class": _named(ranked[0][0], names), "confidence": round(ranked[0][1], 6)}
        return {"json": value, "compare": "numeric", "atol": TOLERANCE}
    if told.activation == "sigmoid" and all(a[1] - b[1] > NEAR for a, b in itertools.pairwise(ranked)):
        top = [{"class": _named(place, names), "confidence": round(value, 6)} for place, value in ranked]
        value = {**top[0], "top": top} if len(top) > 1 else top[0]
        return {"json": value, "compare": "numeric", "atol": TOLERANCE}
    return {"json": {}, "compare": "subset"}


def _mask(answer: Segmented, names: list[str] | None) -> dict[str, Any]:
    """Every pixel when none is a near thing; else which classes there are, when the unsure pixels cannot change that."""
    value: dict[str, Any] = {"size": list(answer.size)}
    pixels = answer.pixels
    counts = sorted(((pixels.count(place), place) for place in set(pixels)), key=lambda pair: (-pair[0], pair[1]))
    gaps = [a[0] - b[0] for a, b in zip(counts, [*counts[1:], (0, 0)], strict=True)]
    present = {place for _, place in counts}
    if answer.unsure == 0:
        value["base64_prediction"] = answer.mask
    if answer.unsure == 0 or (min(gaps) > 2 * answer.unsure and set(answer.rivals) <= present):
        value["classes"] = [{"class": _named(place, names)} for _, place in counts]
    return {"json": value, "compare": "subset"}
