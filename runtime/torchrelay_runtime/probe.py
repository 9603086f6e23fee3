"""Ask the container from inside, where no network reaches it.

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
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from torchrelay_runtime.settings import own_port, state_dir
from torchrelay_runtime.state import read_status


def send(connection: http.client.HTTPConnection, request: dict[str, Any]) -> dict[str, Any]:
    """Send one request; an error of the connection is part of the answer."""
    answer: dict[str, Any] = {"id": request["id"], "status": 0, "content_type": "", "body": "", "latency_ms": 0.0, "error": None}
    headers = {"Content-Type": request["content_type"]} if request.get("content_type") else {}
    started = time.perf_counter()
    try:
        body = base64.b64decode(request.get("body") or "", validate=True)
        connection.request(request.get("method", "POST"), request["path"], body or None, headers)
        response = connection.getresponse()
        content = response.read()
        answer |= {
            "status": response.status,
            "content_type": response.headers.get("Content-Type", ""),
            "body": base64.b64encode(content).decode("ascii"),
        }
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        answer["error"] = f"{type(error).__name__}: {error}"
    answer["latency_ms"] = round((time.perf_counter() - started) * 1000, 3)
    return answer


def send_all(batch: dict[str, Any], port: int) -> list[dict[str, Any]]:
    """Send every request, `concurrency` at a time, each lane over its own connection."""
    requests = batch["requests"]
    answers: list[dict[str, Any]] = [{} for _ in requests]
    queue: Iterator[tuple[int, dict[str, Any]]] = iter(enumerate(requests))
    lock = threading.Lock()

    def lane() -> None:
        host, timeout_s = str(batch.get("host", "127.0.0.1")), float(batch.get("timeout_s", 60))
        connection = http.client.HTTPConnection(host, int(batch.get("port", port)), timeout=timeout_s)
        while True:
            with lock:
                index, request = next(queue, (-1, {}))
            if index < 0:
                connection.close()
                return
            answers[index] = send(connection, request)

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
