"""Weights on a Hugging Face hub: hf://org/repo/path[@revision], pinned by the commit that the hub names.

huggingface_hub is not used, for these reasons (measured with 2.4.0):
- `hf_hub_download` cannot resume: `_download_to_tmp_and_move` writes to a temporary file per process and deletes it on failure.
- Its HTTP client ignores REQUESTS_CA_BUNDLE, so a hub behind a private authority, which works here, fails with
  CERTIFICATE_VERIFY_FAILED. This is true of `get_hf_file_metadata` too.
- With its dependencies it adds 24 MB to the installation and 130 to 260 ms to the start of a fetch.

The routes and headers are those of `huggingface_hub/file_download.py`: `/<repo>/resolve/<revision>/<path>`, `X-Repo-Commit`,
`X-Linked-Etag` (the sha256 of a file in large-file storage), `X-Error-Code`.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

from torchrelay.core.errors import WeightsMissing
from torchrelay.weights.sources import https
from torchrelay.weights.sources.stream import Stream

HUB = "https://huggingface.co"
FORM = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)/(?P<path>[^@?#]+?)(?:@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True)
class HubFile:
    """The parts of an hf:// URI; revision is a branch, a tag or a commit."""

    repo: str
    path: str
    revision: str


def parse(uri: str) -> HubFile:
    """Split an hf:// URI into its parts; the revision is `main` when the URI has none.

    Raises WeightsMissing when it does not have the form.
    """
    match = FORM.fullmatch(uri)
    parts = match["path"].split("/") if match else []
    if match is None or any(part in ("", ".", "..") for part in parts):
        raise WeightsMissing(f"weights: {uri}: not hf://org/repo/path[@revision]", "correct `weights` in model.yaml")
    return HubFile(match["repo"], match["path"], match["revision"] or "main")


def basename(uri: str) -> str:
    """Return the last part of the path inside the repository."""
    return PurePosixPath(parse(uri).path).name


def url_of(file: HubFile, endpoint: str) -> str:
    """Return the address of a file on a hub."""
    return f"{endpoint.rstrip('/')}/{file.repo}/resolve/{quote(file.revision, safe='')}/{quote(file.path)}"


@contextmanager
def open_stream(uri: str, start: int, validator: str) -> Iterator[Stream]:
    """See `WeightsSource.open_stream`; the version is the commit.

    HF_ENDPOINT names another hub; HF_TOKEN is sent to the hub alone, never to the storage it redirects to.
    """
    url = url_of(parse(uri), os.environ.get("HF_ENDPOINT") or HUB)
    auth = https.Bearer(os.environ.get("HF_TOKEN", "").strip(), urlsplit(url).netloc)
    with https.get(url, start, validator, auth) as final:
        refuse_hub_error(uri, final, bool(auth.token))
        stream = https.stream_of(final, url, start)
        linked_etag = final.headers.get("x-linked-etag", "").removeprefix("W/").strip('"')
        yield replace(
            stream,
            version=final.headers.get("x-repo-commit", stream.version),
            sha256=linked_etag if re.fullmatch(r"[0-9a-f]{64}", linked_etag) else "",
        )


def refuse_hub_error(uri: str, final: https.FinalResponse, has_token: bool) -> None:
    """Raise WeightsMissing, with its fix, for each of the hub's own error codes."""
    code, status = final.headers.get("x-error-code", ""), final.response.status_code
    if status in (401, 403) or code in ("GatedRepo", "RepoNotFound"):
        fix = (
            "accept the repository's terms on its page, and check that HF_TOKEN may read it"
            if has_token
            else "correct the name; for a private or gated repository set HF_TOKEN to a token that may read it"
        )
        raise WeightsMissing(f"weights: {uri}: the hub refuses ({status} {code})".replace(" )", ")"), fix)
    if code == "RevisionNotFound":
        raise WeightsMissing(f"weights: {uri}: no such revision", "name a branch, tag or commit after the @")
    if code == "EntryNotFound":
        raise WeightsMissing(f"weights: {uri}: no such file in that repository", "correct the path in `weights`")
