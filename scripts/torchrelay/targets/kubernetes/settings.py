"""The environment variables of the kubernetes target."""

from pydantic import Field, SecretStr

from torchrelay.core.settings import EnvironmentSettings


class KubernetesSettings(EnvironmentSettings):
    """Credentials and rights for one run."""

    read_by = "the kubernetes target"

    kubeconfig: SecretStr = Field(
        SecretStr(""), description="A kubeconfig: its text, or the path of the file. Used instead of `KUBECONFIG`."
    )
    force_conflicts: bool = Field(False, description="`1` or `true`: take over fields of the objects that another tool manages.")
