"""The bill of materials of an image, read from its layers alone: CycloneDX 1.6, the same bytes for the same image.

No clock and no random serial: the serial number is made of the document. What it does not see into: the classes inside
TorchServe's jar and the copies that Python packages vendor, neither of which carries a record.
"""

import hashlib
import uuid
from typing import Any

from torchrelay import __version__
from torchrelay.attestation.image_contents import JAVA, OS, Contents
from torchrelay.attestation.packages import Package, debian_purl, purl, pypi_purl
from torchrelay.attestation.provenance import public_uri
from torchrelay.model.model import Model
from torchrelay.oci.image import Image, canonical

SPEC = "1.6"
MEDIA_TYPE = "application/vnd.cyclonedx+json"


def sbom(image: Image, contents: Contents, model: Model | None = None) -> dict[str, Any]:
    """Return the document; `model` adds where the weights came from, which no layer says."""
    root = _root(image, contents)
    components = _components(contents, model)
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {
            "component": root,
            "tools": {"components": [{"type": "application", "name": "torchrelay", "version": __version__}]},
        },
        "components": components,
        "dependencies": [{"ref": root["bom-ref"], "dependsOn": sorted(one["bom-ref"] for one in components)}],
    }
    serial = uuid.UUID(bytes=hashlib.sha256(canonical(document)).digest()[:16], version=4)
    return {**document, "serialNumber": serial.urn}


def _root(image: Image, contents: Contents) -> dict[str, Any]:
    name = str(contents.serving.get("name") or image.annotations.get("org.opencontainers.image.title") or "image")
    version = str(contents.serving.get("version") or image.annotations.get("org.opencontainers.image.version") or "")
    reference = purl("oci", name, image.digest)
    return {
        "type": "container",
        "bom-ref": reference,
        "name": name,
        **({"version": version} if version else {}),
        "purl": reference,
        "properties": [
            {"name": "org.torchrelay.config", "value": image.config_digest},
            {"name": "org.torchrelay.manifest", "value": image.digest},
        ],
    }


def _components(contents: Contents, model: Model | None) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    release: dict[str, Any] = next((contents.documents[path] for path in OS if contents.documents.get(path)), {})
    distribution, number = str(release.get("ID") or "debian"), str(release.get("VERSION_ID") or "")
    if release:
        system = {"type": "operating-system", "bom-ref": f"os:{distribution}", "name": distribution}
        found[system["bom-ref"]] = {**system, **({"version": number} if number else {})}
    for package in contents.debian:
        reference = debian_purl(package, distribution, number)
        found[reference] = _library(reference, package, licences=contents.licences.get(package.name, ()))
    for path, package in contents.python.items():
        reference = pypi_purl(package)
        one = found.setdefault(reference, _library(reference, package))
        one.setdefault("evidence", {"occurrences": []})["occurrences"].append({"location": f"/{path}"})
    if java := contents.documents.get(JAVA, {}).get("JAVA_VERSION"):
        reference = purl("generic", "openjdk", java)
        found[reference] = {"type": "platform", "bom-ref": reference, "name": "openjdk", "version": java, "purl": reference}
    if contents.serving.get("name"):
        found["model"] = _model(contents, model)
        for other in contents.serving.get("versions", []):
            found[f"model/{other['version']}"] = _other_version(contents, other)
    for one in found.values():
        if "evidence" in one:
            one["evidence"]["occurrences"].sort(key=lambda place: place["location"])
    return [found[key] for key in sorted(found)]


def _library(reference: str, package: Package, licences: tuple[str, ...] = ()) -> dict[str, Any]:
    declared: list[dict[str, Any]] = [
        {"license": {"name": name, "acknowledgement": "declared"}} for name in (licences or package.licences)
    ]
    if package.expression:
        declared = [{"expression": package.licences[0], "acknowledgement": "declared"}]
    return {
        "type": "library",
        "bom-ref": reference,
        "name": package.name,
        "version": package.version,
        "purl": reference,
        **({"licenses": declared} if declared else {}),
    }


def _model(contents: Contents, model: Model | None) -> dict[str, Any]:
    parts = []
    if (weights := contents.weights) is not None:
        parts.append(
            {
                "type": "file",
                "bom-ref": "model/weights",
                "name": contents.weights_name,
                "hashes": [{"alg": "SHA-256", "content": weights.sha256}],
                "properties": [{"name": "org.torchrelay.size", "value": str(weights.size)}],
                **({"externalReferences": [_source(model)]} if model else {}),
            }
        )
    serving = contents.serving
    version = {"version": serving["version"]} if serving.get("version") else {}
    return {"type": "machine-learning-model", "bom-ref": "model", "name": serving["name"], **version, "components": parts}


def _other_version(contents: Contents, other: dict[str, str]) -> dict[str, Any]:
    """Return another version of the model in the same image, with every file of its archive: which are weights no layer says."""
    reference, folder = f"model/{other['version']}", other["model_dir"].strip("/") + "/"
    files = [
        {
            "type": "file",
            "bom-ref": f"{reference}/{path.removeprefix(folder)}",
            "name": path.removeprefix(folder),
            "hashes": [{"alg": "SHA-256", "content": file.sha256}],
        }
        for path, file in sorted(contents.files.items())
        if path.startswith(folder)
    ]
    kind, name = "machine-learning-model", contents.serving["name"]
    return {"type": kind, "bom-ref": reference, "name": name, "version": other["version"], "components": files}


def _source(model: Model) -> dict[str, str]:
    return {"type": "distribution", "url": public_uri(model.weights.uri)}
