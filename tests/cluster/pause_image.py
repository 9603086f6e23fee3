"""The image that keeps a pod's sandbox open: one static program in one layer, as `docker save` would write it, without a daemon."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

NAME = "cluster.local/pause:1"


def member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file that everyone can execute."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o755
    archive.addfile(info, io.BytesIO(content))


def write(program: Path, output: Path) -> None:
    """Write the image of a static program."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        member(layer, "pause", program.read_bytes())
    diff = hashlib.sha256(buffer.getvalue()).hexdigest()
    described = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535", "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}"]},
    }
    config = json.dumps(described).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": [NAME], "Layers": [f"{diff}/layer.tar"]}]
    with tarfile.open(output, "w") as image:
        member(image, name, config)
        member(image, f"{diff}/layer.tar", buffer.getvalue())
        member(image, "manifest.json", json.dumps(manifest).encode())
