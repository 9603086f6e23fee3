"""torchrelay.json: the archive's settings of its model, read when a worker starts."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "torchrelay.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """The fields of torchrelay.json; `weights` and `model_file` are relative to the model's folder."""

    handler: str
    name: str = "model"
    handler_args: dict[str, Any] = field(default_factory=dict)
    model_file: str | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    weights_format: str | None = None  # as model.yaml declares it; None: only data is loaded
    device: str = "cpu"
    workers: int = 1
    batch_size: int = 32
    setup_at_start: bool = False


def read(model_dir: Path) -> Settings:
    """The settings in `model_dir`. Fields that a later version adds are ignored.

    Raises:
        RuntimeError: the file is missing or unreadable.
    """
    path = model_dir / FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Settings(**{name: fields[name] for name in Settings.__dataclass_fields__ if fields.get(name) is not None})
    except (OSError, ValueError, TypeError) as error:
        raise RuntimeError(f"{FILE} cannot be read: {error}; archive the model again with torchrelay archive") from error
