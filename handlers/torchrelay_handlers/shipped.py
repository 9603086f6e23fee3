"""The shipped handlers by name; their options are in `catalogue.SHIPPED`.

The recipe of `image-classifier` is `recipes.image_classifier.RECIPE`. Only the module of the named handler is imported, because
those of the image handlers need Pillow.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from torch import nn

from torchrelay_handlers import catalogue
from torchrelay_handlers.handler import Handler
from torchrelay_handlers.steps import Recipe


def make(name: str, init_function: Callable[..., nn.Module] | None = None, options: Mapping[str, Any] | None = None) -> Handler:
    """The shipped handler `name`, still without its weights.

    Raises:
        ValueError: there is no such handler, or an option is wrong.
    """
    if name not in catalogue.SHIPPED:
        raise ValueError(f"{name!r} is not a shipped handler; these are shipped: " + ", ".join(catalogue.SHIPPED))
    recipe: Recipe = import_module(f"torchrelay_handlers.recipes.{name.replace('-', '_')}").RECIPE
    return Handler(recipe, init_function=init_function, options=options)
