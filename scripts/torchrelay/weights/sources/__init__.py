"""Sources of weights: one module per URI scheme, each a `WeightsSource`; a path without a scheme is a file."""

from torchrelay.core.errors import WeightsMissing
from torchrelay.model.weights_uri import FORMS, scheme_of
from torchrelay.weights.sources import hf, https, s3
from torchrelay.weights.sources.stream import BLOCK, Stream, Transient, WeightsSource

__all__ = ["BLOCK", "SOURCES", "Stream", "Transient", "WeightsSource", "scheme_of", "source_of"]

SOURCES: dict[str, WeightsSource] = {"https": https, "http": https, "s3": s3, "hf": hf}
"""Sources that are downloaded. `http` is for loopback addresses only: `https.py` refuses any other."""


def source_of(uri: str) -> WeightsSource:
    """Return the module that reads this URI.

    Raises WeightsMissing for a scheme without a module.
    """
    scheme = scheme_of(uri)
    try:
        return SOURCES[scheme]
    except KeyError:
        raise WeightsMissing(f"weights: {uri}: {scheme}:// addresses are not supported", f"use {FORMS}") from None
