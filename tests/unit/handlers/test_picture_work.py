"""Pictures that are more work than their bytes suggest are refused before a pixel is decoded; neighbours get their answers."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageFile
from torch import Tensor

from tests.unit.handlers.test_picture_loading import chunk, encoded, pixels
from tests.unit.handlers.test_shipped import Brightness, Patch, bomb, classifier, picture
from torchrelay_handlers import Handler, catalogue, handler_factory, shipped
from torchrelay_handlers.bodies import images
from torchrelay_handlers.bodies.picture_work import MOST_SEGMENTS, USUAL_SCANS, jpeg_outline, png_segments
from torchrelay_handlers.problems import BadSample

LOAD = ImageFile.ImageFile.load


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes of the pictures that are decoded."""
    sizes: list[tuple[int, int]] = []

    def load(image: ImageFile.ImageFile) -> Any:
        if image.tile:
            sizes.append(image.size)
        return LOAD(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    return sizes


def many_scans(size: tuple[int, int], scans: int) -> bytes:
    """A progressive JPEG whose last scan, which refines all pixels of one colour in a few bytes, is repeated."""
    body = encoded("JPEG", Image.new("RGB", size), progressive=True)
    last = body[body.rindex(b"\xff\xda") : -2]
    return body[:-2] + last * (scans - 10) + b"\xff\xd9"


def refusal(body: bytes, **limits: int) -> BadSample:
    with pytest.raises(BadSample) as refused:
        images.opened(body, limits=images.Limits(**limits))
    return refused.value


def refused_beside_a_good_one(handler: Handler, body: bytes, content_type: str = "", status: int = 413) -> str:
    """The reason of the refusal of `body`; its neighbours in the batch get the answer that they get alone."""
    good = picture()
    (alone,) = handler.predict([good])
    first, bad, last = handler.answer([image_request(good), image_request(body, content_type), image_request(good)])
    assert (alone.status, first.status, last.status) == (200, 200, 200)
    assert first.body == last.body == alone.body
    assert bad.status == status
    return str(bad.json()["detail"])  # type: ignore[index] # JSON's type is not known


def image_request(body: bytes, content_type: str = "") -> Any:
    from torchrelay_handlers.messages import Request

    return Request(body, content_type or "image/png")


def test_a_jpeg_of_thousands_of_scans_is_refused_and_its_neighbours_are_answered(decoded: list[tuple[int, int]]) -> None:
    body = many_scans((1000, 1000), 4000)
    assert jpeg_outline(body).scans == 4000
    reason = refused_beside_a_good_one(classifier(), body)
    assert "1000 x 1000 pixels in 4000 scans" in reason
    assert (1000, 1000) not in decoded


def test_an_ordinary_progressive_photo_is_answered() -> None:
    assert jpeg_outline(encoded("JPEG", progressive=True)).scans == 10 <= USUAL_SCANS
    outline = jpeg_outline(many_scans((8, 8), USUAL_SCANS))
    assert (outline.scans, outline.passes) == (USUAL_SCANS, 2)
    assert jpeg_outline(many_scans((8, 8), USUAL_SCANS + 1)).passes == 4
    assert classifier().predict([encoded("JPEG", progressive=True)])[0].status == 200


@pytest.mark.parametrize(
    ("kind", "mode", "size", "options"),
    [
        ("JPEG", "RGB", (4000, 3000), {}), ("JPEG", "RGB", (6000, 4000), {}), ("JPEG", "L", (6000, 4000), {"progressive": True}),
        ("PNG", "1", (5000, 5000), {}), ("WEBP", "RGB", (4000, 3000), {"lossless": True}),
    ],
)  # fmt: skip
def test_the_photo_of_a_phone_is_accepted_by_default(kind: str, mode: str, size: tuple[int, int], options: dict[str, Any]) -> None:
    opened = images.opened(encoded(kind, Image.new("L", size), mode, **options))
    assert opened.image is not None
    assert opened.image.size == size


def test_scans_that_thumbnails_and_trailing_bytes_contain_are_not_counted() -> None:
    inner = encoded("JPEG", pixels(40, 30), progressive=True)
    body = encoded("JPEG", exif=b"Exif\0\0" + inner) + inner
    assert jpeg_outline(body).scans == 1


def test_every_scan_that_libjpeg_may_find_is_counted() -> None:
    body = many_scans((8, 8), 30)
    start = body.index(b"\xff\xda")
    filled = body[:start] + body[start:].replace(b"\xff\xda", b"\xff\xff\xff\xda").replace(b"\xff\xc4", b"\0\0\xff\xc4")
    assert jpeg_outline(filled).scans == 30
    restarts = encoded("JPEG", restart_marker_blocks=1)
    assert jpeg_outline(restarts).scans == 1
    assert jpeg_outline(restarts).end == len(restarts) - 2


def test_a_small_file_of_many_pixels_is_refused(decoded: list[tuple[int, int]]) -> None:
    body = encoded("PNG", Image.new("1", (7000, 7000)), "1")
    assert len(body) < 10_000
    assert "7000 x 7000 pixels" in refused_beside_a_good_one(classifier(), body)
    assert (7000, 7000) not in decoded


@pytest.mark.parametrize(
    "wrap", [lambda text: {"b64": text}, lambda text: {"image": text}, lambda text: text], ids=["b64", "image", "text"]
)
def test_many_small_files_of_many_pixels_in_one_request_are_refused(
    wrap: Callable[[str], object], decoded: list[tuple[int, int]]
) -> None:
    text = base64.b64encode(encoded("PNG", Image.new("1", (2000, 2000)), "1")).decode()
    body = json.dumps({"instances": [wrap(text)] * 767}).encode()
    assert len(body) < 6 * 2**20
    assert "too many pixels together" in refused_beside_a_good_one(classifier(), body, "application/json")
    assert (2000, 2000) not in decoded
    few = json.dumps({"instances": [wrap(text)] * 12}).encode()
    assert classifier().predict([few], "application/json")[0].status == 200


def test_pictures_of_an_authors_own_handler_have_the_same_budget(decoded: list[tuple[int, int]]) -> None:
    def preprocess(image: Image.Image) -> Tensor:
        return images.as_tensor(image.resize((4, 4))).float()

    body = {"b64": base64.b64encode(encoded("PNG", Image.new("1", (2000, 2000)), "1")).decode()}
    many = json.dumps({"instances": [body] * 13}).encode()
    for wanted in ("image", "auto"):
        handler = handler_factory(Patch, preprocess, options={"input": wanted}).load(None)
        assert "too many pixels together" in refused_beside_a_good_one(handler, many, "application/json")
        assert (2000, 2000) not in decoded
        assert "scans" in refused_beside_a_good_one(handler, many_scans((1000, 1000), 600))
    more = handler_factory(Patch, preprocess, options={"input": "image", "max_request_pixels": 60_000_000}).load(None)
    assert more.predict([many], "application/json")[0].status == 200


def test_a_picture_of_very_many_segments_is_refused_before_pillow_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded("PNG")
    chunks = whole[:33] + chunk(b"abCd", b"") * MOST_SEGMENTS + whole[33:]
    comments = encoded("JPEG")
    comments = comments[:2] + b"\xff\xfe\0\2" * MOST_SEGMENTS + comments[2:]
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("read by Pillow"))
    for body in (chunks, comments):
        assert "more than 10000 segments" in refusal(body).detail
        assert refusal(body).status == 413


def test_segments_count_as_pixels() -> None:
    whole = encoded("PNG")
    assert png_segments(whole) == 3
    opened = images.opened(whole[:33] + chunk(b"abCd", b"") * 1000 + whole[33:])
    assert opened.work == 200 * 150 + 300 * 1003


def test_the_limits_follow_the_networks_size() -> None:
    def limits(**options: object) -> tuple[int, int]:
        return catalogue.pixel_limits(catalogue.with_defaults("image-classifier", options))

    assert limits() == (25_000_000, 50_000_000)
    assert limits(size=4000) == (64_000_000, 128_000_000)
    assert limits(size=[2000, 4000]) == (32_000_000, 64_000_000)
    assert limits(max_pixels=100) == (100, 200)
    assert limits(max_pixels=100, max_request_pixels=100) == (100, 100)
    assert catalogue.pixel_limits(catalogue.with_defaults("handler.py", {})) == (25_000_000, 50_000_000)


def test_a_jpeg_of_several_scans_counts_twice() -> None:
    body = encoded("JPEG", progressive=True)
    work = images.opened(body).work
    assert work == 2 * 200 * 150 + 300 * jpeg_outline(body).segments
    assert "pixels in 10 scans: too much to decode" in refusal(body, pixels=30_000, request_pixels=work - 1).detail
    assert refusal(bomb(100, 100), pixels=9_999).detail == "the image has 100 x 100 pixels"


def test_a_picture_that_cannot_be_opened_names_its_instance() -> None:
    good = base64.b64encode(picture()).decode()
    handler = shipped.make("image-classifier", Brightness, {"size": 4, "mode": "L"}).load(None)
    body = json.dumps({"instances": [good, "AAAA", good]}).encode()
    (answer,) = handler.predict([body], "application/json")
    assert (answer.status, answer.json()["instance"]) == (400, 1)  # type: ignore[index] # JSON's type is not known
