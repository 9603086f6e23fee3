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
from dataclasses import replace
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped] # no stubs are published for it
import psutil
import pytest

from tests import messages
from tests.errors import fails
from tests.integration.fastai.conftest import export
from torchrelay.authoring.fastai import sandbox
from torchrelay.authoring.fastai.export import Options, plan
from torchrelay.authoring.fastai.export import export as run_export
from torchrelay.authoring.fastai.inside import confine
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
def allowed(*actions):
    names = []
    for name, *arguments in actions:
        try:
            getattr(os, name)(*arguments)
            names.append(name)
        except PermissionError:
            pass
    return names
results["allowed"] = allowed(
    ("chmod", SECRET, 0o777), ("lchown", SECRET, -1, -1), ("utime", SECRET), ("setxattr", SECRET, "user.x", b"1"),
    ("truncate", SECRET, 0), ("fork",), ("posix_spawn", "/bin/true", ["true"], {}),
)
attempt("connect", lambda: socket.create_connection(("127.0.0.1", PORT), 2).close())
attempt("docker", lambda: socket.socket(socket.AF_UNIX).close())
results["interfaces"] = [line.split(":")[0].strip() for line in open("/proc/self/net/dev").readlines()[2:]]
attempt("raise limit", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2))
attempt("write here", lambda: open("here", "w").close())
results["variables"] = sorted(name for name in os.environ if "ACCESS" in name or name.startswith(("AWS_", "TORCHRELAY_")))
results["home"] = os.environ.get("HOME") == os.getcwd()
results["pid"] = os.getpid()
raise RuntimeError(json.dumps(results))
"""


# As main.py is called, with one of the names of its steps before the request.
LOADS_OR_PROBES = """\
for argument in "$@"; do
    case "$argument" in
        probe) echo '{"fenced": true, "unplugged": true}' > probe.json ;;
        read) touch "$(dirname "$0")/loaded"; echo '{}' > read.json ;;
    esac
done
"""


def hostile(path: Path, secret: Path, port: int) -> None:
    """Write a file that makes all attempts when loaded, in a function saved as byte code: none of its names looks dangerous."""
    code = ATTEMPTS.replace("SECRET", repr(str(secret))).replace("PORT", str(port))
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
    assert process == {"interfaces": ["lo"], "pid": 1}
    assert results == {
        "read": "PermissionError",
        "list": "PermissionError",
        "write": "PermissionError",
        "remove": "PermissionError",
        "allowed": [],
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
        "names = ('CPU', 'FSIZE', 'NOFILE', 'CORE', 'AS', 'DATA')\n"
        "print([resource.getrlimit(getattr(resource, 'RLIMIT_' + name)) for name in names])\n"
        f"open({str(tmp_path / 'large')!r}, 'wb', 0).write(b'0' * 2000)\n"
        f"print(open({str(tmp_path / 'large')!r}, 'rb').read() == b'0' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    limits, cut = done.stdout.splitlines()
    assert limits == str([(7, 7), (1000, 1000), (512, 512), (0, 0), (32 << 30, 32 << 30), (confine.memory(),) * 2])
    assert cut == "True"


CONFINED = """
import sys
sys.path.insert(0, SOURCE)
import ctypes, os, subprocess, threading
from torchrelay.authoring.fastai.inside import confine
confine.memory = lambda: 1 << 30
confine.limit(60, 1 << 20)
assert confine.calls()
def outcome(action):
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return "done"
libc = ctypes.CDLL(None)
started = []
thread = threading.Thread(target=started.append, args=(1,))
print(
    outcome(os.fork),
    outcome(lambda: subprocess.run(["true"])),
    outcome(lambda: os.memfd_create("x")),
    libc.unshare(0x10000000),
    outcome(lambda: bytearray(1 << 30)),
    outcome(lambda: bytearray(1 << 28)),
    outcome(lambda: (thread.start(), thread.join())),
    started,
)
"""


def test_one_process_has_all_the_memory_there_is() -> None:
    source = str(Path(sandbox.__file__).parents[3])
    script = CONFINED.replace("SOURCE", repr(source))
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["PermissionError"] * 3 + ["-1", "MemoryError", "done", "done", "[1]"], done.stderr


def boxed(python: str, folder: Path, *, unsafe: bool = False) -> sandbox.Sandbox:
    return sandbox.Sandbox(python, folder, 20, unsafe)


def test_this_machine_isolates_a_step(tmp_path: Path) -> None:
    """The control of the tests below: the probe is the real one."""
    boxed(sys.executable, tmp_path).require_isolation()


def test_an_unknown_processor_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """`setarch` makes the kernel name another processor, for which there is no filter."""
    python = program(tmp_path, f'exec setarch linux32 {sys.executable} "$@"')
    with fails(ModelInvalid, words="no seccomp filter for this processor"):
        boxed(python, tmp_path).require_isolation()
    (tmp_path / "again").mkdir()
    with fails(ModelInvalid, words="so nothing was loaded"):  # also without the probe
        boxed(python, tmp_path / "again").step("read", {}, [], 1 << 20)


@pytest.mark.parametrize(
    ("answer", "namespaces", "missing"),
    [
        ({"fenced": True, "unplugged": True}, False, "namespaces"),
        ({"fenced": False, "unplugged": True}, True, "Landlock"),
        ({"fenced": True, "unplugged": False}, True, "seccomp filter"),
        ({}, True, "Landlock, seccomp filter"),
    ],
)
def test_a_machine_without_one_of_the_three_is_refused(
    tmp_path: Path,
    answer: dict[str, bool],
    namespaces: bool,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sandbox, "can_unshare", lambda: namespaces)
    python = program(tmp_path, f"echo '{json.dumps(answer)}' > probe.json")
    with fails(ModelInvalid, "--unsafe-no-sandbox", words=missing):
        boxed(python, tmp_path).require_isolation()
    (tmp_path / "unsafe").mkdir()
    boxed(python, tmp_path / "unsafe", unsafe=True).require_isolation()
    assert missing in caplog.text


def test_the_command_loads_nothing_without_isolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "can_unshare", lambda: False)
    monkeypatch.setattr(sandbox, "python_with_fastai", lambda _: program(tmp_path, LOADS_OR_PROBES))
    learner = tmp_path / "learner.pkl"
    with zipfile.ZipFile(learner, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    options = Options(learner, tmp_path / "out", trust=True)
    for call in (plan, run_export):
        with fails(ModelInvalid, words="cannot isolate the file"):
            call(options)
    assert not (tmp_path / "loaded").exists()
    with pytest.raises(ModelInvalid):  # the stand-in's answer is empty
        run_export(replace(options, unsafe=True))
    assert (tmp_path / "loaded").exists()


def test_a_python_without_fastai_gets_a_fix(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=r"has no fastai; make an environment .*--python fastai/bin/python"):
        sandbox.python_with_fastai(None)
    with fails(ModelInvalid, words=messages.NOT_A_PROGRAM):
        sandbox.python_with_fastai(str(tmp_path / "none"))
