"""image-segmenter: the class of every pixel, as a byte mask in base64, a PNG, or both."""

import base64
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.unit.handlers.support import JSON, differences
from torchrelay_handlers import Handler, Request, shipped
from torchrelay_handlers.messages import NotedSample


class ByColour(nn.Module):
    """[N, 3, H, W] -> [N, 3, H, W] scores: the class of a pixel is its strongest channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Dark(nn.Module):
    """[N, 1, H, W] -> one score, positive where the picture is lighter than the mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 0.5


def scene(height: int = 4, width: int = 6) -> bytes:
    """Left half red, right half blue, the top row green."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    pixels[0] = (0, 255, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PLAIN = {"size": [4, 6], "mean": 0.0, "std": 1.0}
MASK = np.array([[1] * 6] + [[0, 0, 0, 2, 2, 2]] * 3, np.uint8)


def segmenter(network: type[nn.Module] = ByColour, **options: Any) -> Handler:
    return shipped.make("image-segmenter", network, PLAIN | options).load(None)


def one(handler: Handler, body: bytes = b"", accept: str = "") -> Any:
    (answer,) = handler.answer([Request(body or scene(), "image/png", accept)])
    assert answer.status == 200, answer.body
    return answer


def test_the_mask_is_a_byte_a_pixel_in_base64() -> None:
    answer = one(segmenter()).json()
    assert answer.keys() == {"base64_prediction"}
    assert np.array_equal(np.frombuffer(base64.b64decode(answer["base64_prediction"]), np.uint8).reshape(4, 6), MASK)


def test_its_defaults_are_96_by_128_and_imagenets_normalisation() -> None:
    handler = shipped.make("image-segmenter", ByColour).load(None)
    assert (handler.options["size"], handler.options["fit"]) == ([96, 128], "stretch")
    picture = Image.open(io.BytesIO(scene(40, 30)))
    wanted = torch.from_numpy(np.asarray(picture.resize((128, 96), Image.Resampling.BILINEAR)).copy()).permute(2, 0, 1) / 255
    wanted = (wanted - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert handler.steps.prepare is not None
    noted = handler.steps.preprocess(scene(40, 30))
    assert isinstance(noted, NotedSample)
    assert noted.note == (40, 30)
    got = handler.steps.prepare(handler.steps.network_input.of(noted.sample).unsqueeze(0))[0]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    mask = np.frombuffer(base64.b64decode(one(handler, scene(40, 30)).json()["base64_prediction"]), np.uint8)
    assert np.array_equal(mask.reshape(96, 128), wanted.argmax(0).numpy())


def test_more_is_answered_when_model_yaml_asks_for_it() -> None:
    answer = one(segmenter(answer=["size", "classes", "png"], classes=["road", "tree", "sky"])).json()
    assert answer["size"] == [4, 6]
    assert answer["classes"] == [
        {"index": 0, "class": "road", "pixels": 9, "share": 0.375},
        {"index": 2, "class": "sky", "pixels": 9, "share": 0.375},
        {"index": 1, "class": "tree", "pixels": 6, "share": 0.25},
    ]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["png"])))), MASK)


@pytest.mark.parametrize("accept", ["image/png", "Image/PNG; q=1"])
def test_who_accepts_a_png_gets_the_picture(accept: str) -> None:
    answer = one(segmenter(), accept=accept)
    assert answer.content_type == "image/png"
    picture = Image.open(io.BytesIO(answer.body))
    assert np.array_equal(np.asarray(picture), MASK)
    assert len(set(picture.convert("RGB").getcolors() or ())) == 3


def mask_of(answer: Any) -> Any:
    members = answer.json()
    return np.frombuffer(base64.b64decode(members["base64_prediction"]), np.uint8).reshape(members["size"])


def test_a_mask_as_large_as_the_picture_is_had_on_request() -> None:
    handler = segmenter(answer=["mask", "size"])
    wanted = mask_of(one(handler, scene(8, 18))).repeat(2, 0).repeat(3, 1)
    assert wanted.shape == (8, 18)
    assert np.array_equal(mask_of(one(handler, scene(8, 18), "application/json; size=input")), wanted)
    picture = Image.open(io.BytesIO(one(handler, scene(8, 18), 'image/png;size="input"').body))
    assert np.array_equal(np.asarray(picture), wanted)


def test_model_yaml_chooses_the_masks_size_and_a_request_wins() -> None:
    handler = segmenter(answer=["mask", "size"], mask_size="input")
    assert mask_of(one(handler, scene(8, 18))).shape == (8, 18)
    assert mask_of(one(handler, scene(8, 18), "*/*;size=network")).shape == (4, 6)


def test_each_of_several_pictures_gets_a_mask_of_its_size() -> None:
    handler = segmenter(answer=["size"])
    pictures = b", ".join(b'{"b64": "%s"}' % base64.b64encode(scene(*size)) for size in ((3, 5), (9, 2)))
    (answer,) = handler.answer([Request(b'{"instances": [%s]}' % pictures, JSON, "*/*; size=input")])
    assert answer.json() == {"predictions": [{"size": [3, 5]}, {"size": [9, 2]}]}


@pytest.mark.parametrize(
    ("options", "accept", "status"),
    [
        ({}, "*/*; size=huge", 406),
        ({"fit": "crop"}, "*/*; size=input", 406),
        ({"max_mask_pixels": 143}, "*/*; size=input", 413),
    ],
)
def test_masks_that_are_not_made_are_refused(options: dict[str, Any], accept: str, status: int) -> None:
    answers = segmenter(**options).answer([Request(scene(8, 18), "image/png", text) for text in (accept, "")])
    assert [answer.status for answer in answers] == [status, 200]


def test_several_pictures_in_one_body_are_answered_in_json_whatever_is_accepted() -> None:
    body = b'{"instances": [{"b64": "%s"}]}' % base64.b64encode(scene())
    (answer,) = segmenter().answer([Request(body, JSON, "image/png")])
    assert answer.json()["predictions"][0].keys() == {"base64_prediction"}  # type: ignore[index] # JSON's type is not known


def test_one_channel_is_classified_by_its_sign_and_a_dict_gives_its_out() -> None:
    grey = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    buffer = io.BytesIO()
    grey.save(buffer, "PNG")
    handler = segmenter(Dark, size=[2, 2], mode="L", classes=["dark", "light"], answer=["mask"])
    assert base64.b64decode(one(handler, buffer.getvalue()).json()["base64_prediction"]) == b"\0\1\1\0"

    class Out(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": x, "aux": x}

    assert one(segmenter(Out)).json() == one(segmenter()).json()


def test_it_refuses_to_start_when_names_and_network_disagree() -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :1].expand(-1, 300, -1, -1)

    with pytest.raises(RuntimeError, match="has 3 classes, and `classes` names 2"):
        segmenter(classes=["a", "b"])
    with pytest.raises(RuntimeError, match="has 300 classes"):
        segmenter(Many)
    with pytest.raises(RuntimeError, match=r"N, classes, H, W"):
        segmenter(nn.Flatten)


@pytest.mark.parametrize(
    "options",
    [
        {"answer": []},
        {"answer": ["jpeg"]},
        {"mode": "L", "mean": [0.1, 0.2, 0.3]},
        {"classes": "no.txt"},
        {"mask_size": "input", "fit": "crop"},
        {"mask_size": "both"},
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="handler_args"):
        shipped.make("image-segmenter", ByColour, PLAIN | options).load(None, model_dir=tmp_path)


def test_answers_do_not_depend_on_neighbours() -> None:
    torch.manual_seed(5)
    network = nn.Conv2d(3, 5, 3, padding=1)
    handler = shipped.make("image-segmenter", lambda: network, {"size": [8, 8]}).load(None)
    dice = random.Random(7)
    bodies = [scene(dice.randint(2, 12), dice.randint(2, 12)) for _ in range(28)] + [scene()[:60], b"{}", b"", b"GIF89a"]
    dice.shuffle(bodies)

    def serve(some: list[bytes]) -> list[tuple[int, bytes]]:
        return [(answer.status, answer.body) for answer in handler.predict(some, "image/png")]

    assert differences(serve, bodies) == []
