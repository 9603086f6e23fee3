"""The docker target's front and the versions it is switched between."""

import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torchrelay.core import paths
from torchrelay.core.errors import DeployFailed, GateFailed
from torchrelay.docker.exec import exec_in
from torchrelay.model.origin import Source
from torchrelay.targets.contract import Release, State
from torchrelay.verification.prober import ExecProber

if TYPE_CHECKING:
    from docker.models.containers import Container

PORT = 8080
"""The port of the image, of a version's own front and of the front before it alike."""
STATE = "/tmp/torchrelay/front.json"  # noqa: S108 -- inside the container
PID = "/tmp/torchrelay/nginx.pid"  # noqa: S108 -- as above
START_S = 20.0
LABEL = "org.torchrelay"
RUNTIME = f"{LABEL}.runtime"


@dataclass(frozen=True)
class Version:
    """A container that serves one version. `alias` is its host name on the network, `settings` the digest of its limits."""

    container: "Container"
    name: str
    digest: str
    settings: str
    version: str
    alias: str
    marked_live: bool

    @property
    def runtime(self) -> str:
        """Digest of what the runtime image of its image was made of; a label of the image."""
        return str(self.container.labels.get(RUNTIME, ""))

    @property
    def source(self) -> Source:
        """Where it comes from."""
        labels = self.container.labels
        return Source.of_facts({key: labels.get(f"{LABEL}.{key}", "") for key in asdict(Source())})

    @property
    def serves(self) -> tuple[str, str]:
        """What runs and under which limits: a change of either makes another version."""
        return self.digest, self.settings

    def stands_for(self, release: Release, settings: str) -> bool:
        """Tell whether it is this release already; a newer commit of the same image is another, as no label can be added."""
        return self.serves == (release.digest, settings) and self.source.sequence >= release.source.sequence

    def state(self) -> tuple[State, str]:
        """Ask it what it is, and why."""
        self.container.reload()
        if self.container.status != "running":
            code = self.container.attrs["State"].get("ExitCode")
            return "stopped", f"{self.name} is {self.container.status}, exit code {code}"
        try:
            seen = ExecProber(self.container).ready()
        except GateFailed as failure:
            return "not_ready", failure.message
        return ("ready", "") if seen.ready else ("failed" if seen.failed else "not_ready", seen.reason)


@dataclass(frozen=True)
class Front:
    """The container that publishes the port."""

    container: "Container"
    bind: str
    port: int

    @property
    def runtime(self) -> str:
        """See `Version.runtime`: a front is made of a version's image."""
        return str(self.container.labels.get(RUNTIME, ""))

    def ensure_running(self) -> None:
        """Start it when it is stopped."""
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
            time.sleep(0.1)
        tail = self.container.logs(tail=20).decode(errors="replace")
        raise DeployFailed(f"the front did not start within {START_S:.0f} s:\n{tail}".rstrip())

    def switch(self, version: Version) -> None:
        """Send new requests to a version, all of them once this returns; those in flight end where they are.

        Raises DeployFailed; the front then serves what it served.
        """
        command = [paths.IMAGE_PYTHON, "-P", "-m", f"{paths.RUNTIME_PACKAGE}.front", "switch", f"{version.alias}:{PORT}"]
        try:
            code, _, errors = exec_in(self.container, command, timeout_s=30.0)
        except GateFailed as failure:
            raise DeployFailed(f"the front could not be switched: {failure.message}", failure.fix) from failure
        if code != 0:
            raise DeployFailed(f"the front could not be switched: {errors.decode(errors='replace').strip()[-500:]}")
