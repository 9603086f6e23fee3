"""Parts of benchmarks/serving.py whose mistakes would not be visible: percentiles, medians, rows, and what a correct answer is."""

import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jsonschema
import pytest

from benchmarks.serving import names
from benchmarks.serving_load import LOOK, Load, answer_length, looker, rendered
from benchmarks.serving_peers.contract import Request
from benchmarks.serving_peers.peers import CALLED, PEERS
from benchmarks.serving_peers.workloads import WORKLOADS, Sample, is_correct, make_folder, read_samples
from benchmarks.serving_rows import Round, percentile, report, row

ROW = {
    "type": "object",
    "required": ["server", "version", "workload", "clients", "rps", "p50_ms", "p99_ms"],
    "properties": {
        "server": {"type": "string"},
        "version": {"type": "string", "minLength": 1},
        "workload": {"enum": ["mlp", "tiny", "image"]},
        "clients": {"type": "integer", "minimum": 1},
        "rps": {"type": "number", "exclusiveMinimum": 0},
        "p50_ms": {"type": "number", "exclusiveMinimum": 0},
        "p99_ms": {"type": "number", "exclusiveMinimum": 0},
        "profile": {"enum": ["default", "latency"]},
    },
}
SCHEMA = {"type": "object", "required": ["rows"], "properties": {"rows": {"type": "array", "items": ROW}}}


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [
        (1, 0.5, 1),
        (1, 0.99, 1),
        (2, 0.5, 1),
        (3, 0.5, 2),
        (100, 0.5, 50),
        (100, 0.99, 99),
        (101, 0.99, 100),
        (1000, 0.99, 990),
        (7, 1, 7),
    ],
)
def test_percentile_is_the_nearest_rank(count: int, share: float, expected: float) -> None:
    assert percentile([float(one) for one in range(count, 0, -1)], share) == expected


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.01)])
def test_a_percentile_of_nothing_is_refused(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, share)


def test_a_row_has_the_median_of_its_rounds_and_their_spread() -> None:
    rounds = [
        Round([1.0, 2.0, 3.0], 2.0, {"java": 0.5}),
        Round([10.0] * 8, 2.0, {"java": 0.3, "python": 0.4}, others=0.25),
        Round([4.0, 5.0], 2.0, {"java": 0.8, "python": 0.1}),
    ]
    result = row("torchrelay", "1.2.3", "tiny", 1, rounds, "latency")
    assert result == {
        "server": "torchrelay",
        "version": "1.2.3",
        "workload": "tiny",
        "clients": 1,
        "rps": 1.5,
        "p50_ms": 4.0,
        "p99_ms": 5.0,
        "rps_least": 1.0,
        "rps_most": 4.0,
        "rounds": 3,
        "answers": 13,
        "others": 0.25,
        "cpu_ms": 0.7,
        "cpu_ms_by_program": {"java": 0.5, "python": 0.1},
        "profile": "latency",
    }


def test_the_report_follows_the_schema() -> None:
    rows = [
        row("torchrelay", "1", "tiny", 1, [Round([1.0], 1.0)], "default"),
        row("torch alone", "2", "mlp", 32, [Round([2.0], 1.0)]),
    ]
    written = json.loads(json.dumps(report(rows, cpus=2)))
    jsonschema.validate(written, SCHEMA)
    assert [one["server"] for one in written["rows"]] == ["torchrelay", "torch alone"]
    assert "profile" not in written["rows"][1]
    assert "cpu_ms" not in written["rows"][1]


def test_a_round_without_answers_makes_no_row() -> None:
    with pytest.raises(ValueError, match="percentile"):
        row("torchrelay", "1", "mlp", 32, [Round([], 1.0)])


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ([1.0, 2.0], True),
        ([1.0009, 2.0], True),
        ([1.01, 2.0], False),
        ([1.0], False),
        ([2.0, 1.0], False),
        ([[1.0, 2.0]], False),
        (["1.0", "2.0"], False),
        ([float("nan"), 2.0], False),
        ({"class": "1"}, False),
        (None, False),
    ],
)
def test_a_correct_answer_has_the_numbers(value: object, same: bool) -> None:
    assert is_correct(value, [1.0, 2.0], 1e-3) is same


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ({"class": "3", "confidence": 0.9}, True),
        ({"class": "4", "confidence": 0.9}, False),
        ({"class": "3", "confidence": 0.8}, False),
        ({"class": "3"}, False),
        ([0.9], False),
    ],
)
def test_a_correct_answer_has_the_class_and_its_confidence(value: object, same: bool) -> None:
    assert is_correct(value, {"class": "3", "confidence": 0.9}, 2e-3) is same


@pytest.mark.parametrize("name", ["mlp", "tiny"])
def test_a_sample_cannot_pass_for_another(name: str, tmp_path: Path) -> None:
    """Otherwise an answer to the wrong client would pass."""
    samples = read_samples(make_folder(tmp_path / name, name))
    answers = [one.answer for one in samples]
    assert len(samples) == 16
    assert all(
        is_correct(a, b, WORKLOADS[name].tolerance) is (i == j) for i, a in enumerate(answers) for j, b in enumerate(answers)
    )


def test_every_server_gets_the_same_numbers_and_its_answer_is_found() -> None:
    answers = {
        "mlserver": b'{"outputs": [{"name": "y", "shape": [1, 2], "data": [0.5, 1.5]}]}',
        "bentoml": b"[[0.5, 1.5]]",
    }
    sample, tiny = Sample(b"[1.5, -2.0]", [0.5, 1.5]), WORKLOADS["tiny"]
    for name in (*PEERS, "torchrelay", "torchrelay, latency"):
        request = CALLED[name].request(tiny, sample)
        assert sorted(numbers_in(json.loads(request.body))) == [-2.0, 1.5], name
        assert is_correct(CALLED[name].answer(tiny, answers.get(name, b"[0.5, 1.5]")), sample.answer, 1e-6), name


def numbers_in(value: object) -> list[float]:
    """Return all floats in a JSON value."""
    if isinstance(value, float):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for one in inner for number in numbers_in(one)]


def test_a_name_with_a_comma_is_one_name() -> None:
    known = ["torchrelay", "torchserve, plain handler"]
    assert names("torchrelay,torchserve, plain handler", known, "--only") == known
    with pytest.raises(SystemExit, match="--only: unknown name 'litserv'"):
        names("litserv", known, "--only")


def test_requests_are_complete() -> None:
    assert rendered(Request("/p", b"[1]"), "h") == (
        b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n[1]"
    )
    assert answer_length(b"http/1.1 200 ok\r\ncontent-length: 12\r\nx: y") == 12
    with pytest.raises(ValueError, match="without Content-Length"):
        answer_length(b"http/1.1 200 ok\r\nx: y")


HEAD = b"HTTP/1.1 %s OK\r\nContent-Length: %d\r\n\r\n"
RIGHT = HEAD % (b"200", 5) + b"[0.5]"


def loaded(answer: Callable[[int], bytes], clients: int = 2) -> Load:
    """Run a load for 0.05 + 0.15 s on servers that send `answer(number of the request)` in two pieces, and close on b""."""
    listeners: list[socket.socket] = []

    def connect() -> socket.socket:
        theirs, mine = socket.socketpair()
        listeners.append(mine)
        threading.Thread(target=serve, args=(mine,), daemon=True).start()
        return theirs

    def serve(mine: socket.socket) -> None:
        with mine, suppress(OSError):
            for number in itertools.count():
                if not mine.recv(65536) or not (whole := answer(number)):
                    return
                mine.sendall(whole[:-2])
                time.sleep(0.001)
                mine.sendall(whole[-2:])

    look = looker([Sample(b"", [0.5])], 1e-3, json.loads)
    return Load(connect, [b"POST"], look).run(clients, 0.05, 0.15)


def test_only_answers_within_the_time_are_counted() -> None:
    load = loaded(lambda _: RIGHT)
    assert load.failures == []
    assert load.answered > len(load.latencies_ms) > 10
    assert load.looked >= load.answered // LOOK
    assert all(0 < one < 150 for one in load.latencies_ms)


def test_an_announced_close_is_not_a_failure() -> None:
    last = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n[0.5]"
    load = loaded(lambda number: b"" if number > 4 else last if number == 4 else RIGHT)
    assert load.failures == []
    assert load.answered > 10


def test_latency_is_from_the_request_to_the_last_byte() -> None:
    def slow(_: int) -> bytes:
        time.sleep(0.02)
        return RIGHT

    load = loaded(slow, clients=1)
    assert load.failures == []
    assert min(load.latencies_ms) >= 20
    assert len(load.latencies_ms) <= 8


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (HEAD % (b"503", 0), "503"),
        (HEAD % (b"200", 5) + b"[0.6]", "expected \\[0.5\\], got \\[0.6\\]"),
        (HEAD % (b"200", 2) + b"{]", "JSONDecodeError"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "without Content-Length"),
        (b"", "closed the connection"),
    ],
)
def test_a_wrong_answer_is_a_failure(answer: bytes, message: str) -> None:
    load = loaded(lambda number: answer if number == 2 else RIGHT)
    assert load.failures
    assert all(re.search(message, one) for one in load.failures), load.failures
