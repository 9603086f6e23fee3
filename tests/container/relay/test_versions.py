"""Two versions of a model in one server, each with modules of the same names: at /predictions/<name>/<version>, one by default."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import docker
import pytest
import requests

from tests.container.relay.runs import EXAMPLES, Cli, edit, removed_afterwards
from tests.integration.conftest import free_port

HANDLER = """
from greeting import WORD
from torchrelay_handlers import handler_factory

def init_function():
    from torch import nn
    return nn.Identity()

def postprocess_function(output):
    return {"says": WORD, "sum": float(output.sum())}

handler = handler_factory(init_function=init_function, postprocess_function=postprocess_function)
"""
MODEL = """\
name: {name}
version: {version}
weights: model.safetensors
handler: handler.py
extra_files: [greeting.py]
resources: {{cpu: 2, memory: 1Gi}}
targets: {{docker: {{port: {port}}}, local: {{port: {port}}}}}
"""


def sample(word: str, version: str = "") -> str:
    asked = {"version": version} if version else {}
    return json.dumps({"request": {"json": [1, 2]}, **asked, "expect": {"json": {"says": word, "sum": 3.0}}})


def model_of(folder: Path, name: str, version: str, port: int) -> Path:
    (folder / "samples").mkdir(parents=True)
    (folder / "model.yaml").write_text(MODEL.format(name=name, version=version, port=port))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "handler.py").write_text(HANDLER)
    (folder / "greeting.py").write_text(f"WORD = {version!r}\n")
    (folder / "samples/own.json").write_text(sample(version))
    return folder


@pytest.mark.parametrize("target", ["docker", "local"])
def test_both_versions_answer_and_the_chosen_one_is_the_default(
    cli: Cli, client: docker.DockerClient, tmp_path: Path, target: str
) -> None:
    name, port = f"two-{secrets.token_hex(3)}", free_port()
    model_of(tmp_path / "old", name, "1.0", port)
    folder = model_of(tmp_path / "new", name, "2.0", port)
    assert cli("archive", tmp_path / "old", "--output", folder / "old.mar").code == 0
    with (folder / "model.yaml").open("a") as file:
        file.write("versions: [old.mar]\ndefault_version: 1.0\n")
    (folder / "samples/own.json").write_text(sample("1.0"))
    (folder / "samples/new.json").write_text(sample("2.0", "2.0"))
    with removed_afterwards(client, name):
        try:
            done = cli("relay", folder, "--target", target, "--json")
            assert done.code == 0, done.output
            url = f"http://127.0.0.1:{port}/predictions/{name}"
            words = {
                path: requests.post(url + path, json=[1, 2], timeout=10).json().get("says") for path in ("", "/1.0", "/2.0", "/3.0")
            }
            assert words == {"": "1.0", "/1.0": "1.0", "/2.0": "2.0", "/3.0": None}
            if target == "docker":
                edit(folder / "greeting.py", "'2.0'", "'3.0'")
                edit(folder / "samples/new.json", '"json": {"says": "2.0"', '"json": {"says": "wrong"')
                cli("relay", folder, "--target", target).refused(20, "new: ")
                assert requests.post(f"{url}/2.0", json=[1, 2], timeout=10).json()["says"] == "2.0"
        finally:
            cli("delete", folder, "--target", target)


def test_the_archive_of_another_model_is_refused(cli: Cli, tmp_path: Path) -> None:
    folder = model_of(tmp_path / "new", "one-name", "2.0", 8080)
    assert cli("archive", EXAMPLES / "tabular", "--output", folder / "old.mar").code == 0
    with (folder / "model.yaml").open("a") as file:
        file.write("versions: [old.mar, handler.py, gone.mar]\ndefault_version: '3'\n")
    problems = cli("check", folder).err
    assert 'model.yaml:8: versions[0]: "old.mar" is an archive of model "tabular", this model is one-name' in problems
    assert 'versions[1]: "handler.py" is not a model archive' in problems
    assert 'versions[2]: "gone.mar" does not exist' in problems
    edit(folder / "model.yaml", "versions: [old.mar, handler.py, gone.mar]\n", "")
    assert 'default_version: there is no version "3" here; write one of 2.0' in cli("check", folder).err
