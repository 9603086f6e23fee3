"""The docker target's containers: found by their labels, created, drained and removed."""

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
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.retry import Policy, RetryLater, pause, retrying
from torchrelay.docker.container import hardened
from torchrelay.docker.exec import exec_in
from torchrelay.model.model import Model
from torchrelay.targets.contract import Release
from torchrelay.targets.docker.front import LABEL, PORT, STATE, Front, VersionContainer

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

log = logging.getLogger(__name__)
LIVE = "live"
"""Network alias of the version that serves; a front sends to it when it starts or restarts."""
DISCARD = Policy(attempts=3, first_wait_s=1.0, longest_wait_s=2.0)
PROPAGATION_S = 1
"""Seconds after the switch until requests in flight are counted: those that the front had accepted reach the old version."""
RESTART: Any = {"Name": "unless-stopped"}  # types-docker 7.1 knows the other two policies only
NO_RESTART: Any = {"Name": "no"}
LOOPBACK = "127.0.0.1"
OTHER_PORT = "end that process, or set another port in model.yaml: `targets: {docker: {port: 8081}}`"
NOT_FOUND = 404
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
        """Turn the daemon's errors into DeployFailed, and a taken port into PortTaken."""
        try:
            yield
        except requests.HTTPError as error:  # docker.errors.APIError is one
            reason = str(getattr(error, "explanation", None) or error)
            if any(words in reason for words in TAKEN):
                raise PortTaken(reason, OTHER_PORT) from error
            raise DeployFailed(f"Docker refuses: {reason}") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise DockerUnavailable(
                f"the Docker daemon stopped answering: {error}", "run it again; completed work is kept"
            ) from error

    @property
    def settings(self) -> str:
        """Digest (hex) of the limits of this model's containers."""
        limits = json.dumps(hardened(self.model, "", {}), sort_keys=True, default=str)
        return hashlib.sha256(limits.encode()).hexdigest()[:12]

    def version_name(self, digest: str) -> str:
        """Return the name of the container that serves a digest under the declared limits."""
        return f"torchrelay-{self.model.name}-{digest.removeprefix('sha256:')[:12]}-{self.settings[:6]}"

    def versions(self) -> list[VersionContainer]:
        """Return the containers of all versions, newest first."""
        return [self._version(container) for container in self._list("model")]

    def front(self) -> Front | None:
        """Return the front, running or not."""
        return _running_first([self._front(container) for container in self._list("front")])

    def front_on(self, bind: str, port: int) -> Front | None:
        """Return the front that publishes this address."""
        fronts = [self._front(container) for container in self._list("front")]
        return _running_first([one for one in fronts if (one.bind, one.port) == (bind, port)])

    def upstream(self) -> str:
        """Return the host name that the running front sends to, "" when there is no such front."""
        front = self.front()
        if front is None or front.container.status != "running":
            return ""
        try:
            code, output, _ = exec_in(front.container, ["cat", STATE], timeout_s=15.0)
            return str(parse_untrusted(output)["inference"]).rpartition(":")[0] if code == 0 else ""
        except (GateFailed, ValueError, KeyError, TypeError):
            return ""

    def create_version(self, release: Release, image: str) -> VersionContainer:
        """Create, but do not start, the container of a version; it is on the network, and no front sends to it.

        A container of the same digest and limits is removed if it is stopped, and renamed if it is live but no longer answers.
        """
        name = self.version_name(release.digest)
        for existing in self.versions():
            if existing.name == name:
                if existing.marked_live and existing.container.status == "running":
                    existing.container.rename(f"{name}-{secrets.token_hex(3)}")
                else:
                    existing.container.remove(force=True, v=True)
        alias = f"m-{secrets.token_hex(6)}"
        facts = {"digest": release.digest, "settings": self.settings, "version": release.version, "alias": alias}
        facts["max_body"] = str(self.model.max_body_mb << 20)
        labels = self._labels("model", **release.source.facts(), **facts)
        settings = hardened(self.model, name, labels)
        del settings["network_mode"], settings["healthcheck"]
        network = self._network()
        container = self.client.containers.create(
            image,
            **settings,
            environment={"TORCHRELAY_TRUSTED_PROXIES": " ".join(_subnets(network))},
            network=network.name,
            networking_config=self._endpoint_config(alias),
            restart_policy=RESTART,
        )
        return self._version(container)

    def mark_live(self, version: VersionContainer) -> None:
        """Give a version the alias that a starting front sends to. It gets no traffic yet, so it can be reconnected."""
        version.container.reload()
        if LIVE in _aliases(version.container, self.network_name):
            return
        network = self._network()
        network.disconnect(version.container)
        network.connect(version.container, aliases=[version.alias, LIVE])

    def create_front(self, version: VersionContainer, bind: str, port: int, instead_of: Front | None = None) -> Front:
        """Create and start the front on an address; fronts on other addresses keep running.

        The front that it replaces on that address is stopped first, and started again if the new one fails. Raises PortTaken.
        """
        taken_names = {container.name for container in self._list("front")}
        name = self.front_name if self.front_name not in taken_names else f"{self.front_name}-{secrets.token_hex(3)}"
        labels = self._labels("front", bind=bind, port=str(port))
        container = self._create_front(version, LIVE, name, labels, (bind, port), RESTART)
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

    @contextmanager
    def trial_front(self, version: VersionContainer) -> Iterator[Front]:
        """A second front, before a version that gets no traffic, on a port of this machine that nobody knows; removed at the end.

        Raises DeployFailed.
        """
        labels = self._labels("trial", bind=LOOPBACK)
        container = self._create_front(version, version.alias, f"{version.name}-trial", labels, (LOOPBACK, None), NO_RESTART)
        try:
            front = Front(container, LOOPBACK, 0)
            front.ensure_running()
            front.wait_up()
            published = container.attrs["NetworkSettings"]["Ports"][f"{PORT}/tcp"][0]["HostPort"]
            yield Front(container, LOOPBACK, int(published))
        finally:
            discard(container)

    def _create_front(
        self,
        version: VersionContainer,
        upstream: str,
        name: str,
        labels: dict[str, str],
        address: Any,  # types-docker 7.1 lacks the pair of an IP and None, for any port
        restart: Any,
    ) -> "Container":
        """Create a front of a version's image that sends to a host name on the network. `address`: IP and port to publish."""
        command = ["front", "--upstream", f"{upstream}:{PORT}", "--max-body-bytes", str(self.model.max_body_mb << 20)]
        return self.client.containers.create(
            str(version.container.attrs["Image"]),
            command=command,
            name=name,
            labels=labels,
            network=self._network().name,
            ports={f"{PORT}/tcp": address},
            user="1000:1000",
            read_only=True,
            tmpfs={"/tmp": "rw,nosuid,nodev"},  # noqa: S108 -- inside the container
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=256,
            mem_limit="512m",
            restart_policy=restart,
        )

    def require_port(self, bind: str, port: int) -> None:
        """Refuse early when another process listens on the port; a remote daemon reports it only later.

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

    def drain_and_stop(self, version: VersionContainer, drain_s: int) -> None:
        """Wait until nothing is in flight in a version, then stop it."""
        command = [paths.IMAGE_PYTHON, "-P", "-m", f"{paths.RUNTIME_PACKAGE}.drain"]
        waiting = {"TORCHRELAY_PROPAGATION_S": str(PROPAGATION_S)}
        with suppress(GateFailed):  # the container has ended: nothing is in flight
            exec_in(version.container, command, timeout_s=PROPAGATION_S + drain_s + 15.0, environment=waiting)
        version.container.stop(timeout=drain_s + 10)

    def sweep(self, keep: set[str]) -> None:
        """Remove what a killed run left behind, and versions older than the previous one."""
        for version in self.versions():
            if version.name not in keep:
                version.container.remove(force=True, v=True)
        for trial in self._list("trial"):
            trial.remove(force=True, v=True)

    def remove_front(self, bind: str, port: int) -> None:
        """Remove the front on an address, if there is one."""
        front = self.front_on(bind, port)
        if front is not None:
            front.container.remove(force=True, v=True)

    def remove_fronts_but(self, bind: str, port: int) -> None:
        """Remove replaced fronts and those on other addresses; the remaining one gets the usual name."""
        stays = self.front_on(bind, port)
        for container in self._list("front"):
            if stays is None or container.id != stays.container.id:
                container.stop(timeout=30)
                container.remove(force=True, v=True)
        if stays is not None and stays.container.name != self.front_name:
            stays.container.rename(self.front_name)

    def remove_all(self, drain_s: int) -> bool:
        """Remove front, versions and network; return whether there was anything."""
        containers = [*self._list("front"), *self._list("trial"), *self._list("model")]
        for container in containers:
            if container.status == "running":
                container.stop(timeout=drain_s + 10)
            container.remove(force=True, v=True)
        networks = [one for one in self.client.networks.list(names=[self.network_name]) if one.name == self.network_name]
        for network in networks:
            network.remove()
        return bool(containers or networks)

    def log(self, container: "Container", lines: int | Literal["all"] = "all") -> str:
        """Return the end of a container's log."""
        with suppress(requests.HTTPError):
            return str(container.logs(tail=lines).decode(errors="replace"))
        return ""

    def _list(self, role: str) -> list["Container"]:
        labels = [f"{LABEL}.name={self.model.name}", f"{LABEL}.role={role}"]
        return list(self.client.containers.list(all=True, filters={"label": labels}, ignore_removed=True))

    def _labels(self, role: str, **more: str) -> dict[str, str]:
        return {f"{LABEL}.name": self.model.name, f"{LABEL}.role": role} | {f"{LABEL}.{key}": value for key, value in more.items()}

    def _version(self, container: "Container") -> VersionContainer:
        labels = container.labels
        return VersionContainer(
            container,
            str(container.name),
            labels.get(f"{LABEL}.digest", ""),
            labels.get(f"{LABEL}.settings", ""),
            labels.get(f"{LABEL}.version", ""),
            labels.get(f"{LABEL}.alias", ""),
            LIVE in _aliases(container, self.network_name),
            int(labels.get(f"{LABEL}.max_body", "0")),
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
    """Remove a container that failed; if Docker cannot, log it, so that the error reported is still why the container failed.

    A daemon under load refuses a forced removal when the process does not end within ten seconds. `sweep` removes what stays.
    """

    def remove() -> None:
        try:
            container.remove(force=True, v=True)
        except requests.HTTPError as error:  # docker.errors.APIError is one
            if error.response is None or error.response.status_code != NOT_FOUND:
                log.warning("%s could not be removed: %s", container.name, error)
                raise RetryLater(str(error)) from error

    with suppress(RetryLater):
        retrying(remove, DISCARD, sleep=pause)


def _running_first(fronts: list[Front]) -> Front | None:
    return next((one for one in fronts if one.container.status == "running"), fronts[0] if fronts else None)


def _subnets(network: Any) -> list[str]:
    """Return a network's address ranges: the front is in them, and names the client to the version behind it."""
    return [one["Subnet"] for one in (network.attrs.get("IPAM", {}).get("Config") or []) if one.get("Subnet")]


def _aliases(container: "Container", network: str) -> list[str]:
    networks = container.attrs.get("NetworkSettings", {}).get("Networks", {})
    return list(networks.get(network, {}).get("Aliases") or [])
