"""actions/setup for real: its script makes virtual environments with pip, as a runner would have it do.

Most cases run it in a tree of the same shape with one locked package and a command that prints a version: Torchrelay's
environment takes half a minute, this one a few seconds. One case makes Torchrelay's.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLI = """import sys
import packaging
def main():
    import os
    print("torchrelay", "9.8.7", packaging.__file__, sys.executable, os.environ.get("PYTHONPATH", ""))
    sys.stdout.flush()
"""
VERSION_CLI = CLI.replace(
    'print("torchrelay", "9.8.7",', 'print("torchrelay", "9.8.7") if sys.argv[1:] == ["--version"] else print('
)
DEADLINE_S = 120


def locked(name: str) -> str:
    """One package of the real lock, with its hashes."""
    lock = (ROOT / "requirements/package.txt").read_text()
    match = re.search(rf"^{name}==.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    assert match, name
    return match[0]


def small_tree(folder: Path) -> Path:
    """A tree of the repository's shape: the real action, one package in the lock, a command that says where it runs."""
    shutil.copytree(ROOT / "actions/setup", folder / "actions/setup")
    (folder / "requirements").mkdir()
    (folder / "requirements/package.txt").write_text(locked("packaging"))
    (folder / "scripts/torchrelay/cli").mkdir(parents=True)
    (folder / "scripts/torchrelay/__init__.py").touch()
    (folder / "scripts/torchrelay/cli/__init__.py").touch()
    (folder / "scripts/torchrelay/cli/main.py").write_text(VERSION_CLI)
    return folder


@dataclass
class Runner:
    """A runner with its tool cache; each call is one step of one job."""

    folder: Path
    tree: Path
    jobs: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def tools(self) -> Path:
        return self.folder / "tools"

    def start(self, step: str = "install", **more: str) -> Job:
        self.jobs += 1
        files = self.folder / f"job-{self.jobs}"
        files.mkdir(parents=True)
        self.tools.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "RUNNER_TOOL_CACHE": str(self.tools),
            "RUNNER_TEMP": str(files),
            **{name: str(files / name) for name in ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_ENV")},
            **self.environment,
            **more,
        }
        command = [sys.executable, "-I", str(self.tree / "actions/setup/setup.py"), step]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        return Job(process, files)

    def __call__(self, step: str = "install", **more: str) -> Job:
        return self.start(step, **more).ended()


@dataclass
class Job:
    """One step's process, and the runner's files that it wrote."""

    process: subprocess.Popen[str]
    files: Path
    output: str = ""

    def ended(self) -> Job:
        self.output, _ = self.process.communicate(timeout=DEADLINE_S)
        return self

    @property
    def code(self) -> int:
        return self.process.returncode

    @property
    def installed(self) -> bool:
        return " -m pip install " in self.output

    def wrote(self, name: str) -> list[str]:
        file = self.files / name
        return file.read_text().splitlines() if file.exists() else []

    @property
    def command(self) -> Path:
        assert self.code == 0, self.output
        return Path(self.wrote("GITHUB_PATH")[0]) / "torchrelay"


def printed(command: Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> list[str]:
    done = subprocess.run([str(command)], env=environment, cwd=cwd, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A runner with the small tree installed; tests that break it repair it."""
    folder = tmp_path_factory.mktemp("small")
    runner = Runner(folder, small_tree(folder / "deploy"))
    first, second = runner.start(), runner.start()
    for job in (first.ended(), second.ended()):
        assert job.code == 0, job.output
    assert [first.installed, second.installed].count(True) == 1, "two jobs at once: one installs and the other waits"
    assert first.command == second.command
    return runner


def test_the_path_gets_only_one_command(small: Runner) -> None:
    job = small()
    assert not job.installed
    assert [path.name for path in job.command.parent.iterdir()] == ["torchrelay"]
    assert set(job.wrote("GITHUB_OUTPUT")) == {"version=9.8.7", f"path={job.command.parent}"}
    assert job.wrote("GITHUB_ENV") == []
    assert str(small.tools) in printed(job.command)[1]


def test_locate_names_the_environment_that_install_uses(small: Runner) -> None:
    outputs = dict(line.split("=", 1) for line in small("locate").wrote("GITHUB_OUTPUT"))
    assert outputs["environment"] == str(small.tools / "torchrelay/environments" / outputs["key"])
    assert Path(outputs["environment"], "complete").is_file()
    assert f"-py{outputs['python-version']}-" in outputs["key"]


def test_the_weights_cache_is_exported_to_later_steps(small: Runner) -> None:
    assert small(INPUT_WEIGHTS_CACHE="/mnt/weights").wrote("GITHUB_ENV") == ["TORCHRELAY_WEIGHTS_CACHE=/mnt/weights"]
    refused = small(INPUT_WEIGHTS_CACHE="/mnt/weights\nPATH=/evil")
    assert refused.code == 1
    assert refused.wrote("GITHUB_ENV") == [], "no second variable"


def test_torch_index_and_base_image_are_exported_to_later_steps(small: Runner) -> None:
    text = small(INPUT_TORCH_INDEX="https://index.example/cpu", INPUT_BASE_IMAGE="debian@sha256:1").wrote("GITHUB_ENV")
    assert text == ["TORCHRELAY_TORCH_INDEX=https://index.example/cpu", "TORCHRELAY_BASE_IMAGE=debian@sha256:1"]
    assert small(INPUT_TORCH_INDEX="", INPUT_BASE_IMAGE="").wrote("GITHUB_ENV") == [], "empty leaves the job's own alone"


def test_the_callers_python_settings_are_neither_used_nor_changed(small: Runner, tmp_path: Path) -> None:
    """The user has packages on PYTHONPATH, in the working folder and in another scripts/, and settings for pip."""
    own = tmp_path / "own"
    for name in ("packaging", "torchrelay", "scripts/torchrelay"):
        (own / name).mkdir(parents=True)
        (own / name / "__init__.py").write_text("raise SystemExit('the caller\\'s')\n")
    target, venv = tmp_path / "target", tmp_path / "venv"
    theirs = {"PYTHONPATH": str(own), "PIP_TARGET": str(target), "VIRTUAL_ENV": str(venv), "PIP_USER": "1"}
    shutil.rmtree(small.tools / "torchrelay/environments")
    job = small(**theirs)
    assert job.installed, job.output
    assert not target.exists()
    assert not venv.exists()
    text = printed(job.command, {**os.environ, **theirs}, own)
    assert str(small.tools) in text[0], "our own packaging"
    assert text[2] == str(own), "and what the command starts still gets the caller's environment"


def test_the_command_works_without_the_actions_folder(small: Runner, tmp_path: Path) -> None:
    tree = shutil.copytree(small.tree, tmp_path / "deploy")
    command = Runner(small.folder, tree, 900)().command
    shutil.rmtree(tree)
    assert printed(command)


def test_other_code_with_the_same_lock_is_a_separate_command(small: Runner, tmp_path: Path) -> None:
    tree = shutil.copytree(small.tree, tmp_path / "deploy")
    cli = tree / "scripts/torchrelay/cli/main.py"
    cli.write_text(cli.read_text().replace("9.8.7", "9.9.0"))
    job = Runner(small.folder, tree, 800)()
    assert not job.installed
    assert "version=9.9.0" in job.wrote("GITHUB_OUTPUT")
    assert "version=9.8.7" in small().wrote("GITHUB_OUTPUT")


@pytest.mark.parametrize("damage", ["package", "marker"])
def test_a_broken_environment_is_reinstalled(small: Runner, damage: str) -> None:
    environment = next((small.tools / "torchrelay/environments").iterdir())
    if damage == "package":
        shutil.rmtree(next(environment.glob("venv/lib/python*/site-packages/packaging")))
    else:  # a killed job's: the command runs, and a package that it imports later may be missing
        (environment / "complete").unlink()
    job = small()
    assert job.installed, job.output
    assert printed(job.command)
    assert not small().installed


def test_a_job_killed_while_installing_does_not_block_others(small: Runner) -> None:
    environments = small.tools / "torchrelay/environments"
    shutil.rmtree(environments)
    job = small.start()
    until(lambda: any(environments.glob("*/venv/bin/python")))
    os.killpg(job.process.pid, signal.SIGKILL)
    job.ended()
    assert not list(environments.glob("*/complete"))
    again = small()
    assert again.installed, again.output
    assert printed(again.command)


@pytest.mark.parametrize(
    ("instead", "text"),
    [(f" --hash=sha256:{'0' * 64}", "DO NOT MATCH THE HASHES"), ("", "Hashes are required in --require-hashes mode")],
)
def test_a_package_without_the_locked_hash_is_not_installed(tmp_path: Path, instead: str, text: str) -> None:
    tree = small_tree(tmp_path / "deploy")
    lock = tree / "requirements/package.txt"
    lock.write_text(lock.read_text().split()[0] + instead + "\n")
    job = Runner(tmp_path, tree)()
    assert job.code == 1
    assert text in job.output
    assert job.wrote("GITHUB_PATH") == []
    assert not list(tmp_path.rglob("environments/*/complete"))


def test_a_held_lock_ends_the_step_and_names_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("setup_action", ROOT / "actions/setup/setup.py")
    assert spec is not None
    assert spec.loader is not None
    setup = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "setup_action", setup)
    spec.loader.exec_module(setup)
    monkeypatch.setattr(setup, "WAIT_S", 0.3)
    job = {"GITHUB_REPOSITORY": "acme/models", "GITHUB_JOB": "build", "GITHUB_RUN_ID": "42"}
    with setup.exclusive(tmp_path, job), pytest.raises(SystemExit), setup.exclusive(tmp_path, {}):
        pass
    error = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("::error "))
    assert f"process {os.getpid()} acme/models build 42" in error
    with setup.exclusive(tmp_path, {}):
        pass
    assert not (tmp_path / "lock.holder").exists()


def old_python(folder: Path, version: str) -> str:
    """A program that answers as a Python of another version: stands in for one, of which this machine may have none."""
    program = folder / "python-other"
    program.write_text(f"#!/bin/sh\necho '[[{version}], \"/usr/bin/python\"]'\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("version", "text"), [("3, 10, 4", "is 3.10.4"), ("2, 7, 18", "is 2.7.18"), ("", "does not run"), (None, "not found")]
)
def test_an_unusable_python_is_reported_with_a_fix(small: Runner, tmp_path: Path, version: str | None, text: str) -> None:
    python = old_python(tmp_path, version) if version is not None else str(tmp_path / "nowhere")
    if version == "":
        Path(python).write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    job = small(TORCHRELAY_PYTHON=python)
    assert job.code == 1
    line = next(line for line in job.output.splitlines() if line.startswith("::error "))
    assert text in line
    assert "no Python 3.11 or later" in line
    assert "actions/setup-python" in line
    assert job.wrote("GITHUB_PATH") == []


def test_without_a_tool_cache_the_jobs_folder_is_used(small: Runner) -> None:
    job = small("locate", RUNNER_TOOL_CACHE="")
    assert f"environment={job.files}/torchrelay/" in "\n".join(job.wrote("GITHUB_OUTPUT"))
    nowhere = small("locate", RUNNER_TOOL_CACHE="", RUNNER_TEMP="")
    assert nowhere.code == 1
    assert "run this as a step of a workflow" in nowhere.output


def test_the_installed_package_is_complete(tmp_path: Path) -> None:
    """Made of the real lock; the command then works on a model without this checkout: handlers, runtime and schemas came along."""
    job = Runner(tmp_path, ROOT)()
    environment = {**os.environ, "TORCHRELAY_CACHE": str(tmp_path / "cache")}
    model = shutil.copytree(ROOT / "examples/tabular", tmp_path / "model", ignore=shutil.ignore_patterns(".torchrelay"))
    for verb in ("check", "archive"):
        done = subprocess.run(
            [str(job.command), verb, str(model)], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
    package = next((tmp_path / "tools/torchrelay/packages").iterdir())
    used = {path for path in layout_paths() if path.exists()}
    assert {path for path in used if not (package / path.relative_to(ROOT)).exists()} == set()


def layout_paths() -> list[Path]:
    """Every file or folder of the repository that the package's modules name."""
    from torchrelay.core import paths

    named = [path for path in vars(paths).values() if isinstance(path, Path) and path != paths.ROOT]
    for module in (ROOT / "scripts/torchrelay").rglob("*.py"):
        for parts in re.findall(r"\bROOT((?: / \"[\w.-]+\")+)", module.read_text()):
            named.append(ROOT.joinpath(*re.findall(r'"([\w.-]+)"', parts)))
    return named


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
