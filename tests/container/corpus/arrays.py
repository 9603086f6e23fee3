"""Bad .npy files for the tensor handler with shape [4] and dtype float32."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Iterator

import numpy as np

from tests.container.corpus.case import Case, cases
from tests.container.corpus.tensors import GOOD, MOST

NPY = "application/x-npy"


def npy(array: object, **options: bool) -> bytes:
    """The array in numpy's format."""
    buffer = io.BytesIO()
    np.save(buffer, np.asanyarray(array), **options)
    return buffer.getvalue()


def header(text: str, data: bytes = bytes(16), version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """An .npy file with any text for a header."""
    raw = text.encode("latin-1")
    size = len(raw) if length is None else length
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", size) + raw + data


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("/tmp/written-by-a-pickle",))  # noqa: S108 - what must never be called


def npy_cases() -> list[Case]:
    """Arrays as files."""
    row = np.array(GOOD, "<f4")
    good = npy(row)
    corpus = cases(
        "npy cut",
        ((f"after {size} bytes", good[:size]) for size in (*range(1, 16), *range(20, len(good), 6))),
        NPY,
        "npy|array|file",
    )
    shapes = [(1,), (3,), (5,), (4, 1), (2, 3), (1, 1, 4), (2, 2, 2), (4, 4, 4, 4), (1,) * 20, (0,), (0, 4), (2, 0), (1,) * 32]
    corpus += cases("npy shape", ((str(shape), npy(np.ones(shape, "<f4"))) for shape in shapes), NPY, "shape|no numbers")
    corpus += cases("npy nothing", [("no dimension", npy(np.float32(3)))], NPY, "shape")
    kinds = ["<U4", "S4", "<M8[s]", "<m8[s]", "<c8", "<c16", "V4", [("a", "<f4"), ("b", "<i4")], "<U0", "S0", [("a", "<f4", (2,))]]
    corpus += cases("npy dtype", ((str(kind), npy(np.zeros(4, np.dtype(kind)))) for kind in kinds), NPY, "supported|numbers|header")  # type: ignore[call-overload] # a list of strings and lists
    corpus += cases("npy booleans", [("four", npy(np.ones(4, bool)))], NPY, "true or false")
    finite = [("nan", np.nan), ("inf", np.inf), ("-inf", -np.inf), ("1e39", 1e39), ("-1e300", -1e300)]
    corpus += cases(
        "npy number", ((name, npy(np.array([1, 2, 3, value], "<f8"))) for name, value in finite), NPY, "NaN, infinite or too large"
    )
    pickled = [
        ("objects", npy(np.array([1, "a", None, {}], object), allow_pickle=True)),
        ("harmful", npy(np.array([_Harmful()], object), allow_pickle=True)),
    ]
    pickled += [
        ("a bare pickle", pickle.dumps(row)),
        ("a harmful pickle", pickle.dumps(_Harmful())),
        ("objects, no data", header("{'descr': '|O', 'fortran_order': False, 'shape': (4,), }")),
    ]
    corpus += cases("npy pickle", pickled, NPY, "not supported|not an .npy")
    corpus += cases("npy header", _headers(), NPY, "npy|array|file|bytes")
    versions = [(major, minor) for major in (0, 1, 2, 3, 9, 255) for minor in (0, 1, 255) if (major, minor) not in ((1, 0), (2, 0))]
    corpus += cases(
        "npy version", ((str(version), good[:6] + bytes(version) + good[8:]) for version in versions), NPY, "header|version"
    )
    corpus += cases("npy length", ((f"{size} more bytes", good + bytes(size)) for size in (1, 3, 4, 16, 1000)), NPY, "bytes")
    others = [
        ("zip", b"PK\x03\x04"),
        ("npz", _npz(row)),
        ("json", json.dumps(GOOD).encode()),
        ("csv", b"1,2,3,4"),
        ("hdf5", b"\x89HDF\r\n\x1a\n"),
        ("zeros", bytes(100)),
    ]
    others += [
        ("text", b"hello"),
        ("png", b"\x89PNG\r\n\x1a\n"),
        ("magic twice", b"\x93NUMPY" * 2),
        ("wrong magic", b"\x93NUMPX" + good[6:]),
        ("magic later", b" " + good),
    ]
    corpus += cases("npy not at all", others, NPY, "npy|header")
    dice = np.random.default_rng(6)
    corpus += cases(
        "npy random", ((str(seed), b"\x93NUMPY\x01\x00" + dice.bytes(40 + seed)) for seed in range(20)), NPY, "npy|header|array"
    )
    corpus += [
        Case(f"npy as {kind}", good, kind, says="number|JSON|text|content type")
        for kind in ("application/json", "text/csv", "text/plain", "image/png")
    ]
    rows = [
        ("three bad rows", npy(np.ones((3, 5), "<f4"))),
        ("too many rows", npy(np.ones((MOST + 1, 4), "<f4"))),
        ("one NaN among rows", npy(np.array([GOOD, [1, 2, 3, np.nan]]))),
    ]
    corpus += cases("npy rows", rows, NPY, "shape|at most|NaN")
    legal = [
        (kind, npy(np.array([1, 2, 3, 4], kind))) for kind in ("<f2", ">f4", "<f8", ">f8", "<i8", ">i2", "u1", "<u8", "i1", ">u4")
    ]
    legal += [
        ("rows", npy(np.ones((3, 4)))),
        ("columns first", npy(np.asfortranarray(np.ones((3, 4))))),
        ("one row", npy(row[None])),
    ]
    legal += [
        (
            "long header",
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }" + " " * 500 + "\n", row.tobytes(), (2, 0)),
        )
    ]
    corpus += cases("npy legal", legal, NPY, wanted="answered")
    corpus.append(Case("npy empty", b"", NPY, says="empty"))
    return [*corpus, Case("npy oversize", npy(np.ones((1 << 17, 4), "<f4")), NPY, says="larger")]


def _npz(row: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, row)
    return buffer.getvalue()


def _headers() -> Iterator[tuple[str, bytes]]:
    template = "{'descr': %s, 'fortran_order': %s, 'shape': %s, }"
    for descr in (
        "'<f3'",
        "'nonsense'",
        "''",
        "None",
        "3",
        "['<f4']",
        "'<f4,<f4'",
        "'O'",
        "'|b8'",
        "'<f400'",
        "'f4' * 9",
        "__import__('os')",
        "{}",
        "b'<f4'",
    ):
        yield f"descr {descr}", header(template % (descr, "False", "(4,)"))
    for order in ("None", "1", "'False'", "[]"):
        yield f"order {order}", header(template % ("'<f4'", order, "(4,)"))
    for shape in (
        "(-1,)",
        "(-4,)",
        "(4, -1)",
        "4",
        "[4]",
        "'4'",
        "(4.0,)",
        "None",
        "(2**62,)",
        "(2**40, 2**40)",
        "(1 << 80,)",
        "(10**30,)",
        "(True,)",
        "(None,)",
        "((4,),)",
    ):
        yield f"shape {shape}", header(template % ("'<f4'", "False", shape))
    yield "shape (9223372036854775807,)", header(template % ("'<f4'", "False", "(9223372036854775807,)"))
    yield "shape (4611686018427387904, 4)", header(template % ("'<f4'", "False", "(4611686018427387904, 4)"))
    yield "no dict", header("['<f4', False, (4,)]")
    yield "no text", header("\xff\xfe\x00")
    yield "open bracket", header("{'descr': '<f4'")
    yield "a key missing", header("{'descr': '<f4', 'shape': (4,)}")
    yield "a key too many", header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'more': 1}")
    yield "an expression", header("__import__('os').system('true')")
    yield "nested brackets", header("(" * 300 + ")" * 300)
    yield "many minus signs", header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "-" * 3000 + "4,), }")
    yield "longer than it is", header(template % ("'<f4'", "False", "(4,)"), length=60_000)
    yield "longer than any", header(template % ("'<f4'", "False", "(4,)"), version=(2, 0), length=0xFFFFFFFF)
    yield "no length", header("", length=0)
    yield "too long to be read", header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }" + " " * 20_000, version=(2, 0))
