"""`torchrelay push`."""

from typing import Annotated

from torchrelay.cli.bundles import read_expected
from torchrelay.cli.console import (
    DEFAULT_DIR,
    AsJson,
    BundleFolder,
    CreateRepository,
    DryRun,
    ExpectDigest,
    ExpectModel,
    ModelDir,
    begin,
    done,
    option,
    planned,
)
from torchrelay.core import progress
from torchrelay.core.workspace import Workspace
from torchrelay.model.server_config import load_model
from torchrelay.oci.reference import valid_destination
from torchrelay.stages.relay import Relay


def run(
    repository: Annotated[str, option("repository", "host/repository[:tag]. If it ends in /, the model's name is added.")],
    model_dir: ModelDir = DEFAULT_DIR,
    bundle: BundleFolder = None,
    expect_digest: ExpectDigest = None,
    expect_model: ExpectModel = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    create_repository: CreateRepository = False,
) -> None:
    """Push exactly the verified image.

    Only the blobs that the registry lacks are sent.
    """
    begin(as_json=as_json)
    opened = read_expected(bundle, expect_digest, expect_model)
    destination = valid_destination(repository, (opened.model if opened else load_model(model_dir)).name)
    if dry_run:
        return planned("push", [f"push the verified image to {destination}"])
    folder = bundle or model_dir
    with Workspace(folder).lock():
        if opened is not None:
            Workspace(folder).clear()  # it came from the job that ran the model's code: only what is done from here on counts
        pushed = Relay(folder, progress.progress()).push(destination, create=create_repository, bundle=opened)
    return done(pushed.summary(), f"{pushed.reference}  {pushed.bytes} bytes sent")
