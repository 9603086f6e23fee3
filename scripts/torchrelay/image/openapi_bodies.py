"""The requests and answers of each kind of handler as OpenAPI media types: the handler library's options as JSON Schema.

The schemas describe the intended requests. The library also accepts some odd ones (the only part of a form under any name, for
example), and refuses some that a schema cannot exclude, such as lists that are not rectangular.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"
CSV = "text/csv"
TEXT = "text/plain"
NPY = "application/x-npy"
FORM = "multipart/form-data"
BYTES = "application/octet-stream"
PNG = "image/png"
SAMPLE = "Sample"
ANSWER = "Answer"
MOST_CLASSES = 1000  # listed one by one

Schema = dict[str, Any]

_INTEGERS = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}
_LARGEST = {"float16": 65504.0, "float32": 3.4028234663852886e38}
_BASE64_FIELDS = ("image", "data", "b64", "image_bytes")
_TEXT_FIELDS = ("text", "data", "input_data")


@dataclass(frozen=True)
class Bodies:
    """`takes` and `gives`: media type objects by content type; `schemas`: the schemas in them; `known`: the list is complete."""

    takes: dict[str, Schema]
    gives: dict[str, Schema]
    schemas: dict[str, Schema]
    refusals: tuple[int, ...] = field(default=())
    known: bool = True


def bodies_of(handler: str, options: Mapping[str, Any], classes: list[str] | None) -> Bodies:
    """Return the bodies of `handler` with its complete `options`; `classes` are the names of the classes, if there are any."""
    if handler == "tensor":
        return _tensor(options)
    if handler == "text-classifier":
        return _text(options, classes)
    if handler == "image-classifier":
        return _image(options, _classified(options, classes), {})
    if handler == "image-segmenter":
        return _image(options, _segmented(options, classes), {PNG: {}}, (406,))
    return _own(options)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Schema], description: str = "", *, optional: tuple[str, ...] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    schema: Schema = {"type": "object", "required": required, "additionalProperties": False, "properties": dict(properties)}
    return schema | ({"description": description} if description else {})


def _several(options: Mapping[str, Any], item: Schema, description: str) -> Schema:
    return {"type": "array", "minItems": 1, "maxItems": options["max_instances"], "items": item, "description": description}


def _instances(options: Mapping[str, Any], item: Schema) -> Schema:
    rows = _several(options, item, 'As many samples as are listed, answered by {"predictions": [...]} in their order.')
    return _object({"instances": rows})


def _answers(*, lists: bool) -> Schema:
    """Return the schema of one answer, of a list of them for a list of samples, or of the answer to `instances`."""
    forms = [_ref(ANSWER), _object({"predictions": {"type": "array", "minItems": 1, "items": _ref(ANSWER)}})]
    if lists:
        forms.insert(1, {"type": "array", "minItems": 1, "items": _ref(ANSWER)})
    return {"anyOf": forms}


def _form(name: str, part: Schema, description: str) -> Schema:
    return {"schema": _object({name: part}, description)}


def _number(dtype: str, nan: str = "refuse") -> Schema:
    """Return the schema of a number of this dtype; `nan` is the handler's option, for numbers in answers."""
    if dtype in _INTEGERS:
        low, high = _INTEGERS[dtype]
        return {"type": "integer", "minimum": low, "maximum": high}
    if dtype == "bool":
        return {"enum": [True, False, 0, 1]}
    bound = {"minimum": -_LARGEST[dtype], "maximum": _LARGEST[dtype]} if dtype in _LARGEST else {}
    return {"type": ["number", "null"] if nan == "null" else "number", **bound}


def _tensor(options: Mapping[str, Any]) -> Bodies:
    shape, dtype = options["shape"], options["dtype"]
    number = _number(dtype)
    kind = "numbers" if dtype == "auto" else dtype
    if shape is None:
        description = f"One sample: {kind}, in lists that make one rectangular array, without a batch dimension."
        sample: Schema = {"anyOf": [number, {"type": "array", "minItems": 1, "items": _ref(SAMPLE)}], "description": description}
    else:
        sample = number
        for size in reversed(shape):
            bounds = {"minItems": 1} if size is None else {"minItems": size, "maxItems": size}
            sample = {"type": "array", **bounds, "items": sample}
        free = ", null for a free size" if None in shape else ""
        sample = {**sample, "description": f"One sample: {kind} of shape {_shown(shape)}{free}, without a batch dimension."}
    forms = [_ref(SAMPLE), _object({"input_data": _ref(SAMPLE)}), _object({"data": _ref(SAMPLE)})]
    if shape is not None:
        forms.append(_several(options, _ref(SAMPLE), "Several samples, answered by a list in their order."))
    takes: dict[str, Schema] = {JSON: {"schema": {"anyOf": [*forms, _instances(options, _ref(SAMPLE))]}}}
    if shape is None or len(shape) == 1:
        columns = "numbers" if not shape or shape[0] is None else f"{shape[0]} numbers"
        description = f"Rows of {columns}, without a header line; each is a sample, and several are answered by a list."
        takes[CSV] = {"schema": {"type": "string", "minLength": 1, "description": description}}
    takes[NPY] = {"schema": {"contentMediaType": NPY, "description": "numpy's format: one sample or several, numbers or booleans."}}
    takes[FORM] = _form("data", {"type": "string"}, "One part, by its own content type: JSON, CSV or .npy.")
    return Bodies(takes, {JSON: {"schema": _answers(lists=True)}}, {SAMPLE: sample, **_numbers(options)}, _refused(options))


def _shown(shape: list[int | None]) -> str:
    return "[" + ", ".join("null" if size is None else str(size) for size in shape) + "]"


def _numbers(options: Mapping[str, Any]) -> dict[str, Schema]:
    """Return the schema of the network's output: numbers in lists, or in objects where the network names its outputs."""
    null = options["nan"] == "null"
    kinds = ["number", "boolean", *(["null"] if null else [])]
    description = "What the network answers to one sample" + (", null for NaN and Infinity." if null else ".")
    if options["output"] == "argmax":
        kinds, description = ["integer"], "The index of the largest number along the network's last dimension."
    elif options["output"] == "softmax":
        kinds, description = (
            (["number", "null"] if null else ["number"]),
            "Confidences, which add up to 1 along the last dimension.",
        )
    parts: list[Schema] = [{"type": kinds}, {"type": "array", "items": _ref(ANSWER)}]
    if options["output"] == "values":
        parts.append({"type": "object", "additionalProperties": _ref(ANSWER)})
    return {ANSWER: {"anyOf": parts, "description": description}}


def _refused(options: Mapping[str, Any]) -> tuple[int, ...]:
    return (422,) if options["nan"] == "refuse" else ()


def _class(classes: list[str] | None) -> Schema:
    if classes is None:
        return {"type": "string", "pattern": "^[0-9]+$", "description": "Index of the network's output."}
    names = list(dict.fromkeys(classes))
    return {"type": "string", **({"enum": names} if len(names) <= MOST_CLASSES else {})}


def _classified(options: Mapping[str, Any], classes: list[str] | None) -> dict[str, Schema]:
    probable: Schema = {"type": "number", "minimum": 0}
    # Without an activation the confidence is any number that the network returns.
    confidence = probable if options["activation"] != "none" else _number("auto", options["nan"])
    likely = {"class": _class(classes), "confidence": confidence}
    description = "The likeliest class" + (f", and the likeliest {options['top_k']} in `top`." if options["top_k"] > 1 else ".")
    if options["top_k"] > 1:
        likely["top"] = {"type": "array", "minItems": 1, "maxItems": options["top_k"], "items": _object(dict(likely))}
    return {ANSWER: _object(likely, description)}


def _segmented(options: Mapping[str, Any], classes: list[str] | None) -> dict[str, Schema]:
    parts: dict[str, tuple[str, Schema]] = {
        "mask": (
            "base64_prediction",
            {"type": "string", "contentEncoding": "base64", "description": "Class indexes row by row, a byte a pixel."},
        ),
        "size": (
            "size",
            {
                "type": "array",
                "minItems": 2,
                "maxItems": 2,
                "items": {"type": "integer", "minimum": 1},
                "description": "Height and width of the mask.",
            },
        ),
        "png": ("png", {"type": "string", "contentEncoding": "base64", "contentMediaType": PNG}),
        "classes": (
            "classes",
            {
                "type": "array",
                "minItems": 1,
                "items": _object(
                    {
                        "index": {"type": "integer", "minimum": 0, "maximum": 255},
                        "class": _class(classes),
                        "pixels": {"type": "integer", "minimum": 1},
                        "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                    }
                ),
                "description": "The classes that are there, the largest first.",
            },
        ),
    }
    size = {"network": "the network's input", "input": "the picture as it was sent"}[options["mask_size"]]
    return {
        ANSWER: _object(
            dict(parts[part] for part in options["answer"]),
            f"The class of every pixel, at the size of {size}; `Accept: application/json; size=input` or `size=network` chooses.",
        )
    }


def _image(
    options: Mapping[str, Any], answer: dict[str, Schema], gives: dict[str, Schema], refusals: tuple[int, ...] = ()
) -> Bodies:
    formats = options["formats"]
    description = f"An image file: {', '.join(formats)}, of at most {options['max_pixels']} pixels; of several frames the first."
    encoded: Schema = {"type": "string", "minLength": 1, "contentEncoding": "base64", "description": description}
    sample: Schema = {"anyOf": [encoded]}
    for name in _BASE64_FIELDS:
        sample["anyOf"].append(_object({name: {"anyOf": [encoded, _object({"b64": encoded})]}}))
    if options["url_hosts"]:
        hosts = ", ".join(options["url_hosts"])
        url_description = f"Fetched from {hosts}; at most {options['url_max_mb']} MB within {options['url_timeout_s']} s."
        sample["anyOf"].append(_object({"url": {"type": "string", "format": "uri", "description": url_description}}))
    takes: dict[str, Schema] = {}
    for kind in (*(f"image/{name.lower()}" for name in formats), BYTES):
        takes[kind] = {"schema": {"contentMediaType": kind, "description": description}}
    takes[JSON] = {"schema": {"anyOf": [_ref(SAMPLE), _instances(options, _ref(SAMPLE))]}}
    takes[TEXT] = {"schema": encoded}
    takes[FORM] = _form("image", {"contentMediaType": BYTES}, "One part: the image file.")
    answers = {JSON: {"schema": _answers(lists=False)}, **gives}
    return Bodies(takes, answers, {SAMPLE: sample, **answer}, (*refusals, *_refused(options)))


def _text(options: Mapping[str, Any], classes: list[str] | None) -> Bodies:
    text: Schema = {"type": "string", "minLength": 1, "maxLength": options["max_characters"]}
    more = "refused" if options["too_long"] == "refuse" else "cut off"
    text["description"] = f"A text. What goes beyond {options['max_tokens']} tokens is {more}."
    sample = {"anyOf": [text, *(_object({name: text}) for name in _TEXT_FIELDS)]}
    several = _several(options, _ref(SAMPLE), "Several texts, answered by a list in their order.")
    takes: dict[str, Schema] = {
        TEXT: {"schema": text},
        JSON: {"schema": {"anyOf": [_ref(SAMPLE), several, _instances(options, _ref(SAMPLE))]}},
        FORM: _form("text", text, "One part: the text."),
    }
    gives = {JSON: {"schema": _answers(lists=True)}}
    return Bodies(takes, gives, {SAMPLE: sample, **_classified(options, classes)}, _refused(options))


def _own(options: Mapping[str, Any]) -> Bodies:
    """Return the bodies of the author's own handler as model.yaml declares them; its code may accept more and answer anything."""
    description = "What this model's own handler takes, which only its author can tell."
    anything: dict[str, Schema] = {"schema": {"description": description}}
    takes = {
        "json": {JSON: anything},
        "text": {TEXT: {"schema": {"type": "string", "description": description}}},
        "image": {"image/*": anything, BYTES: anything, JSON: anything},
        "bytes": {"*/*": anything},
        "auto": {"*/*": anything},
    }[options["input"]]
    return Bodies(takes, {"*/*": {"schema": {"description": "What this model's own handler answers."}}}, {}, known=False)
