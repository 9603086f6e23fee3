"""The answers that verify received, stored beside its verdict; `diff` compares them with those of the live endpoint."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from torchrelay.core.files import read_json, write_json
from torchrelay.core.workspace import Workspace
from torchrelay.oci.blobs import sha256_digest
from torchrelay.verification.prober import ProbeAnswer

LARGEST = 1 << 20
MOST_BYTES = 32 << 20


@dataclass(frozen=True)
class KeptAnswer:
    """One answer. `body` is None when it was too large to store; then only its `digest` is known."""

    status: int
    body: bytes | None
    digest: str

    @staticmethod
    def of(answer: ProbeAnswer) -> "KeptAnswer":
        """Convert a prober's answer."""
        return KeptAnswer(answer.status, answer.body, sha256_digest(answer.body))


def save(workspace: Workspace, config_digest: str, answers: Mapping[str, ProbeAnswer]) -> None:
    """Store the answers of an image by sample: bodies of at most 1 MiB, and of 32 MiB together."""
    rows, left = {}, MOST_BYTES
    for name, answer in answers.items():
        fits = len(answer.body) <= min(LARGEST, left)
        left -= len(answer.body) if fits else 0
        body = base64.b64encode(answer.body).decode() if fits else None
        rows[name] = {"status": answer.status, "body": body, "digest": sha256_digest(answer.body)}
    write_json(workspace.answers, {"config": config_digest, "answers": rows})


def load(workspace: Workspace, config_digest: str) -> dict[str, KeptAnswer] | None:
    """Return the stored answers of an image by sample; None when there are none, or they belong to another image."""
    document = read_json(workspace.answers)
    try:
        if document["config"] != config_digest:
            return None
        return {
            str(name): KeptAnswer(
                int(row["status"]),
                None if row["body"] is None else base64.b64decode(row["body"], validate=True),
                str(row["digest"]),
            )
            for name, row in document["answers"].items()
        }
    except (TypeError, KeyError, AttributeError, ValueError, binascii.Error):
        return None
