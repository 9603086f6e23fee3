"""`torchrelay sbom`."""

import json
import sys
from pathlib import Path
from typing import Annotated

from torchrelay.attestation.image_contents import contents
from torchrelay.attestation.sbom import sbom
from torchrelay.cli.console import DEFAULT_DIR, AsJson, BundleFolder, ModelDir, begin, done, option
from torchrelay.core import progress
from torchrelay.core.errors import NotVerified
from torchrelay.core.files import atomic_write
from torchrelay.core.workspace import Workspace
from torchrelay.model.model import Model
from torchrelay.model.server_config import load_model
from torchrelay.oci.image import Image, load_image
from torchrelay.stages.bundle import read


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    bundle: BundleFolder = None,
    output: Annotated[Path | None, option("output", "File to write. Default: stdout.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what the image contains.

    CycloneDX 1.6 JSON, read from the image's layers: Debian and Python packages, Java, the model and its weights.
    """
    begin(as_json=as_json)
    built, model = _image_and_model(model_dir, bundle)
    document = sbom(built, contents(built, progress.progress()), model)
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    with atomic_write(output) as file:
        file.write(text.encode())
    result = {"path": str(output), "image": built.digest, "components": len(document["components"])}
    done(result, f"{output}  {len(document['components'])} components")


def _image_and_model(model_dir: Path, bundle: Path | None) -> tuple[Image, Model]:
    if bundle is not None:
        opened = read(bundle)
        return opened.image, opened.model
    model = load_model(model_dir)
    loaded = load_image(Workspace(model_dir).image_record)
    if loaded is None:
        raise NotVerified(f"{model_dir}: there is no built image", "run `torchrelay build` first")
    return loaded[0], model
