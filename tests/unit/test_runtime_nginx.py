"""The front's configuration and the small parts of the front that are pure."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from torchrelay_runtime import nginx
from torchrelay_runtime.contract import Upstream
from torchrelay_runtime.front import parse_address, parse_connections, parse_in_flight
from torchrelay_runtime.nginx import Front, front_of, render
from torchrelay_runtime.settings import Serving, Settings, Version

SERVING = Serving(
    name="digits", version="abc123", model_dir=Path("/m"), response_timeout_s=60, max_body_bytes=6291456, drain_timeout_s=25
)
SETTINGS = Settings(SERVING, Path("/state"), 8080, "0.0.0.0", "nginx", "torchserve", None, None, access_log=False, log_level="warn")
BUDGET = 64 << 20
UPSTREAM = Upstream("127.0.0.1:8085", {"abc123": "/predictions/digits"}, "127.0.0.1:8082", "/metrics")
FRONT = front_of(SETTINGS, UPSTREAM, 2, BUDGET, as_root=False)


def locations(text: str) -> list[str]:
    return [line.split()[2] for line in text.splitlines() if line.strip().startswith("location = ")]


def test_the_models_routes() -> None:
    assert FRONT.routes == tuple(
        (path, "/predictions/digits")
        for path in (
            "/predictions/digits",
            "/invocations",
            "/predictions/digits/abc123",
            "/predictions/digits/",
            "/predictions/digits/abc123/",
        )
    )
    assert FRONT.health == ("/ping",)


def test_every_version_has_a_route_and_one_is_the_default() -> None:
    serving = replace(SERVING, versions=(Version("1.0", Path("/old")),), default="1.0")
    paths = {version: f"/predictions/digits/{version}" for version in serving.folders}
    front = front_of(replace(SETTINGS, serving=serving), replace(UPSTREAM, predict_paths=paths), 2, BUDGET, as_root=False)
    assert {path: target for path, target in front.routes if not path.endswith("/")} == {
        "/predictions/digits": "/predictions/digits/1.0",
        "/invocations": "/predictions/digits/1.0",
        "/predictions/digits/1.0": "/predictions/digits/1.0",
        "/predictions/digits/abc123": "/predictions/digits/abc123",
    }


def test_vertex_routes_are_added_once() -> None:
    settings = replace(SETTINGS, predict_route="/invocations", health_route="/v1/health")
    front = front_of(settings, UPSTREAM, 2, BUDGET, as_root=False)
    assert [path for path, _ in front.routes].count("/invocations") == 1
    assert front.health == ("/ping", "/v1/health")
    served = locations(render(replace(front, metrics=None)))
    assert len(served) == len(set(served)), "nginx refuses a location that is there twice"


def test_limits_and_time_outs() -> None:
    text = render(FRONT)
    for line in (
        "client_max_body_size 6291456;",
        "client_header_timeout 10s;",
        "client_body_timeout 68s;",
        "proxy_read_timeout 125s;",
        "worker_shutdown_timeout 25s;",
        "worker_processes 2;",
        "access_log off;",
        "listen 0.0.0.0:8080 backlog=1024;",
        "flight_requests = 512, large_bytes = 50331648, small_bytes = 16777216,",
        "arriving_bytes = 134217728, address_requests = 256, address_bytes = 67108864,",
    ):
        assert line in text
    assert FRONT.read_timeout_s > SERVING.response_timeout_s, "the server's own answer comes first"


def test_everything_that_is_written_is_in_the_state_folder() -> None:
    text = render(FRONT)
    for directive in ("pid", "client_body_temp_path", "proxy_temp_path", "fastcgi_temp_path", "uwsgi_temp_path", "scgi_temp_path"):
        (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{directive} ")]
        assert line.split()[1].startswith("/state/")
    assert "error_log stderr" in text


def test_anything_else_is_404_and_methods_are_few() -> None:
    text = render(FRONT)
    assert "location / { return 404; }" in text
    assert text.count("!~ ^(GET|POST|PUT)$") == len(FRONT.routes)
    assert text.count("!~ ^(GET|HEAD)$") == len(FRONT.health) + 2, "/ping, /openapi.json, and /metrics on its port"


def test_ping_looks_at_draining_before_ready() -> None:
    text = render(FRONT)
    assert 0 < text.index("-f /state/draining.json") < text.index("!-f /state/ready")


def test_errors_are_problem_documents() -> None:
    text = render(FRONT)
    assert "error_page 413 /.error/413;" in text
    assert '"status": 413, "detail": "The body is larger than the 6291456 bytes that are allowed"}' in text
    assert "error_page 502 =503 /.error/502;" in text
    assert "503 1; }" in text, "the server's own 503 gets a Retry-After"


def test_the_front_alone_passes_every_path_and_limits_bodies() -> None:
    text = render(Front(Path("/s"), "0.0.0.0", 8080, "model-a:8080", 6 << 20, 64 << 20, generation="g1"))
    assert "proxy_pass http://server; }" in text
    assert "server model-a:8080 max_fails=0;" in text
    assert "client_max_body_size 6291456;" in text
    assert "/ping" not in text
    assert "add_header Retry-After $retry_after" not in text, "the other front's answer has it already"
    assert 'return 200 "g1"' in text
    assert nginx.TYPE_HEADER not in text, "the other front writes it"


def test_root_stays_root() -> None:
    assert render(replace(FRONT, as_root=True)).startswith("user root root;\n")
    assert "user root" not in render(FRONT)


def test_in_flight_leaves_the_asking_request_out() -> None:
    text = "Active connections: 9 \nserver accepts handled requests\n 12 12 40 \nReading: 1 Writing: 4 Waiting: 4 \n"
    assert parse_in_flight(text) == 3
    with pytest.raises(ValueError, match="not the text of stub_status"):
        parse_in_flight("<html>")


@pytest.mark.parametrize("good", ["model-a:8080", "10.0.0.1:80", "a_b.example:1", "[fd00::1]:8080"])
def test_addresses(good: str) -> None:
    assert parse_address(good) == good


@pytest.mark.parametrize("bad", ["model-a", ":8080", "a:0", "a:70000", "a:80; }", "-x:1", "a b:1", "unix:/tmp/x"])
def test_text_that_is_not_an_address_is_refused(bad: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_address(bad)


def test_every_route_has_a_twin_that_closes_the_connection() -> None:
    text = render(FRONT)
    for path, target in FRONT.routes:
        assert f"if (-f /state/draining.json) {{ rewrite ^ /.closing{path} last; }}" in text
        (twin,) = [line for line in text.splitlines() if line.strip().startswith(f"location = /.closing{path} {{")]
        assert "internal; keepalive_timeout 0;" in twin
        assert f"proxy_pass http://server{target};" in twin
        assert "admit()" in twin
    alone = render(Front(Path("/s"), "0.0.0.0", 8080, "model-a:8080", 6 << 20, 64 << 20))
    assert "if (-f /s/closing) { rewrite ^ /.closing$uri last; }" in alone


def test_connections_are_counted_without_the_one_that_asks() -> None:
    counters = "Active connections: 3 \nserver accepts handled requests\n 8 8 9 \nReading: 0 Writing: 1 Waiting: 2 \n"
    assert parse_connections(counters) == 2
    with pytest.raises(ValueError, match="stub_status"):
        parse_connections("")
