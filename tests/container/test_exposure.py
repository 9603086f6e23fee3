"""What is reachable from outside, and what the server would do if it were (docs/torchserve.md, T15 to T17)."""

from __future__ import annotations

import json
import socket

import pytest

from tests.container.harness import PREDICT, PROBLEM, Container

INTERNAL = {"inference": 8085, "management": 8081, "metrics": 8082, "grpc_inference": 7070, "grpc_management": 7071}


@pytest.mark.parametrize("port", INTERNAL.values(), ids=INTERNAL.keys())
def test_internal_ports_refuse_from_outside(shared: Container, port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((shared.address, port), timeout=5)
    assert shared.python(f"import socket, json; socket.create_connection(('127.0.0.1', {port}), 5); print(json.dumps(True))"), (
        "control: it listens inside"
    )


def test_the_front_has_no_way_to_the_management_api(shared: Container) -> None:
    for method, path in (
        ("GET", "/models"),
        ("POST", "/models?url=http://x/y.mar"),
        ("DELETE", "/models/model"),
        ("GET", "/models/model"),
        ("GET", "/api-description"),
    ):
        answer = shared.send(method, path)
        assert (answer.status, answer.headers["content-type"]) == (404, PROBLEM), path
    assert shared.inside(INTERNAL["management"], "/models/model")[0] == 200, "control: it answers on loopback"


@pytest.mark.parametrize(
    "query", ["", "%", "%zz", "a=%ff", "=&&=;", "a=%00", "data=[1]", "body=x", "%u1234", "a=%0d%0aX:1", "model_name=b"]
)
def test_a_query_changes_no_answer(shared: Container, query: str) -> None:
    plain = shared.send("POST", PREDICT, b"{}")
    answer = shared.send("POST", f"{PREDICT}?{query}", b"{}")
    assert (answer.status, answer.body) == (plain.status, plain.body) == (200, plain.body)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/x", 404), ("%2f/x", 404), ("%", 400), ("%zz", 400), ("/%00", 400), (";x=1", 404), ("/1/2", 404), ("?" + "a" * 9000, 414)],
    ids=lambda value: str(value)[:8],
)
def test_an_invalid_path_is_refused(shared: Container, path: str, status: int) -> None:
    answer = shared.send("POST", PREDICT + path, b"{}")
    assert (answer.status, answer.headers["content-type"], answer.json["status"]) == (status, PROBLEM, status)


def test_models_cannot_be_registered_or_removed_even_on_loopback(shared: Container) -> None:
    assert shared.inside(INTERNAL["management"], "/models?url=http://127.0.0.1:8080/x.mar", "POST")[0] == 405
    assert shared.inside(INTERNAL["management"], "/models/model", "DELETE")[0] == 405


def test_the_api_is_not_described_from_outside(shared: Container) -> None:
    answer = shared.send("OPTIONS", "/predictions/model")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST, PUT")
    status, body = shared.inside(INTERNAL["inference"], "/", "OPTIONS")
    assert status == 200, "control: the server describes itself"
    assert "openapi" in json.loads(body)


def test_no_token_is_required(shared: Container) -> None:
    """A token would guard /ping too, and it expires; loopback is the guard."""
    assert shared.inside(INTERNAL["inference"], "/ping")[0] == 200
    assert shared.exec("sh", "-c", "find / -xdev -name key_file.json 2>/dev/null; find /tmp -name key_file.json")[1] == ""


REGISTER = """
import json, os, pathlib, subprocess, time, urllib.error, urllib.request
state = pathlib.Path("/tmp/torchrelay/torchserve")
answers = {}
for number, allowed in enumerate((None, "http://127.0.0.1:8080/.*")):
    folder = pathlib.Path(f"/tmp/second{number}")
    (folder / "tmp").mkdir(parents=True)
    values = dict(line.split("=", 1) for line in (state / "config.properties").read_text().splitlines())
    values |= {"load_models": "", "enable_model_api": "true", "model_store": str(folder)}
    values |= {"allowed_urls": allowed} if allowed else {}
    for offset, key in enumerate(("inference_address", "management_address", "metrics_address")):
        values[key] = f"http://127.0.0.1:{18000 + 10 * number + offset}"
    values |= {"grpc_inference_port": str(18005 + 10 * number), "grpc_management_port": str(18006 + 10 * number)}
    (folder / "config.properties").write_text("".join(f"{k}={v}\\n" for k, v in values.items()))
    java = [p for p in pathlib.Path("/proc").glob("[0-9]*") if b"org.pytorch.serve" in (p / "cmdline").read_bytes()][0]
    argv = (java / "cmdline").read_bytes().decode().split("\\0")[:-1]
    argv = [a.replace(str(state), str(folder)).replace(str(folder / "store"), str(folder)) for a in argv]
    argv[1] = "-Xmx128m"
    env = dict(os.environ, LOG_LOCATION=str(folder), METRICS_LOCATION=str(folder))
    server = subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.DEVNULL)
    request = urllib.request.Request(f"{values['management_address']}/models?url=http://127.0.0.1:8080/x.mar", method="POST")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            answers[str(allowed)] = urllib.request.urlopen(request, timeout=10).read().decode()
            break
        except urllib.error.HTTPError as error:
            answers[str(allowed)] = error.read().decode()
            break
        except OSError:
            time.sleep(0.2)
    server.kill()
    server.wait()
print(json.dumps(answers))
"""


def test_no_url_is_ever_fetched(shared: Container) -> None:
    """docs/torchserve.md, T17: the model API, if it were on, refuses the URL. Control: an allowed URL is fetched."""
    answers = shared.python(REGISTER)
    assert "does not match any allowed URL" in answers["None"]
    assert "does not match any allowed URL" not in answers["http://127.0.0.1:8080/.*"]
    assert "x.mar" in answers["http://127.0.0.1:8080/.*"]
