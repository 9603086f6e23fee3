"""Hostile words pass through real act without effect: no shell, no command, no expression and no markup.

They are in four runs: a pull request whose every name is hostile and legal, a push of such names that is deployed, a model that
fails with hostile answers, output and exceptions, and one job of steps that must each refuse a hostile name. The controls are
actions that interpolate and that echo.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.workflow import hostile
from tests.workflow.act import Act
from tests.workflow.conftest import Scene
from tests.workflow.hostile import Case, cases
from tests.workflow.repositories import ModelRepository, git
from tests.workflow.services import TOKEN, Comments

BAD_ACTIONS = Path(__file__).parent / "cases"
PLAIN_NAMES = ["substitution", "backticks", "semicolon", "double_quote", "single_quote", "no_blanks", "old_form", "old_stop"]

SAMPLE_NAMES = cases("sample_name", [*PLAIN_NAMES, "escaped", "expression", "code_span", "mermaid", "comment"], 100)
CONTENTS = cases("sample_content", ["substitution", "line", "error", "return", "set_env", "output_file", "html"], 200)
EVENT = [
    *cases("branch", ["no_blanks"], 300),
    *cases("title", ["error"], 310),
    *cases("body", ["output_file"], 320),
    *cases("author", ["substitution"], 330),
    *cases("label", ["expression"], 340),
    *cases("commit_message", ["line"], 350),
    *cases("committer", ["old_form"], 360),
    *cases("tag", ["no_blanks"], 370),
]
DEPLOYED = cases("deployed_sample", [*PLAIN_NAMES, "escaped", "expression", "code_span"], 1000)
PUSHED = [
    *cases("pusher", ["substitution"], 1020),
    *cases("pushed_message", ["error"], 1030),
    *cases("sender", ["old_stop"], 1040),
    *cases("compare", ["expression"], 1050),
]
FILES = cases("file_name", ["substitution", "line", "error", "return"], 400)
ANSWERS = cases("live_answer", ["error", "return", "old_form", "html", "table", "mention", "expression"], 500)

EXPECTED = cases("expected", ["error", "old_stop", "fence", "html", "expression"], 600)
PRINTED = cases("printed", ["error", "indented", "old_form", "stop", "add_mask", "set_output", "add_path"], 700)
RAISED = cases("raised", ["error", "return", "escaped", "fence"], 800)

MODEL_NAMES = cases("model_name", ["substitution", "line", "error", "expression", "double_quote"], 900)
VERSIONS = cases("version", ["substitution", "line", "error", "expression"], 910)
WEIGHTS = cases("weights", ["backticks", "line", "error", "expression"], 920)
KEYS = cases("key", ["substitution", "error", "old_form"], 930)
ILLEGAL_SAMPLES = cases("illegal_sample", ["line", "error", "return", "stop", "fence"], 940)
FOLDERS = cases("folder", ["substitution", "line", "error", "return", "old_form", "expression"], 950)
INPUTS = [
    *cases("models", ["substitution", "error", "return", "old_form"], 960),
    *cases("skip", ["semicolon", "set_output"], 970),
    *cases("environment", ["backticks", "line"], 980),
    *cases("repository", ["substitution", "old_stop"], 985),
    *cases("runner", ["double_quote"], 990),
]
YAML_FIELDS = {"model_name": "name", "version": "version", "weights": "weights"}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@contextmanager
def hostile_endpoint(answers: list[Case]) -> Iterator[str]:
    """Stands in for a hostile live endpoint: each answer has a hostile word in body, reason and headers."""

    class Handler(BaseHTTPRequestHandler):
        turn = 0

        def do_POST(self) -> None:
            word = answers[Handler.turn % len(answers)].text
            Handler.turn += 1
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps({"class": word}).encode() if Handler.turn % 2 else word.encode()
            self.send_response(200 if Handler.turn % 3 else 418, word.replace("\r", " ").replace("\n", " "))
            self.send_header("Content-Type", "application/json" if Handler.turn % 2 else f"text/{Handler.turn}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def by_place(cases: list[Case]) -> dict[str, Case]:
    return {case.place: case for case in cases}


def test_a_pull_request_whose_every_name_is_hostile(
    act: Act, scene: Callable[..., Scene], comments: Comments, canary: Path
) -> None:
    repository, live = scene()
    base, event = repository.head, by_place(EVENT)
    samples = repository.folder / "samples"
    for number, case in enumerate(SAMPLE_NAMES):
        word = CONTENTS[number % len(CONTENTS)].text
        (samples / f"{case.text}.json").write_text(json.dumps({"request": {"json": {"x": word}}, "expect": {"status": 400}}))
    for case in FILES:
        (repository.folder / case.text).write_text("not read by anybody")
    repository.edit("model.py", '"""One linear', f'NOTE = """{event["branch"].text}"""\n"""One linear')
    git(repository.folder, "checkout", "--quiet", "-b", event["branch"].text)
    git(repository.folder, "add", "--all")
    git(repository.folder, "-c", f"user.name={event['committer'].text}", "commit", "--quiet", "-m", event["commit_message"].text)
    git(repository.folder, "tag", event["tag"].text)
    payload = repository.proposed(
        base, number=66, head=event["branch"].text, title=event["title"].text, body=event["body"].text,
        user={"login": event["author"].text}, labels=[{"name": event["label"].text}],
    )  # fmt: skip
    with hostile_endpoint(ANSWERS) as url:
        repository.call({"live-url": url})
        repository.commit("with a live endpoint")
        payload["pull_request"]["head"]["sha"] = repository.head
        run = act(repository.folder, "pull_request", payload, secrets={"GITHUB_TOKEN": TOKEN}, env=hostile.environment(canary))
    assert hostile.harm(run, canary, *comments.on(66)) == [], run.transcript
    run.ran(plan="success", build="success", report="success")
    assert run.workflow_outputs["verdict"] == "passed"
    (comment,) = comments.on(66)
    text = run.raw + run.summary("build") + comment
    assert all(str(case.number) in text for case in SAMPLE_NAMES), "a sample is missing in the output, so this test shows nothing"
    assert any(str(case.number) in comment + run.summary("build") for case in ANSWERS), "no live answer is in the output"
    assert live.containers == {}


def test_a_push_whose_every_name_is_hostile_is_deployed(act: Act, scene: Callable[..., Scene], canary: Path) -> None:
    """Up to the job that has credentials: names and contents of samples, the commit, and the event."""
    repository, live = scene()
    event = by_place(PUSHED)
    for number, case in enumerate(DEPLOYED):
        word = CONTENTS[number % len(CONTENTS)].text
        sample = {"request": {"json": {"x": word}}, "expect": {"status": 400}}
        repository.write(f"samples/{case.text}.json", json.dumps(sample))
    git(repository.folder, "add", "--all")
    git(
        repository.folder, "-c", f"user.name={event['pusher'].text}", "commit", "--quiet", "-m", event["pushed_message"].text,
    )  # fmt: skip
    payload = repository.pushed(
        pusher={"name": event["pusher"].text}, sender={"login": event["sender"].text}, compare=event["compare"].text,
    )  # fmt: skip
    run = act(repository.folder, "push", payload, env=hostile.environment(canary))
    assert hostile.harm(run, canary) == [], run.transcript
    run.ran(plan="success", build="success", deploy="success", report="success")
    assert (run.workflow_outputs["endpoint"], run.workflow_outputs["verdict"]) == (live.url, "passed")
    assert live.ask()[0] > 0.99
    assert "deploy" in run.summary("deploy")


FAILING = """
import sys

WORDS = json.loads({printed!r})
RAISED = json.loads({raised!r})


class SimpleModel(torch.nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.fc = torch.nn.Linear(features, classes)
        for word in WORDS:
            print(word, flush=True)
            print(word, file=sys.stderr, flush=True)

    def forward(self, x):
        if float(x[0][0]) >= 100:
            raise ValueError(RAISED[int(x[0][0]) - 100])
        return torch.nn.functional.softmax(self.fc(x), dim=-1)


def init_function(features=4, classes=3):
    return SimpleModel(features, classes)
"""


def test_a_model_that_fails_with_hostile_words(act: Act, scene: Callable[..., Scene], canary: Path) -> None:
    repository, live = scene()
    words = {"printed": json.dumps([case.text for case in PRINTED]), "raised": json.dumps([case.text for case in RAISED])}
    repository.write("model.py", "import json\n\nimport torch\n" + FAILING.format(**words))
    for number, case in enumerate(EXPECTED):
        sample = {"request": {"json": [1.0, 2, 3, number]}, "expect": {"json": {"class": case.text}}}
        repository.write(f"samples/expected_{number}.json", json.dumps(sample))
    for number in range(len(RAISED)):
        sample = {"request": {"json": [100 + number, 0, 0, 0]}, "expect": {"json": [1, 0, 0]}}
        repository.write(f"samples/raised_{number}.json", json.dumps(sample))
    repository.commit("a model that fails")
    run = act(repository.folder, "push", repository.pushed(), env=hostile.environment(canary))
    assert hostile.harm(run, canary) == [], run.transcript
    assert run.results[f"build/{live.name}"] == "failure"
    assert run.outputs("report")["verdict"] == "gate_failed", run.transcript
    assert any(one.level == "error" and one.file.startswith("samples/") for one in run.annotations), run.transcript
    assert any(str(case.number) in run.raw for case in [*PRINTED, *RAISED]), "no output of the model was shown"
    assert any(str(case.number) in run.raw + run.summary("build") for case in EXPECTED)
    assert live.containers == {}


def steps_job(steps: list[dict[str, Any]]) -> str:
    first = [{"uses": "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1"}, {"uses": "org/deploy/actions/setup@main"}]
    job = {"runs-on": "ubuntu-latest", "steps": [*first, *steps]}
    return yaml.safe_dump({"on": "push", "permissions": {}, "jobs": {"steps": job}})


def test_hostile_names_are_refused(act: Act, scene: Callable[..., Scene], canary: Path) -> None:
    repository, _ = scene()
    steps: list[dict[str, Any]] = []

    def step(case: Case, action: str, **inputs: str) -> None:
        uses = f"org/deploy/actions/{action}@main"
        steps.append({"id": case.id, "name": case.id, "continue-on-error": True, "uses": uses, "with": inputs})

    good = yaml.safe_load((repository.folder / "model.yaml").read_text())
    for case in [*MODEL_NAMES, *VERSIONS, *WEIGHTS, *KEYS, *ILLEGAL_SAMPLES]:
        place = f"cases/{case.id}"
        repository.add_model("plain", 8080, place)
        if case.place == "illegal_sample":
            source = repository.folder / place / "samples"
            shutil.copyfile(source / "setosa.json", source / f"{case.text}.json")
        else:
            field = YAML_FIELDS.get(case.place)
            spoilt = good | ({field: case.text} if field else {case.text: 1})
            repository.write(f"{place}/model.yaml", yaml.safe_dump(spoilt))
        step(case, "check", **{"model-dir": place})
    for case in FOLDERS:
        repository.add_model(f"folder-{case.number}", 8080, f"folders/{case.number}/{case.text}")
        step(case, "plan", models=f"folders/{case.number}/*")
    for number, case in enumerate(INPUTS):
        word = f"${{{{ github.event.words[{number}] }}}}"
        if case.place == "models":
            step(case, "plan", models=word)
        else:
            step(case, "plan", models="cases/*", inputs=f"${{{{ toJSON(github.event.inputs_of[{number}]) }}}}")
    repository.write(".github/workflows/deploy.yml", steps_job(steps))
    repository.commit("hostile names")
    payload = repository.pushed(words=[case.text for case in INPUTS], inputs_of=[{case.place: case.text} for case in INPUTS])
    run = act(repository.folder, "push", payload, env=hostile.environment(canary))
    assert hostile.harm(run, canary) == [], run.transcript
    ended = run.steps("steps")
    refused = [*MODEL_NAMES, *VERSIONS, *WEIGHTS, *KEYS, *ILLEGAL_SAMPLES, *FOLDERS, *INPUTS]
    assert {case.id: ended.get(case.id) for case in refused} == {case.id: "failure" for case in refused}, run.transcript
    assert "Traceback" not in run.raw, run.transcript


def test_there_are_enough_cases() -> None:
    every = [
        *SAMPLE_NAMES, *CONTENTS, *EVENT, *DEPLOYED, *PUSHED, *FILES, *ANSWERS, *EXPECTED, *PRINTED, *RAISED,
        *MODEL_NAMES, *VERSIONS, *WEIGHTS, *KEYS, *ILLEGAL_SAMPLES, *FOLDERS, *INPUTS,
    ]  # fmt: skip
    assert len({case.id for case in every}) == len(every) >= 40
    assert len({case.number for case in every}) == len(every)


@pytest.mark.parametrize(
    ("action", "kind", "seen"),
    [
        ("interpolates", "substitution", "a shell made canary.1"),
        ("interpolates", "double_quote", "a shell made canary.1"),
        ("echoes", "error", "GitHub's runner would obey"),
        ("echoes", "indented", "GitHub's runner would obey"),
        ("echoes", "return", "GitHub's runner would obey"),
        ("echoes", "old_stop", "GitHub's runner would obey"),
        ("echoes", "set_output", "act got set-output endpoint"),
        ("echoes", "html", "markdown: "),
        ("echoes", "output_file", "act got set-output endpoint"),
    ],
)
def test_the_controls_are_caught(
    start_act: Callable[..., Act], deploy: Path, tmp_path: Path, canary: Path, action: str, kind: str, seen: str
) -> None:
    """The control, with actions that are written wrongly: the same words have an effect, and it is found."""
    repository = ModelRepository(tmp_path / "models")
    (case,) = cases("name", [kind], 1)
    uses = {"uses": "bad/actions@main", "with": {"name": "${{ github.event.word }}"}}
    bad = tmp_path / "bad"
    shutil.copytree(BAD_ACTIONS / action, bad)
    job = {"runs-on": "ubuntu-latest", "steps": [uses]}
    repository.write(".github/workflows/deploy.yml", yaml.safe_dump({"on": "push", "jobs": {"steps": job}}))
    repository.commit()
    act = start_act(deploy)
    act.flags.append(f"--local-repository bad/actions@main={bad}")
    run = act(repository.folder, "push", repository.pushed(word=case.text), env=hostile.environment(canary))
    assert any(one.startswith(seen) for one in hostile.harm(run, canary)), (hostile.harm(run, canary), run.transcript)
