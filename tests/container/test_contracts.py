"""One image for every contract: TorchServe's clients, SageMaker, Vertex AI, Prometheus, Docker's health check, the probe."""

from __future__ import annotations

import base64
import json
import subprocess

from tests.container.harness import JSON, PREDICT, PROBLEM, PYTHON, SERVING, Container, Factory, poll


def test_torchserve_clients_are_answered(shared: Container) -> None:
    answer = shared.predict(echo=[1, 2])
    assert (answer.status, answer.json["echo"]) == (200, [1, 2])
    assert shared.send("POST", f"{PREDICT}/{SERVING['version']}", b"{}").status == 200
    ping = shared.send("GET", "/ping")
    assert (ping.status, ping.json, ping.headers["content-type"]) == (200, {"status": "Healthy"}, JSON)


def test_another_version_is_not_answered(shared: Container) -> None:
    answer = shared.send("POST", f"{PREDICT}/v2", b"{}")
    assert (answer.status, answer.headers["content-type"]) == (404, PROBLEM)


def test_sagemaker_and_vertex_are_answered(container: Factory) -> None:
    vertex = {"AIP_HTTP_PORT": "9090", "AIP_HEALTH_ROUTE": "/v1/health", "AIP_PREDICT_ROUTE": "/v1/endpoints/1:predict"}
    one = container(command=["serve"], environment=vertex).wait_ready()
    assert one.send("POST", "/invocations", b'{"echo": 1}', port=9090).json["echo"] == 1
    assert one.send("GET", "/ping", port=9090).status == 200
    assert one.send("POST", "/v1/endpoints/1:predict", b'{"echo": 2}', port=9090).json["echo"] == 2
    assert one.send("GET", "/v1/health", port=9090).status == 200


def test_metrics_are_prometheus_text(shared: Container) -> None:
    assert shared.predict().status == 200
    answer = shared.send("GET", "/metrics", port=9090)
    assert answer.status == 200
    assert b"# TYPE ts_inference_requests_total counter" in answer.body
    assert f'ts_inference_requests_total{{model_name="{SERVING["name"]}"'.encode() in answer.body


def test_declared_environment_reaches_the_handler(shared: Container) -> None:
    report = shared.predict(report=True).json
    assert report["declared"] == "yes"
    assert report["python_path"][0] == SERVING["model_dir"]


def test_the_image_reports_its_health_to_docker(shared: Container) -> None:
    def health() -> bool | None:
        shared.raw.reload()
        return shared.raw.attrs["State"]["Health"]["Status"] == "healthy" or None

    poll("Docker's own health check", health, 30)


def probe(container: Container, batch: dict[str, object]) -> list[dict[str, object]]:
    command = ["docker", "exec", "-i", container.id, PYTHON, "-P", "-m", "torchrelay_runtime.probe"]
    done = subprocess.run(command, input=json.dumps(batch).encode(), capture_output=True, check=True)
    answers: list[dict[str, object]] = json.loads(done.stdout)
    return answers


def test_the_probe_answers_in_order_without_a_network(container: Factory) -> None:
    one = container(network="none", serving={"batch_size": 8, "batch_delay_ms": 50}).wait_ready()

    def ask(number: int) -> dict[str, object]:
        body = base64.b64encode(json.dumps({"echo": number, "sleep": 0.5}).encode()).decode()
        return {"id": f"r{number}", "method": "POST", "path": PREDICT, "content_type": JSON, "body": body}

    answers = probe(one, {"concurrency": 4, "timeout_s": 20, "requests": [ask(number) for number in range(8)]})
    assert [answer["id"] for answer in answers] == [f"r{number}" for number in range(8)]
    assert [json.loads(base64.b64decode(str(answer["body"])))["echo"] for answer in answers] == list(range(8))
    assert {answer["status"] for answer in answers} == {200}
    assert all(500 <= float(str(answer["latency_ms"])) < 5000 for answer in answers)
    (late,) = probe(one, {"concurrency": 1, "timeout_s": 0.1, "requests": [ask(9)]})
    assert late["status"] == 0
    assert "was not complete within" in str(late["error"])
