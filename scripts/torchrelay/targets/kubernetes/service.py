"""Sends requests through the model's Service, from inside one of its pods."""

from collections.abc import Sequence

from torchrelay.core.errors import DeployFailed
from torchrelay.model.model import Model
from torchrelay.model.samples import Sample
from torchrelay.targets import contract
from torchrelay.targets.kubernetes.api import Api
from torchrelay.targets.kubernetes.exec import pod_prober
from torchrelay.targets.kubernetes.manifests import PORT, selector
from torchrelay.targets.kubernetes.pod_trouble import is_ready
from torchrelay.verification.prober import Address, ExecProber
from torchrelay.verification.ready import wait_ping


def ready_pod(api: Api, name: str) -> str | None:
    """Return the name of a pod that gets traffic, None when there is none; the newest, because older ones may be ending."""
    ready = [pod for pod in api.list("Pod", selector(name)) if is_ready(pod)]
    newest = sorted(ready, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return str(newest[-1]["metadata"]["name"]) if newest else None


def address_of(api: Api, name: str) -> Address:
    """Return the Service's cluster address.

    Raises DeployFailed when there is no Service.
    """
    service = api.get("Service", name)
    if service is None:
        raise DeployFailed(f"{name} has no Service", "run `torchrelay deploy --target kubernetes`")
    return Address(str(service["spec"]["clusterIP"]), PORT)


def through_service(api: Api, name: str) -> ExecProber:
    """Return a prober of the Service.

    Raises DeployFailed when no pod is ready to send from.
    """
    pod = ready_pod(api, name)
    if pod is None:
        raise DeployFailed(f"no pod of {name} is ready", "see `torchrelay logs --target kubernetes`")
    return pod_prober(api, pod, address_of(api, name))


def verify_service(api: Api, model: Model, samples: Sequence[Sample]) -> None:
    """Send the samples through the Service, alone and many at a time, and compare the answers.

    Raises GateFailed, DeployFailed.
    """
    contract.verify_samples(through_service(api, model.name), model, samples, lambda: log_of(api, model.name))


def wait_service(api: Api, name: str) -> None:
    """Wait until /ping is answered through the Service: proxies learn of new pods a moment later.

    Raises GateFailed with the last answer, DeployFailed.
    """
    wait_ping(lambda: through_service(api, name), f"http://{name}")


def log_of(api: Api, name: str) -> str:
    """Return the log of a pod that gets traffic."""
    pod = ready_pod(api, name)
    return api.log_or_reason(pod) if pod else ""
