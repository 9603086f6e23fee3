"""The files of an exported model directory, except the weights."""

import itertools
import json
import re
from typing import Any

from torchrelay.authoring.fastai import picture
from torchrelay.authoring.fastai.learner import Classified, LearnerDescription, Segmented
from torchrelay.authoring.fastai.model_source import model_file
from torchrelay.authoring.templates import GITIGNORE
from torchrelay.model.model import SCHEMA_URL

WEIGHTS = "model.pt"
NEAR = 1e-3  # confidences closer to each other than this may swap places on another machine
TOLERANCE = 0.005

MODEL_YAML = """\
# yaml-language-server: $schema={schema}
name: {name}
weights: {weights}            # a state_dict with the learner's weights, unchanged
handler: {handler}
handler_args:
{arguments}
model_file: model.py          # init_function makes the network in pure PyTorch; the image needs no fastai
samples: samples              # the learner's own answers
device: cpu
batch: {{size: 8, delay_ms: 1}}
resources: {{cpu: 1, memory: 2Gi}}
targets:
  docker: {{port: 8080}}
"""


def files(learner: LearnerDescription, name: str, origin: str) -> dict[str, bytes]:
    """Return every file with its content; `origin` is the learner's file name.

    Raises:
        DescriptionInvalid: the network's description does not follow the tables.
    """
    names = class_names(learner)
    answers = "[N, classes, H, W], scores" if learner.task == "segment" else f"[N, {learner.count}], a score per class"
    shape = (learner.channels, learner.size[0], learner.size[1])
    arguments = handler_args(learner, names)
    yaml = MODEL_YAML.format(
        schema=SCHEMA_URL,
        name=name if re.fullmatch(r"[a-z][a-z0-9-]*", name) else json.dumps(name),
        weights=WEIGHTS,
        handler="image-segmenter" if learner.task == "segment" else "image-classifier",
        arguments="\n".join(f"  {key}: {value}" for key, value in arguments.items()),
    )
    contents = {
        "model.yaml": yaml.encode(),
        "model.py": model_file(learner.network, f"The network of {origin}, a fastai learner.", shape, answers).encode(),
        ".gitignore": GITIGNORE.encode(),
        "samples/learner.png": picture.png(*learner.picture),
        "samples/learner.json": (json.dumps(sample(learner, names), indent=2, ensure_ascii=False) + "\n").encode(),
    }
    if names is not None:
        text = "\n".join(names) + "\n"
        listed = is_list(names)
        contents["classes.txt" if listed else "classes.json"] = (text if listed else json.dumps(names, ensure_ascii=False)).encode()
    return contents


def class_names(learner: LearnerDescription) -> list[str] | None:
    """Return the learner's vocabulary; None when it does not fit the network's outputs."""
    return list(learner.vocab) if len(learner.vocab) == learner.count else None


def is_list(names: list[str]) -> bool:
    """Return whether a text file with one name per line can hold them: no name is empty or changes when it is read as a line."""
    return all(name and name == name.strip("\ufeff").strip() and len(name.splitlines()) == 1 for name in names)


def handler_args(learner: LearnerDescription, names: list[str] | None) -> dict[str, str]:
    """Return the handler's options as YAML text."""
    arguments: dict[str, str] = {}
    if names is not None:
        arguments["classes"] = "classes.txt" if is_list(names) else "classes.json"
    arguments["size"] = f"{learner.size}            # height and width of the network's input, in pixels"
    arguments["fit"] = learner.fit
    arguments["mode"] = "RGB" if learner.channels == 3 else "L"
    arguments["mean"] = _numbers(learner.mean)
    arguments["std"] = _numbers(learner.std)
    if learner.task == "segment":
        arguments["answer"] = "[mask, size, classes]"
    else:
        arguments["activation"] = learner.activation
        if learner.activation == "sigmoid":
            arguments["top_k"] = f"{learner.count}            # several classes may be true at once; the answer has all of them"
    return arguments


def _numbers(values: list[float]) -> str:
    return json.dumps([float(f"{value:.7g}") for value in values])  # float32 has no more digits


def sample(learner: LearnerDescription, names: list[str] | None) -> dict[str, Any]:
    """Return the picture, and as much of the learner's answer as every machine must repeat."""
    expect = _mask(learner.answer, names) if isinstance(learner.answer, Segmented) else _classes(learner, learner.answer, names)
    return {"request": {"body_file": "learner.png", "content_type": "image/png"}, "expect": expect}


def _class_name(index: int, names: list[str] | None) -> str:
    return names[index] if names is not None else str(index)


def _classes(learner: LearnerDescription, answer: Classified, names: list[str] | None) -> dict[str, Any]:
    ranked = sorted(enumerate(answer.confidences), key=lambda pair: -pair[1])
    if learner.activation == "softmax" and (len(ranked) == 1 or ranked[0][1] - ranked[1][1] > NEAR):
        value = {"class": _class_name(ranked[0][0], names), "confidence": round(ranked[0][1], 6)}
        return {"json": value, "compare": "numeric", "atol": TOLERANCE}
    if learner.activation == "sigmoid" and all(a[1] - b[1] > NEAR for a, b in itertools.pairwise(ranked)):
        top = [{"class": _class_name(index, names), "confidence": round(value, 6)} for index, value in ranked]
        value = {**top[0], "top": top} if len(top) > 1 else top[0]
        return {"json": value, "compare": "numeric", "atol": TOLERANCE}
    return {"json": {}, "compare": "subset"}


def _mask(answer: Segmented, names: list[str] | None) -> dict[str, Any]:
    """Expect every pixel when all are sure; otherwise the classes, when the unsure pixels cannot change which ones occur."""
    value: dict[str, Any] = {"size": list(answer.size)}
    pixels = answer.pixels
    counts = sorted(((pixels.count(index), index) for index in set(pixels)), key=lambda pair: (-pair[0], pair[1]))
    gaps = [a[0] - b[0] for a, b in zip(counts, [*counts[1:], (0, 0)], strict=True)]
    present = {index for _, index in counts}
    if answer.unsure == 0:
        value["base64_prediction"] = answer.mask
    if answer.unsure == 0 or (min(gaps) > 2 * answer.unsure and set(answer.rivals) <= present):
        value["classes"] = [{"class": _class_name(index, names)} for _, index in counts]
    return {"json": value, "compare": "subset"}
