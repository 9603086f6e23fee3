"""From a real TorchServe log to the Python traceback and the mend."""

from torchrelay import diagnosis

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


def test_common_causes_have_a_mend_that_names_the_thing() -> None:
    assert "cv2" in diagnosis.likely_fix(LOG)
    assert "requirements.txt" in diagnosis.likely_fix(LOG)
    assert "resources.memory" in diagnosis.likely_fix("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory")
    assert "init_args" in diagnosis.likely_fix("size mismatch for fc.weight: copying a param with shape [2, 10]")
    assert "/model/cache" in diagnosis.likely_fix("OSError: [Errno 30] Read-only file system: '/model/cache'")
    assert diagnosis.likely_fix("something nobody has seen") == ""
