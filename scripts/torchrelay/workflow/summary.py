"""The job summary and the pull request comment as markdown, made of job results only (pure functions)."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from torchrelay.stages.journal import BUILD_JOB, ORDER
from torchrelay.workflow import markdown
from torchrelay.workflow.job_result import RESULT_KINDS, Failure, JobResult, LayerRow, LiveDiff, SampleRow, StageRow
from torchrelay.workflow.markdown import cell, code, details, table

STEP_LIMIT = 1_000_000  # bytes; GitHub discards a step's summary of more than 1 MiB
COMMENT_LIMIT = 65_000  # characters; GitHub rejects a comment of more than 65536
ROWS = 100  # per table
MARK = {"passed": "✅", "gate_failed": "❌", "failed": "❌", "rolled_back": "↩️", "rollback_failed": "🚨"}
LEFT_OUT = "*{} more sections do not fit here; the result files of the run contain everything.*"


def model_summary(result: JobResult, limit: int = STEP_LIMIT) -> str:
    """Return the summary of one model."""
    return markdown.fitted([headline(result), *_sections(result)], limit, LEFT_OUT)


def run_summary(by_model: Mapping[str, JobResult], limit: int = STEP_LIMIT, note: str = "") -> str:
    """Return the summary of a run: a table with one row per model, then every model in full; failed ones first and unfolded."""
    if not by_model:
        return markdown.fitted(["### Torchrelay: no model to build", *([note] if note else [])], limit, LEFT_OUT)
    if len(by_model) == 1:
        only = next(iter(by_model.values()))
        return markdown.fitted([headline(only), *([note] if note else []), *_sections(only)], limit, LEFT_OUT)
    ordered = sorted(by_model.values(), key=lambda one: (-RESULT_KINDS.index(one.result), one.model))
    failed = sum(one.result != "passed" for one in ordered)
    title = f"### {'❌' if failed else '✅'} Torchrelay: {len(ordered)} models, {failed} failed"
    blocks = [title, *([note] if note else []), _overview(ordered, limit * 2 // 3)]
    blocks += [
        details(f"{one.model}: {one.result}", "\n\n".join(_sections(one)), opened=one.result != "passed" and failed <= 3)
        for one in ordered
    ]
    return markdown.fitted(blocks, limit, LEFT_OUT)


def headline(result: JobResult) -> str:
    """Return the heading of one model."""
    return f"### {MARK[result.result]} {code(result.model) or 'a model'} {code(result.version)}: {result.result}"


def _overview(results: list[JobResult], room: int) -> str:
    """Return the table of a run with as many rows as fit into `room` bytes."""
    shown: list[list[str]] = []
    for one in results:
        row = [
            cell(one.model),
            cell(one.version, 60),
            f"{MARK[one.result]} {one.result}",
            cell(one.endpoint),
            _changed(one.diff),
            f"{sum(row.seconds for row in one.stages):.1f}",
            cell(one.reference or one.image),  # the last column: GitHub lets a table that is too wide scroll
        ]
        room -= sum(len(part.encode()) + 3 for part in row) + 2
        if room < 0:
            break
        shown.append(row)
    body = table(["Model", "Version", "Result", "Endpoint", "Changed answers", "Seconds", "Image"], shown)
    return body + _more(len(results), len(shown), "models")


def _changed(diff: LiveDiff | None) -> str:
    if diff is None or not diff.reachable:
        return ""
    return f"{sum(not one.same for one in diff.samples)} of {len(diff.samples)}"


def _sections(result: JobResult) -> Iterator[str]:
    """Yield the sections of one model, the most important first."""
    if result.error is not None:
        yield _failure(result.error)
    facts = [
        ("Endpoint", result.endpoint),
        ("Target", result.target),
        ("Image", result.reference or result.image),
        ("Previous version", result.previous),
    ]
    facts += [("Weights", f"{row.weights_format}: executes code when it is loaded") for row in result.stages if row.executes_code]
    rows = [[name, cell(value, 400)] for name, value in facts if value]
    if rows:
        yield table(["", ""], rows)
    chart = flow_chart(result)
    if chart:
        yield chart
    if result.diff is not None:
        yield _diff(result.diff)
    if result.samples:
        yield _samples(result.samples)
    if result.layers:
        yield _layers(result.layers, next((row for row in result.stages if row.stage == "push"), None))


def _failure(error: Failure) -> str:
    parts = [f"**{code(error.stage) or 'The run'} failed: {code(error.kind) or 'error'}**"]
    if error.problems:
        rows = [
            [
                cell(one.file if one.line is None else f"{one.file}:{one.line}"),
                cell(one.field),
                cell(one.message, 500),
                cell(one.fix, 500),
            ]
            for one in error.problems[:ROWS]
        ]
        parts.append(table(["Where", "Field", "Problem", "Fix"], rows) + _more(len(error.problems), ROWS, "problems"))
    elif error.message:
        parts.append(markdown.block(error.message))
    if error.fix:
        parts.append("**Fix:**\n\n" + markdown.block(error.fix) if "\n" in error.fix else f"**Fix:** {code(error.fix, 1000)}")
    return "\n\n".join(parts)


def flow_chart(result: JobResult) -> str:
    """Return the stages as a mermaid flow chart with their times, coloured by result; "" if no stage started."""
    rows = {row.stage: row for row in result.stages}
    failed = _failed_stage(result)
    last = max((ORDER.index(name) for name in rows if name in ORDER), default=-1)
    core = [name for name in BUILD_JOB if name not in ("diff", "bundle")]
    shown = [
        name
        for name in ORDER
        if name in rows or name == failed or (name in core and (failed in BUILD_JOB or ORDER.index(name) < last))
    ]
    if result.target == "local":
        shown = [name for name in shown if name in rows or name == failed]
    if not shown:
        return ""
    lines = ["```mermaid", "flowchart LR"]
    for name in shown:
        row, is_failed = rows.get(name), name == failed
        kind = result.error.kind if is_failed and result.error is not None else ""
        label_parts = (_time(row, failed=is_failed), kind)
        label = "".join(f"<br/>{markdown.mermaid_label(part)}" for part in label_parts if part)
        lines.append(f'  {name}["{name}{label}"]:::{_class(row, failed=is_failed)}')
    lines += [f"  {one} --> {after}" for one, after in pairwise(shown)]
    lines += [
        "  classDef done fill:#1a7f37,stroke:#1a7f37,color:#fff",
        "  classDef reused fill:#ddf4ff,stroke:#0969da,color:#0969da",
        "  classDef failed fill:#cf222e,stroke:#cf222e,color:#fff",
        "  classDef waiting fill:#f6f8fa,stroke:#8c959f,color:#59636e,stroke-dasharray:4",
        "```",
    ]
    return "\n".join(lines)


def _failed_stage(result: JobResult) -> str:
    """Return the stage that failed; a failed verification has its own row."""
    if result.error is not None and result.error.stage in ORDER:
        return result.error.stage
    return next((row.stage for row in result.stages if row.stage == "verify" and row.result not in ("", "passed")), "")


def _time(row: StageRow | None, *, failed: bool) -> str:
    if row is None:
        return "" if failed else "not reached"
    return f"{row.seconds:.1f} s{', reused' if row.skipped else ''}"


def _class(row: StageRow | None, *, failed: bool) -> str:
    if failed:
        return "failed"
    if row is None:
        return "waiting"
    return "reused" if row.skipped else "done"


def _differences(differences: list[str]) -> str:
    first = "<br>".join(cell(one) for one in differences[:3])
    return first + (f"<br>and {len(differences) - 3} more" if len(differences) > 3 else "")


def _samples(rows: list[SampleRow]) -> str:
    shown = [
        [
            cell(one.name),
            "passed" if one.passed else "**FAILED**",
            "" if one.alone_ms is None else f"{one.alone_ms:.1f}",
            f"{max(one.together_ms):.1f}" if one.together_ms else "",
            _differences(one.differences),
        ]
        for one in sorted(rows, key=lambda each: each.passed)[:ROWS]
    ]
    head = f"**Samples: {sum(one.passed for one in rows)} of {len(rows)} as expected**"
    body = table(["Sample", "Answer", "Alone (ms)", "Slowest in parallel (ms)", "Differences"], shown)
    return f"{head}\n\n{body}{_more(len(rows), ROWS, 'samples')}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _layers(rows: list[LayerRow], push: StageRow | None) -> str:
    uploaded = set(push.sent) if push is not None and push.sent is not None else None
    shown = [
        [
            cell(one.created_by, 60),
            _size(one.size),
            *([] if uploaded is None else ["uploaded" if one.digest in uploaded else "already there"]),
            cell(one.digest),
        ]
        for one in rows[:ROWS]
    ]
    head = f"**Layers: {_size(sum(one.size for one in rows))}**"
    if push is not None and push.bytes is not None:
        head += f", of which {_size(push.bytes)} were uploaded" if push.bytes else ", all already in the registry"
    columns = ["Layer", "Size", *([] if uploaded is None else ["Upload"]), "Digest"]
    return f"{head}\n\n{table(columns, shown)}{_more(len(rows), ROWS, 'layers')}"


def _diff(diff: LiveDiff) -> str:
    live = " ".join(part for part in (code(diff.url), code(diff.version or "", 60)) if part) or "the live version"
    if not diff.reachable:
        return f"**Not compared with {live}:** {code(diff.reason or '', 500) or 'it was not reachable'}"
    changed = [one for one in diff.samples if not one.same]
    head = f"**Compared with {live}: {len(changed)} of {len(diff.samples)} answers change**"
    if not changed:
        return head
    rows = [
        [
            cell(one.name),
            " → ".join("?" if status is None else str(status) for status in (one.status_live, one.status_new)),
            _differences(one.differences),
        ]
        for one in changed[:ROWS]
    ]
    return f"{head}\n\n{table(['Sample', 'Status', 'Differences'], rows)}{_more(len(changed), ROWS, 'samples')}"


def _more(count: int, limit: int, what: str) -> str:
    return f"\n\n*{count - limit} more {what} are not shown.*" if count > limit else ""
