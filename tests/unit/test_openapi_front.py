"""The front's one static file: its path, and a front of another container leaves this path to it."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

from torchrelay.core import paths
from torchrelay.core.progress import Quiet
from torchrelay.image.mar import Archived, Stored
from torchrelay.stages.build import _handler_layer
from torchrelay_runtime.nginx import OPENAPI, Front, render


def test_the_front_serves_the_file_that_the_build_writes() -> None:
    front = Front(Path("/s"), "0.0.0.0", 8080, "127.0.0.1:8085", 1, 1, routes=(("/invocations", "/predictions/digits"),))
    (line,) = [line for line in render(front).splitlines() if "location = /openapi.json" in line]
    assert f"alias {paths.IMAGE_OPENAPI};" in line
    assert paths.IMAGE_OPENAPI == OPENAPI
    assert "/openapi.json" not in render(replace(front, routes=())), "the container behind it has its own"


def test_the_handler_layer_holds_it_beside_the_serving_configuration(tmp_path: Path) -> None:
    mar = tmp_path / "m.mar"
    mar.write_bytes(b"import torch\n")
    archived = Archived(mar, "m", "1.0", "model.pt", "", {"handler.py": Stored(0, 13, "0" * 64)}, skipped=False)
    layer = _handler_layer(archived, "opt/torchrelay/models/m", {"name": "m"}, b'{"openapi":"3.1.0"}\n', Quiet())
    with tarfile.open(fileobj=io.BytesIO(b"".join(layer.blob.chunks()))) as archive:
        file = archive.extractfile(paths.IMAGE_OPENAPI.lstrip("/"))
        assert file is not None
        assert file.read() == b'{"openapi":"3.1.0"}\n'
        assert {paths.IMAGE_SERVING.lstrip("/"), "opt/torchrelay/models/m/handler.py"} < set(archive.getnames())
