"""The docker target's front container, and the version containers that it switches between."""

import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torchrelay.core import paths
from torchrelay.core.errors import DeployFailed, GateFailed
from torchrelay.core.retry import pause
from torchrelay.docker.exec import exec_in
from torchrelay.model.origin import Origin
from torchrelay.targets.contract import Release, State
from torchrelay.verification.prober import container_prober

if TYPE_CHECKING:
    from docker.models.containers import Container

PORT = 8080
"""The port inside every container: of a version's own front and of the front before it."""
STATE = "/tmp/torchrelay/front.json"  # noqa: S108 -- inside the container
PID = "/tmp/torchrelay/nginx.pid"  # noqa: S108 -- inside the container
START_S = 20.0
LABEL = "org.torchrelay"
RUNTIME = f"{LABEL}.runtime"


@dataclass(frozen=True)
class VersionContainer:
    """A container that serves one version.

    `alias` is its host name on the network, `settings` the digest of its limits, `max_body` its largest body in bytes (0: unknown).
    """

    container: "Container"
    name: str
    digest: str
    settings: str
    version: str
    alias: str
    marked_live: bool
    max_body: int = 0

    @property
    def runtime(self) -> str:
        """Digest of the inputs of the runtime image below its image; a label of the image."""
        return str(self.container.labels.get(RUNTIME, ""))

    @property
    def source(self) -> Origin:
        """The commit it was built from."""
        labels = self.container.labels
        return Origin.of_facts({key: labels.get(f"{LABEL}.{key}", "") for key in asdict(Origin())})

    @property
    def serves(self) -> tuple[str, str]:
        """What runs, and under which limits; a change of either makes another version."""
        return self.digest, self.settings

    def stands_for(self, release: Release, settings: str) -> bool:
        """Return whether it already is this release. A newer commit of the same image is not: labels cannot be added later."""
        return self.serves == (release.digest, settings) and self.source.sequence >= release.source.sequence

    def state(self) -> tuple[State, str]:
        """Ask the container for its state and the reason for it."""
        self.container.reload()
        if self.container.status != "running":
            code = self.container.attrs["State"].get("ExitCode")
            return "stopped", f"{self.name} is {self.container.status}, exit code {code}"
        try:
            readiness = container_prober(self.container).ready()
        except GateFailed as failure:
            return "not_ready", failure.message
        return ("ready", "") if readiness.ready else ("failed" if readiness.failed else "not_ready", readiness.reason)


@dataclass(frozen=True)
class Front:
    """The container that publishes the port."""

    container: "Container"
    bind: str
    port: int

    @property
    def runtime(self) -> str:
        """See `VersionContainer.runtime`: a front runs a version's image."""
        return str(self.container.labels.get(RUNTIME, ""))

    def ensure_running(self) -> None:
        """Start it if it is stopped."""
        self.container.reload()
        if self.container.status != "running":
            self.container.start()
            self.container.reload()

    def wait_up(self) -> None:
        """Wait until it can be switched.

        Raises DeployFailed when it ends or is too slow.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with suppress(GateFailed):
                if exec_in(self.container, ["test", "-f", STATE, "-a", "-s", PID], timeout_s=15.0)[0] == 0:
                    return
            pause(0.1)
        tail = self.container.logs(tail=20).decode(errors="replace")
        raise DeployFailed(f"the front did not start within {START_S:.0f} s:\n{tail}".rstrip())

    def switch(self, version: VersionContainer) -> None:
        """Send all new requests to a version; those in flight end in the old one.

        Raises DeployFailed; the front then serves the same version as before.
        """
        command = [paths.IMAGE_PYTHON, "-P", "-m", f"{paths.RUNTIME_PACKAGE}.front", "switch", f"{version.alias}:{PORT}"]
        command += ["--max-body-bytes", str(version.max_body)] if version.max_body else []
        try:
            code, _, errors = exec_in(self.container, command, timeout_s=30.0)
        except GateFailed as failure:
            raise DeployFailed(f"the front could not be switched: {failure.message}", failure.fix) from failure
        if code != 0:
            raise DeployFailed(f"the front could not be switched: {errors.decode(errors='replace').strip()[-500:]}")
