"""Weights and other files outside of the checkout: refused in a workflow, elsewhere only with --allow-outside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.errors import fails
from torchrelay.core.errors import ModelInvalid, TorchrelayError, WeightsMissing
from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.model.outside import PERMISSION, checkout, named_by_user
from torchrelay.model.server_config import load_model
from torchrelay.stages import check, fetch
from torchrelay.weights.sources.file import local_path

GOOD = "name: m\nweights: {weights}\nhandler: tensor\nmodel_file: model.py\n"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("the runner's own")
    return path


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "checkout"
    (top / ".git").mkdir(parents=True)
    (top / ".git/config").write_text("token")
    (top / "shared").mkdir()
    (top / "shared/model.pt").write_bytes(b"weights")
    return top


def model_dir(folder: Path, weights: str = "model.pt") -> Path:
    (folder / "samples").mkdir(parents=True)
    (folder / "samples/one.json").write_text('{"request": {"json": [1]}, "expect": {"json": [1]}}')
    (folder / "model.py").write_text("def init_function(): ...\n")
    (folder / "model.yaml").write_text(GOOD.replace("{weights}", weights))
    (folder / "model.pt").write_bytes(b"weights")
    return folder


def fetched(folder: Path, uri: str) -> Path:
    model = Model.model_validate({"name": "m", "handler": "tensor", "weights": {"uri": uri}})
    return fetch.run(folder, model, cache=folder.parent / "cache", progress=Quiet()).path


def refused_everywhere(folder: Path, uri: str, words: str) -> None:
    """Assert that check, fetch and reading in place all refuse the weights, and with the same reason."""
    with fails(ModelInvalid, words=words):
        check.run(model_dir(folder, uri))
    asking: list[Callable[[], object]] = [lambda: fetched(folder, uri), lambda: local_path(uri, folder)]
    for ask in asking:
        with fails(WeightsMissing, uri.rpartition("/")[2], words=words):
            ask()


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_a_file_of_the_runner_is_refused_in_a_workflow(top: Path, secret: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setattr(PERMISSION, "option", True)  # a workflow ignores it
    uri = form.format(secret)
    if "localhost" in uri:
        with fails(WeightsMissing, words="outside of the checkout"):
            local_path(uri, model_dir(top / "m"))
    else:
        refused_everywhere(top / "m", uri, "outside of the checkout")


def test_on_a_laptop_it_needs_the_option(top: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    refused_everywhere(top / "m", str(secret), f"is outside of {top}")
    with fails(WeightsMissing, words="--allow-outside"):
        local_path(str(secret), top / "m")
    monkeypatch.setattr(PERMISSION, "option", True)
    assert fetched(top / "m", str(secret)) == secret
    assert [str(one) for one in check.run(top / "m").warnings if "only on this machine" in str(one)]


def test_links_are_resolved(top: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    folder = model_dir(top / "m")
    (folder / "link.pt").symlink_to(secret)
    (top / "folder").symlink_to(secret.parent)
    for uri in ("link.pt", str(folder / "link.pt"), str(top / "folder/secret")):
        with fails(WeightsMissing, words="outside of the checkout"):
            local_path(uri, folder)


@pytest.mark.parametrize("on_github", [True, False])
def test_control_files_of_the_checkout_are_read(top: Path, on_github: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true" if on_github else "")
    folder = model_dir(top / "models/m", str(top / "shared/model.pt"))
    assert check.run(folder).model.weights.filename == "model.pt"
    assert fetched(folder, str(top / "shared/model.pt")) == top / "shared/model.pt"
    (folder / "link.pt").symlink_to("../../shared/model.pt")
    assert fetched(folder, "link.pt").read_bytes() == b"weights"


def test_without_git_the_model_directory_is_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    folder = model_dir(tmp_path / "plain")
    assert checkout(folder) == folder
    assert fetched(folder, str(folder / "model.pt")) == folder / "model.pt"
    refused_everywhere(tmp_path / "other", str(folder / "model.pt"), "is outside of")


def test_the_repositorys_configuration_does_not_move_the_top(top: Path) -> None:
    (top / ".git/config").write_text("[core]\n\tworktree = /\n\trepositoryformatversion = 0\n")
    (top / ".git/HEAD").write_text("ref: refs/heads/main\n")
    for name in ("objects", "refs"):
        (top / ".git" / name).mkdir()
    assert checkout(model_dir(top / "m")) == top


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("weights: .git/config", "weights"),
        ("extra_files: [.git/config]", "extra_files"),
        ("extra_files: [.git]", "extra_files"),
        ("requirements: .git/config", "requirements"),
        ("samples: .git", "samples"),
        ("versions: [.git/config]", "versions"),
    ],
)
def test_gits_own_folder_is_refused(top: Path, field: str, message: str) -> None:
    model_dir(top)
    text = (top / "model.yaml").read_text()
    lines = [line for line in text.splitlines() if line.partition(":")[0] != field.partition(":")[0]]
    (top / "model.yaml").write_text("\n".join([*lines, field]) + "\n")
    with pytest.raises(ModelInvalid) as caught:
        check.run(top)
    assert any(problem.field.startswith(message) and "git's own folder" in str(problem) for problem in caught.value.problems)
    with fails(WeightsMissing, words="git's own folder"):
        local_path(str(top / ".git/config"), top)


FIELDS = {
    "weights": "weights: link",
    "handler": "handler: link.py",
    "model_file": "model_file: link.py",
    "requirements": "requirements: link",
    "extra_files": "extra_files: [link]",
    "a folder in extra_files": "extra_files: [folder]",
    "samples": "samples: linked",
    "versions": "versions: [link.mar]",
    "vocabulary": "handler: text-classifier\nhandler_args: {vocab: link}",
}


@pytest.mark.parametrize("field", FIELDS)
def test_no_field_of_model_yaml_follows_a_link_out_of_the_model_directory(top: Path, secret: Path, field: str) -> None:
    folder = model_dir(top / "m")
    for name in ("link", "link.py", "link.mar"):
        (folder / name).symlink_to(secret)
    (folder / "folder").mkdir()
    (folder / "folder/link").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    replaced = {line.partition(":")[0] for line in FIELDS[field].splitlines()}
    lines = [line for line in (folder / "model.yaml").read_text().splitlines() if line.partition(":")[0] not in replaced]
    (folder / "model.yaml").write_text("\n".join([*lines, FIELDS[field]]) + "\n")
    with pytest.raises(ModelInvalid, match="leads out of the model directory"):
        check.run(folder)


@pytest.mark.parametrize("name", ["model.yaml", "model-config.yaml", "samples/two.json", "samples/a.request.bin", "extra.tar.gz"])
def test_no_file_beside_model_yaml_is_a_link_out_of_the_model_directory(top: Path, name: str) -> None:
    outside = top / "outside"
    outside.write_text("name: m\n")
    folder = model_dir(top / "m")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(os.path.relpath(outside, (folder / name).parent))
    if name == "extra.tar.gz":
        (folder / "model-config.yaml").write_text("system: {extraFiles: extra.tar.gz}\n")
    with pytest.raises(ModelInvalid, match="leads out of the model directory"):
        check.run(folder)
    if name.startswith("model"):
        with pytest.raises(TorchrelayError, match="leads out of the model directory"):
            load_model(folder)


def test_paths_on_the_command_line_are_the_users_own(top: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with named_by_user():
        assert local_path(str(secret), model_dir(top / "m")) == secret
    with fails(WeightsMissing, words="outside of the checkout"):
        local_path(str(secret), top / "m")
