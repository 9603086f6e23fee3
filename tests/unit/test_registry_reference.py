"""References are parsed strictly: a registry would refuse these only after the upload."""

import pytest

from torchrelay.core.errors import RegistryError
from torchrelay.oci.reference import parse_reference
from torchrelay.oci.registry import Registry


def test_a_reference_is_parsed() -> None:
    reference = parse_reference("127.0.0.1:5000/models/digits:v2", "1.0")
    assert (reference.host, reference.repository, reference.tag) == ("127.0.0.1:5000", "models/digits", "v2")
    assert reference.base == "http://127.0.0.1:5000"


def test_the_tag_defaults_to_the_version_and_other_hosts_are_https() -> None:
    reference = parse_reference("1234.dkr.ecr.eu-west-1.amazonaws.com/digits", "abc123")
    assert reference.tag == "abc123"
    assert reference.base == "https://1234.dkr.ecr.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    "text",
    ["digits", "models/digits", "host.example/Digits", "host.example/a//b", "host.example/a:", "host.example/a:b c",
     "host.example/a@sha256:00", "host.example/", "host.example/../a", "host.example/a:-x", "", "\n/a",
     "a..b/x", "a.b:99999/x", "exa mple.com/x", "a.b:0/x", "-a.b/x"],
)  # fmt: skip
def test_an_invalid_reference_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_reference(text, "1.0")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1.evil.example",
        "127.evil.example",
        "127.0.0.1.:5000",
        "localhost.evil.example",
        "127.0.0.256",
        "0127.0.0.1",
        "127.1",
    ],
)
def test_a_host_that_only_looks_like_this_machine_is_https(host: str) -> None:
    try:
        reference = parse_reference(f"{host}/models/digits", "1")
    except RegistryError:
        return
    assert reference.base.startswith("https://")


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "127.8.9.10", "localhost", "localhost:5000"])
def test_this_machine_is_plain_http(host: str) -> None:
    assert parse_reference(f"{host}/models/digits", "1").base == f"http://{host}"


def test_docker_hub_is_spoken_to_where_it_answers() -> None:
    assert parse_reference("docker.io/me/digits", "1").base == "https://registry-1.docker.io"
    assert parse_reference("docker.io/me/digits", "1").name == "docker.io/me/digits"


class Challenge:
    def __init__(self, realm: str) -> None:
        self.headers = {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}


def test_a_password_does_not_go_out_in_the_clear() -> None:
    class Asked:
        def get(self, *_: object, **__: object) -> None:
            raise AssertionError("the realm was asked")

    registry = Registry("https://host.example", credentials=lambda _host: ("user", "secret"), session=Asked())  # type: ignore[arg-type] # a stand-in
    assert registry._authenticate(Challenge("http://elsewhere.example/token")) is False  # type: ignore[arg-type] # a stand-in
    local = Registry("http://127.0.0.1:5000", credentials=lambda _host: ("user", "secret"), session=Asked())  # type: ignore[arg-type] # a stand-in
    assert local._authenticate(Challenge("http://elsewhere.example/token")) is False  # type: ignore[arg-type] # a stand-in
    with pytest.raises(AssertionError, match="realm was asked"):
        registry._authenticate(Challenge("https://elsewhere.example/token"))  # type: ignore[arg-type] # a stand-in
