"""Weights behind a web server: ranges, redirects that never leave TLS, and pages that are no weights."""

import email.utils
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3.exceptions

from torchrelay.core.errors import WeightsMissing
from torchrelay.weights.sources.stream import BLOCK, Stream, Transient

MAX_REDIRECTS = 5
TIMEOUT_S = (10.0, 30.0)
"""Seconds to connect, and between two blocks."""
RETRIED = {408, 425, 429, 500, 502, 503, 504}


@dataclass
class Answer:
    """A response after redirects, with the headers of every hop (Hugging Face says the commit on the first)."""

    response: requests.Response
    headers: dict[str, str] = field(default_factory=dict)


class Bearer(requests.auth.AuthBase):
    """Sends a token to one host only, and keeps requests from taking another from ~/.netrc."""

    def __init__(self, token: str, host: str) -> None:
        self.token = token
        self.host = host

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the token when the request goes to its host."""
        if self.token and urlsplit(request.url or "").netloc == self.host:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def basename(uri: str) -> str:
    """Return the last part of the path."""
    parts = urlsplit(uri)
    name = PurePosixPath(unquote(parts.path)).name
    if not parts.hostname or not name:
        raise WeightsMissing(f"weights: {without_secrets(uri)}: names no file", "write https://host/path/file")
    return name


def without_secrets(url: str) -> str:
    """Return the address without user, password and query, which may hold a signature."""
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    return (
        parts._replace(netloc=netloc, query="...", fragment="").geturl()
        if parts.query
        else (parts._replace(netloc=netloc, fragment="").geturl())
    )


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def open_stream(uri: str, start: int, validator: str) -> Iterator[Stream]:
    """See `Source.open_stream`; the version is the ETag, else the date of last modification."""
    with get(uri, start, validator) as answer:
        yield stream_of(answer, uri, start)


@contextmanager
def get(url: str, start: int, validator: str, auth: requests.auth.AuthBase | None = None) -> Iterator[Answer]:
    """Send the request and follow its redirects.

    Raises Transient, or WeightsMissing for an answer that holds no weights.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "torchrelay"}
    if start and validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    seen: dict[str, str] = {}
    here = url
    with requests.Session() as session:
        for _ in range(MAX_REDIRECTS + 1):
            require_safe(here, url)
            try:
                response = session.get(here, headers=headers, auth=auth, stream=True, timeout=TIMEOUT_S, allow_redirects=False)
            except requests.exceptions.SSLError as error:
                raise WeightsMissing(
                    f"weights: {without_secrets(here)}: its certificate is not trusted: {error}",
                    "for a private authority set REQUESTS_CA_BUNDLE to its certificate file",
                ) from error
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
                raise WeightsMissing(f"weights: {without_secrets(here)}: {error}", "correct `weights`") from error
            except (requests.RequestException, OSError) as error:
                raise Transient(f"{without_secrets(here)}: {reason(error)}") from error
            seen = {name.lower(): value for name, value in response.headers.items()} | seen
            if response.is_redirect:
                response.close()
                here = urljoin(here, response.headers["Location"])
                continue
            with response:
                yield Answer(response, seen)
            return
    raise WeightsMissing(f"weights: {without_secrets(url)}: more than {MAX_REDIRECTS} redirects", "give the final address")


def require_safe(url: str, first: str) -> None:
    """Refuse plain http but from and to this machine: anyone on the way could change the weights."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return
    plain_before = urlsplit(first).scheme == "http"
    if parts.scheme == "http" and plain_before and is_loopback(parts.hostname or ""):
        return
    redirected = "" if url == first else f" redirects to {without_secrets(url)}, which"
    raise WeightsMissing(f"weights: {without_secrets(first)}{redirected} is not https", "use an https:// address of the file")


def stream_of(answer: Answer, uri: str, start: int) -> Stream:
    """Judge an answer that came after redirects.

    Raises Transient, or WeightsMissing for an answer that holds no weights.
    """
    response, shown = answer.response, without_secrets(uri)
    status = response.status_code
    if status in RETRIED:
        raise Transient(f"{shown}: the server answers {status}", retry_after(response.headers.get("Retry-After")))
    if status == 416:
        raise Transient(f"{shown}: the file is shorter than the part already here", restart=True)
    if status in (401, 403):
        raise WeightsMissing(
            f"weights: {shown}: the server answers {status}: access refused",
            "the address must be readable as it is: use a pre-signed one, or a ~/.netrc entry for its host",
        )
    if status in {404, 410}:
        raise WeightsMissing(f"weights: {shown}: not there ({status})", "correct `weights` in model.yaml")
    if status not in (200, 206):
        raise WeightsMissing(f"weights: {shown}: the server answers {status}", "open the address in a browser")
    if response.headers.get("Content-Type", "").split(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        raise WeightsMissing(
            f"weights: {shown}: the answer is a web page (a login or error page), not weights",
            "give the address of the file itself, readable without a browser",
        )
    begin, total = 0, _number(response.headers.get("Content-Length"))
    if status == 206:
        begin, total = content_range(response.headers.get("Content-Range", ""))
        if begin != start:
            raise Transient(f"{shown}: asked for bytes from {start}, got them from {begin}", restart=True)
    etag = response.headers.get("ETag", "")
    modified = response.headers.get("Last-Modified", "")
    strong = etag if etag.startswith('"') else ""
    version = etag.removeprefix("W/").strip('"') or modified
    return Stream(_blocks(response), begin, total, version, strong or modified)


def content_range(value: str) -> tuple[int, int | None]:
    """Read `bytes 100-199/200`: (first byte, total or None)."""
    unit, _, rest = value.partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    if unit != "bytes" or not first.isdigit():
        raise Transient(f"the server sent an unreadable Content-Range: {value!r}")
    return int(first), _number(total)


def retry_after(value: str | None) -> float | None:
    """Read a Retry-After header, seconds or an HTTP date, as seconds from now."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def reason(error: BaseException) -> str:
    """Say shortly why a connection failed, without the address (it may hold a signature)."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _number(value: str | None) -> int | None:
    return int(value) if value and value.isdigit() else None


def _blocks(response: requests.Response) -> Iterator[bytes]:
    """Give the body as sent, as it comes: a slow server is seen to be slow."""
    try:
        while block := response.raw.read1(BLOCK, decode_content=False):
            yield block
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Transient(f"the connection broke: {reason(error)}") from error
