"""Statements: in-toto's form, SLSA's fields, and no facts about the run that come from the build job."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.small_image import WEIGHTS, image, layer, model, model_layers, runtime
from torchrelay.attestation.image_contents import contents
from torchrelay.attestation.provenance import BY_HAND, PROVENANCE, Builder, builder_of, provenance, statement
from torchrelay.core.progress import Quiet
from torchrelay.model.origin import Origin

GITHUB = {
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "acme/digits",
    "GITHUB_RUN_ID": "77",
    "GITHUB_WORKFLOW_REF": "acme/digits/.github/workflows/deploy.yml@refs/heads/main",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHRELAY_CACHE", str(tmp_path / "cache"))


def predicate(source: Origin, environment: dict[str, str], **changed: Any) -> dict[str, Any]:
    below = replace(runtime(), created_by="/bin/sh -c #(nop) COPY dir:0123 in /opt")  # as the bundle reads it of the config
    model_image = image(below, layer("torchrelay dependencies", {"opt/torchrelay/deps/x": b""}), *model_layers())
    return provenance(model_image, model(**changed), "1.0", source, contents(model_image, Quiet()), builder_of(environment, source))


def test_a_statement_is_in_totos() -> None:
    document = json.loads(statement(PROVENANCE, {"a": 1}, "ghcr.io/acme/digits", f"sha256:{'a' * 64}"))
    assert document == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "ghcr.io/acme/digits", "digest": {"sha256": "a" * 64}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {"a": 1},
    }


def test_provenance_names_the_inputs_and_the_builder() -> None:
    source = Origin("acme/digits", "c" * 40, "refs/heads/main", 7, "https://elsewhere/run", "ada")
    document = predicate(source, GITHUB, requirements="deps/requirements.txt")
    definition = document["buildDefinition"]
    assert definition["buildType"] == "https://torchrelay.org/relay/v1"
    assert definition["externalParameters"]["ref"] == "refs/heads/main"
    assert definition["externalParameters"]["model"] == {
        "name": "digits",
        "version": "1.0",
        "handler": "image-classifier",
        "weights": "s3://bucket/digits/model.pt?versionId=7",
        "requirements": "deps/requirements.txt",
    }
    of = {one["name"]: one for one in definition["resolvedDependencies"]}
    assert of["source"] == {"name": "source", "uri": "git+https://github.com/acme/digits", "digest": {"gitCommit": "c" * 40}}
    assert of["weights"]["digest"] == {"sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    assert of["requirements"]["digest"] == {"sha256": hashlib.sha256(b"lightgbm==4.5.0\n").hexdigest()}
    assert len(of["requirements"]["annotations"]["layers"]) == 1
    assert of["runtime"]["digest"] == {"sha256": "a" * 64}
    assert of["runtime"]["annotations"]["layers"] == [runtime().blob.digest]
    run = document["runDetails"]
    assert run["builder"]["id"] == "https://github.com/acme/digits/.github/workflows/deploy.yml@refs/heads/main"
    assert run["metadata"] == {"invocationId": "https://github.com/acme/digits/actions/runs/77"}


@pytest.mark.parametrize(("format_name", "code"), [("torchscript", True), ("pt2", True), ("aoti", True), ("state_dict", False)])
def test_weights_that_execute_code_are_marked(format_name: str, code: bool) -> None:
    document = predicate(Origin(), {}, weights={"uri": "s3://bucket/digits/model.pt", "format": format_name})
    weights = next(one for one in document["buildDefinition"]["resolvedDependencies"] if one["name"] == "weights")
    assert weights.get("annotations") == ({"format": format_name, "executes_code": True} if code else None)


def test_the_run_comes_from_the_signer_not_from_the_build() -> None:
    forged = Origin("acme/digits", "c" * 40, run="https://github.com/acme/digits/actions/runs/1")
    assert builder_of(GITHUB, forged).run.endswith("/runs/77")


def test_a_statement_made_by_hand_has_no_invented_fields() -> None:
    document = predicate(Origin(), {})
    assert document["runDetails"]["builder"]["id"] == BY_HAND
    assert "metadata" not in document["runDetails"]
    assert [one["name"] for one in document["buildDefinition"]["resolvedDependencies"]] == ["weights", "runtime"]
    assert builder_of({}, Origin(run="https://x/1")) == Builder(BY_HAND, "https://x/1")


def test_an_addresss_signature_is_not_published() -> None:
    document = predicate(Origin(), {}, weights="https://host/model.pt?X-Amz-Signature=secret")
    assert "secret" not in json.dumps(document)
