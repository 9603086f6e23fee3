"""Where Torchrelay's own files are, and where it keeps what it makes."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_ASSETS = _PACKAGE / "assets"
ROOT = _ASSETS if _ASSETS.is_dir() else _PACKAGE.parents[1]
"""The top of the checkout, or its copy in an installed wheel: setup.py packs the files below under the same names."""
HANDLERS = ROOT / "handlers" / "torchrelay_handlers"
RUNTIME = ROOT / "runtime"
RUNTIME_PACKAGE = "torchrelay_runtime"
DOCKERFILE = ROOT / "Dockerfile"
RUNTIME_REQUIREMENTS = ROOT / "requirements" / "runtime.txt"
JRE_REQUIREMENTS = ROOT / "requirements" / "jre.txt"
KUBERNETES_BASE = ROOT / "k8s" / "base"
SERVE_WORKFLOW = ROOT / ".github" / "workflows" / "serve.yml"

IMAGE_HOME = "/opt/torchrelay"
IMAGE_PYTHON = f"{IMAGE_HOME}/venv/bin/python"
IMAGE_SERVING = f"{IMAGE_HOME}/serving.json"
IMAGE_OPENAPI = f"{IMAGE_HOME}/openapi.json"
IMAGE_DEPS = f"{IMAGE_HOME}/deps"


def image_model_dir(name: str) -> str:
    """Return the folder of the unpacked model inside the image."""
    return f"{IMAGE_HOME}/models/{name}"


def image_version_dir(version: str) -> str:
    """Return the folder of another version of the model inside the image."""
    return f"{IMAGE_HOME}/versions/{version}"


def cache_dir() -> Path:
    """Return the folder shared by all models: TORCHRELAY_CACHE, else torchrelay under the XDG cache folder."""
    if configured := os.environ.get("TORCHRELAY_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchrelay"


def weights_cache() -> Path:
    """Return where fetched weights are kept: TORCHRELAY_WEIGHTS_CACHE, which one job may hand to another, else the cache."""
    configured = os.environ.get("TORCHRELAY_WEIGHTS_CACHE")
    return Path(configured) if configured else cache_dir()
