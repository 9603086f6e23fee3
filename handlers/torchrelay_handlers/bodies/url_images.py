"""GET of an untrusted URL, guarded: hosts by allow-list, public addresses only, bounded in bytes, time and redirects.

The connection goes to the address that was checked, so a name that resolves differently a moment later gains nothing
(DNS rebinding); each redirect is checked like the first URL. Proxies of the environment are not used.
"""

import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from torchrelay_handlers.bodies.addresses import is_public
from torchrelay_handlers.bodies.host_record import HostRecord
from torchrelay_handlers.problems import BadSample

_PORTS = {"http": 80, "https": 443}
_MOST_REDIRECTS = 3
_LONGEST_URL = 2048
_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class Rules:
    """`hosts`: `images.example.com`, `*.example.com`, `*`, each with `:port` for other ports than 80 and 443."""

    hosts: tuple[str, ...]
    max_bytes: int = 10 * 2**20
    timeout_s: float = 2.0
    loopback: bool = False


class Fetcher:
    """Fetches by `rules`; raises only `BadSample`."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.record = HostRecord()
        self._context: ssl.SSLContext | None = None

    def fetch_all(self, urls: Sequence[object]) -> list[bytes | BadSample]:
        """The bodies or refusals, in order; fetched at the same time, within one time-out for all, because other requests wait."""
        deadline = time.monotonic() + self.rules.timeout_s

        def body_or_refusal(url: object) -> bytes | BadSample:
            try:
                return self.fetch(url, deadline)
            except BadSample as refusal:
                return refusal

        if len(urls) == 1:
            return [body_or_refusal(urls[0])]
        with ThreadPoolExecutor(min(_AT_ONCE, len(urls))) as pool:
            return list(pool.map(body_or_refusal, urls))

    def fetch(self, url: object, deadline: float | None = None) -> bytes:
        """The body behind `url`.

        Raises:
            BadSample: the URL is refused (400), its answer is too large (413), or it cannot be fetched (424).
        """
        deadline = time.monotonic() + self.rules.timeout_s if deadline is None else deadline
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                parts = self._checked(url)
                answer = self._answer_of(parts, deadline)
                if isinstance(answer, bytes):
                    return answer
                url = urljoin(parts.geturl(), answer)
                if parts.scheme == "https" and not url.startswith("https:"):
                    raise _refused("the URL redirects from https to something else")
        except TimeoutError:
            raise _failed(f"the URL did not answer within {self.rules.timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:  # ssl.SSLError is an OSError
            raise _failed(f"the URL cannot be fetched: {type(error).__name__}") from None
        raise _failed(f"the URL redirects more than {_MOST_REDIRECTS} times")

    def _answer_of(self, parts: SplitResult, deadline: float) -> bytes | str:
        """See `_get`; the host's answer or silence is recorded."""
        host = f"{parts.hostname}:{parts.port or _PORTS[parts.scheme]}"
        allowed = self.record.seconds_for(host, self.rules.timeout_s)
        started = time.monotonic()
        try:
            answer = self._get(parts, min(deadline, started + allowed))
        except TimeoutError:
            waited = time.monotonic() - started
            if waited >= allowed / 2:  # otherwise it was the host that redirects here that took the time
                self.record.timed_out(host, waited)
            if allowed < self.rules.timeout_s:
                raise _failed(f"the URL did not answer within {allowed:g} s, which is all while others are silent") from None
            raise
        self.record.answered(host)
        return answer

    def _checked(self, url: object) -> SplitResult:
        if not isinstance(url, str) or len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
            raise _refused(f"url must be text of at most {_LONGEST_URL} ASCII characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _refused("url is not a valid URL") from None
        if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or "\\" in url:
            raise _refused("url must be http:// or https://, with a host and no user name")
        port = _PORTS[parts.scheme] if port is None else port
        if not any(_matches(parts.hostname.rstrip("."), port, allowed) for allowed in self.rules.hosts):
            raise _refused("the host of the URL is not allowed (url_hosts)")
        return parts

    def _get(self, parts: SplitResult, deadline: float) -> bytes | str:
        """Return the body, or the address that it redirects to."""
        host, port = str(parts.hostname), parts.port or _PORTS[parts.scheme]
        addresses = self.resolve(host, port, deadline)
        if not addresses or not all(is_public(address, loopback=self.rules.loopback) for address in addresses):
            raise _refused("the host of the URL is not on the public internet")
        plain = self.connect(addresses, port, deadline)
        try:
            if parts.scheme == "https":
                plain.settimeout(_seconds_left(deadline))
                plain = self.context.wrap_socket(plain, server_hostname=host)
            connection = http.client.HTTPConnection(host, port)
            connection.sock = _DeadlineSocket(plain, deadline)  # the three methods of a socket that are used
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"Host": parts.netloc, "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
            connection.request("GET", path, headers=headers)
            return self._read(connection.getresponse())
        finally:
            plain.close()

    @property
    def context(self) -> ssl.SSLContext:
        """Certificates and host names are verified."""
        if self._context is None:
            self._context = ssl.create_default_context()
        return self._context

    def _read(self, response: http.client.HTTPResponse) -> bytes | str:
        location = response.getheader("location")
        if response.status in (301, 302, 303, 307, 308) and location:
            return location
        if response.status != 200:
            raise _failed(f"the URL answers {response.status}")
        kind = (response.getheader("content-type") or "application/octet-stream").strip().lower()
        if not kind.startswith(_TYPES) or response.getheader("content-encoding", "identity") != "identity":
            raise _refused(f"the URL answers {kind[:60]}, not an image")
        most = self.rules.max_bytes
        if response.length is not None and response.length > most:
            raise _too_large(most)
        body = response.read(most + 1)
        if len(body) > most:
            raise _too_large(most)
        if response.length:  # http.client says nothing when a read of some size finds less
            raise _failed("the URL's answer is cut short")
        return body

    def resolve(self, host: str, port: int, deadline: float) -> list[str]:
        """All addresses of `host`; the system's resolver has no time-out, so it runs in a thread."""
        results: list[Any] = []

        def look_up() -> None:
            try:
                results.append([item[4][0] for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)])
            except (OSError, UnicodeError, ValueError):
                results.append(None)

        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        thread.join(_seconds_left(deadline))
        if not results:
            raise TimeoutError
        if results[0] is None:
            raise _failed("the host of the URL does not resolve")
        return [str(address) for address in results[0]]

    def connect(self, addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
        """A connection to the first of the (checked) addresses that accepts it."""
        last: OSError = TimeoutError()
        for address in addresses:
            try:
                return socket.create_connection((address, port), _seconds_left(deadline))
            except OSError as error:
                last = error
        raise last


class _DeadlineSocket:
    """A socket whose every read and write ends at `deadline`: a server that sends a byte now and then gains nothing."""

    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self.plain = plain
        self.deadline = deadline

    def sendall(self, data: bytes) -> None:
        """See socket.socket."""
        self.plain.settimeout(_seconds_left(self.deadline))
        self.plain.sendall(data)

    def makefile(self, _: str) -> io.BufferedReader:
        """The stream that http.client reads."""
        return io.BufferedReader(_Reader(self.plain, self.deadline))

    def close(self) -> None:
        """`Fetcher._get` closes the socket itself."""


class _Reader(io.RawIOBase):
    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self.plain = plain
        self.deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.plain.settimeout(_seconds_left(self.deadline))
        return self.plain.recv_into(buffer)


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _matches(host: str, port: int, allowed: str) -> bool:
    pattern, colon, own_port = allowed.lower().rpartition(":")
    if not colon:
        pattern, own_port = own_port, ""
    if (port != int(own_port)) if own_port else (port not in _PORTS.values()):
        return False
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _refused(detail: str) -> BadSample:
    return BadSample(detail, kind="bad-url")


def _failed(detail: str) -> BadSample:
    return BadSample(detail, status=424, kind="unfetched-url")


def _too_large(most: int) -> BadSample:
    return BadSample("the image behind the URL is too large", expected={"max_bytes": most}, status=413, kind="image-too-large")
