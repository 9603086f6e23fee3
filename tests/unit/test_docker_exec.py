"""The output of a command in a container is held in memory, so an untrusted program cannot make it endless."""

import socket
import struct
import time

import pytest

from torchrelay.docker import exec as docker_exec


def frames(*blocks: bytes) -> bytes:
    return b"".join(struct.pack(">BxxxL", docker_exec.STDOUT, len(block)) + block for block in blocks)


@pytest.mark.parametrize(("limit", "allowed"), [(8, True), (7, False)])
def test_output_has_a_limit(monkeypatch: pytest.MonkeyPatch, limit: int, allowed: bool) -> None:
    monkeypatch.setattr(docker_exec, "MAX_OUTPUT_BYTES", limit)
    here, there = socket.socketpair()
    with here, there:
        there.sendall(frames(b"1234", b"5678"))
        there.shutdown(socket.SHUT_WR)
        if allowed:
            assert docker_exec._talk(here, None, time.monotonic() + 30) == (b"12345678", b"")
        else:
            with pytest.raises(docker_exec.OutputTooLong):
                docker_exec._talk(here, None, time.monotonic() + 30)
