"""A verdict holds for its limits and its way of sending; and enough requests are sent at once to fill a batch."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import DeployFailed, GateFailed
from torchrelay.docker.container import hardened, prober_settings
from torchrelay.model.model import Model
from torchrelay.model.sample_file import Expect, Sample
from torchrelay.stages.relay import plan
from torchrelay.stages.verify import require_passed
from torchrelay.targets import chosen_target
from torchrelay.verification.prober import ProbeAnswer, ProbeRequest
from torchrelay.verification.replay import CONCURRENCY, at_once, conditions, replay
from torchrelay.verification.verdict import SampleResult, Verdict


def model(**more: Any) -> Model:
    return Model.model_validate({"name": "m", "weights": "model.pt", "handler": "tensor", **more})


@pytest.mark.parametrize(
    "changed",
    [{"resources": {"cpu": 2}}, {"resources": {"memory": "256Mi"}}, {"timeouts": {"startup_s": 9}}, {"batch": {"size": 32}}],
)
def test_other_conditions_are_another_verdict(changed: dict[str, Any]) -> None:
    assert conditions(model(), at_once(model())) != conditions(model(**changed), at_once(model(**changed)))


def test_the_version_does_not_change_the_conditions() -> None:
    assert conditions(model(version="1"), CONCURRENCY) == conditions(model(version="2"), CONCURRENCY)


def test_the_container_gets_only_the_declared_resources() -> None:
    settings = hardened(model(), "n", {})
    assert settings["network_mode"] == "none"
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["user"] != "0"
    assert (settings["mem_limit"], settings["memswap_limit"], settings["nano_cpus"]) == (2 << 30, 2 << 30, 10**9)


def test_the_prober_shares_the_models_network_and_nothing_else() -> None:
    settings = prober_settings("abc")
    assert settings["network_mode"] == "container:abc"
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges"]
    assert settings["user"] == "1000:1000"
    assert settings["mem_limit"] == settings["memswap_limit"] == 3 << 30
    assert settings["pids_limit"] == 256
    assert {"pid_mode", "ipc_mode", "volumes", "volumes_from", "privileged", "environment"}.isdisjoint(settings)


def test_a_verdict_of_the_images_own_probe_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = conditions(model(), CONCURRENCY)
    monkeypatch.setattr("torchrelay.verification.replay.SENT_FROM", "inside")
    assert conditions(model(), CONCURRENCY) != now


class Echo:
    """Answers every request with 1 and records how the requests were sent."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def send(self, requests: Sequence[ProbeRequest], concurrency: int, _timeout_s: float) -> list[ProbeAnswer]:
        self.calls.append((len(requests), concurrency))
        return [ProbeAnswer(one.id, 200, "application/json", b"1", 1.0, None) for one in requests]


def test_one_sample_still_fills_a_batch() -> None:
    sample = Sample("one", b"1", "application/json", Expect(value=1), None, "samples/one.json", 1)
    prober = Echo()
    assert replay(prober, model(batch={"size": 32}), [sample]).passed
    assert prober.calls[0] == (1, 1)
    assert prober.calls[1][0] >= 64
    assert prober.calls[1][1] == 32


def test_an_unsupported_target_is_refused_before_the_build() -> None:
    with pytest.raises(DeployFailed, match="the target 'nonsense' is not supported"):
        chosen_target(model(), "nonsense")
    with fails(DeployFailed, "vertex"):
        chosen_target(model(targets={"vertex": {}}), None)
    with fails(DeployFailed, words=messages.BUILDS_NO_IMAGE):
        plan(model(), "local", "host.example/x")
    with fails(DeployFailed, words=messages.NEEDS_REGISTRY):
        plan(model(), "kubernetes", None)
    assert plan(model(), "kubernetes", "host.example/x")
    assert plan(model(), None, "host.example/x")[3:6] == ["build", "verify", "push to host.example/x"]
    assert "build" not in plan(model(), "local", None)


def test_a_failed_sample_is_reported_at_its_line() -> None:
    samples = [Sample(name, b"", "", Expect(), None, f"samples/{name}.json", 3) for name in ("good", "bad")]
    results = [
        SampleResult(name=one, passed=one == "good", differences=["$: no"], alone_ms=1, together_ms=[]) for one in ("good", "bad")
    ]
    verdict = Verdict(
        result="gate_failed", model="m", version="1", image="i", config="c", samples_digest="s", conditions="d",
        concurrency=1, ready_s=1, load_s=1, total_s=1, samples=results, reason="bad: $: no",
    )  # fmt: skip
    with fails(GateFailed, "bad: ") as failed:
        require_passed(verdict, samples)
    assert [(one.file, one.line, one.field, one.message) for one in failed.value.problems] == [
        ("samples/bad.json", 3, "bad", "$: no")
    ]
