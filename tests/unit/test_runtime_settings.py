"""serving.json and the environment: what is accepted, and the messages about the rest."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from torchrelay_runtime.settings import Settings, SettingsError, own_port, parse_serving, propagation, read_settings

GOOD: dict[str, Any] = {
    "name": "digits",
    "version": "abc123",
    "model_dir": "/opt/torchrelay/models/digits",
    "device": "cpu",
    "workers": 2,
    "batch_size": 8,
    "batch_delay_ms": 1,
    "startup_timeout_s": 120,
    "response_timeout_s": 60,
    "drain_timeout_s": 25,
    "max_body_bytes": 6291456,
    "deps_dir": None,
    "warmup": {"content_type": "image/png", "body": base64.b64encode(b"\x89PNG").decode()},
    "environment": {"A": "b"},
}


def settings(tmp_path: Path, env: dict[str, str], **changed: Any) -> Settings:
    path = tmp_path / "serving.json"
    path.write_text(json.dumps(GOOD | changed), encoding="utf-8")
    return read_settings({"TORCHRELAY_SERVING": str(path), **env})


def test_a_whole_declaration_is_read(tmp_path: Path) -> None:
    read = settings(tmp_path, {})
    assert (read.port, read.bind, read.front, read.server) == (8080, "0.0.0.0", "nginx", "torchserve")
    assert read.serving.model_dir == Path(GOOD["model_dir"])
    assert read.serving.warmup is not None
    assert (read.serving.warmup.content_type, read.serving.warmup.body) == ("image/png", b"\x89PNG")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"wokers": 1}, "unknown key 'wokers'"),
        ({"name": "../digits"}, "name '../digits'"),
        ({"version": "a b"}, "version 'a b'"),
        ({"device": "tpu"}, "device is 'tpu', it may be cpu or gpu"),
        ({"workers": 0}, "workers is 0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"drain_timeout_s": "25"}, "drain_timeout_s is '25'"),
        ({"warmup": {"content_type": "a/b", "body": "!"}}, "not a valid serving.json"),
        ({"warmup": {"body": ""}}, "'content_type'"),
        ({"versions": [{"version": "1/0", "model_dir": "/old"}]}, "version '1/0'"),
        ({"versions": [{"version": "abc123", "model_dir": "/old"}]}, "each has to be there once"),
        ({"versions": [{"version": "1.0", "model_dir": "/old"}], "default": "2.0"}, "default '2.0'"),
        ({"versions": [{"version": "1.0"}]}, "'model_dir'"),
        ({"model_dir": None}, "not a valid serving.json"),
    ],
)
def test_a_wrong_declaration_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=r"^serving\.json: ") as refused:
        parse_serving(json.dumps(GOOD | changed), "serving.json")
    assert message in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "{}"])
def test_text_that_is_not_a_declaration_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"not a valid serving\.json"):
        parse_serving(text, "x")


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.json: No such file.*torchrelay build"):
        read_settings({"TORCHRELAY_SERVING": str(tmp_path / "nothing.json")})


@pytest.mark.parametrize(
    ("env", "port"),
    [
        ({}, 8080),
        ({"TORCHRELAY_PORT": "9000"}, 9000),
        ({"TORCHRELAY_PORT": "9000", "AIP_HTTP_PORT": "7000"}, 7000),
        ({"AIP_HTTP_PORT": ""}, 8080),
    ],
)
def test_vertex_port_wins(env: dict[str, str], port: int) -> None:
    assert own_port(env) == port


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"TORCHRELAY_PORT": "0"}, "TORCHRELAY_PORT is '0'"),
        ({"AIP_HTTP_PORT": "70000"}, "AIP_HTTP_PORT is '70000'"),
        ({"TORCHRELAY_FRONT": "apache"}, "it may be nginx or none"),
        ({"TORCHRELAY_SERVER": "../x"}, "no such server"),
        ({"TORCHRELAY_SERVER": "triton"}, "no such server"),
        ({"AIP_PREDICT_ROUTE": "/x { return 200; }"}, "it has to be a path"),
        ({"TORCHRELAY_BIND": "0.0.0.0; }"}, "it has to be an IP address"),
        ({"AIP_HEALTH_ROUTE": "health"}, "it has to be a path"),
        ({"TORCHRELAY_LOG_LEVEL": "${env:SECRET}"}, "it may be error or warn or info or debug"),
    ],
)
def test_a_wrong_environment_is_refused(tmp_path: Path, env: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(tmp_path, env)
    assert message in str(refused.value)


def test_an_ipv6_address_is_bracketed(tmp_path: Path) -> None:
    assert settings(tmp_path, {"TORCHRELAY_BIND": "::"}).bind == "[::]"


def test_without_the_front_it_binds_to_loopback(tmp_path: Path) -> None:
    assert settings(tmp_path, {"TORCHRELAY_FRONT": "none"}).bind == "127.0.0.1"


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "abc", "601"])
def test_a_propagation_that_is_not_a_time_is_named(text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        propagation({"TORCHRELAY_PROPAGATION_S": text})
    assert f"TORCHRELAY_PROPAGATION_S is {text!r}" in str(refused.value)


def test_the_propagation_has_a_default() -> None:
    assert (propagation({}), propagation({"TORCHRELAY_PROPAGATION_S": "0"})) == (5.0, 0.0)
