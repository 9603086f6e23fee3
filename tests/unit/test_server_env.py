"""The pure parts of the local target's server environment."""

import logging
import subprocess
from pathlib import Path

import pytest

from torchrelay.core.progress import Quiet
from torchrelay.targets.local import environment
from torchrelay.targets.local.environment import ServerSettings, for_pip, for_server, inputs_digest, parse_java_version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("Unable to locate a Java Runtime.", 0),
        ("", 0),
    ],
)
def test_javas_version_is_read(text: str, version: int) -> None:
    assert parse_java_version(text) == version


SHELL = {
    "PATH": "/opt/python@3.11/bin:/bin",
    "HOME": "/home/me",
    "LC_ALL": "C",
    "https_proxy": "http://me:se@cret@proxy:3128/",
    "HTTP_PROXY": "me:secret@proxy:3128",
    "NO_PROXY": "localhost,127.0.0.1",
    "PIP_INDEX_URL": "https://me:secret@index/simple",
    "PIP_EXTRA_INDEX_URL": "https://secret@index/simple",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "HF_TOKEN": "secret",
    "GITHUB_TOKEN": "secret",
    "PYTHONPATH": "/elsewhere",
    "TORCHRELAY_STATE": "/elsewhere",
    "XPATH": "x",
}


def test_credentials_and_pythons_own_paths_do_not_reach_the_servers_code() -> None:
    assert for_server(SHELL) == {
        "PATH": "/opt/python@3.11/bin:/bin",
        "HOME": "/home/me",
        "LC_ALL": "C",
        "https_proxy": "http://proxy:3128/",
        "HTTP_PROXY": "proxy:3128",
        "NO_PROXY": "localhost,127.0.0.1",
    }


def test_pip_gets_its_own_variables_and_whole_proxies() -> None:
    own = {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"}
    shared = {"PATH", "HOME", "LC_ALL", "https_proxy", "HTTP_PROXY", "NO_PROXY"}
    assert for_pip(SHELL) == {name: SHELL[name] for name in own | shared}


def test_the_index_of_torch_is_in_no_argument_and_no_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    started: list[tuple[list[str], dict[str, str]]] = []

    class Pip:
        stdout = ("Downloading torch",)

        def __init__(self, argv: list[str], *, env: dict[str, str], **_: object) -> None:
            started.append((argv, env))

        def __enter__(self) -> "Pip":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Pip)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0))
    environment._create(tmp_path, Path("python"), ServerSettings("2.13.0", None, "https://me:secret@index"), Quiet())
    (server, server_s_env), (torch, torch_s_env) = started
    assert torch_s_env["PIP_INDEX_URL"] == "https://me:secret@index"
    assert server_s_env.get("PIP_INDEX_URL") != "https://me:secret@index"
    assert "secret" not in " ".join([*server, *torch]) + caplog.text
    assert "torch==2.13.0" in caplog.text


def test_an_environments_digest_depends_on_its_inputs(tmp_path: Path) -> None:
    plain = ServerSettings("2.13.0", None, "")
    assert inputs_digest(plain) == inputs_digest(ServerSettings("2.13.0", None, ""))
    assert inputs_digest(plain) == inputs_digest(ServerSettings("2.13.0", tmp_path, ""))  # an empty folder changes nothing
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    others = [
        ServerSettings("2.13.1", None, ""),
        ServerSettings("2.13.0", None, "https://index"),
        ServerSettings("2.13.0", tmp_path, ""),
    ]
    assert len({inputs_digest(one) for one in [plain, *others]}) == 4
