"""fetch from S3, against moto's server: a stand-in that speaks S3's protocol, not AWS."""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests import messages
from tests.errors import fails
from tests.integration.weights_server import Behaviour, Handler, serving
from torchrelay.core.errors import WeightsChanged, WeightsMissing
from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.stages import fetch
from torchrelay.stages.fetch import Fetched
from torchrelay.weights.download import Download, Patience
from torchrelay.weights.sources import Transient, s3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONTENT = os.urandom(1 << 20) * 3
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(stall_s=20, first_wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator["S3Client"]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="digits/model.pt", Body=CONTENT)
    yield client
    for version in client.list_object_versions(Bucket="models").get("Versions", []):
        client.delete_object(Bucket="models", Key=version["Key"], VersionId=version["VersionId"])
    client.delete_bucket(Bucket="models")


def get(tmp_path: Path, uri: str = "s3://models/digits/model.pt", *, update_lock: bool = False) -> Fetched:
    (tmp_path / "model").mkdir(exist_ok=True)
    model = Model.model_validate({"name": "m", "handler": "tensor", "weights": uri})
    cache = tmp_path / "cache"
    return fetch.run(tmp_path / "model", model, cache=cache, progress=Quiet(), update_lock=update_lock, patience=QUICK)


def lock(tmp_path: Path) -> dict[str, object]:
    content = json.loads((tmp_path / "model/weights.lock").read_text())
    assert isinstance(content, dict)
    return content


@pytest.mark.usefixtures("bucket")
def test_an_object_is_complete_and_locked_with_its_etag(tmp_path: Path) -> None:
    fetched = get(tmp_path)
    assert fetched.sha256 == SHA256
    assert fetched.path == tmp_path / "cache/weights" / SHA256 / "model.pt"
    assert lock(tmp_path)["version"] == hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


def test_a_versioned_object_is_locked_with_its_version_and_can_be_pinned(tmp_path: Path, bucket: "S3Client") -> None:
    bucket.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    first = bucket.put_object(Bucket="models", Key="v.pt", Body=b"first")["VersionId"]
    bucket.put_object(Bucket="models", Key="v.pt", Body=b"second")
    assert get(tmp_path, "s3://models/v.pt").size == 6
    assert lock(tmp_path)["version"] not in ("", first)
    pinned = get(tmp_path, f"s3://models/v.pt?versionId={first}")
    assert pinned.path.read_bytes() == b"first"
    assert pinned.path.name == "v.pt"
    assert lock(tmp_path)["version"] == first


def test_a_part_is_gone_on_with_by_range(tmp_path: Path, bucket: "S3Client") -> None:
    etag = bucket.head_object(Bucket="models", Key="digits/model.pt")["ETag"]
    with s3.open_stream("s3://models/digits/model.pt", 1_000_000, etag) as stream:
        assert stream.start == 1_000_000
        assert stream.total == len(CONTENT)
        assert b"".join(stream.blocks) == CONTENT[1_000_000:]
    leave_part(tmp_path, etag)
    assert get(tmp_path).sha256 == SHA256


@pytest.mark.usefixtures("bucket")
def test_a_part_of_another_object_is_not(tmp_path: Path) -> None:
    with s3.open_stream("s3://models/digits/model.pt", 1_000_000, '"0123"') as stream:
        assert stream.start == 0
        assert b"".join(stream.blocks) == CONTENT
    leave_part(tmp_path, '"0123"')
    assert get(tmp_path).sha256 == SHA256


def leave_part(tmp_path: Path, etag: str) -> None:
    uri = "s3://models/digits/model.pt"
    download = Download(s3, uri, tmp_path / "cache/weights/partial", Quiet(), QUICK)
    download.part.parent.mkdir(parents=True)
    download.part.write_bytes(CONTENT[:1_000_000])
    note = {"uri": uri, "validator": etag, "version": "", "total": len(CONTENT), "sha256": ""}
    download.note_path.write_text(json.dumps(note))


@pytest.fixture
def parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PARALLEL_FROM", 1)
    monkeypatch.setattr(s3, "RANGE", 300_000)


@pytest.mark.usefixtures("bucket", "parallel")
def test_a_large_object_is_downloaded_in_parallel_ranges_and_hashed_in_order(tmp_path: Path) -> None:
    with s3.open_stream("s3://models/digits/model.pt", 0, "") as stream:
        assert b"".join(stream.blocks) == CONTENT
    assert get(tmp_path).sha256 == SHA256


@pytest.mark.usefixtures("parallel")
def test_a_pinned_version_is_downloaded_in_parallel(tmp_path: Path, bucket: "S3Client") -> None:
    bucket.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    first = bucket.put_object(Bucket="models", Key="v.pt", Body=CONTENT)["VersionId"]
    bucket.put_object(Bucket="models", Key="v.pt", Body=CONTENT[::-1])
    assert get(tmp_path, f"s3://models/v.pt?versionId={first}").sha256 == SHA256


@pytest.mark.usefixtures("parallel")
def test_an_object_that_changes_during_a_parallel_download_is_downloaded_again(tmp_path: Path, bucket: "S3Client") -> None:
    with s3.open_stream("s3://models/digits/model.pt", 0, "") as stream:
        bucket.put_object(Bucket="models", Key="digits/model.pt", Body=CONTENT[::-1])
        with pytest.raises(Transient, match="did not match expected ETag"):
            list(stream.blocks)
    assert get(tmp_path).sha256 == hashlib.sha256(CONTENT[::-1]).hexdigest()


@pytest.mark.usefixtures("bucket", "parallel")
def test_a_range_that_fails_is_continued_by_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(CONTENT) as stand_in:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stand_in.url)
        stand_in.next = [Handler.good, Handler.good, Handler.good, error_xml("SlowDown", 503)]
        assert get(tmp_path).sha256 == SHA256
    # requests of the parallel ranges may be recorded after it
    (single,) = [request for request in stand_in.asked if re.fullmatch(r"bytes=\d+-", request.get("range", ""))]
    assert single["if-match"] == stand_in.current_etag()


@pytest.mark.usefixtures("bucket", "parallel")
@pytest.mark.timeout(60)
def test_a_parallel_download_that_stalls_ends_when_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    released, before = Event(), set(threading.enumerate())

    def stall(handler: Handler) -> None:
        handler.good(upto=280_000)  # the manager reads blocks of 256 KiB
        handler.wfile.flush()
        released.wait(50)

    with serving(CONTENT) as stand_in:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stand_in.url)
        stand_in.next = [Handler.good, *[stall] * 50]
        with s3.open_stream("s3://models/digits/model.pt", 0, "") as stream:
            assert next(stream.blocks)
            left = time.monotonic()
        assert time.monotonic() - left < 20  # the read timeout is 30 s, and the manager would try five times
        released.set()
    deadline = time.monotonic() + 30
    while rest := [one for one in threading.enumerate() if one not in before and one.name.startswith("ThreadPoolExecutor")]:
        assert time.monotonic() < deadline, rest
        time.sleep(0.05)


def test_a_changed_object_is_refused_without_update_lock(tmp_path: Path, bucket: "S3Client") -> None:
    get(tmp_path).path.unlink()
    bucket.put_object(Bucket="models", Key="digits/model.pt", Body=CONTENT[::-1])
    with pytest.raises(WeightsChanged, match=f"weights.lock says {SHA256}"):
        get(tmp_path)
    assert get(tmp_path, update_lock=True).sha256 == hashlib.sha256(CONTENT[::-1]).hexdigest()


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("uri", "message", "fix"),
    [
        ("s3://models/none.pt", "no such object", "upload the file"),
        ("s3://nobucket/model.pt", "no bucket named nobucket", "AWS_ENDPOINT_URL"),
    ],
)
def test_a_missing_object_is_reported(tmp_path: Path, uri: str, message: str, fix: str) -> None:
    with pytest.raises(WeightsMissing, match=message) as caught:
        get(tmp_path, uri)
    assert fix in caught.value.fix


@pytest.mark.usefixtures("bucket")
def test_without_credentials_the_fix_explains_how_to_get_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with fails(WeightsMissing, words=messages.NO_AWS_CREDENTIALS) as caught:
        get(tmp_path)
    assert "aws sso login" in caught.value.fix


@pytest.mark.usefixtures("bucket")
def test_a_profile_that_does_not_exist_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with fails(WeightsMissing, "nobody"):
        get(tmp_path)


def error_xml(code: str, status: int) -> Behaviour:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    def behave(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/xml")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return behave


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("code", "status", "message", "fix"),
    [
        ("AccessDenied", 403, "access denied", '"s3:GetObject", Resource: "arn:aws:s3:::models/digits/model.pt"'),
        ("ExpiredToken", 400, "the session has expired", "aws sso login"),
        ("InvalidObjectState", 403, "Glacier", "restore-object"),
        ("SlowDown", 503, "SlowDown; gave up", "run it again"),
    ],
)
def test_errors_that_moto_does_not_make_come_from_a_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, status: int, message: str, fix: str
) -> None:
    with serving(b"") as stand_in:
        stand_in.next = [error_xml(code, status)] * 1000
        monkeypatch.setenv("AWS_ENDPOINT_URL", stand_in.url)
        with pytest.raises(WeightsMissing, match=message) as caught:
            get(tmp_path)
    assert fix in caught.value.fix
    assert (len(stand_in.asked) > 1) == (status == 503)


@pytest.mark.usefixtures("bucket")
def test_nobody_at_the_endpoint_ends_in_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with fails(WeightsMissing, words=messages.GAVE_UP):
        get(tmp_path)
