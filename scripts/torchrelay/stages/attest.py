"""Attest: signs statements about a verified image and stores them beside it in the registry; deploy can require them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torchrelay.attestation import dsse, provenance, signed_verdict
from torchrelay.attestation.image_contents import contents
from torchrelay.attestation.sbom import sbom
from torchrelay.attestation.signed_verdict import SignedVerdict, passed
from torchrelay.core.errors import BundleInvalid, InputsInvalid, NotAttested, RegistryError
from torchrelay.core.files import read_json
from torchrelay.core.progress import Progress
from torchrelay.core.workspace import Workspace
from torchrelay.model.model import Model
from torchrelay.model.origin import Origin
from torchrelay.oci.access import registry_for
from torchrelay.oci.blobs import sha256_digest
from torchrelay.oci.image import MANIFEST_TYPE, Image
from torchrelay.oci.reference import Reference, parse_reference, with_name
from torchrelay.oci.referrers import DIGEST, DOCUMENT_LIMIT, EMPTY_TYPE, Referrer, artifact, put_referrer, referrers
from torchrelay.oci.registry import MANIFEST_TYPES, Registry
from torchrelay.verification.verdict import Verdict

STATEMENT_LIMIT = 16 << 20  # bytes of one bundle; a bill of materials takes a few hundred KB
MOST_TRIED = 200  # bundles of one image that are read before it counts as not attested
CONTENT = {"dev.sigstore.bundle.content": "dsse-envelope"}
LISTED_AS = (dsse.BUNDLE_TYPE, EMPTY_TYPE, "")  # some registries list the config's type, or none: go-containerregistry 0.21
PREDICATE = "dev.sigstore.bundle.predicateType"  # cosign's annotation: only says where to look first; it is not trusted
PIN_FIX = (
    "run `TORCHRELAY_SIGNING_KEY=@signing.pem torchrelay attest --print-public-key | gh variable set TORCHRELAY_VERIFY_KEY`; "
    "while keys are exchanged it may contain several, one after the other"
)
FIX = "deploy an image that `torchrelay attest` signed, or correct the verify key"

RegistryOf = Callable[[Reference], Registry]


class VerifiedImage(Protocol):
    """The input of attest: a bundle."""

    @property
    def folder(self) -> Path:
        """Its folder."""

    @property
    def image(self) -> Image:
        """The verified image."""

    @property
    def model(self) -> Model:
        """The model, as in model.yaml."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def source(self) -> Origin:
        """The commit and repository that it was built from."""

    @property
    def verdict(self) -> Verdict:
        """The verdict of verify."""


@dataclass(frozen=True)
class Statement:
    """One signed statement in the registry: its predicate type, the digest of its artifact, and whether it was there before."""

    type: str
    digest: str
    skipped: bool = False


@dataclass(frozen=True)
class Attested:
    """The attested facts about an image: a passing verdict that the key signed, and the key's other statements."""

    reference: str
    model: str
    version: str
    config_digest: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class _Signed:
    artifact: Referrer
    statement: dict[str, Any]


def pinned(reference: str) -> tuple[Reference, str]:
    """Read `host/repository@sha256:...`. Raises NotAttested for a tag, because anyone can move it; RegistryError."""
    name, _, digest = reference.partition("@")
    if not DIGEST.fullmatch(digest):
        raise NotAttested(f"{reference} does not name a digest", "name the image as host/repository@sha256:...")
    return parse_reference(name, "latest"), digest


def pushed_reference(bundle: VerifiedImage, repository: str | None) -> str:
    """Return the reference of the bundle's image: as push recorded it, or in `repository`, which may end in / as for push.

    Raises RegistryError when nothing or a different image was pushed.
    """
    digest = bundle.image.digest
    if repository is not None:
        return f"{parse_reference(with_name(repository, bundle.model.name), 'latest').name}@{digest}"
    record = read_json(Workspace(bundle.folder).push_record)
    reference = str(record.get("reference", "")) if isinstance(record, dict) else ""
    if not reference:
        raise RegistryError(
            f"{bundle.folder}: the bundle's image was not pushed", "run `torchrelay push --bundle` first, or name --repository"
        )
    if not reference.endswith(f"@{digest}"):
        raise RegistryError(
            f"the pushed image is {reference}, but the bundle contains {digest}", "run `torchrelay push --bundle` again"
        )
    return reference


def require_pinned(signer: dsse.Signer, verify_key: str | None, environment: Mapping[str, str] = os.environ) -> None:
    """Require that deployments accept the key that is about to sign; in a workflow a verify key must be pinned outside of the job.

    A deployment that verifies with the public half of whatever key the job signed with verifies nothing. Raises InputsInvalid.
    """
    if not verify_key:
        if environment.get("GITHUB_ACTIONS") == "true":
            raise InputsInvalid("the signing key has no pinned verify key, so deploy would accept any key's signature", PIN_FIX)
        return
    accepted = {one.pem for one in dsse.verifiers(dsse.key_text(verify_key, dsse.VERIFY_KEY))}
    if signer.verifier.pem not in accepted:
        raise InputsInvalid("the signing key does not belong to the verify key: deploy would refuse what it signs", PIN_FIX)


def run(
    bundle: VerifiedImage,
    reference: str,
    signer: dsse.Signer,
    progress: Progress,
    *,
    environment: Mapping[str, str] = os.environ,
    registry_of: RegistryOf = registry_for,
) -> list[Statement]:
    """Sign bill of materials, provenance and verdict of a pushed image and store them as its referrers; the verdict comes last.

    Raises BundleInvalid when the bundle was built from a different commit than this run's, RegistryError.
    """
    target, digest = pinned(reference)
    commit = environment.get("GITHUB_SHA", "")
    if commit and bundle.source.commit and commit != bundle.source.commit:
        fix = "attest in the run that built the image, at the same commit"
        raise BundleInvalid(f"the bundle was built from commit {bundle.source.commit}, but this run is for {commit}", fix)
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
        raise RegistryError(f"{reference}: another run overwrote the referrers list and dropped {', '.join(lost)}", "attest again")
    return stored


def _predicates(bundle: VerifiedImage, progress: Progress, environment: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    held = contents(bundle.image, progress)
    builder = provenance.builder_of(environment, bundle.source)
    yield provenance.SBOM, sbom(bundle.image, held, bundle.model)
    yield (
        provenance.PROVENANCE,
        provenance.provenance(bundle.image, bundle.model, bundle.version, bundle.source, held, builder),
    )
    yield provenance.VERDICT, verdict_predicate(bundle, environment)


def verdict_predicate(bundle: VerifiedImage, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the predicate of the verdict's statement, which a keyless signer signs as well."""
    return signed_verdict.predicate(bundle.verdict.model_dump(mode="json"), bundle.source, environment)


def _manifest(registry: Registry, repository: str, digest: str) -> bytes:
    """Return a manifest by its digest, which is recomputed. Raises RegistryError."""
    path = f"/v2/{repository}/manifests/{digest}"
    _, content = registry.read(path, DOCUMENT_LIMIT, {"Accept": MANIFEST_TYPES})
    if sha256_digest(content) != digest:
        raise RegistryError(f"{registry.base}{path}: the registry returned {sha256_digest(content)}", "push the image again")
    return content


def require_attested(
    reference: str,
    verify_key: str,
    *,
    config_digest: str | None = None,
    model: str | None = None,
    source: Origin | None = None,
    registry_of: RegistryOf = registry_for,
) -> Attested:
    """Return the attested facts about an image, if the key's owner signed that exactly this image passed its gate.

    `reference` is host/repository@sha256:..., `verify_key` one or several PEM keys or @FILE; `config_digest`, `model` and `source`
    are those that the caller is about to deploy. Raises NotAttested, with the reason why each statement does not count,
    InputsInvalid, RegistryError.
    """
    keys = dsse.verifiers(dsse.key_text(verify_key, dsse.VERIFY_KEY))
    target, digest = pinned(reference)
    registry = registry_of(target)
    described = dsse.json_object(_manifest(registry, target.repository, digest), f"the manifest of {reference}")
    part = described.get("config")
    config = part.get("digest") if isinstance(part, dict) else None
    if config_digest is not None and config != config_digest:
        raise NotAttested(
            f"{reference} has the config {config}, but the image to deploy has {config_digest}", "push the image again"
        )
    signed, refused = _signed(registry, target.repository, digest, keys)
    verdicts: list[SignedVerdict] = []
    statements = []
    for one in signed:
        try:
            kind = _on_this_image(one.statement, target.name, digest)
            if kind == provenance.VERDICT:
                verdicts.append(passed(one.statement.get("predicate"), digest, config, model, source))
        except NotAttested as error:
            refused.append(error.message)
            continue
        statements.append(Statement(kind, one.artifact.digest, skipped=True))
    if not verdicts:
        reason = (
            "; ".join(dict.fromkeys(refused)) or "this key signed no verdict"
            if signed or refused
            else "the registry has no statements on it"
        )
        raise NotAttested(f"{reference}: no signed verdict says that it passed: {reason[:600]}", FIX)
    first = verdicts[0]
    return Attested(reference, first.model, first.version, first.config, tuple(statements))


def _signed(registry: Registry, repository: str, digest: str, keys: Sequence[dsse.Verifier]) -> tuple[list[_Signed], list[str]]:
    """Return the statements that one of the keys signed, verdicts first, and the reasons why the others do not count."""
    listed = [one for one in referrers(registry, repository, digest) if one.artifact_type in LISTED_AS]
    listed.sort(key=lambda one: (one.annotations.get(PREDICATE) != provenance.VERDICT, one.digest))
    signed, refused = [], []
    for one in listed[:MOST_TRIED]:
        try:
            signed.append(_Signed(one, dsse.unseal(_bundle(registry, repository, digest, one), *keys)))
        except (NotAttested, RegistryError) as error:
            refused.append(error.message)
    if len(listed) > MOST_TRIED:
        refused.append(f"{len(listed)} bundles are listed; only the first {MOST_TRIED} were read")
    return signed, refused


def _bundle(registry: Registry, repository: str, digest: str, listed: Referrer) -> bytes:
    """Return the one blob of an artifact on this image, checked against its digest. Raises NotAttested, RegistryError."""
    described = dsse.json_object(_manifest(registry, repository, listed.digest), "the artifact")
    subject, layers = described.get("subject"), described.get("layers")
    if not isinstance(subject, dict) or subject.get("digest") != digest:
        raise NotAttested("the subject of an artifact is a different image")
    layer = layers[0] if isinstance(layers, list) and len(layers) == 1 else None
    blob = layer.get("digest") if isinstance(layer, dict) else None
    if not isinstance(blob, str) or not DIGEST.fullmatch(blob):
        raise NotAttested("an artifact does not have exactly one blob")
    _, content = registry.read(f"/v2/{repository}/blobs/{blob}", STATEMENT_LIMIT)
    if sha256_digest(content) != blob:
        raise NotAttested("the content of a blob does not match its digest")
    return content


def _on_this_image(statement: dict[str, Any], name: str, digest: str) -> str:
    """Return the predicate type of a statement whose one subject is this image in this repository. Raises NotAttested."""
    subjects = statement.get("subject")
    subject = subjects[0] if isinstance(subjects, list) and len(subjects) == 1 else None
    if statement.get("_type") != provenance.STATEMENT or not isinstance(subject, dict):
        raise NotAttested("not an in-toto statement about exactly one image")
    if subject.get("digest") != {"sha256": digest.removeprefix("sha256:")}:
        raise NotAttested("a statement is about a different digest")
    if subject.get("name") != name:
        raise NotAttested(f"a statement is about a different repository, {str(subject.get('name'))[:200]}")
    return str(statement.get("predicateType"))
