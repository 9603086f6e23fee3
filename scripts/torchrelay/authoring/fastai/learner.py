"""What the sandbox said of a learner, looked at as a stranger's words before anything is made of it."""

import base64
import binascii
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from torchrelay.authoring.fastai.module_kinds import SUPPORTED
from torchrelay.authoring.fastai.refusal import refused
from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import printable

UNBELIEVED = "what its loading says of it cannot be believed"
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
    """The learner's mask of the picture: bytes, base64. `unsure` pixels may turn out otherwise elsewhere, as one of `rivals`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    size: Size
    mask: Annotated[str, Field(max_length=1 << 26)]
    unsure: Annotated[int, Field(ge=0)]
    rivals: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(max_length=256)]

    @property
    def pixels(self) -> bytes:
        """The class of every pixel, row by row."""
        return base64.b64decode(self.mask, validate=True)


class Told(BaseModel):
    """A learner, read. `size` and `picture` are height and width in pixels; `mean` and `std` are of channels that are 0-1."""

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
        """How many classes the network tells apart: a mask of one channel tells two."""
        return max(2, self.outputs[1]) if self.task == "segment" else self.outputs[1]


def believed(found: dict[str, Any]) -> Told:
    """The description, when it is one.

    Raises:
        ModelInvalid: the learner cannot be exported, with every reason; or the description is not one.
    """
    problems = found.get("problems")
    if problems and isinstance(problems, list):
        raise _refusal([printable(str(problem), 300) for problem in problems[:20]], len(problems))
    try:
        told = Told.model_validate(found)
        consistent = _problem(told)
    except (ValidationError, binascii.Error) as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else "answer.mask"
        raise refused(f"{UNBELIEVED}: {printable(where)}") from error
    if consistent:
        raise refused(consistent)
    return told


def _refusal(problems: list[str], count: int) -> ModelInvalid:
    listed = [Problem("learner", None, "", problem) for problem in problems]
    rest = f"{count - len(problems)} more of them; " if count > len(problems) else ""
    listed[-1] = Problem("learner", None, "", problems[-1], f"{rest}supported are {SUPPORTED}")
    return ModelInvalid(listed)


def _problem(told: Told) -> str:
    """Why a legal description makes no model; empty when it does."""
    if any(value == 0 for value in told.std):
        return "its pictures are normalised by a deviation of zero"
    if any(len(values) not in (1, told.channels) for values in (told.mean, told.std)):
        return "its pictures are normalised by another number of channels than they have"
    if told.task == "segment":
        return _mask_problem(told)
    if not isinstance(told.answer, Classified) or len(told.outputs) != 2:
        return UNBELIEVED
    return "" if len(told.answer.confidences) == told.outputs[1] else "it answers otherwise than one number per class"


def _mask_problem(told: Told) -> str:
    if told.activation == "sigmoid" and told.outputs[1] != 1:
        return "it finds several classes in one pixel, which the handlers do not"
    if told.count > 256:
        return f"it tells {told.count} classes apart, and a mask of bytes at most 256"
    if not isinstance(told.answer, Segmented) or len(told.outputs) != 4:
        return UNBELIEVED
    return "" if len(told.answer.pixels) == math.prod(told.answer.size) else UNBELIEVED
