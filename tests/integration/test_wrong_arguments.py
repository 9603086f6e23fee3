"""Wrong arguments and broken surroundings, each tried as a process: one clear error of the right kind, and no traceback."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.test_cli_verbs import ROOT, run

Arguments = list[str | Path]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns(".torchrelay", "weights.lock")
    return shutil.copytree(ROOT / "examples/tabular", tmp_path / "model", ignore=ignored)


def refused(kind: str, *arguments: str | Path, **env: str) -> str:
    """Run the command; it must end in one error of this kind, and no traceback. Return the error and its fix."""
    done = run(*arguments, "--json", **env)
    assert "Traceback" not in done.stderr, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == kind, error
    return f"{error['message']}\n{error['fix']}"


@pytest.mark.parametrize(
    "content",
    ["kind: [", "\x00\x01", "kind: Config\nclusters: [{name: c, cluster: {server: 'https://[::1'}}]\n", ""],
    ids=["not YAML", "binary", "half an address", "empty"],
)
@pytest.mark.parametrize("variable", ["KUBECONFIG", "TORCHRELAY_KUBECONFIG"])
def test_a_broken_kubeconfig(model: Path, tmp_path: Path, content: str, variable: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(content)
    refused("cluster_refused", "status", model, "--target", "kubernetes", **{variable: str(file)})


def test_a_kubeconfig_that_is_not_there(model: Path) -> None:
    for value in ("/no/such/file", "a2luZDogQ29uZmln", "a2luZDogQ29uZmln" * 300):  # the others are kubeconfigs in base64
        error = refused("cluster_refused", "status", model, "--target", "kubernetes", TORCHRELAY_KUBECONFIG=value)
        assert "TORCHRELAY_KUBECONFIG" in error
        assert value[:16] not in error, "it may be a credential"


@pytest.mark.parametrize("address", ["tcp://[::1", "unix:///no/such.sock"])
def test_no_docker_daemon(model: Path, address: str) -> None:
    error = refused("docker_unavailable", "status", model, "--target", "docker", DOCKER_HOST=address)
    assert address in error
    assert "Error(" not in error, "a Python repr"


def test_a_repository_without_an_index_is_not_trusted(model: Path) -> None:
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", "-C", model, *command], check=True)
    (model / ".torchrelay").mkdir()
    (model / ".torchrelay/verdict.json").write_text("{}")
    assert run("check", model).returncode == 0
    (model / ".git/index").write_text("garbage")
    assert ".torchrelay" in refused("model_invalid", "check", model)


@pytest.mark.parametrize("verb", [["bundle", "--output", "bundle"], ["diff", "--live-url", "http://127.0.0.1:9"], ["check"]])
def test_a_directory_that_is_not_there(verb: list[str], tmp_path: Path) -> None:
    assert "does not exist" in refused("model_invalid", *verb, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_results_that_are_not_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text("{}")
    assert str(file) in refused("inputs_invalid", "report", "--results", file)


@pytest.mark.parametrize("repository", ["http://x/y", "127.0.0.1:9/UPPER", "registry.example.com/x y"])
def test_a_wrong_repository_is_refused_before_any_work(model: Path, repository: str) -> None:
    for more in ([], ["--dry-run"]):
        assert repository in refused("registry_error", "relay", model, "--target", "docker", "--repository", repository, *more)
    refused("registry_error", "push", model, "--repository", repository, "--dry-run")
    assert not (model / "weights.lock").exists()


@pytest.mark.parametrize("address", ["foo", "file:///etc/passwd", "http://[::1", "http://h:99999"])
def test_samples_are_not_recorded_from_a_wrong_address(model: Path, address: str) -> None:
    refused("inputs_invalid", "samples", "record", model, "--all", "--url", address)


def test_an_endpoint_that_does_not_answer_is_named_once(model: Path) -> None:
    error = refused("gate_failed", "samples", "record", model, "--all", "--url", "http://127.0.0.1:9")
    assert error.count("127.0.0.1:9") == 1, error


@pytest.mark.parametrize("more", [["--sample", "setosa", "--body", "model.yaml"], ["--content-type", "text/plain"]])
def test_options_that_exclude_each_other(model: Path, more: list[str]) -> None:
    done = run("invoke", model, *more)
    assert (done.returncode, more[0] in done.stderr) == (2, True), done.stderr


def test_a_file_that_cannot_be_written_has_its_own_name_in_the_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    error = refused("system_refused", "archive", model, "--output", tmp_path / "folder")
    assert str(tmp_path / "folder") in error
    assert ".tmp" not in error


def test_without_a_verb_the_help_is_printed() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stderr.lstrip().startswith("Usage:")


def test_doctor_reports_a_mistake_in_the_weights_once(model: Path) -> None:
    (model / "model.yaml").write_text((model / "model.yaml").read_text().replace("weights: model.pt ", "weights: ftp://h/x.pt "))
    findings = json.loads(run("doctor", model, "--target", "local", "--json").stdout)
    assert "ftp" in json.dumps(findings)
    assert "no such file" not in json.dumps(findings)
