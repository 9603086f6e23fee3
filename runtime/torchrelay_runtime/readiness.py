"""When the container is ready: a state machine fed with the workers' states and with answers to the warm-up request.

TorchServe's own /ping is 200 while no worker can answer, so it is not asked. Ready means: a worker is ready, and it has answered
the warm-up request with a 2xx since the last time that no worker was ready. No clock and no IO here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torchrelay_runtime.state import Status

POLL_STARTING_S = 0.1
POLL_READY_S = 2.0
RECHECK_S = 30.0  # a request now and then finds faults that the worker's state hides, such as a poisoned CUDA context
START_ATTEMPTS = 3  # a model that could not be loaded three times will not be loaded the fourth time


@dataclass(frozen=True)
class Workers:
    """The server's report on its workers. `retry_s`: how long it keeps restarting a dead worker before it gives up for good."""

    ready: int
    total: int
    pids: frozenset[int] = frozenset()  # of live processes only
    retry_s: float = 300.0
    detail: str = ""
    missing: bool = False  # the server is up and has no such model: nothing will ever change that


@dataclass(frozen=True)
class Answer:
    """The answer to the warm-up request; `status` 0: none came."""

    status: int
    detail: str = ""


@dataclass
class Readiness:
    """Feed `saw_workers` and `saw_answer`, read `status`. Times are seconds of any steady clock."""

    needs_answer: bool
    started: float
    _ready: bool = field(default=False, init=False)
    _reason: str = field(default="the server is starting", init=False)
    _failed: bool = field(default=False, init=False)
    _workers_ready: bool = field(default=False, init=False)
    _down_since: float = field(default=0.0, init=False)
    _next_answer: float = field(default=0.0, init=False)
    _bad_answers: int = field(default=0, init=False)
    _seen: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._down_since = self.started

    @property
    def status(self) -> Status:
        """The status that /ping and the probe report."""
        return Status(ready=self._ready, reason="ready" if self._ready else self._reason, failed=self._failed)

    @property
    def poll_s(self) -> float:
        """Seconds until the next poll of the workers."""
        return POLL_READY_S if self._ready else POLL_STARTING_S

    def saw_workers(self, now: float, workers: Workers | None) -> None:
        """Process the workers' state; None: the server did not answer."""
        if workers is None:
            if self._ready:
                self._lost(now, "the server does not answer about its workers")
            return
        self._seen |= workers.pids
        if workers.ready > 0:
            if not self._workers_ready:
                self._workers_ready = True
                self._next_answer = now
            if self.needs_answer:
                if not self._ready and not self._bad_answers:
                    self._reason = "no worker has answered the warm-up request yet"
            else:
                self._gain()
            return
        if self._workers_ready:
            self._lost(now, "no worker is ready")
        self._reason = workers.detail or ("the model is being loaded" if workers.pids else "no worker is running")
        self._judge_failure(now, workers)

    def saw_answer(self, now: float, answer: Answer) -> None:
        """Process the answer to the warm-up request."""
        if 200 <= answer.status < 300:
            self._bad_answers = 0
            self._next_answer = now + RECHECK_S
            if self._workers_ready:
                self._gain()
            return
        if answer.status == 503 and self._ready:  # a full queue: busy, not broken
            self._next_answer = now + RECHECK_S
            return
        self._bad_answers += 1
        self._next_answer = now + 1.0
        if not self._ready or self._bad_answers >= 2:
            self._ready = False
            what = f"was answered with {answer.status}" if answer.status else "was not answered"
            self._reason = f"the warm-up request {what}: {answer.detail}" if answer.detail else f"the warm-up request {what}"

    def wants_answer(self, now: float) -> bool:
        """Say whether the warm-up request is due."""
        return self.needs_answer and self._workers_ready and now >= self._next_answer

    def _gain(self) -> None:
        self._ready = True
        self._failed = False
        self._seen.clear()

    def _lost(self, now: float, reason: str) -> None:
        self._ready = False
        self._workers_ready = False
        self._bad_answers = 0
        self._down_since = now
        self._reason = reason

    def _judge_failure(self, now: float, workers: Workers) -> None:
        """Decide whether the server gave up.

        TorchServe restarts a worker after 1, 1, 2, 3, 5... s for `retry_s` seconds. Each wait is at most 0.62 of the time so far,
        so no restart can be pending once 1.62 times that has gone by. Loading that never once worked is given up earlier.
        """
        attempts_spent = len(self._seen) >= START_ATTEMPTS * max(1, workers.total) and not workers.pids
        window_spent = not workers.pids and now - self._down_since > 1.62 * workers.retry_s + 2.0
        if workers.missing:
            self._failed = True
        elif attempts_spent:
            self._failed = True
            self._reason = f"the worker died {len(self._seen)} times while loading the model"
        elif window_spent:
            self._failed = True
            self._reason = "the server gave up restarting its worker"
        else:
            self._failed = self._failed and not workers.pids
