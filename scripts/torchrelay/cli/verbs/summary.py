"""`torchrelay summary`."""

from pathlib import Path
from typing import Annotated

from torchrelay.cli.console import DEFAULT_DIR, AsJson, BundleFolder, ModelDir, begin, done, option
from torchrelay.cli.step_summary import append, room
from torchrelay.workflow import job_result, summary


def run(
    output: Annotated[Path, option("output", "Result file to write.")],
    model_dir: ModelDir = DEFAULT_DIR,
    bundle: BundleFolder = None,
    job_status: Annotated[
        str,
        option(
            "job-status", "GitHub's status of the job: distinguishes a job that was killed from one that passed. Default: success."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Summarise one model's run.

    Writes the job's summary on GitHub, prints it elsewhere, and writes the result file that report merges. Exits 0 even if the
    model failed.
    """
    begin(as_json=as_json)
    result = job_result.gather(bundle or model_dir, bundle=bundle is not None, job_status=job_status)
    job_result.save(output, result)
    text = summary.model_summary(result, room())
    done(result.model_dump(), f"{result.model} {result.version}: {result.result}" if append(text) else text.rstrip())
