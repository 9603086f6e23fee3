"""What a Ctrl-C raises: again if it was lost, not while it is handled, and never as the traceback of an error that it caused."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from torchrelay.cli import main
from torchrelay.cli.signals import Interrupts

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


@pytest.fixture
def interrupts() -> Interrupts:
    return Interrupts()


@pytest.fixture
def interrupt(interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Install the handlers and return what calls the one of Ctrl-C; the timer, which would fire during other tests, stays off."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    monkeypatch.setattr(signal, "setitimer", lambda *_: None)
    interrupts.install(lambda: 130)
    yield lambda: call(signal.SIGINT)
    for number, handler in before.items():
        signal.signal(number, handler)


def call(number: signal.Signals) -> None:
    handler = signal.getsignal(number)
    assert callable(handler)
    handler(number, None)


def test_an_interrupt_that_was_lost_is_raised_again(interrupt: Callable[[], None]) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    with pytest.raises(KeyboardInterrupt):
        call(signal.SIGALRM)


def test_an_interrupt_is_not_raised_again_while_it_is_handled(interrupt: Callable[[], None]) -> None:
    handled = False
    try:
        interrupt()
    except KeyboardInterrupt:
        call(signal.SIGALRM)
        handled = True
    assert handled


def test_after_the_report_nothing_is_raised(interrupt: Callable[[], None], interrupts: Interrupts) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    interrupts.reported = True
    interrupt()
    call(signal.SIGALRM)


def test_an_error_that_an_interrupt_caused_is_reported_as_the_interrupt(
    interrupt: Callable[[], None], interrupts: Interrupts, capsys: pytest.CaptureFixture[str]
) -> None:
    def application(*_: Any, **__: Any) -> None:
        try:
            interrupt()
        finally:
            raise RuntimeError("release unlocked lock")  # what a `with lock:` block turns a badly timed signal into

    assert main.run([], application, interrupts) == 130
    assert capsys.readouterr().err.startswith("torchrelay: interrupted\n")


@pytest.mark.usefixtures("interrupt")
def test_an_unforeseen_error_without_an_interrupt_keeps_its_traceback(interrupts: Interrupts) -> None:
    def application(*_: Any, **__: Any) -> None:
        raise RuntimeError("release unlocked lock")

    with pytest.raises(RuntimeError, match="release unlocked lock"):
        main.run([], application, interrupts)
