"""A client of OCI registries (distribution-spec 1.1): the calls that push, attest and deploy need, streaming and with retries."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlparse, urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from torchrelay.core.errors import RegistryError
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.log import log
from torchrelay.core.progress import Task
from torchrelay.core.retry import Policy, RetryLater, pause, retry_after_s, retrying
from torchrelay.core.text import first_line, shown
from torchrelay.core.urls import is_private
from torchrelay.oci.blobs import Blob, sha256_digest
from torchrelay.oci.docker_config import docker_credentials
from torchrelay.oci.image import MANIFEST_TYPE

RETRIES = Policy(attempts=6, first_wait_s=0.5, longest_wait_s=60.0)
TIMEOUT_S = (10.0, 300.0)  # connect, and between two bytes
RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}
RETRIED_ERRORS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
MANIFEST_TYPES = ", ".join([MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json"])

CredentialSource = Callable[[str], tuple[str, str] | None]


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class _NoCredentials(AuthBase):
    """Sends a request as it is; without it, `requests` would send a password of ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Body:
    """A blob as a request body of known length, sent in pieces of 1 MiB."""

    def __init__(self, blob: Blob, task: Task, stop: threading.Event) -> None:
        self.blob, self.task, self.stop = blob, task, stop

    def __len__(self) -> int:
        return self.blob.size

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.blob.chunks():
            if self.stop.is_set():
                raise RegistryError("the upload was stopped", "push again")
            yield chunk
            self.task.advance(len(chunk))


@dataclass
class Registry:
    """One registry, with its session and its token."""

    base: str
    credentials: CredentialSource = docker_credentials
    sleep: Callable[[float], None] = pause
    session: requests.Session = field(default_factory=requests.Session)
    auth: AuthBase | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when another thread has failed: uploads end at their next piece, and nothing is retried."""

    def check_access(self) -> None:
        """Check that this is a registry and that it accepts our credentials. Raises RegistryError."""
        self._call("GET", "/v2/")

    def try_upload(self, repository: str) -> None:
        """Begin an upload and cancel it, once, to see whether a push would be allowed. Raises RegistryError."""
        try:
            opened = self._once("POST", f"/v2/{repository}/blobs/uploads/", headers={"Content-Length": "0"})
            if opened.status_code != 202:
                raise RegistryError(f"{self.base}: {repository}: {_reason(opened)}", _fix(opened.status_code))
            self._once("DELETE", self._location(opened))  # a registry that cannot cancel drops the upload by itself
        except requests.RequestException as error:
            raise RegistryError(f"{self.base}: {first_line(error)}", "check that the registry is running") from error

    def has_blob(self, repository: str, digest: str) -> bool:
        """Return whether the registry has a blob in this repository."""
        return self._call("HEAD", f"/v2/{repository}/blobs/{digest}", accept=(200, 404)).status_code == 200

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        """Return the digest of the manifest under a tag or digest, None when there is none."""
        headers = {"Accept": MANIFEST_TYPES}
        answer = self._call("HEAD", f"/v2/{repository}/manifests/{reference}", headers=headers, accept=(200, 404))
        return answer.headers.get("Docker-Content-Digest") if answer.status_code == 200 else None

    def read(
        self, path: str, limit: int, headers: dict[str, str] | None = None, accept: tuple[int, ...] = (200,)
    ) -> tuple[requests.Response, bytes]:
        """GET a document of at most `limit` bytes, whatever size the registry declares. Raises RegistryError."""
        content = bytearray()

        def get() -> requests.Response:
            content.clear()
            answer = self._once("GET", path, headers=headers, stream=True)
            if answer.status_code == 200:
                for chunk in answer.iter_content(1 << 16):
                    content.extend(chunk)
                    if len(content) > limit:
                        answer.close()
                        raise RegistryError(f"{self.base}: {path}: is larger than {limit} bytes", "remove it from the registry")
            return answer

        answer = self._retried(f"GET {path}", get, accept)
        return answer, bytes(content)

    def put_blob(self, repository: str, blob: Blob, task: Task) -> None:
        """Upload a blob as one stream, closed with its digest, which the registry checks; a broken upload starts over."""

        def existing() -> requests.Response:
            return self._once("HEAD", f"/v2/{repository}/blobs/{blob.digest}")

        def upload() -> requests.Response:
            opened = self._once("POST", f"/v2/{repository}/blobs/uploads/", headers={"Content-Length": "0"})
            if opened.status_code != 202:
                return opened
            headers = {"Content-Type": "application/octet-stream"}
            sent = self._once("PATCH", self._location(opened), headers=headers, data=_Body(blob, task, self.stop))
            if sent.status_code not in (202, 204):
                return sent
            location = self._location(sent)
            separator = "&" if urlparse(location).query else "?"
            return self._once("PUT", f"{location}{separator}digest={blob.digest}", headers={"Content-Length": "0"})

        self._retried(f"upload of {blob.digest} to {repository}", upload, accept=(201,), existing=existing)

    def _location(self, answer: requests.Response) -> str:
        location = answer.headers.get("Location")
        if not location:
            raise RegistryError(f"{self.base}: answered {answer.status_code} without a Location", "this is not an OCI registry")
        target = urljoin(self.base, location)
        if not is_private(target):
            message = f"{self.base}: continues the upload at {shown(target.partition('?')[0])}, which is not https"
            raise RegistryError(message, "correct the registry's own address in its configuration: it must be https")
        return target

    def put_manifest(self, repository: str, reference: str, manifest: bytes, media_type: str = MANIFEST_TYPE) -> str:
        """Store a manifest or index under a tag or its digest and return the digest that the registry reports."""
        path = f"/v2/{repository}/manifests/{reference}"
        digest = sha256_digest(manifest)

        def existing() -> requests.Response:
            answer = self._once("HEAD", path, headers={"Accept": f"{media_type}, {MANIFEST_TYPES}"})
            if answer.headers.get("Docker-Content-Digest") != digest:
                answer.status_code = 404
            return answer

        headers = {"Content-Type": media_type}
        answer = self._retried(
            f"PUT {path}", lambda: self._once("PUT", path, headers=headers, data=manifest), accept=(201,), existing=existing
        )
        return answer.headers.get("Docker-Content-Digest") or self.manifest_digest(repository, reference) or ""

    def _call(
        self,
        method: str,
        path: str,
        *,
        accept: tuple[int, ...] = (200,),
        headers: dict[str, str] | None = None,
        data: Any = None,
    ) -> requests.Response:
        return self._retried(f"{method} {path}", lambda: self._once(method, path, headers=headers, data=data), accept=accept)

    def _retried(
        self,
        what: str,
        attempt: Callable[[], requests.Response],
        accept: tuple[int, ...],
        existing: Callable[[], requests.Response] | None = None,
    ) -> requests.Response:
        """Repeat `attempt` until the registry accepts it. Raises RegistryError when it refuses, or after the last attempt.

        `existing` is asked before each repetition: an attempt whose answer was lost may have succeeded.
        """
        repeated = False

        def once() -> requests.Response:
            nonlocal repeated
            try:
                if repeated and existing is not None and (stored := existing()).status_code == 200:
                    return stored
                repeated = True
                answer = attempt()
            except RETRIED_ERRORS as error:
                failure = RetryLater(first_line(error))
            except requests.RequestException as error:
                raise RegistryError(f"{self.base}: {what}: {first_line(error)}", "correct the registry's address") from error
            else:
                if answer.status_code in accept:
                    return answer
                failure = RetryLater(_reason(answer), retry_after_s(answer.headers.get("Retry-After")))
                if answer.status_code not in RETRIED_STATUSES:
                    raise RegistryError(f"{self.base}: {what}: {failure.reason}", _fix(answer.status_code))
            if self.stop.is_set():
                raise RegistryError(f"{self.base}: {what}: {failure.reason}; not retried because another call failed", "push again")
            raise failure

        def announce(failure: RetryLater, wait_s: float) -> None:
            log.info("%s: %s; trying again in %.1f s", what, failure.reason, wait_s)

        try:
            return retrying(once, RETRIES, before_wait=announce, sleep=self.sleep)
        except RetryLater as failure:
            message = f"{self.base}: {what}: gave up after {RETRIES.attempts} attempts: {failure.reason}"
            raise RegistryError(message, "check that the registry is running, then push again") from failure

    def _once(
        self, method: str, url: str, *, headers: dict[str, str] | None = None, data: Any = None, stream: bool = False
    ) -> requests.Response:
        """Send one request; after a 401 send it once more, with the credentials that the challenge asks for.

        Another host, to which a Location or a redirect leads, gets no credentials, and none that it asks for.
        """
        options: dict[str, Any] = {"headers": headers, "data": data, "stream": stream, "timeout": TIMEOUT_S}
        target = urljoin(self.base, url)
        if not self._is_own(target):
            return self.session.request(method, target, auth=_NoCredentials(), **options)
        answer = self.session.request(method, target, auth=self.auth, **options)
        if answer.status_code == 401 and self._is_own(answer.url) and self._authenticate(answer):
            return self.session.request(method, target, auth=self.auth, **options)
        return answer

    def _is_own(self, url: str) -> bool:
        """Return whether an address is at this registry: the same scheme, host and port."""
        return _origin(url) == _origin(self.base)

    def _authenticate(self, answer: requests.Response) -> bool:
        challenge = answer.headers.get("WWW-Authenticate", "")
        known = self.credentials(urlparse(self.base).netloc)
        if challenge.lower().startswith("basic"):
            self.auth = HTTPBasicAuth(*known) if known else None
            return known is not None
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        if not challenge.lower().startswith("bearer") or "realm" not in fields:
            return False
        if not is_private(fields["realm"]) or (self.base.startswith("https:") and not fields["realm"].startswith("https:")):
            return False  # a registry must not make us send a password unencrypted
        query = {key: fields[key] for key in ("service", "scope") if key in fields}
        login = HTTPBasicAuth(*known) if known else None
        token = self.session.get(fields["realm"], params=query, auth=login, timeout=TIMEOUT_S)
        if not token.ok:
            return False
        try:
            document = parse_untrusted(token.content)
            self.auth = _Bearer(document.get("token") or document["access_token"])
        except (ValueError, KeyError, AttributeError):
            return False
        return True


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _reason(answer: requests.Response) -> str:
    try:
        errors = parse_untrusted(answer.content)["errors"]
        reason = "; ".join(f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = answer.text.strip()[:200]
    return f"{answer.status_code} {reason}".strip()


def _fix(status: int) -> str:
    if status in (401, 403):
        return "log in (`docker login`), or allow the role to push to this repository"
    if status == 404:
        return "create the repository first, or correct its name"
    return "check the registry's log"
