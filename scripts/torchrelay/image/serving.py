"""The serving configuration inside an image: serving.json."""

import base64
from collections.abc import Sequence
from typing import Any

from torchrelay.image.versions import serving_versions
from torchrelay.model.model import Model
from torchrelay.model.samples import Sample

WARMUP_LIMIT = 1 << 20  # bytes: the warm-up body is stored in the image's small layer


def serving_config(
    model: Model,
    version: str,
    samples: list[Sample],
    deps_dir: str | None,
    model_dir: str,
    others: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Return serving.json, which the image's entrypoint reads (times in seconds, except batch_delay_ms).

    `others`: other versions and the folders of their unpacked archives.
    """
    return {
        "name": model.name,
        "version": version,
        "model_dir": model_dir,
        "device": model.device,
        "workers": model.workers,
        "batch_size": model.batch.size,
        "batch_delay_ms": model.batch.delay_ms,
        "startup_timeout_s": model.timeouts.startup_s,
        "response_timeout_s": model.timeouts.response_s,
        "drain_timeout_s": model.timeouts.drain_s,
        "max_body_bytes": model.max_body_mb << 20,
        "deps_dir": deps_dir,
        "warmup": _warmup(samples),
        **({"trusted_proxies": list(model.trusted_proxies)} if model.trusted_proxies else {}),
        "environment": dict(sorted(model.environment.items())),
        **serving_versions(model, others),
    }


def _warmup(samples: list[Sample]) -> dict[str, str] | None:
    """Return the smallest sample that must succeed: readiness sends it to a worker."""
    candidates = [
        sample for sample in samples if sample.expect.status == 200 and not sample.version and len(sample.body) <= WARMUP_LIMIT
    ]
    if not candidates:
        return None
    chosen = min(candidates, key=lambda sample: (len(sample.body), sample.name))
    return {"content_type": chosen.content_type, "body": base64.b64encode(chosen.body).decode()}
