"""Where weights come from: one module per URI scheme, each a `Source`; a path without a scheme is a file."""

import re

from torchrelay.core.errors import WeightsMissing
from torchrelay.weights.sources import hf, https, s3
from torchrelay.weights.sources.stream import BLOCK, Source, Stream, Transient

__all__ = ["BLOCK", "SOURCES", "Source", "Stream", "Transient", "scheme_of", "source_of"]

SOURCES: dict[str, Source] = {"https": https, "http": https, "s3": s3, "hf": hf}
"""Sources that are downloaded. `http` is there for loopback addresses only: `https.py` refuses any other."""


def scheme_of(uri: str) -> str:
    """Return the scheme in lower case, `file` for a plain path."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", uri)
    return found.group(1).lower() if found else "file"


def source_of(uri: str) -> Source:
    """Return the module that reads this URI.

    Raises WeightsMissing for a scheme that nothing here reads.
    """
    scheme = scheme_of(uri)
    try:
        return SOURCES[scheme]
    except KeyError:
        raise WeightsMissing(
            f"weights: {uri}: nothing reads {scheme}:// addresses",
            "use s3://bucket/key, https://..., hf://org/repo/path[@revision], or a path relative to model.yaml",
        ) from None
