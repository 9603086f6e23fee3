"""A handler whose answers turn wrong: after thirty requests, or only for requests that come through another host, by DECLARED.

Behind its own front alone, the client is loopback.
"""

import json
import os

DECLARED = os.environ.get("DECLARED", "")
count = 0


def handle(data, context):
    global count  # noqa: PLW0603 -- what a warm-up hides
    if data is None:
        return None
    answers = []
    for index, row in enumerate(data):
        count += 1
        headers = {name.lower(): value for name, value in context.get_all_request_header(index).items()}
        late = DECLARED == "late" and count > 30
        behind = DECLARED == "behind" and headers.get("x-forwarded-for", "127.0.0.1") != "127.0.0.1"
        body = row.get("body") or {}
        body = json.loads(body) if isinstance(body, bytes | bytearray) else body
        answers.append({"echo": body.get("echo"), "version": "wrong" if late or behind else DECLARED})
    return answers
