"""The statements about an image: in-toto (v1) with its verdict, its SLSA provenance (v1) and its bill of materials."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from torchrelay import __version__
from torchrelay.attestation.image_contents import Contents
from torchrelay.model.model import Model
from torchrelay.model.origin import Origin
from torchrelay.oci.image import Image, canonical

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SBOM = "https://cyclonedx.org/bom"
VERDICT = "https://torchrelay.org/verdict/v2"
BUILD_TYPE = "https://torchrelay.org/relay/v1"
BY_HAND = "https://torchrelay.org/builder/by-hand"  # not a workflow: only the owner of the key vouches for the run
RUNTIME_LABEL = "org.torchrelay.runtime"
DEPENDENCIES = "torchrelay dependencies"
ADDED = (DEPENDENCIES, "torchrelay weights", "torchrelay handler")  # names of the layers that build puts above the runtime image

_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Builder:
    """The workflow that signs (`id`: its address) and its run."""

    id: str
    run: str


def builder_of(environment: Mapping[str, str], source: Origin) -> Builder:
    """Return the builder from GitHub's environment of the signing job: the build job ran the model's code and is not trusted."""
    server, workflow = environment.get("GITHUB_SERVER_URL", "https://github.com"), environment.get("GITHUB_WORKFLOW_REF", "")
    repository, run = environment.get("GITHUB_REPOSITORY", ""), environment.get("GITHUB_RUN_ID", "")
    address = f"{server}/{repository}/actions/runs/{run}" if run else source.run
    return Builder(f"{server}/{workflow}" if workflow else BY_HAND, address)


def public_uri(uri: str) -> str:
    """Return a valid URI without its query, which holds the signature of a signed URL; the version id of an s3 address stays."""
    parts = urlsplit(uri)
    query = parts.query if parts.scheme == "s3" else ""
    public = urlunsplit((parts.scheme, parts.netloc, quote(parts.path, safe="/%@:+~"), query, ""))
    return _STRAY_PERCENT.sub("%25", public)


def statement(predicate_type: str, predicate: Any, name: str, digest: str) -> bytes:
    """Return a statement about one image: `name` is host/repository, `digest` its manifest's (`sha256:...`)."""
    subject = [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}]
    return canonical({"_type": STATEMENT, "subject": subject, "predicateType": predicate_type, "predicate": predicate})


def provenance(image: Image, model: Model, version: str, source: Origin, contents: Contents, builder: Builder) -> dict[str, Any]:
    """Return the predicate: the inputs of the image, its builder and its run (slsa.dev/spec/v1.0/provenance)."""
    parameters = model.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    parameters |= {"version": version, "weights": public_uri(model.weights.uri)}
    run = {"builder": {"id": builder.id, "version": {"torchrelay": __version__}}}
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"model": parameters, **({"ref": source.ref} if source.ref else {})},
            "resolvedDependencies": [
                *_commit(source, builder),
                *_weights(model, contents),
                *_runtime(image),
                *_requirements(image, model, contents),
            ],
        },
        "runDetails": run | ({"metadata": {"invocationId": builder.run}} if builder.run else {}),
    }


def _commit(source: Origin, builder: Builder) -> list[dict[str, Any]]:
    if not source.commit:
        return []
    server = builder.run.partition(f"/{source.repository}/")[0] if source.repository in builder.run else "https://github.com"
    address = {"uri": f"git+{server}/{source.repository}"} if source.repository else {}
    return [{"name": "source", **address, "digest": {"gitCommit": source.commit}}]


def _weights(model: Model, contents: Contents) -> list[dict[str, Any]]:
    if (file := contents.weights) is None:
        return []
    code = {"annotations": {"format": model.weights.format, "executes_code": True}} if model.weights.executes_code else {}
    return [{"name": "weights", "uri": public_uri(model.weights.uri), "digest": {"sha256": file.sha256}, **code}]


def _runtime(image: Image) -> list[dict[str, Any]]:
    """Return the runtime image by the digest of its build context and arguments, with its layers as pushed."""
    inputs = (image.config.get("config", {}).get("Labels") or {}).get(RUNTIME_LABEL)
    if not inputs:
        return []
    count = next((number for number, layer in enumerate(image.layers) if layer.created_by in ADDED), 0)
    layers = [layer.blob.digest for layer in image.layers[:count]]
    return [{"name": "runtime", "digest": {"sha256": inputs}, "annotations": {"of": "build inputs", "layers": layers}}]


def _requirements(image: Image, model: Model, contents: Contents) -> list[dict[str, Any]]:
    """Return the requirements file and the layer installed from it: the file need not pin all versions."""
    if not model.requirements:
        return []
    file = contents.model_file(model.requirements.rpartition("/")[2])
    layers = [layer.blob.digest for layer in image.layers if layer.created_by == DEPENDENCIES]
    digest = {"digest": {"sha256": file.sha256}} if file else {}
    return [{"name": "requirements", "uri": public_uri(model.requirements), **digest, "annotations": {"layers": layers}}]
