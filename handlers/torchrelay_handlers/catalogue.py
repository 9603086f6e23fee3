"""The options in model.yaml's `handler_args`: those of the shipped handlers and those of the author's own.

Read by `torchrelay check` before anything is built, and by the handlers themselves when they start. Imports nothing heavy.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

DTYPES = ("auto", "float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# The photos of phones have 12 or 24 million pixels, whatever the network's size. Decoding 25 million takes
# 0.2 to 0.9 s and 100 MB, a JPEG of several scans 320 MB.
USUAL_PIXELS = 25_000_000
_HOST = re.compile(r"(\*|(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[1-9][0-9]{0,4})?")


@dataclass(frozen=True, slots=True)
class Option:
    """One option: `allows` says in words what `accepts` tests; `file` marks a value that may name a file of the model."""

    default: object
    allows: str
    accepts: Callable[[object], bool]
    doc: str
    file: bool = False


@dataclass(frozen=True, slots=True)
class OptionProblem:
    """What is wrong with one option, and the fix."""

    option: str
    message: str
    fix: str = ""


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # noqa: PLR0124 - NaN


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _optional(accepts: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or accepts(value)


def _numbers(value: object) -> bool:
    return _is_number(value) or (isinstance(value, list) and 1 <= len(value) <= 4 and all(map(_is_number, value)))


def _shape(value: object) -> bool:
    return isinstance(value, list) and all(item is None or (_is_int(item) and item >= 0) for item in value)


def _size(value: object) -> bool:
    return _positive(value) or (isinstance(value, list) and len(value) == 2 and all(map(_positive, value)))


def _names_or_file(value: object) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, list) and bool(value) and all(isinstance(item, str | int) for item in value)


def _divisors(value: object) -> bool:
    return _numbers(value) and value != 0 and not (isinstance(value, list) and 0 in value)


def _named(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _python(value: object) -> bool:
    return isinstance(value, str) and value.endswith(".py")


def _formats(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(item in IMAGE_FORMATS for item in value)


def _hosts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and _HOST.fullmatch(item) is not None for item in value)


def _choice(default: str, choices: tuple[str, ...], doc: str) -> Option:
    return Option(default, "one of " + ", ".join(choices), lambda value: value in choices, doc)


def _flag(default: bool, doc: str) -> Option:
    return Option(default, "true or false", lambda value: isinstance(value, bool), doc)


_COMMON: dict[str, Option] = {
    "nan": _choice("null", ("null", "refuse"), "NaN and Infinity in an answer: written as null, or the sample is refused."),
    "precision": _choice("float32", ("float32", "float16", "bfloat16"), "Type the network's floating-point weights run in."),
    "channels_last": _flag(False, "Keep images as [N, H, W, C] in memory, which convolutions on recent CPUs and GPUs prefer."),
    "compile": _flag(False, "Run the network through torch.compile; the first request of each shape waits for it."),
    "max_instances": Option(1024, "a positive integer", _positive, 'Most samples that one {"instances": [...]} may hold.'),
    "max_gpu_memory_mb": Option(
        None, "a positive integer or null", _optional(_positive), "Most GPU memory, in MB, that this worker may allocate."
    ),
}
_NETWORK_INPUT: dict[str, Option] = {
    "shape": Option(
        None, "a list of integers, null for a free size", _optional(_shape), "Shape of one sample, no batch dimension."
    ),
    "dtype": _choice("auto", DTYPES, "Type of one sample; auto takes the network's own, and keeps integers for embeddings."),
}

_PADDING: dict[str, Option] = {
    "pad": Option(
        None,
        "a number, or an object of one per named input, or null",
        lambda value: value is None or _is_number(value) or (isinstance(value, dict) and all(map(_is_number, value.values()))),
        "Fills samples up to the largest of their batch; null: only equal shapes share a batch.",
    ),
    "cut_padding": _flag(False, "Cut an output as long as the padded input to the sample's own length: one answer per token, say."),
}

_PIXELS: dict[str, Option] = {
    "max_pixels": Option(
        None,
        "a positive integer or null",
        _optional(_positive),
        "Largest width x height, checked before decoding; null: 25 million, or 4 times the network's `size` if that is more.",
    ),
    "max_request_pixels": Option(
        None,
        "a positive integer or null",
        _optional(_positive),
        "Most pixels of all pictures of one request; a JPEG of several scans counts twice, and again for every 20 scans. "
        "null: twice max_pixels.",
    ),
}

OWN: dict[str, Option] = (
    _COMMON
    | _NETWORK_INPUT
    | _PADDING
    | _PIXELS
    | {
        "input": _choice(
            "auto",
            ("auto", "json", "bytes", "text", "image"),
            "The argument of preprocess: auto follows the content type, and decodes images to RGB Pillow images.",
        ),
    }
)
"""Options of a handler.py (`handler_factory(options=...)` takes the same)."""

_NAMES = Option(
    None,
    "a list of names, or a text file with one name a line, or a JSON list or index-to-name file",
    _optional(_names_or_file),
    "Names of the classes, in the order of the network's outputs; without it the index is the name.",
    file=True,
)
_CLASSES: dict[str, Option] = {
    "classes": _NAMES,
    "top_k": Option(1, "a positive integer", _positive, "How many classes an answer lists, the likeliest first."),
    "activation": _choice("softmax", ("softmax", "sigmoid", "none"), "Turns the network's outputs into confidences."),
}
_SIZE = "Height and width of the network's input, in pixels."
_FIT = "Keep the picture's proportions and crop the centre, or stretch it to `size`."
_FITS = ("crop", "stretch")
_PER_CHANNEL = "a number, or one per channel"
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_ANSWERS = ("mask", "size", "png", "classes")
_IMAGES: dict[str, Option] = _PIXELS | {
    "resize": Option(
        None,
        "an integer or null",
        _optional(_positive),
        "Shorter side, in pixels, before the centre crop (null: the centre is cropped in the proportions of `size`, then resized).",
    ),
    "mode": _choice("RGB", ("RGB", "L"), "Colour, or greyscale (one channel)."),
    "formats": Option(
        ["PNG", "JPEG", "WEBP"], "a list of " + ", ".join(IMAGE_FORMATS), _formats, "Image formats that are decoded at all."
    ),
    "url_hosts": Option(
        None,
        "a list of hosts such as images.example.com, *.example.com or *, with :port for other ports than 80 and 443, or null",
        _optional(_hosts),
        'Hosts from which {"url": ...} is fetched, public addresses only; null: images by URL are refused.',
    ),
    "url_max_mb": Option(10, "a positive integer", _positive, "Largest image file that is fetched, in MB."),
    "url_timeout_s": Option(
        2,
        "a number, more than 0 and at most 60",
        lambda value: _is_number(value) and 0 < value <= 60,  # type: ignore[operator] # a number
        "Time for all fetches of a batch together; the whole batch waits. At most a quarter of timeouts.response_s.",
    ),
    "internal-be-careful-url-loopback": _flag(False, "For tests: URLs may lead to this machine itself."),
}

SHIPPED: dict[str, dict[str, Option]] = {
    "tensor": _COMMON
    | _NETWORK_INPUT
    | {
        "output": _choice("values", ("values", "softmax", "argmax"), "The answer: the network's output, or one computed from it."),
    },
    "image-classifier": _COMMON
    | _IMAGES
    | _CLASSES
    | {
        "size": Option(224, "an integer or [height, width]", _size, _SIZE),
        "fit": _choice("crop", _FITS, _FIT),
        "mean": Option(0.0, _PER_CHANNEL, _numbers, "Subtracted from the channels, which are 0-1."),
        "std": Option(1.0, _PER_CHANNEL + ", none of them 0", _divisors, "Divides the channels."),
    },
    "image-segmenter": _COMMON
    | _IMAGES
    | {
        "classes": _NAMES,
        "size": Option([96, 128], "an integer or [height, width]", _size, _SIZE),
        "fit": _choice("stretch", _FITS, _FIT),
        "mean": Option(_IMAGENET_MEAN, _PER_CHANNEL, _numbers, "Subtracted from the channels, which are 0-1."),
        "std": Option(_IMAGENET_STD, _PER_CHANNEL + ", none of them 0", _divisors, "Divides the channels."),
        "answer": Option(
            ["mask"],
            "a list of " + ", ".join(_ANSWERS),
            lambda value: isinstance(value, list) and bool(value) and all(item in _ANSWERS for item in value),
            "mask: base64_prediction, a byte a pixel; size; png: base64; classes: pixels and share of each. "
            "Accept: image/png gets the PNG alone.",
        ),
        "mask_size": _choice(
            "network",
            ("network", "input"),
            "Height and width of the mask: the network's, or those of the picture as it was sent. "
            "A request's own choice wins: Accept: application/json; size=input.",
        ),
        "max_mask_pixels": Option(
            4_000_000, "a positive integer", _positive, "Largest mask that is scaled to the picture's size; base64 adds a third."
        ),
    },
    "text-classifier": _COMMON
    | _CLASSES
    | _PADDING
    | {
        "tokenizer": Option(None, "a Python file or null", _optional(_python), "File with the tokeniser function.", file=True),
        "tokenizer_function": Option(
            "tokenize",
            "the name of a function",
            _named,
            "Takes a text; returns a list of ids, or a dict of lists by the network's inputs.",
        ),
        "vocab": Option(
            None,
            "a text file with one token a line, a JSON file, or null",
            _optional(_named),
            "Tokens and their ids, instead of a tokenizer.",
            file=True,
        ),
        "split": _choice("words", ("words", "wordpiece", "characters"), "How a text becomes tokens of the vocab."),
        "lowercase": _flag(True, "Texts are lowercased before they are looked up in the vocab."),
        "unknown": Option(
            "[UNK]",
            "a token",
            _named,
            "Replaces tokens that the vocab lacks; they are left out if it lacks this one too.",
        ),
        "first": Option(None, "a token or null", _optional(_named), "Put before every text, [CLS] say."),
        "last": Option(None, "a token or null", _optional(_named), "Put after every text, [SEP] say."),
        "max_tokens": Option(512, "a positive integer", _positive, "Most tokens of a text, counted without `pad`."),
        "too_long": _choice("cut", ("cut", "refuse"), "What happens to a text with more tokens."),
        "max_characters": Option(100_000, "a positive integer", _positive, "Longer texts are refused before they are split."),
        "example": Option("an example", "a text", _named, "A text that the network must be able to take, tried when it is loaded."),
    },
}
"""Options of each shipped handler, by the name that model.yaml's `handler` gives."""


def options_of(handler: str) -> dict[str, Option]:
    """The options that `handler` (a shipped name, or handler.py[:attribute]) takes."""
    return SHIPPED.get(handler, OWN)


def is_shipped(handler: str) -> bool:
    """Whether `handler` names a shipped handler; anything else names a Python file of the model."""
    return handler in SHIPPED


def check_options(handler: str, options: Mapping[str, object]) -> list[OptionProblem]:
    """Every mistake in `options`, in their order; [] if there is none."""
    known = options_of(handler)
    problems: list[OptionProblem] = []
    for name, value in options.items():
        option = known.get(name)
        if option is None:
            close = difflib.get_close_matches(str(name), known, n=1)
            fix = f"did you mean {close[0]}?" if close else "known options: " + ", ".join(known)
            problems.append(OptionProblem(str(name), f"{handler} has no such option", fix))
        elif not option.accepts(value):
            problems.append(OptionProblem(name, f"must be {option.allows}, not {value!r}"))
    return problems


def require_valid(handler: str, options: Mapping[str, object]) -> None:
    """Check the options in `options`.

    Raises:
        ValueError: an option is unknown or has a wrong value; the message names every such mistake.
    """
    mistakes = check_options(handler, options)
    if mistakes:
        lines = (f"handler_args.{m.option}: {m.message}" + (f"; {m.fix}" if m.fix else "") for m in mistakes)
        raise ValueError("\n".join(lines))


def with_defaults(handler: str, options: Mapping[str, object]) -> dict[str, object]:
    """The defaults, replaced by what `options` sets.

    Raises:
        ValueError: see `require_valid`.
    """
    require_valid(handler, options)
    return {name: option.default for name, option in options_of(handler).items()} | dict(options)


def pixel_limits(options: Mapping[str, object]) -> tuple[int, int]:
    """`max_pixels` and `max_request_pixels` of complete options, with what null stands for."""
    size, most, together = options.get("size", 0), options["max_pixels"], options["max_request_pixels"]
    height, width = size if isinstance(size, list) else (size, size)
    pixels = most if isinstance(most, int) else max(USUAL_PIXELS, 4 * height * width)  # type: ignore[operator] # _size accepted it
    return pixels, together if isinstance(together, int) else 2 * pixels
