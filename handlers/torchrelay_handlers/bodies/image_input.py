"""Prepares received pictures for the network; image-classifier and image-segmenter share it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchrelay_handlers.bodies import images
from torchrelay_handlers.bodies.tensors import NetworkInput
from torchrelay_handlers.bodies.url_images import Fetcher, Rules
from torchrelay_handlers.messages import NotedSample
from torchrelay_handlers.problems import BadSample, Refusal

MOST_URLS = 8  # per request: one that lists a thousand must not keep its batch waiting
CHANNELS = {"RGB": 3, "L": 1}
TAKES = ("image/", "text/plain")
"""Content types of pictures: the file itself, or its base64."""


class Pictures:
    """Pictures by the options size, fit, resize, mode, mean, std, formats, max_*pixels and url_*.

    `noted`: the height and width of the picture as it was sent go along, as a note.

    Raises:
        ValueError: the options contradict each other.
    """

    def __init__(self, options: Mapping[str, Any], dtype: torch.dtype | None, *, noted: bool = False) -> None:
        self.noted = noted
        size = options["size"]
        self.height: int = size if isinstance(size, int) else size[0]
        self.width: int = size if isinstance(size, int) else size[1]
        self.mode, channels = options["mode"], CHANNELS[options["mode"]]
        self.stretch, self.shorter = options["fit"] == "stretch", options["resize"]
        if self.shorter is not None and not self.stretch and self.shorter < min(self.height, self.width):
            raise ValueError(f"handler_args.resize: {self.shorter} is smaller than size {size}; the crop would reach over the edge")
        self.formats, self.limits = options["formats"], images.Limits.of(options)
        self.network_input = NetworkInput([channels, self.height, self.width], torch.uint8)
        self.normalize = images.normalizer(options["mean"], options["std"], channels, dtype or torch.float32)
        self.example = torch.zeros([channels, self.height, self.width], dtype=torch.uint8)
        self._fetcher: Fetcher | None = None
        if options["url_hosts"]:
            self._fetcher = Fetcher(
                Rules(
                    tuple(options["url_hosts"]),
                    options["url_max_mb"] * 2**20,
                    options["url_timeout_s"],
                    options["internal-be-careful-url-loopback"],
                )
            )

    def __call__(self, value: object) -> Tensor | NotedSample:
        """uint8 [C, H, W] of a decoded body."""
        picture = value if isinstance(value, images.Opened) else images.opened(images.body_of(value), self.formats, self.limits)
        image = images.to_mode(picture.load(), self.mode)
        sample = images.as_tensor(images.fit(image, self.height, self.width, stretch=self.stretch, shorter=self.shorter))
        return NotedSample(sample, (image.height, image.width)) if self.noted else sample

    def admit(self, values: list[object]) -> list[object]:
        """The pictures of one request, opened and not yet decoded; a refusal stands for one that cannot be opened.

        Raises:
            BadSample: together they are too much work (413).
        """
        budget = images.Budget(self.limits)
        return [self._opened(value, budget) for value in values]

    def _opened(self, value: object, budget: images.Budget) -> object:
        if isinstance(value, Refusal):
            return value
        try:
            body = images.body_of(value)
        except BadSample as refusal:
            return refusal
        return budget.open(body, self.formats)

    @property
    def gather(self) -> Callable[[list[list[object]]], list[list[object]]] | None:
        """Fetches every `{"url": ...}` of a batch at the same time; None when URLs are not allowed."""
        return self._gather if self._fetcher is not None else None

    def _gather(self, requests: list[list[object]]) -> list[list[object]]:
        requests = [list(values) for values in requests]
        places: list[tuple[int, list[object], int, object]] = []
        for values in requests:
            urls = [
                (values, at, value["url"]) for at, value in enumerate(values) if isinstance(value, dict) and value.keys() == {"url"}
            ]
            places += [(rank, *place) for rank, place in enumerate(urls[:MOST_URLS])]
            for _, at, _ in urls[MOST_URLS:]:
                values[at] = BadSample(f"more than {MOST_URLS} URLs in one request", status=413, kind="too-many-urls")
        places.sort(key=lambda place: place[0])  # every request's first URL before the second of any: none is left to the end
        if places and self._fetcher is not None:
            for (_, values, at, _), body in zip(places, self._fetcher.fetch_all([place[3] for place in places]), strict=True):
                values[at] = body
        return requests
