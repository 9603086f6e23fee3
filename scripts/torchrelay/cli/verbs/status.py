"""`torchrelay status`."""

from torchrelay.cli.console import DEFAULT_DIR, AsJson, ModelDir, Target, begin, done
from torchrelay.cli.endpoints import model_and_target
from torchrelay.stages import deploy


def run(model_dir: ModelDir = DEFAULT_DIR, target: Target = None, as_json: AsJson = False) -> None:
    """Show what is currently deployed.

    Endpoint, version, digest and state, as seen on the target itself.
    """
    begin(as_json=as_json)
    model, chosen = model_and_target(model_dir, target)
    endpoint = deploy.status(model_dir, model, chosen)
    text = f"{model.name} on {chosen}: {endpoint.state} {endpoint.version} {endpoint.url} {endpoint.detail}"
    done(endpoint.summary(), text.rstrip())
