"""A version that answers correctly as candidate and wrongly once it gets traffic: only samples through the Service find that."""

import json
import os
import socket


def parsed(row):
    body = row.get("data") or row.get("body") or {}
    return json.loads(body) if isinstance(body, bytes | bytearray) else body


def handle(data, _context):
    if data is None:
        return None
    version = os.environ.get("DECLARED") if "-candidate-" in socket.gethostname() else "something else"
    return [{"echo": parsed(row).get("echo"), "version": version} for row in data]
