"""TorchServe's configuration, environment, command, and what its management API says."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from torchrelay.model.quantities import body_memory
from torchrelay_runtime.limits import Limits
from torchrelay_runtime.nginx import buffered_bytes
from torchrelay_runtime.settings import Serving, Settings, SettingsError, Version
from torchrelay_runtime.torchserve import config, server

SERVING = Serving(
    name="digits",
    version="abc123",
    model_dir=Path("/m/digits"),
    workers=2,
    batch_size=8,
    response_timeout_s=30,
    startup_timeout_s=90,
)
SETTINGS = Settings(SERVING, Path("/state"), 8080, "0.0.0.0", "nginx", "torchserve", None, None, access_log=False, log_level="warn")
LIMITS = Limits(cpu=4.0, memory=2 << 30)


def values(settings: Settings = SETTINGS, limits: Limits = LIMITS) -> dict[str, str]:
    return config.properties(settings, limits, config.FIXED_PORTS, {"abc123": {"modelVersion": "2.0"}})


def test_nothing_listens_beyond_loopback() -> None:
    properties = {key: value for key, value in values().items() if key.endswith("_address")}
    assert properties == {
        "inference_address": "http://127.0.0.1:8085",
        "management_address": "http://127.0.0.1:8081",
        "metrics_address": "http://127.0.0.1:8082",
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
    }


def test_settings_that_could_load_or_change_models_are_off() -> None:
    properties = values()
    off = ("enable_model_api", "install_py_dep_per_model", "enable_envvars_config", "use_env_allowed_urls")
    assert {properties[key] for key in off} == {"false"}
    assert properties["allowed_urls"] == "^$"
    assert properties["disable_token_authorization"] == "true"


def test_the_model_is_registered_under_its_manifests_version() -> None:
    properties = json.loads(values()["models"])["digits"]["2.0"]
    assert properties == {
        "minWorkers": 2,
        "maxWorkers": 2,
        "batchSize": 8,
        "maxBatchDelay": 1,
        "responseTimeout": 30,
        "startupTimeout": 90,
    }
    assert json.loads(config.properties(SETTINGS, LIMITS, config.FIXED_PORTS, {"abc123": {}})["models"])["digits"].keys() == {"1.0"}


TWO = replace(SETTINGS, serving=replace(SERVING, versions=(Version("1.0", Path("/m/old")),), default="1.0"))


def test_every_version_is_loaded_and_the_default_first() -> None:
    manifests = {version: {"modelVersion": version} for version in TWO.serving.folders}
    properties = config.properties(TWO, LIMITS, config.FIXED_PORTS, manifests)
    assert properties["load_models"] == "digits=digits--1.0,digits=digits"
    assert json.loads(properties["models"])["digits"].keys() == {"1.0", "abc123"}
    assert config.worker_threads(TWO, LIMITS) == 1  # two workers of each on four cores
    path = config.server_env(TWO, LIMITS, {})["PYTHONPATH"].split(os.pathsep)
    assert "/m/digits" not in path, "a module of one version would be taken for another's of the same name"


def test_stock_handlers_beside_torchrelays_get_decoded_bodies() -> None:
    manifests = {"1.0": {"modelVersion": "1.0", "handler": "old.py"}, "abc123": {"handler": "torchrelay_service.py"}}
    assert "decode_input_request" not in config.properties(TWO, LIMITS, config.FIXED_PORTS, manifests)


def test_bodies_are_left_to_our_handlers_and_decoded_for_others() -> None:
    torchrelay_only = config.properties(
        SETTINGS, LIMITS, config.FIXED_PORTS, {"abc123": {"modelVersion": "2.0", "handler": "torchrelay_service.py"}}
    )
    assert torchrelay_only["decode_input_request"] == "false"
    assert "decode_input_request" not in values()


def test_sizes_follow_the_declaration() -> None:
    properties = values()
    assert properties["job_queue_size"] == "64", "four batches of eight for each of two workers"
    assert int(properties["max_request_size"]) > SERVING.max_body_bytes, "the front refuses first"
    assert (properties["number_of_netty_threads"], properties["number_of_gpu"]) == ("4", "0")
    assert "number_of_gpu" not in values(replace(SETTINGS, serving=replace(SERVING, device="gpu")))


@pytest.mark.parametrize(
    ("memory", "body", "budget"),
    [(2 << 30, 6 << 20, 64), (None, 6 << 20, 128), (64 << 30, 6 << 20, 256), (1 << 30, 48 << 20, 48), (256 << 20, 6 << 20, 8)],
    ids=["a 32nd of the limit", "no limit", "the most", "one large body", "the least"],
)
def test_bodies_heap_buffers_and_files_fit_into_the_memory(memory: int | None, body: int, budget: int) -> None:
    settings, limits = replace(SETTINGS, serving=replace(SERVING, max_body_bytes=body)), Limits(1.0, memory)
    assert config.body_budget(settings, limits) == budget << 20
    argv = config.java_argv(settings, limits, "/jre/bin/java", Path("/site"))
    sizes = {name: int(re.sub(r"\D", "", word)) << 20 for word in argv for name in ("-Xmx", "MaxDirectMemorySize=") if name in word}
    assert len(sizes) == 2
    assert all(size >= 2 * config.body_budget(settings, limits) for size in sizes.values())
    files = buffered_bytes(config.body_budget(settings, limits))
    needed = sum(sizes.values()) + files + config.FRONT_MEMORY
    assert needed < (memory or 4 << 30)
    assert needed <= body_memory(memory or 4 << 30, body) < needed + (4 << 20), "check reckons the same (sizes are whole MiB)"


def test_a_body_that_does_not_fit_into_the_memory_is_refused() -> None:
    settings = replace(SETTINGS, serving=replace(SERVING, max_body_bytes=100 << 20))
    with pytest.raises(SettingsError, match=r"104857600 bytes need 860 MiB .* limit is 512 MiB: lower max_body_mb"):
        config.body_budget(settings, Limits(1.0, 512 << 20))


@pytest.mark.parametrize(("cpu", "workers", "threads"), [(4.0, 2, "2"), (4.0, 1, "4"), (0.5, 1, "1"), (2.0, 8, "1"), (3.5, 1, "3")])
def test_compute_threads_are_shared_between_workers(cpu: float, workers: int, threads: str) -> None:
    settings = replace(SETTINGS, serving=replace(SERVING, workers=workers))
    assert config.server_env(settings, Limits(cpu, None), {})["OMP_NUM_THREADS"] == threads


def test_the_environment_is_the_declared_one_over_the_containers() -> None:
    serving = replace(SERVING, deps_dir=Path("/deps"), environment={"A": "model", "OMP_NUM_THREADS": "7"})
    env = config.server_env(
        replace(SETTINGS, serving=serving), LIMITS, {"A": "container", "TS_CONFIG_FILE": "/evil", "PYTHONPATH": "/x"}
    )
    assert (env["A"], env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"]) == ("model", "7", "2")
    assert env["PYTHONPATH"] == os.pathsep.join(["/m/digits", "/deps", "/x"])
    assert "TS_CONFIG_FILE" not in env


def test_the_command_runs_in_the_foreground_without_snapshots() -> None:
    argv = config.java_argv(SETTINGS, LIMITS, "/jre/bin/java", Path("/site"))
    assert argv[0] == "/jre/bin/java"
    assert argv[-5:] == ["-f", "/state/torchserve/config.properties", "-s", "/state/torchserve/store", "-ncs"]
    assert {"-XX:+ExitOnOutOfMemoryError", "-XX:TieredStopAtLevel=1"} <= set(argv)
    assert argv[argv.index("-cp") + 1] == "/site/ts/frontend/*"


def test_properties_escape_backslashes() -> None:
    assert config.render({"a": "x\\y", "b": "^$"}) == "a=x\\\\y\nb=^$\n"


def test_workers_are_counted_by_their_state() -> None:
    described = [{"workers": [{"status": "READY", "pid": 7}, {"status": "UNLOADING", "pid": -1}]}]
    workers = server.parse_workers(200, json.dumps(described).encode(), frozenset({7}), 60.0)
    assert workers is not None
    assert (workers.ready, workers.total, workers.pids, workers.retry_s) == (1, 2, frozenset({7}), 60.0)


def test_one_version_without_a_worker_is_not_ready_and_one_that_is_not_there_never_will_be() -> None:
    up, down = {"workers": [{"status": "READY", "pid": 7}]}, {"workers": [{"status": "UNLOADING", "pid": -1}]}
    both = server.parse_workers(200, json.dumps([up, up]).encode(), frozenset({7, 8}), 60.0, 2)
    one = server.parse_workers(200, json.dumps([up, down]).encode(), frozenset({7}), 60.0, 2)
    gone = server.parse_workers(200, json.dumps([up]).encode(), frozenset({7}), 60.0, 2)
    assert [(state.ready, state.missing) for state in (both, one, gone) if state] == [(2, False), (0, False), (0, True)]


def process(proc: Path, pid: int, parent: int, state: str, *argv: str) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_bytes(b"\0".join(word.encode() for word in argv) + b"\0")
    (proc / str(pid) / "stat").write_text(f"{pid} (a) b) {state} {parent} 1 1", encoding="ascii")


def test_worker_processes_are_the_live_children_of_this_server(tmp_path: Path) -> None:
    worker = ("python", "/site/ts/model_service_worker.py", "--port", "9000")
    process(tmp_path, 10, 1, "S", "java", "-f", "/state/torchserve/config.properties")
    process(tmp_path, 11, 10, "R", *worker)
    process(tmp_path, 12, 10, "Z", *worker)
    process(tmp_path, 13, 10, "R", "nvidia-smi")
    process(tmp_path, 20, 1, "S", "java", "-f", "/other/torchserve/config.properties")
    process(tmp_path, 21, 20, "R", *worker)
    (tmp_path / "99").mkdir()
    assert server.worker_pids(Path("/state/torchserve/config.properties"), tmp_path) == frozenset({11})


def test_a_model_that_is_not_there_is_missing_and_an_error_is_not_an_answer() -> None:
    missing = server.parse_workers(404, b"{}", frozenset(), 60.0)
    assert missing is not None
    assert missing.missing
    assert server.parse_workers(500, b"", frozenset(), 60.0) is None


def unpacked(folder: Path, manifest: str, settings: str | None = None) -> Path:
    (folder / "MAR-INF").mkdir()
    (folder / "MAR-INF" / "MANIFEST.json").write_text(manifest, encoding="utf-8")
    if settings is not None:
        (folder / "model-config.yaml").write_text(settings, encoding="utf-8")
    return folder


def test_the_retry_window_is_the_named_files(tmp_path: Path) -> None:
    named = unpacked(tmp_path, '{"model": {"configFile": "model-config.yaml"}}', "minWorkers: 1\nmaxRetryTimeoutInSec: 60\n")
    assert server.retry_window(named) == 60.0


def test_the_retry_window_of_a_file_that_is_not_named_is_not_read(tmp_path: Path) -> None:
    """TorchServe does not read it either."""
    assert server.retry_window(unpacked(tmp_path, '{"model": {}}', "maxRetryTimeoutInSec: 60\n")) == server.DEFAULT_RETRY_S


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"model": 1}'])
def test_a_folder_that_is_not_an_archive_is_refused(tmp_path: Path, manifest: str) -> None:
    with pytest.raises(SettingsError, match="not an unpacked model archive"):
        server.read_manifest(unpacked(tmp_path, manifest))


def gpu_machine(folder: Path, *, device: bool, cuda: str) -> tuple[Path, Path]:
    (folder / "dev").mkdir()
    (folder / "site" / "torch").mkdir(parents=True)
    if device:
        (folder / "dev" / "nvidia0").touch()
    (folder / "site" / "torch" / "version.py").write_text(
        f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda}\nhip = None\n", encoding="ascii"
    )
    return folder / "site", folder / "dev"


def test_a_gpu_and_a_torch_that_can_use_it_are_required(tmp_path: Path) -> None:
    server.require_gpu(*gpu_machine(tmp_path, device=True, cuda="'13.0'"))


@pytest.mark.parametrize(("device", "cuda", "message"), [(False, "'13.0'", "no GPU is visible"), (True, "None", "without CUDA")])
def test_a_missing_gpu_is_reported(tmp_path: Path, device: bool, cuda: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        server.require_gpu(*gpu_machine(tmp_path, device=device, cuda=cuda))


def test_java_is_taken_from_java_home_first() -> None:
    assert server.find_java({"JAVA_HOME": "/jre"}) == "/jre/bin/java"
