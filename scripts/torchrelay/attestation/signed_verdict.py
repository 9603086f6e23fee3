"""The verdict as a signed statement (predicate version 2): what it is signed for, and what deploy demands of it."""

import os
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchrelay.attestation.provenance import builder_of
from torchrelay.core.errors import NotAttested
from torchrelay.core.text import shown
from torchrelay.model.origin import Origin

VALID_DAYS = 365
"""Days that a signature on a verdict counts: after that the image is verified and signed again before it is deployed."""


class SignedFor(BaseModel):
    """Which run signed a verdict, at which commit, and the last day on which the signature counts."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    repository: str
    commit: str
    ref: str
    run: str
    expires: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class SignedVerdict(BaseModel):
    """The verdict fields that deploy relies on; other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    result: Literal["passed", "gate_failed", "rolled_back", "rollback_failed"]
    model: str
    version: str
    image: str
    config: str
    signed_for: SignedFor


def predicate(
    verdict: Mapping[str, Any], source: Origin, environment: Mapping[str, str] = os.environ, today: date | None = None
) -> dict[str, Any]:
    """Return a verdict with what it is signed for.

    Commit, ref and run are those of the job that signs; without a job, those of `source`. The last day is whole, so that signing
    again on the same day gives the same statement.
    """
    expires = (today or _today()) + timedelta(days=VALID_DAYS)
    signed_for = {
        "repository": environment.get("GITHUB_REPOSITORY") or source.repository,
        "commit": environment.get("GITHUB_SHA") or source.commit,
        "ref": environment.get("GITHUB_REF") or source.ref,
        "run": builder_of(environment, source).run,
        "expires": expires.isoformat(),
    }
    return {**verdict, "signed_for": signed_for}


def passed(predicate: Any, digest: str, config: object, model: str | None, source: Origin | None) -> SignedVerdict:
    """Return a verdict that says this image passed; `model` and `source` are those to deploy, as far as they are known.

    Raises NotAttested.
    """
    try:
        verdict = SignedVerdict.model_validate(predicate)
    except ValidationError as error:
        raise NotAttested("a verdict is unreadable") from error
    if verdict.result != "passed":
        raise NotAttested(f"the verdict is {verdict.result}")
    if verdict.image != digest or verdict.config != config:
        raise NotAttested(f"a verdict is about {verdict.image} with config {verdict.config}, not about the registry's image")
    if model is not None and verdict.model != model:
        raise NotAttested(f"a verdict is about the model {verdict.model!r}, not {model!r}")
    if verdict.signed_for.expires < _today().isoformat():
        raise NotAttested(f"the signature of a verdict expired on {verdict.signed_for.expires}")
    for name in ("repository", "commit", "ref"):
        signed, wanted = getattr(verdict.signed_for, name), getattr(source, name, "")
        if wanted and signed != wanted:
            raise NotAttested(f"a verdict is signed for the {name} {shown(signed, 100)}, not {shown(wanted, 100)}")
    return verdict


def _today() -> date:
    return datetime.now(UTC).date()
