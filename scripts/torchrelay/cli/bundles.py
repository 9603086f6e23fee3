"""The bundle that a verb works on, as its options describe it."""

from pathlib import Path

import typer

from torchrelay.stages import bundle
from torchrelay.stages.bundle import Bundle


def read_expected(folder: Path | None, expect_digest: str | None, expect_model: str | None) -> Bundle | None:
    """Return the bundle to work on, None for a model directory.

    Raises BadParameter for expectations without a bundle; BundleInvalid when it does not meet them.
    """
    if folder is None:
        if expect_digest:
            raise typer.BadParameter("is the digest of a bundle: add --bundle FOLDER", param_hint="--expect-digest")
        if expect_model:
            raise typer.BadParameter("is the model of a bundle: add --bundle FOLDER", param_hint="--expect-model")
        return None
    return bundle.expect(bundle.read(folder, expect_digest), expect_model)


def require_folder(folder: Path | None) -> Path:
    """Return the folder of --bundle. Raises BadParameter when it is missing."""
    if folder is None:
        raise typer.BadParameter("name the folder that `torchrelay bundle` wrote", param_hint="--bundle")
    return folder
