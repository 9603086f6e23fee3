"""Containers for the tests: a case folder becomes a thin image over the runtime image and is started as in production."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import http.client
import io
import json
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import docker
from docker.models.containers import Container as DockerContainer

MODELS = Path(__file__).parent / "models"
HOME = "/opt/torchrelay"
PYTHON = f"{HOME}/venv/bin/python"
NAME = "model"
PREDICT = f"/predictions/{NAME}"
JSON = "application/json"
PROBLEM = "application/problem+json"
POLL_S = 0.05
T = TypeVar("T")

SERVING: dict[str, Any] = {
    "name": NAME,
    "version": "v1",
    "model_dir": f"{HOME}/models/{NAME}",
    "device": "cpu",
    "workers": 1,
    "batch_size": 1,
    "batch_delay_ms": 1,
    "startup_timeout_s": 60,
    "response_timeout_s": 20,
    "drain_timeout_s": 20,
    "max_body_bytes": 1 << 20,
    "deps_dir": None,
    "warmup": {"content_type": JSON, "body": base64.b64encode(b"{}").decode()},
    "environment": {},
}


class TooLate(AssertionError):
    """An expected event did not happen in time."""


def poll(what: str, look: Callable[[], T | None], seconds: float) -> T:
    """Return the first truthy result of `look`. Raises TooLate, with the last result, when the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise TooLate(f"{what} did not happen within {seconds} s; last result: {seen!r}")
        time.sleep(POLL_S)


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    host: str, port: int, method: str, path: str, body: bytes = b"", content_type: str = JSON, timeout: float = 60.0
) -> Answer:
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body or None, {"Content-Type": content_type})
        response = connection.getresponse()
        return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    archive.addfile(info, io.BytesIO(content))


def model_context(runtime: str, case: str, serving: Mapping[str, Any], model_config: str, requirements: str) -> bytes:
    """Return the build context of a case: the model unpacked, and serving.json."""
    model: dict[str, Any] = {"modelName": NAME, "handler": "handler.py", "modelVersion": "1.0"}
    if requirements:
        model["requirementsFile"] = "requirements.txt"
    if model_config:
        model["configFile"] = "model-config.yaml"
    manifest = {"createdOn": "01/01/2026 00:00:00", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, "Dockerfile", f"FROM {runtime}\nCOPY opt /opt\n".encode())
        add(archive, f"opt/torchrelay/models/{NAME}/MAR-INF/MANIFEST.json", json.dumps(manifest).encode())
        add(archive, f"opt/torchrelay/models/{NAME}/handler.py", (MODELS / case / "handler.py").read_bytes())
        if model_config:
            add(archive, f"opt/torchrelay/models/{NAME}/model-config.yaml", model_config.encode())
        if requirements:
            add(archive, f"opt/torchrelay/models/{NAME}/requirements.txt", requirements.encode())
        add(archive, "opt/torchrelay/serving.json", json.dumps(SERVING | dict(serving)).encode())
    return buffer.getvalue()


class Container:
    """A started container, and requests and commands to it."""

    def __init__(self, raw: DockerContainer) -> None:
        self.raw = raw

    @property
    def id(self) -> str:
        return str(self.raw.id)

    @property
    def address(self) -> str:
        """The container's address on its network, as other containers see it."""
        self.raw.reload()
        networks = self.raw.attrs["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    def send(
        self, method: str, path: str, body: bytes = b"", content_type: str = JSON, port: int = 8080, timeout: float = 60.0
    ) -> Answer:
        return request(self.address, port, method, path, body, content_type, timeout)

    def predict(self, timeout: float = 60.0, **fields: Any) -> Answer:
        return self.send("POST", PREDICT, json.dumps(fields).encode(), timeout=timeout)

    def exec(self, *argv: str) -> tuple[int, str]:
        code, output = self.raw.exec_run(list(argv))
        assert code is not None
        assert isinstance(output, bytes)
        return code, output.decode()

    def python(self, program: str) -> Any:
        """Run a program inside, where loopback is the container's own; it prints JSON."""
        code, output = self.exec(PYTHON, "-c", program)
        assert code == 0, output
        return json.loads(output)

    def inside(self, port: int, path: str, method: str = "GET") -> tuple[int, str]:
        """Send a request to a port of the container's loopback interface."""
        program = (
            "import http.client, json\n"
            f"c = http.client.HTTPConnection('127.0.0.1', {port}, timeout=20)\n"
            f"c.request({method!r}, {path!r})\n"
            "r = c.getresponse()\n"
            "print(json.dumps([r.status, r.read().decode()]))\n"
        )
        status, body = self.python(program)
        return status, body

    def ready(self) -> dict[str, Any]:
        """The status that probe.py --ready prints."""
        code, output = self.exec(PYTHON, "-P", "-m", "torchrelay_runtime.probe", "--ready")
        status: dict[str, Any] = json.loads(output)
        assert (code == 0) == status["ready"], output
        return status

    def wait_ready(self, seconds: float = 60.0) -> Container:
        def look() -> bool | None:
            assert self.running(), f"the container ended with {self.exit_code()} before it was ready"
            return self.ready()["ready"] or None

        poll("the container's readiness", look, seconds)
        return self

    def running(self) -> bool:
        self.raw.reload()
        return bool(self.raw.attrs["State"]["Running"])

    def exit_code(self) -> int:
        return int(self.raw.attrs["State"]["ExitCode"])

    def wait_exit(self, seconds: float) -> int:
        poll("the container's end", lambda: not self.running() or None, seconds)
        return self.exit_code()

    def logs(self) -> str:
        return self.raw.logs().decode(errors="replace")

    def server_pid(self) -> int:
        """The pid of the server's own process: the child of PID 1 that is not the front."""
        program = (
            "import json, pathlib\n"
            "found = []\n"
            "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
            "    try:\n"
            "        stat = (p / 'stat').read_text().rsplit(')', 1)[1].split()\n"
            "        name = (p / 'cmdline').read_bytes().split(b'\\0')[0].decode()\n"
            "    except OSError: continue\n"
            "    if stat[1] == '1' and name and 'nginx' not in name and stat[0] != 'Z': found.append(int(p.name))\n"
            "print(json.dumps(found))\n"
        )
        (pid,) = self.python(program)
        return int(pid)


@contextmanager
def persistent_connections(container: Container, count: int = 4) -> Iterator[list[str]]:
    """Run clients that keep their connection until an answer closes it; yields the list of their failures."""
    failures: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection(container.address, 8080, timeout=30)
        while not stop.is_set():
            try:
                connection.request("POST", PREDICT, b"{}", {"Content-Type": JSON})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    failures.append(str(answer.status))
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                connection.close()
            stop.wait(0.05)  # idle for most of the time: an idle connection is the one that is closed
        connection.close()

    clients = [threading.Thread(target=ask) for _ in range(count)]
    for client in clients:
        client.start()
    try:
        yield failures
    finally:
        stop.set()
        for client in clients:
            client.join(30)


class Factory:
    """Starts containers and removes them, printing their logs if a test failed."""

    def __init__(self, client: docker.DockerClient, runtime: str, server: str, images: set[str] | None = None) -> None:
        self.client = client
        self.runtime = runtime
        self.server = server
        self.images = set() if images is None else images
        self.started: list[Container] = []

    def image(self, case: str, serving: Mapping[str, Any], model_config: str, requirements: str) -> str:
        return self.build(model_context(self.runtime, case, serving, model_config, requirements))

    def archive_image(self, files: Mapping[str, bytes], serving: Mapping[str, Any]) -> str:
        """Return the tag of an image that serves an archive's files, unpacked over the runtime image."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            add(archive, "Dockerfile", f"FROM {self.runtime}\nCOPY opt /opt\n".encode())
            for name, content in files.items():
                add(archive, f"opt/torchrelay/models/{NAME}/{name}", content)
            add(archive, "opt/torchrelay/serving.json", json.dumps(SERVING | dict(serving)).encode())
        return self.build(buffer.getvalue())

    def changed(self, tag: str, files: Mapping[str, str]) -> str:
        """Return the tag of an image with other contents of some of its files; compiled ones do not count there."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            copies = "".join(f"COPY file{number} {path}\n" for number, path in enumerate(files))
            add(archive, "Dockerfile", f"FROM {tag}\nENV PYTHONPYCACHEPREFIX=/none\n{copies}".encode())
            for number, content in enumerate(files.values()):
                add(archive, f"file{number}", content.encode())
        return self.build(buffer.getvalue())

    def build(self, context: bytes) -> str:
        tag = f"torchrelay-test/case:{hashlib.sha256(context).hexdigest()[:16]}"
        try:
            self.client.images.get(tag)
        except docker.errors.ImageNotFound:
            self.images.add(tag)
            self.client.images.build(fileobj=io.BytesIO(context), custom_context=True, tag=tag, rm=True)
        return tag

    def __call__(
        self,
        case: str = "answers_as_requested",
        *,
        serving: Mapping[str, Any] | None = None,
        model_config: str = "",
        requirements: str = "",
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        user: str = "1000",
        network: str = "bridge",
        read_only: bool = True,
        cpus: float = 1.0,
        name: str | None = None,
    ) -> Container:
        return self.start(
            self.image(case, serving or {}, model_config, requirements), command, environment, user, network, read_only, cpus, name
        )

    def start(
        self,
        image: str,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        user: str = "1000",
        network: str = "bridge",
        read_only: bool = True,
        cpus: float = 1.0,
        name: str | None = None,
    ) -> Container:
        raw = self.client.containers.run(
            image,
            list(command),
            detach=True,
            name=name,
            environment={"TORCHRELAY_SERVER": self.server, **(environment or {})},
            user=user,
            network=network,
            read_only=read_only,
            tmpfs={"/tmp": ""} if read_only else None,  # noqa: S108 -- inside the container
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            nano_cpus=int(cpus * 1e9),
            mem_limit="2g",
        )
        self.started.append(Container(raw))
        return self.started[-1]

    def remove_all(self, *, show: bool) -> None:
        for container in self.started:
            if show:
                print(f"--- log of {container.raw.name} ({container.raw.attrs['Config']['Image']})\n{container.logs()}")
            container.raw.remove(force=True, v=True)
        self.started.clear()
