"""The serving configuration inside an image: serving.json."""

import base64
from collections.abc import Sequence
from typing import Any

from torchrelay.image import versions
from torchrelay.model.model import Model
from torchrelay.model.samples import Sample

WARMUP_LIMIT = 1 << 20  # a warm-up body travels inside the image's small layer


def serving_config(
    model: Model,
    version: str,
    samples: list[Sample],
    deps_dir: str | None,
    model_dir: str,
    others: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Return serving.json: what the image's entrypoint reads (times in seconds but for batch_delay_ms).

    `others`: further versions and the folders of their unpacked archives.
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
        "environment": dict(sorted(model.environment.items())),
        **versions.serving(model, others),
    }


def _warmup(samples: list[Sample]) -> dict[str, str] | None:
    """Return the smallest sample that must succeed: what readiness asks a worker."""
    good = [sample for sample in samples if sample.expect.status == 200 and not sample.version and len(sample.body) <= WARMUP_LIMIT]
    if not good:
        return None
    chosen = min(good, key=lambda sample: (len(sample.body), sample.name))
    return {"content_type": chosen.content_type, "body": base64.b64encode(chosen.body).decode()}
