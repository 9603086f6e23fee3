"""The messages of a handler: a request as the server received it, an answer as the server sends it."""

import json
from dataclasses import dataclass, field

JSON = "application/json"


@dataclass(slots=True)
class Request:
    """One request. `body` is bytes, or parsed by a server (`parsed`): a str, a JSON value, a dict of form fields.

    `content_encoding`: the header of that name, such as gzip.
    """

    body: object
    content_type: str = ""
    accept: str = ""
    id: str = ""
    parsed: bool = False
    content_encoding: str = ""


@dataclass(slots=True)
class Answer:
    """One answer, complete: `body` is sent as it is."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)

    def json(self) -> object:
        """The body as a Python value."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class NotedSample:
    """A preprocessed sample, and a note for the time after the network has answered."""

    sample: object
    note: object
