"""The container runs as any user, without a network, and writes only to /tmp (docs/torchserve.md, T21 to T24)."""

from __future__ import annotations

import random

import pytest

from tests.container.harness import Factory, poll

# Threads of the server's process, by name and number, and its heap limit.
THREADS = """
import json, pathlib
for p in pathlib.Path("/proc").glob("[0-9]*"):
    argv = (p / "cmdline").read_bytes().decode().split("\\0")
    if "org.pytorch.serve.ModelServer" in argv:
        print(json.dumps({"count": len(list((p / "task").iterdir())), "heap": argv[1]}))
"""


def test_any_user_serves_with_a_read_only_root_and_no_network(container: Factory) -> None:
    users = ["0", "1000", "65534", str(random.randint(100_000, 2_000_000))]
    started = [(user, container(user=user, network="none")) for user in users]
    for user, one in started:
        one.wait_ready(90)
        program = (
            "import http.client\n"
            "c = http.client.HTTPConnection('127.0.0.1', 8080)\n"
            "c.request('POST', '/predictions/model', b'{\"report\": true}', {'Content-Type': 'application/json'})\n"
            "print(c.getresponse().read().decode())\n"
        )
        assert one.python(program)["uid"] == int(user)


def test_nothing_is_written_outside_tmp(container: Factory) -> None:
    """The root is writable and the user is its owner, so that an attempt would succeed and be seen."""
    one = container(read_only=False, user="0").wait_ready()
    assert one.predict(report=True).status == 200
    one.raw.kill("SIGTERM")
    assert one.wait_exit(20) == 0
    changed = {str(change["Path"]) for change in one.raw.diff() or []}
    assert "/tmp/torchrelay" in changed, "control: the writable layer is looked at"  # noqa: S108 -- inside the container
    assert {path for path in changed if not path.startswith("/tmp")} == set()  # noqa: S108 -- inside the container


def test_requirements_are_not_installed_at_start(container: Factory) -> None:
    """docs/torchserve.md, T21: TorchServe would try to install this missing package at the start."""
    one = container(network="none", requirements="torchrelay-no-such-package==0\n").wait_ready()
    assert "torchrelay-no-such-package" not in one.logs()
    assert (
        one.exec("sh", "-c", "grep install_py_dep_per_model /tmp/torchrelay/torchserve/config.properties")[1]
        .strip()
        .endswith("=false")
    )


@pytest.mark.parametrize(("cpus", "threads"), [(1.0, 1), (2.0, 2)])
def test_threads_follow_the_cpu_limit(container: Factory, cpus: float, threads: int) -> None:
    one = container(cpus=cpus).wait_ready()
    report = one.predict(report=True).json
    assert (report["omp"], report["torch_threads"]) == (str(threads), threads)
    seen = one.python(THREADS)
    assert seen["count"] < 60
    assert seen["heap"] == "-Xmx320m", "TorchServe itself, and twice the bodies in flight, which are a 32nd of 2 GiB"


def test_a_gpu_model_without_a_gpu_ends_with_a_message(container: Factory) -> None:
    one = container(serving={"device": "gpu"})
    assert one.wait_exit(20) == 2
    (line,) = one.logs().strip().splitlines()
    assert line.startswith("torchrelay: the model's device is gpu and no GPU is visible here")


def test_an_image_without_a_model_ends_with_a_message(container: Factory) -> None:
    one = container.start(container.runtime)
    assert one.wait_exit(20) == 2
    (line,) = one.logs().strip().splitlines()
    assert "serving.json" in line
    assert "torchrelay build" in line


@pytest.mark.parametrize(("switch", "lines"), [("1", 20), ("0", 0)])
def test_the_log_has_one_line_per_request_and_it_can_be_switched_off(container: Factory, switch: str, lines: int) -> None:
    one = container(environment={"TORCHRELAY_ACCESS_LOG": switch}, user="65534").wait_ready()
    before = len(one.logs().splitlines())
    for number in range(20):
        assert one.predict(echo=number).status == 200
    poll("the lines", lambda: one.logs().count('"route":"/predictions/model"') == lines or None, 20)
    assert len(one.logs().splitlines()) - before <= lines + 1


def test_without_the_front_the_server_listens_only_on_loopback(container: Factory) -> None:
    """The local target uses this on laptops; the other ports are free ones, so that two servers fit on one machine."""
    one = container(environment={"TORCHRELAY_FRONT": "none", "TORCHRELAY_PORT": "9191"}).wait_ready()
    status, body = one.inside(9191, "/predictions/model", "POST")
    assert (status, "pid" in body) == (200, True)
    with pytest.raises(ConnectionRefusedError):
        one.send("GET", "/ping", port=9191)
    assert one.exec("sh", "-c", "cat /proc/[0-9]*/comm | grep -c nginx")[1].strip() == "0"
    one.raw.kill("SIGTERM")
    assert one.wait_exit(20) == 0
