"""Weights in S3, or anything that speaks it (AWS_ENDPOINT_URL): s3://bucket/key[?versionId=ID]."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import botocore.exceptions
import urllib3.exceptions
from botocore.config import Config

from torchrelay.core.errors import WeightsMissing
from torchrelay.weights.sources.stream import BLOCK, Stream, Transient

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef

FORM = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+?)(?:\?versionId=(?P<version>[^?&]+))?")
CREDENTIALS = "run `aws sso login`, set AWS_PROFILE, or in CI take a role with aws-actions/configure-aws-credentials"
TRANSIENT = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "ThrottlingException"}


@dataclass(frozen=True)
class S3Object:
    """The parts of an s3:// URI; the version is empty when it names none."""

    bucket: str
    key: str
    version: str


def parse(uri: str) -> S3Object:
    """Take an s3:// URI apart.

    Raises WeightsMissing when it has not the form.
    """
    found = FORM.fullmatch(uri)
    if found is None or found["key"].endswith("/"):
        raise WeightsMissing(f"weights: {uri}: not s3://bucket/key", "name one object, not a folder")
    return S3Object(found["bucket"], found["key"], found["version"] or "")


def basename(uri: str) -> str:
    """Return the last part of the key."""
    return PurePosixPath(parse(uri).key).name


def client() -> "S3Client":
    """Make a client: credentials and region are found as every AWS tool finds them."""
    once = Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 1})  # the downloader retries
    import boto3  # noqa: PLC0415 -- half a second that only AWS addresses need to pay

    return boto3.Session().client("s3", config=once)


@contextmanager
def open_stream(uri: str, start: int, validator: str) -> Iterator[Stream]:
    """See `Source.open_stream`; the version is the S3 version, else the ETag."""
    wanted = parse(uri)
    request: GetObjectRequestTypeDef = {"Bucket": wanted.bucket, "Key": wanted.key}
    if wanted.version:
        request["VersionId"] = wanted.version
    if start and validator:
        request["Range"] = f"bytes={start}-"
        request["IfMatch"] = validator
    try:
        try:
            answer = client().get_object(**request)
        except botocore.exceptions.ClientError as error:
            if "Range" not in request or _status(error) not in (412, 416):
                raise
            del request["Range"], request["IfMatch"]  # another object lies there now: from the beginning
            answer = client().get_object(**request)
    except botocore.exceptions.ClientError as error:
        raise explain(error, uri, wanted) from error
    except (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError) as error:
        raise WeightsMissing(f"weights: {uri}: no AWS credentials", CREDENTIALS) from error
    except (botocore.exceptions.TokenRetrievalError, botocore.exceptions.ProfileNotFound) as error:
        raise WeightsMissing(f"weights: {uri}: {error}", CREDENTIALS) from error
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.EndpointConnectionError) as error:
        raise Transient(f"{uri}: {error}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise WeightsMissing(f"weights: {uri}: {error}", CREDENTIALS) from error
    with answer["Body"]:
        yield stream_of(answer, start if "Range" in request else 0)


def stream_of(answer: "GetObjectOutputTypeDef", start: int) -> Stream:
    """Make the stream of an answer that begins at byte `start`."""
    etag = answer.get("ETag", "")
    version = answer.get("VersionId", "")
    return Stream(
        blocks=_blocks(answer),
        start=start,
        total=start + answer["ContentLength"],
        version=version if version not in ("", "null") else etag.strip('"'),
        validator=etag,
    )


def explain(error: botocore.exceptions.ClientError, uri: str, wanted: S3Object) -> Exception:
    """Turn S3's error code into what to do about it."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = _status(error)
    if status >= 500 or status == 429 or code in TRANSIENT:
        return Transient(f"{uri}: S3 answers {status} {code}")
    said = f"weights: {uri}: "
    known = {
        "NoSuchBucket": (f"no bucket named {wanted.bucket}", "correct `weights`, or AWS_ENDPOINT_URL"),
        "NoSuchKey": ("no such object", "correct the key in `weights`, or upload the file"),
        "404": ("no such object", "correct the key in `weights`, or upload the file"),
        "NoSuchVersion": ("no such version of the object", "correct ?versionId= in `weights`"),
        "AccessDenied": (
            "access denied",
            "let the role read it:\n"
            f'    {{Effect: Allow, Action: "s3:GetObject", Resource: "arn:aws:s3:::{wanted.bucket}/{wanted.key}"}}\n'
            "  (S3 answers the same for a missing object when the role may not list the bucket)",
        ),
        "InvalidAccessKeyId": ("the access key is not known", CREDENTIALS),
        "SignatureDoesNotMatch": ("the secret key is wrong", CREDENTIALS),
        "ExpiredToken": ("the session has expired", CREDENTIALS),
        "InvalidObjectState": ("the object is archived (Glacier)", "restore it first: aws s3api restore-object"),
        "PermanentRedirect": ("the bucket is in another region", "set AWS_REGION to the bucket's region"),
    }
    what, fix = known.get(code, (f"S3 answers {status} {code}: {error}", "check the bucket's policy and the role"))
    return WeightsMissing(said + what, fix)


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _blocks(answer: "GetObjectOutputTypeDef") -> Iterator[bytes]:
    try:
        while block := answer["Body"].read(BLOCK):
            yield block
    except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
        raise Transient(f"the connection broke: {error}") from error
