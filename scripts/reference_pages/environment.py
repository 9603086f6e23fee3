"""The page on environment variables: the options' own, the settings classes' fields, and the rest, which is described here."""

import importlib
import pkgutil
import re
from ipaddress import IPv4Address

import torchrelay
from reference_pages.command_line import commands
from reference_pages.markdown import ROOT, page, table
from torchrelay.core.settings import EnvironmentSettings

VARIABLE = re.compile(r"\bTORCHRELAY_[A-Z0-9_]*[A-Z0-9]\b")

OTHER_VARIABLES = {
    "TORCHRELAY_CACHE": (
        "every command",
        "Folder of the cache. Default: `torchrelay` in `XDG_CACHE_HOME` or `~/.cache`.",
    ),
    "TORCHRELAY_WEIGHTS_CACHE": ("fetch", "Folder that keeps fetched weights. Default: the cache."),
    "TORCHRELAY_SETUP_AT_START": (
        "the handler",
        "`true`: run `install_packages` and `unpack_dependencies` when the server starts, for a `.mar` that is served elsewhere.",
    ),
    "TORCHRELAY_ACCESS_LOG": (
        "the image",
        "`1` (the default): a line of JSON for each request, without body and query. `0`: none.",
    ),
    "TORCHRELAY_BIND": ("the image", "IP address to listen on. Default: `0.0.0.0` behind the front, `127.0.0.1` without it."),
    "TORCHRELAY_FRONT": ("the image", "`nginx` (the default) or `none`: start the server without the front proxy."),
    "TORCHRELAY_LOG_LEVEL": ("the image", "`error`, `warn` (the default), `info` or `debug`."),
    "TORCHRELAY_METRICS_PORT": ("the image", "Port of `/metrics`. Default: `9090`, or `9091` if the model itself answers on that."),
    "TORCHRELAY_PORT": ("the image", "Port to listen on; `AIP_HTTP_PORT` wins. Default: `8080`."),
    "TORCHRELAY_PROPAGATION_S": ("the image", "Seconds that the preStop program waits until no new requests arrive. Default: `5`."),
    "TORCHRELAY_SERVER": ("the image", "The server to start. Default: `torchserve`."),
    "TORCHRELAY_SERVING": ("the image", "Path of `serving.json`, which describes the model."),
    "TORCHRELAY_STATE": ("the image", "Folder for everything that the runtime writes."),
    "TORCHRELAY_TRUSTED_PROXIES": (
        "the image",
        "Networks, separated by spaces, of proxies whose `X-Forwarded-For` names the client; added to `trusted_proxies`.",
    ),
}
"""Variables that are not options of a verb and not fields of a settings class: who reads each, and what it does."""

NOT_FOR_USERS = {
    "TORCHRELAY_CANCELLED": "set by the runtime for the handler library",
    "TORCHRELAY_ROOT": "set by handlers/build.sh for itself",
}
"""Variables that only this repository's own files pass to each other."""


def settings_classes() -> list[type[EnvironmentSettings]]:
    """Return every settings class of the package."""
    for module in pkgutil.walk_packages(torchrelay.__path__, "torchrelay."):
        if not module.name.endswith("__main__") and ".inside" not in module.name:
            importlib.import_module(module.name)
    queue, classes = [EnvironmentSettings], []
    while queue:
        subclasses = queue.pop().__subclasses__()
        queue += subclasses
        classes += subclasses
    return classes


def settings_rows() -> dict[str, list[str]]:
    """Return variable, reader, description and default of every field, from the class that declares it."""
    rows = {}
    for one in settings_classes():
        for name in vars(one).get("__annotations__", {}).keys() & one.model_fields.keys():
            field = one.model_fields[name]
            variable = one.variable(name)
            default = f" Default: `{field.default}`." if isinstance(field.default, IPv4Address) else ""
            rows[variable] = [f"`{variable}`", one.read_by, f"{field.description}{default}"]
    return rows


def variables_in_code() -> set[str]:
    """Return every TORCHRELAY_ variable that the package, the handlers or the runtime name."""
    names: set[str] = set()
    for folder in ("scripts", "handlers", "runtime"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".sh") and "reference_pages" not in file.parts:
                names |= set(VARIABLE.findall(file.read_text(encoding="utf-8")))
    return names


def options_by_variable() -> dict[str, tuple[str, list[str]]]:
    """Return, by variable, the option and the verbs that take it."""
    options: dict[str, tuple[str, list[str]]] = {}
    for path, command, context in commands():
        for parameter in command.get_params(context):
            if isinstance(parameter.envvar, str):
                flag = next((one for one in parameter.opts if one.startswith("--")), "")
                options.setdefault(parameter.envvar, (flag or parameter.name, []))[1].append(
                    path.removeprefix("torchrelay").strip()
                )
    return options


def environment() -> str:
    """Return the page on environment variables.

    Raises:
        ValueError: the code names a variable that is documented nowhere, or no longer names one that is.
    """
    options, settings = options_by_variable(), settings_rows()
    named = variables_in_code()
    missing = named - set(options) - set(settings) - set(OTHER_VARIABLES) - set(NOT_FOR_USERS)
    stale = (set(OTHER_VARIABLES) | set(NOT_FOR_USERS)) - named - set(settings)
    if missing or stale:
        raise ValueError(f"OTHER_VARIABLES: add {sorted(missing)}, remove {sorted(stale)}")
    others = {name: [f"`{name}`", reader, text] for name, (reader, text) in OTHER_VARIABLES.items()}
    rows = sorted(row for name, row in (others | settings).items() if name not in options)
    return page(
        "Environment variables",
        "the command line, the settings classes and the code",
        "An empty variable counts as absent.",
        "## Variables without an option",
        table(["variable", "read by", "description"], rows),
        "The `environment` of model.yaml reaches the server; it is readable by everyone who has the image.",
        "## Variables of options",
        "Each is the environment form of the option beside it; the [command line](command-line.md) describes them.",
        table(
            ["variable", "option", "verbs"],
            [[f"`{name}`", f"`{flag}`", ", ".join(verbs) or "all"] for name, (flag, verbs) in sorted(options.items())],
        ),
        "## Variables of other programs",
        table(
            ["variable", "used for"],
            [
                ["`AIP_HTTP_PORT`, `AIP_HEALTH_ROUTE`, `AIP_PREDICT_ROUTE`", "Vertex AI's contract, read by the image."],
                ["`AWS_*`", "AWS credentials, region and `AWS_ENDPOINT_URL`, as every AWS SDK reads them."],
                ["`DOCKER_HOST`, `DOCKER_CONFIG`", "The Docker daemon and its stored logins."],
                [
                    "`GITHUB_*`, `RUNNER_TEMP`",
                    "Set by GitHub's runner: event, outputs and summary of the step, pull request.",
                ],
                ["`HF_ENDPOINT`, `HF_TOKEN`", "The Hugging Face hub and a token for it."],
                ["`HTTPS_PROXY`, `NO_PROXY`, `PIP_*`", "Passed on to pip when requirements are installed."],
                ["`JAVA_HOME`", "Java for the local target."],
                ["`KUBECONFIG`", "The cluster's address and credentials. Default: `~/.kube/config`."],
                ["`OMP_NUM_THREADS`", "Compute threads of a worker."],
            ],
        ),
    )
