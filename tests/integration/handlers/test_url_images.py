"""Images by URL from a real server: fetched, bounded in bytes and time, redirects followed, this machine refused by default."""

import base64
import contextlib
import io
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from torchrelay_handlers import Handler, shipped


class Brightness(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), torch.zeros(len(x))], 1)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), 255).save(buffer, "PNG")
    return buffer.getvalue()


class Pages(BaseHTTPRequestHandler):
    slow: ClassVar[threading.Event]

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.answer(302, b"", location="/a.png")
        elif self.path == "/inside":
            self.answer(302, b"", location="http://169.254.169.254/latest/meta-data/")
        elif self.path == "/huge":
            with contextlib.suppress(OSError):  # the client leaves when it has seen the length
                self.answer(200, b"\0" * (2 << 20))
        elif self.path == "/page":
            self.answer(200, b"<html>", kind="text/html")
        elif self.path == "/not-an-image":
            self.answer(200, b"GIF89a nonsense")
        elif self.path == "/drip":
            self.send_response(200)
            while not self.slow.wait(0.05):
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
        else:
            self.answer(200, picture())

    def answer(self, status: int, body: bytes, kind: str = "image/png", location: str | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        if location:
            self.send_header("location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    Pages.slow = threading.Event()
    served = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    Pages.slow.set()
    served.shutdown()
    served.server_close()


def classifier(server: str, *, loopback: bool = True) -> Handler:
    options = {"size": 4, "mode": "L", "url_hosts": [server.removeprefix("http://"), "*"], "url_max_mb": 1, "url_timeout_s": 1}
    return shipped.make("image-classifier", Brightness, options | {"internal-be-careful-url-loopback": loopback}).load(None)


def test_urls_and_bodies_share_a_batch_and_each_has_its_own_fate(server: str) -> None:
    handler = classifier(server)
    paths = ["/a.png", "/moved", "/inside", "/huge", "/page", "/not-an-image", "/drip", "/a.png"]
    bodies = [json.dumps({"url": server + path}).encode() for path in paths]
    bodies += [json.dumps({"image": base64.b64encode(picture()).decode()}).encode(), b"{}", b'{"url": null}', b"{"]
    answers = handler.predict(bodies, "application/json")
    assert [answer.status for answer in answers] == [200, 200, 400, 413, 400, 400, 424, 200, 200, 400, 400, 400]
    assert len({answer.body for answer in answers if answer.status == 200}) == 1
    assert "public internet" in answers[2].json()["detail"]  # type: ignore[index] # JSON's type is not known
    assert "within 1 s" in answers[6].json()["detail"]  # type: ignore[index] # JSON's type is not known


def test_instances_may_be_urls(server: str) -> None:
    body = json.dumps({"instances": [{"url": server + "/a.png"}, {"url": server + "/page"}]}).encode()
    good = json.dumps({"instances": [{"url": server + "/a.png"}] * 2}).encode()
    bad, answered = classifier(server).predict([body, good], "application/json")
    assert (bad.status, bad.json()["instance"]) == (400, 1)  # type: ignore[index] # JSON's type is not known
    assert len(answered.json()["predictions"]) == 2  # type: ignore[index] # JSON's type is not known


def test_this_machine_is_refused_without_the_option(server: str) -> None:
    (answer,) = classifier(server, loopback=False).predict([json.dumps({"url": server + "/a.png"}).encode()], "application/json")
    assert answer.status == 400
    assert "public internet" in answer.json()["detail"]  # type: ignore[index] # JSON's type is not known


def test_urls_are_off_by_default_and_the_refusal_says_how_to_enable_them(server: str) -> None:
    handler = shipped.make("image-classifier", Brightness, {"size": 4, "mode": "L"}).load(None)
    (answer,) = handler.predict([json.dumps({"url": server + "/a.png"}).encode()], "application/json")
    assert answer.status == 400
    assert "url_hosts" in answer.json()["detail"]  # type: ignore[index] # JSON's type is not known


def test_a_plain_server_behind_https_is_a_failed_fetch(server: str) -> None:
    (answer,) = classifier(server).predict(
        [json.dumps({"url": server.replace("http", "https") + "/"}).encode()], "application/json"
    )
    assert answer.status == 424


def test_a_host_that_accepts_and_stays_silent_is_waited_for_once(server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        options = {"size": 4, "mode": "L", "url_hosts": [server.removeprefix("http://"), place], "url_timeout_s": 0.5}
        handler = shipped.make("image-classifier", Brightness, options | {"internal-be-careful-url-loopback": True}).load(None)
        bodies = [json.dumps({"url": url}).encode() for url in (f"http://{place}/", server + "/a.png")]
        bodies.append(json.dumps({"image": base64.b64encode(picture()).decode()}).encode())
        first, again = handler.predict(bodies, "application/json"), handler.predict(bodies, "application/json")
        assert [answer.status for answer in first] == [answer.status for answer in again] == [424, 200, 200]
        assert {answer.body for answer in (*first[1:], *again[1:])} == {first[1].body}
        assert "within 0.5 s" in first[0].json()["detail"]  # type: ignore[index] # JSON's type is not known
        assert "it is asked again in" in again[0].json()["detail"]  # type: ignore[index] # JSON's type is not known
        silent.settimeout(0.2)
        silent.accept()[0].close()
        with pytest.raises(TimeoutError):
            silent.accept()  # it was connected to once
