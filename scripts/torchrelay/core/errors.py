"""Every error a user can act on, one class and one exit code per cause; caught once, in `cli.main`.

Exit codes are public: 0 is success, 1 a bug (with its traceback), 2 wrong usage of the command line (as click does).
"""

from collections.abc import Iterable
from dataclasses import dataclass


class TorchrelayError(Exception):
    """What happened, to which input, and what to do next."""

    exit_code = 1
    kind = "error"
    stage = ""  # of the relay, when it was raised in one

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


@dataclass(frozen=True)
class Problem:
    """One mistake in a file that people write: where it is (line from 1, None when unknown), and the mend."""

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
    """The weights cannot be read from where model.yaml says they are."""

    exit_code = 11
    kind = "weights_missing"


class WeightsChanged(TorchrelayError):
    """The weights are there but are not the bytes that were declared or locked."""

    exit_code = 12
    kind = "weights_changed"


class ArchiveInvalid(TorchrelayError):
    """The archive cannot be made from, or does not match, its inputs."""

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
    """No Docker daemon answers."""

    exit_code = 16
    kind = "docker_unavailable"


class DockerRefused(TorchrelayError):
    """The Docker daemon answers, and refuses what a stage needs of it."""

    exit_code = 17
    kind = "docker_refused"


class GateFailed(TorchrelayError):
    """The container is up but an answer is not the expected one, or it never became ready.

    `problems` are the samples that failed, where they are known.
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
    """The new version failed live and the recorded one could not be restored: somebody must look now."""

    exit_code = 22
    kind = "rollback_failed"


class NotVerified(TorchrelayError):
    """The image has no passing verdict bound to its digest, so it goes nowhere."""

    exit_code = 23
    kind = "not_verified"


class BundleInvalid(TorchrelayError):
    """What the build job handed over is damaged, incomplete or not what was announced."""

    exit_code = 24
    kind = "bundle_invalid"


class NotAttested(TorchrelayError):
    """The registry holds no valid signed statement that this very digest was proved."""

    exit_code = 25
    kind = "not_attested"


class RegistryError(TorchrelayError):
    """The registry refused, or could not be reached after retries."""

    exit_code = 30
    kind = "registry_error"


class DeployFailed(TorchrelayError):
    """The target could not take the image; what ran before still runs."""

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
    """The Kubernetes API cannot be reached, or refuses what the deployment needs; what ran before still runs."""

    exit_code = 34
    kind = "cluster_refused"


class LoginFailed(TorchrelayError):
    """No short-lived credentials could be had."""

    exit_code = 35
    kind = "login_failed"


class DoctorFailed(TorchrelayError):
    """Something that the relay needs is missing or not allowed; carries how to mend each."""

    exit_code = 36
    kind = "doctor_failed"


class Busy(TorchrelayError):
    """Another relay works on this model directory."""

    exit_code = 40
    kind = "busy"


class DiskFull(TorchrelayError):
    """No room left; what was half-written has been removed."""

    exit_code = 41
    kind = "disk_full"


class UnsafeName(TorchrelayError):
    """A name would leave the place it belongs to, or break the line it is printed in."""

    exit_code = 42
    kind = "unsafe_name"


class SystemRefused(TorchrelayError):
    """The operating system refused a file or a connection that the stage needs."""

    exit_code = 43
    kind = "system_refused"


class InputsInvalid(TorchrelayError):
    """The workflow was called with an unknown or malformed input, or for an event it refuses."""

    exit_code = 44
    kind = "inputs_invalid"


class GitHubRefused(TorchrelayError):
    """GitHub's API refused what the workflow asked of it."""

    exit_code = 45
    kind = "github_refused"


class Interrupted(TorchrelayError):
    """Ctrl-C or TERM; the next run goes on from what is complete."""

    exit_code = 130
    kind = "interrupted"
