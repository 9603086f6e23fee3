"""sbom and attest as users run them: a process over a bundle and a real registry; keys by the environment, and never shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.gotools import ensure
from tests.integration.bundles import verified_model

ROOT = Path(__file__).resolve().parents[2]


def pem() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")}
    return subprocess.run(
        [sys.executable, "-m", "torchrelay", *map(str, arguments)],
        env={**inherited, "PYTHONPATH": str(ROOT / "scripts"), "DOCKER_HOST": "unix:///nonexistent.sock", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass(frozen=True)
class Pushed:
    """A bundle whose image is in the registry."""

    folder: Path
    reference: str


@pytest.fixture
def pushed(tmp_path: Path, registry_host: str) -> Pushed:
    image = verified_model(tmp_path / "model", handler=tmp_path.name.encode())
    bundle = tmp_path / "bundle"
    assert run("bundle", tmp_path / "model", "--output", bundle).returncode == 0
    sent = run("push", "--bundle", bundle, "--repository", f"{registry_host}/trust/{tmp_path.name.lower()}", "--json")
    assert sent.returncode == 0, sent.stderr
    reference = str(json.loads(sent.stdout)["reference"])
    assert reference.endswith(image.digest)
    return Pushed(bundle, reference)


def test_from_bundle_to_a_checked_image(pushed: Pushed, tmp_path: Path) -> None:
    key = pem()
    public = run("attest", "--print-public-key", TORCHRELAY_SIGNING_KEY=key)
    assert public.stdout.startswith("-----BEGIN PUBLIC KEY-----")
    (tmp_path / "verify.pem").write_text(public.stdout)
    before = run("attest", "--check", pushed.reference, "--verify-key", f"@{tmp_path / 'verify.pem'}")
    assert before.returncode == 25
    assert "no statements on it" in before.stderr
    outputs = tmp_path / "outputs"
    done = run("attest", "--bundle", pushed.folder, "--json", TORCHRELAY_SIGNING_KEY=key, GITHUB_OUTPUT=str(outputs))
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["reference"] == pushed.reference
    assert reply["public_key"] == public.stdout
    assert [one["skipped"] for one in reply["statements"]] == [False] * 3
    assert {"public-key", "statements"} <= {line.partition("<<")[0] for line in outputs.read_text().splitlines()}
    checked = run("attest", "--check", pushed.reference, "--json", TORCHRELAY_VERIFY_KEY=public.stdout)
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["result"] == "passed"
    again = run("attest", "--bundle", pushed.folder, "--json", TORCHRELAY_SIGNING_KEY=key)
    assert json.loads(again.stdout)["skipped"] is True
    for one in (public, before, done, checked, again):
        assert not any(line in one.stdout + one.stderr for line in key.splitlines()[1:-1])
    written = tmp_path / "verdict.json"
    assert run("attest", "--bundle", pushed.folder, TORCHRELAY_WRITE_VERDICT=str(written)).returncode == 0
    assert json.loads(written.read_text())["image"] == pushed.reference.rpartition("@")[2]
    rows = json.loads((pushed.folder / ".torchrelay/stages.json").read_text())
    assert [row["stage"] for row in rows][-1] == "attest"
    assert rows[-1]["skipped"] is False  # the journal reports the run that did the work


def test_deploy_of_an_unsigned_image_is_refused_before_any_change(pushed: Pushed) -> None:
    key = pem()
    public = run("attest", "--print-public-key", TORCHRELAY_SIGNING_KEY=key).stdout
    deploy: list[str | Path] = ["deploy", "--bundle", pushed.folder, "--target", "docker"]
    refused = run(*deploy, TORCHRELAY_VERIFY_KEY=public)
    assert refused.returncode == 25, refused.stderr
    assert run("attest", "--bundle", pushed.folder, TORCHRELAY_SIGNING_KEY=key).returncode == 0
    allowed = run(*deploy, TORCHRELAY_VERIFY_KEY=public)
    assert allowed.returncode == 16, allowed.stderr  # it gets as far as the daemon, which is not there
    other = run("attest", "--print-public-key", TORCHRELAY_SIGNING_KEY=pem()).stdout
    assert run(*deploy, TORCHRELAY_VERIFY_KEY=other).returncode == 25
    release = json.loads((pushed.folder / "release.json").read_text())
    release["source"]["commit"] = "a" * 40
    (pushed.folder / "release.json").write_text(json.dumps(release))
    another_commit = run(*deploy, TORCHRELAY_VERIFY_KEY=public)
    assert another_commit.returncode == 25, another_commit.stderr
    assert "signed for the commit" in another_commit.stderr


def test_several_verify_keys_count_while_keys_are_exchanged(pushed: Pushed) -> None:
    key = pem()
    new, old = (run("attest", "--print-public-key", TORCHRELAY_SIGNING_KEY=one).stdout for one in (key, pem()))
    assert run("attest", "--bundle", pushed.folder, TORCHRELAY_SIGNING_KEY=key, TORCHRELAY_VERIFY_KEY=old + new).returncode == 0
    for keys, code in ((old + new, 0), (new + old, 0), (new, 0), (old, 25), (old + "x" + new, 44), (new * 11, 44)):
        checked = run("attest", "--check", pushed.reference, TORCHRELAY_VERIFY_KEY=keys)
        assert checked.returncode == code, checked.stderr


def test_a_workflow_signs_only_with_a_key_that_is_pinned_outside_of_the_job(pushed: Pushed) -> None:
    key = pem()
    public, other = (run("attest", "--print-public-key", TORCHRELAY_SIGNING_KEY=one).stdout for one in (key, pem()))
    sign: list[str | Path] = ["attest", "--bundle", pushed.folder]
    unpinned = run(*sign, TORCHRELAY_SIGNING_KEY=key, GITHUB_ACTIONS="true")
    assert unpinned.returncode == 44, unpinned.stderr
    assert "gh variable set TORCHRELAY_VERIFY_KEY" in unpinned.stderr
    wrong = run(*sign, TORCHRELAY_SIGNING_KEY=key, TORCHRELAY_VERIFY_KEY=other, GITHUB_ACTIONS="true")
    assert wrong.returncode == 44, wrong.stderr
    assert run("attest", "--check", pushed.reference, TORCHRELAY_VERIFY_KEY=public).returncode == 25, "nothing was signed"
    pinned = run(*sign, TORCHRELAY_SIGNING_KEY=key, TORCHRELAY_VERIFY_KEY=public, GITHUB_ACTIONS="true")
    assert pinned.returncode == 0, pinned.stderr


def test_a_key_on_the_command_line_is_refused_and_a_file_is_accepted(tmp_path: Path) -> None:
    key = pem()
    typed = run("attest", "--print-public-key", "--signing-key", key)
    assert typed.returncode == 2
    assert "seen by every process" in typed.stderr
    assert key.splitlines()[1] not in typed.stdout + typed.stderr
    (tmp_path / "signing.pem").write_text(key)
    assert run("attest", "--print-public-key", "--signing-key", f"@{tmp_path / 'signing.pem'}").returncode == 0
    missing = run("attest", "--print-public-key", "--signing-key", f"@{tmp_path / 'none.pem'}")
    assert missing.returncode == 44
    assert "No such file" in missing.stderr


@pytest.mark.parametrize("argument", ["--help", "--print-public-key"])
def test_a_key_is_not_part_of_help_or_of_an_error(argument: str) -> None:
    key = pem().replace("-----END", "-----FIN")
    done = run("attest", argument, TORCHRELAY_SIGNING_KEY=key)
    assert done.returncode == (0 if argument == "--help" else 44)
    assert not any(line in done.stdout + done.stderr for line in key.splitlines()[1:-1])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["attest"], 2, "TORCHRELAY_SIGNING_KEY"),
        (["attest", "--check", "127.0.0.1:9/x@sha256:0"], 2, "--verify-key"),
        (["attest", "--bundle", "missing"], 24, "release.json is missing"),
        (["attest", "--bundle", "missing", "--dry-run"], 0, ""),
        (["sbom", "--bundle", "missing"], 24, "release.json is missing"),
    ],
)
def test_bad_usage_is_one_clear_error(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    more = {"TORCHRELAY_SIGNING_KEY": pem()} if "--bundle" in arguments else {}
    arguments = [str(tmp_path / one) if one == "missing" else one for one in arguments]
    done = run(*arguments, **more)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "missing").exists()


def test_a_bundle_and_its_model_directory_give_the_same_bill_of_materials(pushed: Pushed, tmp_path: Path) -> None:
    of_bundle = run("sbom", "--bundle", pushed.folder)
    of_model = run("sbom", tmp_path / "model")
    assert json.loads(of_bundle.stdout) == json.loads(of_model.stdout)
    written = run("sbom", "--bundle", pushed.folder, "--output", tmp_path / "sbom.json", "--json")
    assert (tmp_path / "sbom.json").read_text() == of_bundle.stdout
    assert json.loads(written.stdout)["image"] == pushed.reference.partition("@")[2]


@pytest.fixture(scope="module")
def cosign() -> str:
    """Another implementation's reader of signed statements; in a fixture, as its first build takes minutes."""
    return str(ensure("cosign"))


def test_cosign_verifies_our_statements(pushed: Pushed, cosign: str, tmp_path: Path) -> None:
    key = pem()
    assert run("attest", "--bundle", pushed.folder, TORCHRELAY_SIGNING_KEY=key).returncode == 0
    (tmp_path / "right.pem").write_text(run("attest", "--print-public-key", TORCHRELAY_SIGNING_KEY=key).stdout)
    (tmp_path / "wrong.pem").write_text(run("attest", "--print-public-key", TORCHRELAY_SIGNING_KEY=pem()).stdout)
    options = ["--insecure-ignore-tlog=true", "--allow-http-registry"]
    for kind, file, code in (
        ("cyclonedx", "right.pem", 0),
        ("slsaprovenance1", "right.pem", 0),
        ("https://torchrelay.org/verdict/v2", "right.pem", 0),
        ("https://torchrelay.org/verdict/v2", "wrong.pem", 1),
    ):
        command = [cosign, "verify-attestation", "--key", str(tmp_path / file), "--type", kind, *options, pushed.reference]
        environment = {**os.environ, "HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
