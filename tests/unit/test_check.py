"""Check on model directories that are right: nothing is refused, and warnings say what to think about."""

from pathlib import Path

import pytest

from tests.unit.model_dirs import GOOD_YAML, write
from torchrelay.core.paths import ROOT
from torchrelay.model.outside import PERMISSION
from torchrelay.stages import check

OWN = "name: digits\nweights: model.pt\nhandler: handler.py\n"

HANDLERS = [
    "from torchrelay_handlers import handler_factory\nhandler = handler_factory(None)\n",
    "from x import handler\n",
    "from x import *\n",
    "class Mine:\n    def initialize(self, context): ...\n    def handle(self, data, context): ...\n",
    "from ts.torch_handler.base_handler import BaseHandler\nclass Mine(BaseHandler): ...\n",
    "import ts\nclass Mine(ts.torch_handler.image_classifier.ImageClassifier, ts.BaseHandler): ...\n",
    "def handle(data, context): ...\n",
    "_service = None\ndef handle(data, context): ...\n",
    "def model_fn(model_dir): ...\ndef predict_fn(data, model): ...\n",
    "def init_function(): ...\ndef preprocess(sample): ...\n",
    "def predict_fn(data, model): ...\n",
    "def preprocess_function(sample): ...\n",
    "import torchrelay_handlers as t\nmine = t.handler_factory(None)\n",
    "class Base:\n    def handle(self, data, context): ...\n    def initialize(self, context): ...\nclass Mine(Base): ...\n",
    "try:\n    from fast import handler\nexcept ImportError:\n    handler = None\n",
    "if True:\n    def handle(data, context): ...\n",
    "a, handler = 1, 2\n",
    "handler: object = 1\n",
    "# -*- coding: latin-1 -*-\n# \xe9\nhandler = 1\n",
]


@pytest.mark.parametrize("code", HANDLERS)
def test_handlers(tmp_path: Path, code: str) -> None:
    encoded = code.encode("latin-1")
    assert check.run(write(tmp_path, {"model.yaml": OWN, "handler.py": encoded})).warnings == []


def test_handler_by_attribute(tmp_path: Path) -> None:
    text = OWN.replace("handler.py", "src/handler.py:Mine")
    assert check.run(write(tmp_path, {"model.yaml": text, "src/handler.py": "class Mine: ...\n"})).model.handler_attribute == "Mine"


NETWORKS = [
    ("def init_function(width, *, depth=2): ...\n", "{width: 1, depth: 3}"),
    ("def init_function(**kwargs): ...\n", "{anything: 1}"),
    ("from net import init_function\n", "{anything: 1}"),
    ("from torch import nn\nclass Net(nn.Module):\n    def __init__(self, width): ...\n", "{width: 1}"),
    ("from torch import nn\nclass Net(nn.Sequential): ...\n", "{}"),
    ("from vision import ResNet\nclass Net(ResNet): ...\n", "{anything: 1}"),
    ("from torch import nn\nclass A(nn.Module): ...\nclass B(A): ...\ndef init_function(): ...\n", "{}"),
]


@pytest.mark.parametrize(("code", "arguments"), NETWORKS)
def test_networks(tmp_path: Path, code: str, arguments: str) -> None:
    assert check.run(write(tmp_path, {"model.yaml": f"{GOOD_YAML}init_args: {arguments}\n", "model.py": code})).warnings == []


def test_requirements_that_pip_takes(tmp_path: Path) -> None:
    text = f"""\
# comment
--extra-index-url https://host/simple
--index-url=https://${{USER}}:${{TOKEN}}@host/simple
numpy==2.1.0 ; python_version >= "3.11"  # why
numpy==2.0.0 ; python_version < "3.11"
pillow[heic] == 11.0.0 \\
    --hash=sha256:{"a" * 64} \\
    --hash=sha256:{"b" * 64}
own @ https://host/own-1.0.zip
torchvision==0.28.0
"""
    assert check.run(write(tmp_path, {"requirements.txt": text})).warnings == []


def test_warnings(tmp_path: Path) -> None:
    text = GOOD_YAML + "environment: {HUB_TOKEN: abc, LEVEL: x}\n"
    sample = '{"request": {"json": 1},\n"expect": {"json": {}, "compare": "subset"}}'
    checked = check.run(
        write(tmp_path, {"model.yaml": text, "requirements.txt": "numpy\nscipy>=1\nx==1\n", "samples/one.json": sample})
    )
    assert [str(warning).partition(";")[0] for warning in checked.warnings] == [
        "requirements.txt: no exact version for numpy, scipy",
        "model.yaml:6: environment.HUB_TOKEN: looks like a secret, and everyone with access to the image can read it",
        "samples/one.json:1: expect: expects nothing of the answer, so it always passes",
    ]


def test_weights_of_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PERMISSION, "option", True)
    (tmp_path / "w.pt").write_bytes(b"weights")
    folder = write(tmp_path / "model", {"model.yaml": GOOD_YAML.replace("model.pt", str(tmp_path / "w.pt"))})
    assert ["exists only on this machine" in str(warning) for warning in check.run(folder).warnings] == [True]


def test_files_that_may_share(tmp_path: Path) -> None:
    text = GOOD_YAML + "extra_files: [helper.py, pkg, model-config.yaml, model.py]\n"
    files: dict[str, str | bytes | None] = {
        "model.yaml": text,
        "model.py": "import helper\nfrom pkg import x\nimport samples_of_mine\ndef init_function(): ...\n",
        "helper.py": "",
        "pkg/__init__.py": "x = 1",
        "pkg/model.py": "",
        "model-config.yaml": "jobQueueSize: 9\n",
    }
    assert check.run(write(tmp_path, files)).warnings == []


@pytest.mark.parametrize("name", sorted(path.parent.name for path in (ROOT / "examples").glob("*/model.yaml")))
def test_examples(name: str) -> None:
    assert check.run(ROOT / "examples" / name).warnings == []
