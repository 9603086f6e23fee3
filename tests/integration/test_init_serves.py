"""The example model that init writes, archived, answers its own sample."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from torchrelay.authoring.init import HANDLERS, InitOptions, init
from torchrelay.stages import check
from torchrelay.stages.archive import plan_entries
from torchrelay.verification.compare import compare

# Each model runs in its own process, because its modules are called `handler` and `model`.
SERVE = """
import base64, json, sys
from pathlib import Path
folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
from torchrelay_handlers import Request, resolve, settings
options = settings.read(folder)
handler = resolve.find(options, folder)
handler.start(options, folder)
sample = json.load(sys.stdin)
(answer,) = handler.answer([Request(base64.b64decode(sample["body"]), sample["content_type"])])
body = base64.b64encode(answer.body).decode()
print(json.dumps({"status": answer.status, "content_type": answer.content_type, "body": body}))
"""


@pytest.mark.parametrize("name", HANDLERS)
def test_the_example_model_answers_its_sample(tmp_path: Path, name: str) -> None:
    folder, archived = tmp_path / "new", tmp_path / "archived"
    init(folder, InitOptions(handler=name))
    checked = check.run(folder)
    model = checked.model
    for entry in plan_entries(folder, model, folder / model.weights.uri, model.weights.filename, "1"):
        path = archived / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with entry.open() as source:
            path.write_bytes(source.read())
    (sample,) = checked.samples
    request = json.dumps({"body": base64.b64encode(sample.body).decode(), "content_type": sample.content_type})
    done = subprocess.run([sys.executable, "-c", SERVE, str(archived)], input=request, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert compare(sample, answer["status"], answer["content_type"], base64.b64decode(answer["body"]), None) == []
