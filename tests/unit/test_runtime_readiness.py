"""The readiness state machine, step by step, with a simulated clock."""

from torchrelay_runtime.readiness import POLL_READY_S, POLL_STARTING_S, RECHECK_S, START_ATTEMPTS, Answer, Readiness, Workers

UP = Workers(ready=1, total=1, pids=frozenset({10}))
OK = Answer(200)


def loading(pid: int) -> Workers:
    return Workers(ready=0, total=1, pids=frozenset({pid}))


def down(retry_s: float = 300.0) -> Workers:
    return Workers(ready=0, total=1, retry_s=retry_s)


def ready_machine() -> Readiness:
    machine = Readiness(needs_answer=True, started=0.0)
    machine.saw_workers(1.0, UP)
    machine.saw_answer(1.1, OK)
    assert machine.status.ready
    return machine


def test_it_starts_not_ready_and_looks_often() -> None:
    machine = Readiness(needs_answer=True, started=0.0)
    machine.saw_workers(0.1, None)
    assert (machine.status.ready, machine.status.reason, machine.poll_s) == (False, "the server is starting", POLL_STARTING_S)
    assert not machine.wants_answer(0.1)


def test_a_ready_worker_is_asked_and_only_its_answer_makes_it_ready() -> None:
    machine = Readiness(needs_answer=True, started=0.0)
    machine.saw_workers(1.0, loading(10))
    assert machine.status.reason == "the model is being loaded"
    machine.saw_workers(2.0, UP)
    assert not machine.status.ready
    assert machine.wants_answer(2.0)
    machine.saw_answer(2.1, OK)
    assert (machine.status.ready, machine.status.reason, machine.poll_s) == (True, "ready", POLL_READY_S)


def test_without_a_warm_up_request_a_ready_worker_is_enough() -> None:
    machine = Readiness(needs_answer=False, started=0.0)
    machine.saw_workers(1.0, UP)
    assert machine.status.ready
    assert not machine.wants_answer(1.0)


def test_an_error_does_not_count_as_an_answer_and_is_reported() -> None:
    machine = Readiness(needs_answer=True, started=0.0)
    machine.saw_workers(1.0, UP)
    machine.saw_answer(1.1, Answer(503, "prediction failed"))
    assert machine.status.reason == "the warm-up request was answered with 503: prediction failed"
    machine.saw_workers(1.2, UP)
    assert "prediction failed" in machine.status.reason
    assert not machine.wants_answer(1.5)
    assert machine.wants_answer(2.1)
    machine.saw_answer(2.2, Answer(0))
    assert machine.status.reason == "the warm-up request was not answered"


def test_a_lost_worker_ends_it_and_the_next_has_to_answer_again() -> None:
    machine = ready_machine()
    machine.saw_workers(5.0, down())
    assert (machine.status.ready, machine.status.reason) == (False, "no worker is running")
    machine.saw_workers(6.0, UP)
    assert not machine.status.ready
    assert machine.wants_answer(6.0)
    machine.saw_answer(6.1, OK)
    assert machine.status.ready


def test_a_server_that_does_not_answer_is_not_ready() -> None:
    machine = ready_machine()
    machine.saw_workers(5.0, None)
    assert machine.status.reason == "the server does not answer about its workers"


def test_it_asks_again_now_and_then_and_two_bad_answers_end_it() -> None:
    machine = ready_machine()
    assert not machine.wants_answer(1.1 + RECHECK_S - 1)
    assert machine.wants_answer(1.1 + RECHECK_S)
    machine.saw_answer(40.0, Answer(500, "CUDA error"))
    assert machine.status.ready, "one may be bad luck"
    machine.saw_answer(41.0, Answer(500, "CUDA error"))
    assert (machine.status.ready, machine.status.reason) == (False, "the warm-up request was answered with 500: CUDA error")
    machine.saw_workers(41.5, UP)
    machine.saw_answer(42.0, OK)
    assert machine.status.ready


def test_a_full_queue_is_busy_not_broken() -> None:
    machine = ready_machine()
    for second in range(40, 50):
        machine.saw_answer(float(second), Answer(503))
    assert machine.status.ready


def test_loading_that_fails_again_and_again_is_given_up() -> None:
    machine = Readiness(needs_answer=True, started=0.0)
    for attempt in range(START_ATTEMPTS):
        machine.saw_workers(float(attempt), loading(100 + attempt))
        assert not machine.status.failed
        machine.saw_workers(attempt + 0.5, down())
    assert machine.status.failed
    assert machine.status.reason == "the worker died 3 times while loading the model"


def test_several_workers_may_each_try_as_often() -> None:
    machine = Readiness(needs_answer=True, started=0.0)
    for attempt in range(START_ATTEMPTS):
        machine.saw_workers(float(attempt), Workers(ready=0, total=2, pids=frozenset({attempt + 1})))
        machine.saw_workers(attempt + 0.5, Workers(ready=0, total=2))
    assert not machine.status.failed


def test_a_server_counts_as_failed_once_no_restart_can_be_pending() -> None:
    machine = ready_machine()
    machine.saw_workers(10.0, down(retry_s=60.0))
    machine.saw_workers(10.0 + 1.62 * 60, down(retry_s=60.0))
    assert not machine.status.failed
    machine.saw_workers(10.0 + 1.62 * 60 + 2.1, down(retry_s=60.0))
    assert (machine.status.failed, machine.status.reason) == (True, "the server gave up restarting its worker")


def test_a_worker_that_returns_cancels_the_failure() -> None:
    machine = ready_machine()
    machine.saw_workers(10.0, down(retry_s=1.0))
    machine.saw_workers(20.0, down(retry_s=1.0))
    assert machine.status.failed
    machine.saw_workers(21.0, loading(77))
    assert not machine.status.failed
    machine.saw_workers(22.0, UP)
    machine.saw_answer(22.1, OK)
    assert (machine.status.ready, machine.status.failed) == (True, False)


def test_a_model_that_the_server_does_not_have_is_failed_at_once() -> None:
    machine = Readiness(needs_answer=True, started=0.0)
    machine.saw_workers(1.0, Workers(0, 0, missing=True, detail="TorchServe could not read the model; its log says why"))
    assert (machine.status.failed, machine.status.reason) == (True, "TorchServe could not read the model; its log says why")
