"""The docker target's containers: found by their labels, made, switched between, drained and removed."""

import errno
import hashlib
import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

import requests

from torchrelay.core import paths
from torchrelay.core.errors import DeployFailed, DockerUnavailable, GateFailed, PortTaken
from torchrelay.core.retry import pause
from torchrelay.docker.container import hardened
from torchrelay.docker.exec import exec_in
from torchrelay.model.model import Model
from torchrelay.targets.contract import Release
from torchrelay.targets.docker.front import LABEL, PORT, STATE, Front, Version

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

log = logging.getLogger(__name__)
LIVE = "live"
"""Network alias of the version that serves: what a front points at when it starts, so a restarted one finds it."""
DISCARD_TRIES = 3
PROPAGATION_S = 1
"""Seconds between the switch and the look for requests in flight: what the front had accepted reaches the old version."""
RESTART: Any = {"Name": "unless-stopped"}  # types-docker 7.1 knows the other two policies only
OTHER_PORT = "end that process, or set another port in model.yaml: `targets: {docker: {port: 8081}}`"
TAKEN = ("port is already allocated", "address already in use")


class Containers:
    """All containers of one model on one daemon."""

    def __init__(self, client: "DockerClient", model: Model) -> None:
        self.client = client
        self.model = model
        self.network_name = f"torchrelay-{model.name}"
        self.front_name = f"torchrelay-{model.name}-front"
        self.remote = not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://")

    @staticmethod
    @contextmanager
    def translated() -> Iterator[None]:
        """Turn the daemon's refusals into DeployFailed, and a taken port into PortTaken."""
        try:
            yield
        except requests.HTTPError as error:  # docker.errors.APIError is one
            said = str(getattr(error, "explanation", None) or error)
            if any(words in said for words in TAKEN):
                raise PortTaken(said, OTHER_PORT) from error
            raise DeployFailed(f"Docker refuses: {said}") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise DockerUnavailable(f"the Docker daemon stopped answering: {error}", "run it again: it goes on") from error

    @property
    def settings(self) -> str:
        """Digest (hex) of what a container of this model may use."""
        given = json.dumps(hardened(self.model, "", {}), sort_keys=True, default=str)
        return hashlib.sha256(given.encode()).hexdigest()[:12]

    def version_name(self, digest: str) -> str:
        """Return the name of the container that serves a digest under the declared limits."""
        return f"torchrelay-{self.model.name}-{digest.removeprefix('sha256:')[:12]}-{self.settings[:6]}"

    def versions(self) -> list[Version]:
        """Return the containers of all versions, newest first."""
        return [self._version(container) for container in self._list("model")]

    def front(self) -> Front | None:
        """Return the front, running or not."""
        return _running_first([self._front(container) for container in self._list("front")])

    def front_on(self, bind: str, port: int) -> Front | None:
        """Return the front that publishes this address."""
        found = [self._front(container) for container in self._list("front")]
        return _running_first([one for one in found if (one.bind, one.port) == (bind, port)])

    def upstream(self) -> str:
        """Return the host name that the running front sends to, "" when there is no such front."""
        front = self.front()
        if front is None or front.container.status != "running":
            return ""
        try:
            code, output, _ = exec_in(front.container, ["cat", STATE], timeout_s=15.0)
            return str(json.loads(output)["inference"]).rpartition(":")[0] if code == 0 else ""
        except (GateFailed, ValueError, KeyError, TypeError):
            return ""

    def create_version(self, release: Release, image: str) -> Version:
        """Make, not start, the container of a version; it is on the network, and nothing points at it.

        One of the same digest and limits makes way: a stopped one is removed, a live one that no longer answers gets another name.
        """
        name = self.version_name(release.digest)
        for existing in self.versions():
            if existing.name == name:
                if existing.marked_live and existing.container.status == "running":
                    existing.container.rename(f"{name}-{secrets.token_hex(3)}")
                else:
                    existing.container.remove(force=True, v=True)
        alias = f"m-{secrets.token_hex(6)}"
        told = {"digest": release.digest, "settings": self.settings, "version": release.version, "alias": alias}
        labels = self._labels("model", **release.source.facts(), **told)
        settings = hardened(self.model, name, labels)
        del settings["network_mode"], settings["healthcheck"]
        container = self.client.containers.create(
            image,
            **settings,
            network=self._network().name,
            networking_config=self._endpoint_config(alias),
            restart_policy=RESTART,
        )
        return self._version(container)

    def mark_live(self, version: Version) -> None:
        """Give a version the alias that a starting front looks for. It gets no traffic yet, so it may change networks."""
        version.container.reload()
        if LIVE in _aliases(version.container, self.network_name):
            return
        network = self._network()
        network.disconnect(version.container)
        network.connect(version.container, aliases=[version.alias, LIVE])

    def create_front(self, version: Version, bind: str, port: int, instead_of: Front | None = None) -> Front:
        """Make and start the front on an address; one on another address goes on until it is removed.

        The one that it replaces on that address is stopped first, and started again when the new one fails. Raises PortTaken.
        """
        taken_names = {container.name for container in self._list("front")}
        name = self.front_name if self.front_name not in taken_names else f"{self.front_name}-{secrets.token_hex(3)}"
        container = self.client.containers.create(
            str(version.container.attrs["Image"]),
            command=["front", "--upstream", f"{LIVE}:{PORT}"],
            name=name,
            labels=self._labels("front", bind=bind, port=str(port)),
            network=self._network().name,
            ports={f"{PORT}/tcp": (bind, port)},
            user="1000:1000",
            read_only=True,
            tmpfs={"/tmp": "rw,nosuid,nodev"},  # noqa: S108 -- inside the container
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=256,
            mem_limit="512m",
            restart_policy=RESTART,
        )
        front = self._front(container)
        try:
            if instead_of is not None:
                instead_of.container.stop(timeout=30)
            front.ensure_running()
            front.wait_up()
        except BaseException:
            container.remove(force=True, v=True)
            if instead_of is not None:
                instead_of.ensure_running()
                instead_of.wait_up()
            raise
        if instead_of is not None:
            instead_of.container.remove(force=True, v=True)
        return front

    def require_port(self, bind: str, port: int) -> None:
        """Refuse early when another process listens on the port; a remote daemon tells only later.

        Raises PortTaken.
        """
        if self.remote:
            return
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((bind, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PortTaken(f"{bind}:{port} is taken by another process", OTHER_PORT) from error

    def drain_and_stop(self, version: Version, drain_s: int) -> None:
        """Wait until nothing is in flight in a version, then stop it."""
        command = [paths.IMAGE_PYTHON, "-P", "-m", f"{paths.RUNTIME_PACKAGE}.drain"]
        waiting = {"TORCHRELAY_PROPAGATION_S": str(PROPAGATION_S)}
        with suppress(GateFailed):  # it is gone already: nothing is in flight
            exec_in(version.container, command, timeout_s=PROPAGATION_S + drain_s + 15.0, environment=waiting)
        version.container.stop(timeout=drain_s + 10)

    def sweep(self, keep: set[str]) -> None:
        """Remove what a run that was killed left behind, and versions older than the previous one."""
        for version in self.versions():
            if version.name not in keep:
                version.container.remove(force=True, v=True)

    def remove_front(self, bind: str, port: int) -> None:
        """Remove the front on an address, if there is one."""
        front = self.front_on(bind, port)
        if front is not None:
            front.container.remove(force=True, v=True)

    def remove_fronts_but(self, bind: str, port: int) -> None:
        """Remove fronts on other addresses and replaced ones, and give the one that stays its name."""
        stays = self.front_on(bind, port)
        for container in self._list("front"):
            if stays is None or container.id != stays.container.id:
                container.stop(timeout=30)
                container.remove(force=True, v=True)
        if stays is not None and stays.container.name != self.front_name:
            stays.container.rename(self.front_name)

    def remove_all(self, drain_s: int) -> bool:
        """Remove front, versions and network; says whether there was anything."""
        found = [*self._list("front"), *self._list("model")]
        for container in found:
            if container.status == "running":
                container.stop(timeout=drain_s + 10)
            container.remove(force=True, v=True)
        networks = [one for one in self.client.networks.list(names=[self.network_name]) if one.name == self.network_name]
        for network in networks:
            network.remove()
        return bool(found or networks)

    def log(self, container: "Container", lines: int | Literal["all"] = "all") -> str:
        """Return the end of a container's log."""
        with suppress(requests.HTTPError):
            return str(container.logs(tail=lines).decode(errors="replace"))
        return ""

    def _list(self, role: str) -> list["Container"]:
        wanted = [f"{LABEL}.name={self.model.name}", f"{LABEL}.role={role}"]
        return list(self.client.containers.list(all=True, filters={"label": wanted}, ignore_removed=True))

    def _labels(self, role: str, **more: str) -> dict[str, str]:
        return {f"{LABEL}.name": self.model.name, f"{LABEL}.role": role} | {f"{LABEL}.{key}": value for key, value in more.items()}

    def _version(self, container: "Container") -> Version:
        labels = container.labels
        return Version(
            container,
            str(container.name),
            labels.get(f"{LABEL}.digest", ""),
            labels.get(f"{LABEL}.settings", ""),
            labels.get(f"{LABEL}.version", ""),
            labels.get(f"{LABEL}.alias", ""),
            LIVE in _aliases(container, self.network_name),
        )

    def _front(self, container: "Container") -> Front:
        labels = container.labels
        return Front(container, labels.get(f"{LABEL}.bind", ""), int(labels.get(f"{LABEL}.port", "0")))

    def _network(self) -> Any:
        for network in self.client.networks.list(names=[self.network_name]):
            if network.name == self.network_name:
                return network
        return self.client.networks.create(self.network_name, driver="bridge", labels=self._labels("network"))

    def _endpoint_config(self, alias: str) -> dict[str, Any]:
        return {self.network_name: self.client.api.create_endpoint_config(aliases=[alias])}


def discard(container: "Container") -> None:
    """Remove a container that failed; that Docker cannot do so at once is no reason to say anything else than why it failed.

    A daemon under load refuses a forced removal when the process does not end within ten seconds. `sweep` removes what stays.
    """
    for _ in range(DISCARD_TRIES):
        try:
            container.remove(force=True, v=True)
        except requests.HTTPError as error:  # docker.errors.APIError is one
            if error.response is not None and error.response.status_code == 404:
                return
            log.warning("%s could not be removed: %s", container.name, error)
            pause(1.0)
        else:
            return


def _running_first(fronts: list[Front]) -> Front | None:
    return next((one for one in fronts if one.container.status == "running"), fronts[0] if fronts else None)


def _aliases(container: "Container", network: str) -> list[str]:
    networks = container.attrs.get("NetworkSettings", {}).get("Networks", {})
    return list(networks.get(network, {}).get("Aliases") or [])
