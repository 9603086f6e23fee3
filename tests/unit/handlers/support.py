"""What the handler tests share: a fake TorchServe context, small networks, and the test of a batch against its single answers."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

JSON = "application/json"


class FakeContext:
    """The part of ts.context.Context (0.12.0) that handlers may use, and a record of what they set."""

    def __init__(
        self,
        model_dir: str = "",
        content_types: Sequence[str] = (),
        *,
        manifest: dict[str, Any] | None = None,
        gpu_id: int | None = None,
    ) -> None:
        self.manifest = manifest
        self.system_properties = {"model_dir": model_dir, "gpu_id": gpu_id, "batch_size": 4}
        self.request_processor = [Processor(content_type) for content_type in content_types]
        self.request_ids = {row: f"id-{row}" for row in range(len(content_types))}

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self.request_processor[idx].headers

    def get_request_header(self, idx: int, key: str) -> Any:
        return self.request_processor[idx].headers.get(key)

    def get_request_id(self, idx: int = 0) -> str | None:
        return self.request_ids.get(idx)

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.request_processor[idx].status = (code, phrase)

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.request_processor[idx].answered[key] = value

    @property
    def statuses(self) -> list[int]:
        return [processor.status[0] for processor in self.request_processor]

    @property
    def content_types(self) -> list[str | None]:
        return [processor.answered.get("content-type") for processor in self.request_processor]


class Processor:
    def __init__(self, content_type: str) -> None:
        self.headers: dict[str, Any] = {"body": {"content-type": content_type}, "Content-Type": content_type}
        self.status = (200, "")
        self.answered: dict[str, str] = {}


def as_torchserve(bodies: Sequence[bytes], content_type: str) -> list[dict[str, Any]]:
    """The dicts that TorchServe makes: JSON parsed, text decoded, all else a bytearray; what it cannot parse, too."""
    rows: list[dict[str, Any]] = []
    for body in bodies:
        value: Any = bytearray(body)
        if content_type == JSON:
            try:
                value = json.loads(body)
            except (ValueError, RecursionError):
                value = bytearray(body)
        elif content_type.startswith("text"):
            value = body.decode()
        rows.append({"body": value})
    return rows


class Double(nn.Module):
    """float32 [N, 3] -> [N, 3], twice as much; records the batches that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([2.0, 2.0, 2.0]))
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return x * self.factor


class Poisoned(Double):
    """Fails on any batch that holds the number 13."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x == 13).any()):
            raise RuntimeError("thirteen")
        return super().forward(x)


Serve = Callable[[list[bytes]], list[tuple[int, bytes]]]


def differences(serve: Serve, bodies: Sequence[bytes]) -> list[str]:
    """Where `serve` answers `bodies` otherwise together than each alone; [] when no request is touched by its neighbours."""
    alone = [serve([body])[0] for body in bodies]
    differences: list[str] = []
    for size in (2, 4, 7, len(bodies)):
        for start in range(0, len(bodies), size):
            wanted = alone[start : start + size]
            got = serve(list(bodies[start : start + size]))
            if len(got) != len(wanted):
                differences.append(f"{len(wanted)} requests, {len(got)} answers")
            differences += [f"{w!r} alone, {g!r} among {size}" for w, g in zip(wanted, got, strict=False) if w != g]
    return differences
