"""A model directory with a verified image, made without Docker; it has the files that bundle reads and a verdict like verify's."""

import json
from pathlib import Path

from torchrelay.core.progress import Quiet
from torchrelay.core.workspace import Workspace
from torchrelay.oci.blobs import Slice
from torchrelay.oci.image import Image, save_image
from torchrelay.oci.layers import Layer, LayerFile, tar_layer
from torchrelay.stages import check
from torchrelay.verification.replay import at_once, conditions, samples_digest
from torchrelay.verification.verdict import SampleResult, Verdict, save_verdict

YAML = """\
name: digits
version: "7"
weights: model.pt
handler: tensor
handler_args: {shape: [4]}
model_file: model.py
resources: {memory: 1Gi, cpu: 0.5}
targets: {kubernetes: {replicas: 3}, docker: {port: 8123}}
"""
SAMPLES = {
    "json.json": '{"request": {"json": [1, 2]}, "expect": {"json": {"a": [0.5, NaN], "\\u00fc": null}, "compare": "numeric"}}',
    "text.json": '{"request": {"body": "x"}, "expect": {"text": "caf\\u00e9 \\ud83d\\ude00"}, "latency_ms": 50}',
    "bytes.json": '{"request": {"body_base64": "/wA="}, "expect": {"base64": "AP/+"}}',
    "status.json": '{"request": {"json": null}, "expect": {"status": 422}}',
}


def layer(name: str, content: bytes | Slice, size: int) -> Layer:
    with Quiet().task("", None) as task:
        return tar_layer([LayerFile(name, content, size)], f"torchrelay {name}", task)


def image_of(layers: list[Layer], version: str = "7") -> Image:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {"org.opencontainers.image.version": version}},
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        "history": [{"created_by": "torchrelay"}, *({"created_by": one.created_by} for one in layers[1:])],
    }
    return Image(config, tuple(layers), {"org.opencontainers.image.version": version})


def verified_model(folder: Path, weights: bytes = b"weights" * 1000, handler: bytes = b"handler") -> Image:
    """Write a model directory whose image has a passing verdict, and return the image."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(YAML)
    (folder / "model.py").write_text("import torch\n\n\ndef init_function():\n    return torch.nn.Linear(4, 2)\n")
    (folder / "model.pt").write_bytes(weights)
    for name, text in SAMPLES.items():
        (folder / "samples" / name).write_text(text)
    weights_layer = layer("weights", Slice((folder / "model.pt").resolve(), 0, len(weights)), len(weights))
    image = image_of([layer("runtime", b"r" * 5000, 5000), weights_layer, layer("handler", handler, len(handler))])
    workspace = Workspace(folder)
    workspace.ensure()
    save_image(workspace.image_record, image)
    save_verdict(workspace, verdict_on(folder, image))
    return image


def verdict_on(folder: Path, image: Image) -> Verdict:
    """A passing verdict, as verify writes it."""
    checked = check.run(folder)
    concurrency = at_once(checked.model)
    return Verdict(
        result="passed",
        model=checked.model.name,
        version="7",
        image=image.digest,
        config=image.config_digest,
        samples_digest=samples_digest(checked.samples),
        conditions=conditions(checked.model, concurrency),
        concurrency=concurrency,
        ready_s=1.5,
        load_s=0.5,
        total_s=3.0,
        samples=[
            SampleResult(name=one.name, passed=True, differences=[], alone_ms=1.0, together_ms=[2.0]) for one in checked.samples
        ],
    )


def edit(folder: Path, **changes: object) -> None:
    """Change top-level keys of release.json."""
    path = folder / "release.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
