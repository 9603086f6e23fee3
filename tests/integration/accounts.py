"""Stand-ins for services that tests cannot use: GitHub's token service, and AWS (moto: it checks no policy and no signature)."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from moto.server import ThreadedMotoServer

from tests.integration.weights_server import Behaviour, Handler, WeightsServer, serving

AWS_VARIABLES = ("PROFILE", "SESSION_TOKEN", "REGION", "DEFAULT_REGION", "ROLE_ARN", "WEB_IDENTITY_TOKEN_FILE")
CLAIMS = {
    "iss": "https://token.actions.githubusercontent.com",
    "aud": "sts.amazonaws.com",
    "sub": "repo:acme@7/serving@8:environment:production",
    "repository_owner_id": "7",
    "repository_id": "8",
    "environment": "production",
}
SIGNATURE = "c2lnbmF0dXJlLXRoYXQtbXVzdC1ub3QtYmUtcHJpbnRlZA"


def jwt(claims: dict[str, Any]) -> str:
    """Return a token in GitHub's form without a valid signature."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "RS256"}, claims)]
    return ".".join([*parts, SIGNATURE])


@contextmanager
def moto(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[str]:
    """Run moto's server and point boto3 at it, with a key that it accepts; yield its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    for name in AWS_VARIABLES:
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    yield address
    requests.post(f"{address}/moto-api/reset", timeout=5).raise_for_status()  # moto keeps all of it for the life of this process
    server.stop()


def answering(status: int, body: object) -> Behaviour:
    """Reply with a status and a document: JSON, or unchanged text."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()

    def behave(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "text/xml" if isinstance(body, str) else "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return behave


@contextmanager
def token_service(monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any] | None = None) -> Iterator[WeightsServer]:
    """Run the stand-in for GitHub's token service and make this process a job with `id-token: write`."""
    with serving(b"") as stand_in:
        stand_in.next = [answering(200, {"count": 1, "value": jwt(CLAIMS if claims is None else claims)})] * 9
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.delenv("ACT", raising=False)
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{stand_in.url}/token?v=1")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "the-bearer")
        yield stand_in


def sts_error(code: str, message: str = "no", status: int = 403) -> Behaviour:
    """Refuse in STS's form."""
    return answering(
        status,
        f'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>{code}</Code>'
        f"<Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>",
    )


def exported(file: Path) -> dict[str, str]:
    """Return the variables that later steps get in their environment."""
    text = file.read_text() if file.exists() else ""
    return {
        match["name"]: match["value"]
        for match in re.finditer(r"(?P<name>\w+)<<(?P<end>\S+)\n(?P<value>.*?)\n(?P=end)\n", text, re.S)
    }
