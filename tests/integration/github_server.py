"""A stand-in for GitHub's REST API on loopback: the comments of issues, with pages, authors, rights, limits and lost answers.

It stands in for the endpoints that `torchrelay.comment` asks (API version 2022-11-28): list, create and update issue comments, and
who the token's user is. Rights and limits are what a test says they are; github.com itself has not answered these tests.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BOT = "github-actions[bot]"


@dataclass
class GitHub:
    """The comments, the requests, and the replies that replace the next correct ones."""

    token: str = "the-token"
    login: str = BOT
    comments: list[dict[str, Any]] = field(default_factory=list)
    next: list[tuple[int, dict[str, str], Any]] = field(default_factory=list)
    lose_answers: int = 0  # of POSTs that are carried out
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def add(self, body: str, login: str = BOT) -> dict[str, Any]:
        comment = {
            "id": 1000 + len(self.comments),
            "body": body,
            "user": {"login": login},
            "html_url": f"{self.url}/c/{len(self.comments)}",
        }
        self.comments.append(comment)
        return comment

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET" and path == "/user":
            return (
                (403, {"message": "Resource not accessible by integration"}) if self.login == BOT else (200, {"login": self.login})
            )
        listed = re.fullmatch(r"/repos/org/models/issues/7/comments\?per_page=(\d+)&page=(\d+)", path)
        if method == "GET" and listed:
            size, page = int(listed[1]), int(listed[2])
            return 200, self.comments[(page - 1) * size : page * size]
        if method == "POST" and path == "/repos/org/models/issues/7/comments":
            return 201, self.add(body["body"], self.login)
        changed = re.fullmatch(r"/repos/org/models/issues/comments/(\d+)", path)
        if method == "PATCH" and changed:
            comment = next((one for one in self.comments if one["id"] == int(changed[1])), None)
            if comment is not None:
                comment["body"] = body["body"]
                return 200, comment
        return 404, {"message": "Not Found"}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    owner: GitHub

    def handle_any(self) -> None:
        owner = self.owner
        length = int(self.headers.get("Content-Length", "0"))
        body = json.loads(self.rfile.read(length) or b"null")
        owner.asked.append((self.command, self.path))
        if owner.next:
            status, headers, reply = owner.next.pop(0)
            return self.tell(status, reply, headers)
        if self.headers.get("Authorization") != f"Bearer {owner.token}":
            return self.tell(401, {"message": "Bad credentials"}, {})
        status, reply = owner.answer(self.command, self.path, body)
        if self.command == "POST" and owner.lose_answers:
            owner.lose_answers -= 1
            self.close_connection = True
            self.connection.close()
            return None
        return self.tell(status, reply, {})

    def do_GET(self) -> None:
        self.handle_any()

    def do_POST(self) -> None:
        self.handle_any()

    def do_PATCH(self) -> None:
        self.handle_any()

    def tell(self, status: int, reply: Any, headers: dict[str, str]) -> None:
        data = json.dumps(reply).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[GitHub]:
    """Run the server for the block."""
    owner = GitHub()
    handler = type("Handler", (Handler,), {"owner": owner})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    owner.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield owner
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
