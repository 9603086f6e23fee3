"""Rules for every workflow and action; each rule is checked with the real files and with a file that breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer

import references
from tests.unit.workflow_files import EXPRESSION, Tree, expressions
from torchrelay.cli import main
from torchrelay.workflow.inputs import INPUTS

Rule = Callable[[Tree], Iterator[str]]
TREE = Tree.of()
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
WITHOUT_VERB = ("setup", "__cache", "__keyless")
SERVE, CI = references.SERVE, ".github/workflows/__ci.yml"
CHECK, PUSH = "actions/check/action.yml", "actions/push/action.yml"


def no_expression_in_a_run_line(tree: Tree) -> Iterator[str]:
    for file in tree.files.values():
        for _, step in file.steps():
            if "${{" in step.get("run", "") or "${{" in step.get("shell", ""):
                yield f"{file.name}: {step['run']}"


def no_program_in_yaml(tree: Tree) -> Iterator[str]:
    """A run step is one line; in an action, it runs the action's verb."""
    for file in tree.files.values():
        for _, step in file.steps():
            run = step.get("run")
            if run is not None and len(run.strip().splitlines()) > 1:
                yield f"{file.name}: {run.splitlines()[0]} ..."
        if file.is_action and file.action not in WITHOUT_VERB:
            runs = [step["run"] for _, step in file.steps() if step.get("run", "").startswith("torchrelay")]
            if runs != [f"torchrelay {file.action}"]:
                yield f"{file.name}: runs {runs}"


def third_party_is_pinned(tree: Tree) -> Iterator[str]:
    for file in tree.files.values():
        for number, line in enumerate(file.text.splitlines(), 1):
            match = re.match(r"\s*(?:- )?uses:\s*(.*)$", line)
            if match and not match[1].startswith(f"{tree.home}/") and not PINNED.fullmatch(match[1]):
                yield f"{file.name}:{number}: {match[1]}"


def one_sha_for_one_action(tree: Tree) -> Iterator[str]:
    seen: dict[str, str] = {}
    for file in tree.files.values():
        for line in file.text.splitlines():
            match = re.match(r"\s*(?:- )?uses:\s*([\w./-]+)@(.*)$", line)
            if match and not match[1].startswith(tree.home) and seen.setdefault(match[1], match[2]) != match[2]:
                yield f"{file.name}: {match[1]} is {seen[match[1]]} elsewhere"


def own_references_agree(tree: Tree) -> Iterator[str]:
    yield from references.problems({file.name: file.text for file in tree.files.values()})


def interfaces(tree: Tree) -> Iterator[tuple[str, str, dict[str, Any], bool]]:
    """Every input, secret and output: where, its name, its declaration, whether it is an input."""
    for file in tree.files.values():
        events = file.data.get("on", {}) if not file.is_action else {"": file.data}
        for event in events.values() if isinstance(events, dict) else ():
            for kind in ("inputs", "secrets", "outputs"):
                for name, declaration in (event.get(kind) or {}).items() if isinstance(event, dict) else ():
                    yield f"{file.name}: {kind}: {name}", name, declaration, kind == "inputs"


def everything_is_described(tree: Tree) -> Iterator[str]:
    for where, name, declaration, is_input in interfaces(tree):
        text = declaration.get("description", "")
        if len(text.split()) < 3 or not re.search(r"""[.?`)"]$""", text):
            yield f"{where}: says {text!r}"
        if not NAME.fullmatch(name):
            yield f"{where}: is not in kebab-case"
        if is_input and "required" not in declaration:
            yield f"{where}: does not say whether it is required"
        if is_input and (declaration.get("required") == "true") == ("default" in declaration):
            yield f"{where}: is required and has a default, or neither"
    for file in tree.actions.values():
        if not file.data.get("description") or not file.data.get("name"):
            yield f"{file.name}: is not described"


def inputs_are_used_and_declared(tree: Tree) -> Iterator[str]:
    for file in tree.files.values():
        if file.is_action:
            declared = set(file.data.get("inputs", {}))
            body: Any = {key: value for key, value in file.data.items() if key != "inputs"}
        else:
            on = file.data["on"]
            events = [on[event] for event in ("workflow_call", "workflow_dispatch") if isinstance(on, dict) and on.get(event)]
            declared = {name for event in events for name in event.get("inputs", {})}
            body = {key: value for key, value in file.data.items() if key != "on"}
        expression = " ".join(expressions(body))
        used = set(re.findall(r"\binputs\.([\w-]+)", expression))
        whole = {"any-branch-environments", "dry-run", "skip"} if re.search(r"toJSON\(inputs\)", expression) else set()
        yield from (f"{file.name}: inputs.{name} is not declared" for name in used - declared)
        yield from (f"{file.name}: nothing reads inputs.{name}" for name in declared - used - whole)


def called_as_they_declare(tree: Tree) -> Iterator[str]:
    """`with:` names only inputs that our action has, and all required ones."""
    for file in tree.files.values():
        for _, step in file.steps():
            own = tree.own(step.get("uses", ""))
            if not own:
                continue
            if own not in tree.actions:
                yield f"{file.name}: there is no action {own}"
                continue
            declared = tree.actions[own].data.get("inputs", {})
            values = set(step.get("with", {}))
            yield from (f"{file.name}: {own} has no input {name}" for name in values - set(declared))
            required = {name for name, declaration in declared.items() if declaration.get("required") == "true"}
            yield from (f"{file.name}: {own} requires {name}" for name in required - values)


def variables_are_flags(tree: Tree) -> Iterator[str]:
    """An action sets the variables that its verb reads."""
    group: Any = typer.main.get_command(main.app)
    for file in tree.actions.values():
        for _, step in file.steps():
            if not step.get("run", "").startswith("torchrelay "):
                continue
            verb = group.get_command(None, step["run"].split()[1])
            if verb is None:
                yield f"{file.name}: there is no verb {step['run']!r}"
                continue
            read = {param.envvar for param in verb.params}
            for variable in step.get("env", {}):
                if variable not in read and variable != "GITHUB_TOKEN":
                    yield f"{file.name}: torchrelay {verb.name} does not read {variable}"


def outputs_come_from_steps(tree: Tree) -> Iterator[str]:
    """`steps.X.outputs.Y` names a step of the same job; if the step uses one of our actions, the action declares the output."""
    for file in tree.files.values():
        scopes = file.jobs or {"": file.data}
        for job, body in scopes.items():
            steps = body.get("steps", []) if job else body["runs"]["steps"]
            by_id = {step["id"]: step for step in steps if "id" in step}
            for expression in expressions(body):
                for step, output in re.findall(r"\bsteps\.([\w-]+)\.outputs\.([\w-]+)", expression):
                    if step not in by_id:
                        yield f"{file.name}: {job}: there is no step {step}"
                    elif (own := tree.own(by_id[step].get("uses", ""))) and output not in tree.actions[own].data.get("outputs", {}):
                        yield f"{file.name}: {job}: {own} has no output {output}"


def outputs_come_from_jobs(tree: Tree) -> Iterator[str]:
    """`needs.X.outputs.Y` names a job in `needs` that has the output; the outputs of a called workflow name its jobs."""
    for file in tree.workflows:
        for job, body in file.jobs.items():
            waited = body.get("needs", [])
            waited = [waited] if isinstance(waited, str) else waited
            for expression in expressions(body):
                for other, output in re.findall(r"\bneeds\.([\w-]+)\.outputs\.([\w-]+)", expression):
                    called = file.jobs.get(other, {}).get("uses", "").startswith(f"{tree.home}/{SERVE}")
                    has = (
                        tree.serve.data["on"]["workflow_call"]["outputs"] if called else file.jobs.get(other, {}).get("outputs", {})
                    )
                    if other not in waited or output not in has:
                        yield f"{file.name}: {job}: needs.{other}.outputs.{output}"
        for expression in expressions(file.data["on"]):
            for other, output in re.findall(r"\bjobs\.([\w-]+)\.outputs\.([\w-]+)", expression):
                if output not in file.jobs.get(other, {}).get("outputs", {}):
                    yield f"{file.name}: jobs.{other}.outputs.{output}"


def serve_takes_what_plan_checks(tree: Tree) -> Iterator[str]:
    on = tree.serve.data["on"]
    called, dispatched = on["workflow_call"]["inputs"], on["workflow_dispatch"]["inputs"]
    if called != dispatched:
        yield "workflow_call and workflow_dispatch do not take the same inputs"
    for name in set(called) ^ set(INPUTS):
        yield f"{name} is an input of one of serve.yml and scripts/torchrelay/workflow/inputs.py"
    for name, declaration in called.items():
        default = INPUTS[name].default if name in INPUTS else ""
        shown = str(default).lower() if isinstance(default, bool) else "" if default == [] else default
        if declaration["default"] != shown:
            yield f"{name}: the default is {declaration['default']!r} in serve.yml and {shown!r} in workflow/inputs.py"
        if declaration["type"] != ("boolean" if isinstance(default, bool) else "string"):
            yield f"{name}: the type is {declaration['type']}"


def jobs_are_bounded(tree: Tree) -> Iterator[str]:
    """Every job sets its permissions, a time limit and a readable name."""
    for file in tree.workflows:
        if file.data.get("permissions") != {}:
            yield f"{file.name}: `permissions: {{}}` is missing at the top"
        for job, body in file.jobs.items():
            if "permissions" not in body:
                yield f"{file.name}: {job}: no permissions"
            if "name" not in body:
                yield f"{file.name}: {job}: no name"
            if "uses" not in body and not 0 < int(body.get("timeout-minutes", 0)) <= 120:
                yield f"{file.name}: {job}: no time limit"
            if body.get("strategy") and file.name == SERVE and body["strategy"].get("fail-fast") != "false":
                yield f"{file.name}: {job}: one model's failure cancels the others"
            if body.get("strategy") and "matrix." not in body.get("name", ""):
                yield f"{file.name}: {job}: the name does not say what varies"
        for number, line in enumerate(file.text.splitlines(), 1):
            if re.fullmatch(r"\s+[a-z-]+: (read|write)", line):
                yield f"{file.name}:{number}: no reason for {line.strip()}"


def steps_are_careful(tree: Tree) -> Iterator[str]:
    for file in tree.files.values():
        for job, step in file.steps():
            values, where = step.get("with", {}), f"{file.name}: {job}"
            uses = step.get("uses", "")
            if uses.startswith("actions/checkout@") and values.get("persist-credentials") != "false":
                yield f"{where}: the checkout leaves its token behind"
            if uses.startswith("actions/upload-artifact@"):
                wanted = {"if-no-files-found": "error", "compression-level": "0"}
                if wanted.items() - values.items() or not 0 < int(values.get("retention-days", 0)) <= 7:
                    yield f"{where}: artifact {values.get('name')}"
            if "run" in step and file.is_action and step.get("shell") != "bash":
                yield f"{where}: no shell"


def the_gate_waits_for_all(tree: Tree) -> Iterator[str]:
    jobs = dict(tree.files[CI].jobs)
    gate = jobs.pop("gate")
    yield from (f"{CI}: the gate does not wait for {job}" for job in set(jobs) - set(gate["needs"]))
    if gate.get("if") != "${{ always() }}":
        yield f"{CI}: a skipped gate passes"
    if not {"lint", "test"} <= set(re.findall(r"needs\.([\w-]+)\.result", " ".join(expressions(gate)))):
        yield f"{CI}: lint and test may be skipped"


def every_action_is_used(tree: Tree) -> Iterator[str]:
    used = {tree.own(step["uses"]) for _, step in tree.files[CI].steps() if "uses" in step}
    yield from (f"{CI}: {name} is not used" for name, file in tree.actions.items() if not file.internal and name not in used)
    if not any(body.get("uses", "").startswith(f"{tree.home}/{SERVE}@") for body in tree.files[CI].jobs.values()):
        yield f"{CI}: serve.yml is not called"


def what_must_fail_is_asserted(tree: Tree) -> Iterator[str]:
    job = tree.files[CI].jobs["refusals"]
    expected = {step["id"] for step in job["steps"] if step.get("continue-on-error") == "true"}
    last = job["steps"][-1]
    expression = set(re.findall(r"steps\.([\w-]+)\.outcome", last["env"]["OUTCOMES"]))
    if expected != expression or last["run"].count("failure") != len(expected):
        yield f"{CI}: refusals asserts {sorted(expression)}, and {sorted(expected)} may fail"
    if len(expected) < 5:
        yield f"{CI}: only {len(expected)} refusals"


CONTROLS: list[tuple[Rule, Tree]] = [
    (no_expression_in_a_run_line, TREE.but(CHECK, "run: torchrelay check", "run: torchrelay check ${{ inputs.model-dir }}")),
    (no_program_in_yaml, TREE.but(CHECK, "run: torchrelay check", "run: |\n        cd x\n        torchrelay check")),
    (no_program_in_yaml, TREE.but(CHECK, "run: torchrelay check", "run: torchrelay verify")),
    (third_party_is_pinned, TREE.but(SERVE, "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7")),
    (third_party_is_pinned, TREE.but(SERVE, " # v7.0.1", "")),
    (one_sha_for_one_action, TREE.but(SERVE, "checkout@3d3c42e5", "checkout@4d3c42e5")),
    (own_references_agree, TREE.but(SERVE, f"actions/report@{TREE.ref}", "actions/report@v0")),
    (own_references_agree, TREE.but(SERVE, f"{TREE.home}/actions/report@{TREE.ref}", "./actions/report")),
    (everything_is_described, TREE.but(PUSH, "    description: Number of bytes that were uploaded.\n", "")),
    (everything_is_described, TREE.but(SERVE, "      signing-key:\n", "      signingKey:\n")),
    (everything_is_described, TREE.but("actions/setup/action.yml", '    default: "false"\n', "")),
    (inputs_are_used_and_declared, TREE.but(PUSH, "${{ inputs.bundle }}", "")),
    (inputs_are_used_and_declared, TREE.but(SERVE, "inputs.live-url", "inputs.live")),
    (called_as_they_declare, TREE.but(SERVE, "          live-url: ", "          url: ")),
    (called_as_they_declare, TREE.but(SERVE, "actions/plan@", "actions/plans@")),
    (variables_are_flags, TREE.but(PUSH, "TORCHRELAY_REPOSITORY:", "TORCHRELAY_REPO:")),
    (outputs_come_from_steps, TREE.but(PUSH, "- id: push", "- id: pushed")),
    (outputs_come_from_steps, TREE.but(SERVE, "steps.push.outputs.reference", "steps.push.outputs.address")),
    (outputs_come_from_jobs, TREE.but(SERVE, "needs: [plan, fetch]", "needs: fetch")),
    (outputs_come_from_jobs, TREE.but(SERVE, "      verdict: ${{ steps.report.outputs.verdict }}\n", "")),
    (outputs_come_from_jobs, TREE.but(CI, "needs.serve.outputs.verdict", "needs.serve.outputs.result")),
    (serve_takes_what_plan_checks, TREE.but(SERVE, "default: production", "default: staging")),
    (serve_takes_what_plan_checks, TREE.but(SERVE, "      runner:\n", "      runs-on:\n")),
    (jobs_are_bounded, TREE.but(SERVE, "\npermissions: {}\n", "\n")),
    (jobs_are_bounded, TREE.but(SERVE, "    timeout-minutes: 120\n", "")),
    (jobs_are_bounded, TREE.but(SERVE, "      fail-fast: false\n", "")),
    (jobs_are_bounded, TREE.but(SERVE, "id-token: write # assumes weights-role", "id-token: write")),
    (steps_are_careful, TREE.but(SERVE, "persist-credentials: false", "persist-credentials: true")),
    (steps_are_careful, TREE.but(SERVE, "          compression-level: 0\n", "")),
    (steps_are_careful, TREE.but(CHECK, "      shell: bash\n", "")),
    (the_gate_waits_for_all, TREE.but(CI, "needs: [lint, docs, test, actions, ", "needs: [lint, test, ")),
    (the_gate_waits_for_all, TREE.but(CI, "if: ${{ always() }}", "if: ${{ !cancelled() }}")),
    (every_action_is_used, TREE.but(CI, "actions/doctor@", "actions/check@")),
    (every_action_is_used, TREE.but(CI, "workflows/serve.yml@", "workflows/other.yml@")),
    (what_must_fail_is_asserted, TREE.but(CI, " ${{ steps.report.outcome }}", "")),
]  # fmt: skip
RULES = list(dict.fromkeys(rule for rule, _ in CONTROLS))


@pytest.mark.parametrize("rule", RULES)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(TREE)) == []


@pytest.mark.parametrize(("rule", "broken"), CONTROLS)
def test_a_file_that_breaks_the_rule_is_reported(rule: Rule, broken: Tree) -> None:
    assert list(rule(broken)) != []


def test_every_workflow_and_action_is_read() -> None:
    assert {file.name for file in TREE.workflows} >= {SERVE, CI, ".github/workflows/__release.yml"}
    assert {name for name in TREE.actions if not name.startswith("__")} == {
        "setup", "plan", "check", "fetch", "archive", "build", "verify", "diff", "bundle", "login", "push", "attest", "deploy",
        "summary", "report", "doctor",
    }  # fmt: skip
    assert [file.name for file in TREE.workflows if not file.internal] == [SERVE], "what begins with __ is not for callers"


def test_expressions_are_found() -> None:
    assert EXPRESSION.findall("a ${{ b }} c ${{\n d }}") == [" b ", "\n d "]
    assert list(expressions({"a": [{"if": "b"}, "${{ c }}"]})) == ["b", "c"]
