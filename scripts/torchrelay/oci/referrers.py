"""The artifacts that refer to an image in its registry (distribution-spec 1.1): by the referrers API, or by its fallback tag."""

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlparse

import requests

from torchrelay.core.errors import RegistryError
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.progress import Quiet
from torchrelay.core.retry import Policy, RetryLater, retrying
from torchrelay.oci.blobs import from_bytes, sha256_digest
from torchrelay.oci.image import MANIFEST_TYPE, canonical
from torchrelay.oci.registry import Registry

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE, EMPTY = "application/vnd.oci.empty.v1+json", b"{}"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
DOCUMENT_LIMIT = 4 << 20  # bytes of a manifest or index: the most that registries accept
MOST_REFERRERS = 10_000  # of one image; more are an error
WITHOUT_API = (400, 404, 406)  # answers of registries older than 1.1
OVERWRITTEN = Policy(attempts=8, first_wait_s=0.5, longest_wait_s=8.0)


@dataclass(frozen=True)
class Referrer:
    """One artifact that names the image as its subject, as the registry lists it: untrusted."""

    digest: str
    artifact_type: str
    annotations: dict[str, str]


def fallback_tag(digest: str) -> str:
    """Return the tag that lists an image's referrers where the registry has no API for them."""
    return digest.replace(":", "-")


def referrers(registry: Registry, repository: str, digest: str) -> list[Referrer]:
    """List the artifacts that refer to an image. Raises RegistryError, also when the list has no end."""
    listed = _by_api(registry, repository, digest)
    if listed is None:
        listed = _entries(_index(registry, repository, digest))
    return [referrer for entry in listed if (referrer := _referrer(entry)) is not None]


def _referrer(entry: Any) -> Referrer | None:
    digest = entry.get("digest") if isinstance(entry, dict) else None
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        return None
    annotations = entry.get("annotations")
    texts = {key: text for key, text in annotations.items() if isinstance(text, str)} if isinstance(annotations, dict) else {}
    return Referrer(digest, str(entry.get("artifactType", "")), texts)


def _by_api(registry: Registry, repository: str, digest: str) -> list[Any] | None:
    """Return the entries of all pages of the API's answer; None when the registry does not have this API."""
    entries: list[Any] = []
    path = f"/v2/{repository}/referrers/{digest}"
    seen = {path}
    while True:
        answer, content = registry.read(path, DOCUMENT_LIMIT, {"Accept": INDEX_TYPE}, (200, *WITHOUT_API))
        if answer.status_code != 200:
            return None
        entries += _entries(_document(content, f"{registry.base}{path}"))
        path = _next_page(registry, answer)
        if not path:
            return entries
        if path in seen or len(entries) > MOST_REFERRERS:
            raise RegistryError(
                f"{registry.base}: the list of artifacts that refer to {digest} has no end", "check the registry's log"
            )
        seen.add(path)


def _next_page(registry: Registry, answer: requests.Response) -> str:
    """Return the path of the next page, which must be on the same host because the credentials are sent to it."""
    link = answer.links.get("next", {}).get("url", "")
    if not link:
        return ""
    target = urlparse(urljoin(answer.url, link))
    if target.netloc != urlparse(registry.base).netloc:
        raise RegistryError(
            f"{registry.base}: the list of referrers continues on another host, {target.netloc}", "check the registry's log"
        )
    return f"{target.path}?{target.query}"


def _document(content: bytes, where: str) -> dict[str, Any]:
    try:
        document = parse_untrusted(content)
    except ValueError as error:
        raise RegistryError(f"{where} is not JSON", "check the registry's log") from error
    if not isinstance(document, dict) or not isinstance(document.get("manifests"), list):
        raise RegistryError(f"{where} is not an index", "delete it from the registry, then attest again")
    return document


def _entries(index: dict[str, Any]) -> list[Any]:
    if len(index["manifests"]) > MOST_REFERRERS:
        raise RegistryError(
            f"more than {MOST_REFERRERS} artifacts refer to one image", "delete unneeded artifacts from the registry"
        )
    return list(index["manifests"])


def _index(registry: Registry, repository: str, digest: str) -> dict[str, Any]:
    path = f"/v2/{repository}/manifests/{fallback_tag(digest)}"
    answer, content = registry.read(path, DOCUMENT_LIMIT, {"Accept": INDEX_TYPE}, (200, 404))
    if answer.status_code == 404:
        return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}
    return _document(content, f"{registry.base}{path}")


def artifact(subject: dict[str, Any], artifact_type: str, content: bytes, annotations: dict[str, str]) -> bytes:
    """Return the manifest of an artifact of one blob; `subject` describes the image's manifest."""
    empty = {"mediaType": EMPTY_TYPE, "digest": sha256_digest(EMPTY), "size": len(EMPTY)}
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": artifact_type,
            "config": empty,
            "layers": [{"mediaType": artifact_type, "digest": sha256_digest(content), "size": len(content)}],
            "subject": subject,
            "annotations": annotations,
        }
    )


def put_referrer(registry: Registry, repository: str, manifest: bytes, content: bytes) -> bool:
    """Store an artifact and check that the registry lists it. Returns False when it was there already. Raises RegistryError."""
    document = json.loads(manifest)
    subject, digest = document["subject"]["digest"], sha256_digest(manifest)
    if any(referrer.digest == digest for referrer in referrers(registry, repository, subject)):
        return False
    with Quiet().task("", None) as task:
        for blob in (from_bytes(content), from_bytes(EMPTY)):
            if not registry.has_blob(repository, blob.digest):
                registry.put_blob(repository, blob, task)
    registry.put_manifest(repository, digest, manifest)
    if _by_api(registry, repository, subject) is None:
        _list_by_tag(registry, repository, subject, _descriptor(document, digest, len(manifest)))
    elif not any(referrer.digest == digest for referrer in referrers(registry, repository, subject)):
        raise RegistryError(f"{registry.base}: stored {digest} but does not list it as a referrer of {subject}", "attest again")
    return True


def _descriptor(manifest: dict[str, Any], digest: str, size: int) -> dict[str, Any]:
    return {
        "mediaType": MANIFEST_TYPE,
        "digest": digest,
        "size": size,
        "artifactType": manifest["artifactType"],
        "annotations": manifest["annotations"],
    }


def _list_by_tag(registry: Registry, repository: str, subject: str, entry: dict[str, Any]) -> None:
    """Add an entry to the index under the fallback tag and keep the others. Raises RegistryError.

    Registries have no compare-and-swap: of two writers at the same moment one is overwritten. It notices and writes again.
    """

    def write() -> None:
        index = _index(registry, repository, subject)
        if _has_entry(index, entry):
            return
        index["manifests"].append(entry)
        registry.put_manifest(repository, fallback_tag(subject), canonical(index), INDEX_TYPE)
        if not _has_entry(_index(registry, repository, subject), entry):
            raise RetryLater("overwritten")

    try:
        retrying(write, OVERWRITTEN, sleep=registry.sleep)
    except RetryLater as failure:
        message = f"{registry.base}: other writers keep overwriting {repository}:{fallback_tag(subject)}"
        raise RegistryError(message, "attest again") from failure


def _has_entry(index: dict[str, Any], entry: dict[str, Any]) -> bool:
    return any(isinstance(listed, dict) and listed.get("digest") == entry["digest"] for listed in _entries(index))
