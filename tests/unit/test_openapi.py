"""The image's OpenAPI document is valid, has the same bytes every time, and fits the samples and handlers."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from PIL import Image
from torch import nn

from tests.unit.model_dirs import write
from torchrelay.core.paths import ROOT
from torchrelay.image import openapi
from torchrelay.model.model import Model, load_model
from torchrelay.model.sample_file import Expect
from torchrelay.model.samples import Sample, load_samples
from torchrelay_handlers import catalogue, shipped

EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/model.yaml"))
JSON = "application/json"
NAMES = ["cat", "dog"]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "tensor, any shape": ("tensor", {}),
    "tensor, one shape": ("tensor", {"shape": [2, 3], "dtype": "uint8"}),
    "tensor, a free size": ("tensor", {"shape": [None, 3], "dtype": "bool", "nan": "refuse"}),
    "tensor, one number": ("tensor", {"shape": [], "dtype": "bfloat16", "output": "argmax"}),
    "tensor, softmax": ("tensor", {"shape": [4], "output": "softmax", "max_instances": 3}),
    "classifier": ("image-classifier", {}),
    "classifier, all options": (
        "image-classifier",
        {"classes": NAMES, "top_k": 2, "activation": "none", "url_hosts": ["*.example.com"]},
    ),
    "segmenter": ("image-segmenter", {"formats": ["TIFF"]}),
    "segmenter, all parts": (
        "image-segmenter",
        {"answer": ["classes", "png", "size", "mask"], "classes": NAMES, "mask_size": "input"},
    ),
    "texts": ("text-classifier", {"vocab": "vocab.txt", "classes": NAMES}),
    "texts, cut": ("text-classifier", {"tokenizer": "t.py", "too_long": "refuse", "max_characters": 9}),
    "own": ("handler.py", {}),
    "own, images": ("handler.py:Net", {"input": "image"}),
    "own, text": ("handler.py", {"input": "text"}),
    "own, json": ("handler.py", {"input": "json"}),
    "own, bytes": ("handler.py", {"input": "bytes"}),
}


def model(handler: str, **arguments: Any) -> Model:
    return Model.model_validate({"name": "m", "weights": "model.pt", "handler": handler, "handler_args": arguments})


def described(handler: str, arguments: dict[str, Any], samples: tuple[Sample, ...] = ()) -> dict[str, Any]:
    return openapi.document(model(handler, **arguments), "1.0", samples, arguments.get("classes"))


def of_example(name: str) -> tuple[dict[str, Any], list[Sample]]:
    folder = ROOT / "examples" / name
    loaded = load_model(folder)
    samples = load_samples(folder, loaded)
    return json.loads(openapi.rendered(folder, loaded, "1.0", samples)), samples


def fits(document: dict[str, Any], part: str, kind: str, value: Any) -> bool:
    """Return whether the value fits the schema of `Request` or of `Answer`."""
    place = document["components"]["requestBodies" if part == "Request" else "responses"][part]
    return Draft202012Validator({**place["content"][kind]["schema"], "components": document["components"]}).is_valid(value)


def test_every_shipped_handler_is_described() -> None:
    assert {handler for handler, _ in VARIANTS.values()} >= set(catalogue.SHIPPED)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_document_is_valid(variant: str) -> None:
    document = described(*VARIANTS[variant])
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert {"/predictions/m", "/predictions/m/1.0", "/invocations", "/ping"} <= document["paths"].keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_examples_document_is_valid_and_has_its_samples(name: str) -> None:
    document, samples = of_example(name)
    validate(document)
    shown = document["components"]["requestBodies"]["Request"]["content"].get(JSON, {}).get("examples", {})
    assert shown.keys() == {s.name for s in samples if s.public}
    if name == "tabular":
        assert shown["setosa"]["value"] == json.loads(next(s.body for s in samples if s.name == "setosa"))


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "resnet-factory"])
def test_samples_fit_the_document(name: str) -> None:
    document, samples = of_example(name)
    for sample in samples:
        if sample.expect.status == 200 and sample.expect.mode != "subset":
            assert fits(document, "Answer", JSON, sample.expect.value), sample.name
        if sample.content_type == JSON:
            assert fits(document, "Request", JSON, json.loads(sample.body)) == (sample.expect.status == 200), sample.name
        else:
            assert sample.content_type in document["components"]["requestBodies"]["Request"]["content"]


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write(tmp_path)
    loaded = load_model(folder)
    samples = load_samples(folder, loaded)
    turned = loaded.model_copy(update={"handler_args": dict(reversed({"dtype": "auto", **loaded.handler_args}.items()))})
    assert openapi.rendered(folder, loaded, "1", samples) == openapi.rendered(folder, turned, "1", samples)
    assert openapi.rendered(folder, loaded, "1", samples) != openapi.rendered(folder, loaded, "2", samples)


def test_names_of_classes_come_from_the_models_file(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "model.yaml": "name: d\nweights: model.pt\nhandler: image-classifier\nhandler_args: {classes: names.txt}\n",
            "names.txt": "cat\ndog\n",
        },
    )
    document = json.loads(openapi.rendered(folder, load_model(folder), "1", []))
    assert document["components"]["schemas"]["Answer"]["properties"]["class"]["enum"] == NAMES


def test_a_long_list_of_classes_is_left_out() -> None:
    many = [str(place) for place in range(1001)]
    document = described("image-classifier", {"classes": many})
    assert "enum" not in document["components"]["schemas"]["Answer"]["properties"]["class"]


@pytest.mark.parametrize(
    ("arguments", "good", "bad"),
    [
        ({"shape": [2]}, [[1, 2.5], [[1, 2]], {"data": [1, 2]}, {"instances": [[1, 2]]}], [[1], [1, "2"], 1, None, {"x": [1, 2]}]),
        ({"shape": [1], "dtype": "uint8"}, [[255]], [[256], [-1], [0.5], [True]]),
        ({"shape": [1], "dtype": "bool"}, [[True], [0]], [[2]]),
        ({"shape": [None]}, [[1], [1, 2]], [[], 1]),
        ({"shape": []}, [1, [1, 2]], [[], "1"]),
        ({}, [1, [[1, 2], [3, 4]], {"input_data": 3}], [None, "", {}, []]),
        ({"shape": [1], "max_instances": 2}, [[[1], [1]]], [[[1], [1], [1]], {"instances": []}]),
    ],
)
def test_the_handler_accepts_and_refuses_the_same_requests_as_the_document(
    arguments: dict[str, Any], good: list[Any], bad: list[Any]
) -> None:
    document = described("tensor", arguments)
    handler = shipped.make("tensor", nn.Identity, arguments).load(None)
    for value in [*good, *bad]:
        (answer,) = handler.predict([json.dumps(value).encode()], JSON)
        assert fits(document, "Request", JSON, value) == (value in good), value
        assert (answer.status == 200) == (value in good), value
        if answer.status == 200:
            assert fits(document, "Answer", JSON, answer.json()), value
        else:
            assert Draft202012Validator(document["components"]["schemas"]["Problem"]).is_valid(answer.json())


class Scores(nn.Module):
    """[N, 3, H, W] -> [N, 2], or [N, 2, H, W] of the two first channels."""

    def __init__(self, *, each_pixel: bool) -> None:
        super().__init__()
        self.each_pixel = each_pixel

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch[:, :2] if self.each_pixel else batch[:, :2].mean((2, 3))


def png() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("variant", ["classifier", "classifier, all options", "segmenter", "segmenter, all parts"])
def test_an_image_handlers_answers_fit_the_document(variant: str) -> None:
    name, options = VARIANTS[variant]
    arguments = {**options, "size": 8, "formats": ["PNG"]}
    handler = shipped.make(name, lambda: Scores(each_pixel=name == "image-segmenter"), arguments).load(None)
    document = described(name, arguments)
    text = base64.b64encode(png()).decode()
    good: list[Any] = [text, {"image": text}, {"b64": {"b64": text}}, {"instances": [text, {"data": text}]}]
    bad: list[Any] = [3, {"images": text}, {"image": text, "data": text}, {}, [], {"instances": []}]
    for value in good:
        assert fits(document, "Request", JSON, value)
        (answer,) = handler.predict([json.dumps(value).encode()], JSON)
        assert answer.status == 200
        assert fits(document, "Answer", JSON, answer.json())
    for value in bad:
        assert not fits(document, "Request", JSON, value)
        assert handler.predict([json.dumps(value).encode()], JSON)[0].status == 400
    assert fits(document, "Request", JSON, {"url": "https://a.example.com/x.png"}) == ("url_hosts" in arguments)
    for kind in ("image/png", "application/octet-stream"):
        assert kind in document["components"]["requestBodies"]["Request"]["content"]
        assert handler.predict([png()], kind)[0].status == 200


def test_status_codes_are_those_of_the_options() -> None:
    def codes(handler: str, **arguments: Any) -> set[str]:
        responses: dict[str, Any] = described(handler, arguments)["paths"]["/invocations"]["post"]["responses"]
        return set(responses)

    usual = codes("tensor")
    assert {"200", "400", "404", "405", "408", "413", "414", "415", "500", "503", "504", "507"} == usual
    assert codes("tensor", nan="refuse") - usual == {"422"}
    assert codes("image-segmenter") - usual == {"406"}
    assert codes("handler.py") - usual == {"default"}


def test_private_large_and_refused_samples_are_no_examples(tmp_path: Path) -> None:
    """Samples may be taken from real requests, so only those marked as public are shown to everyone."""
    samples = {
        "large": {"request": {"json": [1.0] * 2000}, "expect": {"json": [1]}, "public": True},
        "bad": {"request": {"json": "x"}, "expect": {"status": 400}, "public": True},
        "shown": {"request": {"json": [1, 2, 3, 4]}, "expect": {"json": [2]}, "public": True},
        "secret": {"request": {"json": [5, 6, 7, 8]}, "expect": {"json": [3]}},
    }
    folder = write(tmp_path, {f"samples/{name}.json": json.dumps(sample) for name, sample in samples.items()})
    loaded = load_model(folder)
    document = json.loads(openapi.rendered(folder, loaded, "1", load_samples(folder, loaded)))
    shown = document["components"]["requestBodies"]["Request"]["content"][JSON]["examples"]
    assert shown == {"shown": {"value": [1, 2, 3, 4]}}
    assert document["components"]["responses"]["Answer"]["content"][JSON]["examples"].keys() == {"shown", "large"}


@pytest.mark.parametrize(("default", "routes"), [(None, {"", "/1.0"}), ("1.0", {"", "/1.0"}), ("old", {"/1.0"})])
def test_another_version_is_not_described_as_this_one(default: str | None, routes: set[str]) -> None:
    two = model("tensor").model_copy(update={"versions": ["old.mar"], "default_version": default})
    expect = Expect(value=[1.0])
    samples = tuple(
        Sample(name or "plain", name.encode() or b"[0]", JSON, expect, None, "s.json", 1, name, public=True)
        for name in ("old", "1.0", "")
    )
    spec = openapi.document(two, "1.0", samples)
    validate(spec)
    assert {path for path in spec["paths"] if path.startswith("/predictions")} == {f"/predictions/m{route}" for route in routes}
    text = json.dumps(spec["components"]["requestBodies"])
    assert ('"1.0"' in text, '"old"' in text, '"plain"' in text) == (True, False, default != "old")
    assert "Other versions answer at /predictions/m/<version>" in spec["info"]["description"]
