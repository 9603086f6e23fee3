"""TorchServe's worker made cheap: the same bytes in fewer system calls, and two lines fewer for every batch."""

from __future__ import annotations

import json
import logging
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.handlers.support import Double, FakeContext
from torchrelay_handlers import handler_factory
from torchrelay_handlers.adapters import worker
from torchrelay_handlers.adapters.torchserve import Service


class Counted:
    """A connection that counts what it is asked, and gives at most `most` bytes at once."""

    def __init__(self, raw: socket.socket, most: int = 1 << 20) -> None:
        self.raw, self.most, self.calls = raw, most, 0

    def recv_into(self, view: memoryview) -> int:
        self.calls += 1
        return self.raw.recv_into(view[: self.most])


def read(lengths: list[int], most: int = 1 << 20) -> tuple[bytes, bytes, int]:
    """What was sent, what was read by these lengths, and how many calls it took."""
    sent = bytes(number % 251 for number in range(sum(lengths)))
    there, here = socket.socketpair()
    with there, here:
        writer = threading.Thread(target=there.sendall, args=(sent,))
        writer.start()
        conn, reader = Counted(here, most), worker.Reader()
        pieces = [reader(conn, length) for length in lengths]  # type: ignore[arg-type] # has what is used of a socket
        writer.join()
    assert all(isinstance(piece, bytearray) for piece in pieces)
    assert [len(piece) for piece in pieces] == lengths
    return sent, b"".join(pieces), conn.calls


sizes = st.one_of(st.integers(0, 40), st.integers(worker.PIECE - 3, worker.PIECE + 3), st.integers(0, 3 * worker.PIECE))


@given(lengths=st.lists(sizes, max_size=12), most=st.sampled_from([1 << 20, 5000, 1 << 16]))
def test_every_byte_is_read_once_and_in_order(lengths: list[int], most: int) -> None:
    sent, got, _ = read(lengths, most)
    assert got == sent


def test_available_bytes_are_read_in_one_call() -> None:
    there, here = socket.socketpair()
    with there, here:
        there.sendall(struct.pack("!i", 7) * 1000)
        conn, reader = Counted(here), worker.Reader()
        for _ in range(1000):
            assert reader(conn, 4) == struct.pack("!i", 7)  # type: ignore[arg-type] # as above
    assert conn.calls == 1


@pytest.mark.parametrize("length", [4, 2 * worker.PIECE])
def test_the_process_ends_when_the_frontend_is_gone(length: int) -> None:
    there, here = socket.socketpair()
    there.sendall(b"abc")
    there.close()
    with here, pytest.raises(SystemExit) as ended:
        worker.Reader()(here, length)
    assert ended.value.code == 0


def test_another_connection_starts_empty() -> None:
    reader = worker.Reader()
    for content in (b"one, and more", b"two"):
        there, here = socket.socketpair()
        with there, here:
            there.sendall(content)
            assert reader(here, 3) == content[:3]


class Metrics:
    """TorchServe's, as far as they are used."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []

    def add_time(self, name: str, value: float, unit: str = "ms") -> None:
        assert unit == "ms"
        self.seen.append((name, value))


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, its filters put back."""
    logger = logging.getLogger()
    filters = list(logger.filters)
    yield logger
    logger.filters[:] = filters


def known() -> ModuleType:
    def _retrieve_buffer(conn: socket.socket, length: int) -> bytearray:
        raise AssertionError(conn, length)

    module = ModuleType("known")
    vars(module)["_retrieve_buffer"] = _retrieve_buffer
    return module


def test_only_the_known_worker_is_touched(root: logging.Logger) -> None:
    metrics, other, module = Metrics(), ModuleType("other"), known()
    vars(other)["_retrieve_buffer"] = bytearray
    for stranger in (other, ModuleType("empty"), None):
        assert not worker.speed_up(metrics, stranger), stranger
    assert "add_time" not in vars(metrics)
    assert worker.speed_up(metrics, module)
    assert isinstance(vars(module)["_retrieve_buffer"], worker.Reader)
    assert not worker.speed_up(metrics, module), "a second time"
    assert worker.speed_up(None, known()), "without metrics"
    assert root.filters


def test_loading_a_model_eases_the_worker(root: logging.Logger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ts.protocol.otf_message_handler", module := known())
    torch.save(Double().state_dict(), tmp_path / "model.pt")
    (tmp_path / "torchrelay.json").write_text(json.dumps({"name": "m", "handler": "own", "weights": "model.pt"}))
    context = FakeContext(str(tmp_path), [])
    Service(handler_factory(Double))(None, context)
    assert isinstance(vars(module)["_retrieve_buffer"], worker.Reader)
    assert root.filters


def test_only_the_line_of_every_batch_is_left_out(root: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    worker.speed_up(Metrics(), known())
    with caplog.at_level(logging.INFO):
        root.info("Backend received inference at: %d", 1)
        root.info("an author's line")
    assert caplog.messages == ["an author's line"]


def test_the_gauge_is_sent_once_a_second_and_other_metrics_each_time() -> None:
    metrics, now = Metrics(), [100.0]
    add_time = worker.rate_limited(metrics.add_time, lambda: now[0])
    for second, value in ((100.0, 1.0), (100.5, 2.0), (101.0, 3.0), (101.9, 4.0)):
        now[0] = second
        add_time("PredictionTime", value, unit="ms")
        add_time("own", value)
    assert [value for name, value in metrics.seen if name == "PredictionTime"] == [1.0, 3.0]
    assert [value for name, value in metrics.seen if name == "own"] == [1.0, 2.0, 3.0, 4.0]
