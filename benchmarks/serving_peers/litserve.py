"""LitServe: batching with max_batch_size and batch_timeout, processes with workers_per_device, ZeroMQ with fast_queue.

Documented at lightning.ai/docs/litserve: features/batching; api-reference/litserver for the other two.
"""

from benchmarks.serving_peers.contract import APPS, Peer, Place, Request, plain_answer, plain_request
from benchmarks.serving_peers.workloads import Sample, Workload

BOUNDARY = "litserve-boundary"


def argv(place: Place) -> list[str]:
    return [str(place.python), "-m", f"{APPS}.litserve_app"]


def request(workload: Workload, sample: Sample) -> Request:
    """Return a request with a picture as a form's file; base64 in JSON (features/request-response-format) would be larger."""
    if workload.name != "image":
        return plain_request("/predict")(workload, sample)
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="p.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = head.encode() + sample.body + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Request("/predict", body, f"multipart/form-data; boundary={BOUNDARY}")


PEER = Peer("litserve", "litserve", argv, request, plain_answer)
