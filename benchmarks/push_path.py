"""Measures the way from new weights to a registry: torchrelay, the usual recipe by hand and a lower bound, in one run.

Torchrelay's figure is one `torchrelay relay` without its verify and deploy, which the recipe does not have. The recipe is
torch-model-archiver, `docker build` of an image that copies the .mar, and `docker push`. The lower bound is one sha256 pass by
OpenSSL plus one copy of the weights. Verify's load of the image into Docker is timed separately. The registry is docker-registry on
loopback; for both sides it has the base layers beforehand. Cold start is the time from `docker run` to the first correct answer.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import requests
import torch
from rich.console import Console
from rich.table import Table

from torchrelay.core.log import configure_logging
from torchrelay.core.progress import progress
from torchrelay.image.runtime import RuntimeSettings, ensure_runtime, inputs_digest, tag_of

COLUMNS = 1024
MODEL = """
import torch

class Wide(torch.nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.table = torch.nn.Parameter(torch.empty(rows, 1024))
    def forward(self, x):
        return x @ self.table[:4].T[: x.shape[-1]]

def init_function(rows):
    with torch.device("meta"):
        model = Wide(rows)
    return model.to_empty(device="cpu")
"""
RECIPE_HANDLER = """
import torch, json
from model import Wide
from ts.torch_handler.base_handler import BaseHandler

class Recipe(BaseHandler):
    def initialize(self, context):
        folder = context.system_properties["model_dir"]
        state = torch.load(f"{folder}/{context.manifest['model']['serializedFile']}", weights_only=True)
        self.model = Wide(state["table"].shape[0])
        self.model.load_state_dict(state)
        self.initialized = True
    def handle(self, data, context):
        body = data[0].get("body")
        with torch.inference_mode():
            return self.model(torch.tensor([body["input_data"]])).tolist()
"""
BODY = {"input_data": [0.5, -1.0, 2.0, 0.25]}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def run(argv: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, text=True, capture_output=True, check=False, **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done


def cli(*arguments: str) -> dict[str, Any]:
    done = run([sys.executable, "-m", "torchrelay", *arguments, "--json"])
    return dict(json.loads(done.stdout))


def peak_mib(argv: list[str]) -> tuple[float, float]:
    """Return the seconds and the peak resident memory (MiB) of one process."""
    usage = "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    script = f"import resource,subprocess,sys;subprocess.run(sys.argv[1:],check=True,stdout=2);{usage}"
    seconds, done = timed(lambda: run([sys.executable, "-c", script, *argv]))
    return seconds, int(done.stdout.split()[-1]) / 1024


def make_model(folder: Path, gib: float) -> Path:
    """Write a model directory with new random weights; the sample's answer depends on their first rows."""
    folder.mkdir(parents=True)
    rows = int(gib * (1 << 30) / 4 / COLUMNS)
    table = torch.randint(-(2**31), 2**31 - 1, (rows, COLUMNS), dtype=torch.int32).view(torch.float32)
    table[:4, :4] = torch.randn(4, 4)
    table = torch.nan_to_num_(table, 0.0, 0.0, 0.0)
    torch.save({"table": table}, folder / "model.pt")
    (folder / "model.py").write_text(MODEL)
    memory = f"{int(2 * gib) + 2}Gi"
    (folder / "model.yaml").write_text(
        f"name: wide\nversion: '1.0'\nweights: model.pt\nhandler: tensor\nmodel_file: model.py\ninit_args: {{rows: {rows}}}\n"
        f"batch: {{size: 4}}\nresources: {{cpu: 2, memory: {memory}}}\ntargets: {{docker: {{port: 18080}}}}\n"
    )
    expected = (torch.tensor([BODY["input_data"]]) @ table[:4].T[:4]).tolist()[0]
    sample = {"request": {"json": BODY}, "expect": {"json": expected, "compare": "numeric", "rtol": 1e-3, "atol": 1e-3}}
    (folder / "samples").mkdir()
    (folder / "samples" / "one.json").write_text(json.dumps(sample))
    return folder


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    port = free_port()
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\n"
    )
    program = shutil.which("docker-registry") or sys.exit("docker-registry is missing: apt-get install docker-registry")
    process = subprocess.Popen([program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(lambda: requests.get(f"http://127.0.0.1:{port}/v2/", timeout=1).ok, 20)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(ready: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except requests.RequestException:
            pass
        time.sleep(0.02)
    sys.exit(f"not ready after {seconds} s")


def is_correct(answer: requests.Response, expected: list[float]) -> bool:
    """Return whether an answer of either server has the expected numbers."""
    if answer.status_code != 200:
        return False
    numbers = answer.json()
    numbers = numbers[0] if isinstance(numbers[0], list) else numbers
    return all(abs(a - b) <= 1e-3 + 1e-3 * abs(b) for a, b in zip(numbers, expected, strict=True))


def cold_start(image: str, name: str, memory: str, expected: list[float]) -> float:
    """Return the seconds from `docker run` to the first correct answer."""
    client = docker.from_env(timeout=600)
    port = free_port()
    begin = time.perf_counter()
    container = client.containers.run(
        image, detach=True, ports={"8080/tcp": ("127.0.0.1", port)}, mem_limit=memory, shm_size="256m"
    )
    try:
        url = f"http://127.0.0.1:{port}/predictions/{name}"
        wait(lambda: is_correct(requests.post(url, json=BODY, timeout=60), expected), 300)
        return time.perf_counter() - begin
    finally:
        container.remove(force=True, v=True)


def floor(weights: Path) -> dict[str, float]:
    copy = weights.with_suffix(".copy")
    os.sync()
    sha, _ = timed(lambda: run(["openssl", "dgst", "-sha256", str(weights)]))
    copied, _ = timed(lambda: run(["cp", str(weights), str(copy)]))
    copy.unlink()
    return {"sha256_s": sha, "copy_s": copied}


def recipe(model_dir: Path, folder: Path, host: str, runtime: str) -> dict[str, Any]:
    """Do by hand what TorchServe's documentation describes, on the same base image."""
    folder.mkdir()
    (folder / "handler.py").write_text(RECIPE_HANDLER)
    archive = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "wide", "--version", "1.0",
               "--serialized-file", str(model_dir / "model.pt"), "--model-file", str(model_dir / "model.py"),
               "--handler", str(folder / "handler.py"), "--export-path", str(folder)]  # fmt: skip
    os.sync()
    archive_s, _ = timed(lambda: run(archive))
    (folder / "config.properties").write_text(
        "inference_address=http://0.0.0.0:8080\nmanagement_address=http://127.0.0.1:8081\nmetrics_address=http://127.0.0.1:8082\n"
        "disable_token_authorization=true\ndefault_workers_per_model=1\ndefault_response_timeout=300\n"
    )
    (folder / "Dockerfile").write_text(
        f"FROM {runtime}\nCOPY config.properties /home/\nCOPY wide.mar /home/store/\nENTRYPOINT []\nHEALTHCHECK NONE\n"
        'CMD ["torchserve", "--foreground", "--ncs", "--model-store", "/home/store", "--models", "wide=wide.mar", '
        '"--ts-config", "/home/config.properties"]\n'
    )
    tag = f"{host}/recipe/wide:1.0"
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    build_s, _ = timed(lambda: run(["docker", "build", "-q", "-t", tag, str(folder)], env=environment))
    push_s, _ = timed(lambda: run(["docker", "push", "-q", tag]))
    return {"archive_s": archive_s, "build_s": build_s, "push_s": push_s, "tag": tag}


def torchrelay(model_dir: Path, host: str) -> dict[str, Any]:
    """Time one `torchrelay relay`: the stages by its own clock; the start and end of the process count as archive."""
    os.sync()
    total, done = timed(lambda: cli("relay", str(model_dir), "--repository", f"{host}/torchrelay/wide", "--target", "docker"))
    rows = {row["stage"]: row for row in done["stages"]}
    seconds = {name: row["seconds"] for name, row in rows.items()}
    return {
        "archive_s": total - sum(seconds[name] for name in ("build", "verify", "push", "deploy")),
        "build_s": seconds["build"],
        "push_s": seconds["push"],
        "verify_s": seconds["verify"],
        "verify_load_s": rows["verify"]["load_s"],
        "deploy_s": seconds["deploy"],
        "pushed_bytes": done["pushed"]["bytes"],
        "config": rows["build"]["config_digest"],
        "stages": seconds,
    }


def unchanged(model_dir: Path, host: str) -> dict[str, Any]:
    """Time a relay without changes, and one after an edit of the model file."""
    client = docker.from_env()
    where = f"{host}/torchrelay/wide"
    before = sorted(str(one.id) for one in client.containers.list(filters={"name": "torchrelay-wide"}))
    seconds, again = timed(lambda: cli("relay", str(model_dir), "--repository", where, "--target", "docker"))
    after = sorted(str(one.id) for one in client.containers.list(filters={"name": "torchrelay-wide"}))
    with (model_dir / "model.py").open("a") as file:
        file.write("\n# edited\n")
    edit_s, edited = timed(lambda: cli("relay", str(model_dir), "--repository", f"{where}:edited", "--target", "docker"))
    cli("delete", str(model_dir), "--target", "docker")
    return {
        "unchanged_s": seconds,
        "unchanged_bytes": again["pushed"]["bytes"],
        "restarted": before != after,
        "edit_bytes": edited["pushed"]["bytes"],
        "edit_s": edit_s,
    }


def archive_alone(folder: Path, gib: float) -> dict[str, float]:
    """Time `torchrelay archive`, after fetch, and a stored zip by the standard library, in turn, as whole processes."""
    model_dir = make_model(folder / f"alone-{gib}", gib)
    weights, zipped = model_dir / "model.pt", folder / "stored.zip"
    script = "import sys,zipfile;z=zipfile.ZipFile(sys.argv[2],'w',zipfile.ZIP_STORED);z.write(sys.argv[1],'model.pt');z.close()"
    zips, archives, peaks = [], [], []
    for _ in range(3):
        shutil.rmtree(model_dir / ".torchrelay", ignore_errors=True)
        zipped.unlink(missing_ok=True)
        os.sync()
        zips.append(timed(lambda: run([sys.executable, "-c", script, str(weights), str(zipped)]))[0])
        zipped.unlink()
        cli("fetch", str(model_dir))
        os.sync()
        seconds, peak = peak_mib([sys.executable, "-m", "torchrelay", "archive", str(model_dir)])
        archives.append(seconds)
        peaks.append(peak)
    shutil.rmtree(model_dir)
    return {
        "gib": gib,
        "archive_s": sorted(archives)[1],
        "zip_s": sorted(zips)[1],
        "ratio": sorted(archives)[1] / sorted(zips)[1],
        "peak_mib": max(peaks),
    }


def push_path(figures: dict[str, Any], folder: Path, tag: str, *, recipe_too: bool) -> None:
    gib = figures["gib"]
    with registry(folder) as host:
        small = make_model(folder / "small", 0.001)
        cli("verify", str(small))
        cli("push", str(small), "--repository", f"{host}/torchrelay/wide:base")
        model_dir = make_model(folder / "wide", gib)
        figures["floor"] = floor(model_dir / "model.pt")
        figures["torchrelay"] = torchrelay(model_dir, host)
        if recipe_too:
            run(["docker", "tag", tag, f"{host}/recipe/wide:base"])
            run(["docker", "push", "-q", f"{host}/recipe/wide:base"])
            figures["recipe"] = recipe(model_dir, folder / "recipe", host, tag)
            memory = f"{int(4 * gib) + 3}g"
            expected = json.loads((model_dir / "samples" / "one.json").read_text())["expect"]["json"]
            relay_start = sorted(cold_start(figures["torchrelay"]["config"], "wide", memory, expected) for _ in range(3))[1]
            theirs = sorted(cold_start(figures["recipe"]["tag"], "wide", memory, expected) for _ in range(3))[1]
            figures["cold_start"] = {"torchrelay_s": relay_start, "stock_s": theirs, "ratio": relay_start / theirs}
        figures["again"] = unchanged(model_dir, host)
    shutil.rmtree(folder / "registry")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="size of the weights; 0: only the archive")
    parser.add_argument("--slope", default="0.1,1,4", help="sizes in GiB for the archive")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--no-recipe", action="store_true", help="skip the recipe and the cold starts")
    options = parser.parse_args()
    configure_logging(verbose=False)
    settings = RuntimeSettings.from_environment("cpu")
    runtime = ensure_runtime(settings, progress())
    tag = tag_of(inputs_digest(settings))
    figures: dict[str, Any] = {
        "gib": options.gib,
        "cpus": os.cpu_count(),
        "runtime_compressed_mb": sum(layer.blob.size for layer in runtime.layers) / 1e6,
    }
    with tempfile.TemporaryDirectory(dir=os.environ.get("TORCHRELAY_BENCH_DIR")) as scratch:
        folder = Path(scratch)
        if options.gib:
            push_path(figures, folder, tag, recipe_too=not options.no_recipe)
        figures["archive"] = [archive_alone(folder, float(size)) for size in options.slope.split(",") if size]
    summarise(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def summarise(figures: dict[str, Any]) -> None:
    console = Console(width=140)
    if figures["gib"]:
        summarise_push(console, figures)
    for row in figures["archive"]:
        name = f"archive of {row['gib']:g} GiB"
        text = "{archive_s:.2f} s, stored zip {zip_s:.2f} s, ratio {ratio:.2f}, peak {peak_mib:.0f} MiB".format(**row)
        console.print(f"{name:28} {text}")


def summarise_push(console: Console, figures: dict[str, Any]) -> None:
    mine, bottom = figures["torchrelay"], figures["floor"]
    figures["torchrelay_s"] = mine["archive_s"] + mine["build_s"] + mine["push_s"]
    figures["floor_s"] = bottom["sha256_s"] + bottom["copy_s"]
    figures["over_floor"] = figures["torchrelay_s"] / figures["floor_s"]
    theirs = figures.get("recipe")
    if theirs:
        figures["recipe_s"] = theirs["archive_s"] + theirs["build_s"] + theirs["push_s"]
        figures["speedup"] = figures["recipe_s"] / figures["torchrelay_s"]
    table = Table(title=f"{figures['gib']:g} GiB of new weights to a registry on loopback, {figures['cpus']} CPUs, seconds")
    for column in ("", "archive", "build", "push", "sum", "verify's load, separate"):
        table.add_column(column, justify="right")
    for name, row in (("torchrelay", mine), ("recipe", theirs)):
        if row:
            total = row["archive_s"] + row["build_s"] + row["push_s"]
            load = f"{row['verify_load_s']:.1f}" if "verify_load_s" in row else "-"
            table.add_row(name, f"{row['archive_s']:.2f}", f"{row['build_s']:.2f}", f"{row['push_s']:.2f}", f"{total:.2f}", load)
    table.add_row("floor", f"sha256 {bottom['sha256_s']:.2f}", f"copy {bottom['copy_s']:.2f}", "", f"{figures['floor_s']:.2f}", "")
    console.print(table)
    lines = {
        "speedup over the recipe": f"{figures['speedup']:.1f}" if theirs else "-",
        "times the floor": f"{figures['over_floor']:.2f}",
        "runtime image, gzip'd MB": f"{figures['runtime_compressed_mb']:.0f}",
        "nothing changed": "{unchanged_s:.2f} s, {unchanged_bytes} bytes pushed, restarted: {restarted}".format(**figures["again"]),
        "after an edit of model.py": "{edit_bytes} bytes pushed".format(**figures["again"]),
    }
    if "cold_start" in figures:
        lines["cold start"] = "{torchrelay_s:.1f} s, stock {stock_s:.1f} s, ratio {ratio:.2f}".format(**figures["cold_start"])
    for name, value in lines.items():
        console.print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
