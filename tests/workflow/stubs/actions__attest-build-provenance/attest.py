"""What attest-build-provenance v4 demands of its subject; a file stands in for the signed bundle."""

import hashlib
import json
import os
import re
import sys
from pathlib import Path


def main() -> None:
    file, digest, name = os.environ["FILE"], os.environ["DIGEST"], os.environ["NAME"]
    if bool(file) == bool(digest) or (digest and not name):
        print("::error::One of subject-path or subject-digest must be provided, a digest with subject-name")
        sys.exit(1)
    if file:
        name, digest = Path(file).name, f"sha256:{hashlib.sha256(Path(file).read_bytes()).hexdigest()}"
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        print(f"::error::subject-digest must be in the format sha256:<hex>: {digest!r}")
        sys.exit(1)
    folder = Path(os.environ["ACT_ARTIFACTS"]) / "attestations"
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / f"{digest.removeprefix('sha256:')}.json"
    bundle.write_text(json.dumps({"name": name, "digest": digest, "run": os.environ["GITHUB_RUN_ID"]}))
    with Path(os.environ["GITHUB_OUTPUT"]).open("a") as output:
        output.write(f"bundle-path={bundle}\nattestation-id=1\nattestation-url=https://github.invalid/attestations/1\n")


if __name__ == "__main__":
    main()
