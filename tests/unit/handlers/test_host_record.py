"""Hosts that keep a batch waiting are not asked again for a while. No network; the clock is the test's own."""

import json
from types import SimpleNamespace

import pytest

from tests.unit.handlers.test_picture_work import refused_beside_a_good_one
from tests.unit.handlers.test_shipped import Brightness
from tests.unit.handlers.test_url_images import IMAGE, PUBLIC, Faked, moved
from torchrelay_handlers import shipped
from torchrelay_handlers.adapters.torchserve import _check_fetch_time
from torchrelay_handlers.bodies import host_record, url_images
from torchrelay_handlers.bodies.host_record import FEW_TIMEOUTS, HURRIED_S, HostRecord
from torchrelay_handlers.bodies.image_input import MOST_URLS, Pictures
from torchrelay_handlers.bodies.url_images import Fetcher, Rules
from torchrelay_handlers.problems import BadSample


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    for module in (host_record, url_images):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=own))
    return own


class Silent(Faked):
    """Connections to names that begin with `silent` wait until the deadline; others answer with a picture."""

    clock: Clock

    def resolve(self, host: str, port: int, deadline: float) -> list[str]:
        if host.startswith("silent"):
            self.connected.append((host, port))
            self.clock.now = deadline
            raise TimeoutError
        self.answers.append(moved("http://silent.example/") if host.startswith("redirecting") else IMAGE)
        return [PUBLIC]


def silent(clock: Clock, timeout_s: float = 2) -> Silent:
    fetcher = Silent(Rules(("*",), timeout_s=timeout_s), {}, [])
    fetcher.clock = clock
    return fetcher


def reason(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(BadSample) as refused:
        fetcher.fetch(url)
    assert refused.value.status == 424
    return refused.value.detail


def test_a_silent_host_is_waited_for_once_and_then_refused_at_once_for_longer_and_longer(clock: Clock) -> None:
    fetcher = silent(clock)
    for pause in (30, 60, 120, 240, 480, 600, 600):
        assert "did not answer within" in reason(fetcher, "http://silent.example/a.png")
        waited = clock.now
        for seconds in (0, pause - 1):
            clock.now = waited + seconds
            assert f"asked again in {pause - seconds} s" in reason(fetcher, "http://silent.example/b.png")
            assert clock.now == waited + seconds
        clock.now = waited + pause
    assert len(fetcher.connected) == 7
    assert fetcher.fetch("http://good.example/") == b"\x89PNG"


def test_many_urls_of_one_silent_host_count_once() -> None:
    record = HostRecord()
    for _ in range(8):
        record.timed_out("a", 2)
    assert record._hosts["a"].timeouts == 1


def test_one_slow_picture_does_not_close_a_host_that_answers(clock: Clock) -> None:
    record = HostRecord()
    record.answered("a")
    for _ in range(FEW_TIMEOUTS - 1):
        clock.now += 5
        record.timed_out("a", 2)
        assert record.seconds_for("a", 2) == 2
    record.answered("a")
    for count in range(FEW_TIMEOUTS):
        assert record.seconds_for("a", 2) == 2, count
        clock.now += 5
        record.timed_out("a", 2)
    with pytest.raises(BadSample, match="asked again in 30 s"):
        record.seconds_for("a", 2)


def test_many_silent_hosts_leave_new_ones_little_time_and_good_ones_all(clock: Clock) -> None:
    fetcher = silent(clock)
    fetcher.fetch("http://good.example/")
    waits = []
    for number in range(10):
        started = clock.now
        reason(fetcher, f"http://silent{number}.example/")
        waits.append(round(clock.now - started, 3))
    assert waits == [2] * FEW_TIMEOUTS + [HURRIED_S] * (10 - FEW_TIMEOUTS)
    assert fetcher.record.seconds_for("good.example:80", 2) == 2
    assert fetcher.fetch("http://new.example/") == b"\x89PNG"
    clock.now += 600
    assert fetcher.record.seconds_for("other.example:80", 2) == 2


def test_the_host_that_a_redirect_leads_to_is_the_silent_one(clock: Clock) -> None:
    fetcher = silent(clock)
    reason(fetcher, "http://redirecting.example/")
    assert "asked again" in reason(fetcher, "http://silent.example/")
    assert "asked again" in reason(fetcher, "http://redirecting.example/")
    assert fetcher.record.seconds_for("redirecting.example:80", 2) == 2


def test_a_host_that_got_the_end_of_the_time_is_not_blamed(clock: Clock) -> None:
    fetcher = silent(clock)
    with pytest.raises(BadSample, match="within 2 s"):
        fetcher.fetch("http://silent.example/", clock.now + 0.5)
    assert fetcher.record.seconds_for("silent.example:80", 2) == 2


def test_the_record_is_bounded(clock: Clock) -> None:
    record = HostRecord()
    for number in range(3000):
        clock.now += 10
        record.timed_out(f"host{number}", 2)
    assert len(record._hosts) == host_record._MOST_HOSTS


def test_every_request_has_its_first_url_fetched_before_the_second_of_any(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchrelay_handlers import catalogue

    order: list[object] = []

    def fetched(_: Fetcher, urls: list[object]) -> list[bytes]:
        order.extend(urls)
        return [str(url).encode() for url in urls]

    monkeypatch.setattr(Fetcher, "fetch_all", fetched)
    gather = Pictures(catalogue.with_defaults("image-classifier", {"url_hosts": ["*"]}), None).gather
    assert gather is not None
    many = [{"url": f"a{number}"} for number in range(MOST_URLS)]
    gathered = gather([list(many), [{"url": "b0"}], [b"bytes", {"url": "c0"}]])
    assert order[:3] == ["a0", "b0", "c0"]
    assert gathered == [[f"a{number}".encode() for number in range(MOST_URLS)], [b"b0"], [b"bytes", b"c0"]]


def test_the_neighbours_of_a_silent_host_are_answered(clock: Clock) -> None:
    options = {"size": 4, "mode": "L", "classes": ["light", "dark"], "url_hosts": ["*"]}
    handler = shipped.make("image-classifier", Brightness, options).load(None)
    pictures = handler.steps.preprocess
    assert isinstance(pictures, Pictures)
    pictures._fetcher = silent(clock)
    body = json.dumps({"url": "http://silent.example/"}).encode()
    assert "within 2 s" in refused_beside_a_good_one(handler, body, "application/json", status=424)
    waited = clock.now
    assert "asked again" in refused_beside_a_good_one(handler, body, "application/json", status=424)
    assert clock.now == waited


@pytest.mark.parametrize(
    ("seconds", "response_s", "accepted"), [(2, 60, True), (15, 60, True), (16, 60, False), (2, 4, False), (9, None, True)]
)
def test_fetching_takes_at_most_a_quarter_of_the_batchs_time(seconds: float, response_s: int | None, accepted: bool) -> None:
    options = {"url_hosts": ["*"], "url_timeout_s": seconds}
    config = {"responseTimeout": response_s} if response_s else None
    if accepted:
        _check_fetch_time(options, config)
    else:
        with pytest.raises(ValueError, match=r"url_timeout_s: \d+ s is more than a quarter of timeouts.response_s"):
            _check_fetch_time(options, config)
    _check_fetch_time(options | {"url_hosts": None}, config)
