"""The probe reads an untrusted server's answer up to a size and a time, and never takes half an answer for a whole one."""

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from itertools import repeat

import pytest

from torchrelay_runtime import probe

REQUEST = {"id": "s", "method": "GET", "path": "/"}


def ask(chunks: Iterable[bytes], timeout_s: float = 60.0, pause_s: float = 0.0, times: int = 1) -> list[dict[str, object]]:
    """Send requests to a server that answers each with raw bytes, pausing after each chunk; return the probe's answers."""
    stop = threading.Event()

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while not stop.is_set():
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(65536)
                    for chunk in chunks:
                        connection.sendall(chunk)
                        if stop.wait(pause_s):
                            return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,), daemon=True)
        server.start()
        try:
            batch = {"timeout_s": timeout_s, "requests": [REQUEST] * times}
            return probe.send_all(batch, listener.getsockname()[1])
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            server.join(10)


HEAD = b"HTTP/1.1 200 OK\r\n"


def test_an_answer_is_read_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_ANSWER_BYTES", 1 << 20)
    (endless,) = ask([HEAD + b"\r\n", *repeat(bytes(1 << 16), 1024)])
    assert (endless["status"], endless["error"]) == (0, "the answer is larger than 1048576 bytes")
    (whole,) = ask([HEAD + b"Content-Length: 1048576\r\n\r\n", bytes(1 << 20)])
    assert (whole["status"], whole["error"]) == (200, None)


def test_all_answers_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_BATCH_BYTES", 250_000)
    answer = HEAD + b"Content-Length: 100000\r\nConnection: close\r\n\r\n" + bytes(100_000)
    errors = [one["error"] for one in ask([answer], times=3)]
    assert errors == [None, None, "the answers are larger than 250000 bytes together"]


@pytest.mark.parametrize("head", [HEAD + b"Content-Length: 100000\r\n\r\n", HEAD + b"\r\n", HEAD + b"X-Slow: "])
def test_an_answer_that_drips_ends_at_the_time_limit(head: bytes) -> None:
    (dripping,) = ask([head, *repeat(b"x", 600)], timeout_s=0.5, pause_s=0.1)
    assert (dripping["status"], dripping["error"]) == (0, "the answer was not complete within 0.5 s")


def test_an_answer_cut_short_is_an_error() -> None:
    (short,) = ask([HEAD + b"Content-Length: 100\r\n\r\n", b"{}"])
    assert short["status"] == 0
    assert "IncompleteRead" in str(short["error"])
