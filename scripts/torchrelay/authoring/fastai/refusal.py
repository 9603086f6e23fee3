"""How an export is refused: one problem each, about the learner's file."""

from torchrelay.core.errors import ModelInvalid, Problem


def refused(message: str, fix: str = "") -> ModelInvalid:
    """An error about the learner."""
    return ModelInvalid([Problem("learner", None, "", message, fix)])
