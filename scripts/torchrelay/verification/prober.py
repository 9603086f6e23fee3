"""Send requests to a running model, from outside (HTTP) or inside its container (docker exec), and time the answers.

Verification runs under `--network none`, so it speaks through `torchrelay_runtime.probe` inside the container; a live endpoint
is proved over HTTP like any client would. Both give the same answers, so whatever compares them need not know which.
"""

import base64
import json
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import requests

from torchrelay.core.errors import GateFailed
from torchrelay.docker.exec import START_MARGIN_S, exec_in

PYTHON = "/opt/torchrelay/venv/bin/python"
PROBE = (PYTHON, "-P", "-m", "torchrelay_runtime.probe")
MAX_ANSWER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class ProbeRequest:
    """One request for the model; `id` comes back in its answer."""

    id: str
    method: str
    path: str
    content_type: str
    body: bytes


@dataclass(frozen=True)
class ProbeAnswer:
    """What came back. `status` is 0 and `error` says why when no answer did."""

    id: str
    status: int
    content_type: str
    body: bytes
    latency_ms: float
    error: str | None


@dataclass(frozen=True)
class Readiness:
    """Whether a worker has answered; `failed` when the server has given up for good and waiting is pointless."""

    ready: bool
    reason: str
    failed: bool


class Prober(Protocol):
    """Sends requests, `concurrency` at a time, and returns the answers in the order of the requests."""

    def send(self, requests: Sequence[ProbeRequest], concurrency: int, timeout_s: float) -> list[ProbeAnswer]:
        """Send them all; `timeout_s` is for each request. A request without an answer is an answer with an error."""


def encode_batch(batch: Sequence[ProbeRequest], concurrency: int, timeout_s: float) -> bytes:
    """Write the JSON object that `torchrelay_runtime.probe` reads on stdin."""
    return json.dumps(
        {
            "concurrency": concurrency,
            "timeout_s": timeout_s,
            "requests": [
                {
                    "id": request.id,
                    "method": request.method,
                    "path": request.path,
                    "content_type": request.content_type,
                    "body": base64.b64encode(request.body).decode(),
                }
                for request in batch
            ],
        }
    ).encode()


def decode_batch(output: bytes, batch: Sequence[ProbeRequest]) -> list[ProbeAnswer]:
    """Read what `torchrelay_runtime.probe` printed.

    Raises:
        ValueError: it is not one answer per request, in order.
    """
    try:
        rows = json.loads(output)
    except ValueError as error:
        raise ValueError("printed no JSON") from error
    if not isinstance(rows, list) or [row.get("id") for row in rows if isinstance(row, dict)] != [r.id for r in batch]:
        raise ValueError("did not answer every request in order")
    try:
        return [
            ProbeAnswer(
                id=str(row["id"]),
                status=int(row["status"] or 0),
                content_type=str(row["content_type"] or ""),
                body=base64.b64decode(row["body"] or "", validate=True),
                latency_ms=float(row["latency_ms"] or 0.0),
                error=None if row.get("error") is None else str(row["error"]),
            )
            for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"printed an unreadable answer: {error!r}") from error


class HttpProber:
    """Sends over HTTP to `base_url`, with one kept-alive connection per thread."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._local = threading.local()

    def send(self, requests: Sequence[ProbeRequest], concurrency: int, timeout_s: float) -> list[ProbeAnswer]:
        """Send them all, `concurrency` at a time."""
        with ThreadPoolExecutor(max_workers=max(1, min(concurrency, len(requests) or 1))) as pool:
            return list(pool.map(lambda request: self._send_one(request, timeout_s), requests))

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False  # a proxy or a .netrc of this machine has no part in a proof
            self._local.session = session
        return session

    def _send_one(self, request: ProbeRequest, timeout_s: float) -> ProbeAnswer:
        started = time.perf_counter()
        deadline = time.monotonic() + timeout_s

        def answer(status: int, content_type: str, body: bytes, error: str | None) -> ProbeAnswer:
            elapsed_ms = (time.perf_counter() - started) * 1000
            return ProbeAnswer(request.id, status, content_type, body, elapsed_ms, error)

        try:
            with self._session().request(
                request.method,
                self.base_url + request.path,
                data=request.body,
                headers={"Content-Type": request.content_type} if request.content_type else {},
                timeout=timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                body = bytearray()
                for block in response.iter_content(65536):
                    body += block
                    if len(body) > MAX_ANSWER_BYTES:
                        return answer(0, "", b"", f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
                    if time.monotonic() > deadline:
                        return answer(0, "", b"", f"the answer was not complete within {timeout_s:g} s")
                content_type = response.headers.get("Content-Type", "")
                return answer(response.status_code, content_type, bytes(body), None)
        except (requests.RequestException, OSError) as error:
            return answer(0, "", b"", f"{type(error).__name__}: {error}")


class ExecProber:
    """Sends from inside a container, through its own `torchrelay_runtime.probe`; needs no network and no published port.

    `container` is a `docker.models.containers.Container`.
    """

    def __init__(self, container: Any) -> None:
        self.container = container

    def send(self, requests: Sequence[ProbeRequest], concurrency: int, timeout_s: float) -> list[ProbeAnswer]:
        """Send them all, `concurrency` at a time.

        Raises:
            GateFailed: the probe could not run or did not end: the container died, or is not of the runtime image.
        """
        if not requests:
            return []
        rounds = math.ceil(len(requests) / max(1, concurrency))
        code, output, errors = exec_in(
            self.container,
            list(PROBE),
            stdin=encode_batch(requests, max(1, concurrency), timeout_s),
            timeout_s=START_MARGIN_S + timeout_s * rounds,
        )
        try:
            return decode_batch(output, requests)
        except ValueError as error:
            tail = errors.decode(errors="replace").strip()[-2000:]
            raise GateFailed(
                f"container {self.container.name}: the probe ended with code {code} and {error}\n{tail}".rstrip(),
                "read its log: docker logs " + str(self.container.name),
            ) from error

    def ready(self, timeout_s: float = 15.0) -> Readiness:
        """Ask once whether a worker has answered."""
        code, output, errors = exec_in(self.container, [*PROBE, "--ready"], timeout_s=timeout_s)
        try:
            row = json.loads(output)
            return Readiness(bool(row["ready"]), str(row["reason"]), bool(row["failed"]))
        except (ValueError, KeyError, TypeError):
            tail = (errors or output).decode(errors="replace").strip()[-2000:]
            return Readiness(False, f"the probe ended with code {code}: {tail}", False)
