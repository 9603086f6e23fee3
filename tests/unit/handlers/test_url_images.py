"""URLs from strangers: which are refused before anything is connected to, and which address is connected to. No network."""

import dataclasses
import io
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from torchrelay_handlers import catalogue, shipped
from torchrelay_handlers.bodies.addresses import is_public
from torchrelay_handlers.bodies.image_input import MOST_URLS, Pictures
from torchrelay_handlers.bodies.url_images import Fetcher, Rules
from torchrelay_handlers.intake import Intake
from torchrelay_handlers.problems import BadSample

PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.0.192", "198.18.0.1", "168.63.129.16", "::1", "::", "fe80::1",
        "fe80::1%eth0", "fd00:ec2::254", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:5601:5601", "2001:db8::1", "fec0::1", "64:ff9b:1::1", "3fff::1", "nonsense", "",
    ],
)  # fmt: skip
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_addresses_outside_are_public(address: str) -> None:
    assert is_public(address)


def test_loopback_is_public_only_for_tests() -> None:
    assert is_public("127.0.0.1", loopback=True)
    assert is_public("::1", loopback=True)
    assert not is_public("10.0.0.1", loopback=True)
    assert not is_public("169.254.169.254", loopback=True)


class Wire:
    """A socket whose other end said `answer` before it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = io.BytesIO(answer)
        self.sent = b""

    def settimeout(self, _: float) -> None: ...
    def close(self) -> None: ...

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def recv_into(self, buffer: Any) -> int:
        return self.answer.readinto(buffer)


class Faked(Fetcher):
    """Names resolve to `names`, in turn; connections give the answers, in turn, and are recorded."""

    def __init__(self, rules: Rules, names: dict[str, list[list[str]]], answers: Sequence[bytes]) -> None:
        super().__init__(rules)
        self.names = names
        self.answers = list(answers)
        self.connected: list[tuple[str, int]] = []
        self.wires: list[Wire] = []

    def resolve(self, host: str, port: int, deadline: float) -> list[str]:  # noqa: ARG002 - the signature of the real one
        return self.names[host].pop(0)

    def connect(self, addresses: Sequence[str], port: int, deadline: float) -> socket.socket:  # noqa: ARG002 -- the signature of the real one
        self.connected.append((addresses[0], port))
        self.wires.append(Wire(self.answers.pop(0)))
        return self.wires[-1]  # type: ignore[return-value] # the part of a socket that is used


IMAGE = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 4\r\n\r\n\x89PNG"


def moved(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


def refusal(fetcher: Fetcher, url: object) -> BadSample:
    with pytest.raises(BadSample) as refused:
        fetcher.fetch(url)
    return refused.value


def test_the_checked_address_is_the_one_connected_to_and_the_host_is_asked_for() -> None:
    fetcher = Faked(Rules(("a.example",)), {"a.example": [[PUBLIC], ["127.0.0.1"]]}, [IMAGE])
    assert fetcher.fetch("http://a.example/x?y=1") == b"\x89PNG"
    assert fetcher.connected == [(PUBLIC, 80)]
    assert fetcher.wires[0].sent.startswith(b"GET /x?y=1 HTTP/1.1\r\nHost: a.example\r\n")
    assert len(fetcher.names["a.example"]) == 1  # looked up once: a second answer would be the rebinding


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::ffff:169.254.169.254"], []])
def test_names_that_lead_inside_are_refused(addresses: list[str]) -> None:
    fetcher = Faked(Rules(("*",)), {"a.example": [addresses]}, [IMAGE])
    assert refusal(fetcher, "http://a.example/").status == 400
    assert fetcher.connected == []


def test_a_redirect_is_looked_at_like_the_first_url() -> None:
    names = {"a.example": [[PUBLIC], [PUBLIC]], "inside.example": [["169.254.169.254"]]}
    fetcher = Faked(Rules(("*",)), names, [moved("http://inside.example/latest/meta-data")])
    assert "public internet" in refusal(fetcher, "http://a.example/").detail
    assert len(fetcher.connected) == 1
    elsewhere = Faked(Rules(("a.example",)), {"a.example": [[PUBLIC]]}, [moved("http://b.example/")])
    assert "url_hosts" in refusal(elsewhere, "http://a.example/").detail
    good = Faked(Rules(("*.example",)), {"a.example": [[PUBLIC], [PUBLIC]]}, [moved("/other"), IMAGE])
    assert good.fetch("http://a.example/") == b"\x89PNG"


def test_redirects_end() -> None:
    fetcher = Faked(Rules(("*",)), {"a.example": [[PUBLIC]] * 9}, [moved("/again")] * 9)
    assert "more than 3 times" in refusal(fetcher, "http://a.example/").detail
    assert len(fetcher.connected) == 4


def test_https_stays_https_and_verifies() -> None:
    class Passing(Faked):
        context = None  # type: ignore[assignment] # set below

    context = Fetcher(Rules(())).context
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    names: list[str] = []

    class Context:
        def wrap_socket(self, plain: Any, server_hostname: str) -> Any:
            names.append(server_hostname)
            return plain

    Passing.context = Context()  # type: ignore[assignment] # a stand-in
    fetcher = Passing(Rules(("*",)), {"a.example": [[PUBLIC], [PUBLIC]]}, [moved("http://a.example/"), IMAGE])
    assert "https to something else" in refusal(fetcher, "https://a.example/").detail
    assert names == ["a.example"]
    assert fetcher.connected == [(PUBLIC, 443)]


@pytest.mark.parametrize(
    "url",
    [
        None, 3, "", "ftp://a.example/", "file:///etc/passwd", "http:///x", "http://u:p@a.example/", "http://a.example\r\nX: y/",
        "http://a.example/ x", "http://a.example:x/", "http://a.example:99999/", "http://\u00e4.example/", "gopher://a.example",
        "a.example/x",
        "http://[::1/", "http://a.example\\@b.example/", "http://a.example/" + "x" * 3000, "http://a.example:6379/", "http://b.example/",
        "http://a.example.b.example/", "http://xa.example/",
    ],
)  # fmt: skip
def test_text_that_is_not_a_url_of_an_allowed_host_is_refused_before_any_lookup(url: object) -> None:
    assert refusal(Faked(Rules(("a.example",)), {}, []), url).kind == "bad-url"


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("*", "http://a.example/"), ("*.example", "https://a.example/"), ("A.Example", "http://a.EXAMPLE/"), ("a.example", "http://a.example./"),
        ("a.example:8000", "http://a.example:8000/"), ("*:8000", "http://a.example:8000/"),
    ],
)  # fmt: skip
def test_hosts_are_allowed_by_name_or_by_domain(allowed: str, url: str) -> None:
    Fetcher(Rules((allowed,)))._checked(url)


def test_no_host_is_allowed_by_default() -> None:
    assert "url_hosts" in refusal(Fetcher(Rules(())), "http://a.example/").detail


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", 424),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", 400),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Encoding: gzip\r\n\r\nx", 400),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\n", 413),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n" + b"x" * 99, 413),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n"
            + b"x" * 64
            + b"\r\n0\r\n\r\n",
            413,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nshort", 424),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 424),
        (b"HTTP/1.1 301 Moved\r\n\r\n", 424),
        (b"SSH-2.0-nonsense\r\n", 424),
        (b"", 424),
    ],
)
def test_wrong_answers_are_refused(answer: bytes, status: int) -> None:
    fetcher = Faked(Rules(("*",), max_bytes=32), {"a.example": [[PUBLIC]]}, [answer])
    assert refusal(fetcher, "http://a.example/").status == status


def test_time_is_up_whatever_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    fetcher = Faked(Rules(("*",), timeout_s=6), {"a.example": [[PUBLIC]]}, [b""])
    wire = Wire(b"")
    monkeypatch.setattr(wire, "recv_into", lambda buffer: (buffer.__setitem__(0, 88), 1)[1])  # one byte at a time, for ever
    monkeypatch.setattr(fetcher, "connect", lambda *_: wire)
    assert "within 6 s" in refusal(fetcher, "http://a.example/").detail


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    hung = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [hung.wait(20)][:0])
    try:
        assert "within 0.05 s" in refusal(Fetcher(Rules(("*",), timeout_s=0.05)), "http://a.example/").detail
    finally:
        hung.set()


def test_numbers_in_disguise_are_resolved_like_names() -> None:
    for host in ("127.0.0.1", "0x7f.1", "2130706433", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1"):
        assert refusal(Fetcher(Rules(("*",))), f"http://{host}/").status in (400, 424), host


@given(st.text(max_size=40) | st.text("htps:/@[].%:\\?#a1", max_size=30).map("http://".__add__))
def test_any_text_is_fetched_or_refused(url: str) -> None:
    with pytest.raises(BadSample):
        Fetcher(Rules(("a.example",))).fetch(url)


def test_a_batch_has_one_time_out_together_whatever_its_urls_do() -> None:
    class Timed(Fetcher):
        deadlines: ClassVar[set[float | None]] = set()

        def fetch(self, url: object, deadline: float | None = None) -> bytes:
            self.deadlines.add(deadline)
            if url == "bad":
                raise BadSample("bad")
            return str(url).encode()

    got = Timed(Rules(("*",))).fetch_all(["a", "bad", "b"])
    assert [body if isinstance(body, bytes) else body.detail for body in got] == [b"a", "bad", b"b"]
    assert len(Timed.deadlines) == 1
    assert None not in Timed.deadlines


def test_a_request_of_many_urls_is_refused_those_beyond_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(_: Fetcher, urls: Sequence[object]) -> list[bytes | BadSample]:
        return [str(url).encode() for url in urls]

    monkeypatch.setattr(Fetcher, "fetch_all", fetched)
    options = catalogue.with_defaults("image-classifier", {"url_hosts": ["*"]})
    gather = Pictures(options, None).gather
    assert gather is not None
    many, other, neither = gather([[{"url": n} for n in range(MOST_URLS + 2)], [{"url": "x"}], [b"bytes", {"image": "YQ=="}]])
    assert many[:MOST_URLS] == [str(n).encode() for n in range(MOST_URLS)]
    assert [item.status for item in many[MOST_URLS:] if isinstance(item, BadSample)] == [413, 413]
    assert (other, neither) == ([b"x"], [b"bytes", {"image": "YQ=="}])


def test_an_error_in_gathering_is_a_500_for_each_request() -> None:
    handler = shipped.make("image-classifier", nn.Flatten, {"size": 1, "mode": "L"}).load(None)

    def fail(_: object) -> list[list[object]]:
        raise RuntimeError("no more threads")

    handler._intake = Intake(dataclasses.replace(handler.steps, gather=fail), handler.options)
    assert [answer.status for answer in handler.predict([b"a", b"b"])] == [500, 500]
