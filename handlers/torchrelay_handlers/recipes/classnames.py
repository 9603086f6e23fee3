"""The names of a model's classes, as model.yaml gives them. Imports nothing heavy: the image's description needs it too."""

import json
from pathlib import Path


def lines_of(text: str) -> list[str]:
    """The lines of a file of names: a name may contain what `str.splitlines` takes for a line's end, such as U+2028 and U+0085."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_classes(classes: object, model_dir: Path) -> list[str] | None:
    """The names of the classes: a list, or a file of the model with one name a line, a JSON list or an index-to-name JSON object.

    Raises:
        ValueError: the file is missing or holds something else.
    """
    if classes is None or isinstance(classes, list):
        return [str(name) for name in classes] if classes else None
    path = model_dir / str(classes)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"handler_args.classes: {classes} cannot be read: {error}") from None
    if path.suffix != ".json":
        return [line.strip() for line in lines_of(text) if line.strip()]
    try:
        listed = json.loads(text)
        if isinstance(listed, dict):  # TorchServe's index_to_name.json: {"0": "cat"} or {"0": ["n02121808", "cat"]}
            listed = [listed[str(place)] for place in range(len(listed))]
        return [str(name[-1] if isinstance(name, list) else name) for name in listed]
    except (ValueError, TypeError, KeyError, IndexError):
        raise ValueError(f"handler_args.classes: {classes} is neither a list of names nor an index-to-name object") from None
