"""A fake cluster in memory, with the interface of `Api`: rollouts complete at once, and pods answer by their image's name."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchrelay.core.errors import GateFailed
from torchrelay.targets.kubernetes.manifests import CANDIDATE, COMPONENT_LABEL, SERVER
from torchrelay.targets.kubernetes.waiting import REVISION

Document = dict[str, Any]
ONLY_AS_CANDIDATE = "only-as-candidate"


class Killed(BaseException):
    """A fake SIGKILL: afterwards, the process cannot call the cluster any more."""


@dataclass
class FakeCluster:
    """Holds applied objects by kind and name. `answers`: what each image answers to any sample.

    `killed_at_apply`: the number of the Deployment's apply after which the process is killed. `before_answer` runs before each
    batch of samples that a pod of the Deployment sends through the Service, `before_candidate` before a candidate starts.
    """

    answers: dict[str, Any]
    namespace: str = "ns"
    server: str = "https://api"
    objects: dict[tuple[str, str], Document] = field(default_factory=dict)
    killed_at_apply: int = 0
    before_answer: Callable[[], None] = lambda: None
    before_candidate: Callable[[], None] = lambda: None
    versions_asked: list[str] = field(default_factory=list)
    """The image and kind of pod (candidate or service) of each batch of samples."""
    killed: bool = False
    changes: int = 0

    def get(self, kind: str, name: str, *, quick: bool = False) -> Document | None:
        del quick
        self._alive()
        return copy.deepcopy(self.objects.get((kind, name)))

    def list(self, kind: str, selector: str = "", fields: str = "") -> list[Document]:
        del fields
        self._alive()
        wanted = dict(part.split("=") for part in selector.split(",")) if selector else {}
        candidates = [one for (of_kind, _), one in self.objects.items() if of_kind == kind]
        return copy.deepcopy([one for one in candidates if wanted.items() <= one["metadata"].get("labels", {}).items()])

    def apply(self, document: Document, *, dry_run: bool = False, force: bool = False) -> Document:
        del force
        self._alive()
        if dry_run:
            return copy.deepcopy(document)
        applied = copy.deepcopy(document)
        self.changes += 1
        applied["metadata"]["generation"] = self.changes
        kind, name = document["kind"], document["metadata"]["name"]
        self.objects[kind, name] = applied
        if kind == "Deployment":
            self._roll(applied)
            self.killed_at_apply -= 1
            if self.killed_at_apply == 0:
                self.killed = True
                self._alive()
        elif kind == "Pod":
            self.before_candidate()
            applied["status"] = {"containerStatuses": [{"name": "server", "state": {"running": {}}}]}
        elif kind == "Service":
            applied["spec"]["clusterIP"] = "10.0.0.1"
        return copy.deepcopy(applied)

    def create(self, document: Document) -> Document | None:
        return None if self.get(document["kind"], document["metadata"]["name"]) else self.replace(document, new=True)

    def replace(self, document: Document, *, quick: bool = False, new: bool = False) -> Document | None:
        del quick
        self._alive()
        key = document["kind"], document["metadata"]["name"]
        if not new and self.objects.get(key, {"metadata": {}})["metadata"].get("resourceVersion") != document["metadata"].get(
            "resourceVersion"
        ):
            return None
        self.changes += 1
        stored = copy.deepcopy(document)
        stored["metadata"]["resourceVersion"] = str(self.changes)
        self.objects[key] = stored
        return copy.deepcopy(stored)

    def delete(self, kind: str, name: str, *, grace_s: int | None = None, of_version: str = "") -> bool:
        del grace_s, of_version
        self._alive()
        if kind == "Deployment":
            for key in [key for key in self.objects if key[0] in ("ReplicaSet", "Pod") and key[1].startswith(f"{name}-r")]:
                del self.objects[key]
        return self.objects.pop((kind, name), None) is not None

    def log(self, pod: str, lines: int | None = None, *, previous: bool = False) -> str:
        del lines, previous
        return f"log of {pod}"

    log_or_reason = log

    def execute(self, pod: str, command: Sequence[str], stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
        """Answer as torchrelay_runtime.probe does: from the pod itself, or from the Deployment's pods for an address."""
        del timeout_s
        self._alive()
        if "--ready" in command:
            return 0, json.dumps({"ready": True, "reason": "", "failed": False}).encode(), b""
        if ("Pod", pod) not in self.objects:
            raise GateFailed(f"pod {pod} cannot run {command[-1]}: it is not running any more")
        batch = json.loads(stdin)
        name = self.objects["Pod", pod]["metadata"]["labels"]["app.kubernetes.io/name"]
        through_service = "host" in batch
        asked = self.objects["Deployment", name] if through_service else self.objects["Pod", pod]
        spec = asked["spec"]["template"]["spec"] if through_service else asked["spec"]
        image = str(spec["containers"][0]["image"])
        if batch["requests"][0]["path"] != "/ping":
            self.versions_asked.append(f"{image} {'service' if through_service else 'candidate'}")
            if through_service and pod.startswith(f"{name}-r"):
                self.before_answer()
        answer = self.answers[image]
        if answer == ONLY_AS_CANDIDATE:
            answer = "wrong" if through_service else "right"
        body = base64.b64encode(json.dumps(answer).encode()).decode()
        fields = {"status": 200, "content_type": "application/json", "body": body, "latency_ms": 1.0, "error": None}
        return 0, json.dumps([{"id": request["id"], **fields} for request in batch["requests"]]).encode(), b""

    def names(self) -> set[str]:
        """The kinds of all objects but the lock."""
        return {kind for kind, _ in self.objects if kind != "Lease"}

    def _roll(self, deployment: Document) -> None:
        """Complete the rollout: one ready pod of the new version, and the status that says so."""
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        name, revision = metadata["name"], str(metadata["generation"])
        metadata["annotations"] = {**metadata.get("annotations", {}), REVISION: revision}
        replicas = int(deployment["spec"].get("replicas", 1))
        counts = dict.fromkeys(("updatedReplicas", "readyReplicas", "availableReplicas", "replicas"), replicas)
        deployment["status"] = {"observedGeneration": metadata["generation"], **counts}
        for key in [key for key in self.objects if key[0] in ("ReplicaSet", "Pod") and key[1].startswith(f"{name}-r")]:
            del self.objects[key]
        labels = {**metadata["labels"], COMPONENT_LABEL: SERVER, "pod-template-hash": revision}
        owned: Document = {
            "name": f"{name}-r{revision}",
            "labels": labels,
            "annotations": {REVISION: revision},
            "creationTimestamp": "1",
        }
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        pod_name = f"{name}-r{revision}-pod"
        self.objects["ReplicaSet", owned["name"]] = {"metadata": owned, "status": {}}
        self.objects["Pod", pod_name] = {"metadata": {**owned, "name": pod_name}, "spec": template["spec"], "status": ready}

    def _alive(self) -> None:
        if self.killed:
            raise Killed

    def candidates(self) -> set[str]:
        return {name for kind, name in self.objects if kind == "Pod" and CANDIDATE in name}
