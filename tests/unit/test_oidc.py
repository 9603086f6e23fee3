"""The identity token: requested only where GitHub offers it, read without trusting it; its subject has both of GitHub's forms."""

import base64
import json

import pytest
from pydantic import SecretStr

from torchrelay.core.errors import LoginFailed
from torchrelay.credentials import oidc

NAMES = "repo:acme/serving:environment:production"
NUMBERS = "repo:acme@123456/serving@456789:environment:production"


def jwt(claims: object) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "none"}, claims)]
    return ".".join([*parts, "c2ln"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NAMES, oidc.Subject("acme", "serving", "environment:production")),
        (NUMBERS, oidc.Subject("acme", "serving", "environment:production", "123456", "456789")),
        ("repo:a/b:ref:refs/heads/x/y@1:z", oidc.Subject("a", "b", "ref:refs/heads/x/y@1:z")),
        ("repo:a@1/b.c@2:pull_request", oidc.Subject("a", "b.c", "pull_request", "1", "2")),
        ("repository_owner:acme:environment:production", None),
        ("repo:acme/serving", None),
        ("repo:acme@x/serving@2:pull_request", None),
        ("", None),
    ],
)
def test_a_subject_is_parsed_in_both_forms(text: str, expected: oidc.Subject | None) -> None:
    assert oidc.parse_subject(text) == expected


@pytest.mark.parametrize("text", [NAMES, NUMBERS])
def test_both_forms_are_made_of_either(text: str) -> None:
    subject = oidc.parse_subject(text)
    assert subject is not None
    assert subject.forms("123456", "456789") == (NAMES, NUMBERS)


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "a.!!!.c", jwt(["list"]), jwt("text"), "a.eyJ4Ijo.c", "ä.ö.ü"])
def test_an_invalid_token_has_no_claims(token: str) -> None:
    assert oidc.read_claims(token) == {}


def test_claims_are_read() -> None:
    assert oidc.read_claims(jwt({"sub": NAMES, "aud": "x"})) == {"sub": NAMES, "aud": "x"}


def test_a_claim_in_a_message_is_one_line_of_text() -> None:
    who = oidc.Identity(SecretStr("t"), {"sub": "a\n::error::b\x1b[0m", "n": 5, "list": ["x"]})
    assert who.claim("sub") == "a\\n::error::b\\x1b[0m"
    assert (who.claim("n"), who.claim("list"), who.claim("none")) == ("5", "", "")
    assert "secret-token" not in repr(oidc.Identity(SecretStr("secret-token"), {}))


@pytest.mark.parametrize(
    ("environment", "message", "fix"),
    [
        ({"GITHUB_ACTIONS": "true"}, "lacks `id-token: write`", "id-token: write"),
        ({"GITHUB_ACTIONS": "true"}, "lacks `id-token: write`", "fork's pull request never"),
        ({"GITHUB_ACTIONS": "true", oidc.URL: "https://x"}, "lacks `id-token: write`", "permissions:"),
        ({"GITHUB_ACTIONS": "true", "ACT": "true"}, "act gives jobs no identity token", "leave aws-role empty"),
        ({}, "outside of a GitHub job", "aws sso login"),
        ({oidc.URL: "http://example.com/t", oidc.TOKEN: "b"}, "not an https:// address", "as the runner sets it"),
        ({oidc.URL: "ftp://127.0.0.1/t", oidc.TOKEN: "b"}, "not an https:// address", "as the runner sets it"),
    ],
)
def test_a_missing_token_is_an_error_with_a_fix(environment: dict[str, str], message: str, fix: str) -> None:
    with pytest.raises(LoginFailed, match=message) as caught:
        oidc.identity("sts.amazonaws.com", environment)
    assert fix in caught.value.fix
    assert caught.value.exit_code == 35
