"""What download-artifact v5 does with its inputs; a folder stands in for the service.

As there: the latest attempt's artifact of a name is taken; one artifact alone, named or matched, goes into the folder itself;
several go into folders of their names unless merged.
"""

import fnmatch
import os
import shutil
import sys
from pathlib import Path


def main() -> None:
    run = Path(os.environ["ACT_ARTIFACTS"]) / os.environ["GITHUB_RUN_ID"]
    attempts = sorted(run.iterdir(), key=lambda attempt: int(attempt.name)) if run.is_dir() else []
    folder = Path.cwd() / os.environ["FOLDER"]
    name, pattern = os.environ["NAME"], os.environ["PATTERN"]
    there = dict(sorted((one.name, one) for attempt in attempts for one in attempt.iterdir()))
    if name and name not in there:
        print(f"::error::Unable to download artifact(s): Artifact not found for name: {name}")
        sys.exit(1)
    wanted = [name] if name else [one for one in there if not pattern or fnmatch.fnmatchcase(one, pattern)]
    for one in wanted:
        alone = len(wanted) == 1 or os.environ["MERGE"] == "true"
        shutil.copytree(there[one], folder if alone else folder / one, dirs_exist_ok=True)
    with Path(os.environ["GITHUB_OUTPUT"]).open("a") as output:
        output.write(f"download-path={folder}\n")
    print(f"Total of {len(wanted)} artifact(s) downloaded: {', '.join(wanted)}")


if __name__ == "__main__":
    main()
