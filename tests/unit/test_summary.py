"""The summary tells a model, or a run of many, in what fits; and nothing that it tells of becomes markup."""

import re
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.runner_lines import HOSTILE
from torchrelay.workflow import summary
from torchrelay.workflow.job_result import DiffRow, Failure, JobResult, LayerRow, LiveDiff, Mistake, SampleRow, StageRow

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
DIGEST = f"sha256:{'a' * 64}"
OURS = {"<br>"}


def made(**more: Any) -> JobResult:
    stages = [
        StageRow(stage="check", seconds=0.1),
        StageRow(stage="build", seconds=12.34, skipped=True),
        StageRow(stage="verify", seconds=3.0, result="passed"),
    ]
    facts: dict[str, Any] = {
        "model": "digits",
        "version": "v1",
        "result": "passed",
        "image": DIGEST,
        "stages": stages,
        "samples": [SampleRow(name="zero", passed=True, alone_ms=1.25, together_ms=[2.0, 9.5])],
        "layers": [
            LayerRow(digest=DIGEST, size=2_500_000, created_by="weights"),
            LayerRow(digest="sha256:b", size=900, created_by="handler"),
        ],
    }
    return JobResult(**(facts | more))


def hostile(text: str) -> JobResult:
    return made(
        model=text[:4096],
        version=text[:4096],
        result="failed",
        image=text[:4096],
        reference=text[:4096],
        endpoint=text[:4096],
        target=text[:4096],
        previous=text[:4096],
        samples=[SampleRow(name=text[:4096], passed=False, differences=[text] * 5)],
        layers=[LayerRow(digest=text[:4096], size=1, created_by=text[:4096])],
        diff=LiveDiff(
            url=text[:4096],
            version=text[:4096],
            reachable=True,
            samples=[DiffRow(name=text[:4096], same=False, differences=[text])],
        ),
        error=Failure(
            stage="verify",
            kind=text[:4096],
            message=text[:65536],
            fix=text[:65536],
            problems=[Mistake(file=text[:4096], line=1, field=text[:4096], message=text[:65536], fix=text[:65536])],
        ),
    )


def markup(text: str) -> set[str]:
    """Return what there is of HTML, links and images outside of code."""
    found = set()
    for token in PARSER.parse(text):
        for one in [token, *(token.children or [])]:
            if one.type in ("html_inline", "html_block"):
                found.add(re.sub(r"<code>.*?</code>", "", one.content).strip())
            elif one.type in ("link_open", "image", "em_open", "s_open"):
                found.add(one.type)
    return found


def test_a_model_is_told_in_full() -> None:
    push = StageRow(stage="push", seconds=1.0, blobs=1, bytes=2_500_000)
    told = summary.model_summary(
        made(
            stages=[*made().stages, push, StageRow(stage="deploy", seconds=4.0)],
            endpoint="http://127.0.0.1:8080/predictions/digits",
            target="docker",
            reference=f"r.example/digits@{DIGEST}",
            previous="sha256:old",
            diff=LiveDiff(
                url="http://live",
                reachable=True,
                samples=[DiffRow(name="zero", same=False, differences=["$.class: 1, was 2"], status_live=200, status_new=200)],
            ),
        )
    )
    for line in (
        "### ✅ `digits` `v1`: passed",
        "| Endpoint | `http://127.0.0.1:8080/predictions/digits` |",
        f"| Image | `r.example/digits@{DIGEST}` |",
        "| Previous version | `sha256:old` |",
        '  check["check<br/>0.1 s"]:::done',
        '  fetch["fetch<br/>not reached"]:::waiting',
        '  build["build<br/>12.3 s#44; reused"]:::reused',
        "  verify --> push",
        "**Compared with `http://live`: 1 of 1 answers change**",
        "| `zero` | 200 → 200 | `$.class: 1, was 2` |",
        "**Samples: 1 of 1 as expected**",
        "| `zero` | passed | 1.2 | 9.5 |  |",
        "**Layers: 2.5 MB**, of which 2.5 MB were uploaded",
        f"| `weights` | 2.5 MB | `{DIGEST}` |",
        "| `handler` | 0.9 kB | `sha256:b` |",
    ):
        assert line in told.splitlines()


def test_layers_that_travelled_are_told_when_push_names_them() -> None:
    push = StageRow(stage="push", seconds=1.0, bytes=900, sent=["sha256:b"])
    told = summary.model_summary(made(stages=[push]))
    assert f"| `weights` | 2.5 MB | already there | `{DIGEST}` |" in told
    assert "| `handler` | 0.9 kB | uploaded | `sha256:b` |" in told


def test_a_failed_stage_is_red_and_says_where_and_how_to_mend_it() -> None:
    problem = Mistake(file="model.yaml", line=3, field="name", message="is wrong", fix="write digits")
    error = Failure(stage="check", kind="model_invalid", message="m", problems=[problem])
    told = summary.model_summary(made(result="failed", stages=[], samples=[], layers=[], error=error))
    assert "**`check` failed: `model_invalid`**" in told
    assert "| `model.yaml:3` | `name` | `is wrong` | `write digits` |" in told
    assert '  check["check<br/>model_invalid"]:::failed' in told
    assert '  fetch["fetch<br/>not reached"]:::waiting' in told


def test_a_failed_gate_is_red_with_its_time() -> None:
    stages = [*made().stages[:2], StageRow(stage="verify", seconds=3.0, result="gate_failed")]
    told = summary.model_summary(made(result="gate_failed", stages=stages))
    assert '  verify["verify<br/>3.0 s"]:::failed' in told
    assert "### ❌ `digits` `v1`: gate_failed" in told


def test_the_local_target_has_no_image_to_wait_for() -> None:
    told = summary.flow_chart(made(target="local", stages=[StageRow(stage="check"), StageRow(stage="deploy", seconds=1.0)]))
    assert "build" not in told
    assert "check --> deploy" in told


def test_nothing_began_nothing_is_drawn() -> None:
    assert summary.flow_chart(made(stages=[], error=Failure(stage="doctor", kind="doctor_failed"))) == ""


def test_an_unreachable_live_version_is_told_with_the_reason() -> None:
    told = summary.model_summary(made(diff=LiveDiff(url="http://live", reachable=False, reason="refused")))
    assert "**Not compared with `http://live`:** `refused`" in told


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_word_of_others_becomes_markup(text: str) -> None:
    one = hostile(text.encode(errors="backslashreplace").decode())
    told = summary.model_summary(one)
    assert markup(told) <= OURS
    assert "\x1b" not in told
    assert "\u202e" not in told
    fences = [token for token in PARSER.parse(told) if token.type == "fence"]
    assert [token.info for token in fences].count("mermaid") == 1
    many = summary.run_summary({"a": one, "b": made()})
    pieces = {"<details><summary></summary>", "<details open><summary></summary>", "</details>"}
    assert markup(many) <= {*OURS, *pieces}


def test_control_a_bare_name_would_be_markup() -> None:
    assert markup(f"### {HOSTILE['html']}") - OURS


def rows(count: int) -> dict[str, Any]:
    words = "difference " * 20
    return {
        "samples": [SampleRow(name=f"s{n}" + "x" * 300, passed=False, differences=[words] * 9) for n in range(count)],
        "layers": [LayerRow(digest=f"sha256:{n}", size=1, created_by="x") for n in range(count)],
        "diff": LiveDiff(
            url="u", reachable=True, samples=[DiffRow(name=f"s{n}", same=False, differences=[words] * 9) for n in range(count)]
        ),
    }


@pytest.mark.parametrize("limit", [summary.STEP_LIMIT, summary.COMMENT_LIMIT, 5000])
def test_what_is_too_much_is_cut_and_said_to_be(limit: int) -> None:
    one = made(**rows(200))
    told = summary.model_summary(one, limit)
    assert len(told.encode()) <= limit
    assert "more samples are not shown" in told or "more sections do not fit" in told
    more = rows(20)
    many = summary.run_summary({f"m{n:04}": made(model=f"m{n:04}", **more) for n in range(300)}, limit)
    assert len(many.encode()) <= limit
    assert "do not fit here" in many
    assert "| `m0000` |" in many
    assert markup(many) <= {*OURS, "<details><summary></summary>", "</details>", "em_open"}


def test_control_unbounded_it_would_not_fit() -> None:
    more = rows(50)
    assert len(summary.run_summary({f"m{n}": made(model=f"m{n}", **more) for n in range(100)}, 10**9)) > summary.STEP_LIMIT


def test_many_models_are_a_table_with_the_failed_ones_first() -> None:
    failed = made(model="b", result="gate_failed", error=Failure(stage="verify", kind="gate_failed", message="no"))
    told = summary.run_summary({"a": made(model="a", endpoint="http://a"), "b": failed, "c": made(model="c")}, note="of `abc`")
    lines = told.splitlines()
    assert lines[0] == "### ❌ Torchrelay: 3 models, 1 failed"
    assert "of `abc`" in lines
    table = [line for line in lines if re.match(r"\| `[abc]` ", line)]
    assert [line[3] for line in table] == ["b", "a", "c"]
    assert "`http://a`" in table[1]
    assert "<details open><summary><code>b&#58; gate_failed</code></summary>" in lines
    assert "<details><summary><code>a&#58; passed</code></summary>" in lines


def test_one_model_is_told_without_folding() -> None:
    assert "<details" not in summary.run_summary({"a": made()})


def test_no_model_at_all_is_said() -> None:
    assert summary.run_summary({}, note="of `abc`") == "### Torchrelay: no model to build\n\nof `abc`\n"
