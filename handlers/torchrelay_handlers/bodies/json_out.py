"""Writes what postprocess returns as JSON that any parser reads: tensors and numpy values work, NaN is never written."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

try:
    import orjson
except ImportError:  # a stock TorchServe image may lack it: the standard library does the same, slower
    orjson = None  # type: ignore[assignment] # the optional module is missing


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer that is not JSON: return it from postprocess to send `body` as it is."""

    body: bytes
    content_type: str = "application/octet-stream"


class NotFinite(ValueError):
    """The answer holds NaN or Infinity, which JSON cannot express, and the handler is set to refuse them."""


def encode(value: object, *, refuse_nan: bool = False) -> bytes:
    """`value` as UTF-8 JSON; NaN and Infinity become null.

    Raises:
        NotFinite: there is a NaN or an Infinity and `refuse_nan` is set.
        TypeError: a part of `value` has no JSON form.
    """
    if orjson is not None and not refuse_nan:
        try:
            return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)
        except TypeError:  # integers over 64 bits; the standard library writes them, or says what it cannot write
            pass
    try:
        return _dumps(value)
    except ValueError as error:
        if "circular" in str(error).lower():
            raise TypeError(str(error)) from error
        if refuse_nan:
            raise NotFinite("the answer contains NaN or Infinity") from error
        return _dumps(_finite(value))


def _dumps(value: object) -> bytes:
    return json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":")).encode()


def _plain(value: object) -> object:
    """A tensor, numpy array or numpy scalar as Python numbers (all three have `tolist`); sets as lists."""
    to_list = getattr(value, "tolist", None)
    if callable(to_list):
        return to_list()
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    raise TypeError(f"{type(value).__name__} has no JSON form; return numbers, strings, lists, dicts, tensors or Raw")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, str | int | None):
        return value
    return _finite(_plain(value))
