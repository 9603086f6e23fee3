"""FastAPI: plain functions in its thread pool under uvicorn with httptools and uvloop, one process per CPU, no batching.

Documented at fastapi.tiangolo.com: async (plain `def` functions run in a thread pool), deployment/server-workers ("--workers");
advanced/custom-response (ORJSONResponse for performance).
"""

from benchmarks.serving_peers.contract import APPS, Peer, Place, plain_answer, plain_request


def argv(place: Place) -> list[str]:
    named = "pictures" if place.workload.name == "image" else "numbers"
    serve = [place.program("uvicorn"), f"{APPS}.fastapi_app:{named}", "--host", "127.0.0.1", "--port", str(place.port)]
    return [*serve, "--workers", str(PEER.count(place.cpus)), "--no-access-log", "--log-level", "warning"]


PEER = Peer("fastapi", "fastapi", argv, plain_request("/predict"), plain_answer)
