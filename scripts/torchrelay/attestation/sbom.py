"""The bill of materials of an image, read from its layers alone: CycloneDX 1.6, the same bytes for the same image.

The document has no time, and its serial number is computed from its content. Two things are not listed because they carry no
record: the classes inside TorchServe's jar, and the copies of other packages that Python packages vendor.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.component_evidence import ComponentEvidence, Occurrence
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseAcknowledgement, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from torchrelay import __version__
from torchrelay.attestation.image_contents import JAVA, OS, Contents, ModelFile
from torchrelay.attestation.packages import Package, debian_purl, purl, pypi_purl
from torchrelay.attestation.provenance import public_uri
from torchrelay.model.model import Model
from torchrelay.oci.image import Image, canonical


def sbom(image: Image, contents: Contents, model: Model | None = None) -> dict[str, Any]:
    """Return the document; `model` adds where the weights came from, which no layer contains."""
    bom = Bom()
    bom.metadata.tools.components.add(Component(type=ComponentType.APPLICATION, name="torchrelay", version=__version__))
    root = bom.metadata.component = _root(image, contents)
    bom.components.update(_components(contents, model))
    bom.register_dependency(root, bom.components)
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"], document["serialNumber"]  # the library writes the clock and a random number
    for component in document["components"]:  # and orders what has no bom-ref by memory address
        component.get("licenses", []).sort(key=canonical)
        component.get("evidence", {}).get("occurrences", []).sort(key=canonical)
    serial = uuid.UUID(bytes=hashlib.sha256(canonical(document)).digest()[:16], version=4)
    return {**document, "serialNumber": serial.urn}


def _root(image: Image, contents: Contents) -> Component:
    name = str(contents.serving.get("name") or image.annotations.get("org.opencontainers.image.title") or "image")
    version = str(contents.serving.get("version") or image.annotations.get("org.opencontainers.image.version") or "")
    url = purl("oci", name, image.digest)
    return Component(
        type=ComponentType.CONTAINER,
        bom_ref=str(url),
        name=name,
        version=version or None,
        purl=url,
        properties=[
            Property(name="org.torchrelay.config", value=image.config_digest),
            Property(name="org.torchrelay.manifest", value=image.digest),
        ],
    )


def _components(contents: Contents, model: Model | None) -> Iterable[Component]:
    release: dict[str, Any] = next((contents.documents[path] for path in OS if contents.documents.get(path)), {})
    distribution, number = str(release.get("ID") or "debian"), str(release.get("VERSION_ID") or "")
    if release:
        kind = ComponentType.OPERATING_SYSTEM
        yield Component(type=kind, bom_ref=f"os:{distribution}", name=distribution, version=number or None)
    libraries: dict[str, Component] = {}
    for package in contents.debian:
        url = debian_purl(package, distribution, number)
        libraries[str(url)] = _library(url, package, licences=contents.licences.get(package.name, ()))
    for path, package in contents.python.items():
        url = pypi_purl(package)
        library = libraries.setdefault(str(url), _library(url, package))
        library.evidence = library.evidence or ComponentEvidence()
        library.evidence.occurrences.add(Occurrence(location=f"/{path}"))
    yield from libraries.values()
    if java := contents.documents.get(JAVA, {}).get("JAVA_VERSION"):
        url = purl("generic", "openjdk", java)
        yield Component(type=ComponentType.PLATFORM, bom_ref=str(url), name="openjdk", version=java, purl=url)
    if contents.serving.get("name"):
        yield _model(contents, model)
        for other in contents.serving.get("versions", []):
            yield _other_version(contents, other)


def _library(url: PackageURL, package: Package, licences: tuple[str, ...] = ()) -> Component:
    declared = LicenseAcknowledgement.DECLARED
    listed: list[License] = [DisjunctiveLicense(name=name, acknowledgement=declared) for name in licences or package.licences]
    if package.expression:
        listed = [LicenseExpression(package.licences[0], acknowledgement=declared)]
    kind = ComponentType.LIBRARY
    return Component(type=kind, bom_ref=str(url), name=package.name, version=package.version, purl=url, licenses=listed)


def _file(reference: str, name: str, file: ModelFile, **more: Any) -> Component:
    digest = HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)
    return Component(type=ComponentType.FILE, bom_ref=reference, name=name, hashes=[digest], **more)


def _model(contents: Contents, model: Model | None) -> Component:
    files = []
    if (weights := contents.weights) is not None:
        size = Property(name="org.torchrelay.size", value=str(weights.size))
        source = [_distribution(model)] if model else []
        files.append(_file("model/weights", contents.weights_name, weights, properties=[size], external_references=source))
    return _machine_learning_model("model", contents, contents.serving.get("version"), files)


def _other_version(contents: Contents, other: dict[str, str]) -> Component:
    """Return another version of the model in the same image, with every file of its archive: no layer says which are weights."""
    reference, folder = f"model@{other['version']}", other["model_dir"].strip("/") + "/"
    files = [
        _file(f"{reference}/{path.removeprefix(folder)}", path.removeprefix(folder), file)
        for path, file in contents.files.items()
        if path.startswith(folder)
    ]
    return _machine_learning_model(reference, contents, other["version"], files)


def _machine_learning_model(reference: str, contents: Contents, version: str | None, files: list[Component]) -> Component:
    kind, name = ComponentType.MACHINE_LEARNING_MODEL, contents.serving["name"]
    return Component(type=kind, bom_ref=reference, name=name, version=version or None, components=files)


def _distribution(model: Model) -> ExternalReference:
    return ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(public_uri(model.weights.uri)))
