"""Hundreds of bad requests to real containers of the shipped handlers: each is refused, and no other request is affected.

No answer is a 5xx, every refusal says what was expected, good requests in between are answered as before, no worker is replaced,
and memory does not grow. A handler that answers 5xx, leaks memory or ends its worker fails the same checks.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.container.corpus import arrays, encoded, forms, pictures, rows, tensors, texts
from tests.container.corpus.case import Case, bad
from tests.container.corpus.served import KindServer, served
from tests.container.harness import PREDICT, Answer, Container, Factory

LEAST = 150
CLIENTS = 4
# A worker that leaks grows in every round: by 9 MiB if it keeps the pictures. glibc and torch keep the memory of their
# largest batches, which grows in steps of up to 20 MiB and then stops. So one round without growth is enough.
FLAT_MIB = 2
LEAST_ROUNDS, MOST_ROUNDS = 2, 6
# The JVM's heap grows before it is collected, up to its -Xmx of 448 MiB here. Measured: 4 to 13 MiB in a round.
JVM_MIB = 96

LEAKS = """
import os

class Bad:
    def initialize(self, context):
        self.kept = []

    def handle(self, data, context):
        answers = []
        for index, row in enumerate(data):
            body = bytes(row.get("body") or b"")
            if body == b"{}":
                answers.append("fine")
                continue
            if body.startswith(b"end"):
                os._exit(1)
            self.kept.append(bytearray(os.urandom(1 << 20)))
            context.set_response_status(500, "no", index)
            answers.append("{}")
        return answers
"""


def send(connection: http.client.HTTPConnection, case: Case) -> Answer:
    """The request with exactly the headers of the case: without a content type where it has none."""
    connection.putrequest("POST", PREDICT)
    connection.putheader("Content-Length", str(len(case.body)))
    if case.content_type:
        connection.putheader("Content-Type", case.content_type.encode("utf-8"))
    for name, value in case.headers:
        connection.putheader(name, value.encode("utf-8"))
    connection.endheaders(case.body)
    response = connection.getresponse()
    return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())


def memory(on: Container) -> dict[str, dict[int, float]]:
    """MiB of the processes that must not end, by "jvm" and "worker" and pid."""
    program = (
        "import json, pathlib\n"
        "found = {'jvm': {}, 'worker': {}}\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    try:\n"
        "        words = (p / 'cmdline').read_bytes().split(b'\\0')\n"
        "        rss = [line.split()[1] for line in (p / 'status').read_text().splitlines() if line.startswith('VmRSS')]\n"
        "    except OSError: continue\n"
        "    kind = 'jvm' if b'org.pytorch.serve.ModelServer' in words else 'worker' if b'--sock-type' in words else None\n"
        "    if kind and rss: found[kind][int(p.name)] = int(rss[0]) / 1024\n"
        "print(json.dumps(found))\n"
    )
    return {kind: {int(pid): size for pid, size in sizes.items()} for kind, sizes in on.python(program).items()}


def round_of(on: Container, corpus: Sequence[Case], good: Case, failures: list[str]) -> None:
    """Send a corpus from several clients at once, good requests in between; append a line to `failures` for each wrong answer."""
    wanted = on.send("POST", PREDICT, good.body, good.content_type).body
    lock = threading.Lock()

    def client(own: Sequence[Case]) -> None:
        connection = http.client.HTTPConnection(on.address, 8080, timeout=30)
        for place, case in enumerate(own):
            for one in (case, *([good] if place % 3 == 0 else [])):
                try:
                    answer = send(connection, one)
                except (OSError, http.client.HTTPException) as error:
                    connection.close()
                    failure = f"{one.id}: no answer, {error!r}"
                else:
                    same = one is not good or (answer.status == 200 and near(answer.body, wanted))
                    failure = wrong(one, answer) or (
                        "" if same else f"a good neighbour of {case.id}: {answer.status} {answer.body[:200]!r}"
                    )
                if failure:
                    with lock:
                        failures.append(failure)
        connection.close()

    threads = [threading.Thread(target=client, args=(corpus[place::CLIENTS],)) for place in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)


def near(got: bytes, wanted: bytes) -> bool:
    """Whether two answers are equal, numbers to four digits: a batch is added up in another order than a sample alone."""
    rounded = [re.sub(rb"\d+\.\d+(e-?\d+)?", lambda number: b"%.4f" % float(number[0]), text) for text in (got, wanted)]
    return rounded[0] == rounded[1]


def wrong(case: Case, answer: Answer) -> str:
    """Describe what is wrong with the answer to a case; empty if nothing is."""
    failure = f"{case.id} ({case.wanted}): {answer.status} {answer.body[:300]!r}"
    if answer.status >= 500:
        return failure
    if case.wanted == "answered":
        return failure if answer.status != 200 else ""
    if case.wanted == "either" and answer.status == 200:
        return ""
    if not 400 <= answer.status <= 499:
        return failure
    document = answer.json
    if answer.headers["content-type"].startswith("application/problem+json"):
        message = document["detail"] + json.dumps(document.get("expected"))
    else:
        message = document["message"]
    return "" if message and re.search(case.says, message, re.S) else f"{failure}: does not contain {case.says}"


def checked(on: Container, corpus: Sequence[Case], good: Case) -> list[str]:
    """All failures of a first round and of further ones."""
    failures: list[str] = []
    round_of(on, corpus, good, failures)
    first = last = memory(on)
    print(f"\nafter the first round: {first}")
    for count in range(1, MOST_ROUNDS + 1):
        round_of(on, corpus, good, failures)
        before, last = last, memory(on)
        print(f"and after {count} more: {last}")
        if count >= LEAST_ROUNDS and grown("worker", before, last) <= FLAT_MIB:
            break
    else:
        failures.append(f"the worker grew in every round, in the last by {grown('worker', before, last):.1f} MiB")
    for kind in ("worker", "jvm"):
        if first[kind].keys() != last[kind].keys() or not first[kind]:
            failures.append(f"the {kind} was replaced: {list(first[kind])}, now {list(last[kind])}")
    if (more := grown("jvm", first, last)) > JVM_MIB:
        failures.append(f"the jvm grew by {more:.1f} MiB")
    return failures


def grown(kind: str, before: dict[str, dict[int, float]], after: dict[str, dict[int, float]]) -> float:
    """The largest growth of one process, in MiB; ended processes do not count."""
    return max((after[kind][pid] - before[kind][pid] for pid in before[kind].keys() & after[kind].keys()), default=0.0)


def one(corpora: Mapping[str, Sequence[Case]]) -> list[Case]:
    """Return all cases in one list, in an order that mixes the kinds."""
    everything = [case for corpus in corpora.values() for case in corpus]
    return everything[::3] + everything[1::3] + everything[2::3]


def corpora(name: str) -> dict[str, list[Case]]:
    """The cases for a kind of handler, by kind of input."""
    if name == "tensor":
        return {"json": tensors.json_cases(), "csv": rows.csv_cases(), "npy": arrays.npy_cases(), "form": forms.form_cases()}
    if name == "text-classifier":
        return {"text": texts.text_cases()}
    return {"image": pictures.image_cases(), "base64": encoded.json_cases()}


def test_bad_requests_are_refused_and_affect_no_others(kind_server: KindServer) -> None:
    kind, on, sent = kind_server.kind, kind_server.container, corpora(kind_server.name)
    assert {input_kind: count for input_kind, corpus in sent.items() if (count := bad(corpus)) < LEAST} == {}
    assert checked(on, [*kind.of_every_size(), *one(sent)], kind.good) == []
    assert on.logs().count("model loaded on") == 1, "a worker was restarted"


def test_a_handler_that_fails_leaks_and_dies_fails_the_same_checks(container: Factory, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    (tmp_path / "handler.py").write_text(LEAKS)
    (tmp_path / "model.yaml").write_text("name: bad\nweights: model.pt\nhandler: handler.py\n")
    good = Case("good", b"{}", "application/octet-stream", wanted="answered")
    on, _ = served(container, tmp_path, good, {})
    corpus = [Case(f"bad {place}", b"%d" % place, "application/octet-stream") for place in range(8)]
    failures = checked(on, corpus, good)
    assert [line for line in failures if line.startswith("bad 7 (refused): 500")]
    assert [line for line in failures if line.startswith("the worker grew in every round")]
    assert not [line for line in failures if "replaced" in line]
    failures = checked(on, [*corpus[:1], Case("end", b"end", "application/octet-stream")], good)
    assert [line for line in failures if line.startswith("the worker was replaced")]
