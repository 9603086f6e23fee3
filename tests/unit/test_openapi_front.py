"""The front's one static file: where it lies, and that a front of another container's leaves the path to it."""

from dataclasses import replace
from pathlib import Path

from nginx import OPENAPI, Front, render
from torchrelay import layout


def test_the_front_serves_the_file_that_the_build_writes() -> None:
    front = Front(Path("/s"), "0.0.0.0", 8080, "127.0.0.1:8085", routes=(("/invocations", "/predictions/digits"),))
    (line,) = [line for line in render(front).splitlines() if "location = /openapi.json" in line]
    assert f"alias {layout.IMAGE_OPENAPI};" in line
    assert layout.IMAGE_OPENAPI == OPENAPI
    assert "/openapi.json" not in render(replace(front, routes=())), "the container behind it has its own"
