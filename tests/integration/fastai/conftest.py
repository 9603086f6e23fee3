"""Learners trained once by the real fastai, in its own environment, while other learners go through the steps in parallel."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.fastai import environment

HERE = Path(__file__).parent
RUN_S = 240


@dataclass(frozen=True)
class Exported:
    """The output of `torchrelay export-fastai --json` for a learner of train.py."""

    folder: Path
    result: dict[str, Any]
    log: str


@dataclass(frozen=True)
class Learners:
    """`folder` has the files of train.py: pictures and exported learners; `answers` are the learners' answers by name."""

    folder: Path
    answers: dict[str, np.ndarray]


def run(python: Path, script: str, folder: Path) -> None:
    argv = [str(python), "-W", "ignore", str(HERE / script), str(folder)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # more threads would only wait for each other
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=RUN_S, env=one_thread)
    assert done.returncode == 0, f"{script} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def export(python: Path, learner: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command as a user types it."""
    argv = [sys.executable, "-m", "torchrelay", "export-fastai", str(learner), "--output", str(output), "--python", str(python)]
    return subprocess.run([*argv, "--json", *more], capture_output=True, text=True, check=False, timeout=RUN_S)


@pytest.fixture(scope="session")
def fastai_python() -> Path:
    return environment.ensure()


@pytest.fixture(scope="session")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


@pytest.fixture(scope="session")
def variants_run(fastai_python: Path, tmp_path_factory: pytest.TempPathFactory, pool: ThreadPoolExecutor) -> Future[Path]:
    folder = tmp_path_factory.mktemp("variants")

    def run_variants() -> Path:
        run(fastai_python, "variants.py", folder)
        return folder

    return pool.submit(run_variants)


@pytest.fixture(scope="session")
def variants(variants_run: Future[Path]) -> Path:
    """The folder where variants.py wrote the steps' answers for each learner."""
    return variants_run.result()


@pytest.fixture(scope="session")
def learners(fastai_python: Path, tmp_path_factory: pytest.TempPathFactory, variants_run: Future[Path]) -> Learners:  # noqa: ARG001 -- this fixture starts it, to run in parallel
    folder = tmp_path_factory.mktemp("learners")
    run(fastai_python, "train.py", folder)
    with np.load(folder / "answers.npz") as answers:
        return Learners(folder, dict(answers))


@pytest.fixture(scope="session")
def exported(fastai_python: Path, learners: Learners, pool: ThreadPoolExecutor) -> dict[str, Exported]:
    def one(name: str) -> Exported:
        output = learners.folder / "exported" / name
        output.parent.mkdir(exist_ok=True)
        done = export(fastai_python, learners.folder / f"{name}.pkl", output, "--trust-pickle")
        assert done.returncode == 0, done.stderr
        return Exported(output, json.loads(done.stdout), done.stderr)

    names = ("unet", "classifier")
    return dict(zip(names, pool.map(one, names), strict=True))
