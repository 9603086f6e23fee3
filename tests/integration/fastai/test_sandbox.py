"""A file's attempts to do harm while it is loaded, confined and unconfined."""

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped] # no stubs are published for it
import psutil
import pytest

from tests import messages
from tests.errors import fails
from tests.integration.fastai.conftest import export
from torchrelay.authoring.fastai import sandbox
from torchrelay.core.errors import ModelInvalid

ATTEMPTS = """
import json, os, socket, resource
results = {}
def attempt(name, action):
    try:
        action()
        results[name] = "done"
    except Exception as error:
        results[name] = type(error).__name__
attempt("read", lambda: open(SECRET).read())
attempt("list", lambda: os.listdir(os.path.dirname(SECRET)))
attempt("write", lambda: open(SECRET + ".new", "w").close())
attempt("remove", lambda: os.remove(SECRET))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", PORT), 2).close())
attempt("docker", lambda: socket.socket(socket.AF_UNIX).close())
results["interfaces"] = [line.split(":")[0].strip() for line in open("/proc/self/net/dev").readlines()[2:]]
attempt("raise limit", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2))
attempt("write here", lambda: open("here", "w").close())
results["variables"] = sorted(name for name in os.environ if "SECRET" in name or name.startswith(("AWS_", "TORCHRELAY_")))
results["home"] = os.environ.get("HOME") == os.getcwd()
results["pid"] = os.getpid()
raise RuntimeError(json.dumps(results))
"""


def hostile(path: Path, secret: Path, port: int) -> None:
    """Write a file that makes all attempts when loaded, in a function saved as byte code: none of its names looks dangerous."""
    code = ATTEMPTS.replace("SECRET)", f"{str(secret)!r})").replace("SECRET +", f"{str(secret)!r} +").replace("PORT", str(port))
    namespace: dict[str, object] = {"__name__": "__main__", "code": code}
    exec("def attack():\n    exec(code, {})\n", namespace)  # noqa: S102 -- a function defined like this is pickled by value

    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return (namespace["attack"], ())

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", cloudpickle.dumps(Attack(), protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "credentials"
    path.parent.mkdir()
    path.write_text("key")
    return path


def test_a_hostile_file_reaches_nothing(fastai_python: Path, tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    monkeypatch.setenv("TORCHRELAY_REGISTRY_PASSWORD", "key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        hostile(tmp_path / "learner.pkl", secret, server.getsockname()[1])
        refused = export(fastai_python, tmp_path / "learner.pkl", tmp_path / "out")
        assert refused.returncode == 10
        assert "contains functions as byte code" in refused.stdout
        done = export(fastai_python, tmp_path / "learner.pkl", tmp_path / "out", "--trust-pickle")
    assert done.returncode == 10
    message = json.loads(done.stdout)["error"]["message"]
    results = json.loads(message[message.index("{") : message.rindex("}") + 1])
    process = {name: results.pop(name) for name in ("interfaces", "pid")}
    if sandbox.can_unshare():  # otherwise only the seccomp filter blocks sockets
        assert process == {"interfaces": ["lo"], "pid": 1}
    else:
        assert "allows no namespaces" in done.stderr
    assert results == {
        "read": "PermissionError",
        "list": "PermissionError",
        "write": "PermissionError",
        "remove": "PermissionError",
        "connect": "PermissionError",
        "docker": "PermissionError",
        "raise limit": "ValueError",
        "write here": "done",
        "variables": [],
        "home": True,
    }
    assert secret.read_text() == "key"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "learner.pkl"]


def program(folder: Path, text: str) -> str:
    """Write a stand-in for Python: the tests are about how it is started and ended."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_slow_file_is_ended_with_all_processes_that_it_started(tmp_path: Path) -> None:
    assert sandbox.can_unshare(), "namespaces end leftover processes: run as root, or allow users namespaces (unshare -rn)"
    mark = f"98{os.getpid()}"
    python = program(tmp_path, f"setsid sleep {mark} &\nsleep {mark}")
    began = time.monotonic()
    with fails(ModelInvalid, words=messages.TOOK_TOO_LONG):
        sandbox.Sandbox(python, tmp_path, 1).step("read", {}, [], 1 << 20)
    assert time.monotonic() - began < 20
    deadline = time.monotonic() + 10
    while (left := [each.pid for each in psutil.process_iter(["cmdline"]) if mark in (each.info["cmdline"] or [])]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    assert left == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exit 0", "left no answer"),
        ("echo '[]' > read.json", "left no answer"),
        ("echo '{' > read.json", "left no answer"),
        ("echo '{}' > ../kept; ln -s ../kept read.json", "left no answer"),
        ("mkfifo read.json", "left no answer"),
        ("printf 'one\\n\\033[31mtwo\\n' >&2; exit 3", r"loading it failed: \\x1b\[31mtwo"),
    ],
)
def test_an_invalid_answer_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelInvalid, match=message):
        sandbox.Sandbox(program(tmp_path, text), tmp_path, 20).step("read", {}, [], 1 << 20)


def test_limits_are_lowered_permanently(tmp_path: Path) -> None:
    source = Path(sandbox.__file__).parents[3]
    script = (
        f"import sys; sys.path.insert(0, {str(source)!r})\n"
        "from torchrelay.authoring.fastai.inside import confine\n"
        "confine.limit(7, 1000)\n"
        "import resource\n"
        "print([resource.getrlimit(getattr(resource, 'RLIMIT_' + name)) for name in ('CPU', 'FSIZE', 'NOFILE', 'CORE', 'AS')])\n"
        f"open({str(tmp_path / 'large')!r}, 'wb', 0).write(b'0' * 2000)\n"
        f"print(open({str(tmp_path / 'large')!r}, 'rb').read() == b'0' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    limits, cut = done.stdout.splitlines()
    assert limits == str([(7, 7), (1000, 1000), (512, 512), (0, 0), (32 << 30, 32 << 30)])
    assert cut == "True"


def test_a_python_without_fastai_gets_a_fix(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=r"has no fastai; make an environment .*--python fastai/bin/python"):
        sandbox.python_with_fastai(None)
    with fails(ModelInvalid, words=messages.NOT_A_PROGRAM):
        sandbox.python_with_fastai(str(tmp_path / "none"))
