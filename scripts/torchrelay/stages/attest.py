"""Attest: what was proved of an image, signed and kept beside it in the registry; deploy asks for it before it touches a target."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from torchrelay.attestation import dsse, provenance
from torchrelay.attestation.image_contents import contents
from torchrelay.attestation.sbom import sbom
from torchrelay.core.errors import BundleInvalid, NotAttested, RegistryError
from torchrelay.core.files import read_json
from torchrelay.core.progress import Progress
from torchrelay.core.workspace import Workspace
from torchrelay.model.model import Model
from torchrelay.model.origin import Origin
from torchrelay.oci.access import registry_for
from torchrelay.oci.blobs import sha256_digest
from torchrelay.oci.image import MANIFEST_TYPE, Image
from torchrelay.oci.reference import Reference, parse_reference
from torchrelay.oci.referrers import DIGEST, DOCUMENT_LIMIT, EMPTY_TYPE, Referrer, artifact, put_referrer, referrers
from torchrelay.oci.registry import MANIFEST_TYPES, Registry
from torchrelay.verification.verdict import Verdict

STATEMENT_LIMIT = 16 << 20  # bytes of one bundle; a bill of materials has some hundred KB
MOST_TRIED = 200  # bundles of one image that are read before it counts as not attested
CONTENT = {"dev.sigstore.bundle.content": "dsse-envelope"}
LISTED_AS = (dsse.BUNDLE_TYPE, EMPTY_TYPE, "")  # some registries list the config's type, or none: go-containerregistry 0.21
PREDICATE = "dev.sigstore.bundle.predicateType"  # cosign's annotation: says where to look first, and is believed nothing
FIX = "deploy what `torchrelay attest` has signed, or correct the verify key"

RegistryOf = Callable[[Reference], Registry]


class Proved(Protocol):
    """What is attested: a bundle."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    @property
    def image(self) -> Image:
        """The image that was proved."""

    @property
    def model(self) -> Model:
        """What model.yaml said."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def source(self) -> Origin:
        """What it was made of."""

    @property
    def verdict(self) -> Verdict:
        """What verify found."""


class _Verdict(BaseModel):
    """What deploy relies on of a verdict; whatever else an older or newer one says is left aside."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    result: Literal["passed", "gate_failed", "rolled_back", "rollback_failed"]
    model: str
    version: str
    image: str
    config: str


@dataclass(frozen=True)
class Statement:
    """One signed statement in the registry: its predicate type, the digest of its artifact, and whether it was there before."""

    type: str
    digest: str
    skipped: bool = False


@dataclass(frozen=True)
class Attested:
    """What holds for an image: a passing verdict of the key's owner, and what else that key has signed."""

    reference: str
    model: str
    version: str
    config_digest: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class _Found:
    artifact: Referrer
    statement: dict[str, Any]


def pinned(reference: str) -> tuple[Reference, str]:
    """Read `host/repository@sha256:...`. Raises NotAttested for a tag, which anyone may move, and RegistryError."""
    name, _, digest = reference.partition("@")
    if not DIGEST.fullmatch(digest):
        raise NotAttested(f"{reference} names no digest", "name the image as host/repository@sha256:...")
    return parse_reference(name, "latest"), digest


def pushed_reference(bundle: Proved, repository: str | None) -> str:
    """Return where the bundle's image is: as push wrote it down, or in `repository`, which as for push may end in /.

    Raises RegistryError when nothing was pushed, or something else.
    """
    digest = bundle.image.digest
    if repository is not None:
        name = repository + bundle.model.name if repository.endswith("/") else repository
        return f"{parse_reference(name, 'latest').name}@{digest}"
    record = read_json(Workspace(bundle.folder).push_record)
    reference = str(record.get("reference", "")) if isinstance(record, dict) else ""
    if not reference:
        raise RegistryError(
            f"{bundle.folder}: its image was not pushed", "run `torchrelay push --bundle` first, or name --repository"
        )
    if not reference.endswith(f"@{digest}"):
        raise RegistryError(f"pushed was {reference}, the bundle holds {digest}", "run `torchrelay push --bundle` again")
    return reference


def attest(
    bundle: Proved,
    reference: str,
    signer: dsse.Signer,
    progress: Progress,
    *,
    environment: Mapping[str, str] = os.environ,
    registry_of: RegistryOf = registry_for,
) -> list[Statement]:
    """Sign bill of materials, provenance and verdict of a pushed image and store them as its referrers; the verdict comes last.

    Raises BundleInvalid when the bundle is of another commit than the run that signs it, RegistryError.
    """
    target, digest = pinned(reference)
    commit = environment.get("GITHUB_SHA", "")
    if commit and bundle.source.commit and commit != bundle.source.commit:
        fix = "attest in the run that built it, at the commit that it was built of"
        raise BundleInvalid(f"the bundle is of commit {bundle.source.commit}, this run of {commit}", fix)
    registry = registry_of(target)
    manifest = _manifest(registry, target.repository, digest)
    subject = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": len(manifest)}
    stored = []
    for kind, predicate in _predicates(bundle, progress, environment):
        sealed = dsse.seal(provenance.statement(kind, predicate, target.name, digest), signer)
        described = artifact(subject, dsse.BUNDLE_TYPE, sealed, {**CONTENT, PREDICATE: kind})
        new = put_referrer(registry, target.repository, described, sealed)
        stored.append(Statement(kind, sha256_digest(described), skipped=not new))
    listed = {one.digest for one in referrers(registry, target.repository, digest)}
    if lost := [one.type for one in stored if one.digest not in listed]:
        raise RegistryError(f"{reference}: another run took {', '.join(lost)} off the list", "attest again")
    return stored


def _predicates(bundle: Proved, progress: Progress, environment: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    held = contents(bundle.image, progress)
    builder = provenance.builder_of(environment, bundle.source)
    yield provenance.SBOM, sbom(bundle.image, held, bundle.model)
    yield (
        provenance.PROVENANCE,
        provenance.provenance(bundle.image, bundle.model, bundle.version, bundle.source, held, builder),
    )
    yield provenance.VERDICT, bundle.verdict.model_dump(mode="json")


def _manifest(registry: Registry, repository: str, digest: str) -> bytes:
    """Return a manifest by its digest, which is computed again. Raises RegistryError."""
    path = f"/v2/{repository}/manifests/{digest}"
    _, content = registry.read(path, DOCUMENT_LIMIT, {"Accept": MANIFEST_TYPES})
    if sha256_digest(content) != digest:
        raise RegistryError(f"{registry.base}{path}: the registry gives {sha256_digest(content)}", "push the image again")
    return content


def demand(
    reference: str,
    verify_key: str,
    *,
    config_digest: str | None = None,
    model: str | None = None,
    registry_of: RegistryOf = registry_for,
) -> Attested:
    """Return what is attested of an image, when the owner of a key has signed that this very one passed its gate.

    `reference` is host/repository@sha256:..., `verify_key` PEM or @file; `config_digest` and `model` are what the caller is
    about to deploy. Raises NotAttested, with why each statement that was looked at does not count, InputsInvalid, RegistryError.
    """
    key = dsse.verifier(dsse.key_text(verify_key, dsse.VERIFY_KEY))
    target, digest = pinned(reference)
    registry = registry_of(target)
    described = dsse.json_object(_manifest(registry, target.repository, digest), f"the manifest of {reference}")
    part = described.get("config")
    config = part.get("digest") if isinstance(part, dict) else None
    if config_digest is not None and config != config_digest:
        raise NotAttested(f"{reference} runs {config}, what is to be deployed is {config_digest}", "push the image again")
    found, refused = _signed(registry, target.repository, digest, key)
    verdicts: list[_Verdict] = []
    statements = []
    for one in found:
        try:
            kind = _on_this_image(one.statement, target.name, digest)
            if kind == provenance.VERDICT:
                verdicts.append(_passed(one.statement.get("predicate"), digest, config, model))
        except NotAttested as error:
            refused.append(error.message)
            continue
        statements.append(Statement(kind, one.artifact.digest, skipped=True))
    if not verdicts:
        told = (
            "; ".join(dict.fromkeys(refused)) or "nothing that this key signed is a verdict"
            if found or refused
            else "there is none"
        )
        raise NotAttested(f"{reference}: no signed verdict that it passed: {told[:600]}", FIX)
    first = verdicts[0]
    return Attested(reference, first.model, first.version, first.config, tuple(statements))


def _signed(registry: Registry, repository: str, digest: str, key: dsse.Verifier) -> tuple[list[_Found], list[str]]:
    """Return the statements of bundles that the key signed, verdicts first, and why the others do not count."""
    listed = [one for one in referrers(registry, repository, digest) if one.artifact_type in LISTED_AS]
    listed.sort(key=lambda one: (one.annotations.get(PREDICATE) != provenance.VERDICT, one.digest))
    found, refused = [], []
    for one in listed[:MOST_TRIED]:
        try:
            found.append(_Found(one, dsse.unseal(_bundle(registry, repository, digest, one), key)))
        except (NotAttested, RegistryError) as error:
            refused.append(error.message)
    if len(listed) > MOST_TRIED:
        refused.append(f"{len(listed)} bundles are listed, the first {MOST_TRIED} were read")
    return found, refused


def _bundle(registry: Registry, repository: str, digest: str, listed: Referrer) -> bytes:
    """Return the one blob of an artifact on this image, checked against its digest. Raises NotAttested, RegistryError."""
    described = dsse.json_object(_manifest(registry, repository, listed.digest), "the artifact")
    subject, layers = described.get("subject"), described.get("layers")
    if not isinstance(subject, dict) or subject.get("digest") != digest:
        raise NotAttested("an artifact's subject is another image")
    layer = layers[0] if isinstance(layers, list) and len(layers) == 1 else None
    blob = layer.get("digest") if isinstance(layer, dict) else None
    if not isinstance(blob, str) or not DIGEST.fullmatch(blob):
        raise NotAttested("an artifact has not exactly one blob")
    _, content = registry.read(f"/v2/{repository}/blobs/{blob}", STATEMENT_LIMIT)
    if sha256_digest(content) != blob:
        raise NotAttested("a blob is not what its digest says")
    return content


def _on_this_image(statement: dict[str, Any], name: str, digest: str) -> str:
    """Return the predicate type of a statement whose one subject is this image in this repository. Raises NotAttested."""
    subjects = statement.get("subject")
    subject = subjects[0] if isinstance(subjects, list) and len(subjects) == 1 else None
    if statement.get("_type") != provenance.STATEMENT or not isinstance(subject, dict):
        raise NotAttested("it is no in-toto statement on one image")
    if subject.get("digest") != {"sha256": digest.removeprefix("sha256:")}:
        raise NotAttested("a statement is on another digest")
    if subject.get("name") != name:
        raise NotAttested(f"a statement is on {str(subject.get('name'))[:200]}, another repository")
    return str(statement.get("predicateType"))


def _passed(predicate: Any, digest: str, config: object, model: str | None) -> _Verdict:
    """Return a verdict that this image passed. Raises NotAttested."""
    try:
        verdict = _Verdict.model_validate(predicate)
    except ValidationError as error:
        raise NotAttested("a verdict cannot be read") from error
    if verdict.result != "passed":
        raise NotAttested(f"its verdict is {verdict.result}")
    if verdict.image != digest or verdict.config != config:
        raise NotAttested(f"a verdict is on {verdict.image} with config {verdict.config}, which the registry's image has not")
    if model is not None and verdict.model != model:
        raise NotAttested(f"a verdict is on the model {verdict.model!r}, not on {model!r}")
    return verdict
