"""Doctor against a real cluster: every permission is checked, with and without the role that grants them."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from torchrelay.core.paths import ROOT
from torchrelay.doctor import cluster as doctor_cluster
from torchrelay.doctor import examine
from torchrelay.doctor.finding import DoctorOptions, Finding
from torchrelay.targets.kubernetes.permissions import RULES

ROLE = ROOT / "infra" / "kubernetes" / "deployer-role.yaml"


def checked(folder: Path, namespace: str) -> dict[str, Finding]:
    """Run the cluster's checks for a model that goes to a namespace."""
    folder.mkdir(exist_ok=True)
    (folder / "model.yaml").write_text(
        f"name: digits\nweights: model.pt\nhandler: tensor\ntargets: {{kubernetes: {{namespace: {namespace}}}}}\n"
    )
    findings = examine(DoctorOptions(folder, "kubernetes", environment=os.environ), {"cluster": doctor_cluster.cluster})
    return {check.name: check for check in findings if check.name != "model"}


def as_account(cluster: Cluster, namespace: str, *, role: bool) -> str:
    """Make a service account, bound to the deployer's role when asked; gives a kubeconfig that speaks for it."""
    cluster.run("--namespace", namespace, "create", "serviceaccount", "asker")
    if role:
        cluster.run("--namespace", namespace, "apply", "--filename", str(ROLE))
        cluster.run(
            "--namespace",
            namespace,
            "create",
            "rolebinding",
            "a",
            "--role=torchrelay-deployer",
            f"--serviceaccount={namespace}:asker",
        )
    config = json.loads(cluster.run("config", "view", "--raw", "--output", "json").stdout)
    config["users"][0]["user"] = {"token": cluster.run("--namespace", namespace, "create", "token", "asker").stdout.strip()}
    return json.dumps(config)


def test_with_the_role_every_right_is_there(
    cluster: Cluster, namespace: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = namespace()
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG", as_account(cluster, where, role=True))
    checks = checked(tmp_path / "model", where)
    assert [name for name, check in checks.items() if not check.ok] == []
    assert checks["rights"].detail == f"all {sum(len(rule.verbs) for rule in RULES)} rights that a deployment needs in {where}"
    assert "Kubernetes v1." in checks["cluster"].detail


def test_without_it_each_that_is_missing_is_named_with_its_rule(
    cluster: Cluster, namespace: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = namespace()
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG", as_account(cluster, where, role=False))
    rights = checked(tmp_path / "model", where)["rights"]
    assert not rights.ok
    for rule in RULES:
        line = f'- {{apiGroups: ["{rule.group}"], resources: [{rule.resource}], verbs: [{", ".join(rule.verbs)}]}}'
        assert line in rights.fix


def test_one_verb_taken_away_is_the_one_that_is_named(
    cluster: Cluster, namespace: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = namespace()
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG", as_account(cluster, where, role=True))
    less = ROLE.read_text().replace("resources: [pods/exec], verbs: [get, create]", "resources: [pods/exec], verbs: [get]")
    assert less != ROLE.read_text()
    cluster.run("--namespace", where, "apply", "--filename", "-", stdin=less)
    rights = checked(tmp_path / "model", where)["rights"]
    assert rights.detail == f"not allowed in {where}: pods/exec: create"


@pytest.mark.usefixtures("cluster")
def test_a_namespace_that_is_not_there_is_named(tmp_path: Path) -> None:
    checks = checked(tmp_path / "model", "nowhere")
    assert not checks["namespace"].ok
    assert checks["namespace"].fix == "`kubectl create namespace nowhere`"


def test_a_cluster_that_is_not_there_is_one_finding(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads(cluster.run("config", "view", "--raw", "--output", "json").stdout)
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG", json.dumps(config))
    checks = checked(tmp_path / "model", "default")
    assert list(checks) == ["cluster"]
    assert "127.0.0.1:1" in checks["cluster"].detail
    assert not checks["cluster"].ok
