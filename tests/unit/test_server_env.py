"""The pure parts of the local target's server environment."""

from pathlib import Path

import pytest

from torchrelay.server_env import ServerSettings, inputs_digest, parse_java_version, passed_on


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


def test_credentials_and_pythons_own_paths_do_not_reach_the_servers_code() -> None:
    shell = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "LC_ALL": "C",
        "https_proxy": "http://proxy",
        "PIP_INDEX_URL": "https://index",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HF_TOKEN": "secret",
        "GITHUB_TOKEN": "secret",
        "PYTHONPATH": "/elsewhere",
        "TORCHRELAY_STATE": "/elsewhere",
        "XPATH": "x",
    }
    assert set(passed_on(shell)) == {"PATH", "HOME", "LC_ALL", "https_proxy", "PIP_INDEX_URL"}


def test_the_environment_is_kept_under_what_it_is_made_of(tmp_path: Path) -> None:
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
