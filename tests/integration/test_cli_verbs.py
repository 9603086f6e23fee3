"""The command as a process, for the verbs that need no Docker: JSON on stdout, the rest on stderr, no change in a dry run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

from tests.integration.weights_server import Handler, serving

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
def test_a_dry_run_reports_its_steps_and_changes_nothing(model: Path, verb: str) -> None:
    before = listing(model)
    more = ["--repository", "127.0.0.1:9/models/"] if verb == "push" else []
    done = run(verb, *more, model, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["dry_run"] is True
    assert reply["would"]
    assert listing(model) == before


def test_results_are_one_json_object_without_progress(model: Path) -> None:
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


def test_a_closed_output_pipe_is_not_an_error(model: Path) -> None:
    command = f"{sys.executable} -m torchrelay check {model} --json | :; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 141)  # the reader may still be there when it writes
    assert done.stderr == ""


def test_a_second_ctrl_c_ends_a_process_that_ignores_the_first() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    program = Path(__file__).parent / "programs/ignores_interrupts.py"
    process = subprocess.Popen([sys.executable, program], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for _ in range(2):
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.count("torchrelay: interrupted") == 1


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.03, 0.1, 0.2, 0.4])
def test_a_ctrl_c_ends_a_download_whenever_it_comes(model: Path, tmp_path: Path, delay_s: float) -> None:
    text = (model / "model.yaml").read_text()
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "TORCHRELAY_CACHE": str(tmp_path / "cache")}
    released = threading.Event()

    def trickle(handler: Handler) -> None:
        handler.good(upto=1000)
        while not released.wait(0.01):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    with serving(bytes(1 << 20)) as server:
        server.next = [trickle] * 8
        (model / "model.yaml").write_text(text.replace("weights: model.pt", f"weights: {server.url}/model.pt"))
        command = [sys.executable, "-m", "torchrelay", "fetch", str(model)]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            while not server.asked:
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(delay_s)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
            released.set()
    assert process.returncode == 130, errors
    assert errors.count("torchrelay: interrupted") == 1
    assert "Traceback" not in errors
    assert output == ""


@pytest.mark.parametrize(("variable", "folder"), [("TORCHRELAY_WEIGHTS_CACHE", "handed-over"), ("UNSET", "cache")])
def test_weights_are_in_the_cache_or_in_a_folder_that_another_job_filled(
    model: Path, tmp_path: Path, variable: str, folder: str
) -> None:
    text = (model / "model.yaml").read_text()
    (model / "model.yaml").write_text(text.replace("weights: model.pt", "weights: https://models.example/far/model.pt"))
    env = {"TORCHRELAY_CACHE": str(tmp_path / "cache"), variable: str(tmp_path / "handed-over")}
    done = run("fetch", model, "--dry-run", "--json", **env)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / folder / "weights") in done.stdout
