"""The pure parts of fetching: addresses, headers, and the checks of the bytes."""

import time
from email.utils import formatdate

import pytest

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import WeightsChanged, WeightsMissing
from torchrelay.core.retry import retry_after_s
from torchrelay.model.weights_lock import Locked
from torchrelay.stages.fetch import Expected, expectation, require
from torchrelay.weights.sources import Transient, hf, https, s3, scheme_of, source_of

HERE = "0" * 64
THERE = "1" * 64
LOCKED = Locked("model.pt", 7, HERE, "")


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("s3://b/k", "s3"),
        ("HTTPS://h/f", "https"),
        ("hf://o/r/f", "hf"),
        ("model.pt", "file"),
        ("a/b.pt", "file"),
        ("C.pt", "file"),
    ],
)
def test_a_scheme_is_read_off_and_a_path_has_none(uri: str, scheme: str) -> None:
    assert scheme_of(uri) == scheme


def test_an_unknown_scheme_names_those_there_are() -> None:
    with fails(WeightsMissing, "ftp://") as caught:
        source_of("ftp://host/file")
    assert "s3://bucket/key" in caught.value.fix


def test_an_s3_address_is_parsed() -> None:
    assert s3.parse("s3://my-bucket/a/b.pt") == s3.S3Object("my-bucket", "a/b.pt", "")
    assert s3.parse("s3://my-bucket/b.pt?versionId=x.1") == s3.S3Object("my-bucket", "b.pt", "x.1")
    assert s3.basename("s3://my-bucket/a/b.pt?versionId=x") == "b.pt"


@pytest.mark.parametrize("uri", ["s3://B/k", "s3://bucket", "s3://bucket/", "s3://bucket/folder/", "s3:///key"])
def test_another_uri_than_an_objects_is_refused(uri: str) -> None:
    with fails(WeightsMissing, uri, "s3://bucket/key"):
        s3.parse(uri)


def test_a_hub_address_is_parsed_and_quoted() -> None:
    assert hf.parse("hf://org/repo/a/b.pt") == hf.HubFile("org/repo", "a/b.pt", "main")
    file = hf.parse("hf://org/repo/a b.pt@refs/pr/1")
    assert hf.url_of(file, "https://hub/") == "https://hub/org/repo/resolve/refs%2Fpr%2F1/a%20b.pt"


@pytest.mark.parametrize("uri", ["hf://org/repo", "hf://org/f.pt", "hf://org/repo/../x", "hf://org/repo//x", "hf://org/repo/x@a b"])
def test_another_uri_than_a_hub_files_is_refused(uri: str) -> None:
    with fails(WeightsMissing, uri, "hf://org/repo"):
        hf.parse(uri)


@pytest.mark.parametrize(
    ("url", "first"),
    [("https://a/x", "https://b/y"), ("http://127.0.0.1/x", "http://localhost/x"), ("http://[::1]:8000/x", "http://[::1]:8000/x")],
)
def test_tls_and_loopback_are_safe(url: str, first: str) -> None:
    https.require_safe(url, first)


@pytest.mark.parametrize(
    ("url", "first"),
    [
        ("http://example.org/x", "http://example.org/x"),
        ("http://example.org/x", "https://example.org/x"),
        ("http://127.0.0.1/x", "https://example.org/x"),
        ("http://example.org/x", "http://127.0.0.1/x"),
        ("http://localhost.example.org/x", "http://localhost/x"),
        ("ftp://example.org/x", "https://example.org/x"),
    ],
)
def test_plain_http_is_not(url: str, first: str) -> None:
    with fails(WeightsMissing, words=messages.NOT_HTTPS):
        https.require_safe(url, first)


def test_an_address_is_shown_without_its_secrets() -> None:
    assert https.without_secrets("https://user:pass@host/f?X-Amz-Signature=s#x") == "https://host/f?..."


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("7") == 7.0
    assert 8 < (retry_after_s(formatdate(time.time() + 10, usegmt=True)) or 0) <= 10
    assert retry_after_s(formatdate(time.time() - 10, usegmt=True)) == 0.0
    assert retry_after_s("soon") is None
    assert retry_after_s(None) is None


def test_content_range_is_read_and_nonsense_is_tried_again() -> None:
    assert https.content_range("bytes 5-9/10") == (5, 10)
    assert https.content_range("bytes 5-9/*") == (5, None)
    for value in ("", "items 5-9/10", "bytes */10"):
        with pytest.raises(Transient):
            https.content_range(value)


def test_model_yaml_wins_over_the_lock_and_the_lock_is_for_its_own_address() -> None:
    assert expectation("model.pt", "", LOCKED) == Expected(HERE, 7, "weights.lock")
    assert expectation("other.pt", "", LOCKED) == Expected()
    assert expectation("model.pt", "", None) == Expected()
    assert expectation("model.pt", THERE.upper(), LOCKED) == Expected(THERE, None, "model.yaml")
    assert expectation("model.pt", HERE, LOCKED) == Expected(HERE, 7, "model.yaml")


def test_other_bytes_are_refused_with_the_way_to_accept_them() -> None:
    require("model.pt", Expected(), THERE)
    require("model.pt", Expected(HERE, 7, "weights.lock"), HERE)
    with fails(WeightsChanged, THERE, HERE, "weights.lock") as locked:
        require("model.pt", Expected(HERE, 7, "weights.lock"), THERE)
    assert "torchrelay fetch --update-lock" in locked.value.fix
    with pytest.raises(WeightsChanged) as declared:
        require("model.pt", Expected(HERE, None, "model.yaml"), THERE)
    assert f"weights: {{uri: model.pt, sha256: {THERE}}}" in declared.value.fix
