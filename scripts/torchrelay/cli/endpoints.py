"""The model of a directory and the target that a verb asks about."""

from pathlib import Path

from torchrelay.model.model import Model
from torchrelay.model.server_config import load_model
from torchrelay.targets import chosen_target


def model_and_target(model_dir: Path, target: str | None) -> tuple[Model, str]:
    """Return the model and the name of its target. Raises ModelInvalid, DeployFailed."""
    model = load_model(model_dir)
    return model, chosen_target(model, target)
