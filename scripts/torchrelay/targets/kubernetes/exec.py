"""Runs programs inside a pod, and asks the model from there: at the pod itself, or at the Service as any other pod would."""

import contextlib
import json
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torchrelay.core.errors import ClusterRefused, GateFailed
from torchrelay.docker.exec import START_MARGIN_S as EXEC_MARGIN_S
from torchrelay.targets.kubernetes.api import UNAUTHORIZED, Api
from torchrelay.targets.kubernetes.api_errors import first_line, forbidden, rule
from torchrelay.targets.kubernetes.manifests import CONTAINER
from torchrelay.verification.prober import PROBE, ProbeAnswer, ProbeRequest, Readiness, decode_batch, encode_batch

STDIN, STDOUT, STDERR, ERROR = 0, 1, 2, 3
FRAME = 32 * 1024
CONNECT_S = 45.0
"""Seconds for a handshake: the API server itself takes up to 30 to reach a node."""
HANDSHAKE = re.compile(r"Handshake status (\d+)")


@dataclass(frozen=True)
class Address:
    """Where a probe sends its requests."""

    host: str
    port: int


def exec_in(api: Api, pod: str, command: Sequence[str], stdin: bytes = b"", timeout_s: float = 60.0) -> tuple[int, bytes, bytes]:
    """Run a command in a pod's server container: (exit code, stdout, stderr).

    Its stdin is never closed, as older protocols cannot say so: the command has to know where its input ends.

    Raises:
        GateFailed: the container is not running, or the command is not done within `timeout_s` seconds.
        ClusterRefused: it is not allowed, or the connection broke.
    """
    from websocket import WebSocketException  # noqa: PLC0415 -- as in _connect

    deadline = time.monotonic() + timeout_s
    session = _opened(api, pod, command, bool(stdin))
    try:
        session.sock.settimeout(timeout_s)
        for begin in range(0, len(stdin), FRAME):
            session.write_channel(STDIN, stdin[begin : begin + FRAME])
        while session.is_open():
            left = deadline - time.monotonic()
            if left <= 0:
                raise GateFailed(f"pod {pod}: {command[-1]} did not end within {timeout_s:g} s")
            session.update(timeout=left)
        return _code(session.read_channel(ERROR)), session.read_channel(STDOUT), session.read_channel(STDERR)
    except (WebSocketException, OSError) as error:
        raise ClusterRefused(f"pod {pod}: the connection to {command[-1]} broke: {first_line(error)}", "run it again") from error
    finally:
        with contextlib.suppress(WebSocketException, OSError):
            session.close()


def _opened(api: Api, pod: str, command: Sequence[str], stdin: bool) -> Any:
    """Return the session of a command; credentials that have expired are made anew once."""
    from kubernetes.client import ApiException  # noqa: PLC0415 -- as in _connect

    for again in (True, False):
        try:
            return within(CONNECT_S, lambda: _connect(api, pod, command, stdin))
        except ApiException as error:
            if again and _status(error) == UNAUTHORIZED:
                api.renew()
                continue
            raise _not_begun(error, api, pod, command[-1]) from error
        except TimeoutError as error:
            what = f"pod {pod} cannot be reached to run {command[-1]}: no answer within {CONNECT_S:g} s"
            raise ClusterRefused(what, "run it again; see whether the API reaches the nodes: `kubectl exec`") from error
    raise AssertionError("not reached")


def _connect(api: Api, pod: str, command: Sequence[str], stdin: bool) -> Any:
    from kubernetes.client import ApiClient, CoreV1Api  # noqa: PLC0415 -- half a second, which only this target pays
    from kubernetes.stream import stream  # noqa: PLC0415

    core = CoreV1Api(ApiClient(api.configuration))  # `stream` changes its client while it connects
    return stream(
        core.connect_get_namespaced_pod_exec,
        pod,
        api.namespace,
        container=CONTAINER,
        command=list(command),
        stdin=stdin,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
        binary=True,
    )


def within(seconds: float, begin: Callable[[], Any]) -> Any:
    """Return what a call returns, for one that knows no time-out itself; it is left behind in its thread when it is late.

    Raises TimeoutError, and whatever the call raises.
    """
    ends: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            ends.put((begin(), None))
        except Exception as error:
            ends.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        made, error = ends.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return made


def _status(error: Any) -> int:
    """Return the answer to the handshake, which is in the text of the error alone; 0 when there was none."""
    return int(found[1]) if (found := HANDSHAKE.search(str(error.reason))) else 0


def _code(status: bytes) -> int:
    """Read the exit code out of the Status object that comes last."""
    try:
        told = json.loads(status or b"{}")
        return 0 if told.get("status") == "Success" else int(told["details"]["causes"][0]["message"])
    except (ValueError, KeyError, IndexError, TypeError):
        return -1


def _not_begun(error: Any, api: Api, pod: str, program: str) -> ClusterRefused | GateFailed:
    """Tell why nothing was run."""
    text, status = str(error.reason), _status(error)
    if status == 403:
        told = re.search(r"pods .*?is forbidden: .*?(?=\\n|\"?,\"reason|'$|$)", text)
        refused = forbidden(told[0].replace("\\\\", "").replace('\\"', '"') if told else text, api.namespace)
        if isinstance(refused, ClusterRefused):
            return refused
        return ClusterRefused(f"it is not allowed to run {program} in a pod", f"add to its Role: {rule('create', 'pods/exec', '')}")
    if status in (400, 404, 500):
        return GateFailed(f"pod {pod} cannot run {program}: it is not running any more", f"`kubectl describe pod {pod}`")
    return ClusterRefused(f"pod {pod} cannot be reached to run {program}: {first_line(error)}", "run it again")


class PodProber:
    """Sends from inside a pod, through its own `torchrelay_runtime.probe`; to the pod itself, or to an address."""

    def __init__(self, api: Api, pod: str, address: Address | None = None) -> None:
        self.api = api
        self.pod = pod
        self.address = address

    def send(self, requests: Sequence[ProbeRequest], concurrency: int, timeout_s: float) -> list[ProbeAnswer]:
        """Send them all, `concurrency` at a time.

        Raises GateFailed when the probe could not run or did not end, ClusterRefused.
        """
        if not requests:
            return []
        document = json.loads(encode_batch(requests, max(1, concurrency), timeout_s))
        if self.address is not None:
            document |= {"host": self.address.host, "port": self.address.port}
        rounds = math.ceil(len(requests) / max(1, concurrency))
        code, output, errors = exec_in(
            self.api, self.pod, list(PROBE), json.dumps(document).encode() + b"\n", EXEC_MARGIN_S + timeout_s * rounds
        )
        try:
            return decode_batch(output, requests)
        except ValueError as error:
            tail = errors.decode(errors="replace").strip()[-2000:]
            raise GateFailed(
                f"pod {self.pod}: the probe ended with code {code} and {error}\n{tail}".rstrip(),
                f"read its log: kubectl -n {self.api.namespace} logs {self.pod}",
            ) from error

    def ready(self, timeout_s: float = 15.0) -> Readiness:
        """Ask once whether a worker has answered."""
        code, output, errors = exec_in(self.api, self.pod, [*PROBE, "--ready"], timeout_s=timeout_s)
        try:
            row = json.loads(output)
            return Readiness(bool(row["ready"]), str(row["reason"]), bool(row["failed"]))
        except (ValueError, KeyError, TypeError):
            tail = (errors or output).decode(errors="replace").strip()[-2000:]
            return Readiness(False, f"the probe ended with code {code}: {tail}", False)
