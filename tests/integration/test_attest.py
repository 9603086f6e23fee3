"""Statements in a real registry: deploy accepts valid ones, and refuses another image, key or verdict."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from tests import messages
from tests.errors import fails
from tests.small_image import Bundle, image, model_layers, runtime, verdict
from torchrelay.attestation import dsse, provenance, signed_verdict
from torchrelay.core.errors import BundleInvalid, NotAttested, RegistryError
from torchrelay.core.files import write_json
from torchrelay.core.progress import Quiet
from torchrelay.core.workspace import Workspace
from torchrelay.model.origin import Origin
from torchrelay.oci.blobs import from_bytes, sha256_digest
from torchrelay.oci.image import MANIFEST_TYPE, Image
from torchrelay.oci.reference import Reference, parse_reference
from torchrelay.oci.referrers import DOCUMENT_LIMIT, INDEX_TYPE, artifact, fallback_tag, put_referrer, referrers
from torchrelay.oci.registry import Registry
from torchrelay.stages import attest
from torchrelay.stages import attest as attesting
from torchrelay.stages.attest import pushed_reference, require_attested
from torchrelay.stages.push import push_image

KINDS = [provenance.SBOM, provenance.PROVENANCE, provenance.VERDICT]


def new_signer() -> dsse.Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return dsse.signer(SecretStr(pem.decode()))


SIGNER = new_signer()
KEY = SIGNER.verifier.pem


def client(reference: Reference) -> Registry:
    return Registry(reference.base, credentials=lambda _host: None, sleep=lambda _seconds: None)


@dataclass(frozen=True)
class Pushed:
    """An image in the registry, without statements."""

    image: Image
    target: Reference
    folder: Path

    @property
    def reference(self) -> str:
        return f"{self.target.name}@{self.image.digest}"

    @property
    def registry(self) -> Registry:
        return client(self.target)

    @property
    def subject(self) -> dict[str, Any]:
        return {"mediaType": MANIFEST_TYPE, "digest": self.image.digest, "size": len(self.image.manifest_bytes)}

    @property
    def bundle(self) -> Bundle:
        return Bundle(self.folder, self.image, verdict(self.image))

    def attest(self, signer: dsse.Signer = SIGNER, bundle: Bundle | None = None, **environment: str) -> list[attesting.Statement]:
        return attest.run(bundle or self.bundle, self.reference, signer, Quiet(), environment=environment, registry_of=client)

    def demand(self, key: str = KEY, **more: Any) -> attesting.Attested:
        return require_attested(self.reference, key, registry_of=client, **more)

    def manifest(self, digest: str) -> dict[str, Any]:
        path = f"/v2/{self.target.repository}/manifests/{digest}"
        document: dict[str, Any] = json.loads(self.registry.read(path, DOCUMENT_LIMIT, {"Accept": MANIFEST_TYPE})[1])
        return document

    def put(self, sealed: bytes, kind: str = provenance.VERDICT, subject: dict[str, Any] | None = None) -> None:
        """Store any bytes as a statement on this image."""
        notes = {**attesting.CONTENT, attesting.PREDICATE: kind}
        described = artifact(subject or self.subject, dsse.BUNDLE_TYPE, sealed, notes)
        put_referrer(self.registry, self.target.repository, described, sealed)

    def sealed(self, signer: dsse.Signer = SIGNER, *, name: str = "", digest: str = "", **changed: Any) -> bytes:
        """A verdict statement as attest makes it, with these changes."""
        today, source = changed.pop("today", None), changed.pop("source", self.bundle.source)
        predicate = signed_verdict.predicate(verdict(self.image, **changed).model_dump(mode="json"), source, {}, today)
        name, digest = name or self.target.name, digest or self.image.digest
        return dsse.seal(provenance.statement(provenance.VERDICT, predicate, name, digest), signer)


@pytest.fixture
def pushed(registry_host: str, tmp_path: Path, request: pytest.FixtureRequest) -> Pushed:
    return push_to(registry_host, request, tmp_path)


def push_to(host: str, request: pytest.FixtureRequest, folder: Path, name: str = "") -> Pushed:
    repository = name or "attest/" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    target = parse_reference(f"{host}/{repository}", "1.0")
    pushed_image = image()
    push_image(pushed_image, client(target), target, Quiet())
    return Pushed(pushed_image, target, folder)


def test_an_attested_image_is_accepted(pushed: Pushed) -> None:
    with fails(NotAttested, pushed.reference, words=messages.NO_STATEMENTS):
        pushed.demand()
    stored = pushed.attest()
    assert [one.type for one in stored] == KINDS
    held = pushed.demand(config_digest=pushed.image.config_digest, model="digits")
    assert (held.model, held.version, held.config_digest) == ("digits", "1.0", pushed.image.config_digest)
    assert sorted(one.type for one in held.statements) == sorted(KINDS)
    assert {one.digest for one in held.statements} == {one.digest for one in stored}


def test_attesting_twice_adds_nothing(pushed: Pushed) -> None:
    first = pushed.attest()
    index = referrers(pushed.registry, pushed.target.repository, pushed.image.digest)
    again = pushed.attest()
    assert all(one.skipped for one in again)
    assert [one.digest for one in again] == [one.digest for one in first]
    assert referrers(pushed.registry, pushed.target.repository, pushed.image.digest) == index
    assert len(index) == 3


def test_the_registry_stores_an_oci_artifact_with_the_image_as_its_subject(pushed: Pushed) -> None:
    stored = pushed.attest()
    manifest = pushed.manifest(stored[-1].digest)
    assert manifest["artifactType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert manifest["subject"] == pushed.subject
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert manifest["annotations"]["dev.sigstore.bundle.predicateType"] == "https://torchrelay.org/verdict/v2"
    _, index = pushed.registry.read(
        f"/v2/{pushed.target.repository}/manifests/{fallback_tag(pushed.image.digest)}", 1 << 20, {"Accept": INDEX_TYPE}
    )
    assert {one["digest"] for one in json.loads(index)["manifests"]} == {one.digest for one in stored}


def other_image() -> Image:
    return image(runtime(), *model_layers(weights=b"others"))


ATTACKS: dict[str, tuple[Callable[[Pushed], object], str]] = {
    "signed by another key": (lambda at: at.put(at.sealed(new_signer())), messages.NOT_SIGNED_BY_KEY),
    "changed after it was signed": (
        lambda at: at.put(at.sealed().replace(b'"payload":"ey', b'"payload":"eA')),
        messages.NOT_SIGNED_BY_KEY,
    ),
    "about a different digest": (lambda at: at.put(at.sealed(digest=other_image().digest)), messages.OTHER_DIGEST),
    "on another repository": (lambda at: at.put(at.sealed(name="127.0.0.1:1/other")), "127.0.0.1:1/other"),
    "a verdict that failed": (lambda at: at.put(at.sealed(result="gate_failed")), "gate_failed"),
    "a verdict on another manifest": (lambda at: at.put(at.sealed(image=other_image().digest)), other_image().digest),
    "a verdict on another config": (lambda at: at.put(at.sealed(config=other_image().config_digest)), other_image().config_digest),
    "a signature that expired": (
        lambda at: at.put(at.sealed(today=datetime.now(UTC).date() - timedelta(days=signed_verdict.VALID_DAYS + 1))),
        "expired on",
    ),
    "a verdict of version 1, which names no run": (
        lambda at: at.put(
            dsse.seal(
                provenance.statement(
                    provenance.VERDICT, verdict(at.image).model_dump(mode="json"), at.target.name, at.image.digest
                ),
                SIGNER,
            )
        ),
        messages.UNREADABLE_VERDICT,
    ),
    "provenance in place of a verdict": (
        lambda at: at.put(dsse.seal(provenance.statement(provenance.PROVENANCE, {}, at.target.name, at.image.digest), SIGNER)),
        messages.NO_VERDICT,
    ),
    "two subjects": (
        lambda at: at.put(
            dsse.seal(
                json.dumps(
                    {
                        "_type": provenance.STATEMENT,
                        "subject": [{"name": at.target.name, "digest": {"sha256": at.image.digest[7:]}}] * 2,
                        "predicateType": provenance.VERDICT,
                        "predicate": verdict(at.image).model_dump(),
                    }
                ).encode(),
                SIGNER,
            )
        ),
        messages.NOT_ONE_IMAGE,
    ),
    "no JSON": (lambda at: at.put(b"\x00" * 100), messages.NOT_JSON),
    "an empty object": (lambda at: at.put(b"{}"), messages.NOT_A_BUNDLE),
    "a verdict that is none": (
        lambda at: at.put(dsse.seal(provenance.statement(provenance.VERDICT, [], at.target.name, at.image.digest), SIGNER)),
        messages.UNREADABLE_VERDICT,
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_statement_that_does_not_hold_is_refused(pushed: Pushed, attack: str) -> None:
    put, reason = ATTACKS[attack]
    put(pushed)
    with fails(NotAttested, pushed.reference, reason):
        pushed.demand()
    pushed.put(pushed.sealed())  # the control: what was refused does not stand in the way of what holds
    assert pushed.demand().model == "digits"


def test_only_the_verified_image_is_deployed(pushed: Pushed) -> None:
    pushed.attest()
    with fails(NotAttested, pushed.image.config_digest, other_image().config_digest):
        pushed.demand(config_digest=other_image().config_digest)
    with fails(NotAttested, "digits", "letters"):
        pushed.demand(model="letters")
    assert pushed.demand(config_digest=pushed.image.config_digest, model="digits")


@pytest.mark.parametrize(
    "changed", [{"commit": "d" * 40}, {"ref": "refs/heads/fix"}, {"repository": "mallory/digits"}], ids=lambda one: next(iter(one))
)
def test_a_verdict_counts_for_its_commit_ref_and_repository(pushed: Pushed, changed: dict[str, Any]) -> None:
    source = pushed.bundle.source
    pushed.put(pushed.sealed(source=replace(source, **changed)))
    with fails(NotAttested, *changed, *changed.values()):
        pushed.demand(source=source)
    assert pushed.demand(source=replace(source, **changed))
    pushed.put(pushed.sealed())
    assert pushed.demand(source=source)


def test_a_job_signs_for_itself_whatever_the_bundle_says() -> None:
    job = {"GITHUB_REPOSITORY": "acme/models", "GITHUB_SHA": "c" * 40, "GITHUB_REF": "refs/heads/main", "GITHUB_RUN_ID": "9"}
    lying = Origin("acme/digits", "d" * 40, "refs/heads/other", 7, "https://evil.example", "ada")
    signed = signed_verdict.predicate({}, lying, job, date(2026, 1, 31))["signed_for"]
    assert signed == {
        "repository": "acme/models",
        "commit": "c" * 40,
        "ref": "refs/heads/main",
        "run": "https://github.com/acme/models/actions/runs/9",
        "expires": "2027-01-31",
    }


def test_another_key_accepts_nothing(pushed: Pushed) -> None:
    pushed.attest()
    with fails(NotAttested, words=messages.NOT_SIGNED_BY_KEY):
        pushed.demand(new_signer().verifier.pem)


def test_a_statement_is_not_carried_over_to_another_repository(pushed: Pushed, registry_host: str) -> None:
    """Copy a repository with its statements to another one, as skopeo or a registry's replication does."""
    pushed.attest()
    copy = replace(pushed, target=parse_reference(f"{registry_host}/copied", "1.0"))
    push_image(copy.image, copy.registry, copy.target, Quiet())
    copy.put(pushed.sealed())
    with fails(NotAttested, pushed.target.name, words=messages.OTHER_REPOSITORY):
        copy.demand()
    copy.attest()
    assert copy.demand()


def test_an_artifact_listed_under_an_image_that_it_does_not_name_is_refused(pushed: Pushed) -> None:
    """The index is rewritten by hand: it lists an artifact whose subject of an artifact is a different image."""
    sealed = pushed.sealed()
    elsewhere = {**pushed.subject, "digest": other_image().digest}
    described = artifact(elsewhere, dsse.BUNDLE_TYPE, sealed, {})
    put_referrer(pushed.registry, pushed.target.repository, described, sealed)
    entry = {
        "mediaType": MANIFEST_TYPE,
        "digest": sha256_digest(described),
        "size": len(described),
        "artifactType": dsse.BUNDLE_TYPE,
    }
    listed(pushed, [entry])
    with fails(NotAttested, words=messages.OTHER_SUBJECT):
        pushed.demand()
    pushed.put(sealed)
    assert pushed.demand()


def listed(at: Pushed, entries: list[Any]) -> None:
    """Write this fallback index."""
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}).encode()
    at.registry.put_manifest(at.target.repository, fallback_tag(at.image.digest), index, INDEX_TYPE)


def test_a_blob_larger_than_any_statement_is_not_read_to_its_end(pushed: Pushed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attesting, "STATEMENT_LIMIT", 100_000)
    pushed.put(b" " * 100_001)
    with fails(NotAttested, "100000 bytes"):
        pushed.demand()
    pushed.put(pushed.sealed())
    assert pushed.demand()


def test_other_artifacts_are_not_looked_at_however_many(pushed: Pushed) -> None:
    pushed.attest()
    _, content = pushed.registry.read(
        f"/v2/{pushed.target.repository}/manifests/{fallback_tag(pushed.image.digest)}", 1 << 20, {"Accept": INDEX_TYPE}
    )
    mine = json.loads(content)["manifests"]
    noise = [{**mine[0], "artifactType": "application/x", "annotations": {"n": str(n)}} for n in range(3000)]
    listed(pushed, [*noise, *mine])
    assert pushed.demand()


def test_more_bundles_than_are_read_end_in_a_refusal(pushed: Pushed, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed.attest()
    for number in range(9):
        pushed.put(b'{"n":%d}' % number, kind=provenance.SBOM)
    monkeypatch.setattr(attesting, "MOST_TRIED", 3)
    assert pushed.demand()  # what says that it is a verdict is read first
    monkeypatch.setattr(attesting, "MOST_TRIED", 0)
    with fails(NotAttested, "12 bundles", "first 0"):
        pushed.demand()


def test_a_tag_is_not_accepted(pushed: Pushed) -> None:
    pushed.attest()
    for reference in (f"{pushed.target.name}:1.0", pushed.target.name, f"{pushed.target.name}@sha256:abc"):
        with fails(NotAttested, reference, words=messages.NOT_A_DIGEST):
            require_attested(reference, KEY, registry_of=client)


def test_an_image_that_was_not_pushed_is_not_attested(pushed: Pushed, tmp_path: Path) -> None:
    with fails(RegistryError, pushed.bundle.folder, words=messages.NOT_PUSHED):
        pushed_reference(pushed.bundle, None)
    write_json(Workspace(tmp_path).push_record, {"reference": f"{pushed.target.name}@{other_image().digest}"})
    with fails(RegistryError, other_image().digest, pushed.image.digest):
        pushed_reference(pushed.bundle, None)
    write_json(Workspace(tmp_path).push_record, {"reference": pushed.reference})
    assert pushed_reference(pushed.bundle, None) == pushed.reference
    assert (
        pushed_reference(pushed.bundle, f"{pushed.target.host}/models/")
        == f"{pushed.target.host}/models/digits@{pushed.image.digest}"
    )
    absent = f"{pushed.target.name}@{other_image().digest}"
    with fails(RegistryError, "404"):
        attest.run(pushed.bundle, absent, SIGNER, Quiet(), environment={}, registry_of=client)


def test_a_bundle_of_another_commit_than_the_runs_is_not_signed(pushed: Pushed) -> None:
    with fails(BundleInvalid, "c" * 40, "d" * 40):
        pushed.attest(GITHUB_SHA="d" * 40)
    assert referrers(pushed.registry, pushed.target.repository, pushed.image.digest) == []
    assert pushed.attest(GITHUB_SHA="c" * 40)


def test_two_that_attest_at_once_are_both_listed(pushed: Pushed) -> None:
    signers = [new_signer() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: until_listed(pushed, one), signers))
    for signer in signers:  # a registry has no compare-and-swap: a late writer can still drop an entry after its owner checked
        until_listed(pushed, signer)
    for signer in signers:
        assert pushed.demand(signer.verifier.pem)


def until_listed(at: Pushed, signer: dsse.Signer) -> None:
    """Attest as a person would: again after the error that another run interfered."""
    for _ in range(20):
        try:
            at.attest(signer)
            at.demand(signer.verifier.pem)
        except (NotAttested, RegistryError):
            continue
        return
    pytest.fail("never listed")


class Between(Registry):
    """A client with a competitor: right after its first write of the index, another writer restores the earlier index."""

    overtaken = 0

    def put_manifest(self, repository: str, reference: str, manifest: bytes, media_type: str = MANIFEST_TYPE) -> str:
        before = None
        if media_type == INDEX_TYPE and not self.overtaken:
            _, before = self.read(f"/v2/{repository}/manifests/{reference}", 1 << 20, {"Accept": INDEX_TYPE})
        digest = super().put_manifest(repository, reference, manifest, media_type)
        if before is not None:
            self.overtaken += 1
            super().put_manifest(repository, reference, before, INDEX_TYPE)
        return digest


def test_an_entry_that_another_writer_dropped_is_written_again(pushed: Pushed) -> None:
    pushed.put(pushed.sealed(new_signer()))
    registry = Between(pushed.target.base, credentials=lambda _host: None, sleep=lambda _seconds: None)
    sealed = pushed.sealed()
    assert put_referrer(registry, pushed.target.repository, artifact(pushed.subject, dsse.BUNDLE_TYPE, sealed, {}), sealed)
    assert registry.overtaken == 1
    assert pushed.demand()
    assert len(referrers(pushed.registry, pushed.target.repository, pushed.image.digest)) == 2


class WithApi(http.server.BaseHTTPRequestHandler):
    """Stands in for a registry with the referrers API (zot, ECR): docker-registry behind it, and a list of the stored manifests."""

    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        state: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if match := re.fullmatch(r"/v2/(.+)/referrers/(sha256:[0-9a-f]{64})(?:\?from=(\d+))?", self.path):
            return self._list(match[1], match[2], int(match[3] or 0))
        if self.command == "PUT" and "/manifests/" in self.path and not state.deaf:
            state.manifests[self.path] = body
        upstream = http.client.HTTPConnection(state.upstream)
        upstream.request(self.command, self.path, body=body, headers=dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        if self.command == "GET" and self.path in state.lies:
            content = state.lies[self.path]
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(key, value)
        self.send_header("Content-Length", answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def _list(self, repository: str, digest: str, begin: int) -> None:
        state: Any = self.server
        entries = list(state.extra)
        for path, body in state.manifests.items():
            described = json.loads(body)
            if f"/v2/{repository}/" in path and described.get("subject", {}).get("digest") == digest:
                fields = {key: described[key] for key in ("artifactType", "annotations")}
                entries.append({"mediaType": MANIFEST_TYPE, "digest": sha256_digest(body), "size": len(body), **fields})
        page = state.page
        content = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries[begin : begin + page]}).encode()
        self.send_response(200)
        if begin + page < len(entries) or state.endless:
            number = begin if state.endless == "same" else begin + page
            self.send_header("Link", f'<{state.elsewhere}/v2/{repository}/referrers/{digest}?from={number}>; rel="next"')
        self.send_header("Content-Type", INDEX_TYPE)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _handle  # noqa: N815 -- http.server's names

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def with_api(registry_host: str) -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), WithApi)
    server.upstream, server.manifests, server.page, server.endless, server.elsewhere = registry_host, {}, 2, "", ""
    server.extra, server.deaf, server.lies = [], False, {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def at_api(with_api: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Pushed:
    return push_to(f"127.0.0.1:{with_api.server_address[1]}", request, tmp_path)


def test_a_registry_with_the_referrers_api_is_asked_page_by_page_and_gets_no_tag(at_api: Pushed) -> None:
    stored = at_api.attest()
    assert len(at_api.demand().statements) == 3  # two pages
    assert all(one.skipped for one in at_api.attest())
    assert at_api.registry.manifest_digest(at_api.target.repository, fallback_tag(at_api.image.digest)) is None
    assert {one.digest for one in referrers(at_api.registry, at_api.target.repository, at_api.image.digest)} == {
        one.digest for one in stored
    }


@pytest.mark.parametrize("endless", ["same", "always another"])
def test_a_list_without_end_is_given_up(at_api: Pushed, with_api: Any, endless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_api.attest()
    with_api.endless = endless
    monkeypatch.setattr("torchrelay.oci.referrers.MOST_REFERRERS", 2)
    with fails(RegistryError, words=messages.ENDLESS_PAGES):
        at_api.demand()


def test_a_next_page_at_another_host_is_not_read(at_api: Pushed, with_api: Any) -> None:
    at_api.attest()
    with_api.elsewhere = "http://127.0.0.1:9"
    with fails(RegistryError, "127.0.0.1:9"):
        at_api.demand()


def test_a_registry_that_does_not_list_its_statements_is_reported(at_api: Pushed, with_api: Any) -> None:
    with_api.deaf = True
    with fails(RegistryError, words=messages.NOT_LISTED):
        at_api.attest()


def test_entries_that_are_malformed_are_passed_over(at_api: Pushed, with_api: Any) -> None:
    at_api.attest()
    nowhere = {"digest": f"sha256:{'0' * 64}", "annotations": ["x"], "artifactType": dsse.BUNDLE_TYPE}
    with_api.extra = [{"digest": "sha256:../../x"}, {"digest": 7}, "text", None, [], nowhere]
    assert len(at_api.demand().statements) == 3


def test_a_registrys_reply_is_compared_with_its_digest(at_api: Pushed, with_api: Any) -> None:
    """The registry, or a proxy, answers with the bytes of another image or statement."""
    at_api.attest()
    repository, other = at_api.target.repository, other_image()
    image_path = f"/v2/{repository}/manifests/{at_api.image.digest}"
    with_api.lies[image_path] = other.manifest_bytes
    with fails(RegistryError, other.digest):
        at_api.demand()
    del with_api.lies[image_path]
    assert at_api.demand()
    for one in referrers(at_api.registry, repository, at_api.image.digest):
        (layer,) = at_api.manifest(one.digest)["layers"]
        with_api.lies[f"/v2/{repository}/blobs/{layer['digest']}"] = at_api.sealed(version="2.0")
    with fails(NotAttested, words=messages.CHANGED_BLOB):
        at_api.demand()


def test_a_statement_that_another_run_dropped_is_reported(pushed: Pushed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attesting, "referrers", lambda *_: [])
    with fails(RegistryError, words=messages.OVERWRITTEN_LIST):
        pushed.attest()
    monkeypatch.undo()
    assert all(one.skipped for one in pushed.attest())


@pytest.mark.parametrize("way", ["genpkey", "ecparam", "ed25519"])
def test_keys_as_openssl_makes_them(pushed: Pushed, tmp_path: Path, way: str) -> None:
    file = tmp_path / "signing.pem"
    command = {
        "genpkey": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "ecparam": ["ecparam", "-genkey", "-name", "prime256v1"],
        "ed25519": ["genpkey", "-algorithm", "ed25519"],
    }[way]
    subprocess.run(["openssl", *command, "-out", str(file)], check=True, capture_output=True)
    public = subprocess.run(["openssl", "pkey", "-in", str(file), "-pubout"], check=True, capture_output=True, text=True).stdout
    signer = dsse.signer(SecretStr(dsse.key_text(f"@{file}", dsse.SIGNING_KEY)))
    assert signer.verifier.pem == public
    pushed.attest(signer)
    (tmp_path / "verify.pem").write_text(public)
    assert pushed.demand(f"@{tmp_path / 'verify.pem'}")


def test_the_limit_counts_received_bytes_not_announced_ones(pushed: Pushed) -> None:
    content = b" " * 300_000
    with Quiet().task("", None) as task:
        pushed.registry.put_blob(pushed.target.repository, from_bytes(content), task)
    with fails(RegistryError, "1000 bytes"):
        pushed.registry.read(f"/v2/{pushed.target.repository}/blobs/{sha256_digest(content)}", 1000)
