"""The front proxy: nginx's configuration, its start, and `front.py switch HOST:PORT`, which points a running front elsewhere.

It adds what the server behind it lacks: time-outs for headers and bodies, limits by size and number, honest /ping, an access log,
problem documents, 503 with Retry-After, and an end that lets requests in flight finish.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from torchrelay_runtime.nginx import CLOSING, CONFIG, PID, SOCKET, Front, render
from torchrelay_runtime.settings import SettingsError, state_dir
from torchrelay_runtime.state import CANCELLED, replace

PLAIN = re.compile(r"[A-Za-z0-9._/-]+")
SETTLE_S = 1.0  # time for active clients to send one more request and get `Connection: close`
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9][A-Za-z0-9_.-]*):(\d{1,5})")


def nginx() -> str:
    """Return the nginx program; /usr/sbin is on few users' PATH."""
    return shutil.which("nginx") or "/usr/sbin/nginx"


def command(state: Path) -> list[str]:
    """Return the command of nginx; `-e` because it would open its compiled-in log file first."""
    return [nginx(), "-e", "stderr", "-p", str(state), "-c", str(state / CONFIG)]


def prepare(front: Front) -> None:
    """Write the configuration and make the folders; a socket left by a killed container would be "in use".

    Raises: SettingsError.
    """
    if not PLAIN.fullmatch(str(front.state)):
        raise SettingsError(f"TORCHRELAY_STATE is {front.state}, and nginx's configuration takes letters, digits and ._-/ only")
    for name in ("nginx", CANCELLED):
        (front.state / name).mkdir(parents=True, exist_ok=True)
    (front.state / SOCKET).unlink(missing_ok=True)
    (front.state / CLOSING).unlink(missing_ok=True)
    replace(front.state / CONFIG, render(front))


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(state: Path, path: str) -> str | None:
    """Return the running front's reply to GET `path` on its socket, None when it does not answer."""
    connection = UnixConnection(state / SOCKET, timeout=5.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode("ascii")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def parse_connections(counters: str) -> int:
    """Return the connections that are open, from stub_status's text, without the connection that asks."""
    match = re.search(r"Active connections:\s*(\d+)", counters)
    if not match:
        raise ValueError(f"not the text of stub_status: {counters!r}")
    return max(0, int(match.group(1)) - 1)


def parse_in_flight(counters: str) -> int:
    """Return the requests being read, answered or waited for, from stub_status's text, without the connection that asks."""
    match = re.search(r"Writing:\s*(\d+)", counters)
    if not match:
        raise ValueError(f"not the text of stub_status: {counters!r}")
    return max(0, int(match.group(1)) - 1)


def in_flight(state: Path) -> int | None:
    """Return the number of requests in flight, None when the front does not answer."""
    counters = ask(state, "/counters")
    return None if counters is None else parse_in_flight(counters)


def parse_address(text: str) -> str:
    """Return `text` if it is HOST:PORT, for argparse."""
    match = ADDRESS.fullmatch(text)
    if not match or not 0 < int(match.group(2)) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def accepting(master: int) -> set[int]:
    """Return the pids of nginx's workers that take new connections; a stopping one has another title."""
    workers = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()[1])
            title = (process / "cmdline").read_bytes().rstrip(b"\0 ")
        except OSError:
            continue
        if parent == master and title == b"nginx: worker process":
            workers.add(int(process.name))
    return workers


def switch(state: Path, front: Front, deadline_s: float = 15.0) -> str | None:
    """Point the running front at `front.inference`; returns what went wrong, or None once every new request goes there.

    Requests in flight finish where they are; kept connections get `Connection: close` before nginx cuts them. nginx starts new
    workers before the old ones stop accepting, so this waits for both.
    """
    config = state / CONFIG
    before = config.read_text(encoding="utf-8")
    replace(config, render(front))
    checked = subprocess.run([*command(state), "-t", "-q"], capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        replace(config, before)
        return checked.stderr.strip()
    (state / CLOSING).touch()
    try:
        if parse_connections(ask(state, "/counters") or "Active connections: 2"):
            time.sleep(SETTLE_S)
        return reload(state, front, before, deadline_s)
    finally:
        (state / CLOSING).unlink(missing_ok=True)


def reload(state: Path, front: Front, before: str, deadline_s: float) -> str | None:
    """Make nginx load the new configuration; if it does not, restore `before`."""
    config = state / CONFIG
    master = int((state / PID).read_text(encoding="ascii"))
    old = accepting(master)
    os.kill(master, signal.SIGHUP)
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if ask(state, "/generation") == front.generation and not accepting(master) & old:
            return None
        time.sleep(0.05)
    replace(config, before)
    return f"nginx did not take up the new configuration within {deadline_s:.0f} s"


def main(argv: list[str]) -> int:
    """Run `front.py switch HOST:PORT`."""
    parser = argparse.ArgumentParser(prog="front.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    other = verbs.add_parser("switch", help="send new requests to another container")
    other.add_argument("upstream", type=parse_address)
    other.add_argument("--max-body-bytes", type=int, help="the largest body that it takes; default: as before")
    arguments = parser.parse_args(argv)
    state = state_dir(os.environ)
    saved = json.loads((state / "front.json").read_text(encoding="utf-8"))
    changed = {"inference": arguments.upstream} | (
        {"max_body_bytes": arguments.max_body_bytes} if arguments.max_body_bytes is not None else {}
    )
    front = Front(**saved | changed | {"state": state, "generation": f"{arguments.upstream}@{time.time_ns()}"})
    if problem := switch(state, front):
        print(f"torchrelay: the front still serves {saved['inference']}: {problem}", file=sys.stderr)
        return 1
    replace(state / "front.json", json.dumps(saved | changed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
