"""The shipped handlers by name; their options are in `catalogue.SHIPPED`."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from torchrelay_handlers.handler import Handler
from torchrelay_handlers.recipes.image_classifier import ImageClassifierRecipe
from torchrelay_handlers.recipes.image_segmenter import ImageSegmenterRecipe
from torchrelay_handlers.recipes.tensor import TensorRecipe
from torchrelay_handlers.recipes.text_classifier import TextClassifierRecipe
from torchrelay_handlers.steps import Recipe


def make(name: str, init_function: Callable[..., nn.Module] | None = None, options: Mapping[str, Any] | None = None) -> Handler:
    """The shipped handler `name`, still without its weights.

    Raises:
        ValueError: there is no such handler, or an option is wrong.
    """
    recipe = _RECIPES.get(name)
    if recipe is None:
        raise ValueError(f"there is no shipped handler {name!r}; there are " + ", ".join(_RECIPES))
    return Handler(recipe, init_function=init_function, options=options)


_RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (TensorRecipe(), ImageClassifierRecipe(), ImageSegmenterRecipe(), TextClassifierRecipe())
}
