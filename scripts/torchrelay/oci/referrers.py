"""What refers to an image in its registry (distribution-spec 1.1): by the referrers API, or by the tag that stands in for it."""

import json
import random
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlparse

import requests

from torchrelay.core.errors import RegistryError
from torchrelay.core.progress import Quiet
from torchrelay.oci.blobs import from_bytes, sha256_digest
from torchrelay.oci.image import MANIFEST_TYPE, canonical
from torchrelay.oci.registry import Registry

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE, EMPTY = "application/vnd.oci.empty.v1+json", b"{}"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
DOCUMENT_LIMIT = 4 << 20  # bytes of a manifest or index: what registries take at most
MOST = 10_000  # referrers of one image that are looked through
WITHOUT_API = (400, 404, 406)  # how registries from before 1.1 answer
WRITES = 8


@dataclass(frozen=True)
class Referrer:
    """One artifact that names the image as its subject, as the registry lists it: nothing of it is checked yet."""

    digest: str
    artifact_type: str
    annotations: dict[str, str]


def fallback_tag(digest: str) -> str:
    """Return the tag that lists an image's referrers where the registry has no API for them."""
    return digest.replace(":", "-")


def referrers(registry: Registry, repository: str, digest: str) -> list[Referrer]:
    """List what refers to an image. Raises RegistryError, also when the list has no end."""
    listed = _by_api(registry, repository, digest)
    if listed is None:
        listed = _entries(_index(registry, repository, digest))
    return [found for entry in listed if (found := _referrer(entry)) is not None]


def _referrer(entry: Any) -> Referrer | None:
    digest = entry.get("digest") if isinstance(entry, dict) else None
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        return None
    notes = entry.get("annotations")
    texts = {key: value for key, value in notes.items() if isinstance(value, str)} if isinstance(notes, dict) else {}
    return Referrer(digest, str(entry.get("artifactType", "")), texts)


def _by_api(registry: Registry, repository: str, digest: str) -> list[Any] | None:
    """Every page of the API's answer; None where the registry has no such API."""
    found: list[Any] = []
    path = f"/v2/{repository}/referrers/{digest}"
    seen = {path}
    while True:
        answer, content = registry.read(path, DOCUMENT_LIMIT, {"Accept": INDEX_TYPE}, (200, *WITHOUT_API))
        if answer.status_code != 200:
            return None
        found += _entries(_document(content, f"{registry.base}{path}"))
        path = _next_page(registry, answer)
        if not path:
            return found
        if path in seen or len(found) > MOST:
            raise RegistryError(f"{registry.base}: the list of what refers to {digest} has no end", "see the registry's log")
        seen.add(path)


def _next_page(registry: Registry, answer: requests.Response) -> str:
    """Return the path of the next page, which has to be on the same host: the credentials go along."""
    link = answer.links.get("next", {}).get("url", "")
    if not link:
        return ""
    target = urlparse(urljoin(answer.url, link))
    if target.netloc != urlparse(registry.base).netloc:
        raise RegistryError(f"{registry.base}: sends the list of referrers on to {target.netloc}", "see the registry's log")
    return f"{target.path}?{target.query}"


def _document(content: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{where} is not JSON", "see the registry's log") from error
    if not isinstance(found, dict) or not isinstance(found.get("manifests"), list):
        raise RegistryError(f"{where} is no index", "see what wrote it")
    return found


def _entries(index: dict[str, Any]) -> list[Any]:
    if len(index["manifests"]) > MOST:
        raise RegistryError(f"more than {MOST} artifacts refer to one image", "remove from the registry what is not yours")
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
    """Store an artifact and see that it is listed; tells whether anything was missing.

    Raises RegistryError.
    """
    described = json.loads(manifest)
    subject, digest = described["subject"]["digest"], sha256_digest(manifest)
    if any(one.digest == digest for one in referrers(registry, repository, subject)):
        return False
    with Quiet().task("", None) as task:
        for blob in (from_bytes(content), from_bytes(EMPTY)):
            if not registry.has_blob(repository, blob.digest):
                registry.put_blob(repository, blob, task)
    registry.put_manifest(repository, digest, manifest)
    if _by_api(registry, repository, subject) is None:
        _list_by_tag(registry, repository, subject, _descriptor(described, digest, len(manifest)))
    elif not any(one.digest == digest for one in referrers(registry, repository, subject)):
        raise RegistryError(f"{registry.base}: took {digest} and does not list it as a referrer of {subject}", "attest again")
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
    """Add to the index under the fallback tag, what others wrote kept, and look again.

    No registry has compare-and-swap: of two that write at the same moment one may be overwritten, sees it, and writes once more.
    """
    for attempt in range(WRITES):
        index = _index(registry, repository, subject)
        if any(isinstance(one, dict) and one.get("digest") == entry["digest"] for one in _entries(index)):
            return
        if attempt:
            registry.sleep(random.random() * attempt)  # noqa: S311 -- parts two writers, guards nothing
            index = _index(registry, repository, subject)
        kept = [one for one in index["manifests"] if not isinstance(one, dict) or one.get("digest") != entry["digest"]]
        wanted = canonical({**index, "manifests": [*kept, entry]})
        registry.put_manifest(repository, fallback_tag(subject), wanted, INDEX_TYPE)
    raise RegistryError(f"{registry.base}: others keep overwriting {repository}:{fallback_tag(subject)}", "attest again")
