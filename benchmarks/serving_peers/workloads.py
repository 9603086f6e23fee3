"""The workloads, and the folder with weights and samples that every server of a run gets."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLES = 16
SIDE = 224


@dataclass(frozen=True)
class Workload:
    """`clients` send requests at the same time, each its next one after an answer; `tolerance` applies to an answer's numbers."""

    name: str
    clients: int
    tolerance: float

    def batch(self, processes: int) -> int:
        """Return the batch size that keeps all processes busy when all clients wait."""
        return max(1, self.clients // processes)


WORKLOADS = {
    one.name: one
    for one in (
        # float32; a batch of a different size is summed in a different order
        Workload("mlp", 32, 1e-3),
        Workload("tiny", 1, 1e-4),
        Workload("image", 8, 2e-3),
    )
}


@dataclass(frozen=True)
class Sample:
    """`body`: a JPEG, or JSON of the numbers; `answer`: numbers, or the class and its confidence."""

    body: bytes
    answer: Any

    @property
    def numbers(self) -> list[float]:
        """The numbers of mlp and tiny."""
        numbers: list[float] = json.loads(self.body)
        return numbers


def is_correct(value: Any, expected: Any, tolerance: float) -> bool:
    """Return whether an answer is correct: the same class, numbers within the tolerance (absolute and relative)."""
    if isinstance(expected, dict):
        same = isinstance(value, dict) and value.get("class") == expected["class"]
        return same and is_correct([value.get("confidence")], [expected["confidence"]], tolerance)
    if not isinstance(value, list) or len(value) != len(expected):
        return False
    if not all(isinstance(one, int | float) for one in value):
        return False
    return all(abs(a - b) <= tolerance + tolerance * abs(b) for a, b in zip(value, expected, strict=True))


def make_folder(folder: Path, workload: str) -> Path:
    """Write model.pt and samples.json: seeded weights, and samples with the answers that torch computes here, one at a time."""
    import torch  # noqa: PLC0415 -- the client reads the folder and needs no torch

    from benchmarks.serving_peers.apps.network import init_function  # noqa: PLC0415 -- it imports torch

    folder.mkdir(parents=True)
    torch.manual_seed(6)
    network = init_function(workload)
    generator = torch.Generator().manual_seed(7)
    bodies = [_body(workload, generator, number) for number in range(SAMPLES)]
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # only the statistics of the samples, not the initial values
    with torch.no_grad():
        network(torch.stack([_tensor(workload, body) for body in bodies]))  # fills the statistics of the normalisations
        list(network.modules())[-1].weight.mul_(8)  # type: ignore[operator]  # the type of an nn.Module's attributes; makes the answers differ clearly
    network.eval()
    torch.save(network.state_dict(), folder / "model.pt")
    with torch.inference_mode():
        answers = [_answer(network, workload, body) for body in bodies]
    samples = [{"body": body.hex(), "answer": answer} for body, answer in zip(bodies, answers, strict=True)]
    (folder / "samples.json").write_text(json.dumps(samples), encoding="ascii")
    return folder


def read_samples(folder: Path) -> list[Sample]:
    """Return what `make_folder` wrote."""
    samples = json.loads((folder / "samples.json").read_text(encoding="ascii"))
    return [Sample(bytes.fromhex(one["body"]), one["answer"]) for one in samples]


def _body(workload: str, generator: Any, number: int) -> bytes:
    import torch  # noqa: PLC0415 -- the client imports this module and needs no torch

    if workload != "image":
        values = torch.randn(512 if workload == "mlp" else 10, generator=generator).tolist()
        return json.dumps([round(value, 6) for value in values]).encode()
    from PIL import Image  # noqa: PLC0415 -- the client needs no pictures

    coarse = torch.rand(1, 3, 2 + number, 2 + number, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, SIDE, mode="bicubic")[0]
    grained = smooth + 12 * torch.randn(3, SIDE, SIDE, generator=generator)  # as large as a photograph of this size, 15 to 30 KB
    out = io.BytesIO()
    Image.fromarray(grained.clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()).save(out, "JPEG", quality=85)
    return out.getvalue()


def _tensor(workload: str, body: bytes) -> Any:
    """Return the network's input for one sample, computed independently of the servers' code."""
    import torch  # noqa: PLC0415 -- the client imports this module and needs no torch

    if workload != "image":
        return torch.tensor(json.loads(body))
    from PIL import Image  # noqa: PLC0415 -- the client needs no pictures

    pixels = torch.tensor(list(Image.open(io.BytesIO(body)).tobytes()), dtype=torch.float32).view(SIDE, SIDE, 3).permute(2, 0, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return (pixels / 255 - mean) / std


def _answer(network: Any, workload: str, body: bytes) -> Any:
    output = network(_tensor(workload, body)[None])[0]
    if workload != "image":
        return output.tolist()
    confidence, place = output.softmax(-1).max(-1)
    return {"class": str(int(place)), "confidence": float(confidence)}
