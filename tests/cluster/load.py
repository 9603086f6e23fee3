"""Sends requests to a Service from a pod until stopped, over new and over kept-alive connections. Runs only in the runtime image.

load.py HOST PORT PATH STOP_FILE   prints {"new": {"asked", "failed", "versions", "failures"}, "kept": ...} once the file exists
"""

import http.client
import json
import sys
import threading
import time
from pathlib import Path

LANES = 3
PAUSE_S = 0.01
BODY = json.dumps({"echo": "hello", "sleep": 0.02})
Row = tuple[float, str, str]  # start, the version that answered, the error
HEADERS = {"Content-Type": "application/json"}


def ask(connection: http.client.HTTPConnection, path: str) -> str:
    """Send one request; return the version that answered."""
    connection.request("POST", path, BODY, HEADERS)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise ValueError(f"{answer.status} {content[:100]!r}")
    return str(json.loads(content)["version"])


def lane(host: str, port: int, path: str, stop: Path, keep_alive: bool, seen: list[Row]) -> None:
    """Send until `stop`; a kept-alive connection is opened again only when it failed or the server announced that it closes it."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    while not stop.exists():
        began = time.time()
        try:
            seen.append((began, ask(connection, path), ""))
        except (OSError, http.client.HTTPException, ValueError) as error:
            seen.append((began, "", repr(error)))
            connection.close()
        if not keep_alive:
            connection.close()
        time.sleep(PAUSE_S)


def summary(seen: list[Row]) -> dict[str, object]:
    """Summarise the requests of one kind of connection."""
    failures = [(round(began, 2), error) for began, _, error in seen if error]
    versions = sorted({version for _, version, error in seen if not error})
    return {"asked": len(seen), "failed": len(failures), "versions": versions, "failures": failures[:5]}


def main(host: str, port: str, path: str, stop_file: str) -> None:
    """Send over both kinds of connection at once."""
    stop = Path(stop_file)
    seen: dict[str, list[Row]] = {"new": [], "kept": []}
    lanes = [
        threading.Thread(target=lane, args=(host, int(port), path, stop, kind == "kept", seen[kind]))
        for kind in seen
        for _ in range(LANES)
    ]
    for one in lanes:
        one.start()
    for one in lanes:
        one.join()
    print(json.dumps({kind: summary(rows) for kind, rows in seen.items()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
