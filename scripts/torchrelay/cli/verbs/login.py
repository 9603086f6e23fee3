"""`torchrelay login`."""

from typing import Annotated

from pydantic import SecretStr

from torchrelay.cli.console import AsJson, AwsRegion, AwsRole, begin, done, option, secret_option
from torchrelay.stages import login

RegistryHost = Annotated[str, option("registry", "Registry to log in to: host or host/repository. ECR needs only the role.")]
RegistryUsername = Annotated[str, option("registry-username", "User name for the registry.")]
RegistryPassword = Annotated[
    str,
    secret_option(
        "registry-password", "Password for the registry. Only the variable is accepted: other processes can see arguments."
    ),
]
KubeconfigData = Annotated[
    str, secret_option("kubeconfig-data", "A whole kubeconfig, YAML or base64. Only the variable is accepted, as for the password.")
]
NAMES = {"aws": "AWS as", "expires": "until", "registry": "registry", "kubeconfig": "kubeconfig in"}


def run(
    aws_role: AwsRole = "",
    aws_region: AwsRegion = "",
    registry: RegistryHost = "",
    registry_username: RegistryUsername = "",
    registry_password: RegistryPassword = "",
    kubeconfig_data: KubeconfigData = "",
    as_json: AsJson = False,
) -> None:
    """Get short-lived credentials for the steps after this one.

    An AWS role through OIDC, a registry's password, a kubeconfig: whichever are given.
    """
    begin(as_json=as_json)
    password, kubeconfig = SecretStr(registry_password), SecretStr(kubeconfig_data)
    request = login.LoginRequest(aws_role, aws_region, registry, registry_username, password, kubeconfig)
    result = login.run(request, login.this_job())
    parts = [f"{NAMES[key]} {value}" for key, value in result.items() if value]
    done(result, f"logged in: {'; '.join(parts)}" if parts else "nothing to log in to")
