"""Asks a model through its Service, from one of its pods: what any pod of the cluster would be answered."""

import time
from collections.abc import Sequence

from torchrelay.core.errors import DeployFailed, GateFailed
from torchrelay.model.model import Model
from torchrelay.model.samples import Sample
from torchrelay.targets import contract
from torchrelay.targets.kubernetes.api import Api
from torchrelay.targets.kubernetes.exec import Address, PodProber
from torchrelay.targets.kubernetes.manifests import CONTAINER, PORT
from torchrelay.targets.kubernetes.rollout import ready_pod
from torchrelay.verification.compare import compare
from torchrelay.verification.prober import ProbeRequest

READY_S = 30.0


def address_of(api: Api, name: str) -> Address:
    """Return the Service's cluster address.

    Raises DeployFailed when there is no Service.
    """
    service = api.get("Service", name)
    if service is None:
        raise DeployFailed(f"{name} has no Service", "run `torchrelay deploy --target kubernetes`")
    return Address(str(service["spec"]["clusterIP"]), PORT)


def through_service(api: Api, name: str) -> PodProber:
    """Return what asks the Service.

    Raises DeployFailed when no pod is ready to ask from.
    """
    pod = ready_pod(api, name)
    if pod is None:
        raise DeployFailed(f"no pod of {name} is ready", "see `torchrelay logs --target kubernetes`")
    return PodProber(api, pod, address_of(api, name))


def prove_service(api: Api, model: Model, samples: Sequence[Sample]) -> None:
    """Hold the Service against samples, alone and many at a time.

    Raises GateFailed, DeployFailed.
    """
    contract.prove(through_service(api, model.name), model, samples, lambda: log_of(api, model.name))


def wait_service(api: Api, name: str) -> None:
    """Wait until /ping is answered with 200 through the Service: proxies hear of new pods a moment later.

    Raises GateFailed with the last answer.
    """
    deadline, last = time.monotonic() + READY_S, "not asked yet"
    while time.monotonic() < deadline:
        answer = through_service(api, name).send([ProbeRequest("ping", "GET", "/ping", "", b"")], 1, 5.0)[0]
        if answer.status == 200:
            return
        last = answer.error or f"{answer.status} {answer.body[:200].decode(errors='replace')}"
        time.sleep(0.2)
    raise GateFailed(f"the Service's /ping is not answered with 200 after {READY_S:.0f} s: {last}")


def answered_right(prober: PodProber, model: Model, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that are answered as expected: what has to be so again, should a rollout be undone."""
    sent = [ProbeRequest(one.name, "POST", one.path(contract.predict_path(model)), one.content_type, one.body) for one in samples]
    answers = prober.send(sent, 1, model.timeouts.response_s + 5.0)
    return [
        one
        for one, answer in zip(samples, answers, strict=True)
        if not answer.error and not compare(one, answer.status, answer.content_type, answer.body, 0.0)
    ]


def log_of(api: Api, name: str) -> str:
    """Return the log of a pod that gets traffic."""
    pod = ready_pod(api, name)
    return api.log_or_why(pod, CONTAINER) if pod else ""
