"""fetch against a real HTTP server on loopback: failures of the server, the network and the disk, and their results."""

import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

import torchrelay
from tests import messages
from tests.errors import fails
from tests.integration.weights_server import Handler, WeightsServer, reset, serving, status, truncated
from torchrelay.core.errors import DiskFull, UnsafeName, WeightsChanged, WeightsMissing
from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.stages import fetch
from torchrelay.stages.fetch import Fetched
from torchrelay.weights.download import Download, Patience
from torchrelay.weights.sources import Stream

CONTENT = bytes(range(256)) * 12_000  # 3 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(stall_s=20, first_wait_s=0.01, longest_wait_s=0.05)
IMPATIENT = Patience(stall_s=0.3, first_wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with serving(CONTENT) as running:
        yield running


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def model(uri: str, sha256: str | None = None) -> Model:
    return Model.model_validate({"name": "m", "handler": "tensor", "weights": {"uri": uri, "sha256": sha256}})


def get(
    server: WeightsServer,
    model_dir: Path,
    cache: Path,
    *,
    path: str = "/model.pt",
    sha256: str | None = None,
    patience: Patience = QUICK,
    update_lock: bool = False,
) -> Fetched:
    wanted = model(server.url + path, sha256)
    return fetch.run(model_dir, wanted, cache=cache, progress=Quiet(), update_lock=update_lock, patience=patience)


def parts(cache: Path) -> list[Path]:
    return sorted((cache / "weights").rglob("*.part"))


def test_weights_are_complete_cached_by_digest_and_locked(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    fetched = get(server, model_dir, cache)
    assert fetched == Fetched(cache / "weights" / SHA256 / "model.pt", len(CONTENT), SHA256, server.url + "/model.pt", cached=False)
    assert fetched.path.read_bytes() == CONTENT
    assert parts(cache) == []
    assert json.loads((model_dir / "weights.lock").read_text()) == {
        "source": server.url + "/model.pt",
        "size": len(CONTENT),
        "sha256": SHA256,
        "version": server.current_etag().strip('"'),
    }


def test_a_cached_file_needs_no_network_and_keeps_the_lock(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    get(server, model_dir, cache)
    before = (model_dir / "weights.lock").read_bytes()
    asked = len(server.asked)
    again = get(server, model_dir, cache)
    assert again.cached
    assert len(server.asked) == asked
    assert (model_dir / "weights.lock").read_bytes() == before


def test_a_damaged_cache_entry_is_fetched_again(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    path = get(server, model_dir, cache).path
    path.write_bytes(b"x" + CONTENT[1:])
    again = get(server, model_dir, cache)
    assert not again.cached
    assert again.path.read_bytes() == CONTENT


def test_the_same_digest_under_another_name_is_not_fetched_twice(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    get(server, model_dir, cache)
    again = get(server, model_dir, cache, path="/other.pt", sha256=SHA256)
    assert again.cached
    assert again.path == cache / "weights" / SHA256 / "other.pt"
    assert len(server.asked) == 1


@pytest.mark.parametrize("breakage", [truncated, reset])
def test_a_broken_transfer_continues(server: WeightsServer, model_dir: Path, cache: Path, breakage: type) -> None:
    server.next = [breakage(1_000_000), breakage(1_000_000)]
    assert get(server, model_dir, cache).sha256 == SHA256
    starts = [int(asked["range"].removeprefix("bytes=").rstrip("-")) for asked in server.asked[1:]]
    assert len(server.asked) == 3
    assert 0 < starts[0] <= 1_000_000
    assert starts[0] < starts[1] <= 2_000_000


class Miscounting:
    """A source whose client does not notice missing or extra bytes the first time."""

    def __init__(self, first: bytes) -> None:
        self.answers = [first, CONTENT]

    def basename(self, uri: str) -> str:
        return uri

    @contextmanager
    def open_stream(self, uri: str, start: int, validator: str) -> Iterator[Stream]:
        del uri, start, validator
        yield Stream(iter([self.answers.pop(0)]), 0, len(CONTENT), "", "")


@pytest.mark.parametrize("first", [CONTENT[:-1], CONTENT + b"x"])
def test_another_length_than_announced_is_an_error(tmp_path: Path, first: bytes) -> None:
    done = Download(Miscounting(first), "x.pt", tmp_path, Quiet(), QUICK).run(lambda _stream: None)
    assert done.sha256 == SHA256
    assert done.path.read_bytes() == CONTENT


def test_a_later_run_continues_an_earlier_transfer(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    server.next = [truncated(2_000_000), *[status(503)] * 200]
    with fails(WeightsMissing, " 503", "2.0 MB"):
        get(server, model_dir, cache, patience=IMPATIENT)
    assert len(parts(cache)) == 1
    assert not (model_dir / "weights.lock").exists()
    server.next = []
    assert get(server, model_dir, cache).sha256 == SHA256
    assert server.asked[-1]["range"] == "bytes=2000000-"
    assert parts(cache) == []


def test_a_server_that_ignores_ranges_is_read_from_the_beginning(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    server.ranges = False
    server.next = [truncated(2_000_000)]
    assert get(server, model_dir, cache).sha256 == SHA256
    assert len(server.asked) == 2


def test_a_part_of_a_file_that_changed_meanwhile_is_dropped(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    def changing(handler: Handler) -> None:
        handler.good(upto=1_000_000)
        server.content = CONTENT[::-1]

    server.next = [changing]
    assert get(server, model_dir, cache).sha256 == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_a_file_that_became_shorter_than_the_part_is_fetched_again(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    server.next = [truncated(2_000_000), status(416)]
    assert get(server, model_dir, cache).sha256 == SHA256
    assert "range" not in server.asked[-1]


def test_without_an_etag_or_date_a_part_is_not_trusted(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    server.etag = "none"
    server.next = [truncated(1_000_000)]
    assert get(server, model_dir, cache).sha256 == SHA256
    assert "range" not in server.asked[1]


def test_a_damaged_part_of_an_earlier_run_does_not_damage_the_weights(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    server.next = [truncated(2_000_000), *[status(503)] * 200]
    with pytest.raises(WeightsMissing):
        get(server, model_dir, cache, sha256=SHA256, patience=IMPATIENT)
    parts(cache)[0].write_bytes(bytes(2_000_000))
    server.next = []
    assert get(server, model_dir, cache, sha256=SHA256).path.read_bytes() == CONTENT


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_passing_refusal_is_tried_again(server: WeightsServer, model_dir: Path, cache: Path, code: int) -> None:
    server.next = [status(code), status(code)]
    assert get(server, model_dir, cache).sha256 == SHA256
    assert len(server.asked) == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_sets_the_wait(server: WeightsServer, model_dir: Path, cache: Path, form: str) -> None:
    value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    server.next = [status(429, Retry_After=value)]
    started = time.monotonic()
    assert get(server, model_dir, cache).sha256 == SHA256
    assert 0.9 <= time.monotonic() - started < 5


def test_a_wait_beyond_the_patience_is_not_begun(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    server.next = [status(503, Retry_After="3600")]
    started = time.monotonic()
    with fails(WeightsMissing, " 503", "3600 s", "attempt 1"):
        get(server, model_dir, cache)
    assert time.monotonic() - started < 5


def test_nobody_at_the_port_ends_in_one_error(model_dir: Path, cache: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused for sure
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/model.pt"
        with fails(WeightsMissing, url, words=messages.CONNECTION_REFUSED):
            fetch.run(model_dir, model(url), cache=cache, progress=Quiet(), patience=IMPATIENT)


def test_a_trickle_is_given_up(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    stop = threading.Event()

    def trickle(handler: Handler) -> None:
        handler.good(upto=10)
        while not stop.wait(0.02):
            handler.wfile.write(b"x")

    server.next = [trickle]
    with fails(WeightsMissing, words=messages.TOO_SLOW):
        get(server, model_dir, cache, patience=IMPATIENT)
    stop.set()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (status(404), "(404)"),
        (status(410), "(410)"),
        (status(401), " 401: "),
        (status(403), " 403: "),
        (status(400), " 400"),
        (status(200, b"<p>Sign in</p>", Content_Type="text/html; charset=utf-8"), messages.WEB_PAGE),
        (
            status(200, b"\n<!DOCTYPE html><title>Sign in</title>", Content_Type="application/octet-stream"),
            messages.WEB_PAGE,
        ),
        (status(200, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), messages.LFS_POINTER),
        (status(200, b""), messages.EMPTY_FILE),
        (
            status(302, Location="http://192.0.2.1/model.pt"),
            f"http://192.0.2.1/model.pt, which {messages.NOT_HTTPS}",
        ),
        (status(302, Location="file:///etc/passwd"), messages.NOT_HTTPS),
    ],
)
def test_an_answer_without_weights_is_refused_at_once(
    server: WeightsServer, model_dir: Path, cache: Path, behaviour: object, reason: str
) -> None:
    server.next = [behaviour]  # type: ignore[list-item] # a stand-in
    with fails(WeightsMissing, reason):
        get(server, model_dir, cache)
    assert len(server.asked) == 1
    assert parts(cache) == []
    assert not (model_dir / "weights.lock").exists()


def test_redirects_are_followed_but_not_for_ever(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    server.next = [status(302, Location="/elsewhere/x.bin")]
    assert get(server, model_dir, cache).path.name == "model.pt"
    assert server.asked[-1]["path"] == "/elsewhere/x.bin"
    server.next = [status(302, Location="/again")] * 20
    asked = len(server.asked)
    with fails(WeightsMissing, "5 redirects"):
        get(server, model_dir, cache, path="/loop.pt")
    assert len(server.asked) - asked == 6


def test_plain_http_is_for_loopback_only(model_dir: Path, cache: Path) -> None:
    wanted = model("https://192.0.2.1/model.pt")
    plain = wanted.model_copy(update={"weights": wanted.weights.model_copy(update={"uri": "http://192.0.2.1/model.pt"})})
    with fails(WeightsMissing, words=messages.NOT_HTTPS):
        fetch.run(model_dir, plain, cache=cache, progress=Quiet(), patience=IMPATIENT)


def test_a_declared_digest_must_fit(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    with fails(WeightsChanged, SHA256, "0" * 64, "model.yaml"):
        get(server, model_dir, cache, sha256="0" * 64)
    assert parts(cache) == []
    assert not (cache / "weights" / SHA256).exists()
    assert not (model_dir / "weights.lock").exists()


def test_a_changed_digest_under_one_address_is_refused_without_update_lock(
    server: WeightsServer, model_dir: Path, cache: Path, tmp_path: Path
) -> None:
    get(server, model_dir, cache)
    before = (model_dir / "weights.lock").read_bytes()
    server.content = CONTENT[::-1]
    elsewhere = tmp_path / "another-machine"
    with fails(WeightsChanged, "weights.lock", "--update-lock") as caught:
        raise_whole(lambda: get(server, model_dir, elsewhere))
    assert caught.value.exit_code == 12
    assert (model_dir / "weights.lock").read_bytes() == before
    updated = get(server, model_dir, elsewhere, update_lock=True)
    assert updated.sha256 == hashlib.sha256(CONTENT[::-1]).hexdigest()
    assert json.loads((model_dir / "weights.lock").read_text())["sha256"] == updated.sha256


def raise_whole(action: object) -> None:
    """Run, and raise any WeightsChanged again with its fix in the message, for `match`."""
    try:
        action()  # type: ignore[operator] # its kind is known here
    except WeightsChanged as error:
        raise WeightsChanged(str(error).replace("\n", " ")) from error


def test_another_size_than_the_locked_one_is_refused_before_the_transfer(
    server: WeightsServer, model_dir: Path, cache: Path, tmp_path: Path
) -> None:
    get(server, model_dir, cache)
    server.content = CONTENT + b"more"
    with fails(WeightsChanged, f"{len(CONTENT) + 4} bytes", len(CONTENT), "weights.lock"):
        get(server, model_dir, tmp_path / "another-machine")
    assert parts(tmp_path / "another-machine") == []


def test_a_disk_that_cannot_hold_them_is_noticed_before_the_transfer(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    def huge(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 60))
        handler.end_headers()
        handler.close_connection = True

    server.next = [huge]
    with fails(DiskFull, "1152921504606.8 MB"):
        get(server, model_dir, cache)
    assert not (model_dir / "weights.lock").exists()


def test_a_disk_that_fills_up_leaves_nothing_behind(server: WeightsServer, model_dir: Path, cache: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))  # the kernel refuses: EFBIG where a full disk is ENOSPC
    try:
        with fails(DiskFull, words=messages.NO_ROOM):
            get(server, model_dir, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert parts(cache) == []
    assert get(server, model_dir, cache).sha256 == SHA256


@pytest.mark.parametrize("path", ["/..%2fevil.pt", "/a%0ab.pt", "/.hidden", "/..%5c..%5cevil.pt"])
def test_an_invalid_file_name_is_refused_before_the_transfer(
    server: WeightsServer, model_dir: Path, cache: Path, path: str
) -> None:
    try:
        wanted = model(server.url + path)
    except ValueError:
        return  # refused by model.yaml's own check already
    if path == "/..%2fevil.pt":
        assert fetch.run(model_dir, wanted, cache=cache, progress=Quiet()).path.name == "evil.pt"
        return
    with pytest.raises(UnsafeName):
        fetch.run(model_dir, wanted, cache=cache, progress=Quiet(), patience=QUICK)
    assert server.asked == []


FETCHING = """
import sys
from pathlib import Path
from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.stages import fetch

model = Model.model_validate({"name": "m", "handler": "tensor", "weights": sys.argv[1]})
fetch.run(Path(sys.argv[2]), model, cache=Path(sys.argv[3]), progress=Quiet())
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_a_part_that_the_next_one_continues(
    server: WeightsServer, model_dir: Path, cache: Path, signum: int
) -> None:
    hold = threading.Event()

    def half(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.send_header("ETag", server.current_etag())
        handler.end_headers()
        handler.wfile.write(CONTENT[:1_500_000])
        handler.wfile.flush()
        hold.wait(20)

    server.next = [half]
    argv = [sys.executable, "-c", FETCHING, server.url + "/model.pt", str(model_dir), str(cache)]
    child = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(Path(torchrelay.__file__).parents[1])})
    deadline = time.monotonic() + 20
    while not (parts(cache) and parts(cache)[0].stat().st_size == 1_500_000):
        assert time.monotonic() < deadline, "the part never grew"
        time.sleep(0.01)
    child.send_signal(signum)
    assert child.wait(10) != 0
    hold.set()
    assert parts(cache)[0].stat().st_size == 1_500_000
    assert get(server, model_dir, cache).sha256 == SHA256
    assert server.asked[-1]["range"] == "bytes=1500000-"


def test_two_fetches_at_once_transfer_once_each_and_both_succeed(
    server: WeightsServer, model_dir: Path, cache: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    second.mkdir()
    done: list[Fetched] = []
    threads = [threading.Thread(target=lambda d=d: done.append(get(server, d, cache))) for d in (model_dir, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [fetched.sha256 for fetched in done] == [SHA256, SHA256]
    assert parts(cache) == []
