"""Upper bounds: torch alone, and nginx answering by itself, which is the limit of the load generator."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from benchmarks.serving_peers.contract import APPS, Place
from benchmarks.serving_peers.servers import Running, cpu_seconds, environment_of, free_ports, process, wait_correct
from benchmarks.serving_peers.workloads import Workload

NGINX = """daemon off;
worker_processes {cpus};
pid {scratch}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {scratch}/body;
  client_body_buffer_size 1m;
  keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '[0.5, 0.5]'; }} }}
}}
"""


def alone(python: Path, folder: Path, workload: Workload, cpus: int, seconds: float, *, parts: bool = False) -> Any:
    """Run apps/alone.py. Raises: SystemExit with its errors when it fails."""
    place = Place(python, folder, folder, workload, 0, 1 if parts else cpus)
    argv = [str(python), "-m", f"{APPS}.alone", "--seconds", str(seconds), *(["--parts"] if parts else [])]
    done = subprocess.run(argv, env=environment_of(place, processes=1), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"torch alone failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def nginx_program() -> str:
    """Return nginx's path. Raises: SystemExit when it is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("nginx is missing: apt-get install nginx-light")
    return program


@contextmanager
def floor(scratch: Path, cpus: int) -> Iterator[Running]:
    """Run an nginx that answers every request with a fixed text."""
    port = free_ports()
    (scratch / "nginx.conf").write_text(NGINX.format(scratch=scratch, port=port, cpus=cpus))
    with process([nginx_program(), "-p", str(scratch), "-c", str(scratch / "nginx.conf")], {}, scratch) as running:
        wait_correct("nginx", running, scratch, lambda: answers(port))
        yield Running("127.0.0.1", port, lambda: cpu_seconds(running.pid))


def answers(port: int) -> str:
    """Return "" when the answer is 200, otherwise what is wrong."""
    try:
        return "" if requests.post(f"http://127.0.0.1:{port}/", b"[]", timeout=5).status_code == 200 else "not 200"
    except requests.RequestException as error:
        time.sleep(0.05)
        return str(error)
