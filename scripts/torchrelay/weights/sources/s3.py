"""Weights in S3, or in a service with S3's interface (AWS_ENDPOINT_URL): s3://bucket/key[?versionId=ID].

boto3's transfer manager downloads a large object in parallel ranges: 65 to 125 MB/s from a server that gives 25 MB/s to each
connection, where one request gets 24 MB/s (200 MB, two busy cores). It writes to a pipe, so the bytes arrive in order: they are
hashed as they arrive, and the part on disk is always a beginning of the object. The manager can only start at byte 0 (`Range` is
not among its `ALLOWED_DOWNLOAD_ARGS`), so one request downloads what is missing from a part. Cancelling the manager waits for its
reads, 147 s when all connections stall; `_Transfer` ends them in 0.2 s.
"""

import queue
import re
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from threading import Event, get_ident
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions
import urllib3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError, S3ValidationError

from torchrelay.core.errors import WeightsMissing
from torchrelay.weights.sources.stream import BLOCK, Stream, Transient

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef

FORM = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+?)(?:\?versionId=(?P<version>[^?&]+))?")
CREDENTIALS = "run `aws sso login`, set AWS_PROFILE, or on GitHub set the inputs `weights-role` and `aws-region`"
TRANSIENT = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "ThrottlingException"}
PARALLEL_FROM = 32 << 20
"""Bytes from which an object is downloaded in parallel ranges."""
RANGE = 8 << 20
CONNECTIONS = 10
QUEUED = 16
"""Blocks in memory between the transfer manager and the disk."""


@dataclass(frozen=True)
class S3Object:
    """The parts of an s3:// URI; the version is empty when the URI has none."""

    bucket: str
    key: str
    version: str


def parse(uri: str) -> S3Object:
    """Split an s3:// URI into its parts.

    Raises WeightsMissing when it does not have the form.
    """
    match = FORM.fullmatch(uri)
    if match is None or match["key"].endswith("/"):
        raise WeightsMissing(f"weights: {uri}: not s3://bucket/key", "name one object, not a folder")
    return S3Object(match["bucket"], match["key"], match["version"] or "")


def basename(uri: str) -> str:
    """Return the last part of the key."""
    return PurePosixPath(parse(uri).key).name


def client() -> "S3Client":
    """Make a client; credentials and region are found as by every AWS tool."""
    no_retries = {"total_max_attempts": 1}  # the downloader retries
    config = Config(connect_timeout=10, read_timeout=30, retries=no_retries, max_pool_connections=CONNECTIONS)  # type: ignore[arg-type] # the stubs want a TypedDict of their module
    return boto3.Session().client("s3", config=config)


@contextmanager
def open_stream(uri: str, start: int, validator: str) -> Iterator[Stream]:
    """See `WeightsSource.open_stream`; the version is the S3 version, or the ETag where there is none."""
    target = parse(uri)
    request: GetObjectRequestTypeDef = {"Bucket": target.bucket, "Key": target.key}
    if target.version:
        request["VersionId"] = target.version
    if start and validator:
        request["Range"] = f"bytes={start}-"
        request["IfMatch"] = validator
    with _explained(uri, target):
        s3 = client()
        try:
            response = s3.get_object(**request)
        except botocore.exceptions.ClientError as error:
            if "Range" not in request or _status(error) not in (412, 416):
                raise
            del request["Range"], request["IfMatch"]  # the object has changed: from the beginning
            response = s3.get_object(**request)
    offset = start if "Range" in request else 0
    etag, version = response.get("ETag", ""), response.get("VersionId", "")
    parallel = offset == 0 and etag and response["ContentLength"] >= PARALLEL_FROM
    blocks = _parallel_blocks(s3, uri, target, response) if parallel else _blocks(response)
    with response["Body"], closing(blocks):
        yield Stream(
            blocks=blocks,
            start=offset,
            total=offset + response["ContentLength"],
            version=version if version not in ("", "null") else etag.strip('"'),
            validator=etag,
        )


@contextmanager
def _explained(uri: str, target: S3Object) -> Iterator[None]:
    """Turn botocore's errors into Transient or WeightsMissing."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        raise explain(error, uri, target) from error
    except (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError) as error:
        raise WeightsMissing(f"weights: {uri}: no AWS credentials", CREDENTIALS) from error
    except (botocore.exceptions.TokenRetrievalError, botocore.exceptions.ProfileNotFound) as error:
        raise WeightsMissing(f"weights: {uri}: {error}", CREDENTIALS) from error
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.EndpointConnectionError) as error:
        raise Transient(f"{uri}: {error}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise WeightsMissing(f"weights: {uri}: {error}", CREDENTIALS) from error


def explain(error: botocore.exceptions.ClientError, uri: str, target: S3Object) -> Transient | WeightsMissing:
    """Return the exception for one of S3's error codes, with its fix."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = _status(error)
    if status >= 500 or status == 429 or code in TRANSIENT:
        return Transient(f"{uri}: S3 answers {status} {code}")
    known = {
        "NoSuchBucket": (f"no bucket named {target.bucket}", "correct `weights`, or AWS_ENDPOINT_URL"),
        "NoSuchKey": ("no such object", "correct the key in `weights`, or upload the file"),
        "404": ("no such object", "correct the key in `weights`, or upload the file"),
        "NoSuchVersion": ("no such version of the object", "correct ?versionId= in `weights`"),
        "AccessDenied": (
            "access denied",
            "let the role read it:\n"
            f'    {{Effect: Allow, Action: "s3:GetObject", Resource: "arn:aws:s3:::{target.bucket}/{target.key}"}}\n'
            "  (S3 answers the same for a missing object when the role is not allowed to list the bucket)",
        ),
        "InvalidAccessKeyId": ("the access key is not known", CREDENTIALS),
        "SignatureDoesNotMatch": ("the secret key is wrong", CREDENTIALS),
        "ExpiredToken": ("the session has expired", CREDENTIALS),
        "InvalidObjectState": ("the object is archived (Glacier)", "restore it first: aws s3api restore-object"),
        "PermanentRedirect": ("the bucket is in another region", "set AWS_REGION to the bucket's region"),
    }
    message, fix = known.get(code, (f"S3 answers {status} {code}: {error}", "check the bucket's policy and the role"))
    return WeightsMissing(f"weights: {uri}: {message}", fix)


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _blocks(response: "GetObjectOutputTypeDef") -> Generator[bytes]:
    """Yield the body of one response."""
    try:
        while block := response["Body"].read(BLOCK):
            yield block
    except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
        raise Transient(f"the connection broke: {error}") from error


class _Transfer:
    """One run of the transfer manager, which writes to it: it is not seekable, so the manager writes in order.

    `stop` makes the next write and the next request fail, and ends the reads that wait for the network.
    """

    def __init__(self, s3: "S3Client", size: int, etag: str) -> None:
        self.size, self.etag = size, etag
        self.blocks: queue.Queue[bytes] = queue.Queue(QUEUED)
        self.stopped = Event()
        self._responses: dict[int, urllib3.BaseHTTPResponse] = {}
        s3.meta.events.register("before-call.s3.GetObject", self._before_request)
        s3.meta.events.register("after-call.s3.GetObject", self._after_request)

    def on_queued(self, future: Any, **_: Any) -> None:
        """Give the manager the size and ETag: it sends no HEAD request, and every range is of the same object."""
        future.meta.provide_transfer_size(self.size)
        future.meta.provide_object_etag(self.etag)

    def write(self, block: bytes) -> None:
        while not self.stopped.is_set():
            try:
                return self.blocks.put(block, timeout=0.1)
            except queue.Full:
                continue
        raise BrokenPipeError("the download was stopped")

    def stop(self) -> None:
        self.stopped.set()
        for response in list(self._responses.values()):
            with suppress(RuntimeError, ValueError, OSError):  # it is finished already
                response.shutdown()

    def _before_request(self, **_: Any) -> None:
        if self.stopped.is_set():
            raise BrokenPipeError("the download was stopped")

    def _after_request(self, http_response: Any, **_: Any) -> None:
        self._responses[get_ident()] = http_response.raw  # each thread of the manager reads one response at a time


def _parallel_blocks(s3: "S3Client", uri: str, target: S3Object, response: "GetObjectOutputTypeDef") -> Generator[bytes]:
    """Yield the whole object of a response, in order, downloaded in parallel ranges; the response itself is not read."""
    response["Body"].close()
    transfer = _Transfer(s3, response["ContentLength"], response["ETag"])
    settings = TransferConfig(RANGE, CONNECTIONS, RANGE, preferred_transfer_client="classic")
    manager = create_transfer_manager(s3, settings)
    version = {"VersionId": target.version} if target.version else {}
    writes: Any = transfer  # the stubs want a whole file and a subclass; the manager calls `write` and `on_queued` alone
    future = manager.download(target.bucket, target.key, writes, version, [writes])
    try:
        while not (future.done() and transfer.blocks.empty()):
            try:
                yield transfer.blocks.get(timeout=0.1)
            except queue.Empty:
                continue
        with _explained(uri, target):
            future.result()
    except (RetriesExceededError, S3DownloadFailedError, S3ValidationError, urllib3.exceptions.HTTPError, OSError) as error:
        raise Transient(f"the connection broke: {error}") from error
    finally:
        transfer.stop()
        future.cancel()
        manager.shutdown()
