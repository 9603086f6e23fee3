"""A bundle returns its input, every change to it is refused, and it is pushed without the model."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests import messages
from tests.errors import fails
from tests.integration import bundles
from torchrelay.core.errors import BundleInvalid, DeployFailed, NotAttested, NotVerified, TorchrelayError
from torchrelay.core.machine_mark import mark_of
from torchrelay.core.progress import Quiet
from torchrelay.core.workspace import Workspace
from torchrelay.model.origin import Origin
from torchrelay.oci.image import CONFIG_TYPE, MANIFEST_TYPE
from torchrelay.stages import bundle, check, journal
from torchrelay.stages.deploy import release_of_bundle
from torchrelay.stages.push import Pushed, last_push, run_bundle
from torchrelay.stages.relay import deploy_bundle
from torchrelay.workflow.job_result import gather

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    bundles.verified_model(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def bundle_dir(model: Path, tmp_path: Path) -> Path:
    bundle.run(model, tmp_path / "bundle", Quiet())
    return tmp_path / "bundle"


def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("GITHUB_", "TORCHRELAY_"))}
    return subprocess.run(
        [sys.executable, "-m", "torchrelay", *map(str, arguments)],
        env={**inherited, "PYTHONPATH": str(ROOT / "scripts"), "DOCKER_HOST": "unix:///nonexistent.sock", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_bundle_returns_its_input(model: Path, bundle_dir: Path) -> None:
    checked, read = check.run(model), bundle.read(bundle_dir)
    assert read.model == checked.model
    assert read.model.targets.declared == ("kubernetes", "docker")
    assert read.model.first_target == "kubernetes"
    assert repr(read.samples) == repr(tuple(checked.samples))  # repr: NaN is not equal to itself
    assert (read.version, read.verdict.result, read.digest[:7]) == ("7", "passed", "sha256:")
    image = bundles.verified_model(model)
    assert (read.image.digest, read.image.config_digest) == (image.digest, image.config_digest)
    assert [layer.created_by for layer in read.image.layers] == ["torchrelay", "torchrelay weights", "torchrelay handler"]
    assert [b"".join(blob.chunks()) for blob in read.image.blobs()] == [b"".join(blob.chunks()) for blob in image.blobs()]


def test_it_is_an_oci_layout(bundle_dir: Path) -> None:
    """Every descriptor, followed from index.json on, leads to a file of that size and digest."""
    assert json.loads((bundle_dir / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    (described,) = json.loads((bundle_dir / "index.json").read_bytes())["manifests"]

    def follow(one: dict[str, Any]) -> bytes:
        data: bytes = (bundle_dir / "blobs" / str(one["digest"]).replace(":", "/")).read_bytes()
        assert (len(data), "sha256:" + hashlib.sha256(data).hexdigest()) == (one["size"], one["digest"])
        return data

    manifest = json.loads(follow(described))
    assert (described["mediaType"], manifest["config"]["mediaType"]) == (MANIFEST_TYPE, CONFIG_TYPE)
    for one in [manifest["config"], *manifest["layers"]]:
        follow(one)


def test_a_second_bundle_is_equal_and_writes_little(model: Path, bundle_dir: Path) -> None:
    first = bundle.read(bundle_dir)
    times = {path: path.stat().st_mtime_ns for path in (bundle_dir / "blobs").rglob("*")}
    (bundle_dir / ".torchrelay").mkdir()
    (bundle_dir / ".torchrelay/push.json").write_text("{}")
    (bundle_dir / "blobs/sha256/left").write_text("over")
    assert bundle.run(model, bundle_dir, Quiet()).digest == first.digest
    assert {path: path.stat().st_mtime_ns for path in (bundle_dir / "blobs").rglob("*") if path.is_file()}.items() <= times.items()
    assert not (bundle_dir / ".torchrelay").exists()
    assert not (bundle_dir / "blobs/sha256/left").exists()


def test_a_half_written_blob_is_written_again(model: Path, bundle_dir: Path) -> None:
    blob = max((bundle_dir / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(bytes(blob.stat().st_size))
    bundle.run(model, bundle_dir, Quiet())
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def test_weights_are_streamed(tmp_path: Path) -> None:
    size = 200 << 20
    bundles.verified_model(tmp_path / "model", weights=os.urandom(1 << 20) * (size >> 20))
    tracemalloc.start()
    bundle.run(tmp_path / "model", tmp_path / "bundle", Quiet())
    bundle.read(tmp_path / "bundle")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 << 20  # the samples' reader keeps 64 MiB ready
    assert sum(path.stat().st_size for path in (tmp_path / "bundle").rglob("*") if path.is_file()) < size + (1 << 20)


def test_only_a_verified_image_is_bundled(model: Path, tmp_path: Path) -> None:
    workspace = Workspace(model)
    verdict = json.loads(workspace.verdict.read_text())

    def refused(reason: str) -> None:
        with fails(NotVerified, reason):
            bundle.run(model, tmp_path / "out", Quiet())
        assert not (tmp_path / "out").exists()

    workspace.verdict.write_text(json.dumps({**verdict, "result": "gate_failed"}))
    refused("gate_failed")
    workspace.verdict.write_text(json.dumps({**verdict, "config": "sha256:" + "0" * 64}))
    refused(f"{messages.OTHER_VERDICT} sha256:0")
    workspace.verdict.write_text(json.dumps(verdict))
    (model / "samples/json.json").write_text(bundles.SAMPLES["json.json"].replace("0.5", "0.25"))
    refused("samples")
    bundles.verified_model(model)
    (model / "model.yaml").write_text(bundles.YAML.replace("1Gi", "8Gi"))
    refused(messages.OTHER_CONDITIONS)
    bundles.verified_model(model)
    workspace.image_record.unlink()
    refused(messages.NO_IMAGE)


def test_weights_that_changed_after_the_build_are_not_bundled(model: Path, bundle_dir: Path) -> None:
    """There is no new bundle, and the earlier one cannot be read."""
    bundles.verified_model(model, weights=b"others" * 1000)
    (model / "model.pt").write_bytes(b"x" * 6000)
    with fails(BundleInvalid, words=messages.OTHER_BYTES):
        bundle.run(model, bundle_dir, Quiet())
    with fails(BundleInvalid, "release.json"):
        bundle.read(bundle_dir)


def test_another_folder_is_left_unchanged(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with fails(BundleInvalid, tmp_path / "mine", words=messages.NOT_EMPTY):
        bundle.run(model, tmp_path / "mine", Quiet())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def release(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "release.json").read_text()))


def change(folder: Path, *path: str | int, to: Any) -> None:
    """Put a value at a path of release.json."""
    document = release(folder)
    inner: Any = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    (folder / "release.json").write_text(json.dumps(document))


def blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / digest.replace(":", "/")


def put(folder: Path, value: Any) -> dict[str, Any]:
    """Store a document as a separate blob, and return its digest and size."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    blob(folder, digest).write_bytes(data)
    return {"digest": digest, "size": len(data)}


def manifest_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads(blob(folder, release(folder)["image"]["manifest"]).read_text()))


def repoint(folder: Path, manifest: Any, *, tell: bool) -> None:
    """Let index.json name another manifest; `tell`: release.json and the verdict too."""
    described = put(folder, manifest)
    index = json.loads((folder / "index.json").read_text())
    index["manifests"][0] |= described
    (folder / "index.json").write_text(json.dumps(index))
    if tell:
        change(folder, "image", "manifest", to=described["digest"])
        change(folder, "verdict", "image", to=described["digest"])


def other_image(folder: Path) -> None:
    manifest = manifest_of(folder)
    repoint(folder, {**manifest, "annotations": {"other": "image"}}, tell=False)


def other_config(folder: Path) -> None:
    manifest = manifest_of(folder)
    config = json.loads(blob(folder, manifest["config"]["digest"]).read_text())
    config["config"]["Cmd"] = ["evil"]
    repoint(folder, {**manifest, "config": {**manifest["config"], **put(folder, config)}}, tell=True)
    change(folder, "image", "config", to=put(folder, config)["digest"])


def other_layer(folder: Path) -> None:
    manifest = manifest_of(folder)
    manifest["layers"][2] |= put(folder, b"another layer")
    repoint(folder, manifest, tell=True)


def layer_left_out(folder: Path) -> None:
    manifest = manifest_of(folder)
    repoint(folder, {**manifest, "layers": manifest["layers"][:2]}, tell=True)


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def first(folder: Path, what: str) -> Path:
    document = release(folder)
    if what == "layer":
        return blob(folder, manifest_of(folder)["layers"][0]["digest"])
    if what == "body":
        return blob(folder, document["samples"][0]["body"]["digest"])
    if what == "answer":
        return blob(folder, next(row["expect"]["value"]["digest"] for row in document["samples"] if row["expect"]["value"]))
    return blob(folder, document["image"][what])


def linked(path: Path) -> None:
    """A link to the same bytes outside the bundle."""
    outside = path.parents[len(path.parts) - path.parts.index("bundle") - 1] / "outside"
    path.replace(outside)
    path.symlink_to(outside)


def odd_rootfs(folder: Path) -> None:
    manifest = manifest_of(folder)
    config = {"rootfs": "x", "config": 3, "history": {}}
    described = put(folder, config)
    repoint(folder, {**manifest, "config": {**manifest["config"], **described}}, tell=True)
    change(folder, "image", "config", to=described["digest"])


ESCAPE = "sha256:../../../../../../etc/passwd"
HUGE = 10**30
TAMPERED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no release.json": (lambda folder: (folder / "release.json").unlink(), "release.json is missing"),
    "no index.json": (lambda folder: (folder / "index.json").unlink(), "index.json is missing"),
    "no oci-layout": (lambda folder: (folder / "oci-layout").unlink(), "oci-layout is missing"),
    "no layer": (lambda folder: first(folder, "layer").unlink(), "is missing"),
    "no manifest": (lambda folder: first(folder, "manifest").unlink(), "is missing"),
    "no config": (lambda folder: first(folder, "config").unlink(), "is missing"),
    "no body": (lambda folder: first(folder, "body").unlink(), "is missing"),
    "a longer layer": (lambda folder: first(folder, "layer").open("ab").write(b"x"), "bytes, not"),
    "a changed manifest": (lambda folder: flip(first(folder, "manifest")), "has other bytes"),
    "a changed config": (lambda folder: flip(first(folder, "config")), "has other bytes"),
    "a changed body": (lambda folder: flip(first(folder, "body")), "has other bytes"),
    "a changed answer": (lambda folder: flip(first(folder, "answer")), "has other bytes"),
    "a linked layer": (lambda folder: linked(first(folder, "layer")), "is missing"),
    "a linked release.json": (lambda folder: linked(folder / "release.json"), "release.json is missing"),
    "another image": (other_image, "the layout contains image"),
    "another config": (other_config, "the verdict is about config"),
    "another layer": (other_layer, "layer 2 is sha256:"),
    "a layer left out": (layer_left_out, "the manifest's layers are not the layers of the config"),
    "two images": (lambda folder: (folder / "index.json").write_text('{"manifests": [{}, {}]}'), "of one image"),
    "another layout": (lambda folder: (folder / "oci-layout").write_text('{"imageLayoutVersion": "2"}'), "not an OCI image layout"),
    "a failed verdict": (lambda folder: change(folder, "verdict", "result", to="gate_failed"), "the verdict is gate_failed"),
    "a swapped verdict": (
        lambda folder: change(folder, "verdict", "config", to="sha256:" + "0" * 64),
        "the verdict is about config",
    ),
    "a verdict on another image": (lambda folder: change(folder, "verdict", "image", to="x"), "the verdict is about image"),
    "a verdict on another model": (lambda folder: change(folder, "verdict", "model", to="x"), "the verdict is about model"),
    "a verdict on another version": (lambda folder: change(folder, "verdict", "version", to="8"), "the verdict is about version"),
    "another version": (lambda folder: change(folder, "version", to="8"), "has version 8"),
    "another name": (lambda folder: change(folder, "model", "name", to="other"), "the verdict is about model"),
    "other limits": (lambda folder: change(folder, "model", "resources", "memory", to="8Gi"), "the verdict is about conditions"),
    "a sample less": (lambda folder: change(folder, "samples", to=release(folder)["samples"][1:]), "the verdict is about samples"),
    "no sample": (lambda folder: change(folder, "samples", to=[]), "the verdict is about samples"),
    "a wider tolerance": (lambda folder: change(folder, "samples", 1, "expect", "atol", to=9.0), "the verdict is about samples"),
    "another status": (lambda folder: change(folder, "samples", 0, "expect", "status", to=500), "the verdict is about samples"),
    "an answer taken away": (lambda folder: change(folder, "samples", 0, "expect", "value", to=None), "its value does not match"),
    "an answer that is none": (
        lambda folder: change(folder, "samples", 1, "expect", "value", to=put(folder, b"{")), "is not json"),
    "an extra key": (lambda folder: change(folder, "extra", to=1), "extra: Extra inputs are not permitted"),
    "an extra key within": (lambda folder: change(folder, "image", "extra", to=1), "image.extra"),
    "an extra key of the model": (lambda folder: change(folder, "model", "extra", to=1), "model.extra"),
    "an extra key of the verdict": (lambda folder: change(folder, "verdict", "extra", to=1), "verdict.extra"),
    "a form to come": (lambda folder: change(folder, "schema", to=2), "schema:"),
    "a path as the image": (lambda folder: change(folder, "image", "manifest", to=ESCAPE), "image.manifest"),
    "a path as a body": (lambda folder: change(folder, "samples", 0, "body", "digest", to=ESCAPE), "samples.0.body.digest"),
    "a path in the index": (
        lambda folder: repoint(folder, {**manifest_of(folder), "config": {"mediaType": CONFIG_TYPE, "digest": ESCAPE, "size": 1}},
                               tell=True), "the manifest's config has no digest"),
    "a path in the manifest": (
        lambda folder: repoint(folder, {**manifest_of(folder), "layers": [
            {**one, "digest": ESCAPE} for one in manifest_of(folder)["layers"]]}, tell=True), "layer 0 has no digest"),
    "a digest with a line break": (
        lambda folder: change(folder, "image", "config", to="sha256:" + "0" * 64 + "\n"), "image.config"),
    "a digest of another kind": (lambda folder: change(folder, "image", "config", to="md5:" + "0" * 64), "image.config"),
    "a huge size": (lambda folder: change(folder, "samples", 0, "body", "size", to=HUGE), "samples.0.body.size"),
    "a negative size": (lambda folder: change(folder, "samples", 0, "body", "size", to=-1), "samples.0.body.size"),
    "a size that is none": (lambda folder: change(folder, "samples", 0, "body", "size", to=True), "samples.0.body.size"),
    "a huge layer": (
        lambda folder: repoint(folder, {**manifest_of(folder), "layers": [
            {**one, "size": HUGE} for one in manifest_of(folder)["layers"]]}, tell=True), "layer 0 has no digest and size"),
    "a huge sequence": (lambda folder: change(folder, "source", "sequence", to=HUGE), "source.sequence"),
    "an infinite tolerance": (
        lambda folder: (folder / "release.json").write_text((folder / "release.json").read_text().replace("1e-05", "1e999")),
        "samples.0.expect.atol"),
    "an infinite time": (lambda folder: change(folder, "verdict", "load_s", to=float("inf")), "verdict.load_s"),
    "a number of 5000 digits": (lambda folder: (folder / "release.json").write_text("1" * 5000), "is not JSON"),
    "a commit of several lines": (lambda folder: change(folder, "source", "commit", to="a\n::error::"), "source.commit"),
    "a name of several lines": (lambda folder: change(folder, "samples", 0, "name", to="a\nb"), "samples.0.name"),
    "no JSON": (lambda folder: (folder / "release.json").write_text("{"), "is not JSON"),
    "deep JSON": (lambda folder: (folder / "release.json").write_text("[" * 100_000), "is not JSON"),
    "a list": (lambda folder: (folder / "release.json").write_text("[]"), "is not a JSON object"),
    "not UTF-8": (lambda folder: (folder / "release.json").write_bytes(b"\xff\xfe{"), "is not JSON"),
    "an odd rootfs": (odd_rootfs, "layers are not the layers"),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERED)
def test_tampering(bundle_dir: Path, how: str) -> None:
    spoil, message = TAMPERED[how]
    spoil(bundle_dir)
    with pytest.raises(BundleInvalid) as caught:
        bundle.read(bundle_dir)
    assert message in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.fix


def test_no_folder_at_all(tmp_path: Path) -> None:
    with fails(BundleInvalid, tmp_path / "nowhere"):
        bundle.read(tmp_path / "nowhere")


def test_a_replaced_bundle_is_refused(model: Path, bundle_dir: Path, tmp_path: Path) -> None:
    """The other bundle is valid; only the separately sent digest shows that it was replaced."""
    announced = bundle.read(bundle_dir).digest
    bundles.verified_model(model, handler=b"another handler")
    other = bundle.run(model, tmp_path / "other", Quiet())
    assert bundle.read(bundle_dir, announced).digest == announced
    with fails(BundleInvalid, announced):
        bundle.read(other.folder, announced)
    with fails(BundleInvalid, "release.json", announced, "sha256:x"):
        bundle.read(bundle_dir, "sha256:x")


def test_the_source_of_a_bundle(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"GITHUB_REPOSITORY": "acme/models", "GITHUB_ACTOR": "a\nb\u202e" + "x" * 2000}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "model.yaml"], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *arguments], cwd=model, check=True)
    source = bundle.run(model, tmp_path / "bundle", Quiet()).source
    assert (source.repository, source.sequence, len(source.commit)) == ("acme/models", 1, 40)
    assert source.actor == "ab" + "x" * 1022


def test_push_without_the_model(registry_host: str, model: Path, bundle_dir: Path) -> None:
    shutil.rmtree(model)
    read = bundle.read(bundle_dir)
    pushed = run_bundle(read, f"{registry_host}/bundled/digits", Quiet())
    assert pushed.reference == f"{registry_host}/bundled/digits@{read.image.digest}"
    assert pushed.tag == "7"
    served = requests.get(f"http://{registry_host}/v2/bundled/digits/manifests/7", headers={"Accept": MANIFEST_TYPE}, timeout=5)
    assert served.content == read.image.manifest_bytes
    assert run_bundle(read, f"{registry_host}/bundled/digits", Quiet()).bytes == 0
    assert last_push(Workspace(bundle_dir), read.image.config_digest) is not None
    assert last_push(Workspace(bundle_dir), "sha256:" + "0" * 64) is None


HERE = {"GITHUB_ACTIONS": "true", "GITHUB_SHA": "a" * 40, "GITHUB_REPOSITORY": "Acme/Models"}


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("digits", {}, ""),
        (None, {}, ""),
        ("other", {}, 'the model "digits", expected "other"'),
        (None, HERE, ""),
        (None, HERE | {"GITHUB_SHA": "b" * 40}, "commit is"),
        (None, HERE | {"GITHUB_REPOSITORY": "acme/others"}, 'repository is "acme/models"'),
        (None, HERE | {"GITHUB_SHA": "b" * 40, "GITHUB_ACTIONS": ""}, ""),
    ],
)
def test_a_bundle_of_another_model_or_run_is_refused(
    bundle_dir: Path, name: str | None, environment: dict[str, str], message: str
) -> None:
    read = replace(bundle.read(bundle_dir), source=Origin(repository="acme/models", commit="a" * 40))
    if not message:
        assert bundle.expect(read, name, environment) is read
        return
    with pytest.raises(BundleInvalid) as caught:
        bundle.expect(read, name, environment)
    assert message in caught.value.message


@pytest.mark.parametrize("verb", [["push", "--repository", "127.0.0.1:9/x"], ["attest"], ["deploy", "--target", "docker"]])
def test_every_privileged_verb_accepts_only_the_expected_model(verb: list[str], bundle_dir: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()
    right = run(*verb, "--bundle", bundle_dir, "--expect-model", "digits", TORCHRELAY_SIGNING_KEY=pem)
    assert right.returncode not in (0, 2, BundleInvalid.exit_code), right.stderr  # there is no registry, and no daemon
    wrong = run(*verb, "--bundle", bundle_dir, TORCHRELAY_SIGNING_KEY=pem, TORCHRELAY_EXPECT_MODEL="other")
    assert wrong.returncode == BundleInvalid.exit_code, wrong.stderr
    elsewhere = {"GITHUB_ACTIONS": "true", "GITHUB_SHA": "b" * 40, "GITHUB_REPOSITORY": "acme/other"}
    change(bundle_dir, "source", "commit", to="a" * 40)
    assert run(*verb, "--bundle", bundle_dir, TORCHRELAY_SIGNING_KEY=pem, **elsewhere).returncode == BundleInvalid.exit_code


@pytest.mark.parametrize("fact", ["digest", "reference"])
def test_only_the_verified_image_is_deployed(fact: str, bundle_dir: Path) -> None:
    read, other = bundle.read(bundle_dir), "sha256:" + "0" * 64
    good = Pushed(f"r.example/x@{read.image.digest}", "7", read.image.digest, read.image.config_digest, 0, 0)
    assert release_of_bundle(read, good).reference == good.reference
    with fails(NotVerified, good.digest):
        release_of_bundle(
            read, replace(good, digest=other) if fact == "digest" else replace(good, reference=f"r.example/x@{other}")
        )


def test_push_removes_the_build_jobs_state(registry_host: str, bundle_dir: Path) -> None:
    state = Workspace(bundle_dir)
    state.ensure()
    state.deployments.mkdir()
    (state.deployments / "docker.json").write_text("{}")
    (state.root / "outside").symlink_to(bundle_dir.parent / "model")
    journal.record(state, {"stage": "deploy", "seconds": 1.0, "url": "http://evil.example", "skipped": False})
    state.push_record.write_text(json.dumps({"reference": "evil.example/x"}))
    done = run("push", "--bundle", bundle_dir, "--repository", f"{registry_host}/bundled/forgets", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert [row["stage"] for row in bundle.read(bundle_dir).stages] == ["deploy"]  # the control: until then it is there
    done = run("push", "--bundle", bundle_dir, "--repository", f"{registry_host}/bundled/forgets")
    assert done.returncode == 0, done.stderr
    assert [row["stage"] for row in bundle.read(bundle_dir).stages] == ["push"]
    assert {path.name for path in state.root.iterdir()} == {".gitignore", "lock", "machine", "push.json", "stages.json"}
    assert json.loads(state.push_record.read_text())["reference"].startswith(f"{registry_host}/bundled/forgets@")
    assert (bundle_dir.parent / "model" / "model.yaml").exists()


def forged_state(folder: Path) -> Workspace:
    """State that a hostile build job puts into its bundle: the image was pushed to an attacker's registry."""
    state, image = Workspace(folder), bundle.read(folder).image
    state.root.mkdir(exist_ok=True)
    forged = {"reference": f"127.0.0.1:1/x@{image.digest}", "digest": image.digest, "config_digest": image.config_digest}
    state.push_record.write_text(json.dumps({**forged, "tag": "1.0", "blobs": 0, "bytes": 0}))
    state.deployments.mkdir()
    (state.deployments / "docker.json").write_text("{}")
    return state


@pytest.mark.parametrize("mark", ["none", "of_another_folder", "of_another_machine", "a_link"])
def test_state_that_another_machine_wrote_is_removed_before_a_deployment(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    state = forged_state(bundle_dir)
    file = state.root / "machine"
    if mark == "of_another_folder":
        file.write_text(mark_of(tmp_path / "another" / ".torchrelay"))
    elif mark == "of_another_machine":
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("TORCHRELAY_CACHE", str(tmp_path / "cache-of-another-machine"))
            file.write_text(mark_of(state.root))
    elif mark == "a_link":
        (tmp_path / "mark").write_text(mark_of(state.root))
        file.symlink_to(tmp_path / "mark")
    with fails(NotAttested, words=messages.NOT_PUSHED):
        deploy_bundle(bundle.read(bundle_dir), Quiet(), target="docker", verify_key="-----BEGIN PUBLIC KEY-----")
    assert not state.push_record.exists()
    assert not state.deployments.exists()


def test_control_state_of_this_machine_counts(bundle_dir: Path) -> None:
    Workspace(bundle_dir).ensure()
    state = forged_state(bundle_dir)
    with pytest.raises(TorchrelayError) as caught:
        deploy_bundle(bundle.read(bundle_dir), Quiet(), target="docker", verify_key="-----BEGIN PUBLIC KEY-----")
    assert "was not pushed" not in caught.value.message
    assert state.push_record.exists()


def test_only_the_build_jobs_stages_are_read(bundle_dir: Path, tmp_path: Path) -> None:
    rows = [{"stage": "build", "seconds": 1.0}, {"stage": "deploy", "seconds": 1.0, "url": "http://evil.example"}]
    file = bundle_dir / "stages.json"
    file.write_text(json.dumps(rows))
    assert bundle.read(bundle_dir).stages == rows[:1]
    assert gather(bundle_dir, bundle=True).endpoint == ""
    file.write_text(json.dumps(rows) + " " * journal.LIMIT)
    assert bundle.read(bundle_dir).stages == []
    (tmp_path / "stages.json").write_text(json.dumps(rows))
    file.unlink()
    file.symlink_to(tmp_path / "stages.json")
    assert bundle.read(bundle_dir).stages == []


def test_a_layer_that_changed_after_the_check_is_not_pushed(registry_host: str, bundle_dir: Path) -> None:
    read = bundle.read(bundle_dir)
    flip(first(bundle_dir, "layer"))
    with fails(BundleInvalid, words=messages.OTHER_BYTES):
        run_bundle(read, f"{registry_host}/bundled/changed", Quiet())
    tags = requests.get(f"http://{registry_host}/v2/bundled/changed/tags/list", timeout=5)
    assert tags.status_code == 404


def test_the_local_target_takes_no_bundle(bundle_dir: Path) -> None:
    with fails(DeployFailed, "local"):
        deploy_bundle(bundle.read(bundle_dir), Quiet(), target="local")


def test_a_key_requires_statements_before_any_change(bundle_dir: Path) -> None:
    """There is no daemon, so a request to it would fail."""
    with fails(NotAttested, words=messages.NOT_PUSHED):
        deploy_bundle(bundle.read(bundle_dir), Quiet(), target="docker", verify_key="-----BEGIN PUBLIC KEY-----")


def test_the_commands(registry_host: str, model: Path, tmp_path: Path) -> None:
    journal.record(Workspace(model), {"stage": "build", "seconds": 1.0, "digest": "x", "skipped": False})
    journal.record(Workspace(model), {"stage": "deploy", "seconds": 1.0, "digest": "x", "skipped": False})
    folder = tmp_path / "out"
    done = run("bundle", model, "--output", folder, "--json")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply == {**bundle.read(folder).summary(), "bundle": str(folder)}
    assert [row["stage"] for row in json.loads((folder / "stages.json").read_text())] == ["build", "bundle"]
    shutil.rmtree(model)
    where = ["--bundle", str(folder), "--expect-digest", reply["digest"]]
    pushed = run("push", "--repository", f"{registry_host}/bundled/", *where, "--json")
    assert pushed.returncode == 0, pushed.stderr
    result = json.loads(pushed.stdout)
    assert (result["repository"], result["digest"]) == (f"{registry_host}/bundled/digits", reply["image"])
    assert [row["stage"] for row in bundle.read(folder).stages] == ["build", "bundle", "push"]
    planned = run("deploy", "--target", "docker", *where, "--dry-run", "--json")
    assert json.loads(planned.stdout)["dry_run"] is True, planned.stderr
    assert run("deploy", "--target", "docker", *where).returncode == 16  # no daemon: it got as far as that
    for verb in (["push", "--repository", f"{registry_host}/bundled/"], ["deploy"]):
        wrong = run(*verb, "--json", TORCHRELAY_BUNDLE=str(folder), TORCHRELAY_EXPECT_DIGEST="sha256:" + "0" * 64)
        assert (wrong.returncode, json.loads(wrong.stdout)["error"]["kind"]) == (24, "bundle_invalid")
        assert "Traceback" not in wrong.stderr
        assert run(*verb, tmp_path, "--expect-digest", reply["digest"]).returncode == 2
