"""The pages on handlers, from their catalogue, and on the image's contract, from the runtime's modules and the Dockerfile."""

import importlib.util
import re
import sys
from collections.abc import Mapping
from typing import Any

from reference_pages.environment import OTHER_VARIABLES
from reference_pages.markdown import ROOT, literal, page, table
from reference_pages.sources import class_fields, constant, first_sentence, module_at

STYLES = """\
| what `handler` names | style |
|---|---|
| `tensor`, `image-classifier`, `image-segmenter`, `text-classifier` | a shipped handler with its options in `handler_args` |
| `handler.py` with `handler = handler_factory(init_function, ...)` | functions for one sample |
| `handler.py` with a class derived from `SampleHandler` | the same, as a class |
| `handler.py` with `init_function`, `preprocess`, `postprocess` | the same, without the factory |
| `handler.py` with `model_fn`, `input_fn`, `predict_fn`, `output_fn` | SageMaker's functions |
| `handler.py` with `handle(data, context)`, or a class with `initialize` and `handle` | a handler written for TorchServe |
| `handler.py:attribute` | that attribute of the file |
"""

IMAGE_TEXT = """\
One image serves every caller. The server listens on loopback behind nginx; its management API is unreachable from outside.

| caller | route | body |
|---|---|---|
| TorchServe clients | `/predictions/<name>[/<version>]`, `/ping` | as sent |
| SageMaker | argument `serve`, `/invocations`, `/ping` | as sent |
| Vertex AI | `AIP_HTTP_PORT`, `AIP_HEALTH_ROUTE`, `AIP_PREDICT_ROUTE` | `{"instances": [...]}` gives `{"predictions": [...]}` |
| Prometheus | `/metrics` on port 9090 | |
| anybody | `/openapi.json` | an OpenAPI 3.1 document of this model, written when the image is built |

- **User and disk.** The image runs as any uid, with a read-only root, without capabilities and without a network. It writes to
  `/tmp` only.
- **Readiness.** `/ping` answers 200 only after a worker has answered the model's own sample, and 503 while it drains.
- **End.** On TERM it drains: it reports not ready, waits until no request is in flight, and ends. It ends when its server ends.
- **Limits.** Threads and heap follow the container's CPU and memory limits, not those of the machine. Of the memory a 32nd, and
  at most 256 MiB, is for the bodies of requests in flight; twice that may be arriving. Further requests get 503 with
  `Retry-After` at once. A body has 10 seconds to arrive, and 1 second more for each 128 KiB of it.
- **Access log.** A line of JSON on stdout for each request: time, request id, client, method, route, status, bytes and
  milliseconds; never bodies or queries. The reply carries the id as `X-Request-Id`, and so do the handler's log lines about it.
  The client is the address that connects, unless `trusted_proxies` in model.yaml names that address's network.
- **Clients that leave.** A request whose client has closed its connection is not executed.
- **OpenAPI.** `GET /openapi.json` lists every route, the content types and JSON that the handler takes with its options (shape
  and dtype, image formats and pixel limit, `{"instances": [...]}`), its answers with the names of the classes, samples as
  examples, and every refusal: the refusal of a single sample is a problem document (RFC 9457) that names what was expected.
  For a custom handler
  it contains what model.yaml says. The target `local` runs without the front and does not serve it.
"""


def catalogue() -> Any:
    """Return the handler library's catalogue of options; the module imports nothing heavy."""
    spec = importlib.util.spec_from_file_location("_catalogue", module_at("handlers", "catalogue.py"))
    if spec is None or spec.loader is None:
        raise ImportError("catalogue.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["_catalogue"] = module
    spec.loader.exec_module(module)
    return module


def options_table(options: Mapping[str, Any]) -> str:
    """Return a table of a handler's options."""
    rows = [
        [f"`{name}`", one.doc, one.allows, literal(one.default)]
        for name, one in options.items()
        if not name.startswith("internal-")
    ]
    return table(["option", "description", "allowed", "default"], rows)


def handlers() -> str:
    """Return the page on handlers."""
    module = catalogue()
    every = list(module.SHIPPED.values())
    common = {name: one for name, one in every[0].items() if all(other.get(name) is one for other in every)}
    blocks = []
    for name, options in module.SHIPPED.items():
        recipe = module_at("handlers", f"{name.replace('-', '_')}.py")
        own = {key: one for key, one in options.items() if key not in common}
        blocks += [f"## {name}", first_sentence(recipe).removeprefix(f"{name}: ").capitalize(), options_table(own)]
    return page(
        "Handlers",
        "the handler library's catalogue",
        "A handler turns a request into the network's input and its output into the answer. `handler` in model.yaml names a "
        "shipped one or a Python file; `handler_args` holds its options. An unknown option is an error that names the nearest one.",
        STYLES,
        "## Options of every shipped handler",
        options_table(common),
        *blocks,
        "## Options of a handler.py",
        "In `handler_args`, or as `handler_factory(options=...)`.",
        options_table({name: one for name, one in module.OWN.items() if name not in common}),
    )


def image() -> str:
    """Return the page on the image's contract."""
    replies = constant(module_at("runtime", "nginx.py"), "ERRORS")
    serving = class_fields(module_at("runtime", "settings.py"), "Serving")
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in dockerfile.splitlines() if re.match(r"(USER|EXPOSE|ENTRYPOINT|CMD) ", line)]
    variables = [[f"`{name}`", text] for name, (reader, text) in OTHER_VARIABLES.items() if reader == "the image"]
    return page(
        "The image's contract",
        "runtime/ and the Dockerfile",
        IMAGE_TEXT,
        "## Replies of the front",
        "The front answers these itself, as problem documents (RFC 9457) of the type `urn:torchrelay:problem:<type>`. 503 carries "
        "`Retry-After`, 405 `Allow`.",
        table(["status", "type", "detail"], [[code, f"`{kind}`", message] for code, (kind, message) in replies.items()]),
        "## Environment",
        table(["variable", "description"], variables),
        "## serving.json",
        "The model's settings, written into the image when it is built. Units: `_s` seconds, `_ms` milliseconds, bytes.",
        table(
            ["key", "type", "default"],
            [[f"`{name}`", f"`{kind}`", f"`{value}`" if value else "required"] for name, kind, value in serving],
        ),
        "## Dockerfile",
        "```dockerfile\n" + "\n".join(lines) + "\n```",
    )
