"""The image has the worker that the handlers can speed up, and its metric is still published."""

from __future__ import annotations

from pathlib import Path

from tests.container.corpus.served import KINDS, served
from tests.container.harness import PREDICT, SERVING, Factory

EASED = f"""
import json, sys
sys.path.insert(0, {SERVING["model_dir"]!r})
from ts.protocol import otf_message_handler
from torchrelay_handlers.adapters import worker
print(json.dumps([worker.ease(None, otf_message_handler), worker.ANNOUNCEMENT in open(otf_message_handler.__file__).read()]))
"""


def test_torchserve_in_the_image_is_the_known_one(container: Factory, tmp_path: Path) -> None:
    kind = KINDS["tensor"]
    on, _ = served(container, kind.make(tmp_path), kind.good, {})
    assert on.python(EASED) == [True, True]
    large = b"[" + b" " * 1_500_000 + kind.good.body[1:]  # more than one read
    for body in (kind.good.body, large, kind.good.body):
        assert on.send("POST", PREDICT, body, kind.good.content_type).body == on.send("POST", PREDICT, kind.good.body).body
    assert b"PredictionTime{" in on.send("GET", "/metrics").body
