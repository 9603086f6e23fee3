"""The load generator: a separate process with several keep-alive connections; each sends its next request after an answer.

It uses raw sockets with epoll, because a client that takes as much CPU as a server would distort the figures. Its own limit,
against an nginx that answers by itself, is a row of the table. It checks every answer's status, and the content of one in `LOOK`.

    python -m benchmarks.serving_load SPEC.json
"""

import json
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving_peers.contract import Request
from benchmarks.serving_peers.workloads import WORKLOADS, Sample, is_correct, read_samples

LOOK = 8
MOST_FAILURES = 20
PATIENCE_S = 60.0


def rendered(request: Request, host: str) -> bytes:
    """Return the bytes of one HTTP/1.1 POST."""
    headers = {"Host": host, "Content-Type": request.content_type, "Content-Length": str(len(request.body))}
    lines = [f"POST {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + request.body


def answer_length(head: bytes) -> int:
    """Return the body's length in a lower-case head. Raises: ValueError."""
    _, header, rest = head.partition(b"\r\ncontent-length:")
    if not header:
        raise ValueError(f"an answer without Content-Length: {head[:200]!r}")
    return int(rest.split(b"\r\n", 1)[0])


def connected(host: str, port: int) -> socket.socket:
    """Connect to a server."""
    raw = socket.create_connection((host, port), timeout=PATIENCE_S)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return raw


@dataclass
class Connection:
    """One client: the number and time of its request, and the part of the answer that it has received."""

    connect: Callable[[], socket.socket]
    asked: int
    raw: socket.socket = field(init=False)
    sent_at: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    needed: int = 0
    body_at: int = 0
    closing: bool = False  # nginx announces in every thousandth answer that it closes the connection

    def __post_init__(self) -> None:
        self.raw = self.connect()

    def renew(self) -> None:
        """Connect again."""
        self.raw.close()
        self.raw = self.connect()
        self.closing = False

    def ask(self, message: bytes) -> None:
        """Send the next request; blocks if the body does not fit the socket's buffer."""
        self.received.clear()
        self.needed = 0
        self.sent_at = time.perf_counter()
        self.raw.sendall(message)

    def take(self) -> bool:
        """Read from the socket; return True when the answer is complete. Raises: ConnectionError, ValueError."""
        piece = self.raw.recv(1 << 18)
        if not piece:
            raise ConnectionError("the server closed the connection without an answer")
        self.received += piece
        if not self.needed:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return False
            self.body_at = end + 4
            head = bytes(self.received[:end]).lower()
            self.needed = self.body_at + answer_length(head)
            self.closing = b"\r\nconnection: close" in head
        return len(self.received) >= self.needed


@dataclass
class Load:
    """`connect` opens a connection; `look` returns what is wrong with the answer to a numbered message, "" when it is correct."""

    connect: Callable[[], socket.socket]
    messages: list[bytes]
    look: Callable[[int, bytes], str]
    latencies_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    looked: int = 0
    answered: int = 0  # including the warm-up

    def run(self, clients: int, warm_s: float, seconds: float) -> "Load":
        """Send requests for `warm_s` seconds uncounted, then for `seconds`; an answer counts if it arrives within those."""
        poll = select.epoll()
        connections = {one.raw.fileno(): one for one in (Connection(self.connect, number) for number in range(clients))}
        for one in connections.values():
            poll.register(one.raw.fileno(), select.EPOLLIN)
            one.ask(self.messages[one.asked % len(self.messages)])
        begin = time.perf_counter() + warm_s
        end = begin + seconds
        now, count, last = 0.0, 0, time.perf_counter()
        while now < end and len(self.failures) < MOST_FAILURES:
            events = poll.poll(1.0)
            now = time.perf_counter()
            if not events and now - last > PATIENCE_S:
                self.failures.append(f"no answer for {PATIENCE_S:.0f} s")
                break
            for descriptor, _ in events:
                one = connections[descriptor]
                try:
                    if not one.take():
                        continue
                    last = time.perf_counter()
                    self._took(one, last if begin <= last <= end else None, look=count % LOOK == 0 or last < begin)
                except (OSError, ValueError) as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                    one.closing = True
                if one.closing:
                    poll.unregister(descriptor)
                    del connections[descriptor]
                    one.renew()
                    connections[one.raw.fileno()] = one
                    poll.register(one.raw.fileno(), select.EPOLLIN)
                count += 1
                one.asked += 1
                one.ask(self.messages[one.asked % len(self.messages)])
        self.seconds = seconds
        poll.close()
        for one in connections.values():
            one.raw.close()
        return self

    def _took(self, one: Connection, at: float | None, *, look: bool) -> None:
        status, body = bytes(one.received[9:12]), bytes(one.received[one.body_at : one.needed])
        wrong = "" if status == b"200" else f"{bytes(one.received[:12])!r} {body[:300]!r}"
        if look and not wrong:
            self.looked += 1
            wrong = self.look(one.asked % len(self.messages), body)
        if wrong:
            self.failures.append(wrong)
            return
        self.answered += 1
        if at is not None:
            self.latencies_ms.append((at - one.sent_at) * 1000)


def looker(samples: list[Sample], tolerance: float, answer: Callable[[bytes], Any]) -> Callable[[int, bytes], str]:
    """Return a function that compares an answer with its sample's."""

    def look(number: int, body: bytes) -> str:
        expected = samples[number].answer
        try:
            value = answer(body)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return f"{type(error).__name__}: {error}; the answer was {body[:200]!r}"
        return "" if is_correct(value, expected, tolerance) else f"sample {number}: expected {expected}, got {value}"

    return look


def main() -> None:
    """Run one load from a file with server, workload, folder, host, port, clients, warm_s, seconds."""
    from benchmarks.serving_peers.peers import CALLED  # noqa: PLC0415 -- only this function needs the peers' modules

    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    workload, samples, called = WORKLOADS[spec["workload"]], read_samples(Path(spec["folder"])), CALLED[spec["server"]]
    messages = [rendered(called.request(workload, sample), spec["host"]) for sample in samples]
    look = looker(samples, workload.tolerance, lambda body: called.answer(workload, body))
    load = Load(lambda: connected(spec["host"], spec["port"]), messages, look if called.checked else lambda _, __: "")
    load.run(spec["clients"], spec["warm_s"], spec["seconds"])
    fields = ("latencies_ms", "seconds", "failures", "looked", "answered")
    json.dump({name: getattr(load, name) for name in fields}, sys.stdout)


if __name__ == "__main__":
    main()
