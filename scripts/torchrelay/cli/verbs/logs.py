"""`torchrelay logs`."""

from typing import Annotated

from torchrelay.cli.console import DEFAULT_DIR, AsJson, ModelDir, Target, begin, done, option
from torchrelay.cli.endpoints import model_and_target
from torchrelay.stages import deploy


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    target: Target = None,
    lines: Annotated[int, option("lines", "Lines from the end of the log.", min=1)] = 200,
    as_json: AsJson = False,
) -> None:
    """Print the end of the server's log."""
    begin(as_json=as_json)
    model, chosen = model_and_target(model_dir, target)
    text = deploy.deployed(model_dir, model, chosen).logs(lines)
    done({"target": chosen, "log": text.splitlines()}, text.rstrip("\n"))
