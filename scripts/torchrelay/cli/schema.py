"""The published JSON Schemas of the files that people write: `python -m torchrelay.cli.schema schema` writes them."""

import json
import sys
from pathlib import Path

from torchrelay.model import model, sample_file
from torchrelay.stages import release_file
from torchrelay.verification import verdict

SCHEMAS = {
    "model.schema.json": model.schema,
    "sample.schema.json": sample_file.schema,
    "release.schema.json": release_file.schema,
    "verdict.schema.json": verdict.schema,
}


def rendered() -> dict[str, str]:
    """File name and text of each schema."""
    return {name: json.dumps(make(), indent=2, sort_keys=False) + "\n" for name, make in SCHEMAS.items()}


def main(folder: Path) -> None:
    """Write every schema into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in rendered().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
