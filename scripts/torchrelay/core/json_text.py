"""Parses JSON that somebody else wrote."""

import json
from collections.abc import Callable
from typing import Any


def parse_untrusted(
    data: bytes | str, limit: int | None = None, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """Parse a JSON document of at most `limit` bytes (or characters); `object_pairs_hook` is that of json.loads.

    Raises ValueError for whatever is wrong with it: its size, its syntax, its encoding, and nesting beyond what Python reads.
    """
    if limit is not None and len(data) > limit:
        raise ValueError(f"is larger than {limit} bytes")
    try:
        return json.loads(data, object_pairs_hook=object_pairs_hook)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
