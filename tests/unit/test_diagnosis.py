"""Finds the Python traceback and the fix in real TorchServe logs."""

from torchrelay.verification import diagnosis

LOG = """\
2026-01-01T10:00:00,001 [INFO ] main org.pytorch.serve.ModelServer - Initialize Inference server
2026-01-01T10:00:01,123 [INFO ] W-9000-digits_1.0-stdout MODEL_LOG - Backend worker process died.
2026-01-01T10:00:01,123 [INFO ] W-9000-digits_1.0-stdout MODEL_LOG - Traceback (most recent call last):
2026-01-01T10:00:01,124 [INFO ] W-9000-digits_1.0-stdout MODEL_LOG -   File "/opt/model/handler.py", line 3, in <module>
2026-01-01T10:00:01,124 [INFO ] W-9000-digits_1.0-stdout MODEL_LOG -     import cv2
2026-01-01T10:00:01,124 [INFO ] W-9000-digits_1.0-stdout MODEL_LOG - ModuleNotFoundError: No module named 'cv2'
2026-01-01T10:00:01,200 [ERROR] W-9000-digits_1.0 org.pytorch.serve.wlm.WorkerThread - Backend worker error
org.pytorch.serve.wlm.WorkerInitializationException: Backend worker did not respond in given time
\tat org.pytorch.serve.wlm.WorkerThread.connect(WorkerThread.java:419)
"""


def test_the_traceback_is_pythons_and_not_javas() -> None:
    assert diagnosis.python_traceback(LOG) == (
        "Traceback (most recent call last):\n"
        '  File "/opt/model/handler.py", line 3, in <module>\n'
        "    import cv2\n"
        "ModuleNotFoundError: No module named 'cv2'"
    )


def test_a_log_without_a_traceback_has_none() -> None:
    assert diagnosis.python_traceback(LOG.replace("Traceback", "Trace")) == ""


def test_common_causes_have_a_fix_that_names_the_package_or_file() -> None:
    assert "cv2" in diagnosis.likely_fix(LOG)
    assert "requirements.txt" in diagnosis.likely_fix(LOG)
    assert "resources.memory" in diagnosis.likely_fix("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory")
    assert "init_args" in diagnosis.likely_fix("size mismatch for fc.weight: copying a param with shape [2, 10]")
    assert "/model/cache" in diagnosis.likely_fix("OSError: [Errno 30] Read-only file system: '/model/cache'")
    assert diagnosis.likely_fix("something nobody has seen") == ""


TORCHRELAY_LOG = """\
2026-11-21T09:19:47,590 INFO  W-9000-digits_1.0-stdout Failed to load model digits, exception model.pt does not fit
2026-11-21T09:19:47,594 INFO  W-9000-digits_1.0-stdout Traceback (most recent call last):
2026-11-21T09:19:47,594 INFO  W-9000-digits_1.0-stdout   File "/opt/torchrelay/models/digits/torchrelay_service.py", line 16
2026-11-21T09:19:47,594 INFO  W-9000-digits_1.0-stdout     return _service(data, context)
2026-11-21T09:19:47,594 WARN  WorkerThread Auto recovery failed again
org.pytorch.serve.wlm.WorkerInitializationException: Backend worker did not respond in given time
\tat org.pytorch.serve.wlm.WorkerThread.run(WorkerThread.java:247) [model-server.jar:?]
\t... 18 more
2026-11-21T09:19:47,610 INFO  W-9000-digits_1.0-stdout torchrelay_handlers.network.loading.WeightsError: model.pt does not fit:
2026-11-21T09:19:47,610 INFO  W-9000-digits_1.0-stdout   head.bias: [16] in the file, [8] in the network
2026-11-21T09:19:47,613 INFO  W-9000-digits_1.0-stdout Backend worker process died.
2026-11-21T09:19:47,613 INFO  W-9000-digits_1.0-stdout Traceback (most recent call last):
2026-11-21T09:19:47,618 INFO  W-9000-digits_1.0-stdout     raise RuntimeError("{} - {}".format(code, result))
2026-11-21T09:19:47,618 INFO  W-9000-digits_1.0-stdout RuntimeError: 500 - Unknown exception
"""
FAILED = "2026-11-21T09:14:44,695 WARN  BatchAggregator Load model failed: digits, error: Worker died.\n"


def test_other_threads_lines_and_the_workers_exception_are_not_in_a_traceback() -> None:
    assert diagnosis.python_traceback(TORCHRELAY_LOG) == (
        "Traceback (most recent call last):\n"
        '  File "/opt/torchrelay/models/digits/torchrelay_service.py", line 16\n'
        "    return _service(data, context)\n"
        "torchrelay_handlers.network.loading.WeightsError: model.pt does not fit:\n"
        "  head.bias: [16] in the file, [8] in the network"
    )


def test_an_exception_keeps_the_one_it_was_raised_from() -> None:
    lines = [
        diagnosis.TRACEBACK,
        "  first",
        "KeyError: 'a'",
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        diagnosis.TRACEBACK,
        "  second",
        "RuntimeError: b",
    ]
    marked = "".join(f"2026-11-21T09:19:47,613 INFO  W-9000-m_1.0-stderr {line}\n" for line in lines)
    assert diagnosis.python_traceback(marked) == "\n".join(lines)
    assert diagnosis.exception_of("\n".join(lines)) == "RuntimeError: b"


def test_why_a_model_did_not_load() -> None:
    assert not diagnosis.has_failed_to_load(TORCHRELAY_LOG.replace("Backend worker process died.", ""))
    assert diagnosis.has_failed_to_load(TORCHRELAY_LOG)
    assert diagnosis.has_failed_to_load(FAILED)
    assert diagnosis.load_failure(TORCHRELAY_LOG) == "torchrelay_handlers.network.loading.WeightsError: model.pt does not fit:"
    slow = "org.pytorch.serve.wlm.WorkerInitializationException: Backend worker did not respond in given time\n"
    assert "timeouts.startup_s" in diagnosis.load_failure(slow + FAILED)
    assert diagnosis.load_failure(FAILED) == "its process died"


def test_the_end_of_a_log_has_no_java_stack() -> None:
    assert "WorkerThread.java" not in diagnosis.log_tail(TORCHRELAY_LOG)
    assert "18 more" not in diagnosis.log_tail(TORCHRELAY_LOG)
    assert "Auto recovery failed" in diagnosis.log_tail(TORCHRELAY_LOG)
