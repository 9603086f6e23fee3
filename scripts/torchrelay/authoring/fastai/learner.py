"""Validates the sandbox's (untrusted) description of a learner, and makes the error that refuses a learner."""

import base64
import binascii
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from torchrelay.authoring.fastai.module_kinds import SUPPORTED
from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import printable

INVALID = "the description that the sandbox returned is not valid"
Side = Annotated[int, Field(ge=1, le=8192)]
Size = Annotated[list[Side], Field(min_length=2, max_length=2)]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("is not a finite number")
    return value


Number = Annotated[float, AfterValidator(_finite)]
Numbers = Annotated[list[Number], Field(min_length=1, max_length=3)]


class Classified(BaseModel):
    """The learner's confidences about the picture, one per class."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    confidences: Annotated[list[Number], Field(min_length=1, max_length=1_000_000)]


class Segmented(BaseModel):
    """The learner's mask of the picture: bytes, base64. On another machine, `unsure` pixels may get a class of `rivals` instead."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    size: Size
    mask: Annotated[str, Field(max_length=1 << 26)]
    unsure: Annotated[int, Field(ge=0)]
    rivals: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(max_length=256)]

    @property
    def pixels(self) -> bytes:
        """The class of every pixel, row by row."""
        return base64.b64decode(self.mask, validate=True)


class LearnerDescription(BaseModel):
    """A learner as data. `size` and `picture` are height and width in pixels; `mean` and `std` apply to channels of 0-1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    fenced: bool
    unplugged: bool
    problems: list[str] = []
    stand_ins: list[str] = []
    task: Literal["classify", "segment"]
    size: Size
    picture: Size
    fit: Literal["stretch", "crop"]
    channels: Literal[1, 3]
    mean: Numbers
    std: Numbers
    activation: Literal["softmax", "sigmoid"]
    outputs: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=4)]
    vocab: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=1_000_000)]
    answer: Classified | Segmented
    network: Any

    @property
    def count(self) -> int:
        """The number of classes: a mask of one channel has two."""
        return max(2, self.outputs[1]) if self.task == "segment" else self.outputs[1]


def refused(message: str, fix: str = "") -> ModelInvalid:
    """Return the error about a learner that is not exported."""
    return ModelInvalid([Problem("learner", None, "", message, fix)])


def parse(document: dict[str, Any]) -> LearnerDescription:
    """Return the description that a document holds.

    Raises:
        ModelInvalid: the learner cannot be exported, with every reason; or the document is not a valid description.
    """
    problems = document.get("problems")
    if problems and isinstance(problems, list):
        raise _refusal([printable(str(problem), 300) for problem in problems[:20]], len(problems))
    try:
        description = LearnerDescription.model_validate(document)
        problem = _problem(description)
    except (ValidationError, binascii.Error) as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else "answer.mask"
        raise refused(f"{INVALID}: {printable(where)}") from error
    if problem:
        raise refused(problem)
    return description


def _refusal(problems: list[str], count: int) -> ModelInvalid:
    listed = [Problem("learner", None, "", problem) for problem in problems]
    rest = f"{count - len(problems)} more problems; " if count > len(problems) else ""
    listed[-1] = Problem("learner", None, "", problems[-1], f"{rest}supported: {SUPPORTED}")
    return ModelInvalid(listed)


def _problem(description: LearnerDescription) -> str:
    """Return why no model can be made from a valid description; empty when one can."""
    if any(value == 0 for value in description.std):
        return "its pictures are normalised with a standard deviation of zero"
    if any(len(values) not in (1, description.channels) for values in (description.mean, description.std)):
        return "its normalisation has a different number of channels than its pictures"
    if description.task == "segment":
        return _mask_problem(description)
    if not isinstance(description.answer, Classified) or len(description.outputs) != 2:
        return INVALID
    return "" if len(description.answer.confidences) == description.outputs[1] else "it does not return one number per class"


def _mask_problem(description: LearnerDescription) -> str:
    if description.activation == "sigmoid" and description.outputs[1] != 1:
        return "it predicts several classes per pixel, which the handlers do not support"
    if description.count > 256:
        return f"it has {description.count} classes, and a mask of bytes can hold at most 256"
    if not isinstance(description.answer, Segmented) or len(description.outputs) != 4:
        return INVALID
    return "" if len(description.answer.pixels) == math.prod(description.answer.size) else INVALID
