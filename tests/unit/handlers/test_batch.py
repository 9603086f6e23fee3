"""Many samples through one network: grouped, narrowed down when they fail, always one result each."""

from typing import Any

import pytest
import torch
from torch import Tensor

from torchrelay_handlers.network.batch import Batcher, Failure
from torchrelay_handlers.network.outputs import on_cpu
from torchrelay_handlers.problems import WorkerLost


def values(results: list[Any]) -> list[Any]:
    return ["failed" if isinstance(result, Failure) else result.tolist() for result in results]


def test_equal_shapes_share_a_batch_and_unequal_ones_do_not_meet() -> None:
    batches: list[list[int]] = []

    def forward(x: Tensor) -> Tensor:
        batches.append(list(x.shape))
        return x.sum(1)

    samples = [torch.ones(2), torch.ones(3), torch.ones(2), torch.ones(2), torch.ones(3)]
    assert values(Batcher(forward, 32).run(samples)) == [2, 3, 2, 2, 3]
    assert sorted(batches) == [[2, 3], [3, 2]]


def test_no_batch_is_larger_than_the_limit() -> None:
    sizes: list[int] = []

    def forward(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x

    assert values(Batcher(forward, 4).run([torch.tensor(n) for n in range(10)])) == list(range(10))
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("poison", [[0], [3], [9], [0, 1], [2, 5, 9], list(range(10))])
def test_only_the_samples_at_fault_fail(poison: list[int]) -> None:
    def forward(x: Tensor) -> Tensor:
        if any(int(value) in poison for value in x):
            raise RuntimeError("poison")
        return x * 2

    got = values(Batcher(forward, 32).run([torch.tensor(n) for n in range(10)]))
    assert got == ["failed" if n in poison else 2 * n for n in range(10)]


def test_one_failure_among_many_costs_a_logarithm() -> None:
    calls = 0

    def forward(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if bool((x == 5).any()):
            raise RuntimeError("poison")
        return x

    Batcher(forward, 1024).run([torch.tensor(n) for n in range(1024)])
    assert calls == 1 + 2 * 10


def test_a_network_that_takes_only_one_sample_is_noticed() -> None:
    sizes: list[int] = []

    def forward(x: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > 1:
            raise ValueError("a fixed batch of 1")
        return x

    batcher = Batcher(forward, 8)
    samples = [torch.tensor(n) for n in range(4)]
    assert values(batcher.run(samples)) == [0, 1, 2, 3]
    assert batcher.limit == 1
    sizes.clear()
    assert values(batcher.run(samples)) == [0, 1, 2, 3]
    assert sizes == [1, 1, 1, 1]


def test_running_out_of_memory_halves_the_batch_this_time_only() -> None:
    def forward(x: Tensor) -> Tensor:
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return x

    batcher = Batcher(forward, 8)
    assert values(batcher.run([torch.tensor(n) for n in range(8)])) == list(range(8))
    assert batcher.limit == 8


def test_a_cuda_error_that_sticks_ends_everything_at_once() -> None:
    calls = 0

    def forward(_: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(WorkerLost):
        Batcher(forward, 8).run([torch.tensor(n) for n in range(8)])
    assert calls == 1


def test_an_author_may_collate() -> None:
    def pad(samples: list[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)

    batcher = Batcher(lambda x: x.sum(1), 8, pad)
    assert values(batcher.run([torch.ones(2), torch.ones(5), torch.ones(1)])) == [2, 5, 1]


def test_half_precision_is_widened_for_json() -> None:
    got = on_cpu({"a": (torch.ones(1, dtype=torch.bfloat16), [torch.ones(1, dtype=torch.int64)])})
    assert (got["a"][0].dtype, got["a"][1][0].dtype) == (torch.float32, torch.int64)
