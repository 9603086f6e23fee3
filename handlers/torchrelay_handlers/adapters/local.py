"""The context that TorchServe gives its handlers, where there is no TorchServe: for one request in this process."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class LocalContext:
    """The part of ts.context.Context (0.12.0) that handlers may use; `status` and `answer_headers` are what they set."""

    def __init__(self, model_dir: Path, headers: Mapping[str, str] | None = None, request_id: str = "") -> None:
        self.manifest: dict[str, Any] | None = _json(model_dir / "MAR-INF" / "MANIFEST.json")
        self.system_properties: dict[str, Any] = {
            "model_dir": str(model_dir),
            "gpu_id": None,
            "batch_size": 1,
            "server_name": "torchrelay",
            "limit_max_image_pixels": True,
        }
        self.model_yaml_config = _yaml(model_dir / "model-config.yaml")
        self.request_ids = {0: request_id}
        self.headers: dict[str, Any] = {name.lower(): value for name, value in (headers or {}).items()}
        self.headers["body"] = {"content-type": self.headers.get("content-type", "")}  # TorchServe has each part's own there
        self.status = 200
        self.answer_headers: dict[str, str] = {}

    def get_all_request_header(self, idx: int) -> dict[str, Any]:  # noqa: ARG002 - TorchServe's signature
        """Header names are in lower case."""
        return self.headers

    def get_request_header(self, idx: int, key: str) -> str | None:  # noqa: ARG002 - TorchServe's signature
        """One header of the request."""
        value = self.headers.get(key.lower())
        return value if isinstance(value, str) else None

    def get_request_id(self, idx: int = 0) -> str | None:
        """The request's id, as it stands in logs."""
        return self.request_ids.get(idx)

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:  # noqa: ARG002 - TorchServe's signature
        """The status of the answer."""
        self.status = code

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:  # noqa: ARG002 - TorchServe's signature
        """The status of the answer."""
        self.status = code

    def set_response_header(self, idx: int, key: str, value: str) -> None:  # noqa: ARG002 - TorchServe's signature
        """A header of the answer."""
        self.answer_headers[key.lower()] = value

    def set_response_content_type(self, idx: int, value: str) -> None:
        """The content type of the answer."""
        self.set_response_header(idx, "content-type", value)


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _yaml(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}
