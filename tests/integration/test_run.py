"""tests/run.py against tiny test folders: what it prints, counts and returns, also after a crash and an interrupt."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.run import KINDS
from torchrelay.core.paths import ROOT

LIMIT_S = 120
PROGRAM = """\
import sys
from pathlib import Path
from tests.run import Kind, main

sys.exit(main([Kind(name, (name,)) for name in sys.argv.pop(1).split(",")], Path.cwd()))
"""
PASSES = "def test_passes(): pass\n"
FAILS = "def test_fails(): assert 1 + 1 == 3\n"


def start(root: Path, files: dict[str, str]) -> subprocess.Popen[str]:
    """Start the runner over these folders, a kind each, of which `files` gives the one test file."""
    (root / "pytest.ini").touch()
    for name, text in files.items():
        (root / name).mkdir()
        (root / name / f"test_{name}.py").write_text(text)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, ",".join(files)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("files", "code", "summary", "shown"),
    [
        ({"first": PASSES, "second": PASSES}, 0, "2 passed, 0 failed, 0 skipped", "second: "),
        ({"first": PASSES, "second": FAILS}, 1, "1 passed, 1 failed, 0 skipped", "failed: second/test_second.py::test_fails"),
        (
            {"first": "import pytest\n@pytest.mark.skip(reason='why')\ndef test_skipped(): pass\n" + PASSES},
            0,
            "1 passed, 0 failed, 1 skipped",
            "first: ",
        ),
        (
            {
                "first": "import pytest\n@pytest.fixture\ndef broken():\n    yield\n    raise OSError\n"
                "def test_tears_down(broken): assert False\ndef test_passes_before_it(broken): pass\n"
            },
            1,
            "0 passed, 2 failed, 0 skipped",
            "failed: first/test_first.py::test_passes_before_it",
        ),
        ({"first": PASSES, "second": "import nothing_of_that_name\n"}, 1, "1 passed, 1 failed, 0 skipped", "No module named"),
        ({"first": PASSES, "second": "test = 1\n"}, 1, "1 passed, 1 failed, 0 skipped", "second: "),
        (
            {"first": PASSES, "second": PASSES + "import os, signal\ndef test_dies(): os.kill(os.getpid(), signal.SIGKILL)\n"},
            1,
            "2 passed, 1 failed, 0 skipped",
            "killed by signal 9 before its end",
        ),
        (
            {"first": "import os\nos._exit(0)\n" + PASSES, "second": PASSES},
            1,
            "1 passed, 1 failed, 0 skipped",
            "ended with 0 before its end",
        ),
    ],
    ids=["all pass", "one fails", "skipped", "a teardown fails", "not importable", "nothing collected", "killed", "ends early"],
)
def test_the_sum_of_all_kinds(tmp_path: Path, files: dict[str, str], code: int, summary: str, shown: str) -> None:
    runner = start(tmp_path, files)
    output, _ = runner.communicate(timeout=LIMIT_S)
    assert output.splitlines()[-1] == summary, output
    assert shown in output
    assert runner.returncode == code


def test_a_failure_is_shown_while_other_tests_run(tmp_path: Path) -> None:
    waiting = "import pathlib, time\ndef test_waits():\n    while not pathlib.Path('seen').exists(): time.sleep(0.05)\n"
    runner = start(tmp_path, {"first": waiting, "second": FAILS})
    assert runner.stdout is not None
    for line in runner.stdout:
        if line.startswith("[second] FAILED after"):
            break
    (tmp_path / "seen").touch()
    output, _ = runner.communicate(timeout=LIMIT_S)
    assert output.splitlines()[-1] == "1 passed, 1 failed, 0 skipped"


def test_an_interrupt_reaches_all_processes_and_the_sum_is_printed(tmp_path: Path) -> None:
    """As `timeout --signal=INT` does: the signal goes to the runner and to its whole group."""
    waiting = (
        "import pytest, time\n"
        "@pytest.fixture\ndef resource():\n    yield\n    print('taken down')\n    open('torn-down-NAME', 'w').close()\n"
        "def test_passes(): pass\n"
        "def test_waits(resource):\n    print('', flush=True)\n    open('waiting-NAME', 'w').close()\n    time.sleep(600)\n"
    )
    names = ("first", "second", "third")
    runner = start(tmp_path, {name: waiting.replace("NAME", name) for name in names})
    assert runner.stdout is not None
    while not all((tmp_path / f"waiting-{name}").exists() for name in names[:2]):
        assert runner.poll() is None, runner.stdout.read()
        time.sleep(0.05)
    runner.send_signal(signal.SIGINT)
    os.killpg(runner.pid, signal.SIGINT)
    output, _ = runner.communicate(timeout=LIMIT_S)
    lines = output.splitlines()
    assert lines[-1] == "2 passed, 3 failed, 0 skipped", output  # two cut, one kind not run
    assert "  third: not run" in lines
    for name in names[:2]:
        assert f"had not ended: {name}/test_{name}.py::test_waits" in output
        assert (tmp_path / f"torn-down-{name}").exists()
    assert runner.returncode == 1


def test_every_test_file_belongs_to_exactly_one_kind() -> None:
    for file in (ROOT / "tests").rglob("test_*.py"):
        path = file.relative_to(ROOT).as_posix()
        if "/cases/" in path:
            continue
        kinds = []
        for kind in KINDS:
            ignored = [one.removeprefix("--ignore=") for one in kind.arguments if one.startswith("--ignore=")]
            included = [one for one in kind.arguments if not one.startswith("--")]
            under = [f"{path}/".startswith(f"{one}/") for one in included]
            if any(under) and not any(f"{path}/".startswith(f"{one}/") for one in ignored):
                kinds.append(kind.name)
        assert len(kinds) == 1, (path, kinds)
