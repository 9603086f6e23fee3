"""The errors of one sample, and the RFC 9457 problem document that its sender gets.

Source: https://www.rfc-editor.org/rfc/rfc9457 (application/problem+json; type, title, status, detail and extensions).
"""

import difflib
from collections.abc import Collection
from http import HTTPStatus

CONTENT_TYPE = "application/problem+json"
MOST = 500  # characters of detail: an exception's text may quote the whole body
_TYPE = "urn:torchrelay:problem:"


def nearest(word: str, known: Collection[str]) -> str:
    """`did you mean size?`, or the known words when none is near."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else "known: " + ", ".join(known)


class Refusal(Exception):
    """A sample is not answered: `status` and the sender's problem document. For the library itself; authors raise `BadSample`."""

    def __init__(self, status: int, kind: str, detail: str, **members: object) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.members = members

    def document(self) -> dict[str, object]:
        """The members of the problem document; `members` are its extensions (`expected`, `got`, `instance`, ...)."""
        return {
            "type": _TYPE + self.kind,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail if len(self.detail) <= MOST else self.detail[: MOST - 1] + "…",
            **{name: member for name, member in self.members.items() if member is not None},
        }


class BadSample(Refusal):
    """Raise it in preprocess or postprocess to refuse one sample; its neighbours are answered all the same.

    `expected` and `got` go into the problem document as they are: `BadSample("four numbers, please", expected={"shape": [4]})`.
    """

    def __init__(
        self, detail: str, *, expected: object = None, got: object = None, status: int = 400, kind: str = "bad-sample"
    ) -> None:
        if not 400 <= status <= 499:
            raise ValueError(f"a bad sample is the sender's fault: its status is 4xx, not {status}")
        super().__init__(status, kind, detail, expected=expected, got=got)


class WorkerLost(Exception):
    """The device is unusable until this process ends (a CUDA error that sticks)."""
