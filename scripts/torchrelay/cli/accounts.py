"""The verbs about accounts: login, and doctor, which looks at all that the relay will need."""

import os
from pathlib import Path
from typing import Annotated

from torchrelay.cli.console import DEFAULT_DIR, AsJson, ModelDir, Target, app, begin, done, option

AwsRole = Annotated[str, option("aws-role", "ARN of the role to take by the job's own identity (OIDC).")]
AwsRegion = Annotated[str, option("aws-region", "Region of AWS, as eu-west-1. Default: AWS_REGION.")]
RegistryHost = Annotated[str, option("registry", "Registry to log in to: host or host/repository. ECR needs only the role.")]
RegistryUsername = Annotated[str, option("registry-username", "User of the registry.")]
RegistryPassword = Annotated[str, option("registry-password", "Its password. Give it by the variable: arguments are no secrets.")]
KubeconfigData = Annotated[str, option("kubeconfig-data", "A whole kubeconfig, YAML or base64. By the variable, as the password.")]
Repository = Annotated[str, option("repository", "host/repository that will be pushed to.")]


@app.command()
def login(
    aws_role: AwsRole = "",
    aws_region: AwsRegion = "",
    registry: RegistryHost = "",
    registry_username: RegistryUsername = "",
    registry_password: RegistryPassword = "",
    kubeconfig_data: KubeconfigData = "",
    as_json: AsJson = False,
) -> None:
    """Get short-lived credentials for the steps after this one.

    An AWS role by OIDC, a registry's password, a kubeconfig: whichever are given.
    """
    from pydantic import SecretStr  # noqa: PLC0415 -- each verb imports only what it needs: --help stays fast

    from torchrelay.stages import login as logins  # noqa: PLC0415

    begin(as_json=as_json)
    password, kubeconfig = SecretStr(registry_password), SecretStr(kubeconfig_data)
    wanted = logins.Wanted(aws_role, aws_region, registry, registry_username, password, kubeconfig)
    result = logins.login(wanted, logins.this_job())
    names = {"aws": "AWS as", "expires": "until", "registry": "registry", "kubeconfig": "kubeconfig in"}
    said = [f"{names[key]} {value}" for key, value in result.items() if value]
    done(result, f"logged in: {'; '.join(said)}" if said else "nothing to log in to")


@app.command()
def doctor(
    model_dir: ModelDir = DEFAULT_DIR,
    target: Target = None,
    repository: Repository = "",
    aws_role: AwsRole = "",
    aws_region: AwsRegion = "",
    as_json: AsJson = False,
) -> None:
    """Look whether all that the relay needs is there.

    Tools, disk, registry, AWS, cluster, weights, workflow: nothing is built or changed, and each finding says its mend.
    """
    from torchrelay import doctor as doctors  # noqa: PLC0415 -- as in login
    from torchrelay.cli.console import Output  # noqa: PLC0415
    from torchrelay.doctor.finding import DoctorOptions  # noqa: PLC0415 -- as in login

    begin(as_json=as_json)
    options = DoctorOptions(Path(model_dir), target, repository, aws_role, aws_region, os.environ)
    checks = doctors.examine(options)
    doctors.show(checks)
    result = {"checks": [check.summary() for check in checks], "ok": all(check.ok for check in checks)}
    done(result, f"{len(checks)} checks, {sum(not check.ok for check in checks)} failed")
    Output.json = False  # the one JSON object is out: what follows goes to stderr
    doctors.require_passing(checks)
