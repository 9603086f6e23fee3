"""Amounts of memory as Kubernetes and Docker write them: `512Mi`, `2Gi`, `1.5G`."""

import re
from decimal import Decimal

UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
LEAST = 256 * 2**20  # a Java server and one Python worker that imports torch need this much to start

_FORM = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")


def parse(text: str) -> int:
    """Return the number of bytes, rounded down.

    Raises:
        ValueError: it is not a quantity, its unit is unknown, or it is less than a server needs; says what to write.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError("is not an amount of memory; write for example 2Gi or 512Mi")
    number, unit = match[1], match[2]
    if unit not in UNITS or " " in text:
        unit = _near(unit)
        raise ValueError(f"has no legal unit; did you mean {number}{unit}? units: Mi, Gi, Ti (powers of 1024), M, G, T (of 1000)")
    size = int(Decimal(number) * UNITS[unit])
    if size < LEAST:
        meant = f"did you mean {number}Gi? " if not unit and Decimal(number) > 0 else ""
        raise ValueError(f"is less than a server needs to start; {meant}write 256Mi or more")
    return size


def _near(unit: str) -> str:
    letter = unit[:1].upper()
    return letter if unit.lower() == f"{letter.lower()}b" and letter in "MGT" else f"{letter}i" if letter in set("KMGT") else "Gi"


def body_memory(memory: int, max_body: int) -> int:
    """Return the memory (bytes) that the server needs beside the model when its largest bodies (bytes) arrive.

    The image divides its memory like this and refuses to start with less: `body_budget` in runtime/torchrelay_runtime/torchserve.
    """
    mib = 1 << 20
    budget = max(max_body, min(memory // 32, 256 * mib))
    return min(192 * mib, memory // 8) + min(64 * mib, memory // 16) + 64 * mib + 7 * budget
