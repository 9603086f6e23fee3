"""The outputs that each verb of an action writes as a step, all of them: the actions declare some, real runs write exactly these.

tests/unit/test_workflows_outputs.py checks the actions against this table, tests/integration/test_workflows_outputs.py the verbs.
"""

OUTPUTS: dict[str, set[str]] = {
    "plan": {
        "matrix", "fetch-matrix", "count", "build", "deploy", "fetch", "diff", "comment", "attest", "dry-run", "reason",
    },
    "check": {"model", "samples", "warnings", "result"},
    "fetch": {"path", "size", "sha256", "source", "skipped"},
    "archive": {"path", "version", "size", "inputs", "entries", "skipped"},
    "build": {"digest", "config-digest", "layers", "skipped"},
    "verify": {
        "result", "model", "version", "image", "config", "samples-digest", "conditions", "concurrency", "ready-s", "load-s",
        "total-s", "samples", "reason", "traceback", "fix",
    },
    "diff": {"reachable", "samples", "reason", "url", "changed"},
    "bundle": {"bundle", "digest", "image", "model", "version"},
    "login": {"aws", "expires", "registry", "kubeconfig"},
    "push": {"reference", "repository", "tag", "digest", "config-digest", "bytes", "blobs", "skipped"},
    "attest": {"public-key", "statements", "reference", "skipped"},
    "deploy": {"target", "endpoint", "result", "stages"},
    "summary": {
        "model", "version", "job", "result", "image", "reference", "endpoint", "target", "previous", "stages", "samples", "layers",
        "diff", "error",
    },
    "report": {"endpoint", "image", "verdict", "results", "comment"},
    "doctor": {"checks", "ok"},
}  # fmt: skip
