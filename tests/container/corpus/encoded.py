"""Bad requests for handlers of images as JSON: files in base64, and their wrappers."""

from __future__ import annotations

import base64
import json

from tests.container.corpus.broken_json import broken, in_other_places, typed
from tests.container.corpus.case import Case, cases
from tests.container.corpus.pictures import picture, png

MOST = 16  # max_instances of the container


def json_cases() -> list[Case]:
    """Files in base64, within JSON."""
    good = base64.b64encode(picture()).decode()
    values: dict[str, object] = {
        "null": None,
        "true": True,
        "a number": 3,
        "an empty text": "",
        "an object": {"a": good},
        "an empty object": {},
        "an empty list": [],
        "a list": [good],
        "numbers": [137, 80, 78, 71],
        "no base64": "?",
        "no image": base64.b64encode(b"not an image").decode(),
    }
    around = {"alone": "%s", "instances": '{"instances": [' + json.dumps(good) + ", %s]}"}
    around |= {f"as {name}": f'{{"{name}": %s}}' for name in ("image", "data", "b64", "image_bytes")}
    expected = "image|base64"
    corpus = in_other_places(values, around, expected, "json value")
    texts = {
        "web alphabet": good.replace("+", "-").replace("/", "_").replace("=", "") + "-_",
        "no padding": good.rstrip("=") if good.endswith("=") else good[:-1],
        "too much padding": good + "====",
        "padding within": good[:40] + "==" + good[40:],
        "a space": good[:40] + " " + good[40:],
        "a tab": good[:40] + "\t" + good[40:],
        "no ascii": good[:40] + "\u00e9" + good[40:],
        "full width": good[:40] + "\uff21" + good[40:],
        "a zero": good[:40] + "\0" + good[40:],
        "cut": good[:-3],
        "cut in the middle": good[: len(good) // 2 | 1],
        "percent": "%41" + good[3:],
        "hex": picture().hex() + "0g",
        "quoted": f'"{good}"',
        "bytes of python": f"b'{good}'",
        "brackets": f"<{good}>",
        "base85": base64.b85encode(picture()).decode(),
        "twice in base64": base64.b64encode(good.encode()).decode(),
        "address": "https://example.com/cat.png",
        "file": "file:///etc/passwd",
        "path": "/etc/passwd",
        "data without base64": "data:image/png,abc",
        "data without comma": "data:image/png;base64" + good,
        "data without anything": "data:",
        "data with base64 later": f"data:;base64;charset=utf-8,{good}",
        "data twice": f"data:image/png;base64,data:image/png;base64,{good}",
        "data of nothing": "data:image/png;base64,",
        "data of text": "data:text/plain;base64,aGVsbG8=",
        "upper case data": f"DATA:image/png;base64,{good}",
        "dots": "....",
        "equal signs": "====",
        "one letter": "A",
        "cut picture": base64.b64encode(picture()[:100]).decode(),
        "gif": base64.b64encode(picture("GIF")).decode(),
        "large picture": base64.b64encode(picture(size=(1001, 1000), mode="L")).decode(),
        "bomb": base64.b64encode(png(60_000, 60_000)).decode(),
        "svg": base64.b64encode(b"<svg/>").decode(),
    }
    corpus += cases("json base64", ((name, json.dumps({"image": text})) for name, text in texts.items()), says=expected + "|pixels")
    corpus += cases("json text", ((name, json.dumps(text)) for name, text in list(texts.items())[:12]), says=expected)
    addresses = (
        "https://example.com/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "",
        None,
        3,
        ["https://example.com"],
        "data:image/png;base64," + good,
    )
    corpus += cases("json url", ((repr(url)[:40], json.dumps({"url": url})) for url in addresses), says="URL are not allowed")
    corpus += cases(
        "json url besides",
        [
            ("an image", json.dumps({"url": "https://example.com", "image": good})),
            ("in instances", json.dumps({"instances": [{"url": "x"}]})),
        ],
        says="URL are not allowed",
    )
    objects: list[tuple[str, object]] = [
        (repr(name), {name: good}) for name in ("Image", "images", "img", "file", "", "body", "png", "picture", "base64", "\0")
    ]
    objects += [
        ("two names", {"image": good, "data": good}),
        ("three names", {"image": good, "data": good, "b64": good}),
        ("deep", {"image": {"image": good}}),
    ]
    objects += [
        ("b64 and more", {"image": {"b64": good, "x": 1}}),
        ("b64 of null", {"image": {"b64": None}}),
        ("b64 twice", {"image": {"b64": {"b64": good}}}),
        ("a list of pictures", [good, good]),
    ]
    corpus += cases("json object", ((name, json.dumps(value)) for name, value in objects), says="image")
    wrong: tuple[object, ...] = (None, {}, "", 0, True, [])
    instances: list[tuple[str, object]] = [(repr(value), {"instances": value}) for value in wrong]
    instances += [
        ("with parameters", {"instances": [good], "parameters": "x"}),
        ("too many", {"instances": [good] * (MOST + 1)}),
        ("a text", {"instances": good}),
    ]
    corpus += cases("json instances", ((name, json.dumps(value)) for name, value in instances), says="instances|parameters|at most")
    corpus += broken("image", json.dumps({"image": good}))
    corpus += typed(json.dumps({"image": good}).encode(), "json type")
    corpus += cases(
        "base64 as text",
        [("no base64", "?"), ("no image", "aGVsbG8="), ("white space", "  "), ("cut", good[:-3])],
        "text/plain",
        expected,
    )
    lines = "\r\n".join(good[at : at + 76] for at in range(0, len(good), 76))
    legal = [
        ("text", json.dumps(good)),
        ("lines", json.dumps({"image": lines})),
        ("data address", json.dumps({"image": f"data:image/png;base64,{good}"})),
        ("b64", json.dumps({"image": {"b64": good}})),
    ]
    corpus += cases(
        "json legal",
        [
            *legal,
            ("more names", json.dumps({"image": good, "id": 7})),
            ("as many as allowed", json.dumps({"instances": [good] * MOST})),
        ],
        wanted="answered",
    )
    corpus.append(Case("base64 as text, legal", good.encode(), "text/plain", wanted="answered"))
    return [*corpus, Case("json oversize", json.dumps({"image": "A" * (1 << 21)}).encode(), "application/json", says="larger")]
