"""A table of the permissions of each job of serve.yml and of what it runs, compared with the YAML.

A job that runs the model's code has no credentials. A job that has credentials runs none of the model's code, checks out the model
at most for the address of its weights, and reads nothing from a cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest

import references
from tests.unit.workflow_files import Tree, expressions
from torchrelay.attestation.provenance import VERDICT

TREE = Tree.of()
SERVE = references.SERVE
# Verbs that run the model author's code: they install its requirements and send samples to its handler.
RUNS_MODEL_CODE = {"build", "verify"}
CHECKOUT, CACHE = "actions/checkout", "actions/cache"
UPLOAD, DOWNLOAD, PROVENANCE = "actions/upload-artifact", "actions/download-artifact", "actions/attest-build-provenance"


@dataclass(frozen=True)
class Claim:
    """The rights and actions of one job; `actions` are third-party actions, including those inside our actions."""

    permissions: dict[str, str]
    verbs: set[str]
    actions: set[str]
    secrets: set[str] = field(default_factory=set)
    environment: bool = False
    runs_when: str = ""

    @property
    def credentials(self) -> bool:
        """Whether the job has credentials: an identity to exchange, or a secret."""
        return "id-token" in self.permissions or bool(self.secrets)

    @property
    def model_code(self) -> bool:
        return bool(self.verbs & RUNS_MODEL_CODE)


CLAIMS = {
    "plan": Claim({"contents": "read"}, {"setup", "plan"}, {CHECKOUT, CACHE}),
    "fetch": Claim(
        {"contents": "read", "id-token": "write"},
        {"setup", "login", "fetch"},
        {CHECKOUT, UPLOAD},
        runs_when="needs.plan.outputs.fetch == 'true'",
    ),
    "build": Claim(
        {"contents": "read"},
        {"setup", "check", "archive", "build", "verify", "diff", "bundle", "summary"},
        {CHECKOUT, CACHE, UPLOAD, DOWNLOAD},
        runs_when="needs.plan.outputs.build == 'true'",
    ),
    "deploy": Claim(
        {"id-token": "write", "attestations": "write"},
        {"setup", "login", "push", "attest", "deploy", "summary"},
        {DOWNLOAD, UPLOAD, PROVENANCE},
        {
            "kubeconfig",
            "signing-key",
            "signing_key",
            "registry-username",
            "registry_username",
            "registry-password",
            "registry_password",
        },
        environment=True,
        runs_when="needs.plan.outputs.deploy == 'true'",
    ),
    "report": Claim({"pull-requests": "write"}, {"setup", "report"}, {DOWNLOAD}, runs_when="needs.plan.outputs.build == 'true'"),
}


def claim(tree: Tree, job: str) -> Claim:
    """Read a job's row from the YAML, through every action that it uses."""
    body = tree.serve.jobs[job]
    reached = [uses.partition("@")[0] for uses, _ in tree.reached(body["steps"])]
    texts = " ".join(expressions(body)).lower()
    return Claim(
        permissions=body["permissions"],
        verbs={own for uses in reached if (own := tree.own(uses)) and not own.startswith("__")},
        actions={uses for uses in reached if not uses.startswith(f"{tree.home}/")},
        secrets=set(re.findall(r"\bsecrets\.([\w-]+)", texts)),
        environment="environment" in body,
        runs_when=next(iter(re.findall(r"needs\.plan\.outputs\.[\w-]+ == 'true'", body.get("if", ""))), ""),
    )


def broken_promises(tree: Tree) -> list[str]:
    """Report each job whose rights and actions must not be combined."""
    wrong = []
    for job, body in tree.serve.jobs.items():
        facts = claim(tree, job)
        if facts.model_code and facts.credentials:
            wrong.append(f"{job} runs the model's code and holds credentials")
        if facts.model_code and set(facts.permissions.values()) - {"read"}:
            wrong.append(f"{job} runs the model's code and has write permissions")
        if facts.credentials and CACHE in facts.actions:
            wrong.append(f"{job} holds credentials and takes from a cache")
        if facts.credentials and CHECKOUT in facts.actions and facts.secrets:
            wrong.append(f"{job} holds secrets and has a checkout")
        if facts.credentials and (loose := [uses for uses in facts.actions if not uses.startswith("actions/")]):
            wrong.append(f"{job} holds credentials and runs {loose}")
        if facts.credentials and (loose := [step["run"] for step in body["steps"] if "run" in step]):
            wrong.append(f"{job} holds credentials and runs {loose}")
        if facts.credentials and "toJSON(secrets)" in str(body):
            wrong.append(f"{job} takes all secrets")
        if facts.secrets and not facts.environment:
            wrong.append(f"{job} has secrets and no environment to guard them")
        texts = [text for step in body["steps"] for text in expressions({key: step[key] for key in step if key != "with"})]
        if any("secrets." in text for text in texts) or "secrets." in str(body.get("env", "")):
            wrong.append(f"{job} has a secret in reach of a whole job or a condition")
    return wrong


def test_every_job_is_in_the_table() -> None:
    assert list(TREE.serve.jobs) == list(CLAIMS)


@pytest.mark.parametrize("job", CLAIMS)
def test_a_job_equals_its_row_in_the_table(job: str) -> None:
    assert claim(TREE, job) == CLAIMS[job]


def test_no_job_has_both_model_code_and_credentials() -> None:
    assert broken_promises(TREE) == []


STEP = "      - id: push\n"
ACTIONS, AT = f"{TREE.home}/actions", f"@{TREE.ref}"
ENVIRONMENT = "    environment: ${{ inputs.environment }}\n"
READS = "      contents: read # reads the model; "
SETUP = f"        uses: {ACTIONS}/setup{AT}\n      - uses: {ACTIONS}/login{AT}\n"
CONTROLS = {
    "a model is built where credentials are": TREE.but(SERVE, STEP, f"      - uses: {ACTIONS}/build{AT}\n{STEP}"),
    "the build job may become somebody": TREE.but(SERVE, READS, f"      id-token: write # x\n{READS}"),
    "the build job may write": TREE.but(SERVE, READS, READS.replace("read", "write", 1)),
    "the deploy job takes from a cache": TREE.but(
        SERVE, SETUP, SETUP.replace("\n", '\n        with:\n          cache: "true"\n', 1)
    ),
    "the deploy job has a checkout": TREE.but(SERVE, STEP, f"      - uses: actions/checkout@v7\n{STEP}"),
    "the deploy job runs somebody's action": TREE.but(SERVE, STEP, f"      - uses: docker/login-action@v3\n{STEP}"),
    "the deploy job runs a command": TREE.but(SERVE, STEP, f"      - run: python deploy.py\n{STEP}"),
    "secrets outside of an environment": TREE.but(SERVE, ENVIRONMENT, ""),
    "a secret for the whole job": TREE.but(
        SERVE, ENVIRONMENT, f"{ENVIRONMENT}    env: {{KEY: '${{{{ secrets.signing-key }}}}'}}\n"
    ),
    "our own action nests somebody's": TREE.but(
        "actions/push/action.yml", "    - id: push\n", "    - uses: docker/login-action@v3\n    - id: push\n"
    ),
}


@pytest.mark.parametrize("case", CONTROLS)
def test_a_job_with_model_code_and_credentials_is_reported(case: str) -> None:
    assert broken_promises(CONTROLS[case]) != []
    assert {job: claim(CONTROLS[case], job) for job in CLAIMS} != CLAIMS or case in (
        "the deploy job runs a command",
        "a secret for the whole job",
    )


def test_callers_grant_exactly_the_requested_permissions() -> None:
    """GitHub refuses to start a called workflow whose jobs ask for more than the caller has."""
    asked = {name: access for one in CLAIMS.values() for name, access in one.permissions.items()}
    callers = {str(path): path.read_text() for path in references.ROOT.glob("examples/*/deploy.yml")}
    tree = TREE
    for name, text in callers.items():
        tree = tree.also(name, text)
    callers[".github/workflows/__ci.yml"] = ""
    for name in callers:
        granted = [body["permissions"] for body in tree.files[name].jobs.values() if SERVE in body.get("uses", "")]
        assert granted == [asked], name
    assert len(callers) >= 3


def test_a_fork_gets_nothing() -> None:
    """A fork's pull request gets no secret and no id-token from GitHub; plan refuses the one event that would give them."""
    fork = {job for job, one in CLAIMS.items() if one.runs_when in ("", "needs.plan.outputs.build == 'true'")}
    assert fork == {"plan", "build", "report"}
    assert not any(CLAIMS[job].credentials for job in fork)
    assert "pull_request_target" not in TREE.serve.text


def cancelled_for_another(tree: Tree) -> list[str]:
    """Report the jobs that GitHub can cancel for a later run, which does not always have a newer commit."""
    bodies = {"the workflow": tree.serve.data, **tree.serve.jobs}
    required = {"queue": "max", "cancel-in-progress": "false"}
    return [name for name, body in bodies.items() if "concurrency" in body and required.items() - dict(body["concurrency"]).items()]


def test_no_deployment_cancels_another() -> None:
    assert cancelled_for_another(TREE) == []
    group = f"{ENVIRONMENT}    concurrency: {{group: deploy, cancel-in-progress: false}}\n"
    assert cancelled_for_another(TREE.but(SERVE, ENVIRONMENT, group)) == ["deploy"]


def test_a_timed_out_build_does_not_stop_other_models() -> None:
    """GitHub reports such a job as cancelled although nobody cancelled the run; it is skipped only if plan failed."""
    condition = TREE.serve.jobs["deploy"]["if"]
    assert re.findall(r"needs\.build\.result ([!=]=) '(\w+)'", condition) == [("!=", "skipped")]
    assert "!cancelled()" in condition


def test_all_examples_have_the_same_caller_workflow() -> None:
    texts = {path.read_text() for path in references.ROOT.glob("examples/*/deploy.yml")}
    assert len(texts) == 1


def weights_amiss(tree: Tree) -> list[str]:
    """Report weights that are downloaded but never uploaded, or the reverse."""
    fetch, build = tree.serve.jobs["fetch"], tree.serve.jobs["build"]
    wrong = [] if "fetch-matrix" in fetch["strategy"]["matrix"] else ["fetch runs for weights that are files"]
    taken = [step for step in build["steps"] if "torchrelay-weights-" in step.get("with", {}).get("name", "")]
    uploads = [step for step in fetch["steps"] if "torchrelay-weights-" in step.get("with", {}).get("name", "")]
    if [step["with"]["name"] for step in taken] != [step["with"]["name"] for step in uploads]:
        wrong.append("build downloads other weights than fetch uploads")
    return wrong + [
        "build downloads weights that no fetch job uploads" for step in taken if step.get("if") != "${{ matrix.fetch }}"
    ]


def test_fetched_weights_are_passed_to_build() -> None:
    assert weights_amiss(TREE) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fromJSON(needs.plan.outputs.fetch-matrix)", "fromJSON(needs.plan.outputs.matrix)"),
        ("if: ${{ matrix.fetch }}", "if: ${{ needs.plan.outputs.fetch == 'true' }}"),
        ("      - if: ${{ matrix.fetch }}\n        uses:", "      - uses:"),
    ],
)
def test_weights_that_are_not_passed_on_are_reported(old: str, new: str) -> None:
    assert weights_amiss(TREE.but(SERVE, old, new)) != []


def clashes(tree: Tree) -> list[str]:
    """Report the artifacts that fail with two calls of serve.yml in one workflow or with a job's second attempt."""
    wrong = []
    for job, step in tree.serve.steps():
        values = step.get("with", {})
        name = values.get("name", values.get("pattern", ""))
        if "-artifact@" in step.get("uses", "") and not re.match(r"torchrelay-[a-z]+-\$\{\{ inputs\.environment \}\}--", name):
            wrong.append(f"{job}: {name} is not this call's own")
        if UPLOAD in step.get("uses", "") and values.get("overwrite") != "true":
            wrong.append(f"{job}: {name} is there already when the job is run again")
        if "merge-multiple" in values:
            wrong.append(f"{job}: files of several artifacts would be one")
    return wrong


def test_each_call_has_its_own_artifacts() -> None:
    assert clashes(TREE) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torchrelay-bundle-${{ inputs.environment }}--", "torchrelay-bundle-"),
        ("torchrelay-result-${{ inputs.environment }}--*", "torchrelay-result-*"),
        ("torchrelay-result-${{ inputs.environment }}--*", "torchrelay-result-${{ inputs.environment }}-*"),
        ("          overwrite: true\n", ""),
        ("          path: ${{ runner.temp }}/torchrelay-results\n", "          path: x\n          merge-multiple: true\n"),
    ],
)
def test_clashing_artifacts_are_reported(old: str, new: str) -> None:
    assert clashes(TREE.but(SERVE, old, new)) != []


@pytest.mark.parametrize("job", ["test", "publish"])
def test_a_release_is_made_from_the_default_branch_alone(job: str) -> None:
    condition = TREE.files[".github/workflows/__release.yml"].data["jobs"][job]["if"]
    assert condition == "${{ github.ref == format('refs/heads/{0}', github.event.repository.default_branch) }}"


def test_a_release_candidate_is_a_prerelease() -> None:
    steps = [
        step for _, step in TREE.files[".github/workflows/__release.yml"].steps() if "gh release create" in step.get("run", "")
    ]
    assert [step["env"]["CANDIDATE"] for step in steps] == ["${{ contains(inputs.version, '-') }}"]
    assert '--prerelease="$CANDIDATE"' in steps[0]["run"]


def bundles_of_anybody(tree: Tree) -> list[str]:
    """Report the actions of the deploy job that would accept a bundle of another model."""
    steps = [(tree.own(step.get("uses", "")), step.get("with", {})) for step in tree.serve.jobs["deploy"]["steps"]]
    return [str(own) for own, values in steps if own in BUNDLED and values.get("expect-model") != "${{ matrix.model }}"]


BUNDLED = ("push", "attest", "deploy")


def test_each_job_expects_its_own_model() -> None:
    assert bundles_of_anybody(TREE) == []
    assert bundles_of_anybody(TREE.but(SERVE, "          expect-model: ${{ matrix.model }}\n", "")) == list(BUNDLED)


KEYLESS = "actions/__keyless/action.yml"
KEYLESS_FLAGS = ('--source-ref "$GITHUB_REF"', '--source-digest "$GITHUB_SHA"', "${HOSTED:+--deny-self-hosted-runners}")


def signers_amiss(tree: Tree) -> list[str]:
    """Report where a keyless signature would be compared with another workflow's identity than its signer's."""
    wrong = []
    for _, verify in tree.files[KEYLESS].steps():
        if "gh attestation verify" not in verify.get("run", ""):
            continue
        if SERVE in verify["run"] or not verify["run"].endswith('${SIGNER:+--signer-workflow "$SIGNER"}'):
            wrong.append("a workflow that uses the action alone is held against serve.yml")
        if not all(flag in verify["run"] for flag in KEYLESS_FLAGS):
            wrong.append("another run, or an unknown machine, may have signed")
        if verify["env"].get("SIGNER") != "${{ inputs.signer-workflow }}":
            wrong.append("nothing says who signs")
    demanded = [
        step.get("env", {}).get("VERDICT") for _, step in tree.files[KEYLESS].steps() if '"$VERDICT"' in step.get("run", "")
    ]
    if demanded != [VERDICT]:
        wrong.append("nobody asks for the verdict")
    for file in tree.files.values():
        for job, step in file.steps():
            if tree.own(step.get("uses", "")) == "attest":
                signer, expected = step["with"].get("signer-workflow", ""), f"{tree.home}/{SERVE}" if file.name == SERVE else ""
                wrong += [f"{file.name}: {job}: signed by {signer or 'anyone'}"] if signer != expected else []
    return wrong


@pytest.mark.parametrize("action", ["attest", "deploy"])
def test_the_verify_key_comes_from_outside_of_the_job(action: str) -> None:
    (values,) = [step["with"] for step in TREE.serve.jobs["deploy"]["steps"] if TREE.own(step.get("uses", "")) == action]
    assert values["verify-key"] == "${{ vars.TORCHRELAY_VERIFY_KEY }}"


def test_signatures_are_verified_against_the_signing_workflow() -> None:
    assert signers_amiss(TREE) == []


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (KEYLESS, '"$SIGNER"}', f'"{TREE.home}/{SERVE}"}}'),
        (KEYLESS, "        SIGNER: ${{ inputs.signer-workflow }}\n", ""),
        (KEYLESS, ' --predicate-type "$VERDICT"', ""),
        *((KEYLESS, f" {flag}", "") for flag in KEYLESS_FLAGS),
        (SERVE, f"          signer-workflow: {TREE.home}/{SERVE}\n", ""),
    ],
)
def test_a_signature_verified_against_another_workflow_is_reported(file: str, old: str, new: str) -> None:
    assert signers_amiss(TREE.but(file, old, new)) != []
