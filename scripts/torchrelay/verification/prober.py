"""Sends requests to a running model, from outside (HTTP) or from inside its container or pod, and times the replies.

`torchrelay verify` runs the container with `--network none`, so requests go through `torchrelay_runtime.probe` in a container that
shares its network (outside.py); a live endpoint is asked over HTTP, as by any client. All return the same type, so the code that
compares the replies need not know which.
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
from torchrelay.core.json_text import parse_untrusted
from torchrelay.docker.exec import EXEC_MARGIN_S, exec_in

PYTHON = "/opt/torchrelay/venv/bin/python"
PROBE = (PYTHON, "-P", "-m", "torchrelay_runtime.probe")
MAX_ANSWER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class ProbeRequest:
    """One request to the model; its answer carries the same `id`."""

    id: str
    method: str
    path: str
    content_type: str
    body: bytes


@dataclass(frozen=True)
class ProbeAnswer:
    """The reply to a request. Without one, `status` is 0 and `error` says why."""

    id: str
    status: int
    content_type: str
    body: bytes
    latency_ms: float
    error: str | None


@dataclass(frozen=True)
class Readiness:
    """Whether a worker has answered. `failed`: the server has given up, so waiting is pointless."""

    ready: bool
    reason: str
    failed: bool


class Prober(Protocol):
    """Sends requests, `concurrency` at a time, and returns the answers in the order of the requests."""

    def send(self, requests: Sequence[ProbeRequest], concurrency: int, timeout_s: float) -> list[ProbeAnswer]:
        """Send them all; `timeout_s` is for each request. A request that gets no reply has an answer with an error."""


@dataclass(frozen=True)
class Address:
    """Where a probe sends its requests, when not to its own container."""

    host: str
    port: int


class Execute(Protocol):
    """Runs a command in a container or a pod and returns (exit code, stdout, stderr)."""

    def __call__(self, command: Sequence[str], stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
        """Run it. Raises GateFailed when it cannot run or does not end within `timeout_s` seconds."""


def encode_batch(batch: Sequence[ProbeRequest], concurrency: int, timeout_s: float, address: Address | None = None) -> bytes:
    """Write the line that `torchrelay_runtime.probe` reads on stdin: one JSON object."""
    document: dict[str, Any] = {
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
    if address is not None:
        document |= {"host": address.host, "port": address.port}
    return json.dumps(document).encode() + b"\n"


def decode_batch(output: bytes, batch: Sequence[ProbeRequest]) -> list[ProbeAnswer]:
    """Parse what `torchrelay_runtime.probe` printed.

    Raises ValueError when it is not one answer per request, in order.
    """
    try:
        rows = parse_untrusted(output)
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
            session.trust_env = False  # this machine's proxy and .netrc must not affect a verification
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
    """Sends from inside a container or pod, through its own `torchrelay_runtime.probe`; needs no network and no published port.

    `name` and `log_command` appear in error messages: what failed, and how to read its log.
    """

    def __init__(self, execute: Execute, name: str, log_command: str, address: Address | None = None) -> None:
        self.execute = execute
        self.name = name
        self.log_command = log_command
        self.address = address

    def send(self, requests: Sequence[ProbeRequest], concurrency: int, timeout_s: float) -> list[ProbeAnswer]:
        """Send them all, `concurrency` at a time.

        Raises GateFailed when the probe could not run or did not end: its container died, or is not of the runtime image; and
        whatever `execute` raises.
        """
        if not requests:
            return []
        rounds = math.ceil(len(requests) / max(1, concurrency))
        batch = encode_batch(requests, max(1, concurrency), timeout_s, self.address)
        code, output, errors = self.execute(list(PROBE), batch, EXEC_MARGIN_S + timeout_s * rounds)
        try:
            return decode_batch(output, requests)
        except ValueError as error:
            tail = errors.decode(errors="replace").strip()[-2000:]
            message = f"{self.name}: the probe ended with code {code} and {error}\n{tail}".rstrip()
            raise GateFailed(message, f"read its log: {self.log_command}") from error

    def ready(self, timeout_s: float = 15.0) -> Readiness:
        """Ask once whether a worker has answered."""
        code, output, errors = self.execute([*PROBE, "--ready"], b"", timeout_s)
        try:
            row = parse_untrusted(output)
            return Readiness(bool(row["ready"]), str(row["reason"]), bool(row["failed"]))
        except (ValueError, KeyError, TypeError):
            tail = (errors or output).decode(errors="replace").strip()[-2000:]
            return Readiness(False, f"the probe ended with code {code}: {tail}", False)


def container_prober(container: Any, name: str = "", log_command: str = "", address: Address | None = None) -> ExecProber:
    """Return a prober inside a Docker container (`docker.models.containers.Container`), which asks that container or an address.

    Its probe is part of the container's image: for an answer that has to be true, use `outside.outside_prober`.
    """

    def execute(command: Sequence[str], stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
        return exec_in(container, command, stdin=stdin or None, timeout_s=timeout_s)

    own = f"container {container.name}"
    return ExecProber(execute, name or own, log_command or f"docker logs {container.name}", address)
