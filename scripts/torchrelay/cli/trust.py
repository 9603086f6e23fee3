"""The verbs of trust: what an image holds, what was proved of it, signed, and whether the registry has it."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchrelay.cli.console import DEFAULT_DIR, AsJson, Bundle, DryRun, ModelDir, app, begin, done, option, planned
from torchrelay.core import progress
from torchrelay.core.workspace import Workspace

if TYPE_CHECKING:
    from torchrelay.attestation.dsse import Signer

ExpectDigest = Annotated[str | None, option("expect-digest", "Digest that the bundle must have: sha256:..., as bundle told it.")]
ExpectModel = Annotated[str | None, option("expect-model", "Name of the model that the bundle must be of.")]
SigningKey = Annotated[
    str | None,
    option("signing-key", "@file with a private key, ECDSA P-256 or Ed25519, PEM; the variable may also hold the PEM itself."),
]
VerifyKey = Annotated[str | None, option("verify-key", "Public key, PEM or @file: what `attest --print-public-key` prints.")]


@app.command()
def sbom(
    model_dir: ModelDir = DEFAULT_DIR,
    bundle: Bundle = None,
    output: Annotated[Path | None, option("output", "File to write. Default: stdout.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what the image holds.

    CycloneDX 1.6 JSON, read from the image's layers: Debian and Python packages, Java, the model and its weights.
    """
    import json  # noqa: PLC0415 -- each verb imports only what it needs: --help stays fast

    from torchrelay.attestation import sbom as materials  # noqa: PLC0415
    from torchrelay.attestation.image_contents import contents  # noqa: PLC0415
    from torchrelay.core.errors import NotVerified  # noqa: PLC0415
    from torchrelay.core.files import atomic_write  # noqa: PLC0415
    from torchrelay.model.server_config import load_model  # noqa: PLC0415
    from torchrelay.oci import image as images  # noqa: PLC0415

    begin(as_json=as_json)
    if bundle is not None:
        from torchrelay.stages import bundle as bundles  # noqa: PLC0415

        read = bundles.read(bundle)
        image, model = read.image, read.model
    else:
        model = load_model(model_dir)
        loaded = images.load(Workspace(model_dir).image_record)
        if loaded is None:
            raise NotVerified(f"{model_dir}: there is no built image", "run `torchrelay build` first")
        image = loaded[0]
    document = materials.sbom(image, contents(image, progress.progress()), model)
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    with atomic_write(output) as file:
        file.write(text.encode())
    result = {"path": str(output), "image": image.digest, "components": len(document["components"])}
    done(result, f"{output}  {len(document['components'])} components")


@app.command()
def attest(
    context: typer.Context,
    bundle: Bundle = None,
    expect_digest: ExpectDigest = None,
    expect_model: ExpectModel = None,
    repository: Annotated[
        str | None,
        option(
            "repository", "host/repository the image is in; one that ends in / gets the model's name. Default: where push put it."
        ),
    ] = None,
    signing_key: SigningKey = None,
    verify_key: VerifyKey = None,
    check: Annotated[str | None, option("check", "Image as host/repository@sha256:... whose statements to verify instead.")] = None,
    write_verdict: Annotated[
        Path | None, option("write-verdict", "Write the bundle's verdict to this file, for another signer, and do nothing else.")
    ] = None,
    print_public_key: Annotated[
        bool, option("print-public-key", "Print the public key of the signing key, and do nothing.")
    ] = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Sign what was proved.

    Stores bill of materials, provenance and verdict beside the pushed image in its registry, for deploy --verify-key to demand.
    """
    from pydantic import SecretStr  # noqa: PLC0415 -- as in sbom

    from torchrelay.attestation import dsse  # noqa: PLC0415
    from torchrelay.stages import attest as attesting  # noqa: PLC0415

    begin(as_json=as_json)
    given = context.get_parameter_source("signing_key")
    if given is not None and given.name == "COMMANDLINE" and not (signing_key or "@").startswith("@"):
        raise typer.BadParameter(
            "a key typed here is seen by every process: write @file, or set TORCHRELAY_SIGNING_KEY", param_hint="--signing-key"
        )
    if check is not None:
        if not verify_key:
            raise typer.BadParameter("--check needs it", param_hint="--verify-key")
        held = attesting.demand(check, verify_key)
        signed = [{"type": one.type, "digest": one.digest} for one in held.statements]
        result = {**vars(held), "statements": signed, "result": "passed"}
        return done(result, f"{held.reference}: {held.model} {held.version} passed, {len(held.statements)} statements signed")
    if write_verdict is not None:
        return _write_verdict(bundle, (expect_digest, expect_model), write_verdict)
    if not signing_key:
        raise typer.BadParameter("set TORCHRELAY_SIGNING_KEY, or write @file", param_hint="--signing-key")
    signer = dsse.signer(SecretStr(dsse.key_text(signing_key, dsse.SIGNING_KEY)))
    if print_public_key:
        return done({"public_key": signer.verifier.pem}, signer.verifier.pem.rstrip())
    bundle = _named(bundle)
    if dry_run:
        steps = [f"sign bill of materials, provenance and verdict of {bundle}, and store them beside its image in the registry"]
        return planned("attest", steps)
    result = _attest(bundle, (expect_digest, expect_model), repository, signer)
    added = sum(not one["skipped"] for one in result["statements"])
    return done(result, f"{result['reference']}  {added} of {len(result['statements'])} statements added")


def _named(bundle: Path | None) -> Path:
    if bundle is None:
        raise typer.BadParameter("name the folder that `torchrelay bundle` wrote", param_hint="--bundle")
    return bundle


def _write_verdict(bundle: Path | None, expected: tuple[str | None, str | None], file: Path) -> None:
    """Write the predicate of the verdict's statement: what a keyless signer signs."""
    import json  # noqa: PLC0415 -- as in sbom

    from torchrelay.core.files import atomic_write  # noqa: PLC0415
    from torchrelay.stages import bundle as bundles  # noqa: PLC0415

    read = bundles.expect(bundles.read(_named(bundle), expected[0]), expected[1])
    with atomic_write(file) as opened:
        opened.write(json.dumps(read.verdict.model_dump(mode="json")).encode())
    done({"path": str(file), "image": read.image.digest, "verdict": read.verdict.result}, f"{file}  {read.verdict.result}")


def _attest(bundle: Path, expected: tuple[str | None, str | None], repository: str | None, signer: "Signer") -> dict[str, Any]:
    """Attest the image of a bundle of the expected digest and model, and write down the stage."""
    from torchrelay.stages import attest as attesting  # noqa: PLC0415 -- as in sbom
    from torchrelay.stages import bundle as bundles  # noqa: PLC0415
    from torchrelay.stages import journal  # noqa: PLC0415

    began, begin = time.time(), time.monotonic()
    read = bundles.expect(bundles.read(bundle, expected[0]), expected[1])
    reference = attesting.pushed_reference(read, repository)
    with Workspace(bundle).lock():
        stored = attesting.attest(read, reference, signer, progress.progress())
    told = {"reference": reference, "skipped": all(one.skipped for one in stored)}
    row = {"stage": "attest", "seconds": round(time.monotonic() - begin, 3), "began": round(began, 3), **told}
    journal.record(Workspace(bundle), row)
    return {**told, "public_key": signer.verifier.pem, "statements": [vars(one) for one in stored]}
