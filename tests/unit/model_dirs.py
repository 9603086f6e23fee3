"""Model directories for tests: a good one, and ways to spoil it."""

from pathlib import Path

GOOD_YAML = """\
name: digits
weights: model.pt
handler: tensor
handler_args: {shape: [4]}
model_file: model.py
"""

GOOD_MODEL = """\
import torch


def init_function(width: int = 4):
    return torch.nn.Linear(width, 2)
"""

GOOD_SAMPLE = '{"request": {"json": [1, 2, 3, 4]}, "expect": {"json": [0.5, 2.0]}}'

GOOD: dict[str, str | bytes] = {
    "model.yaml": GOOD_YAML,
    "model.py": GOOD_MODEL,
    "model.pt": b"weights",
    "samples/one.json": GOOD_SAMPLE,
}


def write(folder: Path, changes: dict[str, str | bytes | None] | None = None) -> Path:
    """The good model directory with some files replaced, added, or (None) left out."""
    for name, content in (GOOD | (changes or {})).items():
        if content is None:
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
