"""Runs commands inside a pod, and sends requests to the model from there: to the pod itself, or to the Service as any client."""

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api
from kubernetes.stream import stream
from websocket import WebSocketException

from torchrelay.core.errors import ClusterRefused, GateFailed
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.retry import Policy, RetryLater, retrying
from torchrelay.targets.kubernetes.api_errors import first_line, forbidden, rule
from torchrelay.targets.kubernetes.manifests import CONTAINER
from torchrelay.verification.prober import Address, ExecProber

STDIN, STDOUT, STDERR, ERROR = 0, 1, 2, 3
FRAME = 32 * 1024
CONNECT_S = 45.0
"""Seconds for a handshake: the API server itself takes up to 30 to reach a node."""
HANDSHAKE = re.compile(r"Handshake status (\d+)")
UNAUTHORIZED = 401
ONCE_MORE = Policy(attempts=2, first_wait_s=0.0)


class Connection(Protocol):
    """The parts of `Api` that running a command needs."""

    namespace: str

    @property
    def configuration(self) -> Configuration:
        """Address and credentials."""

    def renew(self) -> None:
        """Create new credentials."""


class PodRunner(Protocol):
    """The parts of `Api` that a prober needs."""

    namespace: str

    def execute(self, pod: str, command: Sequence[str], stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
        """Run a command in a pod's server container and return (exit code, stdout, stderr)."""


def pod_prober(api: PodRunner, pod: str, address: Address | None = None) -> ExecProber:
    """Return a prober inside a pod, that asks the pod itself or an address."""

    def execute(command: Sequence[str], stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
        return api.execute(pod, command, stdin, timeout_s)

    return ExecProber(execute, f"pod {pod}", f"kubectl -n {api.namespace} logs {pod}", address)


def exec_in(
    api: Connection,
    pod: str,
    command: Sequence[str],
    stdin: bytes = b"",
    timeout_s: float = 60.0,
    open_stream: Callable[..., Any] = stream,
) -> tuple[int, bytes, bytes]:
    """Run a command in a pod's server container and return (exit code, stdout, stderr).

    Its stdin is never closed, which older protocols cannot do: the command has to know where its input ends.

    Raises:
        GateFailed: the container is not running, or the command does not end within `timeout_s` seconds.
        ClusterRefused: it is forbidden, or the connection broke.
    """
    deadline = time.monotonic() + timeout_s
    session = open_session(api, pod, command, stdin=bool(stdin), open_stream=open_stream)
    try:
        session.sock.settimeout(timeout_s)
        for begin in range(0, len(stdin), FRAME):
            session.write_channel(STDIN, stdin[begin : begin + FRAME])
        while session.is_open():
            left = deadline - time.monotonic()
            if left <= 0:
                raise GateFailed(f"pod {pod}: {command[-1]} did not end within {timeout_s:g} s")
            session.update(timeout=left)
        return _exit_code(session.read_channel(ERROR)), session.read_channel(STDOUT), session.read_channel(STDERR)
    except (WebSocketException, OSError) as error:
        raise ClusterRefused(f"pod {pod}: the connection to {command[-1]} broke: {first_line(error)}", "run it again") from error
    finally:
        with contextlib.suppress(WebSocketException, OSError):
            session.close()


def open_session(
    api: Connection,
    pod: str,
    command: Sequence[str],
    *,
    stdin: bool,
    open_stream: Callable[..., Any] = stream,
    limit_s: float = CONNECT_S,
) -> Any:
    """Start a command and return its session; expired credentials are renewed once. `open_stream` as `kubernetes.stream.stream`.

    Raises GateFailed, ClusterRefused.
    """

    def connect() -> Any:
        core = CoreV1Api(ApiClient(api.configuration))  # `stream` changes its client while it connects
        return open_stream(
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

    def attempt() -> Any:
        try:
            return within(limit_s, connect)
        except ApiException as error:
            refused = _not_started(error, api, pod, command[-1])
            if _handshake_status(error) == UNAUTHORIZED:
                raise RetryLater(refused.message, 0.0) from refused
            raise refused from error
        except TimeoutError as error:
            message = f"pod {pod} is unreachable to run {command[-1]}: no answer within {limit_s:g} s"
            raise ClusterRefused(message, "run it again; check that the API reaches the nodes: `kubectl exec`") from error

    try:
        return retrying(attempt, ONCE_MORE, before_wait=lambda *_: api.renew())
    except RetryLater as unauthorized:
        raise unauthorized.__cause__ or ClusterRefused(unauthorized.reason) from None


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return the result of a call that has no time limit itself; when it is late, its thread is abandoned.

    Raises TimeoutError, and whatever the call raises.
    """
    results: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(), None))
        except Exception as error:
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result


def _handshake_status(error: ApiException) -> int:
    """Return the HTTP status of the handshake, which is only in the error's text; 0 when there was none."""
    return int(match[1]) if (match := HANDSHAKE.search(str(error.reason))) else 0


def _exit_code(status: bytes) -> int:
    """Parse the exit code out of the Status object that arrives last; -1 when it has none."""
    try:
        document = parse_untrusted(status or b"{}")
        return 0 if document.get("status") == "Success" else int(document["details"]["causes"][0]["message"])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return -1


def _not_started(error: ApiException, api: Connection, pod: str, program: str) -> ClusterRefused | GateFailed:
    """Return the reason why a command did not start, as an error."""
    text, status = str(error.reason), _handshake_status(error)
    if status == 403:
        message = re.search(r"pods .*?is forbidden: .*?(?=\\n|\"?,\"reason|'$|$)", text)
        refused = forbidden(message[0].replace("\\\\", "").replace('\\"', '"') if message else text, api.namespace)
        if isinstance(refused, ClusterRefused):
            return refused
        return ClusterRefused(f"running {program} in a pod is not allowed", f"add to the Role: {rule('create', 'pods/exec', '')}")
    if status in (400, 404, 500):
        return GateFailed(f"pod {pod} cannot run {program}: it is not running any more", f"`kubectl describe pod {pod}`")
    return ClusterRefused(f"pod {pod} is unreachable to run {program}: {first_line(error)}", "run it again")
