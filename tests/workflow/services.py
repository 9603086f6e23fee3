"""Stand-ins on loopback for GitHub's services; they record their requests."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

TOKEN = "ghs_ofThisRunAlone"
READ_ONLY = "ghs_ofAFork"
BEARER = "request-token-of-the-runner"
BOT = {"login": "github-actions[bot]", "type": "Bot"}


@dataclass
class Comments:
    """Stands in for GitHub's REST API for comments of issues: 30 a page, and writing needs a token with that right."""

    url: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def on(self, number: int) -> list[str]:
        """The comments of a pull request."""
        return [one["body"] for one in self.comments if one["issue"] == number]

    def add(self, number: int, body: str, user: dict[str, str] | None = None) -> None:
        identity = 1000 + len(self.comments)
        self.comments.append({"id": identity, "issue": number, "body": body, "user": user or {"login": "somebody", "type": "User"}})

    def answer(self, method: str, path: str, query: dict[str, list[str]], token: str, body: Any) -> tuple[int, Any]:
        self.asked.append((method, path, token))
        if token not in (TOKEN, READ_ONLY):
            return 401, {"message": "Bad credentials"}
        if method != "GET" and token == READ_ONLY:
            return 403, {"message": "Resource not accessible by integration"}
        if (one := re.fullmatch(r"/repos/acme/models/issues/comments/(\d+)", path)) and method == "PATCH":
            matching = [comment for comment in self.comments if comment["id"] == int(one[1])]
            for comment in matching:
                comment["body"] = body["body"]
            return (200, matching[0]) if matching else (404, {"message": "Not Found"})
        if issue := re.fullmatch(r"/repos/acme/models/issues/(\d+)/comments", path):
            return self._of_issue(method, int(issue[1]), query, body)
        return 404, {"message": "Not Found"}

    def _of_issue(self, method: str, number: int, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if method == "POST":
            self.add(number, body["body"], BOT)
            return 201, self.comments[-1]
        size, page = int(query.get("per_page", ["30"])[0]), int(query.get("page", ["1"])[0])
        mine = [one for one in self.comments if one["issue"] == number]
        return 200, mine[(page - 1) * size : page * size]


@dataclass
class Tokens:
    """Stands in for GitHub's OIDC provider: unsigned tokens of one subject, for requests with the runner's bearer token."""

    subject: str
    url: str = ""
    audiences: list[str] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)

    def answer(self, _method: str, _path: str, query: dict[str, list[str]], token: str, _body: Any) -> tuple[int, Any]:
        if token != BEARER:
            return 401, {"message": "not the runner"}
        audience = query.get("audience", ["https://github.com/acme"])[0]
        claims = {
            "iss": "https://token.actions.githubusercontent.com",
            "sub": self.subject,
            "aud": audience,
            "exp": int(time.time()) + 300,
            "repository": "acme/models",
            "job_workflow_ref": "org/deploy/.github/workflows/serve.yml@refs/heads/main",
        }
        parts = [json.dumps({"alg": "none", "typ": "JWT"}).encode(), json.dumps(claims).encode(), b"unsigned"]
        self.audiences.append(audience)
        self.issued.append(".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts))
        return 200, {"value": self.issued[-1]}


class _Handler(BaseHTTPRequestHandler):
    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        token = (self.headers.get("Authorization") or "").partition(" ")[2]
        address = urlparse(self.path)
        state: Any = self.server
        status, reply = state.service.answer(self.command, address.path, parse_qs(address.query), token, body)
        content = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = _handle  # noqa: N815 -- http.server's names

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def _served(service: Any) -> Iterator[None]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.service = service
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def github_api() -> Iterator[Comments]:
    """Serve comments on loopback."""
    comments = Comments()
    with _served(comments):
        yield comments


@contextmanager
def token_server(subject: str) -> Iterator[Tokens]:
    """Serve identity tokens on loopback."""
    tokens = Tokens(subject)
    with _served(tokens):
        yield tokens
