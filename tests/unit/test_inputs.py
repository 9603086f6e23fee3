"""The inputs of serve.yml: each rule with valid and invalid values, and the input that the error names."""

import json
from typing import Any

import pytest

from torchrelay.core.errors import InputsInvalid
from torchrelay.workflow.inputs import INPUTS, parse_inputs

ROLE = "arn:aws:iam::123456789012:role/deploy"


def read(**inputs: Any) -> Any:
    return parse_inputs(json.dumps({key.replace("_", "-"): value for key, value in inputs.items()}))


@pytest.mark.parametrize("text", ["", "{}", "null", json.dumps(dict.fromkeys(INPUTS, "")), json.dumps(dict.fromkeys(INPUTS))])
def test_absent_inputs_have_their_defaults(text: str) -> None:
    inputs = parse_inputs(text)
    assert (inputs.models, inputs.environment, inputs.skip, inputs.dry_run) == ([], "production", [], False)
    assert (inputs.target, inputs.repository, inputs.runner) == ("", "", "ubuntu-latest")


@pytest.mark.parametrize(
    ("inputs", "value"),
    [
        ({"models": "models/*\n\n  digits \r\nmodels/*"}, ["models/*", "digits"]),
        ({"skip": "diff, comment\nattest"}, ["diff", "comment", "attest"]),
        ({"dry_run": "true"}, True),
        ({"dry_run": True}, True),
        ({"dry_run": "false"}, False),
        ({"target": "docker"}, "docker"),
        ({"repository": "127.0.0.1:5000/models/"}, "127.0.0.1:5000/models/"),
        ({"repository": "ghcr.io/acme/digits:v1"}, "ghcr.io/acme/digits:v1"),
        ({"aws_role": ROLE}, ROLE),
        ({"weights_role": "arn:aws-us-gov:iam::123456789012:role/a/path/x@y"}, "arn:aws-us-gov:iam::123456789012:role/a/path/x@y"),
        ({"aws_region": "us-gov-west-1"}, "us-gov-west-1"),
        ({"live_url": "https://models.example.org:8443/predictions/digits"}, "https://models.example.org:8443/predictions/digits"),
        ({"live_url": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080"),
        ({"environment": "Staging-EU_1.a"}, "Staging-EU_1.a"),
        ({"any_branch_environments": " staging\n\nQA.eu\n"}, ["staging", "QA.eu"]),
        ({"runner": "gpu-large"}, "gpu-large"),
    ],
)
def test_valid_inputs(inputs: dict[str, Any], value: Any) -> None:
    (name,) = inputs
    assert getattr(read(**inputs), name) == value


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"model": "x"}, 'input "model" is unknown; did you mean models?'),
        ({"dry_runn": "true"}, 'input "dry-runn" is unknown; did you mean dry-run?'),
        ({"zzzzzz": ""}, 'input "zzzzzz" is unknown; allowed: any-branch-environments'),
        ({"dry_run": "yes"}, 'input dry-run: "yes" is not a boolean; write true or false'),
        ({"dry_run": "True"}, "input dry-run:"),
        ({"dry_run": 1}, "input dry-run: 1 is not text"),
        ({"models": ["a"]}, "input models:"),
        ({"models": {"a": 1}}, "input models:"),
        ({"target": "docer"}, 'input target: "docer" is not a target; did you mean docker?'),
        ({"target": "local"}, 'input target: "local" builds no image'),
        ({"repository": "digits"}, "input repository: 'digits' is not an image repository"),
        ({"repository": "127.0.0.1:5000/Models"}, "input repository:"),
        ({"repository": "$(id).example.org/x"}, "input repository:"),
        ({"repository": "ghcr.io/acme/x@sha256:00"}, "input repository:"),
        ({"aws_role": "deploy"}, "input aws-role:"),
        ({"aws_role": ROLE.replace("role", "user")}, "input aws-role:"),
        ({"aws_role": ROLE + " "}, "input aws-role:"),
        ({"aws_role": ROLE.replace("1234", "12345")}, "input aws-role:"),
        ({"weights_role": "arn:aws:iam::12345678901\u0662:role/x"}, "input weights-role:"),
        ({"aws_region": "Europe"}, "input aws-region:"),
        ({"aws_region": "eu-central-1;id"}, "input aws-region:"),
        ({"live_url": "models.example.org"}, "input live-url:"),
        ({"live_url": "file:///etc/passwd"}, "input live-url:"),
        ({"live_url": "https://user:secret@example.org"}, "input live-url:"),
        ({"live_url": "https://example.org:0/"}, "input live-url:"),
        ({"live_url": "https://example.org:99999/"}, "input live-url:"),
        ({"live_url": "https://[::1"}, "input live-url:"),
        ({"live_url": "https://example.org/?a=1"}, "input live-url:"),
        ({"live_url": "https://"}, "input live-url:"),
        ({"environment": "prod;id"}, "input environment:"),
        ({"environment": "${{ secrets.X }}"}, "input environment:"),
        ({"environment": " prod"}, "input environment:"),
        ({"environment": "x" * 101}, "input environment:"),
        ({"environment": "Staging EU/1"}, "input environment:"),
        ({"environment": "prod--eu"}, "input environment:"),
        ({"environment": "prod-"}, "input environment:"),
        ({"any_branch_environments": "staging\n*"}, "input any-branch-environments:"),
        ({"any_branch_environments": "staging, qa"}, "input any-branch-environments:"),
        ({"runner": "ubuntu latest"}, "input runner:"),
        ({"runner": "-x"}, "input runner:"),
        ({"skip": "verify"}, 'input skip: "verify" cannot be skipped; allowed: attest, comment, deploy, diff'),
        ({"skip": "deplyo"}, "did you mean deploy?"),
        ({"environment": "prod\nction"}, r"input environment: contains \n"),
        ({"models": "a\x00b"}, r"input models: contains \x00"),
        ({"models": "a\u202eb"}, r"input models: contains \u202e"),
        ({"models": "a\ud800b"}, r"input models: contains \ud800"),
        ({"repository": "ghcr.io/x\r\n::error::"}, r"input repository: contains \r"),
        ({"models": "x" * 65_537}, "input models: is longer than 65536 characters"),
        ({"live_url": "https://" + "x" * 2048}, "input live-url: is longer than 2048 characters"),
    ],
)
def test_invalid_inputs(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputsInvalid) as caught:
        read(**inputs)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.message.isprintable()


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(InputsInvalid) as caught:
        read(modles="x", dry_run="maybe", aws_region="mars")
    assert [line.split(":")[0].split(" is")[0] for line in caught.value.message.split("\n")] == [
        'input "modles"',
        "input dry-run",
        "input aws-region",
    ]


@pytest.mark.parametrize(
    "text", ["[", "[1]", '"x"', "1", '{"models": "a", "models": "b"}', "[" * 100_000, "1" * 5000, '{"a": NaN}'], ids=range(8)
)
def test_anything_but_an_object_of_inputs_is_refused(text: str) -> None:
    with pytest.raises(InputsInvalid):
        parse_inputs(text)


def test_a_trailing_line_break_is_refused() -> None:
    """`$` of a regular expression accepts it; `fullmatch` and the check of every character do not."""
    for name in ("environment", "runner", "aws_region", "aws_role"):
        with pytest.raises(InputsInvalid):
            read(**{name: {"aws_region": "eu-central-1", "aws_role": ROLE}.get(name, "x") + "\n"})
