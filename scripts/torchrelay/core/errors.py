"""Every error a user can act on, one class and one exit code per cause; caught once, in `cli.main`.

Exit codes are public: 0 is success, 1 a bug (with its traceback), 2 wrong usage of the command line (as click does).
"""

from collections.abc import Iterable
from dataclasses import dataclass


class TorchrelayError(Exception):
    """An error that a user can act on: what happened, to which input, and what to do next."""

    exit_code = 1
    kind = "error"
    stage = ""  # the relay's stage that raised it, if any

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


@dataclass(frozen=True)
class Problem:
    """One mistake in a file that people write: its place (line from 1, None when unknown), and the fix."""

    file: str
    line: int | None
    field: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        field = f" {self.field}:" if self.field else ""
        fix = f"; {self.fix}" if self.fix else ""
        return f"{place}:{field} {self.message}{fix}"


class ModelInvalid(TorchrelayError):
    """model.yaml, its samples or the files they name are wrong; carries every problem found."""

    exit_code = 10
    kind = "model_invalid"

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class WeightsMissing(TorchrelayError):
    """The weights cannot be read from the address in model.yaml."""

    exit_code = 11
    kind = "weights_missing"


class WeightsChanged(TorchrelayError):
    """The weights differ from the declared or locked bytes."""

    exit_code = 12
    kind = "weights_changed"


class ArchiveInvalid(TorchrelayError):
    """The archive cannot be made from its inputs, or does not match them."""

    exit_code = 13
    kind = "archive_invalid"


class DependenciesUnresolved(TorchrelayError):
    """The model's requirements do not install, or its own setup functions fail when the image is built."""

    exit_code = 14
    kind = "dependencies_unresolved"


class BuildFailed(TorchrelayError):
    """The runtime image could not be built."""

    exit_code = 15
    kind = "build_failed"


class DockerUnavailable(TorchrelayError):
    """No Docker daemon is reachable."""

    exit_code = 16
    kind = "docker_unavailable"


class DockerRefused(TorchrelayError):
    """The Docker daemon is reachable but refuses a request that a stage needs."""

    exit_code = 17
    kind = "docker_refused"


class GateFailed(TorchrelayError):
    """The container runs but an answer differs from the expected one, or it never became ready.

    `problems` are the failed samples, where they are known.
    """

    exit_code = 20
    kind = "gate_failed"

    def __init__(self, message: str, fix: str = "", problems: Iterable[Problem] = ()) -> None:
        super().__init__(message, fix)
        self.problems = list(problems)


class RolledBack(TorchrelayError):
    """The new version failed live and the recorded one answers again."""

    exit_code = 21
    kind = "rolled_back"


class RollbackFailed(TorchrelayError):
    """The new version failed live and the recorded one could not be restored: act now."""

    exit_code = 22
    kind = "rollback_failed"


class NotVerified(TorchrelayError):
    """The image has no passing verdict bound to its digest, so it is neither pushed nor deployed."""

    exit_code = 23
    kind = "not_verified"


class BundleInvalid(TorchrelayError):
    """The build job's bundle is damaged, incomplete or not the announced one."""

    exit_code = 24
    kind = "bundle_invalid"


class NotAttested(TorchrelayError):
    """The registry has no valid signed statement that exactly this digest was verified."""

    exit_code = 25
    kind = "not_attested"


class RegistryError(TorchrelayError):
    """The registry refused a request, or was unreachable after retries."""

    exit_code = 30
    kind = "registry_error"


class DeployFailed(TorchrelayError):
    """The target could not deploy the image; the previous version still runs."""

    exit_code = 31
    kind = "deploy_failed"


class PortTaken(TorchrelayError):
    """Another process listens on the port the endpoint needs."""

    exit_code = 32
    kind = "port_taken"


class Outdated(TorchrelayError):
    """A newer commit is live already; nothing was changed."""

    exit_code = 33
    kind = "outdated"


class ClusterRefused(TorchrelayError):
    """The Kubernetes API cannot be reached, or refuses a request that the deployment needs; the previous version still runs."""

    exit_code = 34
    kind = "cluster_refused"


class LoginFailed(TorchrelayError):
    """Getting short-lived credentials failed."""

    exit_code = 35
    kind = "login_failed"


class DoctorFailed(TorchrelayError):
    """Something that a deployment needs is missing or not allowed; carries a fix for each problem."""

    exit_code = 36
    kind = "doctor_failed"


class Busy(TorchrelayError):
    """Another relay is working on this model directory."""

    exit_code = 40
    kind = "busy"


class DiskFull(TorchrelayError):
    """The disk is full; half-written files were removed."""

    exit_code = 41
    kind = "disk_full"


class UnsafeName(TorchrelayError):
    """A name would leave its folder, or break the line it is printed in."""

    exit_code = 42
    kind = "unsafe_name"


class SystemRefused(TorchrelayError):
    """The operating system refused a file or a connection that the stage needs."""

    exit_code = 43
    kind = "system_refused"


class InputsInvalid(TorchrelayError):
    """An input of the workflow or an environment variable is unknown or malformed, or the workflow rejects the event."""

    exit_code = 44
    kind = "inputs_invalid"


class GitHubRefused(TorchrelayError):
    """GitHub's API refused a request of the workflow."""

    exit_code = 45
    kind = "github_refused"


class Interrupted(TorchrelayError):
    """Ctrl-C or TERM; the next run continues from the completed work."""

    exit_code = 130
    kind = "interrupted"
