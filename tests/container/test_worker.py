"""The image has the worker that the handlers can speed up, and its metric is still published."""

from __future__ import annotations

import pytest

from tests.container.corpus.served import KindServer
from tests.container.harness import PREDICT, SERVING

EASED = f"""
import json, sys
sys.path.insert(0, {SERVING["model_dir"]!r})
from ts.protocol import otf_message_handler
from torchrelay_handlers.adapters import worker
print(json.dumps([worker.speed_up(None, otf_message_handler), worker.ANNOUNCEMENT in open(otf_message_handler.__file__).read()]))
"""


@pytest.mark.parametrize("kind_server", ["tensor"], indirect=True)
def test_torchserve_in_the_image_is_the_known_one(kind_server: KindServer) -> None:
    kind, on = kind_server.kind, kind_server.container
    assert on.python(EASED) == [True, True]
    large = b"[" + b" " * 1_500_000 + kind.good.body[1:]  # more than one read
    for body in (kind.good.body, large, kind.good.body):
        assert on.send("POST", PREDICT, body, kind.good.content_type).body == on.send("POST", PREDICT, kind.good.body).body
    assert b"PredictionTime{" in on.send("GET", "/metrics", port=9090).body
