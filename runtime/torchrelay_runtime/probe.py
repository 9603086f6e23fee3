"""Ask the container from inside, or from a container beside it that shares its network, where no other network reaches it.

probe.py           reads {"concurrency", "timeout_s", "requests": [{"id", "method", "path", "content_type", "body" (base64)}]} on
                   one line of stdin, sends them through the front, prints
                   [{"id", "status", "content_type", "body" (base64), "latency_ms", "error"}] in the same order;
                   "host" and "port" send them elsewhere: to the Service before several pods
probe.py --ready   prints {"ready", "reason", "failed"}; exit code 0 when ready
probe.py --live    the same, exit code 1 only when the server gave up for good: liveness must not be stricter than readiness
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

from torchrelay_runtime.settings import own_port, state_dir
from torchrelay_runtime.state import read_status

BLOCK = 1 << 16
MAX_ANSWER_BYTES = 64 << 20
MAX_BATCH_BYTES = 512 << 20
TIMEOUT_S = 60.0


class Refused(ValueError):
    """An answer is not read to its end, because it is too large."""


class Budget:
    """Bytes that the answers of one batch may have together: they are held in memory until all have come."""

    def __init__(self, total: int) -> None:
        self._lock = threading.Lock()
        self._total, self._left = total, total

    def spend(self, count: int) -> None:
        """Raise Refused when there is not that much left."""
        with self._lock:
            self._left -= count
            if self._left < 0:
                raise Refused(f"the answers are larger than {self._total} bytes together")


def read_body(response: http.client.HTTPResponse, budget: Budget) -> bytes:
    """Read an answer to its end, up to the limits. Raises Refused, IncompleteRead."""
    body = bytearray()
    while block := response.read(BLOCK):
        body += block
        if len(body) > MAX_ANSWER_BYTES:
            raise Refused(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        budget.spend(len(block))
    if response.length:  # read(n) does not raise when the peer closes early
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(body)


def send(connection: http.client.HTTPConnection, request: dict[str, Any], budget: Budget | None = None) -> dict[str, Any]:
    """Send one request; an error of the connection is part of the answer. Its time limit is for the whole answer."""
    answer: dict[str, Any] = {"id": request["id"], "status": 0, "content_type": "", "body": "", "latency_ms": 0.0, "error": None}
    headers = {"Content-Type": request["content_type"]} if request.get("content_type") else {}
    late = threading.Event()
    started = time.perf_counter()
    try:
        body = base64.b64decode(request.get("body") or "", validate=True)
        if connection.sock is None:
            connection.connect()
        with deadline(connection, late):
            connection.request(request.get("method", "POST"), request["path"], body or None, headers)
            response = connection.getresponse()
            content = read_body(response, budget or Budget(MAX_ANSWER_BYTES))
        answer |= {
            "status": response.status,
            "content_type": response.headers.get("Content-Type", ""),
            "body": base64.b64encode(content).decode("ascii"),
        }
    except Refused as refused:
        connection.close()
        answer["error"] = str(refused)
    except TimeoutError:
        late.set()
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        answer["error"] = f"{type(error).__name__}: {error}"
    if late.is_set():
        connection.close()
        error_text = f"the answer was not complete within {connection.timeout:g} s"
        answer |= {"status": 0, "content_type": "", "body": "", "error": error_text}
    answer["latency_ms"] = round((time.perf_counter() - started) * 1000, 3)
    return answer


@contextmanager
def deadline(connection: http.client.HTTPConnection, late: threading.Event) -> Iterator[None]:
    """Cut a connection when its time is up and set `late`: a socket's own limit starts again with every byte."""
    sock = connection.sock

    def cut() -> None:
        late.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(connection.timeout or TIMEOUT_S, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def send_all(batch: dict[str, Any], port: int) -> list[dict[str, Any]]:
    """Send every request, `concurrency` at a time, each lane over its own connection."""
    requests = batch["requests"]
    answers: list[dict[str, Any]] = [{} for _ in requests]
    queue: Iterator[tuple[int, dict[str, Any]]] = iter(enumerate(requests))
    lock = threading.Lock()
    budget = Budget(MAX_BATCH_BYTES)

    def lane() -> None:
        host, timeout_s = str(batch.get("host", "127.0.0.1")), float(batch.get("timeout_s", TIMEOUT_S))
        connection = http.client.HTTPConnection(host, int(batch.get("port", port)), timeout=timeout_s)
        while True:
            with lock:
                index, request = next(queue, (-1, {}))
            if index < 0:
                connection.close()
                return
            answers[index] = send(connection, request, budget)

    lanes = [threading.Thread(target=lane) for _ in range(max(1, min(int(batch.get("concurrency", 1)), len(requests))))]
    for one in lanes:
        one.start()
    for one in lanes:
        one.join()
    return answers


def front_is_up(port: int) -> bool:
    """Return whether /ping is answered with 200."""
    answer = send(http.client.HTTPConnection("127.0.0.1", port, timeout=4.0), {"id": "", "method": "GET", "path": "/ping"})
    return bool(answer["status"] == 200)


def main(argv: list[str]) -> int:
    """Run the action in `argv`."""
    parser = argparse.ArgumentParser(prog="probe.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--ready", action="store_true")
    group.add_argument("--live", action="store_true")
    arguments = parser.parse_args(argv)
    port = own_port(os.environ)
    if not arguments.ready and not arguments.live:
        # A line, because some tools cannot close the stdin of a program in a container: Kubernetes before 1.30 cannot.
        json.dump(send_all(json.loads(sys.stdin.readline()), port), sys.stdout)
        print()
        return 0
    status = read_status(state_dir(os.environ))
    if status.ready and arguments.ready and not front_is_up(port):
        status = replace(status, ready=False, reason="/ping is not answered with 200")
    print(json.dumps(asdict(status)))
    return int(status.failed) if arguments.live else int(not status.ready)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
