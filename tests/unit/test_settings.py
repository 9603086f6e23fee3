"""Environment variables without an option."""

from pathlib import Path

import pytest

from torchrelay.core.errors import InputsInvalid
from torchrelay.core.settings import EnvironmentSettings, TorchSettings
from torchrelay.image.runtime import BuildSettings, RuntimeSettings, inputs_digest
from torchrelay.targets.docker.target import DockerSettings
from torchrelay.targets.kubernetes.settings import KubernetesSettings


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WHEELS", "TORCH_VERSION", "DOCKER_BIND", "FORCE_CONFLICTS", "KUBECONFIG"):
        monkeypatch.setenv(f"TORCHRELAY_{name}", "")
    assert TorchSettings.read() == TorchSettings.model_construct(torch_version="", torch_index="", wheels=None)
    assert str(DockerSettings.read().docker_bind) == "127.0.0.1"
    assert KubernetesSettings.read().force_conflicts is False


@pytest.mark.parametrize(
    ("settings", "variable", "value"),
    [
        (TorchSettings, "TORCHRELAY_WHEELS", "/no/such/folder"),
        (DockerSettings, "TORCHRELAY_DOCKER_BIND", "localhost"),
        (KubernetesSettings, "TORCHRELAY_FORCE_CONFLICTS", "perhaps"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(
    settings: type[EnvironmentSettings], variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputsInvalid) as caught:
        settings.read()
    assert f'{variable} is "{value}"' in caught.value.message


def test_a_kubeconfig_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG", "token: secret-text")
    settings = KubernetesSettings.read()
    assert settings.kubeconfig.get_secret_value() == "token: secret-text"
    assert "secret-text" not in repr(settings)


def test_the_runtime_image_gets_only_the_arguments_that_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BuildSettings.model_fields:
        monkeypatch.delenv(BuildSettings.variable(name), raising=False)
    plain = RuntimeSettings.from_environment("cpu")
    assert plain == RuntimeSettings("cpu", {}, None)
    monkeypatch.setenv("TORCHRELAY_TORCH_VERSION", "2.13.0")
    monkeypatch.setenv("TORCHRELAY_WHEELS", str(tmp_path))
    changed = RuntimeSettings.from_environment("cpu")
    assert changed == RuntimeSettings("cpu", {"TORCH_VERSION": "2.13.0"}, tmp_path)
    assert inputs_digest(changed) != inputs_digest(plain)
    assert RuntimeSettings.from_environment("gpu").wheels is None  # they are the CPU's
