"""tensor and image-classifier, as model.yaml configures them."""

import base64
import io
import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from tests.unit.handlers.support import JSON, Double, differences
from torchrelay_handlers import BadSample, Handler, shipped
from torchrelay_handlers.bodies import images
from torchrelay_handlers.recipes import classes


class Brightness(nn.Module):
    """[N, C, H, W] -> [N, 2] logits: the mean, and nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)) * 4, torch.zeros(len(x))], 1)


class Patch(nn.Module):
    """[N, C, H, W] -> [N, C * H * W]: what the network was given, to look at."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def picture(size: tuple[int, int] = (4, 4), colour: Any = 255, mode: str = "L", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, kind)
    return buffer.getvalue()


def classifier(network: type[nn.Module] = Brightness, **options: Any) -> Handler:
    all_options = {"size": 4, "mode": "L", "classes": ["light", "dark"]} | options
    return shipped.make("image-classifier", network, all_options).load(None)


def seen_by_network(body: bytes, **options: Any) -> Tensor:
    """The network's input, flattened, for one picture."""
    all_options = {"size": 4, "mode": "L", "classes": None, "activation": "none"} | options
    handler = shipped.make("image-classifier", Patch, all_options).load(None)
    recipe_input = handler.steps.network_input.of(handler.steps.preprocess(body))
    assert handler.steps.prepare is not None
    got: Tensor = handler.steps.prepare(recipe_input.unsqueeze(0))[0]
    return got


def test_tensor_answers_the_networks_numbers() -> None:
    handler = shipped.make("tensor", Double, {"shape": [3]}).load(None)
    answers = handler.predict(
        [b"[1, 2, 3]", b'{"input_data": [1, 2, 3]}', b'{"instances": [[1, 2, 3]]}', b"[[1, 2, 3], [0, 0, 1]]"], JSON
    )
    assert [answer.json() for answer in answers] == [[2, 4, 6], [2, 4, 6], {"predictions": [[2, 4, 6]]}, [[2, 4, 6], [0, 0, 2]]]


@pytest.mark.parametrize(("output", "answer"), [("argmax", 2), ("softmax", [0.0, 0.0, 1.0]), ("values", [0, 2, 200])])
def test_tensor_can_answer_less(output: str, answer: object) -> None:
    handler = shipped.make("tensor", Double, {"shape": [3], "output": output}).load(None)
    assert handler.predict([b"[0, 1, 100]"], JSON)[0].json() == answer


def test_tensor_refuses_to_start_with_a_shape_that_the_network_does_not_take() -> None:
    with pytest.raises(RuntimeError, match=r"declared shape \[5\]"):
        shipped.make("tensor", Double, {"shape": [5]}).load(None)


def test_npy_arrays_are_one_sample_or_several() -> None:
    handler = shipped.make("tensor", Double, {"shape": [3], "max_instances": 4}).load(None)
    arrays = [np.ones(3), np.ones((2, 3), "i8"), np.ones((5, 3)), np.ones((2, 2))]
    bodies = []
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, array)
        bodies.append(buffer.getvalue())
    answers = handler.predict(bodies, "application/x-npy")
    assert [answer.status for answer in answers] == [200, 200, 413, 400]
    assert [answer.json() for answer in answers[:2]] == [[2, 2, 2], [[2, 2, 2], [2, 2, 2]]]


def test_more_rows_of_csv_than_are_taken_are_refused() -> None:
    handler = shipped.make("tensor", Double, {"max_instances": 2}).load(None)
    assert [a.status for a in handler.predict([b"1,2,3\n" * 3, b"1,2,3\n" * 2], "text/csv")] == [413, 200]


def test_csv_rows_are_samples() -> None:
    handler = shipped.make("tensor", Double, {"shape": [3]}).load(None)
    one, two = handler.predict([b"1,2,3\n", b"1,2,3\n4,5,6\n"], "text/csv")
    assert (one.json(), two.json()) == ([2, 4, 6], [[2, 4, 6], [8, 10, 12]])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_come_as_bytes_or_base64(kind: str) -> None:
    body = picture(kind=kind)
    text = base64.b64encode(body).decode()
    handler = classifier()
    bodies: list[Any] = [{"image": text}, {"data": text}, {"b64": text}, {"image_bytes": {"b64": text}}, text]
    answers = handler.predict([body]) + handler.predict([json.dumps(b).encode() for b in bodies], JSON)
    answers += handler.predict([f"data:image/png;base64,{text}".encode()], "text/plain")
    answers += handler.predict([json.dumps({"instances": [{"b64": text}]}).encode()], JSON)
    assert [answer.status for answer in answers] == [200] * len(answers)
    first: Any = answers[0].json()
    assert first["class"] == "light"
    assert first["confidence"] == pytest.approx(0.982, abs=1e-3)
    assert [answer.json() for answer in answers] == [first] * (len(answers) - 1) + [{"predictions": [first]}]


def test_top_k_lists_the_likeliest_first() -> None:
    (answer,) = classifier(top_k=5).predict([picture(colour=0)])
    assert answer.json() == {
        "class": "light", "confidence": 0.5, "top": [{"class": "light", "confidence": 0.5}, {"class": "dark", "confidence": 0.5}]
    }  # fmt: skip


def test_without_names_the_index_is_the_class() -> None:
    assert classifier(classes=None).predict([picture()])[0].json()["class"] == "0"  # type: ignore[index] # JSON's type is not known


def test_pixels_are_scaled_and_normalized_per_channel() -> None:
    body = picture(colour=(255, 51, 0), mode="RGB")
    got = seen_by_network(body, mode="RGB", mean=[0.5, 0.2, 0.0], std=[0.5, 1.0, 2.0])
    assert got.shape == (3, 4, 4)
    assert got[:, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    assert seen_by_network(picture(colour=51))[0, 0, 0].item() == pytest.approx(0.2)


def test_a_crop_keeps_proportions_and_a_stretch_keeps_everything() -> None:
    wide = Image.new("L", (12, 4), 0)
    wide.paste(255, (4, 0, 8, 4))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    assert seen_by_network(buffer.getvalue()).min().item() == 1.0  # the white middle alone
    assert seen_by_network(buffer.getvalue(), fit="stretch").min().item() < 0.5
    assert seen_by_network(picture((40, 30), 9, "RGB"), size=[2, 6], mode="RGB").shape == (3, 2, 6)
    assert seen_by_network(picture((40, 30)), size=[4, 4], resize=8).shape == (1, 4, 4)


def test_cropped_pixels_do_not_affect_the_rest() -> None:
    wide = Image.new("L", (12, 4), 0)
    wide.paste(255, (4, 0, 8, 4))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    for size in (3, 7):  # resizing first would mix the black edges in
        assert seen_by_network(buffer.getvalue(), size=[size, size]).min().item() == 1.0


def test_sixteen_bit_and_transparent_and_paletted_pictures_are_understood() -> None:
    half = picture(colour=32896, mode="I;16")
    assert seen_by_network(half)[0, 0, 0].item() == pytest.approx(0.5, abs=0.01)
    for mode, colour in (("RGBA", (255, 255, 255, 10)), ("P", 0), ("1", 1), ("LA", (9, 9))):
        assert classifier().predict([picture(colour=colour, mode=mode)])[0].status == 200
    assert classifier().predict([picture(colour=(0, 0, 0, 9), mode="CMYK", kind="JPEG")])[0].status == 200


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be of that size: its header alone is right."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (bomb(9_000, 9_000), 413),
        (bomb(60_000, 60_000), 413),
        (picture()[:50], 400),
        (picture(kind="BMP"), 400),
        (picture((1, 4000)), 400),
        (b"GIF89a", 400),
        (b"\x89PNG\r\n\x1a\n", 400),
        (b"\xff\xd8\xff\xe0" + b"\0" * 20, 400),
        (b"<svg/>", 400),
        (b"", 400),
    ],
)  # fmt: skip
def test_hostile_and_broken_pictures_are_refused(body: bytes, status: int) -> None:
    bad, good = classifier().predict([body, picture()], "image/png")
    assert (bad.status, good.status) == (status, 200)
    assert bad.content_type == "application/problem+json"


def test_no_pixel_is_decoded_before_the_size_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BadSample, match="100 x 100 pixels"):
        images.decode(bomb(100, 100), limits=images.Limits(9_999))


@pytest.mark.parametrize(
    "body",
    [
        b"{}", b"[]", b"null", b"3", b'""', b'"%%"', b'{"image": 3}', b'{"image": null}', b'{"image": ""}', b'{"image": ["a"]}',
        b'{"image": "YQ==", "b64": "YQ=="}', b'{"image": {"b64": 3}}', b'{"url": 3}',
        b'{"url": "http://169.254.169.254/"}', b'{"image": "YWJj"}',
    ],
)  # fmt: skip
def test_json_without_a_picture_is_refused(body: bytes) -> None:
    assert classifier().predict([body], JSON)[0].status == 400


def test_bmp_is_taken_when_it_is_allowed() -> None:
    assert classifier(formats=["BMP"]).predict([picture(kind="BMP")], "image/bmp")[0].status == 200


@pytest.mark.parametrize(
    ("file", "text", "names"),
    [
        ("classes.txt", "cat\n dog \n\n", ["cat", "dog"]),
        ("classes.json", '["cat", "dog"]', ["cat", "dog"]),
        ("index_to_name.json", '{"0": "cat", "1": ["n1", "dog"]}', ["cat", "dog"]),
    ],
)
def test_classes_are_read_from_a_file(tmp_path: Path, file: str, text: str, names: list[str]) -> None:
    (tmp_path / file).write_text(text)
    assert classes.read_classes(file, tmp_path) == names


@pytest.mark.parametrize(("file", "text"), [("missing.txt", None), ("c.json", "{"), ("c.json", '{"1": "dog"}'), ("c.json", "3")])
def test_a_wrong_file_of_classes_is_reported(tmp_path: Path, file: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=r"handler_args\.classes"):
        classes.read_classes(file, tmp_path)


def test_it_refuses_to_start_when_names_and_network_disagree() -> None:
    with pytest.raises(RuntimeError, match="has 2 classes, and `classes` names 3"):
        classifier(classes=["a", "b", "c"])
    with pytest.raises(RuntimeError, match="one number per class"):
        classifier(network=nn.Identity, classes=None)


@pytest.mark.parametrize(
    "options", [{"mean": [0.5, 0.5]}, {"resize": 2}, {"std": 0}, {"size": [4]}, {"formats": ["EXE"]}, {"top_k": True}]
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="handler_args"):
        classifier(**options)


def test_an_unknown_handler_is_reported() -> None:
    with pytest.raises(ValueError, match="tensor, image-classifier"):
        shipped.make("image-clasifier")


def test_answers_do_not_depend_on_neighbours() -> None:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    handler = shipped.make("image-classifier", lambda: network, {"size": 4, "mode": "L"}).load(None)
    dice = random.Random(7)
    bodies = [picture((dice.randint(2, 9), dice.randint(2, 9)), dice.randint(0, 255)) for _ in range(24)]
    bodies += [picture()[:45], b"", b"{}", bomb(9_000, 9_000)]
    dice.shuffle(bodies)

    def serve(some: list[bytes]) -> list[tuple[int, bytes]]:
        return [(a.status, rounded(a.json())) for a in handler.predict(some, "image/png")]

    assert differences(serve, bodies) == []


def rounded(answer: Any) -> bytes:
    """Batches of different sizes may differ in the last bits of a float32."""
    if "confidence" in answer:
        answer["confidence"] = round(answer["confidence"], 4)
    return json.dumps(answer).encode()


HANDLER = classifier()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=200)
@given(st.binary(max_size=80), st.integers(0, 70), st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_any_bytes_are_a_picture_or_a_4xx(noise: bytes, at: int, kind: str) -> None:
    whole = picture(kind=kind)
    for body in (noise, whole[:at] + noise + whole[at:], whole[:at] + noise):
        (answer,) = HANDLER.predict([body], "image/png")
        assert answer.status == 200 or 400 <= answer.status <= 499
