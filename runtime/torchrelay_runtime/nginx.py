"""nginx's configuration for the front: a pure function of `Front`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from torchrelay_runtime.contract import Upstream
from torchrelay_runtime.settings import Settings
from torchrelay_runtime.state import DRAINING, READY, STATUS

CONFIG = "nginx.conf"
PID = "nginx.pid"
CLOSING = "closing"  # exists while a switch is under way
SOCKET = "front.sock"  # counters and the configuration's generation; never on a port
OPENAPI = "/opt/torchrelay/openapi.json"  # made when the image was built; 404 without it
HEADER_TIMEOUT_S = 10  # for all headers together: a client that drips them is cut off (slow loris)
# Between two reads of a body. A client that drips its body holds one of the front's connections but none of the server's,
# because bodies are forwarded whole.
BODY_TIMEOUT_S = 10
CONNECTIONS = 2048
REQUESTS = 512  # at one time; further ones are answered 503 at once

ERRORS = {
    400: ("BadRequest", "The request is not valid HTTP, or its headers are too large"),
    404: ("NotFound", "There is nothing under this path"),
    405: ("MethodNotAllowed", "The method is not allowed here"),
    408: ("RequestTimeout", "The request took too long to arrive"),
    413: ("PayloadTooLarge", "The body is larger than the {max_body_bytes} bytes that are allowed"),
    414: ("UriTooLong", "The address is too long"),
    500: ("InternalServerError", "The front could not handle the request; its log says why"),
    502: ("ServiceUnavailable", "The server is not reachable just now"),
    503: ("ServiceUnavailable", "Too many requests are in progress"),
    504: ("GatewayTimeout", "The server did not answer in {read_timeout_s} s"),
}


@dataclass(frozen=True)
class Front:
    """The values in the configuration.

    `routes`: (path, upstream path); `health`: paths of /ping. Both empty: everything goes to the upstream as it is.
    """

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
    as_root: bool = False
    generation: str = "0"
    renamed: tuple[tuple[str, str], ...] = ()  # (content type, the one that the server gets instead)


def front_of(settings: Settings, upstream: Upstream, threads: int, *, as_root: bool) -> Front:
    """Return the front of one model's server."""
    serving = settings.serving
    model = f"/predictions/{serving.name}"
    default = upstream.predict_paths[serving.default_version]
    paths = dict.fromkeys([model, "/invocations", *([settings.predict_route] if settings.predict_route else [])], default)
    paths |= {f"{model}/{version}": path for version, path in upstream.predict_paths.items()}
    return Front(
        state=settings.state,
        bind=settings.bind,
        port=settings.port,
        inference=upstream.inference,
        routes=tuple(paths.items()),
        health=tuple(dict.fromkeys(["/ping", *([settings.health_route] if settings.health_route else [])])),
        metrics=(upstream.metrics, upstream.metrics_path),
        max_body_bytes=serving.max_body_bytes,
        # A request may wait for one batch before its own; the server's time-out has to come first, because its answer says more.
        read_timeout_s=2 * serving.response_timeout_s + 5,
        drain_timeout_s=serving.drain_timeout_s,
        processes=min(4, threads),
        access_log=settings.access_log,
        as_root=as_root,
        renamed=tuple(upstream.renamed.items()),
    )


def error_pages(front: Front) -> str:
    """Return the locations of the errors that nginx itself answers with, in the form of the server's own."""
    lines = []
    for code, (kind, message) in ERRORS.items():
        sent = 503 if code == 502 else code
        text = message.format(max_body_bytes=front.max_body_bytes, read_timeout_s=front.read_timeout_s)
        body = json.dumps({"code": sent, "type": kind, "message": text})
        retry = " add_header Retry-After 1 always;" if sent == 503 else ""
        lines.append(f"    error_page {code} {'=503 ' if code == 502 else ''}/.error/{code};")
        lines.append(f"    location = /.error/{code} {{ internal; default_type application/json;{retry} return {sent} '{body}'; }}")
    return "\n".join(lines)


def content_type(front: Front) -> str:
    """Return the rules for the Content-Type that the server gets; its parameters, such as a form's boundary, stay."""
    if not front.renamed:
        return ""
    rows = (f'"~*^{re.escape(kind)}(?<rest{row}> *(;.*)?)$" "{name}$rest{row}";' for row, (kind, name) in enumerate(front.renamed))
    return f"""  map $http_content_type $sent_type {{ default $http_content_type; {" ".join(rows)} }}
  proxy_set_header Content-Type $sent_type;
"""


def closing(front: Front, path: str) -> str:
    """Return the rule that sends a request to its twin location, which closes the connection after the answer.

    nginx closes idle connections at once when it reloads or quits, and a client that has just sent a request on one sees it fail.
    So before that every answer says `Connection: close`; a connection that stays idle for all that time has no active client.
    (nginx 1.27.4 has keepalive_min_timeout for it; Debian 12 ships 1.22.)
    """
    flag = DRAINING if front.routes else CLOSING
    return f"if (-f {front.state}/{flag}) {{ rewrite ^ /.closing{path} last; }}"


def routes(front: Front) -> str:
    """Return the locations that reach the server."""
    if not front.routes:
        forward = "proxy_set_header Host $http_host; proxy_request_buffering off;"
        return (
            f"    location / {{ {closing(front, '$uri')} proxy_pass http://server; {forward} }}\n"
            f"    location /.closing/ {{ internal; keepalive_timeout 0; proxy_pass http://server/; {forward} }}"
        )
    lines = []
    for path, target in front.routes:
        lines.append(f"    location = {path} {{")
        lines.append("      if ($request_method !~ ^(GET|POST|PUT)$) { return 405; }")  # OPTIONS would describe the API
        lines.append(f"      {closing(front, path)}")
        lines.append(f"      proxy_pass http://server{target};")
        lines.append("    }")
        lines.append(f"    location = /.closing{path} {{ internal; keepalive_timeout 0; proxy_pass http://server{target}; }}")
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
    lines.append(f"    location = /openapi.json {{ default_type application/json; types {{ }} alias {OPENAPI}; }}")
    lines.append("    location / { return 404; }")
    return "\n".join(lines)


def render(front: Front) -> str:
    """Return nginx.conf."""
    temp = front.state / "nginx"
    temp_paths = "\n".join(f"  {kind}_temp_path {temp}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    # As root nginx would give its folders and itself to another user, which a container without capabilities is not allowed to do.
    user = "user root root;\n" if front.as_root else ""
    return f"""{user}daemon off;
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
{content_type(front)}  proxy_connect_timeout 2s;
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
