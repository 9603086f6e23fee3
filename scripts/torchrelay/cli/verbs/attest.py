"""`torchrelay attest`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from torchrelay.attestation import dsse
from torchrelay.cli.bundles import read_expected, require_folder
from torchrelay.cli.console import (
    AsJson,
    BundleFolder,
    DryRun,
    ExpectDigest,
    ExpectModel,
    VerifyKey,
    begin,
    done,
    option,
    planned,
)
from torchrelay.core import progress
from torchrelay.core.files import atomic_write
from torchrelay.core.workspace import Workspace
from torchrelay.stages import attest
from torchrelay.stages.bundle import Bundle
from torchrelay.stages.relay import Relay

SigningKey = Annotated[
    str | None,
    option("signing-key", "@FILE with a private key (ECDSA P-256 or Ed25519, PEM); the variable may also hold the PEM itself."),
]


def run(
    context: typer.Context,
    bundle: BundleFolder = None,
    expect_digest: ExpectDigest = None,
    expect_model: ExpectModel = None,
    repository: Annotated[
        str | None,
        option(
            "repository",
            "host/repository that contains the image. If it ends in /, the model's name is added. Default: where push put it.",
        ),
    ] = None,
    signing_key: SigningKey = None,
    verify_key: VerifyKey = None,
    check: Annotated[
        str | None, option("check", "Verify the statements of this image instead (host/repository@sha256:...). Needs --verify-key.")
    ] = None,
    write_verdict: Annotated[
        Path | None, option("write-verdict", "Write the bundle's verdict to this file, for another signer, and do nothing else.")
    ] = None,
    print_public_key: Annotated[
        bool, option("print-public-key", "Print the public key of the signing key, and do nothing else.")
    ] = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Sign what was verified.

    Stores bill of materials, provenance and verdict beside the pushed image in its registry. `deploy --verify-key` requires them.
    """
    begin(as_json=as_json)
    source = context.get_parameter_source("signing_key")
    if source is not None and source.name == "COMMANDLINE" and not (signing_key or "@").startswith("@"):
        raise typer.BadParameter(
            "a key typed here is seen by every process: write @FILE, or set TORCHRELAY_SIGNING_KEY", param_hint="--signing-key"
        )
    if check is not None:
        return _check(check, verify_key)
    if write_verdict is not None:
        return _write_verdict(_bundle(bundle, expect_digest, expect_model), write_verdict)
    if not signing_key:
        raise typer.BadParameter("set TORCHRELAY_SIGNING_KEY, or write @FILE", param_hint="--signing-key")
    signer = dsse.signer(SecretStr(dsse.key_text(signing_key, dsse.SIGNING_KEY)))
    if print_public_key:
        return done({"public_key": signer.verifier.pem}, signer.verifier.pem.rstrip())
    folder = require_folder(bundle)
    if dry_run:
        attest.require_pinned(signer, verify_key)
        steps = [f"sign bill of materials, provenance and verdict of {folder}, and store them beside its image in the registry"]
        return planned("attest", steps)
    opened = _bundle(folder, expect_digest, expect_model)
    attest.require_pinned(signer, verify_key)
    with Workspace(folder).lock():
        Workspace(folder).drop_foreign()
        reference = attest.pushed_reference(opened, repository)
        stored = Relay(folder, progress.progress()).attest(opened, reference, signer)
    result = {
        "reference": reference,
        "skipped": all(one.skipped for one in stored),
        "public_key": signer.verifier.pem,
        "statements": [vars(one) for one in stored],
    }
    added = sum(not one.skipped for one in stored)
    return done(result, f"{reference}  {added} of {len(stored)} statements added")


def _bundle(folder: Path | None, expect_digest: str | None, expect_model: str | None) -> Bundle:
    opened = read_expected(require_folder(folder), expect_digest, expect_model)
    assert opened is not None  # noqa: S101 -- a folder was given
    return opened


def _check(reference: str, verify_key: str | None) -> None:
    """Verify what the registry holds about an image."""
    if not verify_key:
        raise typer.BadParameter("--check needs it", param_hint="--verify-key")
    held = attest.require_attested(reference, verify_key)
    signed = [{"type": one.type, "digest": one.digest} for one in held.statements]
    result = {**vars(held), "statements": signed, "result": "passed"}
    done(result, f"{held.reference}: {held.model} {held.version} passed, {len(held.statements)} statements signed")


def _write_verdict(opened: Bundle, file: Path) -> None:
    """Write the predicate of the verdict's statement: the document that a keyless signer signs."""
    with atomic_write(file) as output:
        output.write(json.dumps(attest.verdict_predicate(opened)).encode())
    result = {"path": str(file), "image": opened.image.digest, "verdict": opened.verdict.result}
    done(result, f"{file}  {opened.verdict.result}")
