"""Figures from latencies: percentiles, the median of rounds and the rows of `--json`."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from rich.table import Table


class Row(TypedDict, total=False):
    """One line of the table; the keys up to `p99_ms` are always there.

    `rps`, `p50_ms`, `p99_ms` and `cpu_ms` are medians of the rounds, `rps_least` and `rps_most` their extremes. `cpu_ms` is the
    server's CPU time per answer. Only torchrelay's rows have a `profile`: `latency` (batches of 1) in tiny, `channels_last`
    in image, otherwise `default`. `others` is the largest share (0-1) of the CPUs that other processes took in a round.
    """

    server: str
    version: str
    workload: str
    clients: int
    rps: float
    p50_ms: float
    p99_ms: float
    rps_least: float
    rps_most: float
    rounds: int
    answers: int
    others: float
    cpu_ms: float
    cpu_ms_by_program: dict[str, float]
    profile: str


@dataclass(frozen=True)
class Round:
    """One round: a latency for each correct answer within `seconds`, and the CPU time per answer of the server's programs.

    `others`: the share (0-1) of the CPUs that other processes took.
    """

    latencies_ms: Sequence[float]
    seconds: float
    cpu_ms: Mapping[str, float] = field(default_factory=dict)
    others: float = 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the smallest value that at least `share` (0-1] of all values do not exceed.

    Raises: ValueError for no values, or a share outside (0-1].
    """
    if not values or not 0 < share <= 1:
        raise ValueError(f"the percentile {share} of {len(values)} values")
    ordered = sorted(values)
    return ordered[-(-len(ordered) * round(share * 10_000) // 10_000) - 1]


def row(server: str, version: str, workload: str, clients: int, rounds: Sequence[Round], profile: str = "") -> Row:
    """Return the row for the rounds of one server. Raises: ValueError when a round has no answers."""
    rates = [len(one.latencies_ms) / one.seconds for one in rounds]
    result: Row = {
        "server": server,
        "version": version,
        "workload": workload,
        "clients": clients,
        "rps": round(statistics.median(rates), 1),
        "p50_ms": round(statistics.median(percentile(one.latencies_ms, 0.50) for one in rounds), 3),
        "p99_ms": round(statistics.median(percentile(one.latencies_ms, 0.99) for one in rounds), 3),
        "rps_least": round(min(rates), 1),
        "rps_most": round(max(rates), 1),
        "rounds": len(rounds),
        "answers": sum(len(one.latencies_ms) for one in rounds),
        "others": round(max(one.others for one in rounds), 3),
    }
    programs = sorted({name for one in rounds for name in one.cpu_ms})
    if programs:
        result["cpu_ms"] = round(statistics.median(sum(one.cpu_ms.values()) for one in rounds), 3)
        result["cpu_ms_by_program"] = {
            name: round(statistics.median(one.cpu_ms.get(name, 0.0) for one in rounds), 3) for name in programs
        }
    if profile:
        result["profile"] = profile
    return result


def table(rows: Sequence[Row], title: str) -> Table:
    """Return the table to print."""
    result = Table(title=title)
    for column in ("server", "version", "workload"):
        result.add_column(column)
    for column in ("clients", "rps", "least-most", "p50 ms", "p99 ms", "CPU ms", "others"):
        result.add_column(column, justify="right")
    for one in rows:
        workload = one["workload"] + (f", {one['profile']}" if "profile" in one else "")
        spread = f"{one['rps_least']:.0f}-{one['rps_most']:.0f}"
        figures = (f"{one['rps']:.0f}", spread, f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}")
        used = f"{one['cpu_ms']:.2f}" if "cpu_ms" in one else ""
        result.add_row(one["server"], one["version"], workload, str(one["clients"]), *figures, used, f"{one['others']:.0%}")
    return result


def report(rows: Sequence[Row], **about: Any) -> dict[str, Any]:
    """Return the object that `--json` writes."""
    return {**about, "rows": list(rows)}
