"""The front proxy: nginx's configuration, its start, and `front.py switch HOST:PORT`, which points a running front at another container.

It gives what the server behind it lacks: time-outs for headers and bodies, size limits, honest /ping, JSON errors, 503 with Retry-After, and an end
that lets requests in flight finish.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from contract import Upstream
from settings import Settings, state_dir
from state import DRAINING, READY, STATUS, replace

CONFIG = "nginx.conf"
PID = "nginx.pid"
SOCKET = "front.sock"  # counters and the configuration's generation; never on a port
HEADER_TIMEOUT_S = 10  # for all headers together: a client that drips them is cut off (slow loris)
BODY_TIMEOUT_S = 10  # between two reads of a body
CONNECTIONS = 2048
REQUESTS = 512  # at one time; what waits longer than that is answered 503 at once
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9][A-Za-z0-9_.-]*):(\d{1,5})")

ERRORS = {
    400: ("BadRequest", "The request is not valid HTTP, or its headers are too large"),
    404: ("NotFound", "There is nothing under this path"),
    405: ("MethodNotAllowed", "The method is not allowed here"),
    413: ("PayloadTooLarge", "The body is larger than the {max_body_bytes} bytes that are allowed"),
    502: ("ServiceUnavailable", "The server is not reachable just now"),
    503: ("ServiceUnavailable", "Too many requests are in progress"),
    504: ("GatewayTimeout", "The server did not answer in {read_timeout_s} s"),
}


@dataclass(frozen=True)
class Front:
    """What the configuration depends on. `routes`: (path, upstream path); `health`: paths of /ping. Both empty: everything goes to the upstream as is."""

    state: Path
    bind: str
    port: int
    inference: str
    routes: tuple[tuple[str, str], ...] = ()
    health: tuple[str, ...] = ()
    metrics: tuple[str, str] | None = None  # (host:port, path)
    max_body_bytes: int = 0  # 0: no limit
    read_timeout_s: int = 3600
    drain_timeout_s: int = 25
    processes: int = 1
    access_log: bool = False
    generation: str = "0"


def front_of(settings: Settings, upstream: Upstream, threads: int) -> Front:
    """Return the front of one model's server."""
    serving = settings.serving
    model = f"/predictions/{serving.name}"
    paths = dict.fromkeys(
        [model, f"{model}/{serving.version}", "/invocations", *([settings.predict_route] if settings.predict_route else [])]
    )
    return Front(
        state=settings.state,
        bind=settings.bind,
        port=settings.port,
        inference=upstream.inference,
        routes=tuple((path, upstream.predict_path) for path in paths),
        health=tuple(dict.fromkeys(["/ping", *([settings.health_route] if settings.health_route else [])])),
        metrics=(upstream.metrics, upstream.metrics_path),
        max_body_bytes=serving.max_body_bytes,
        # A request may wait for one batch before its own; the server's time-out has to come first, as its answer says more.
        read_timeout_s=2 * serving.response_timeout_s + 5,
        drain_timeout_s=serving.drain_timeout_s,
        processes=min(4, threads),
        access_log=settings.access_log,
    )


def error_pages(front: Front) -> str:
    """Return the locations of the errors that nginx itself answers with, in the shape of the server's own."""
    lines = []
    for code, (kind, message) in ERRORS.items():
        sent = 503 if code == 502 else code
        text = message.format(max_body_bytes=front.max_body_bytes, read_timeout_s=front.read_timeout_s)
        body = json.dumps({"code": sent, "type": kind, "message": text})
        retry = " add_header Retry-After 1 always;" if sent == 503 else ""
        lines.append(f"    error_page {code} {'=503 ' if code == 502 else ''}/.error/{code};")
        lines.append(f"    location = /.error/{code} {{ internal; default_type application/json;{retry} return {sent} '{body}'; }}")
    return "\n".join(lines)


def routes(front: Front) -> str:
    """Return the locations that reach the server."""
    if not front.routes:
        return "    location / { proxy_pass http://server; proxy_set_header Host $http_host; proxy_request_buffering off; }"
    lines = []
    for path, target in front.routes:
        lines.append(f"    location = {path} {{")
        lines.append("      if ($request_method !~ ^(GET|POST|PUT)$) { return 405; }")  # OPTIONS would describe the API
        lines.append(f"      proxy_pass http://server{target};")
        lines.append("    }")
    for path in front.health:
        lines.append(f"    location = {path} {{")
        lines.append("      if ($request_method !~ ^(GET|HEAD)$) { return 405; }")
        lines.append(f"      if (-f {front.state}/{DRAINING}) {{ return 503; }}")
        lines.append(f"      if (!-f {front.state}/{READY}) {{ return 503; }}")
        lines.append("      error_page 503 /.not-ready;")
        lines.append("      default_type application/json;")
        lines.append("""      return 200 '{"status": "Healthy"}';""")
        lines.append("    }")
    lines.append("    location = /.not-ready {")
    lines.append("      internal; default_type application/json; add_header Retry-After 1 always; types { }")
    lines.append(f"      root {front.state}; try_files /{DRAINING} /{STATUS} =503;")
    lines.append("    }")
    if front.metrics:
        lines.append(f"    location = /metrics {{ proxy_pass http://{front.metrics[0]}{front.metrics[1]}; }}")
    lines.append("    location / { return 404; }")
    return "\n".join(lines)


def render(front: Front) -> str:
    """Return nginx.conf."""
    temp = front.state / "nginx"
    temp_paths = "\n".join(f"  {kind}_temp_path {temp}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""daemon off;
worker_processes {front.processes};
worker_shutdown_timeout {front.drain_timeout_s}s;
pid {front.state}/{PID};
error_log stderr warn;
events {{ worker_connections {CONNECTIONS}; }}
http {{
{temp_paths}
  access_log {"/dev/stdout" if front.access_log else "off"};
  server_tokens off;
  default_type application/octet-stream;

  client_header_timeout {HEADER_TIMEOUT_S}s;
  client_body_timeout {BODY_TIMEOUT_S}s;
  send_timeout 30s;
  keepalive_timeout 75s;
  reset_timedout_connection on;
  client_max_body_size {front.max_body_bytes};
  client_body_buffer_size 1m;
  limit_conn_zone $server_name zone=requests:1m;
  limit_conn_status 503;

  map $upstream_status $retry_after {{ default ""; 503 1; }}
  upstream server {{ server {front.inference} max_fails=0; keepalive 64; }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_connect_timeout 2s;
  proxy_send_timeout 60s;
  proxy_read_timeout {front.read_timeout_s}s;
  proxy_next_upstream off;
  proxy_max_temp_file_size 0;

  server {{
    listen {front.bind}:{front.port} backlog=1024;
    server_name front;
    limit_conn requests {REQUESTS};
    {"add_header Retry-After $retry_after always;" if front.routes else ""}
{error_pages(front)}
{routes(front)}
  }}
  server {{
    listen unix:{front.state}/{SOCKET};
    access_log off;
    location = /counters {{ stub_status; }}
    location = /generation {{ return 200 "{front.generation}"; }}
  }}
}}
"""


def nginx() -> str:
    """Return the nginx program; /usr/sbin is on few users' PATH."""
    return shutil.which("nginx") or "/usr/sbin/nginx"


def command(state: Path) -> list[str]:
    """Return the command of nginx; `-e` as it would open its compiled-in log file first."""
    return [nginx(), "-e", "stderr", "-p", str(state), "-c", str(state / CONFIG)]


def prepare(front: Front) -> None:
    """Write the configuration and make the folders; a socket left by a killed container would be "in use"."""
    (front.state / "nginx").mkdir(parents=True, exist_ok=True)
    (front.state / SOCKET).unlink(missing_ok=True)
    replace(front.state / CONFIG, render(front))


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(state: Path, path: str) -> str | None:
    """Return what the running front says at `path` of its own socket, None when it does not answer."""
    connection = UnixConnection(state / SOCKET, timeout=5.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode("ascii")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def parse_in_flight(counters: str) -> int:
    """Return the requests being read, answered or waited for, out of stub_status's text; the one that asks is not counted."""
    found = re.search(r"Writing:\s*(\d+)", counters)
    if not found:
        raise ValueError(f"not the text of stub_status: {counters!r}")
    return max(0, int(found.group(1)) - 1)


def in_flight(state: Path) -> int | None:
    """Return the number of requests in flight, None when the front does not answer."""
    counters = ask(state, "/counters")
    return None if counters is None else parse_in_flight(counters)


def parse_address(text: str) -> str:
    """Return `text` if it is HOST:PORT, for argparse."""
    found = ADDRESS.fullmatch(text)
    if not found or not 0 < int(found.group(2)) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def switch(state: Path, front: Front, deadline_s: float = 15.0) -> str | None:
    """Point the running front at `front.inference`; returns what went wrong, or None once new requests go there. Requests in flight finish where they are."""
    config = state / CONFIG
    before = config.read_text(encoding="utf-8")
    replace(config, render(front))
    checked = subprocess.run([*command(state), "-t", "-q"], capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        replace(config, before)
        return checked.stderr.strip()
    os.kill(int((state / PID).read_text(encoding="ascii")), signal.SIGHUP)
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if ask(state, "/generation") == front.generation:
            return None
        time.sleep(0.05)
    replace(config, before)
    return f"nginx did not take up the new configuration within {deadline_s:.0f} s"


def main(argv: list[str]) -> int:
    """Run `front.py switch HOST:PORT`."""
    parser = argparse.ArgumentParser(prog="front.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("switch", help="send new requests to another container").add_argument("upstream", type=parse_address)
    arguments = parser.parse_args(argv)
    state = state_dir(os.environ)
    saved = json.loads((state / "front.json").read_text(encoding="utf-8"))
    front = Front(
        **saved | {"state": state, "inference": arguments.upstream, "generation": f"{arguments.upstream}@{time.time_ns()}"}
    )
    if problem := switch(state, front):
        print(f"torchrelay: the front still serves {saved['inference']}: {problem}", file=sys.stderr)
        return 1
    replace(state / "front.json", json.dumps(saved | {"inference": arguments.upstream}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
