"""One parser per kind of text and number format; every way in which bytes can be wrong ends in a `BadSample`."""

import base64
import binascii
import codecs
import contextlib
import csv
import functools
import io
import json
import math
from email.message import Message
from typing import Any

from torchrelay_handlers.problems import BadSample

try:
    import orjson
except ImportError:  # a stock TorchServe image may lack it
    orjson = None  # type: ignore[assignment] # the optional module is missing
try:
    import numpy as np
except ImportError:  # torch works without numpy
    np = None  # type: ignore[assignment] # the optional module is missing

_BOM = codecs.BOM_UTF8
# Those that browsers and spreadsheets write. Python has codecs that are not charsets, and some that take quadratic time (idna).
_CHARSETS = ("utf-8", "ascii", "iso8859-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
MOST_BRACKETS = 1_000_000  # lists and objects of one JSON body: Python makes and frees two million of them a second
_NPY_MAGIC = b"\x93NUMPY"


class Rows(list[list[float]]):
    """The rows of a CSV body: each is a sample."""


def parse_json(body: bytes | bytearray | memoryview | str) -> object:
    """Parse UTF-8 bytes as JSON. NaN, Infinity, numbers beyond float64 and keys given twice are refused."""
    if isinstance(body, bytes) and body.startswith(_BOM):  # one: a thousand of them would be a thousand copies
        body = body[len(_BOM) :]
    if len(body) > MOST_BRACKETS and _brackets(body) > MOST_BRACKETS:
        raise BadSample(f"more than {MOST_BRACKETS} lists and objects in one body", status=413, kind="bad-json")
    try:
        return _by_orjson(body) if orjson is not None else _strict(body)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise BadSample(f"the body is not valid JSON: {error}", kind="bad-json") from None


def _brackets(body: bytes | bytearray | memoryview | str) -> int:
    """The lists and objects that a body may hold, those in its strings included: counted in milliseconds, before it is parsed."""
    if isinstance(body, str):
        return body.count("[") + body.count("{")
    return bytes(body).count(b"[") + bytes(body).count(b"{")


def loads(text: str | bytes | bytearray, **hooks: Any) -> Any:
    """`json.loads` of untrusted text: raises ValueError for all that is wrong, deep nesting included."""
    try:
        return json.loads(text, **hooks)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _by_orjson(body: bytes | bytearray | memoryview | str) -> object:
    """orjson keeps the last of repeated keys, so a body that may repeat one is parsed again, several times slower."""
    value = orjson.loads(body)
    colons = body.count(":") if isinstance(body, str) else bytes(body).count(b":")
    if colons > 1 and colons != _keys(value):  # otherwise every colon of the text belongs to a key
        loads(body if isinstance(body, str) else bytes(body), object_pairs_hook=_unrepeated)
    return value


def _strict(body: bytes | bytearray | memoryview | str) -> object:
    """orjson's strictness, in the standard library."""
    text = body if isinstance(body, str) else bytes(body).decode()
    return loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unrepeated)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is infinity as a double")
    return number


def _unrepeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value] # None, on purpose
        raise BadSample(f"the key {repeated[:80]!r} is given twice in one object", kind="repeated-key")
    return members


def _keys(value: object) -> int:
    """How many keys the objects in a JSON value have together. Without recursion: bodies may be nested 1000 deep."""
    count, pending = 0, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            count += len(item)
            pending.extend(item.values())
        elif isinstance(item, list) and item and not isinstance(item[0], float):
            pending.extend(item)
        elif isinstance(item, list):  # numbers, mostly: a quarter of the time that pushing them takes
            pending.extend([inner for inner in item if inner.__class__ is dict or inner.__class__ is list])
    return count


def parse_base64(text: str) -> bytes:
    """Bytes of strict base64 (RFC 4648 section 4), after removing a `data:` prefix and line breaks."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise BadSample("a data: URL must look like data:image/png;base64,...", kind="bad-base64")
    try:
        return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSample(f"the text is not valid base64: {error}", kind="bad-base64") from None


def parse_csv(text: str, most: int | None = None) -> Rows:
    """Rows of numbers, without a header line; each row is a sample. Nothing after `most` rows is parsed: 6 MiB took seconds.

    Raises:
        BadSample: a cell is not a number, or there are more rows (413).
    """
    rows = Rows()
    plain = "_" not in text  # Python's own notation: 1_000
    try:
        for line, row in enumerate(csv.reader(io.StringIO(text), strict=True), start=1):
            if not row:
                continue
            if most is not None and len(rows) == most:
                raise BadSample(f"at most {most} samples are allowed in one request", status=413, kind="too-many-instances")
            rows.append(_numbers(row, line, plain=plain))
    except csv.Error as error:
        raise BadSample(f"the body is not valid CSV: {error}", kind="bad-csv") from None
    if not rows:
        raise BadSample("the CSV contains no row", kind="bad-csv")
    return rows


def _numbers(row: list[str], line: int, *, plain: bool) -> list[float]:
    if plain:
        with contextlib.suppress(ValueError):  # `_number` names the cell
            return list(map(float, row))
    return [_number(cell, line) for cell in row]


def _number(cell: str, line: int) -> float:
    try:
        if "_" in cell:
            raise ValueError
        return float(cell)
    except ValueError:
        raise BadSample(f"line {line} of the CSV: {cell[:40]!r} is not a number", kind="bad-csv") from None


@functools.lru_cache(maxsize=32)  # 12 us for a header that most clients send the same every time
def charset_of(content_type: str) -> str:
    """The charset that the content type names, by Python's name; UTF-8 if none.

    Raises:
        BadSample: the charset is not supported (415).
    """
    if "charset" not in content_type.lower():
        return "utf-8"
    header = Message()
    header["content-type"] = content_type.replace("\r", " ").replace("\n", " ")
    named = header.get_content_charset("utf-8")
    try:
        name = codecs.lookup(named).name
    except (LookupError, ValueError):
        name = ""
    if name not in _CHARSETS:
        raise BadSample(
            f"the charset {named[:40]!r} is not supported",
            expected={"charset": list(_CHARSETS)},
            status=415,
            kind="unsupported-charset",
        )
    return name


def parse_text(body: bytes | bytearray, content_type: str) -> str:
    """Text in the charset that the content type names, UTF-8 if none, without a byte order mark."""
    charset = charset_of(content_type)
    try:
        return body.decode(charset).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadSample(f"the body is not text in {charset}: {error}", kind="bad-text") from None


def parse_npy(body: bytes) -> Any:
    """The array in an .npy file of booleans or numbers, over the same memory; nothing is unpickled.

    The header is checked against the length first: numpy allocates what a header claims before it reads.
    """
    if np is None:
        raise BadSample("this server cannot read .npy files: numpy is not installed", status=415, kind="unsupported-media-type")
    if not body.startswith(_NPY_MAGIC):
        raise BadSample("the body is not an .npy file", kind="bad-npy")
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read_header(file)
    except Exception as error:  # ValueError, KeyError, EOFError, TypeError, SyntaxError, tokenize's, ...
        raise BadSample(f"the .npy header cannot be read: {str(error)[:200]}", kind="bad-npy") from None
    if dtype.hasobject or dtype.kind not in "biuf" or any(size < 0 for size in shape):
        raise BadSample(f"an array of {dtype} is not supported", expected={"dtype": "numbers or booleans"}, kind="bad-npy")
    at, count = file.tell(), math.prod(shape)
    if len(body) - at != count * dtype.itemsize:
        message = f"an array of shape {list(shape)} and dtype {dtype} has {count * dtype.itemsize} bytes, not {len(body) - at}"
        raise BadSample(message, kind="bad-npy")
    if len(shape) > 32:
        raise BadSample(f"an array of {len(shape)} dimensions is not supported", kind="bad-npy")
    array = np.frombuffer(body, dtype, count, at).reshape(shape, order="F" if fortran else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))
