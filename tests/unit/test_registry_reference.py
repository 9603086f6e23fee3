"""References are read strictly: what is refused here would otherwise be refused by a registry after the upload."""

import pytest
from torchrelay.errors import RegistryError
from torchrelay.registry import parse_reference


def test_a_reference_is_taken_apart() -> None:
    found = parse_reference("127.0.0.1:5000/models/digits:v2", "1.0")
    assert (found.host, found.repository, found.tag) == ("127.0.0.1:5000", "models/digits", "v2")
    assert found.base == "http://127.0.0.1:5000"


def test_the_tag_defaults_to_the_version_and_other_hosts_are_https() -> None:
    found = parse_reference("1234.dkr.ecr.eu-west-1.amazonaws.com/digits", "abc123")
    assert found.tag == "abc123"
    assert found.base == "https://1234.dkr.ecr.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    "text",
    ["digits", "models/digits", "host.example/Digits", "host.example/a//b", "host.example/a:", "host.example/a:b c",
     "host.example/a@sha256:00", "host.example/", "host.example/../a", "host.example/a:-x", "", "\n/a"],
)  # fmt: skip
def test_what_is_no_reference_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_reference(text, "1.0")
    assert "\n" not in caught.value.message
