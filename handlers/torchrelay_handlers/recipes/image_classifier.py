"""image-classifier: a picture in; the likeliest class and its confidence out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torchrelay_handlers.bodies.image_input import TAKES, Pictures
from torchrelay_handlers.recipes.classes import CONCLUSIONS, Classes, read_classes
from torchrelay_handlers.steps import Steps


class ImageClassifierRecipe:
    """float [N, C, H, W] -> [N, classes]."""

    name = "image-classifier"

    def steps(self, options: Mapping[str, Any], model_dir: Path, dtype: torch.dtype | None) -> Steps:
        """See Recipe."""
        pictures = Pictures(options, dtype)
        classifier = Classes(read_classes(options["classes"], model_dir), options["top_k"])
        return Steps(
            pictures,
            classifier,
            pictures.network_input,
            prepare=pictures.normalize,
            conclude=CONCLUSIONS[options["activation"]],
            gather=pictures.gather,
            admit=pictures.admit,
            example=pictures.example,
            check_example=classifier.check,
            takes=TAKES,
        )


RECIPE = ImageClassifierRecipe()
