"""The bill of materials has the names and versions that dpkg, pip and java report inside the running image."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import docker
import pytest

from tests.container.conftest import cpu_settings
from tests.small_image import model, model_layers
from torchrelay.attestation.image_contents import contents
from torchrelay.attestation.sbom import sbom
from torchrelay.core.progress import Quiet
from torchrelay.image.runtime import ensure_runtime, inputs_digest, tag_of
from torchrelay.oci.image import canonical
from torchrelay.stages.build import compose


@pytest.fixture(scope="module")
def image() -> str:
    """The tag of this checkout's runtime image, exported into the cache."""
    ensure_runtime(cpu_settings(), Quiet())
    return tag_of(inputs_digest(cpu_settings()))


@pytest.fixture(scope="module")
def document(image: str) -> dict[str, Any]:
    assert image
    composed = compose(ensure_runtime(cpu_settings(), Quiet()), list(model_layers()), {})
    listed = sbom(composed, contents(composed, Quiet()), model())
    assert canonical(sbom(composed, contents(composed, Quiet()), model())) == canonical(listed)
    return listed


def listed(document: dict[str, Any], kind: str) -> set[tuple[str, str]]:
    return {(one["name"], one["version"]) for one in document["components"] if one.get("purl", "").startswith(f"pkg:{kind}/")}


def inside(client: docker.DockerClient, image: str, *command: str) -> str:
    output = client.containers.run(
        image, list(command[1:]), entrypoint=command[0], remove=True, network_mode="none", read_only=True
    )
    return bytes(output).decode()


def test_debian_packages_are_those_that_dpkg_lists(client: docker.DockerClient, image: str, document: dict[str, Any]) -> None:
    output = inside(
        client, image, "dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${Package} ${Version} ${Architecture}\\n"
    )
    installed = [line.split() for line in output.splitlines() if line[1] == "i"]
    assert len(installed) > 80
    assert listed(document, "deb") == {(name, version) for _, name, version, _ in installed}
    urls = {one["purl"] for one in document["components"] if one.get("purl", "").startswith("pkg:deb/debian/")}
    assert {url.partition("?")[2].partition("&")[0] for url in urls} == {f"arch={arch}" for _, _, _, arch in installed}
    assert {unquote(url.removeprefix("pkg:deb/debian/").partition("?")[0]) for url in urls} == {
        f"{name}@{version}" for _, name, version, _ in installed
    }


def test_python_packages_are_those_that_pip_lists(client: docker.DockerClient, image: str, document: dict[str, Any]) -> None:
    output = inside(client, image, "python", "-m", "pip", "list", "--format", "json", "--disable-pip-version-check")
    assert listed(document, "pypi") == {(one["name"], one["version"]) for one in json.loads(output)}
    assert "torchserve" in {name for name, _ in listed(document, "pypi")}


def test_java_has_the_version_that_runs(client: docker.DockerClient, image: str, document: dict[str, Any]) -> None:
    output = inside(client, image, "/opt/torchrelay/jre/bin/java", "--version")
    ((_, version),) = {pair for pair in listed(document, "generic") if pair[0] == "openjdk"}
    assert version in output.splitlines()[0]
