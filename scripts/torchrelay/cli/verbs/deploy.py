"""`torchrelay deploy`."""

from torchrelay.cli.bundles import read_expected
from torchrelay.cli.console import (
    DEFAULT_DIR,
    AsJson,
    BundleFolder,
    DryRun,
    ExpectDigest,
    ExpectModel,
    ModelDir,
    Target,
    VerifyKey,
    begin,
    done,
    planned,
)
from torchrelay.core import progress
from torchrelay.model.server_config import load_model
from torchrelay.stages.relay import deploy_bundle, deploy_only, deploy_plan


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    target: Target = None,
    bundle: BundleFolder = None,
    expect_digest: ExpectDigest = None,
    expect_model: ExpectModel = None,
    verify_key: VerifyKey = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Deploy the verified image.

    A version that fails its samples never answers a user.
    """
    begin(as_json=as_json)
    opened = read_expected(bundle, expect_digest, expect_model)
    if dry_run:
        model = opened.model if opened else load_model(model_dir)
        return planned("deploy", deploy_plan(model, target, bundled=opened is not None))
    if opened is not None:
        result = deploy_bundle(opened, progress.progress(), target=target, verify_key=verify_key)
    else:
        result = deploy_only(model_dir, progress.progress(), target=target, verify_key=verify_key)
    return done(result, result["endpoint"]["url"])
