"""The picture that both the learner and the exported model answer. It depends on its size alone, so both sides can make it."""

from __future__ import annotations

import math
import struct
import zlib

_WAVES = ((3, 5, 0.0), (4, -3, 1.0), (-2, 6, 2.0))  # across, down and phase, for red, green and blue


def size_for(height: int, width: int) -> tuple[int, int]:
    """Return (height, width): twice the network's input unless that is large, to test resizing too; no crop cuts anything off."""
    times = 2 if height * width <= 320 * 320 else 1
    return times * height, times * width


def png(height: int, width: int) -> bytes:
    """Return an RGB picture of soft colours with two boxes in it, the same bytes on every machine."""
    rows = []
    for y in range(height):
        line = bytearray(b"\0")
        for x in range(width):
            u, v = x / width, y / height
            if 0.15 < u < 0.4 and 0.3 < v < 0.55:
                line += b"\xd2\x28\x3c"
            elif 0.6 < u < 0.85 and 0.6 < v < 0.9:
                line += b"\x1e\x5a\x2d"
            else:
                line += bytes(round(127.5 + 100 * math.sin(across * u + down * v + phase)) for across, down, phase in _WAVES)
        rows.append(bytes(line))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"".join(rows), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
