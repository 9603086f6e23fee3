"""Runs a command inside a container, through Docker's exec API."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests

from torchrelay.core.errors import DockerUnavailable, GateFailed

EXEC_MARGIN_S = 30.0
"""Seconds allowed for `docker exec` itself, beside the requests: Python's start under a tight CPU limit."""
STDOUT, STDERR = 1, 2
MAX_OUTPUT_BYTES = 1 << 30
"""Bytes that a command may print: the program may belong to an untrusted image, and its output is held in memory."""


class OutputTooLong(Exception):
    """A command printed more than MAX_OUTPUT_BYTES."""


def exec_in(
    container: Any,
    command: Sequence[str],
    stdin: bytes | None = None,
    timeout_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, bytes, bytes]:
    """Run a command in a container and return (exit code, stdout, stderr).

    Raises:
        GateFailed: the container is not running, or the command does not end within `timeout_s` seconds, or it prints too much.
        DockerUnavailable: the daemon stopped answering.
    """
    api = container.client.api
    name = str(container.name)
    deadline = time.monotonic() + timeout_s
    try:
        exec_id = api.exec_create(container.id, list(command), stdin=stdin is not None, environment=dict(environment or {}))["Id"]
        stream = api.exec_start(exec_id, socket=True)
        with contextlib.closing(stream):
            output, errors = _talk(getattr(stream, "_sock", stream), stdin, deadline)
        return int(api.exec_inspect(exec_id)["ExitCode"] or 0), output, errors
    except TimeoutError as error:
        raise GateFailed(f"container {name}: {command[-1]} did not end within {timeout_s:g} s") from error
    except OutputTooLong as error:
        raise GateFailed(f"container {name}: {command[-1]} printed more than {MAX_OUTPUT_BYTES >> 20} MiB") from error
    except requests.HTTPError as error:  # docker.errors.APIError is one: 404 gone, 409 not running
        raise GateFailed(
            f"container {name} cannot run {command[-1]}: {getattr(error, 'explanation', None) or error}",
            f"read its log: docker logs {name}",
        ) from error
    except (requests.ConnectionError, OSError) as error:
        raise DockerUnavailable(f"the Docker daemon stopped answering: {error}") from error


def _talk(sock: socket.socket, stdin: bytes | None, deadline: float) -> tuple[bytes, bytes]:
    """Write stdin while reading the frames of both outputs, so that a full pipe on one side cannot block the other."""

    def feed(data: bytes) -> None:
        with contextlib.suppress(OSError):  # the program ended before it had read all; its exit code and stderr say why
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)  # the program reads to the end of its stdin

    sock.settimeout(max(0.001, deadline - time.monotonic()))
    feeder = None
    if stdin is not None:
        feeder = threading.Thread(target=feed, args=(stdin,), daemon=True)
        feeder.start()
    out: dict[int, bytearray] = {}
    for kind, block in _frames(sock, deadline):
        if sum(map(len, out.values())) + len(block) > MAX_OUTPUT_BYTES:
            raise OutputTooLong
        out.setdefault(kind, bytearray()).extend(block)
    if feeder is not None:
        feeder.join(timeout=max(0.0, deadline - time.monotonic()))
    return bytes(out.get(STDOUT, b"")), bytes(out.get(STDERR, b""))


def _frames(sock: socket.socket, deadline: float) -> Iterator[tuple[int, bytes]]:
    """Parse Docker's stream: 1 byte stream number, 3 of padding, 4 of length (big endian), then that many bytes."""
    while header := _read(sock, 8, deadline):
        kind, size = struct.unpack(">BxxxL", header)
        yield kind, _read(sock, size, deadline)


def _read(sock: socket.socket, size: int, deadline: float) -> bytes:
    """Read exactly `size` bytes, or none at the end of the stream."""
    data = bytearray()
    while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        block = sock.recv(min(size - len(data), 1 << 20))
        if not block:
            if data:
                raise ConnectionError("the stream ended within a frame")
            return b""
        data += block
    return bytes(data)
