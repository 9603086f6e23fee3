"""The local target with the real TorchServe: versions deployed, replaced, broken, killed, rolled back and deleted."""

import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests import messages
from tests.errors import fails
from tests.integration.wheels import wheel
from torchrelay.core import paths
from torchrelay.core.errors import Busy, DeployFailed, GateFailed, PortTaken, RolledBack
from torchrelay.core.locks import turn
from torchrelay.core.progress import Quiet
from torchrelay.model.version import resolved_version
from torchrelay.stages import archive, check, deploy, fetch
from torchrelay.targets import Context, Endpoint, Release
from torchrelay.targets.local import processes
from torchrelay.targets.local.environment import ServerSettings, ensure_server
from torchrelay.targets.local.target import LocalTarget
from torchrelay.verification.prober import ProbeRequest

DIGITS = paths.ROOT / "examples" / "digits"
CACHE = paths.cache_dir()  # read before the tests get a separate cache: the server environment is 1 GB
BROKEN = "\n\nraise RuntimeError('no weights today')\n"


@pytest.fixture(autouse=True)
def shared_cache(own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 -- runs after it
    monkeypatch.setenv("TORCHRELAY_CACHE", str(CACHE))
    wheels = paths.ROOT.parent / "shared" / "wheels"
    if "TORCHRELAY_WHEELS" not in os.environ and wheels.is_dir():
        monkeypatch.setenv("TORCHRELAY_WHEELS", str(wheels))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Digits:
    """A copy of the example on its own port, and the actions of the tests."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder / "digits"
        shutil.copytree(DIGITS, self.dir, ignore=shutil.ignore_patterns(".torchrelay", "weights.lock", "__pycache__"))
        self.port = free_port()
        self.edit("  local: {port: 8080}", f"  local: {{port: {self.port}}}")

    def edit(self, old: str, new: str) -> None:
        text = (self.dir / "model.yaml").read_text()
        assert old in text
        (self.dir / "model.yaml").write_text(text.replace(old, new))

    def version(self, version: str) -> None:
        text = (self.dir / "model.yaml").read_text()
        lines = [line for line in text.splitlines() if not line.startswith("version:")]
        (self.dir / "model.yaml").write_text("\n".join([*lines, f"version: {version}", ""]))

    @property
    def target(self) -> LocalTarget:
        return LocalTarget(Context(self.dir, check.run(self.dir).model, Quiet(), CACHE))

    def release(self) -> Release:
        checked = check.run(self.dir)
        fetched = fetch.run(self.dir, checked.model, cache=CACHE, progress=Quiet(), update_lock=True)
        archived = archive.run(self.dir, checked.model, fetched, resolved_version(checked.model, self.dir), Quiet())
        return deploy.release_of(self.dir, checked, "local", archived, None, None)

    def apply(self) -> Endpoint:
        return self.target.apply(self.release())

    def answer(self) -> object:
        request = ProbeRequest("1", "POST", "/predictions/digits", "image/png", (self.dir / "samples/nine.png").read_bytes())
        answer = self.target.invoke(request)
        return json.loads(answer.body)["class"] if answer.status == 200 else answer.error or answer.status

    def pid(self) -> int:
        (run,) = [json.loads(file.read_text()) for file in self.dir.glob(".torchrelay/local/*/run.json")]
        return int(run["process"]["pid"])


@pytest.fixture
def digits(tmp_path: Path) -> Iterator[Digits]:
    digits = Digits(tmp_path)
    target = digits.target
    yield digits
    target.delete()
    assert processes.with_state_below(target.versions.state_root()) == set()


def test_a_version_answers_is_kept_replaced_rolled_back_and_deleted(digits: Digits) -> None:
    digits.version("one")
    first = digits.apply()
    assert (first.state, first.version, first.previous, first.skipped) == ("ready", "one", "", False)
    assert first.url == f"http://127.0.0.1:{digits.port}/predictions/digits"
    assert digits.answer() == "9"

    pid, begin = digits.pid(), time.monotonic()
    again = digits.apply()
    assert again == replace(first, skipped=True)
    assert digits.pid() == pid
    assert time.monotonic() - begin < 5

    digits.version("two")
    second = digits.apply()
    assert (second.version, second.previous, digits.answer()) == ("two", first.digest, "9")

    back = digits.target.rollback()
    assert (back.version, back.digest, back.previous, digits.answer()) == ("one", first.digest, second.digest, "9")

    assert digits.target.delete()
    assert digits.target.status().state == "absent"
    assert digits.answer() != "9"
    assert not (digits.dir / ".torchrelay/local").exists()
    assert not digits.target.versions.state_root().exists()
    assert not digits.target.delete()


def test_a_version_that_does_not_load_leaves_the_old_one_running(digits: Digits) -> None:
    first = digits.apply()
    pid = digits.pid()
    (digits.dir / "model.py").write_text((digits.dir / "model.py").read_text() + BROKEN)
    with fails(GateFailed, "no weights today") as caught:
        digits.apply()
    assert "Traceback" in caught.value.message
    assert "org.pytorch" not in caught.value.message
    assert digits.pid() == pid
    assert digits.target.status() == first
    assert digits.answer() == "9"


def test_a_version_that_answers_wrongly_never_gets_the_port(digits: Digits) -> None:
    digits.apply()
    pid = digits.pid()
    digits.version("wrong")
    release = digits.release()
    sample = next(one for one in release.samples if one.name == "nine")
    wrong = replace(sample, expect=replace(sample.expect, value={"class": "3"}))
    with fails(GateFailed, "nine: "):
        digits.target.apply(replace(release, samples=(wrong,)))
    assert digits.pid() == pid
    assert digits.answer() == "9"


def test_a_version_that_fails_on_the_port_gives_it_back(digits: Digits) -> None:
    """It passes on the free port; then its folder is damaged, so that its second start fails."""
    first = digits.apply()
    digits.version("two")
    release = digits.release()
    target = digits.target
    home = digits.dir / ".torchrelay/local" / release.digest.removeprefix("sha256:")[:12]
    stop = target.versions.stop

    def stop_and_damage(handle: str) -> None:
        stop(handle)
        if handle == home.name:
            (home / "model/MAR-INF/MANIFEST.json").unlink(missing_ok=True)

    target.versions.stop = stop_and_damage  # type: ignore[method-assign] # replaced for this test
    with fails(RolledBack, words=messages.ANSWERS_AGAIN):
        target.apply(release)
    assert digits.target.status() == first
    assert digits.answer() == "9"


def test_processes_of_a_killed_supervisor_are_ended_and_the_next_run_serves(digits: Digits) -> None:
    digits.apply()
    os.kill(digits.pid(), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while digits.target.status().state != "stopped":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again = digits.apply()  # the JVM that the supervisor left holds the port
    assert (again.state, again.skipped, digits.answer()) == ("ready", False, "9")


def test_an_interrupt_leaves_only_the_earlier_server(digits: Digits) -> None:
    first = digits.apply()
    digits.version("two")
    release, target = digits.release(), digits.target
    watcher = threading.Thread(target=interrupt_when, args=(digits.dir / ".torchrelay/local", 2))
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        target.apply(release)
    watcher.join(10)
    assert digits.target.status() == first
    assert digits.answer() == "9"
    assert len(list(digits.dir.glob(".torchrelay/local/*/run.json"))) == 1


def interrupt_when(versions: Path, processes_running: int) -> None:
    """Send this process the signal of Ctrl-C once this many servers run."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if len(list(versions.glob("*/run.json"))) == processes_running:
            os.kill(os.getpid(), signal.SIGINT)
            return
        time.sleep(0.02)


def test_what_a_killed_run_left_is_removed_by_the_next_even_if_nothing_is_to_do(digits: Digits) -> None:
    """Each kill left the folder of a state and of a version, and they added up."""
    digits.apply()
    target = digits.target
    states = target.versions.state_root()
    before = sorted(states.iterdir()), sorted(target.versions.folder.iterdir())
    for name in ("aaaaaaaa-1", "bbbbbbbb-2"):
        (states / name / "torchserve").mkdir(parents=True)
    (target.versions.folder / "cccccccccccc" / "model").mkdir(parents=True)
    assert digits.apply().skipped
    assert (sorted(states.iterdir()), sorted(target.versions.folder.iterdir())) == before


def test_a_port_in_use_is_reported_before_any_start(digits: Digits) -> None:
    with (
        socket.create_server(("127.0.0.1", digits.port)),
        pytest.raises(PortTaken, match=f"cannot listen on 127.0.0.1:{digits.port}"),
    ):
        digits.apply()
    assert list(digits.dir.glob(".torchrelay/local/*/run.json")) == []


def test_a_port_that_another_relay_has_locked_is_left_unchanged(digits: Digits) -> None:
    with turn(CACHE, f"local-{digits.port}"):
        with pytest.raises(Busy, match=str(os.getpid())):
            digits.apply()
        with pytest.raises(Busy):
            digits.target.rollback()
    assert not (digits.dir / ".torchrelay/local").exists()


def test_a_rollback_without_a_previous_version_is_refused(digits: Digits) -> None:
    with fails(DeployFailed, words=messages.NO_PREVIOUS_VERSION):
        digits.target.rollback()


def test_a_plan_starts_nothing(digits: Digits) -> None:
    plan = digits.target.plan(digits.release())
    assert not plan.unchanged
    assert plan.steps[-1].startswith(f"start {digits.release().digest[:19]} on port {digits.port} and send ")
    assert not (digits.dir / ".torchrelay/local").exists()


def test_a_model_sees_its_own_requirements_and_the_shared_environment_keeps_its_own(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path, "wheel", "0.1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    server = ensure_server(CACHE, ServerSettings.from_environment(), Quiet())
    before = sorted(server.python.parent.parent.glob("lib/python3*/site-packages/wheel-*"))
    assert before
    (digits.dir / "requirements.txt").write_text("wheel==0.1\n")
    model = digits.dir / "model.py"
    model.write_text(model.read_text() + "\n\nimport wheel\n\nassert wheel.VERSION == '0.1', wheel\n")
    assert (digits.apply().state, digits.answer()) == ("ready", "9")
    assert sorted(server.python.parent.parent.glob("lib/python3*/site-packages/wheel-*")) == before
