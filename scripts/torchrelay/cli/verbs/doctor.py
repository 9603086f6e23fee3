"""`torchrelay doctor`."""

import os
from pathlib import Path
from typing import Annotated

from torchrelay import doctor
from torchrelay.cli.console import (
    DEFAULT_DIR,
    INVOCATION,
    AllowOutside,
    AsJson,
    AwsRegion,
    AwsRole,
    ModelDir,
    Target,
    begin,
    done,
    option,
)
from torchrelay.doctor.finding import DoctorOptions


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    target: Target = None,
    repository: Annotated[str, option("repository", "Image repository that will be pushed to: host/repository.")] = "",
    aws_role: AwsRole = "",
    aws_region: AwsRegion = "",
    allow_outside: AllowOutside = False,
    as_json: AsJson = False,
) -> None:
    """Check that everything a deployment needs is available.

    Tools, disk, registry, AWS, cluster, weights, workflow. Nothing is built or changed; every problem comes with a fix.
    """
    begin(as_json=as_json, allow_outside=allow_outside)
    checks = doctor.examine(DoctorOptions(Path(model_dir), target, repository, aws_role, aws_region, os.environ))
    doctor.show(checks)
    result = {"checks": [check.summary() for check in checks], "ok": all(check.ok for check in checks)}
    done(result, f"{len(checks)} checks, {sum(not check.ok for check in checks)} failed")
    INVOCATION.get().json = False  # the one JSON object is printed: the error goes to stderr
    doctor.require_passing(checks)
