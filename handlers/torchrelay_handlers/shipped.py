"""The shipped handlers by name; their options are in `catalogue.SHIPPED`."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from torch import nn

from torchrelay_handlers.handler import Handler
from torchrelay_handlers.steps import Recipe


def make(name: str, init_function: Callable[..., nn.Module] | None = None, options: Mapping[str, Any] | None = None) -> Handler:
    """The shipped handler `name`, still without its weights.

    Raises:
        ValueError: there is no such handler, or an option is wrong.
    """
    if name not in _RECIPES:
        raise ValueError(f"there is no shipped handler {name!r}; there are " + ", ".join(_RECIPES))
    module = import_module(f"torchrelay_handlers.recipes.{name.replace('-', '_')}")
    recipe: Recipe = getattr(module, _RECIPES[name])()
    return Handler(recipe, init_function=init_function, options=options)


_RECIPES = {
    "tensor": "TensorRecipe",
    "image-classifier": "ImageClassifierRecipe",
    "image-segmenter": "ImageSegmenterRecipe",
    "text-classifier": "TextClassifierRecipe",
}
"""Handler (and its module in `recipes`) -> class. Only the used one is imported, because those for pictures need Pillow."""
