"""Bundle: what travels from the job that proves an image to the job that deploys it, which runs no code of the model.

    oci-layout index.json blobs/sha256/    OCI image layout 1.0 of the image, and the samples' bodies and answers
    release.json                           what it is and what was proved; names every blob by digest
    stages.json                            what was done so far, for the summary alone
    .torchrelay/                           what the deploy job leaves here: push.json, deployments/, stages.json

Whoever runs the model's code writes it, so it proves nothing by itself: a build job that lies about its verdict is believed. What
is held is that it is whole (digests are recomputed, that of release.json being that of all but stages.json), that its verdict is on
this image under these conditions, and that it is of the model, and in a workflow of the repository and commit, that was asked for.
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
from torchrelay.model.origin import Source, source_of
from torchrelay.model.samples import Sample
from torchrelay.oci import image as images
from torchrelay.oci import layout
from torchrelay.oci.blobs import from_bytes, sha256_digest
from torchrelay.oci.image import Image
from torchrelay.oci.layout import REBUNDLE, content, document, json_object, mapping
from torchrelay.stages import journal as stages
from torchrelay.stages.check import check
from torchrelay.stages.release_file import ReleaseFile, portable, sample_of, sample_row, source_row
from torchrelay.verification import verdict
from torchrelay.verification.replay import at_once, conditions, samples_digest
from torchrelay.verification.verdict import Verdict

STAGES = stages.NAME


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: what it holds, `digest` being that of release.json and so of all of it."""

    folder: Path
    model: Model
    version: str
    source: Source
    verdict: Verdict
    samples: tuple[Sample, ...]
    image: Image
    stages: list[stages.Row]
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


def write(model_dir: Path, folder: Path, progress: Progress) -> Bundle:
    """Write the proved image of a model directory as a bundle; the same image again writes only what is not there.

    Raises:
        NotVerified: the image has no passing verdict on these samples under these conditions.
        BundleInvalid: the folder holds something else, or a layer's file changed since it was built.
        ModelInvalid, DiskFull.
    """
    checked, workspace = check(model_dir), Workspace(model_dir)
    loaded = images.load(workspace.image_record)
    if loaded is None:
        raise NotVerified(f"{model_dir}: there is no built image", "run `torchrelay build`, then `torchrelay verify`")
    image, _ = loaded
    proved = verdict.demand(workspace, image.config_digest)
    if told := _other(proved, checked.model, checked.samples, image):
        raise NotVerified(f"{model_dir}: the verdict is on {told}", "run `torchrelay verify` again")
    rows, blobs = [], {blob.digest: blob for blob in [*image.blobs(), from_bytes(image.manifest_bytes)]}
    for sample in checked.samples:
        row, more = sample_row(sample)
        rows.append(row)
        blobs |= {blob.digest: blob for blob in more}
    release = {
        "schema": 1,
        "model": portable(checked.model),
        "version": proved.version,
        "source": source_row(source_of(model_dir)),
        "image": {"manifest": image.digest, "config": image.config_digest},
        "verdict": proved.model_dump(mode="json"),
        "samples": rows,
    }
    _prepare(folder, set(blobs))
    with progress.task(f"bundle {checked.model.name}", sum(blob.size for blob in blobs.values())) as task:
        for blob in blobs.values():
            layout.store(folder, blob, task)
    layout.write_index(folder, image, proved.version)
    stages.hand_over(workspace, folder / STAGES)
    layout.write_file(folder / "release.json", json.dumps(release, indent=2).encode() + b"\n")
    return read(folder)


def _other(proved: Verdict, model: Model, samples: list[Sample], image: Image) -> str:
    """Say what a verdict is on that is not this; "" when it is on this very image, these samples and these conditions."""
    labels = mapping(mapping(image.config.get("config")).get("Labels"))
    version = labels.get("org.opencontainers.image.version")
    for what, told, wanted in (
        ("image", proved.image, image.digest),
        ("config", proved.config, image.config_digest),
        ("model", proved.model, model.name),
        ("version", proved.version, version),
        ("samples", proved.samples_digest, samples_digest(samples)),
        ("conditions", proved.conditions, conditions(model, at_once(model))),
    ):
        if told != wanted:
            return f"{what} {shown(told, 80)}, not {shown(wanted, 80)}"
    return ""


def _prepare(folder: Path, wanted: set[str]) -> None:
    """Make the folder, or take away what another bundle left in it. Raises BundleInvalid when it is something else."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / layout.MARKER).is_file():
        raise BundleInvalid(f"{printable(str(folder))} is not empty, and no bundle", "name another folder")
    (folder / "release.json").unlink(missing_ok=True)  # until it is written again there is no bundle here
    shutil.rmtree(folder / STATE_DIR, ignore_errors=True)
    layout.mark(folder)
    blobs = layout.blobs_of(folder)
    blobs.mkdir(parents=True, exist_ok=True)
    for left in blobs.iterdir():
        if f"sha256:{left.name}" not in wanted:
            left.unlink()


def read(folder: Path, expect_digest: str | None = None) -> Bundle:
    """Read a bundle and hold everything in it against everything else; layers are held against their digests as they are used.

    `expect_digest` is what the job that wrote it told. Raises BundleInvalid.
    """
    told = document(folder, "release.json")
    if expect_digest and expect_digest != sha256_digest(told):
        raise BundleInvalid(f"release.json is {sha256_digest(told)}, announced was {shown(expect_digest, 80)}", REBUNDLE)
    try:
        release = ReleaseFile.model_validate(json_object(told, "release.json"))
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
        raise BundleInvalid(f"the verdict is {release.verdict.result}", "mend the model, and verify it again")
    if other := _other(release.verdict, release.model, samples, image):
        raise BundleInvalid(f"the verdict is on {other}", REBUNDLE)
    if release.version != release.verdict.version:
        raise BundleInvalid(f"release.json is of version {release.version}, the verdict of {release.verdict.version}", REBUNDLE)
    return Bundle(
        folder=folder,
        model=release.model,
        version=release.version,
        source=Source(**release.source.model_dump()),
        verdict=release.verdict,
        samples=tuple(samples),
        image=image,
        stages=_stages(folder),
        digest=sha256_digest(told),
    )


def expect(bundle: Bundle, model: str | None, environment: Mapping[str, str] = os.environ) -> Bundle:
    """Refuse a bundle of another model than is expected and, in a workflow, of another repository or commit than the run's.

    Raises BundleInvalid.
    """
    if model and model != bundle.model.name:
        raise BundleInvalid(f"the bundle is of model {shown(bundle.model.name, 80)}, expected was {shown(model, 80)}", REBUNDLE)
    if environment.get("GITHUB_ACTIONS") != "true":
        return bundle
    for what, told, wanted in (
        ("commit", bundle.source.commit, environment.get("GITHUB_SHA")),
        ("repository", bundle.source.repository, environment.get("GITHUB_REPOSITORY")),
    ):
        if told and wanted and told.lower() != wanted.lower():
            raise BundleInvalid(f"the bundle is of {what} {shown(told, 200)}, this run of {shown(wanted, 200)}", REBUNDLE)
    return bundle


def _stages(folder: Path) -> list[stages.Row]:
    """Return the rows of the build job and of this one."""
    rows = stages.handed_over(folder)
    for row in stages.read(Workspace(folder)):
        rows = stages.merged(rows, row)
    return rows
