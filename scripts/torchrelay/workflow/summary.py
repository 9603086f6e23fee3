"""The job's summary and the pull request's comment as markdown: pure, from outcomes. Sizes in the units of the tables' heads."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from torchrelay.stages.journal import BUILD_JOB, ORDER
from torchrelay.workflow import markdown
from torchrelay.workflow.job_result import WORST, Diff, Failed, LayerRow, Outcome, SampleRow, Stage
from torchrelay.workflow.markdown import cell, code, details, table

STEP_LIMIT = 1_000_000  # GitHub drops a step's summary of more than 1 MiB as a whole
COMMENT_LIMIT = 65_000  # characters; GitHub refuses a comment of more than 65536
ROWS = 100  # of one table
MARK = {"passed": "✅", "gate_failed": "❌", "failed": "❌", "rolled_back": "↩️", "rollback_failed": "🚨"}
LEFT_OUT = "*{} more sections do not fit here; the run's result files hold all of it.*"


def of_model(outcome: Outcome, limit: int = STEP_LIMIT) -> str:
    """Return the summary of one model."""
    return markdown.fitted([headline(outcome), *_sections(outcome)], limit, LEFT_OUT)


def of_run(by_model: Mapping[str, Outcome], limit: int = STEP_LIMIT, note: str = "") -> str:
    """Return the summary of a run: one row for each model, then each in full, those that failed first and unfolded."""
    if not by_model:
        return markdown.fitted(["### Torchrelay: no model to build", *([note] if note else [])], limit, LEFT_OUT)
    if len(by_model) == 1:
        only = next(iter(by_model.values()))
        return markdown.fitted([headline(only), *([note] if note else []), *_sections(only)], limit, LEFT_OUT)
    ordered = sorted(by_model.values(), key=lambda one: (-WORST.index(one.result), one.model))
    failed = sum(one.result != "passed" for one in ordered)
    title = f"### {'❌' if failed else '✅'} Torchrelay: {len(ordered)} models, {failed} failed"
    blocks = [title, *([note] if note else []), _overview(ordered, limit * 2 // 3)]
    blocks += [
        details(f"{one.model}: {one.result}", "\n\n".join(_sections(one)), opened=one.result != "passed" and failed <= 3)
        for one in ordered
    ]
    return markdown.fitted(blocks, limit, LEFT_OUT)


def headline(outcome: Outcome) -> str:
    """Return the heading of one model."""
    return f"### {MARK[outcome.result]} {code(outcome.model) or 'a model'} {code(outcome.version)}: {outcome.result}"


def _overview(outcomes: list[Outcome], room: int) -> str:
    """Return the table of a run, as many rows of it as `room` bytes hold."""
    shown: list[list[str]] = []
    for one in outcomes:
        row = [
            cell(one.model),
            cell(one.version, 60),
            f"{MARK[one.result]} {one.result}",
            cell(one.endpoint),
            cell(one.reference or one.image),
            _changed(one.diff),
            f"{sum(row.seconds for row in one.stages):.1f}",
        ]
        room -= sum(len(part.encode()) + 3 for part in row) + 2
        if room < 0:
            break
        shown.append(row)
    body = table(["model", "version", "result", "endpoint", "image", "answers changed", "s"], shown)
    return body + _more(len(outcomes), len(shown), "models")


def _changed(diff: Diff | None) -> str:
    if diff is None or not diff.reachable:
        return ""
    return f"{sum(not one.same for one in diff.samples)} of {len(diff.samples)}"


def _sections(outcome: Outcome) -> Iterator[str]:
    """Yield what there is to tell of a model, the most wanted first."""
    if outcome.error is not None:
        yield _failure(outcome.error)
    facts = [
        ("endpoint", outcome.endpoint),
        ("target", outcome.target),
        ("image", outcome.reference or outcome.image),
        ("before it", outcome.previous),
    ]
    told = [[name, cell(value, 400)] for name, value in facts if value]
    if told:
        yield table(["", ""], told)
    drawn = picture(outcome)
    if drawn:
        yield drawn
    if outcome.diff is not None:
        yield _diff(outcome.diff)
    if outcome.samples:
        yield _samples(outcome.samples)
    if outcome.layers:
        yield _layers(outcome.layers, next((row for row in outcome.stages if row.stage == "push"), None))


def _failure(error: Failed) -> str:
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
        parts.append(table(["where", "field", "what", "mend"], rows) + _more(len(error.problems), ROWS, "problems"))
    elif error.message:
        parts.append(markdown.block(error.message))
    if error.fix:
        parts.append("Mend:\n\n" + markdown.block(error.fix) if "\n" in error.fix else f"Mend: {code(error.fix, 1000)}")
    return "\n\n".join(parts)


def picture(outcome: Outcome) -> str:
    """Return the relay as a mermaid flow chart: each stage's time, and by colour what became of it; empty when nothing began."""
    rows = {row.stage: row for row in outcome.stages}
    failed = _failed_stage(outcome)
    last = max((ORDER.index(name) for name in rows if name in ORDER), default=-1)
    core = [name for name in BUILD_JOB if name not in ("diff", "bundle")]
    shown = [
        name
        for name in ORDER
        if name in rows or name == failed or (name in core and (failed in BUILD_JOB or ORDER.index(name) < last))
    ]
    if outcome.target == "local":
        shown = [name for name in shown if name in rows or name == failed]
    if not shown:
        return ""
    lines = ["```mermaid", "flowchart LR"]
    for name in shown:
        row, wrong = rows.get(name), name == failed
        kind = outcome.error.kind if wrong and outcome.error is not None else ""
        said = "".join(f"<br/>{markdown.mermaid_label(part)}" for part in (_time(row, failed=wrong), kind) if part)
        lines.append(f'  {name}["{name}{said}"]:::{_class(row, failed=wrong)}')
    lines += [f"  {one} --> {after}" for one, after in pairwise(shown)]
    lines += [
        "  classDef done fill:#1a7f37,stroke:#1a7f37,color:#fff",
        "  classDef kept fill:#ddf4ff,stroke:#0969da,color:#0969da",
        "  classDef failed fill:#cf222e,stroke:#cf222e,color:#fff",
        "  classDef waiting fill:#f6f8fa,stroke:#8c959f,color:#59636e,stroke-dasharray:4",
        "```",
    ]
    return "\n".join(lines)


def _failed_stage(outcome: Outcome) -> str:
    """Return the stage that failed; a gate that failed has a row of its own."""
    if outcome.error is not None and outcome.error.stage in ORDER:
        return outcome.error.stage
    return next((row.stage for row in outcome.stages if row.stage == "verify" and row.result not in ("", "passed")), "")


def _time(row: Stage | None, *, failed: bool) -> str:
    if row is None:
        return "" if failed else "not reached"
    return f"{row.seconds:.1f} s{', there already' if row.skipped else ''}"


def _class(row: Stage | None, *, failed: bool) -> str:
    if failed:
        return "failed"
    if row is None:
        return "waiting"
    return "kept" if row.skipped else "done"


def _differences(found: list[str]) -> str:
    told = "<br>".join(cell(one) for one in found[:3])
    return told + (f"<br>and {len(found) - 3} more" if len(found) > 3 else "")


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
    body = table(["sample", "answer", "alone ms", "slowest of many ms", "differences"], shown)
    return f"{head}\n\n{body}{_more(len(rows), ROWS, 'samples')}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _layers(rows: list[LayerRow], push: Stage | None) -> str:
    sent = set(push.sent) if push is not None and push.sent is not None else None
    shown = [
        [
            cell(one.created_by, 60),
            _size(one.size),
            *([] if sent is None else ["sent" if one.digest in sent else "there already"]),
            cell(one.digest),
        ]
        for one in rows[:ROWS]
    ]
    head = f"**Layers: {_size(sum(one.size for one in rows))}**"
    if push is not None and push.bytes is not None:
        head += f", of which {_size(push.bytes)} travelled" if push.bytes else ", all in the registry already"
    columns = ["layer", "size", *([] if sent is None else ["travelled"]), "digest"]
    return f"{head}\n\n{table(columns, shown)}{_more(len(rows), ROWS, 'layers')}"


def _diff(diff: Diff) -> str:
    live = " ".join(part for part in (code(diff.url), code(diff.version or "", 60)) if part) or "the live version"
    if not diff.reachable:
        return f"**Not compared with {live}:** {code(diff.reason or '', 500) or 'it was not reachable'}"
    changed = [one for one in diff.samples if not one.same]
    head = f"**Since {live}: {len(changed)} of {len(diff.samples)} answers change**"
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
    return f"{head}\n\n{table(['sample', 'status', 'differences'], rows)}{_more(len(changed), ROWS, 'samples')}"


def _more(count: int, limit: int, what: str) -> str:
    return f"\n\n*{count - limit} more {what} are not shown.*" if count > limit else ""
