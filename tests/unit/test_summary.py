"""The summary reports one model or a run of many within its size limit; no untrusted text in it becomes markup."""

import re
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.runner_lines import HOSTILE
from torchrelay.workflow import summary
from torchrelay.workflow.job_result import DiffRow, Failure, JobResult, LayerRow, LiveDiff, Mistake, SampleRow, StageRow

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
DIGEST = f"sha256:{'a' * 64}"
OUR_HTML = {"<br>"}


def result_of(**more: Any) -> JobResult:
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
    return result_of(
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
    """Return the HTML, links and images outside code."""
    kinds = set()
    for token in PARSER.parse(text):
        for one in [token, *(token.children or [])]:
            if one.type in ("html_inline", "html_block"):
                kinds.add(re.sub(r"<code>.*?</code>", "", one.content).strip())
            elif one.type in ("link_open", "image", "em_open", "s_open"):
                kinds.add(one.type)
    return kinds


def test_the_summary_of_a_model_is_complete() -> None:
    push = StageRow(stage="push", seconds=1.0, blobs=1, bytes=2_500_000)
    text = summary.model_summary(
        result_of(
            stages=[*result_of().stages, push, StageRow(stage="deploy", seconds=4.0)],
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
        assert line in text.splitlines()


def test_weights_that_execute_code_are_in_the_summary() -> None:
    line = "| Weights | `torchscript: executes code when it is loaded` |"
    row = StageRow(stage="check", weights_format="torchscript", executes_code=True)
    assert line in summary.model_summary(result_of(stages=[row]))
    assert line not in summary.model_summary(result_of(stages=[StageRow(stage="check")]))
    assert line in summary.run_summary({"digits": result_of(stages=[row]), "other": result_of()})  # the comment's text too


def test_uploaded_layers_are_marked_if_push_lists_them() -> None:
    push = StageRow(stage="push", seconds=1.0, bytes=900, sent=["sha256:b"])
    text = summary.model_summary(result_of(stages=[push]))
    assert f"| `weights` | 2.5 MB | already there | `{DIGEST}` |" in text
    assert "| `handler` | 0.9 kB | uploaded | `sha256:b` |" in text


def test_a_failed_stage_is_red_with_its_place_and_fix() -> None:
    problem = Mistake(file="model.yaml", line=3, field="name", message="is wrong", fix="write digits")
    error = Failure(stage="check", kind="model_invalid", message="m", problems=[problem])
    text = summary.model_summary(result_of(result="failed", stages=[], samples=[], layers=[], error=error))
    assert "**`check` failed: `model_invalid`**" in text
    assert "| `model.yaml:3` | `name` | `is wrong` | `write digits` |" in text
    assert '  check["check<br/>model_invalid"]:::failed' in text
    assert '  fetch["fetch<br/>not reached"]:::waiting' in text


def test_a_failed_verification_is_red_with_its_time() -> None:
    stages = [*result_of().stages[:2], StageRow(stage="verify", seconds=3.0, result="gate_failed")]
    text = summary.model_summary(result_of(result="gate_failed", stages=stages))
    assert '  verify["verify<br/>3.0 s"]:::failed' in text
    assert "### ❌ `digits` `v1`: gate_failed" in text


def test_the_chart_of_the_local_target_has_no_image_stages() -> None:
    text = summary.flow_chart(result_of(target="local", stages=[StageRow(stage="check"), StageRow(stage="deploy", seconds=1.0)]))
    assert "build" not in text
    assert "check --> deploy" in text


def test_without_a_started_stage_there_is_no_chart() -> None:
    assert summary.flow_chart(result_of(stages=[], error=Failure(stage="doctor", kind="doctor_failed"))) == ""


def test_an_unreachable_live_endpoint_is_reported_with_the_reason() -> None:
    text = summary.model_summary(result_of(diff=LiveDiff(url="http://live", reachable=False, reason="refused")))
    assert "**Not compared with `http://live`:** `refused`" in text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_untrusted_text_never_becomes_markup(text: str) -> None:
    one = hostile(text.encode(errors="backslashreplace").decode())
    text = summary.model_summary(one)
    assert markup(text) <= OUR_HTML
    assert "\x1b" not in text
    assert "\u202e" not in text
    fences = [token for token in PARSER.parse(text) if token.type == "fence"]
    assert [token.info for token in fences].count("mermaid") == 1
    many = summary.run_summary({"a": one, "b": result_of()})
    pieces = {"<details><summary></summary>", "<details open><summary></summary>", "</details>"}
    assert markup(many) <= {*OUR_HTML, *pieces}


def test_control_an_unescaped_name_becomes_markup() -> None:
    assert markup(f"### {HOSTILE['html']}") - OUR_HTML


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
def test_a_long_summary_is_cut_with_a_note(limit: int) -> None:
    one = result_of(**rows(200))
    text = summary.model_summary(one, limit)
    assert len(text.encode()) <= limit
    assert "more samples are not shown" in text or "more sections do not fit" in text
    more = rows(20)
    many = summary.run_summary({f"m{n:04}": result_of(model=f"m{n:04}", **more) for n in range(300)}, limit)
    assert len(many.encode()) <= limit
    assert "do not fit here" in many
    assert "| `m0000` |" in many
    assert markup(many) <= {*OUR_HTML, "<details><summary></summary>", "</details>", "em_open"}


def test_control_without_a_limit_it_does_not_fit() -> None:
    more = rows(50)
    assert len(summary.run_summary({f"m{n}": result_of(model=f"m{n}", **more) for n in range(100)}, 10**9)) > summary.STEP_LIMIT


def test_many_models_are_a_table_with_failed_ones_first() -> None:
    failed = result_of(model="b", result="gate_failed", error=Failure(stage="verify", kind="gate_failed", message="no"))
    text = summary.run_summary(
        {"a": result_of(model="a", endpoint="http://a"), "b": failed, "c": result_of(model="c")}, note="of `abc`"
    )
    lines = text.splitlines()
    assert lines[0] == "### ❌ Torchrelay: 3 models, 1 failed"
    assert "of `abc`" in lines
    table = [line for line in lines if re.match(r"\| `[abc]` ", line)]
    assert [line[3] for line in table] == ["b", "a", "c"]
    assert "`http://a`" in table[1]
    assert "<details open><summary><code>b&#58; gate_failed</code></summary>" in lines
    assert "<details><summary><code>a&#58; passed</code></summary>" in lines


def test_a_single_model_is_not_folded() -> None:
    assert "<details" not in summary.run_summary({"a": result_of()})


def test_a_run_without_models_has_a_summary() -> None:
    assert summary.run_summary({}, note="of `abc`") == "### Torchrelay: no model to build\n\nof `abc`\n"
