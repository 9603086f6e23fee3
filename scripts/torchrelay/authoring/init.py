"""Init: writes a new model directory that passes check, from a few answers; overwrites nothing."""

import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from torchrelay.authoring import templates
from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import meant, printable, shown
from torchrelay.model.handlers import SHIPPED
from torchrelay.model.model import FILE, SCHEMA_URL, from_document
from torchrelay.model.weights_uri import file_name, scheme_of
from torchrelay.model.yaml_document import parse
from torchrelay.weights import formats

STUB_WEIGHTS = "model.pt"
OWN_HANDLER = "handler.py"
HANDLERS = ("tensor", "image-classifier", OWN_HANDLER)


@dataclass(frozen=True)
class InitOptions:
    """The answers; an empty text means the default."""

    name: str = ""
    weights: str = ""
    handler: str = "tensor"
    classes: tuple[str, ...] = ("cat", "dog")
    device: str = "cpu"


@dataclass(frozen=True)
class Question:
    """One question for a terminal: the `field` of InitOptions that it fills, and the only handler that it applies to."""

    field: str
    text: str
    default: str
    choices: tuple[str, ...] = ()
    only_for_handler: str | None = None


@dataclass(frozen=True)
class Initialised:
    """The files that were written, relative to the directory, and what to do next."""

    files: list[str]
    next_steps: list[str]


def questions(model_dir: Path) -> list[Question]:
    """Return the questions in order."""
    return [
        Question("name", "Name of the model", default_name(model_dir)),
        Question("handler", "Handler", "tensor", HANDLERS),
        Question("classes", "Classes, separated by commas", "cat, dog", only_for_handler="image-classifier"),
        Question("weights", "Weights: a path, s3://, https:// or hf:// (empty: example weights)", ""),
        Question("device", "Device", "cpu", ("cpu", "gpu")),
    ]


def default_name(model_dir: Path) -> str:
    """Return the folder's name, changed into a legal model name."""
    slug = re.sub(r"[^a-z0-9]+", "-", model_dir.resolve().name.lower()).strip("-")[:63].strip("-")
    return slug or "model"


def init(model_dir: Path, options: InitOptions) -> Initialised:
    """Write the directory: all of it, or nothing.

    Raises:
        ModelInvalid: an answer is not legal, or a file exists already.
    """
    files = plan(model_dir, options)
    existing = [name for name in files if (model_dir / name).exists() or (model_dir / name).is_symlink()]
    if existing:
        fix = "choose another directory, or move the file away: init overwrites nothing"
        raise ModelInvalid([Problem(printable(name), None, "", "exists already", fix) for name in existing])
    if model_dir.exists() and not model_dir.is_dir():
        raise ModelInvalid([Problem(printable(str(model_dir)), None, "", "is not a directory")])
    written: list[Path] = []
    try:
        for name, content in files.items():
            path = model_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as stream:
                written.append(path)
                stream.write(content)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return Initialised(list(files), _next_steps(model_dir, options))


def plan(model_dir: Path, options: InitOptions) -> dict[str, bytes]:
    """Return every file with its content, model.yaml first.

    Raises:
        ModelInvalid: an answer is not legal.
    """
    _check_answers(model_dir, options)
    text = _model_yaml(model_dir, options)
    loaded = from_document(parse(text.encode(), FILE), model_dir)
    if loaded.problems:
        raise ModelInvalid([Problem("init", None, problem.field, problem.message, problem.fix) for problem in loaded.problems])
    files = {FILE: text.encode(), ".gitignore": templates.GITIGNORE.encode()}
    if options.handler == "image-classifier":
        files["model.py"] = templates.IMAGE_MODEL.format(count=len(options.classes)).encode()
    else:
        files["model.py"] = templates.TENSOR_MODEL.encode()
    if options.handler == OWN_HANDLER:
        files[OWN_HANDLER] = templates.HANDLER.encode()
    if not options.weights:
        files[STUB_WEIGHTS] = _stub_weights(options)
    return files | _samples(options)


def _check_answers(model_dir: Path, options: InitOptions) -> None:
    problems = []
    if options.handler not in HANDLERS:
        problems.append(
            Problem("init", None, "handler", f"{shown(options.handler)} is not supported", meant(options.handler, HANDLERS))
        )
    if options.handler in SHIPPED and options.handler != "tensor":
        if len(options.classes) < 2 or any(not name.strip() for name in options.classes):
            problems.append(Problem("init", None, "classes", "are fewer than two", "give at least two, for example cat, dog"))
        elif not all(name.isprintable() for name in options.classes):
            problems.append(Problem("init", None, "classes", "contain a control character", "remove it"))
        elif len(set(options.classes)) != len(options.classes):
            problems.append(Problem("init", None, "classes", "contain a name twice", "remove one"))
    local = options.weights and scheme_of(options.weights) == "file" and not options.weights.startswith(("/", "file:"))
    if local and options.weights.isprintable() and not (model_dir / options.weights).is_file():
        fix = f"put the file into {printable(str(model_dir))} first, or leave the weights out to get example weights"
        problems.append(Problem("init", None, "weights", f"{shown(options.weights)} does not exist", fix))
    if problems:
        raise ModelInvalid(problems)


def _model_yaml(model_dir: Path, options: InitOptions) -> str:
    arguments = ""
    if options.handler == "tensor":
        arguments = templates.TENSOR_ARGS
    elif options.handler == "image-classifier":
        arguments = templates.IMAGE_ARGS.format(classes=json.dumps(list(options.classes), ensure_ascii=False))
    name = options.name or default_name(model_dir)
    return templates.MODEL_YAML.format(
        schema=SCHEMA_URL,
        name=_scalar(name),
        weights=_weights(model_dir, options.weights or STUB_WEIGHTS),
        weights_note="" if options.weights else "   # example weights from init; replace them with your own",
        handler=_scalar(options.handler),
        handler_args=arguments,
        device=_scalar(options.device),
    )


def _weights(model_dir: Path, uri: str) -> str:
    """Return the value of `weights`, with the format of a file that is here and executes code: the author asked for it by name."""
    path = model_dir / uri
    format_name = formats.format_of(path) if scheme_of(uri) == "file" and path.is_file() else None
    if format_name in formats.EXECUTES_CODE:
        return f"{{uri: {json.dumps(uri, ensure_ascii=False)}, format: {format_name}}}   # executes code when it is loaded"
    return _scalar(uri)


def _scalar(text: str) -> str:
    """Return the text as a YAML scalar, quoted only where needed; YAML reads JSON's escapes."""
    return text if re.fullmatch(r"[A-Za-z][A-Za-z0-9._/-]*", text) else json.dumps(text, ensure_ascii=False)


def _stub_weights(options: InitOptions) -> bytes:
    if options.handler == "image-classifier":
        count = len(options.classes)
        bias = [2.0] + [0.0] * (count - 1)
        return templates.state_dict({"fc.weight": ([count, 192], [0.0] * (count * 192)), "fc.bias": ([count], bias)})
    weight = [0.5, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0]
    return templates.state_dict({"fc.weight": ([2, 4], weight), "fc.bias": ([2], [0.0, 1.0])})


def _samples(options: InitOptions) -> dict[str, bytes]:
    """Return one request. Its answer is known for the example weights; otherwise `samples record` fills it in."""
    open_answer = {"json": {}, "compare": "subset"}
    if options.handler == "image-classifier":
        confidence = math.exp(2) / (math.exp(2) + len(options.classes) - 1)
        answer = {"json": {"class": options.classes[0], "confidence": round(confidence, 4)}, "compare": "numeric", "atol": 0.001}
        request: dict[str, object] = {"body_file": "example.png", "content_type": "image/png"}
        extra = {"samples/example.png": templates.grey_png(8)}
    else:
        answer = {"json": [0.5, 2.0], "compare": "numeric", "atol": 0.001}
        request = {"json": [1.0, 2.0, 3.0, 4.0]}
        extra = {}
    sample = {"request": request, "expect": open_answer if options.weights else answer}
    text = json.dumps(sample, indent=2, ensure_ascii=False)
    return {"samples/example.json": text.encode("utf-8", "surrogatepass") + b"\n"} | extra


def _next_steps(model_dir: Path, options: InitOptions) -> list[str]:
    where = shlex.quote(printable(str(model_dir)))
    if options.weights:
        network = f"write the network of {printable(file_name(options.weights))} into model.py"
        return [network, f"torchrelay samples record {where}, then review samples/", f"torchrelay relay {where}"]
    save = f'torch.save(network.state_dict(), "{STUB_WEIGHTS}")'
    replace = f"for your own model: write its network into model.py, {save}, then run torchrelay samples record {where}"
    return [f"torchrelay relay {where}", replace]
