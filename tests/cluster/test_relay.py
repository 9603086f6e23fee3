"""The command as users run it: a model directory becomes pods, through a real registry."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.harness import Images
from tests.container.base_image import ensure_base_image
from tests.container.relay.runs import ROOT, Cli, digits, edit

MODEL = "digits-in-a-cluster"


def test_a_model_directory_becomes_pods(
    cluster: Cluster,
    images: Images,  # noqa: ARG001 -- the runtime image, which is made once
    namespace: Callable[[], str],
    tmp_path: Path,
) -> None:
    where = namespace()
    folder = digits(tmp_path / "model", MODEL, 8080)
    edit(folder / "model.yaml", "targets:\n", f"targets:\n  kubernetes: {{namespace: {where}}}\n")
    base = os.environ.get("TORCHRELAY_BASE_IMAGE") or ensure_base_image()
    cli = Cli({"TORCHRELAY_BASE_IMAGE": base, "PYTHONPATH": str(ROOT / "scripts"), "KUBECONFIG": str(cluster.kubeconfig)})
    try:
        done = cli("relay", folder, "--target", "kubernetes", "--repository", f"{cluster.registry}/models/", "--json")
        deployed = done.stage("deploy")
        assert (deployed["state"], deployed["url"]) == ("ready", f"http://{MODEL}.{where}.svc/predictions/{MODEL}")
        again = cli("relay", folder, "--target", "kubernetes", "--repository", f"{cluster.registry}/models/", "--json")
        assert again.stage("deploy")["skipped"] is True

        invoked = cli("invoke", folder, "--target", "kubernetes", "--sample", "seven", "--json").result
        assert (invoked["status"], invoked["body"]["class"]) == (200, "7")
        assert cli("status", folder, "--target", "kubernetes", "--json").result["digest"] == deployed["digest"]
        assert "ready after" in cli("logs", folder, "--target", "kubernetes").out
        cli("rollback", folder, "--target", "kubernetes").refused(31, "there is no previous version")
        assert cli("delete", folder, "--target", "kubernetes", "--json").result["deleted"] is True
        left = json.loads(cluster.run("--namespace", where, "get", "all", "--output", "json").stdout)
        assert left["items"] == []
    finally:
        cli.end_all()
