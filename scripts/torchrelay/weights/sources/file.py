"""Weights in the checkout, or with --allow-outside anywhere on this machine: read in place, never copied."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from torchrelay.core.errors import WeightsMissing
from torchrelay.model.files import UnusableFile
from torchrelay.model.outside import require_allowed


def local_path(uri: str, model_dir: Path) -> Path:
    """Return the file that a relative path, an absolute one or a file:// URI names.

    Raises WeightsMissing when it is not a readable, regular file, or is outside of the checkout and that is not allowed.
    """
    if uri.lower().startswith("file:"):
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise WeightsMissing(f"weights: {uri}: names another machine", "write file:///path, or a relative path")
        path = Path(unquote(parts.path))
    else:
        path = model_dir / uri
    try:
        require_allowed(path, model_dir)
        if not path.exists():
            raise WeightsMissing(
                f"weights: {path}: no such file",
                "put the file there, or correct `weights` in model.yaml (paths are relative to it)",
            )
        if not path.is_file():
            raise WeightsMissing(f"weights: {path}: not a regular file", "name one file; extra_files takes folders")
        with path.open("rb"):
            pass
    except UnusableFile as error:
        raise WeightsMissing(f"weights: {path}: {error}", getattr(error, "fix", "name another file")) from error
    except OSError as error:
        raise WeightsMissing(f"weights: {path}: {error.strerror}", "make the file readable to this user") from error
    return path
