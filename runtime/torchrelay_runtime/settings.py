"""The runtime's configuration: serving.json, written when the image was built, and the environment it is started with."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

SERVING = "/opt/torchrelay/serving.json"
STATE = "/tmp/torchrelay"  # noqa: S108 - the one writable place of a read-only container, private to it
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
ROUTE = re.compile(r"/[A-Za-z0-9_.:~/-]*")
SERVER = re.compile(r"[a-z][a-z0-9_]*")
LONGEST_PROPAGATION_S = 600.0


class SettingsError(Exception):
    """Invalid runtime configuration; the message names the file or variable and the values it accepts."""


@dataclass(frozen=True)
class Warmup:
    """The request that a worker has to answer with a 2xx before the container is ready."""

    content_type: str
    body: bytes


@dataclass(frozen=True)
class Version:
    """A further version of the model that the same server answers."""

    version: str
    model_dir: Path


@dataclass(frozen=True)
class Serving:
    """serving.json: times in seconds, sizes in bytes.

    `default`: the version that answers the route without a version; empty: `version`. `trusted_proxies`: networks (CIDR) of proxies
    whose X-Forwarded-For names the client.
    """

    name: str
    version: str
    model_dir: Path
    device: str = "cpu"
    workers: int = 1
    batch_size: int = 1
    batch_delay_ms: int = 1
    startup_timeout_s: int = 120
    response_timeout_s: int = 60
    drain_timeout_s: int = 25
    max_body_bytes: int = 6 << 20
    deps_dir: Path | None = None
    warmup: Warmup | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[Version, ...] = ()
    default: str = ""
    trusted_proxies: tuple[str, ...] = ()

    @property
    def default_version(self) -> str:
        """The version that answers requests that name none."""
        return self.default or self.version

    @property
    def folders(self) -> dict[str, Path]:
        """Version -> folder of its unpacked archive, the default first."""
        every = {self.version: self.model_dir, **{one.version: one.model_dir for one in self.versions}}
        return {self.default_version: every[self.default_version], **every}


@dataclass(frozen=True)
class Settings:
    """All settings of the runtime."""

    serving: Serving
    state: Path
    port: int
    bind: str
    front: str  # "nginx" or "none"
    server: str  # the folder beside this file that knows the server
    predict_route: str | None
    health_route: str | None
    access_log: bool
    log_level: str
    metrics_port: int = 9090
    trusted_proxies: tuple[str, ...] = ()


def parse_serving(text: str, source: str) -> Serving:
    """Return what the JSON `text` declares; `source` names it in messages.

    Raises: SettingsError for anything missing, unknown or out of range.
    """
    try:
        raw = json.loads(text)
        known = set(Serving.__dataclass_fields__)
        if unknown := sorted(set(raw) - known):
            raise SettingsError(f"{source}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
        warmup = raw.pop("warmup", None)
        deps_dir = raw.pop("deps_dir", None)
        trusted = parse_networks(raw.pop("trusted_proxies", ()), f"{source}: trusted_proxies")
        versions = tuple(Version(one["version"], Path(one["model_dir"])) for one in raw.pop("versions", ()))
        serving = Serving(
            **raw | {"model_dir": Path(raw["model_dir"])},
            deps_dir=Path(deps_dir) if deps_dir else None,
            versions=versions,
            trusted_proxies=trusted,
            warmup=Warmup(warmup["content_type"], base64.b64decode(warmup["body"], validate=True)) if warmup else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{source}: not a valid serving.json ({type(error).__name__}: {error})") from error
    names = [serving.version, *(one.version for one in serving.versions)]
    illegal = [name for name in names if not VERSION.fullmatch(name)]
    if not NAME.fullmatch(serving.name) or illegal:
        version = illegal[0] if illegal else serving.version
        raise SettingsError(f"{source}: name {serving.name!r} or version {version!r} holds characters that an address cannot")
    if len(set(names)) != len(names) or serving.default_version not in names:
        default = serving.default_version
        raise SettingsError(
            f"{source}: versions {names!r}, default {default!r}: each has to be there once, the default one of them"
        )
    if serving.device not in ("cpu", "gpu"):
        raise SettingsError(f"{source}: device is {serving.device!r}, it may be cpu or gpu")
    counts = (
        "workers",
        "batch_size",
        "batch_delay_ms",
        "startup_timeout_s",
        "response_timeout_s",
        "drain_timeout_s",
        "max_body_bytes",
    )
    for key in counts:
        value = getattr(serving, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SettingsError(f"{source}: {key} is {value!r}, it has to be a whole number of 1 or more")
    return serving


def parse_port(text: str, source: str) -> int:
    """Return the port in `text`."""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingsError(f"{source} is {text!r}, it has to be a port: 1 to 65535")
    return int(text)


def parse_networks(texts: Iterable[str], source: str) -> tuple[str, ...]:
    """Return the networks in `texts`, such as 10.0.0.0/8, in nginx's form."""
    try:
        return tuple(str(ip_network(text, strict=False)) for text in texts)
    except ValueError as error:
        raise SettingsError(f"{source}: {error}; write networks such as 10.0.0.0/8") from error


def own_port(env: Mapping[str, str]) -> int:
    """Return the port that the container answers on; Vertex AI's own variable wins."""
    name = "AIP_HTTP_PORT" if env.get("AIP_HTTP_PORT") else "TORCHRELAY_PORT"
    return parse_port(env.get(name) or "8080", name)


def own_metrics_port(env: Mapping[str, str], port: int) -> int:
    """Return the port of /metrics: 9090, or 9091 where the model itself answers on 9090."""
    text = env.get("TORCHRELAY_METRICS_PORT")
    if not text:
        return 9091 if port == 9090 else 9090
    chosen = parse_port(text, "TORCHRELAY_METRICS_PORT")
    if chosen == port:
        raise SettingsError(f"the model and its metrics cannot both listen on {port}: set TORCHRELAY_METRICS_PORT to another port")
    return chosen


def own_bind(env: Mapping[str, str], front: str) -> str:
    """Return the address to listen on: all of a container's, only loopback without the front."""
    value = env.get("TORCHRELAY_BIND") or ("0.0.0.0" if front == "nginx" else "127.0.0.1")  # noqa: S104 - a container's port
    try:
        address = ip_address(value)
    except ValueError as error:
        raise SettingsError(f"TORCHRELAY_BIND is {value!r}, it has to be an IP address") from error
    return f"[{address}]" if address.version == 6 else str(address)


def propagation(env: Mapping[str, str]) -> float:
    """Return the seconds that the preStop program waits until no new requests arrive."""
    text = env.get("TORCHRELAY_PROPAGATION_S") or "5"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_PROPAGATION_S:
        raise SettingsError(f"TORCHRELAY_PROPAGATION_S is {text!r}, it has to be a number from 0 to {LONGEST_PROPAGATION_S:.0f}")
    return seconds


def one_of(env: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    """Return the variable `name`, which has to be one of `allowed`."""
    value = env.get(name) or default
    if value not in allowed:
        raise SettingsError(f"{name} is {value!r}, it may be {' or '.join(allowed)}")
    return value


def route(env: Mapping[str, str], name: str) -> str | None:
    """Return the path in the variable `name`, None when it is unset."""
    value = env.get(name) or None
    if value is not None and not ROUTE.fullmatch(value):
        raise SettingsError(f"{name} is {value!r}, it has to be a path such as /v1/predict")
    return value


def state_dir(env: Mapping[str, str]) -> Path:
    """Return the folder that holds all files the runtime writes."""
    return Path(env.get("TORCHRELAY_STATE") or STATE)


def read_settings(env: Mapping[str, str]) -> Settings:
    """Return the settings from `env` and from the serving.json that it names."""
    source = env.get("TORCHRELAY_SERVING") or SERVING
    try:
        text = Path(source).read_text(encoding="utf-8")
    except OSError as error:
        hint = "a model image adds it to the runtime image (torchrelay build); TORCHRELAY_SERVING is its path"
        raise SettingsError(f"{source}: {error.strerror}; {hint}") from error
    server = env.get("TORCHRELAY_SERVER") or "torchserve"
    if not SERVER.fullmatch(server) or not (Path(__file__).parent / server / "server.py").is_file():
        raise SettingsError(f"TORCHRELAY_SERVER is {server!r}: this runtime has no such server")
    front = one_of(env, "TORCHRELAY_FRONT", "nginx", ("nginx", "none"))
    port = own_port(env)
    metrics_port = own_metrics_port(env, port)
    return Settings(
        serving=parse_serving(text, source),
        state=state_dir(env),
        port=port,
        bind=own_bind(env, front),
        front=front,
        server=server,
        predict_route=route(env, "AIP_PREDICT_ROUTE"),
        health_route=route(env, "AIP_HEALTH_ROUTE"),
        access_log=one_of(env, "TORCHRELAY_ACCESS_LOG", "1", ("0", "1")) == "1",
        log_level=one_of(env, "TORCHRELAY_LOG_LEVEL", "warn", ("error", "warn", "info", "debug")),
        metrics_port=metrics_port,
        trusted_proxies=parse_networks(env.get("TORCHRELAY_TRUSTED_PROXIES", "").split(), "TORCHRELAY_TRUSTED_PROXIES"),
    )
