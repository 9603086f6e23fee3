"""nginx's configuration for the front: a pure function of `Front`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from torchrelay_runtime.contract import Upstream
from torchrelay_runtime.settings import Settings
from torchrelay_runtime.state import CANCELLED, DRAINING, READY, STATUS

CONFIG = "nginx.conf"
PID = "nginx.pid"
CLOSING = "closing"  # exists while a switch is under way
SOCKET = "front.sock"  # counters and the configuration's generation; never on a port
OPENAPI = "/opt/torchrelay/openapi.json"  # made when the image was built; 404 without it
MODULES = "/usr/lib/nginx/modules"  # Debian's
HEADER_TIMEOUT_S = 10  # for all headers together: a client that drips them is cut off (slow loris)
# A body has to be complete BODY_S seconds after its headers, plus the time that its size takes at BODY_RATE bytes/s (1 Mbit/s).
BODY_S = 10
BODY_RATE = 128 * 1024
CONNECTIONS = 4096
REQUESTS = 512  # in flight at one time; further ones are answered 503 at once
SMALL_BODY = 64 * 1024  # bytes: such a body waits in memory, a larger one in a file
ARRIVING = 1024  # requests whose body is arriving
ADDRESS_ARRIVING = 256  # the same, of one address
ADDRESS_LIFETIME_S = 600  # counts of an address are forgotten then; no body takes that long
TOO_SLOW = 418  # inside nginx, which closes the connection silently on a plain 408
METRICS_PORT = 9090
NEUTRAL_TYPE = "application/octet-stream"
# The handler library reads the client's own type here, after an "=": so the header is there even if the client sent none.
TYPE_HEADER = "X-Torchrelay-Content-Type"
KEY_HEADER = "X-Torchrelay-Request"
LOG_FORMAT = (
    '{"time":"$time_iso8601","request_id":"$id","client":"$remote_addr","method":"$sent_method","route":"$route",'
    '"status":$status,"bytes_in":$request_length,"bytes_out":$bytes_sent,"ms":$ms}'
)

ERRORS = {
    400: ("bad-request", "The request is not valid HTTP"),
    404: ("not-found", "There is nothing under this path"),
    405: ("method-not-allowed", "The method is not allowed here; the header Allow lists those that are"),
    408: ("too-slow", "The body did not arrive in time"),
    413: ("body-too-large", "The body is larger than the {max_body_bytes} bytes that are allowed"),
    414: ("address-too-long", "The address is too long"),
    431: ("headers-too-large", "The headers are too large"),
    500: ("front-failed", "The front could not handle the request; its log says why"),
    501: ("not-implemented", "The transfer encoding is not supported"),
    502: ("unreachable", "The server is not reachable just now"),
    503: ("busy", "Too many requests are in progress"),
    504: ("no-answer", "The server did not answer in {read_timeout_s} s"),
    505: ("http-version", "This version of HTTP is not supported"),
}
SENT_AS = {502: 503}
"""Statuses that leave as another one."""
RAISED_AS = {408: TOO_SLOW, 431: 494}
"""nginx's own numbers for two of them."""


@dataclass(frozen=True)
class Front:
    """The values in the configuration.

    `routes`: (path, upstream path); `health`: paths of /ping. Both empty: everything goes to the upstream as it is.
    `body_budget`: bytes of bodies that may be in flight at one time.
    """

    state: Path
    bind: str
    port: int
    inference: str
    max_body_bytes: int
    body_budget: int
    routes: tuple[tuple[str, str], ...] = ()
    health: tuple[str, ...] = ()
    metrics: tuple[str, str] | None = None  # (host:port, path)
    metrics_port: int = METRICS_PORT
    read_timeout_s: int = 3600
    drain_timeout_s: int = 25
    processes: int = 1
    access_log: bool = False
    as_root: bool = False
    generation: str = "0"
    neutral: bool = False  # the upstream gets every body under NEUTRAL_TYPE
    trusted_proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-For names the client


def arriving_bytes(body_budget: int) -> int:
    """Return how many bytes the bodies that are still arriving may have: twice those in flight, because clients are slow."""
    return 2 * body_budget


def buffered_bytes(body_budget: int) -> int:
    """Return how many bytes of bodies nginx keeps in files at one time, at most: a file stays until its request is answered."""
    return arriving_bytes(body_budget) + body_budget


def front_of(settings: Settings, upstream: Upstream, threads: int, body_budget: int, *, as_root: bool) -> Front:
    """Return the front of one model's server."""
    serving = settings.serving
    model = f"/predictions/{serving.name}"
    default = upstream.predict_paths[serving.default_version]
    paths = dict.fromkeys([model, "/invocations", *([settings.predict_route] if settings.predict_route else [])], default)
    paths |= {f"{model}/{version}": path for version, path in upstream.predict_paths.items()}
    paths |= {f"{path}/": target for path, target in paths.items() if path.startswith(model)}  # TorchServe takes both
    return Front(
        state=settings.state,
        bind=settings.bind,
        port=settings.port,
        inference=upstream.inference,
        max_body_bytes=serving.max_body_bytes,
        body_budget=body_budget,
        routes=tuple(paths.items()),
        health=tuple(dict.fromkeys(["/ping", *([settings.health_route] if settings.health_route else [])])),
        metrics=(upstream.metrics, upstream.metrics_path),
        metrics_port=settings.metrics_port,
        # A request may wait for one batch before its own; the server's time-out has to come first, because its answer says more.
        read_timeout_s=2 * serving.response_timeout_s + 5,
        drain_timeout_s=serving.drain_timeout_s,
        processes=min(4, threads),
        access_log=settings.access_log,
        as_root=as_root,
        neutral=upstream.neutral,
        trusted_proxies=(*serving.trusted_proxies, *settings.trusted_proxies),
    )


def error_pages(front: Front) -> str:
    """Return the locations of the errors that nginx itself answers with: problem documents (RFC 9457), as the handlers' are."""
    lines = []
    for code, (kind, text) in ERRORS.items():
        status = SENT_AS.get(code, code)
        detail = text.format(max_body_bytes=front.max_body_bytes, read_timeout_s=front.read_timeout_s)
        title = HTTPStatus(status).phrase
        body = json.dumps({"type": f"urn:torchrelay:problem:{kind}", "title": title, "status": status, "detail": detail})
        headers = " add_header X-Request-Id $id always;"
        headers += " add_header Retry-After 1 always;" if status == 503 else ""
        headers += " add_header Allow $allowed always;" if status == 405 else ""
        raised = RAISED_AS.get(code, code)
        change = f"={status} " if raised != status else ""
        lines.append(f"    error_page {raised} {change}/.error/{code};")
        page = f"internal; keepalive_timeout 0; default_type application/problem+json;{headers} return {status} '{body}';"
        lines.append(f"    location = /.error/{code} {{ {page} }}")
    return "\n".join(lines)


def sent_headers(front: Front) -> str:
    """Return what the upstream gets in place of the client's own headers."""
    lines = [
        'proxy_set_header Connection "";',
        "proxy_set_header Host $sent_host;",
        "proxy_set_header X-Request-Id $id;",
        "proxy_set_header X-Forwarded-For $remote_addr;",
    ]
    if front.routes:
        lines.append(f"proxy_set_header {KEY_HEADER} $request_id;")
    if front.neutral:
        lines.append(f"proxy_set_header Content-Type {NEUTRAL_TYPE};")
        lines.append(f"proxy_set_header {TYPE_HEADER} =$http_content_type;")
    elif front.routes:
        lines.append("proxy_set_header Content-Type $plain_type;")
    return "\n".join(f"    {line}" for line in lines)


def trusted(front: Front) -> str:
    """Return the rules that take the client's address from a trusted proxy."""
    if not front.trusted_proxies:
        return ""
    rules = [f"set_real_ip_from {network};" for network in front.trusted_proxies]
    return "\n".join(f"    {line}" for line in (*rules, "real_ip_header X-Forwarded-For;", "real_ip_recursive on;")) + "\n"


def closing(front: Front, path: str) -> str:
    """Return the rule that sends a request to its twin location, which closes the connection after the answer.

    nginx closes idle connections at once when it reloads or quits, and a client that has just sent a request on one sees it fail.
    So before that every answer says `Connection: close`; a connection that stays idle for all that time has no active client.
    (nginx 1.27.4 has keepalive_min_timeout for it; Debian 12 ships 1.22.)
    """
    flag = DRAINING if front.routes else CLOSING
    return f"if (-f {front.state}/{flag}) {{ rewrite ^ /.closing{path} last; }}"


def allow(methods: str) -> str:
    """Return the rule that refuses other methods than `methods`, such as "GET, HEAD"."""
    return f'set $allow "{methods}"; if ($request_method !~ ^({methods.replace(", ", "|")})$) {{ return 405; }}'


def routes(front: Front) -> str:
    """Return the locations that reach the server."""
    # Variables of the log, and lingering: nginx frees a request, and its place, only when a client that lingers has gone.
    admit = 'set $arriving ""; set $flight ""; set $ms 0; lingering_close off; access_by_lua_block { require("admission").admit() }'
    if not front.routes:
        return (
            f"    location / {{ set $allow ''; set $route ''; {closing(front, '$uri')} {admit} proxy_pass http://server; }}\n"
            f"    location /.closing/ {{ internal; keepalive_timeout 0; {admit} proxy_pass http://server/; }}"
        )
    lines = []
    for path, target in front.routes:
        # Without the query: TorchServe merges it into the row that the handler gets.
        forward = f'set $route "{path}"; set $args ""; {admit} proxy_pass http://server{target};'
        lines.append(f"    location = {path} {{")
        lines.append(f"      {allow('GET, POST, PUT')}")  # OPTIONS would describe the API
        lines.append(f"      {closing(front, path)}")
        lines.append(f"      {forward}")
        lines.append("    }")
        lines.append(f"    location = /.closing{path} {{ internal; keepalive_timeout 0; {forward} }}")
    for path in front.health:
        lines.append(f"    location = {path} {{")
        lines.append("      access_log off;")
        lines.append(f"      {allow('GET, HEAD')}")
        lines.append(f"      if (-f {front.state}/{DRAINING}) {{ return 503; }}")
        lines.append(f"      if (!-f {front.state}/{READY}) {{ return 503; }}")
        lines.append("      error_page 405 /.error/405; error_page 503 /.not-ready;")
        lines.append("      default_type application/json;")
        lines.append("""      return 200 '{"status": "Healthy"}';""")
        lines.append("    }")
    lines.append("    location = /.not-ready {")
    lines.append("      internal; access_log off; default_type application/json; add_header Retry-After 1 always; types { }")
    lines.append(f"      root {front.state}; try_files /{DRAINING} /{STATUS} =503;")
    lines.append("    }")
    openapi = f"{allow('GET, HEAD')} default_type application/json; types {{ }} alias {OPENAPI};"
    lines.append(f'    location = /openapi.json {{ set $route "/openapi.json"; {openapi} }}')
    lines.append("    location / { return 404; }")
    return "\n".join(lines)


def metrics(front: Front) -> str:
    """Return the server of /metrics: a separate port, so that the model's port can be public."""
    if front.metrics is None:
        return ""
    address, path = front.metrics
    return f"""  server {{
    listen {front.bind}:{front.metrics_port};
    server_name metrics;
    access_log off;
{error_pages(front)}
    location = /metrics {{ {allow("GET, HEAD")} proxy_pass http://{address}{path}; }}
    location / {{ return 404; }}
  }}
"""


def limits(front: Front) -> str:
    """Return the arguments of admission.lua, as a Lua table."""
    arriving = max(arriving_bytes(front.body_budget), front.max_body_bytes)
    small = max(front.body_budget // 4, SMALL_BODY)
    values: dict[str, int | str] = {
        "max_body": front.max_body_bytes,
        "small": SMALL_BODY,
        "body_s": BODY_S,
        "body_rate": BODY_RATE,
        "arriving_requests": ARRIVING,
        "arriving_bytes": arriving,
        "address_requests": ADDRESS_ARRIVING,
        "address_bytes": max(arriving // 2, front.max_body_bytes),
        "address_lifetime": ADDRESS_LIFETIME_S,
        "flight_requests": REQUESTS,
        "large_bytes": max(front.body_budget - small, front.max_body_bytes),
        "small_bytes": small,
        "too_slow": TOO_SLOW,
        **({"cancelled": str(front.state / CANCELLED)} if front.routes else {}),
    }
    return ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items())


def render(front: Front) -> str:
    """Return nginx.conf."""
    temp = front.state / "nginx"
    temp_paths = "\n".join(f"  {kind}_temp_path {temp}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    # As root nginx would give its folders and itself to another user, which a container without capabilities is not allowed to do.
    user = "user root root;\n" if front.as_root else ""
    longest_s = BODY_S + front.max_body_bytes // BODY_RATE
    return f"""{user}load_module {MODULES}/ndk_http_module.so;
load_module {MODULES}/ngx_http_lua_module.so;
daemon off;
worker_processes {front.processes};
worker_shutdown_timeout {front.drain_timeout_s}s;
pid {front.state}/{PID};
error_log stderr error;
events {{ worker_connections {CONNECTIONS}; }}
http {{
{temp_paths}
  log_format access escape=json '{LOG_FORMAT}';
  access_log {"/dev/stdout access buffer=4k flush=1s" if front.access_log else "off"};
  server_tokens off;
  default_type application/octet-stream;

  lua_package_path "{Path(__file__).parent}/?.lua;;";
  lua_shared_dict counts 64k;
  lua_shared_dict addresses 4m;
  init_by_lua_block {{ require("admission").configure({{ {limits(front)} }}) }}

  client_header_timeout {HEADER_TIMEOUT_S}s;
  client_body_timeout {longest_s + 10}s;  # admission.lua ends a slow body before this, with an answer
  client_max_body_size {front.max_body_bytes};
  client_body_buffer_size {SMALL_BODY};
  send_timeout 30s;
  keepalive_timeout 75s;
  reset_timedout_connection on;

  map $http_x_request_id $id {{ default $request_id; "~^[A-Za-z0-9._-]{{1,64}}$" $http_x_request_id; }}
  map $request $sent_method {{ default ""; "~^(?<verb>[A-Z]{{1,16}}) " $verb; }}  # $request_method is GET on an error page
  map $allow $allowed {{ default $allow; "" "GET, HEAD, POST, PUT"; }}  # empty: nginx itself refused, TRACE say
  map $http_host $sent_host {{ default $http_host; "" front; }}
  map $http_content_type $plain_type {{
    default $http_content_type;
    "~*^multipart/form-data *(;|$)" $http_content_type;
    "~*^multipart/" {NEUTRAL_TYPE};
  }}
  map $upstream_status $retry_after {{ default ""; 503 1; }}
  upstream server {{ server {front.inference} max_fails=0; keepalive 64; }}
  proxy_http_version 1.1;
  proxy_connect_timeout 2s;
  proxy_send_timeout 60s;
  proxy_read_timeout {front.read_timeout_s}s;
  proxy_next_upstream off;
  proxy_max_temp_file_size 0;
  proxy_hide_header X-Request-Id;

  server {{
    listen {front.bind}:{front.port} backlog=1024;
    server_name front;
{trusted(front)}    log_by_lua_block {{ require("admission").leave() }}
    add_header X-Request-Id $id always;
    {"add_header Retry-After $retry_after always;" if front.routes else ""}
{sent_headers(front)}
{error_pages(front)}
{routes(front)}
  }}
{metrics(front)}  server {{
    listen unix:{front.state}/{SOCKET};
    access_log off;
    location = /counters {{ stub_status; }}
    location = /generation {{ return 200 "{front.generation}"; }}
  }}
}}
"""
