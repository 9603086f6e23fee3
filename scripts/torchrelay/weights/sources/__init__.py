"""Sources of weights: one module per URI scheme, each a `WeightsSource`; a path without a scheme is a file."""

from importlib import import_module

from torchrelay.core.errors import WeightsMissing
from torchrelay.model.weights_uri import FORMS, scheme_of
from torchrelay.weights.sources.stream import BLOCK, Stream, Transient, WeightsSource

__all__ = ["BLOCK", "SOURCES", "Stream", "Transient", "WeightsSource", "scheme_of", "source_of"]

SOURCES = {"https": "https", "http": "https", "s3": "s3", "hf": "hf"}
"""Scheme -> module of a source that is downloaded; only the used one is imported. `https.py` refuses http:// beyond loopback."""


def source_of(uri: str) -> WeightsSource:
    """Return the module that reads this URI.

    Raises WeightsMissing for a scheme without a module.
    """
    scheme = scheme_of(uri)
    if scheme not in SOURCES:
        raise WeightsMissing(f"weights: {uri}: {scheme}:// addresses are not supported", f"use {FORMS}")
    source: WeightsSource = import_module(f"{__name__}.{SOURCES[scheme]}")
    return source
