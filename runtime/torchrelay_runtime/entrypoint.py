"""PID 1 of the container: starts the server and the front, publishes readiness, drains on TERM, dies when the server dies.

entrypoint.py [serve]                        the model's container (SageMaker passes `serve`)
entrypoint.py front --upstream HOST:PORT     the front alone, before another container (see front.py switch); --max-body-bytes: the
                                             largest body that it forwards
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from torchrelay_runtime import front
from torchrelay_runtime.contract import Server, load_server
from torchrelay_runtime.limits import read_limits
from torchrelay_runtime.nginx import Front, front_of
from torchrelay_runtime.processes import Child, Children
from torchrelay_runtime.readiness import Readiness
from torchrelay_runtime.settings import Serving, Settings, SettingsError, own_bind, own_port, read_settings, state_dir
from torchrelay_runtime.state import (
    OWN_TEMPORARY,
    READY,
    STATUS,
    Status,
    forget_cancelled,
    prepare_draining,
    start_draining,
    write_status,
)

REFUSED = 2  # the configuration of the container is invalid
LARGEST_FRONT = 4 << 30  # bytes of memory that a front alone reckons with
SERVER_STOP_S = 5.0  # of the drain time, reserved for the server's own end


def log(message: str) -> None:
    """Write a line to the container's log, which may be a file on a full disk."""
    with contextlib.suppress(OSError):
        print(f"torchrelay: {message}", file=sys.stderr, flush=True)


def make_state(state: Path) -> None:
    """Make the state folder, or empty it: files of an earlier start do not apply to this one.

    status.json marks the folder as the runtime's: it is written first and replaced last, so a start cut short blocks no later one.

    Raises: SettingsError when it cannot be written, or holds other files.
    """
    try:
        state.mkdir(parents=True, mode=0o700, exist_ok=True)
        left = list(state.iterdir())
        foreign = [path.name for path in left if not OWN_TEMPORARY.fullmatch(path.name)]
        if foreign and STATUS not in foreign:
            raise SettingsError(
                f"TORCHRELAY_STATE is {state}, which holds other files, such as {foreign[0]}: use a separate folder"
            )
        for path in left:
            if path.name == STATUS:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        write_status(state, Status(ready=False, reason="the server is starting"))
        prepare_draining(state)
    except OSError as error:
        raise SettingsError(f"{state} cannot be written ({error.strerror}): give the container a writable /tmp") from error


def as_root() -> bool:
    """Say whether this is uid 0, which SageMaker asks for and nginx treats differently."""
    return os.geteuid() == 0


def exit_code(code: int) -> int:
    """Return the exit code after a child ended unasked: never 0, because nothing serves any more."""
    return code or 1


def headline(status: Status, seconds: float) -> str:
    """Return the log line for a change of status."""
    if status.ready:
        return f"ready after {seconds:.1f} s"
    return f"{'failed' if status.failed else 'not ready'}: {status.reason}"


def watch(server: Server, settings: Settings, stop: threading.Event, note_broken: Callable[[], None]) -> None:
    """Publish readiness until `stop`; a bug here withdraws "ready" and ends the container."""
    try:
        publish(server, settings, stop)
    except Exception as error:
        reason = f"the watch over the server broke: {error!r}"
        log(reason)
        with contextlib.suppress(OSError):
            write_status(settings.state, Status(ready=False, reason=reason, failed=True))
        raise
    finally:
        if not stop.is_set():
            note_broken()


def publish(server: Server, settings: Settings, stop: threading.Event) -> None:
    """Poll the workers and write down every change; a failed write is tried again at the next poll."""
    started = time.monotonic()
    machine = Readiness(needs_answer=settings.serving.warmup is not None, started=started)
    published: Status | None = None
    complained = False
    longest_s = 4.0 * settings.serving.response_timeout_s  # a request is answered or refused long before
    while not stop.is_set():
        try:
            machine.saw_workers(time.monotonic(), server.workers(settings))
            if machine.wants_answer(time.monotonic()):
                answer = server.predict(settings)
                machine.saw_answer(time.monotonic(), answer)
            status = machine.status
            if status != published:
                write_status(settings.state, status)
                if published is None or status.ready != published.ready or status.failed:
                    log(headline(status, time.monotonic() - started))
                published = status
            complained = False
        except OSError as error:  # such as a full disk
            published = None  # a part may be written, so write all of it again
            with contextlib.suppress(OSError):
                (settings.state / READY).unlink(missing_ok=True)
            if not complained:
                log(f"not ready until it can be written down: {error}")
            complained = True
        forget_cancelled(settings.state, time.time() - longest_s)
        stop.wait(machine.poll_s)


def shut_down(children: Children, server: Child | None, proxy: Child | None, drain_s: float) -> None:
    """Let requests in flight finish, then stop the server; a second TERM or Ctrl-C cuts it short."""
    asked = children.stops
    deadline = time.monotonic() + drain_s
    if proxy is not None:
        proxy.signal(signal.SIGQUIT)  # nginx's graceful end
        children.wait_until(lambda: proxy.code is not None or children.stops > asked, max(0.0, drain_s - SERVER_STOP_S))
        if proxy.code is None:
            log("requests were still in flight at the end of the drain time")
            proxy.kill_group()
    if server is not None:
        server.signal(signal.SIGTERM)
        children.wait_until(lambda: server.code is not None or children.stops > asked, max(1.0, deadline - time.monotonic()))
        server.kill_group()


def supervise(
    children: Children, server: Child | None, proxy: Child | None, state: Path, drain_s: float, stop: threading.Event
) -> int:
    """Wait for TERM, for a child's end or for the watch's end, set `stop`, and return the exit code."""
    running = [child for child in (server, proxy) if child is not None]
    children.wait_until(lambda: children.stops > 0 or children.broken or any(child.code is not None for child in running))
    stop.set()
    start_draining(state)
    dead = next((child for child in running if child.code is not None), None)
    if dead is not None and not children.stops:
        log(f"{dead.name} ended with code {dead.code}, so the container ends")
        for child in running:
            child.kill_group()
        return exit_code(dead.code or 0)
    log("stopping: requests in flight are finished first")
    asked = children.stops > 0
    shut_down(children, server, proxy, drain_s)
    return 0 if asked else exit_code(0)


def serve(children: Children) -> int:
    """Run the model's server and its front."""
    env = dict(os.environ)
    settings = read_settings(env)
    limits = read_limits()
    make_state(settings.state)
    adapter = load_server(settings.server)
    launch = adapter.prepare(settings, limits, env)
    proxy = None
    if settings.front == "nginx":
        budget = adapter.body_budget(settings, limits)
        config = front_of(settings, adapter.upstream(settings), limits.threads, budget, as_root=as_root())
        front.prepare(config)
        proxy = children.start("the front proxy", front.command(settings.state))
    server = children.start(f"the server ({settings.server})", launch.argv, launch.env, launch.cwd)
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(adapter, settings, stop, children.note_broken), daemon=True)
    watcher.start()
    return supervise(children, server, proxy, settings.state, float(settings.serving.drain_timeout_s), stop)


def serve_front(children: Children, upstream: str, max_body_bytes: int) -> int:
    """Run the front alone."""
    state = state_dir(os.environ)
    make_state(state)
    memory = read_limits().memory or LARGEST_FRONT
    config = Front(
        state=state,
        bind=own_bind(os.environ, "nginx"),
        port=own_port(os.environ),
        inference=upstream,
        max_body_bytes=max_body_bytes,
        body_budget=min(memory, LARGEST_FRONT) // 6,  # its files are three times that
        as_root=as_root(),
    )
    front.prepare(config)
    (state / "front.json").write_text(json.dumps(asdict(replace(config, state=Path())), default=str), encoding="utf-8")
    proxy = children.start("the front proxy", front.command(state))
    write_status(state, Status(ready=True, reason="ready"))
    return supervise(children, None, proxy, state, float(config.drain_timeout_s), threading.Event())


def main(argv: list[str]) -> int:
    """Run the verb in `argv`."""
    parser = argparse.ArgumentParser(
        prog="entrypoint.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb")
    verbs.add_parser("serve", help="serve the model (the default)")
    alone = verbs.add_parser("front", help="the front alone")
    alone.add_argument("--upstream", required=True, type=front.parse_address)
    alone.add_argument("--max-body-bytes", type=int, default=Serving.max_body_bytes)
    arguments = parser.parse_args(argv)
    children = Children()  # first of all: PID 1 ignores every signal that it has no handler for
    try:
        if arguments.verb == "front":
            return serve_front(children, arguments.upstream, arguments.max_body_bytes)
        return serve(children)
    except SettingsError as error:
        log(str(error))
        return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
