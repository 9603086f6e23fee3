"""Refuses files that are not weights: empty ones, Git LFS pointers and web pages."""

from pathlib import Path

from torchrelay.core.errors import WeightsMissing
from torchrelay.model.files import LFS_POINTER

PAGES = (b"<!doctype html", b"<html")


def refuse_stand_ins(uri: str, path: Path) -> None:
    """Refuse an empty file, a Git LFS pointer and a web page.

    Raises WeightsMissing.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise WeightsMissing(f"weights: {uri}: the file is empty", "write or upload the weights again")
    if head.startswith(LFS_POINTER):
        raise WeightsMissing(
            f"weights: {uri}: a Git LFS pointer, not the file it stands for",
            "run `git lfs install && git lfs pull`; in a workflow set `lfs: true` on actions/checkout",
        )
    if head.lstrip().lower().startswith(PAGES):
        raise WeightsMissing(
            f"weights: {uri}: a web page (a login or error page), not weights",
            "give the address of the file itself, readable without a browser",
        )
