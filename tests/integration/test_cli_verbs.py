"""The command as a process, for the verbs that need no Docker: JSON on stdout, all else on stderr, nothing in a dry run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERBS = ["check", "fetch", "archive", "build", "verify", "push", "deploy", "relay"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns(".torchrelay", "weights.lock")
    return shutil.copytree(ROOT / "examples/tabular", tmp_path / "model", ignore=ignored)


def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torchrelay", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "DOCKER_HOST": "unix:///nonexistent.sock", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_says_what_and_does_nothing(model: Path, verb: str) -> None:
    before = listing(model)
    more = ["--repository", "127.0.0.1:9/models/"] if verb == "push" else []
    done = run(verb, *more, model, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["dry_run"] is True
    assert told["would"]
    assert listing(model) == before


def test_results_are_one_json_object_and_progress_goes_elsewhere(model: Path) -> None:
    checked = run("check", model, "--json")
    assert json.loads(checked.stdout)["model"] == "tabular"
    fetched = run("fetch", model, TORCHRELAY_JSON="1")
    assert json.loads(fetched.stdout)["size"] == (model / "model.pt").stat().st_size
    archived = run("archive", model, "--json")
    path = Path(json.loads(archived.stdout)["path"])
    assert "MAR-INF/MANIFEST.json" in zipfile.ZipFile(path).namelist()
    again = run("-v", "archive", model, "--json")
    assert json.loads(again.stdout)["skipped"] is True


def test_the_directory_comes_from_the_environment_too(model: Path) -> None:
    assert json.loads(run("check", "--json", TORCHRELAY_MODEL_DIR=str(model)).stdout)["result"] == "passed"
    other = run("check", str(model / "samples"), TORCHRELAY_MODEL_DIR=str(model))
    assert other.returncode == 10  # what is written on the command line wins


def test_every_format_of_the_archive(model: Path, tmp_path: Path) -> None:
    assert run("archive", model, "--format", "tgz", "--output", tmp_path / "a.tar.gz").returncode == 0
    with tarfile.open(tmp_path / "a.tar.gz") as packed:
        assert "tabular/MAR-INF/MANIFEST.json" in packed.getnames()
    assert run("archive", model, "--format", "no-archive", "--output", tmp_path / "open").returncode == 0
    assert (tmp_path / "open/MAR-INF/MANIFEST.json").is_file()
    refused = run("archive", model, "--format", "rar")
    assert (refused.returncode, "mar, tgz, no-archive" in refused.stderr) == (2, True)


@pytest.mark.parametrize("verb", ["push", "deploy", "build", "verify"])
def test_without_docker_there_is_one_error(model: Path, verb: str, tmp_path: Path) -> None:
    more = ["--repository", "127.0.0.1:9/models/"] if verb == "push" else ["--target", "docker"] if verb == "deploy" else []
    done = run(verb, *more, model, TORCHRELAY_CACHE=str(tmp_path / "cache"), TORCHRELAY_WHEELS="")
    assert done.returncode == (23 if verb == "push" else 16), done.stderr
    assert done.stderr.count("torchrelay: ") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_reader_that_goes_away_is_no_error(model: Path) -> None:
    command = f"{sys.executable} -m torchrelay check {model} --json | :; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 141)  # the reader may still be there when it writes
    assert done.stderr == ""


STUCK = """
import signal, sys, time
from torchrelay.cli import main, signals

def stuck(arguments, standalone_mode):
    while True:
        try:
            print("here", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass  # as a lock that the first one left held would

signals.install(main.end_at_once)
sys.exit(main.run([], application=stuck))
"""


def test_a_second_ctrl_c_ends_what_the_first_one_does_not() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    process = subprocess.Popen([sys.executable, "-c", STUCK], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for _ in range(2):
            assert process.stdout.readline() == "here\n"
            process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert told.count("torchrelay: interrupted") == 1


LOST = """
import io, os, signal, sys, time
from torchrelay.cli import main, signals

class Lossy(io.RawIOBase):
    def close(self):  # as an HTTP response's: what is raised here by its finalizer is cleared, and nothing is said
        if not self.closed:
            os.kill(os.getpid(), signal.SIGINT)
        super().close()

def busy(arguments, standalone_mode):
    Lossy()
    print("lost", flush=True)
    try:
        time.sleep(20)
    finally:
        print("cleaning", flush=True)
        time.sleep(2)  # longer than until the next look: what is on its way is not raised again
        print("clean", flush=True)

signals.install(main.end_at_once)
sys.exit(main.run([], application=busy))
"""


def test_a_ctrl_c_that_a_finalizer_swallows_is_heard_all_the_same() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run([sys.executable, "-c", LOST], env=env, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.split()) == (130, ["lost", "cleaning", "clean"]), done.stderr
    assert done.stderr.count("torchrelay: interrupted") == 1


REPLACED = """
import os, signal, sys, threading
from torchrelay.cli import main, signals

def busy(arguments, standalone_mode):
    lock = threading.Lock()
    with lock:  # as threading.Condition.wait does: a signal between release and acquire, and leaving the block fails
        lock.release()
        if arguments:
            os.kill(os.getpid(), signal.SIGINT)

signals.install(main.end_at_once)
sys.exit(main.run(sys.argv[1:], application=busy))
"""


@pytest.mark.parametrize(
    ("signalled", "code", "said"), [(["yes"], 130, "torchrelay: interrupted"), ([], 1, "release unlocked lock")]
)
def test_a_ctrl_c_in_the_midst_of_a_lock_is_no_traceback(signalled: list[str], code: int, said: str) -> None:
    """The control: without a signal, an error that nobody foresaw keeps its traceback."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    command = [sys.executable, "-c", REPLACED, *signalled]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert ("Traceback" in done.stderr) == (not signalled)


@pytest.mark.parametrize(("variable", "folder"), [("TORCHRELAY_WEIGHTS_CACHE", "handed-over"), ("UNSET", "cache")])
def test_weights_lie_in_the_cache_or_in_a_folder_that_another_job_filled(
    model: Path, tmp_path: Path, variable: str, folder: str
) -> None:
    text = (model / "model.yaml").read_text()
    (model / "model.yaml").write_text(text.replace("weights: model.pt", "weights: https://models.example/far/model.pt"))
    env = {"TORCHRELAY_CACHE": str(tmp_path / "cache"), variable: str(tmp_path / "handed-over")}
    done = run("fetch", model, "--dry-run", "--json", **env)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / folder / "weights") in done.stdout
