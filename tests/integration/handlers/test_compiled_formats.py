"""TorchScript and torch.export files, written by torch itself, answer as the network that they were made of."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchrelay_handlers import Handler, shipped
from torchrelay_handlers.network import weights_format


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(3)
    return Net().eval()


def served(path: Path, kind: str, net: nn.Module) -> Handler:
    """The tensor handler over `path`, after integers and floats together were answered right."""
    assert weights_format.kind_of(path) == kind
    handler = shipped.make("tensor").load(path, batch_size=8, weights_format=weights_format.FORMAT_OF[kind])
    answers = handler.predict([b"[1, 2]", b"[0.5, -1]", b"[3, 4]"], "application/json")
    with torch.inference_mode():
        wanted = net(torch.tensor([[1, 2], [0.5, -1], [3, 4]])).tolist()
    assert [answer.json() for answer in answers] == [pytest.approx(row, abs=1e-6) for row in wanted]
    return handler


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(net: nn.Module, tmp_path: Path) -> None:
    torch.jit.script(net).save(str(tmp_path / "weights"))  # type: ignore[no-untyped-call] # torch's own
    assert served(tmp_path / "weights", weights_format.TORCHSCRIPT, net)._batcher.limit == 8


def test_an_exported_program_of_free_batch(net: nn.Module, tmp_path: Path) -> None:
    program = torch.export.export(net, (torch.ones(2, 2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "weights.pt2")
    assert served(tmp_path / "weights.pt2", weights_format.EXPORTED, net)._batcher.limit == 8


def test_an_exported_program_of_batch_one_is_run_one_by_one(net: nn.Module, tmp_path: Path) -> None:
    torch.export.save(torch.export.export(net, (torch.ones(1, 2),)), tmp_path / "weights.pt2")
    assert served(tmp_path / "weights.pt2", weights_format.EXPORTED, net)._batcher.limit == 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_package_compiled_ahead_of_time(net: nn.Module, tmp_path: Path) -> None:
    program = torch.export.export(net, (torch.ones(2, 2),), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "weights.pt2"))
    served(tmp_path / "weights.pt2", weights_format.COMPILED, net)
    with pytest.raises(RuntimeError, match=r"handler_args\.channels_last: the weights are a compiled package"):
        shipped.make("tensor", options={"channels_last": True}).load(tmp_path / "weights.pt2", weights_format="aoti")
