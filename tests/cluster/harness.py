"""Models for the cluster tests: a case as a layer over the real runtime image, pushed to the nodes' registry."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster
from tests.container.harness import MODELS, NAME, SERVING
from torchrelay.core.paths import ROOT
from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.model.origin import Origin
from torchrelay.model.samples import Expect, Sample
from torchrelay.oci.image import Image
from torchrelay.oci.layers import LayerFile, tar_layer
from torchrelay.oci.reference import parse_reference
from torchrelay.oci.registry import Registry
from torchrelay.stages.build import compose
from torchrelay.stages.push import push_image
from torchrelay.targets import Context, Endpoint, Release
from torchrelay.targets.kubernetes.target import KubernetesTarget
from torchrelay.verification.prober import ProbeRequest

OWN_CASES = Path(__file__).parent / "cases"
JSON = "application/json"
ALL = ("all", "serviceaccount", "poddisruptionbudget", "networkpolicy", "lease", "configmap", "secret")
REPOSITORY = "https://github.com/acme/digits"


def sample(**expected: Any) -> Sample:
    """A request that is echoed, and the expected parts of the answer."""
    expect = Expect(mode="subset", value={"echo": "hello", **expected})
    return Sample("hello", b'{"echo": "hello"}', JSON, expect, None, "samples/hello.json", 1)


@dataclass
class Images:
    """Builds and pushes an image per case and version; the runtime's layers are pushed once."""

    registry: str
    runtime: Image
    pushed: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def of(self, case: str, version: str) -> tuple[str, str]:
        """Return `repository@digest` and the config digest."""
        if (case, version) not in self.pushed:
            folder = MODELS if (MODELS / case).is_dir() else OWN_CASES
            home = f"opt/torchrelay/models/{NAME}"
            model = {"modelName": NAME, "handler": "handler.py", "modelVersion": "1.0"}
            manifest = {"createdOn": "01/01/2026 00:00:00", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
            serving = {**SERVING, "version": version, "environment": {"DECLARED": version}, "drain_timeout_s": 10}
            contents = {
                f"{home}/MAR-INF/MANIFEST.json": json.dumps(manifest).encode(),
                f"{home}/handler.py": (folder / case / "handler.py").read_bytes(),
                "opt/torchrelay/serving.json": json.dumps(serving).encode(),
            }
            files = [LayerFile(name, content, len(content)) for name, content in contents.items()]
            with Quiet().task("layer", None) as task:
                image = compose(self.runtime, [tar_layer(files, "test", task)], {})
            target = parse_reference(f"{self.registry}/cluster/{case}:{version}".replace("_", "-"), version)
            pushed = push_image(image, Registry(target.base), target, Quiet())
            self.pushed[case, version] = pushed.reference, image.config_digest
        return self.pushed[case, version]

    def release(self, version: str, case: str = "answers_as_requested", expected: str = "", sequence: int = 0) -> Release:
        """Return a version whose sample expects its own name, or `expected`."""
        reference, config = self.of(case, version)
        source = Origin(
            REPOSITORY, f"{sequence:040x}", "refs/heads/main", sequence, f"{REPOSITORY}/actions/runs/{sequence}", "octocat"
        )
        return Release(version, config, (sample(version=expected or version),), reference=reference, source=source)


@dataclass
class Deployment:
    """A test's own namespace, and the model in it."""

    cluster: Cluster
    images: Images
    dir: Path
    namespace: str

    def model(self, replicas: int = 1, cpu: float = 1, **changes: Any) -> Model:
        described: dict[str, Any] = {
            "name": NAME,
            "weights": "model.pt",
            "handler": "handler.py",
            "timeouts": {"startup_s": 90, "drain_s": 10},
            "resources": {"cpu": cpu, "memory": "1Gi"},
            "targets": {"kubernetes": {"replicas": replicas, "namespace": self.namespace}},
        }
        return Model.model_validate(described | changes)

    def target(self, place_s: float = 60.0, **changes: Any) -> KubernetesTarget:
        return KubernetesTarget(Context(self.dir, self.model(**changes), Quiet(), self.dir / "cache"), place_s)

    def apply(self, version: str, case: str = "answers_as_requested", expected: str = "", sequence: int = 0) -> Endpoint:
        return self.target().apply(self.images.release(version, case, expected, sequence))

    def answer(self) -> Any:
        """Return the version that answers through the Service."""
        request = ProbeRequest("1", "POST", f"/predictions/{NAME}", JSON, b'{"echo": "hello"}')
        answer = self.target().invoke(request)
        return json.loads(answer.body)["version"] if answer.status == 200 else answer.error or answer.status

    def kubeconfig_of(self, account: str, role: str = "") -> str:
        """Create a service account, with the role in a file if given; return its kubeconfig as text."""
        self.kubectl("create", "serviceaccount", account)
        if role:
            self.kubectl("apply", "--filename", str(ROOT / role))
            who = f"--serviceaccount={self.namespace}:{account}"
            self.kubectl("create", "rolebinding", account, "--role=torchrelay-deployer", who)
        config = json.loads(self.cluster.run("config", "view", "--raw", "--output", "json").stdout)
        config["users"][0]["user"] = {"token": self.kubectl("create", "token", account).strip()}
        return json.dumps(config)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.run("--namespace", self.namespace, *arguments, stdin=stdin).stdout

    def get(self, *what: str) -> Any:
        return json.loads(self.kubectl("get", *what, "--output", "json"))

    def names(self, *kinds: str) -> list[str]:
        """Return `kind/name` of all objects of these kinds, except those from before the first deploy."""
        objects = self.kubectl("get", ",".join(kinds), "--output", "name").split()
        initial = ("serviceaccount/default", "serviceaccount/deployer", "configmap/kube-root-ca.crt")
        return sorted(one for one in objects if one not in initial)

    def annotations(self) -> dict[str, str]:
        """Annotations of the Deployment, without their prefix."""
        annotations: dict[str, str] = self.get("deployment", NAME)["metadata"]["annotations"]
        return {key.removeprefix("torchrelay.org/"): value for key, value in annotations.items()}

    def show(self) -> None:
        """Print the namespace's objects, events and logs, for a failed test."""
        print(self.cluster.run("--namespace", self.namespace, "get", "all", "--output", "wide", check=False).stdout)
        print(self.cluster.run("--namespace", self.namespace, "get", "events", check=False).stdout)
        print(
            self.cluster.run(
                "--namespace", self.namespace, "logs", "--tail=25", "--all-containers", f"deployment/{NAME}", check=False
            ).stdout
        )


def poll(what: str, look: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return the first truthy result of `look`."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"{what} was not seen within {seconds} s; last: {seen!r}"
        time.sleep(0.1)
    return seen
