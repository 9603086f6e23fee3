"""weights.lock is committed: it holds no part of an address that grants access, and still belongs to that address."""

import json
from pathlib import Path

import pytest

from torchrelay.model.weights_lock import LOCK_NAME, Locked, public_source, read_lock, write_lock
from torchrelay.stages.fetch import Expected, expectation

DIGEST = "0" * 64
SECRET = "s3cr3t"
HOST = "https://bucket.example/m/model.pt"
SIGNED = {
    "aws": f"{HOST}?versionId=7&X-Amz-Algorithm=A&X-Amz-Credential=AKIA{SECRET}&X-Amz-Date=2&X-Amz-Signature={SECRET}",
    "aws_v2": f"{HOST}?versionId=7&AWSAccessKeyId={SECRET}&Expires=1&Signature={SECRET}",
    "cloudfront": f"{HOST}?versionId=7&Policy={SECRET}&Signature={SECRET}&Key-Pair-Id={SECRET}",
    "gcs": f"{HOST}?X-Goog-Signature={SECRET}&versionId=7&X-Goog-Credential={SECRET}",
    "azure": f"{HOST}?versionId=7&sv=2024&st={SECRET}&se={SECRET}&sr=b&sp=r&sig={SECRET}",
    "token": f"{HOST}?versionId=7&private_token={SECRET}",
    "escaped_name": f"{HOST}?versionId=7&%74oken={SECRET}",
    "password": f"https://user:{SECRET}@bucket.example/m/model.pt?versionId=7#{SECRET}",
}


@pytest.mark.parametrize("kind", SIGNED)
def test_the_lock_has_no_secret_and_holds_for_the_next_signature(kind: str, tmp_path: Path) -> None:
    uri = SIGNED[kind]
    write_lock(tmp_path, Locked(uri, 7, DIGEST, ""))
    text = (tmp_path / LOCK_NAME).read_text()
    assert SECRET not in text
    assert json.loads(text)["source"] == f"{HOST}?versionId=7"
    assert expectation(uri, "", read_lock(tmp_path)) == Expected(DIGEST, 7, LOCK_NAME)
    again = uri.replace(SECRET, "anoth3r")
    assert expectation(again, "", read_lock(tmp_path)) == Expected(DIGEST, 7, LOCK_NAME)


def test_a_lock_of_an_earlier_version_still_holds() -> None:
    assert expectation(SIGNED["aws"], "", Locked(SIGNED["aws"], 7, DIGEST, "")) == Expected(DIGEST, 7, LOCK_NAME)


@pytest.mark.parametrize(
    "uri",
    [
        "model.pt",
        "a b/model?sig=1.pt",
        "s3://bucket/model.pt?versionId=x",
        "hf://org/repo/model.pt@main",
        "https://host.example/model.pt?id=5&download=1",
    ],
)
def test_other_addresses_stay_as_they_are(uri: str) -> None:
    assert public_source(uri) == uri


def test_another_file_is_not_locked() -> None:
    locked = Locked("https://host.example/model.pt?id=5&token=x", 7, DIGEST, "")
    assert expectation("https://host.example/model.pt?id=6&token=x", "", locked) == Expected()
    assert expectation("https://host.example/other.pt?id=5&token=x", "", locked) == Expected()
