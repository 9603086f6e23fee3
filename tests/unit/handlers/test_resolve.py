"""Whatever style the author's file is written in, what serves is entry_in; when nothing is, the message lists the styles."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from torchrelay_handlers import resolve
from torchrelay_handlers.handler import Handler
from torchrelay_handlers.resolve import TorchServeEntry
from torchrelay_handlers.sagemaker import SageMakerHandler
from torchrelay_handlers.settings import Settings

FACTORY = "from torchrelay_handlers import handler_factory\n"
NETWORK = "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self): super().__init__(2, 1)\n"


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def entry_in(tmp_path: Path, text: str, attribute: str = "") -> resolve.AnyHandler:
    (tmp_path / "their_handler.py").write_text(text)
    return resolve.find(Settings("their_handler.py" + attribute), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        FACTORY + "handler = handler_factory(list)",
        FACTORY + "mine = handler_factory(list)",
        "from base_handler import handler_factory\nhandler = handler_factory(init_function=list, classes=3)",
        "def init_function(): ...",
        "def preprocess(sample): ...\ndef postprocess(output): ...",
    ],
)
def test_per_sample_functions(tmp_path: Path, text: str) -> None:
    assert isinstance(entry_in(tmp_path, text), Handler)


@pytest.mark.parametrize("name", ["model_fn", "input_fn", "predict_fn", "output_fn"])
def test_any_of_sagemakers_functions(tmp_path: Path, name: str) -> None:
    assert isinstance(entry_in(tmp_path, f"def {name}(*args): ..."), SageMakerHandler)


@pytest.mark.parametrize(
    "text",
    [
        "def handle(data, context): return [1]",
        "class H:\n def initialize(self, context): ...\n def handle(self, data, context): return [1]",
        "class H:\n def initialize(self, context): ...\n def handle(self, data, context): return [1]\n"
        "_service = H()\ndef handle(data, context): return _service.handle(data, context)",
    ],
)
def test_torchserve_handlers(tmp_path: Path, text: str) -> None:
    entry = entry_in(tmp_path, text)
    assert isinstance(entry, TorchServeEntry)
    entry.initialize(None)
    assert entry.handle([{}], None) == [1]


def test_an_attribute_may_be_named(tmp_path: Path) -> None:
    text = FACTORY + "a = handler_factory(list)\nb = handler_factory(dict)"
    handler = entry_in(tmp_path, text, ":b")
    assert isinstance(handler, Handler)
    assert handler is sys.modules["their_handler"].b
    with pytest.raises(RuntimeError, match="has no 'c'"):
        entry_in(tmp_path, text, ":c")


@pytest.mark.parametrize("text", ["", "x = 3", "class A: ...", "import json"])
def test_a_file_without_a_handler_lists_the_accepted_styles(tmp_path: Path, text: str) -> None:
    with pytest.raises(RuntimeError, match="handler_factory"):
        entry_in(tmp_path, text)


def test_an_error_in_the_file_is_raised_and_leaves_no_half_module(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        entry_in(tmp_path, "1 / 0")
    assert "their_handler" not in sys.modules


def test_missing_files_and_unknown_names_are_reported(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not in the model's folder"):
        resolve.find(Settings("nowhere.py"), tmp_path)
    with pytest.raises(RuntimeError, match="neither shipped"):
        resolve.find(Settings("image_classifier"), tmp_path)


def test_the_model_file_gives_the_network_to_any_handler_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "their_model.py").write_text(NETWORK)
    (tmp_path / "their_handler.py").write_text("def preprocess(sample): ...")
    for name in ("tensor", "their_handler.py"):
        handler = resolve.find(Settings(name, model_file="their_model.py"), tmp_path)
        assert isinstance(handler, Handler)
        assert handler.init_function is sys.modules["their_model"].Net


def test_files_of_the_model_import_each_other(tmp_path: Path) -> None:
    (tmp_path / "their_net.py").write_text(NETWORK)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "deep.py").write_text("VALUE = 1")
    entry_in(tmp_path, "from their_net import Net\nfrom package.deep import VALUE\ndef init_function(): return Net()")


@pytest.mark.parametrize("text", ["x = 1", NETWORK + "class Other(torch.nn.Module): ..."])
def test_a_model_file_without_one_network_asks_for_init_function(tmp_path: Path, text: str) -> None:
    (tmp_path / "their_model.py").write_text(text)
    with pytest.raises(RuntimeError, match="def init_function"):
        resolve.find(Settings("tensor", model_file="their_model.py"), tmp_path)


def test_modules_are_taken_from_the_models_folder_not_from_elsewhere(tmp_path: Path) -> None:
    sys.modules["their_handler"] = ModuleType("their_handler")
    assert isinstance(entry_in(tmp_path, "def init_function(): ..."), Handler)


NATIVE, SAGEMAKER = "def handle(data, context): ...", "def model_fn(folder): ..."


@pytest.mark.parametrize("field", ["handler_args", "init_args"])
@pytest.mark.parametrize(("text", "style"), [(NATIVE, "TorchServe"), (SAGEMAKER, "SageMaker")])
def test_arguments_that_a_handler_cannot_receive_are_refused(tmp_path: Path, text: str, style: str, field: str) -> None:
    (tmp_path / "their_handler.py").write_text(text)
    arguments: dict[str, Any] = {field: {"nan": "null"}}
    settings = Settings("their_handler.py", **arguments)
    with pytest.raises(ValueError, match=rf"{field}: their_handler\.py contains .*{style}.*remove {field}"):
        resolve.find(settings, tmp_path)


def test_sagemaker_functions_without_model_fn_get_their_network_from_the_model_file(tmp_path: Path) -> None:
    (tmp_path / "their_model.py").write_text(NETWORK)
    (tmp_path / "their_handler.py").write_text("def input_fn(body, content_type): ...")
    entry = resolve.find(Settings("their_handler.py", model_file="their_model.py"), tmp_path)
    assert isinstance(entry, SageMakerHandler)
    assert entry.init_function is sys.modules["their_model"].Net
