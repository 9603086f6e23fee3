"""fetch from a Hugging Face hub, against a stand-in that answers with the hub's routes, headers and error codes."""

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.weights_server import Behaviour, Handler, WeightsServer, serving, status, truncated
from torchrelay.core.errors import WeightsChanged, WeightsMissing
from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.stages import fetch
from torchrelay.stages.fetch import Fetched
from torchrelay.weights.download import Patience

CONTENT = b"safetensors" * 30_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c0ffee" * 6 + "c0ff"
TOKEN = "hf_secret_of_the_test"


@pytest.fixture
def storage() -> Iterator[WeightsServer]:
    with serving(CONTENT) as running:
        yield running


@pytest.fixture
def hub(storage: WeightsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    with serving(b"") as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        running.next = [redirecting(storage)] * 10
        yield running


def redirecting(storage: WeightsServer, sha256: str = SHA256) -> Behaviour:
    def behave(handler: Handler) -> None:
        location = f"http://localhost:{storage.port}/blob?X-Amz-Signature=abc"  # another host than the hub's, by name
        headers = {"X_Repo_Commit": COMMIT, "X_Linked_Etag": f'"{sha256}"', "X_Linked_Size": str(len(CONTENT))}
        status(302, b"", Location=location, **headers)(handler)

    return behave


def get(tmp_path: Path, uri: str = "hf://org/repo/sub/model.safetensors@v1.0", *, update_lock: bool = False) -> Fetched:
    (tmp_path / "model").mkdir(exist_ok=True)
    model = Model.model_validate({"name": "m", "handler": "tensor", "weights": uri})
    patience = Patience(stall_s=0.5, first_wait_s=0.01, longest_wait_s=0.05)
    return fetch.run(
        tmp_path / "model",
        model,
        cache=tmp_path / "cache",
        progress=Quiet(),
        update_lock=update_lock,
        patience=patience,
    )


@pytest.mark.usefixtures("storage")
def test_a_file_is_resolved_followed_and_locked_with_its_commit(tmp_path: Path, hub: WeightsServer) -> None:
    fetched = get(tmp_path)
    assert fetched.path.name == "model.safetensors"
    assert fetched.sha256 == SHA256
    assert hub.asked[0]["path"] == "/org/repo/resolve/v1.0/sub/model.safetensors"
    assert json.loads((tmp_path / "model/weights.lock").read_text())["version"] == COMMIT


def test_the_token_is_sent_to_the_hub_only_and_not_logged(
    tmp_path: Path, hub: WeightsServer, storage: WeightsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    storage.next = [status(503), truncated(1000)]
    get(tmp_path)
    assert hub.asked[0]["authorization"] == f"Bearer {TOKEN}"
    assert all("authorization" not in asked for asked in storage.asked)
    assert len(storage.asked) == 3
    assert TOKEN not in caplog.text
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("torchrelay")]
    assert messages
    assert not any("Signature" in line for line in messages)


def test_without_a_token_there_is_no_header(tmp_path: Path, hub: WeightsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    get(tmp_path)
    assert "authorization" not in hub.asked[0]


@pytest.mark.usefixtures("hub")
def test_bytes_other_than_the_hub_promises_are_refused(tmp_path: Path, storage: WeightsServer) -> None:
    storage.content = CONTENT[::-1]
    with pytest.raises(WeightsMissing, match=f"damaged on the way: .* the source says {SHA256}"):
        get(tmp_path)
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_changed_digest_is_noticed_before_the_transfer(tmp_path: Path, hub: WeightsServer, storage: WeightsServer) -> None:
    cached = get(tmp_path).path
    cached.unlink()
    asked = len(storage.asked)
    hub.next = [redirecting(storage, "1" * 64)]
    with pytest.raises(WeightsChanged, match=f"sha256 is {'1' * 64}, but weights.lock says {SHA256}"):
        get(tmp_path)
    assert len(storage.asked) == asked + 1  # opened, not read


def test_a_small_file_outside_large_file_storage_comes_from_the_hub_itself(tmp_path: Path, hub: WeightsServer) -> None:
    hub.next = [status(200, b"small", ETag='"gitsha1"', X_Repo_Commit=COMMIT)]
    assert get(tmp_path).size == 5
    assert json.loads((tmp_path / "model/weights.lock").read_text())["version"] == COMMIT


@pytest.mark.parametrize(
    ("code", "error_code", "message", "fix"),
    [
        (401, "RepoNotFound", "the hub refuses", "check that HF_TOKEN may read it"),
        (403, "GatedRepo", "GatedRepo", "accept the repository's terms"),
        (404, "RevisionNotFound", "no such revision", "after the @"),
        (404, "EntryNotFound", "no such file in that repository", "correct the path"),
        (404, "", "not found", "correct `weights`"),
    ],
)
def test_the_hubs_refusals_are_explained(
    tmp_path: Path, hub: WeightsServer, code: int, error_code: str, message: str, fix: str
) -> None:
    hub.next = [status(code, X_Error_Code=error_code)]
    with pytest.raises(WeightsMissing, match=message) as caught:
        get(tmp_path)
    assert fix in caught.value.fix
    assert TOKEN not in str(caught.value)


def test_without_a_token_the_fix_names_it(tmp_path: Path, hub: WeightsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    hub.next = [status(401, X_Error_Code="GatedRepo")]
    with pytest.raises(WeightsMissing) as caught:
        get(tmp_path)
    assert "set HF_TOKEN" in caught.value.fix
