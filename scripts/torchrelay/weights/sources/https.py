"""Weights on a web server: byte ranges, redirects that never leave TLS, and refusal of web pages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3.exceptions

from torchrelay.core.errors import WeightsMissing
from torchrelay.core.retry import retry_after_s
from torchrelay.core.urls import is_loopback
from torchrelay.weights.sources.stream import BLOCK, RETRIED_STATUSES, Stream, Transient

MAX_REDIRECTS = 5
TIMEOUT_S = (10.0, 30.0)
"""Seconds to connect, and between two blocks."""


@dataclass
class FinalResponse:
    """The response after all redirects, with the headers of every hop (Hugging Face sends the commit in the first)."""

    response: requests.Response
    headers: dict[str, str] = field(default_factory=dict)


class Bearer(requests.auth.AuthBase):
    """Sends a token to one host only, and prevents `requests` from sending one from ~/.netrc."""

    def __init__(self, token: str, host: str) -> None:
        self.token = token
        self.host = host

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the token to a request to its host."""
        if self.token and urlsplit(request.url or "").netloc == self.host:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def basename(uri: str) -> str:
    """Return the last part of the path."""
    parts = urlsplit(uri)
    name = PurePosixPath(unquote(parts.path)).name
    if not parts.hostname or not name:
        raise WeightsMissing(f"weights: {without_secrets(uri)}: does not name a file", "write https://host/path/file")
    return name


def without_secrets(url: str) -> str:
    """Return the address without user, password and query, which may contain a signature."""
    parts = urlsplit(url)
    query = "..." if parts.query else ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment="").geturl()


@contextmanager
def open_stream(uri: str, start: int, validator: str) -> Iterator[Stream]:
    """See `Source.open_stream`; the version is the ETag, or the date of the last change where there is no ETag."""
    with get(uri, start, validator) as final:
        yield stream_of(final, uri, start)


@contextmanager
def get(url: str, start: int, validator: str, auth: requests.auth.AuthBase | None = None) -> Iterator[FinalResponse]:
    """Send the request and follow its redirects.

    Raises Transient, or WeightsMissing when the address cannot be used.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "torchrelay"}
    if start and validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    headers_of_all: dict[str, str] = {}
    address = url
    with requests.Session() as session:
        for _ in range(MAX_REDIRECTS + 1):
            require_safe(address, url)
            try:
                response = session.get(address, headers=headers, auth=auth, stream=True, timeout=TIMEOUT_S, allow_redirects=False)
            except requests.exceptions.SSLError as error:
                raise WeightsMissing(
                    f"weights: {without_secrets(address)}: its certificate is not trusted: {error}",
                    "for a private authority set REQUESTS_CA_BUNDLE to its certificate file",
                ) from error
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
                raise WeightsMissing(f"weights: {without_secrets(address)}: {error}", "correct `weights`") from error
            except (requests.RequestException, OSError) as error:
                raise Transient(f"{without_secrets(address)}: {reason(error)}") from error
            headers_of_all = {name.lower(): value for name, value in response.headers.items()} | headers_of_all
            if response.is_redirect:
                response.close()
                address = urljoin(address, response.headers["Location"])
                continue
            with response:
                yield FinalResponse(response, headers_of_all)
            return
    raise WeightsMissing(f"weights: {without_secrets(url)}: more than {MAX_REDIRECTS} redirects", "give the final address")


def require_safe(url: str, first: str) -> None:
    """Refuse plain http, except within this machine: anyone on the network path could change the weights.

    Raises WeightsMissing.
    """
    parts = urlsplit(url)
    if parts.scheme == "https":
        return
    plain_before = urlsplit(first).scheme == "http"
    if parts.scheme == "http" and plain_before and is_loopback(parts.hostname or ""):
        return
    redirected = "" if url == first else f" redirects to {without_secrets(url)}, which"
    raise WeightsMissing(f"weights: {without_secrets(first)}{redirected} is not https", "use an https:// address of the file")


def stream_of(final: FinalResponse, uri: str, start: int) -> Stream:
    """Return the stream of a response.

    Raises Transient, or WeightsMissing for a response without weights.
    """
    response, shown = final.response, without_secrets(uri)
    status = response.status_code
    if status in RETRIED_STATUSES:
        raise Transient(f"{shown}: the server answers {status}", retry_after_s(response.headers.get("Retry-After")))
    if status == 416:
        raise Transient(f"{shown}: the file is shorter than the part on disk", restart=True)
    if status in (401, 403):
        raise WeightsMissing(
            f"weights: {shown}: the server answers {status}: access refused",
            "use a pre-signed address, or add an entry for its host to ~/.netrc",
        )
    if status in {404, 410}:
        raise WeightsMissing(f"weights: {shown}: not found ({status})", "correct `weights` in model.yaml")
    if status not in (200, 206):
        raise WeightsMissing(f"weights: {shown}: the server answers {status}", "open the address in a browser")
    if response.headers.get("Content-Type", "").split(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        raise WeightsMissing(
            f"weights: {shown}: the response is a web page (a login or error page), not weights",
            "give the address of the file itself, readable without a browser",
        )
    begin, total = 0, _number(response.headers.get("Content-Length"))
    if status == 206:
        begin, total = content_range(response.headers.get("Content-Range", ""))
        if begin != start:
            raise Transient(f"{shown}: requested the bytes from {start}, received them from {begin}", restart=True)
    etag = response.headers.get("ETag", "")
    modified = response.headers.get("Last-Modified", "")
    strong = etag if etag.startswith('"') else ""
    version = etag.removeprefix("W/").strip('"') or modified
    return Stream(_blocks(response), begin, total, version, strong or modified)


def content_range(value: str) -> tuple[int, int | None]:
    """Parse `bytes 100-199/200` into the first byte and the total (None when it is unknown). Raises Transient."""
    unit, _, rest = value.partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    if unit != "bytes" or not first.isdigit():
        raise Transient(f"the server sent an unreadable Content-Range: {value!r}")
    return int(first), _number(total)


def reason(error: BaseException) -> str:
    """Return in few words why a connection failed, without the address, which may contain a signature."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _number(value: str | None) -> int | None:
    return int(value) if value and value.isdigit() else None


def _blocks(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as soon as bytes arrive, so that a slow server is noticed."""
    try:
        while block := response.raw.read1(BLOCK, decode_content=False):
            yield block
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Transient(f"the connection broke: {reason(error)}") from error
