"""Bundle: the files that travel from the job that verifies an image to the job that deploys it, which runs no code of the model.

    oci-layout index.json blobs/sha256/    OCI image layout 1.0 of the image, and the samples' bodies and answers
    release.json                           the model, the verdict and the samples; names every blob by digest
    stages.json                            the stages so far, for the summary alone
    .torchrelay/                           written by the deploy job: push.json, deployments/, stages.json

The job that runs the model's code writes the bundle, so the bundle alone is not evidence: a build job that lies about its verdict
is not detected. What is checked: the bundle is complete (digests are recomputed; that of release.json covers everything but
stages.json), its verdict is about this image under these conditions, and it belongs to the expected model and, in a workflow, to
the run's repository and commit.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from torchrelay.core.errors import BundleInvalid, NotVerified, TorchrelayError
from torchrelay.core.progress import Progress
from torchrelay.core.text import printable, shown
from torchrelay.core.workspace import STATE_DIR, Workspace
from torchrelay.model.model import Model
from torchrelay.model.origin import Origin, origin_of
from torchrelay.model.samples import Sample
from torchrelay.oci import layout
from torchrelay.oci.blobs import from_bytes, sha256_digest
from torchrelay.oci.image import Image, load_image
from torchrelay.oci.layout import REBUNDLE, content, document, json_object, mapping
from torchrelay.stages import check, journal
from torchrelay.stages.release_file import ReleaseFile, portable, sample_of, sample_row, source_row
from torchrelay.verification.replay import at_once, conditions, samples_digest
from torchrelay.verification.verdict import Verdict, require_passing

STAGES = journal.NAME


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read; `digest` is that of release.json and so covers all of it."""

    folder: Path
    model: Model
    version: str
    source: Origin
    verdict: Verdict
    samples: tuple[Sample, ...]
    image: Image
    stages: list[journal.Row]
    digest: str

    def summary(self) -> dict[str, Any]:
        """Return what the CLI prints."""
        return {
            "bundle": str(self.folder),
            "digest": self.digest,
            "image": self.image.digest,
            "model": self.model.name,
            "version": self.version,
        }


def run(model_dir: Path, folder: Path, progress: Progress) -> Bundle:
    """Write the verified image of a model directory as a bundle; for the same image again only missing blobs are written.

    Raises:
        NotVerified: the image has no passing verdict on these samples under these conditions.
        BundleInvalid: the folder contains something else, or a layer's file changed after the build.
        ModelInvalid, DiskFull.
    """
    checked, workspace = check.run(model_dir), Workspace(model_dir)
    loaded = load_image(workspace.image_record)
    if loaded is None:
        raise NotVerified(f"{model_dir}: there is no built image", "run `torchrelay build`, then `torchrelay verify`")
    image, _ = loaded
    passed = require_passing(workspace, image.config_digest)
    if mismatch := _mismatch(passed, checked.model, checked.samples, image):
        raise NotVerified(f"{model_dir}: the verdict is about {mismatch}", "run `torchrelay verify` again")
    rows, blobs = [], {blob.digest: blob for blob in [*image.blobs(), from_bytes(image.manifest_bytes)]}
    for sample in checked.samples:
        row, more = sample_row(sample)
        rows.append(row)
        blobs |= {blob.digest: blob for blob in more}
    release = {
        "schema": 1,
        "model": portable(checked.model),
        "version": passed.version,
        "source": source_row(origin_of(model_dir)),
        "image": {"manifest": image.digest, "config": image.config_digest},
        "verdict": passed.model_dump(mode="json"),
        "samples": rows,
    }
    _prepare(folder, set(blobs))
    with progress.task(f"bundle {checked.model.name}", sum(blob.size for blob in blobs.values())) as task:
        for blob in blobs.values():
            layout.store(folder, blob, task)
    layout.write_index(folder, image, passed.version)
    journal.hand_over(workspace, folder / STAGES)
    layout.write_file(folder / "release.json", json.dumps(release, indent=2).encode() + b"\n")
    return read(folder)


def _mismatch(verdict: Verdict, model: Model, samples: list[Sample], image: Image) -> str:
    """Return how a verdict's subject differs; "" when it is about this image, these samples and these conditions."""
    labels = mapping(mapping(image.config.get("config")).get("Labels"))
    version = labels.get("org.opencontainers.image.version")
    for name, actual, expected in (
        ("image", verdict.image, image.digest),
        ("config", verdict.config, image.config_digest),
        ("model", verdict.model, model.name),
        ("version", verdict.version, version),
        ("samples", verdict.samples_digest, samples_digest(samples)),
        ("conditions", verdict.conditions, conditions(model, at_once(model))),
    ):
        if actual != expected:
            return f"{name} {shown(actual, 80)}, not {shown(expected, 80)}"
    return ""


def _prepare(folder: Path, keep: set[str]) -> None:
    """Create the folder, or remove an older bundle from it. Raises BundleInvalid when it contains something else."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / layout.MARKER).is_file():
        raise BundleInvalid(f"{printable(str(folder))} is not empty and is not a bundle", "name another folder")
    (folder / "release.json").unlink(missing_ok=True)  # without this file the folder is not a bundle
    shutil.rmtree(folder / STATE_DIR, ignore_errors=True)
    layout.mark(folder)
    blobs = layout.blobs_of(folder)
    blobs.mkdir(parents=True, exist_ok=True)
    for old in blobs.iterdir():
        if f"sha256:{old.name}" not in keep:
            old.unlink()


def read(folder: Path, expect_digest: str | None = None) -> Bundle:
    """Read a bundle and cross-check everything in it; layers are checked against their digests when they are used.

    `expect_digest` is the digest that the job which wrote it announced. Raises BundleInvalid.
    """
    data = document(folder, "release.json")
    if expect_digest and expect_digest != sha256_digest(data):
        raise BundleInvalid(f"release.json is {sha256_digest(data)}, expected {shown(expect_digest, 80)}", REBUNDLE)
    try:
        release = ReleaseFile.model_validate(json_object(data, "release.json"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(printable(str(part), 40) for part in first["loc"])
        raise BundleInvalid(f"release.json: {where}: {printable(first['msg'])}", REBUNDLE) from error
    except TorchrelayError as error:
        raise BundleInvalid(f"release.json: {error.message}", REBUNDLE) from error
    image = layout.image_at(folder, release.image.manifest, release.image.config)
    samples = [
        sample_of(row, content(folder, row.body), None if row.expect.value is None else content(folder, row.expect.value))
        for row in release.samples
    ]
    if release.verdict.result != "passed":
        raise BundleInvalid(f"the verdict is {release.verdict.result}", "fix the model, and verify it again")
    if mismatch := _mismatch(release.verdict, release.model, samples, image):
        raise BundleInvalid(f"the verdict is about {mismatch}", REBUNDLE)
    if release.version != release.verdict.version:
        raise BundleInvalid(f"release.json has version {release.version}, but the verdict has {release.verdict.version}", REBUNDLE)
    return Bundle(
        folder=folder,
        model=release.model,
        version=release.version,
        source=Origin(**release.source.model_dump()),
        verdict=release.verdict,
        samples=tuple(samples),
        image=image,
        stages=_stages(folder),
        digest=sha256_digest(data),
    )


def expect(bundle: Bundle, model: str | None, environment: Mapping[str, str] = os.environ) -> Bundle:
    """Reject a bundle of an unexpected model and, in a workflow, of a repository or commit that differs from the run's.

    Raises BundleInvalid.
    """
    if model and model != bundle.model.name:
        raise BundleInvalid(f"the bundle contains the model {shown(bundle.model.name, 80)}, expected {shown(model, 80)}", REBUNDLE)
    if environment.get("GITHUB_ACTIONS") != "true":
        return bundle
    for name, actual, expected in (
        ("commit", bundle.source.commit, environment.get("GITHUB_SHA")),
        ("repository", bundle.source.repository, environment.get("GITHUB_REPOSITORY")),
    ):
        if actual and expected and actual.lower() != expected.lower():
            raise BundleInvalid(f"the bundle's {name} is {shown(actual, 200)}, but this run's is {shown(expected, 200)}", REBUNDLE)
    return bundle


def _stages(folder: Path) -> list[journal.Row]:
    """Return the rows of the build job and of this job."""
    rows = journal.handed_over(folder)
    for row in journal.read(Workspace(folder)):
        rows = journal.merged(rows, row)
    return rows
