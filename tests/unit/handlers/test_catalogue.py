"""The options of handlers, read by the command line on machines without torch."""

import importlib.util
import sys
from pathlib import Path

import pytest

from torchrelay_handlers import catalogue

FILE = Path(catalogue.__file__)


@pytest.mark.parametrize("name", sorted(catalogue.SHIPPED))
def test_defaults_are_legal(name: str) -> None:
    for option, value in catalogue.SHIPPED[name].items():
        assert value.accepts(value.default), option
        assert value.doc.endswith(".")
    assert catalogue.check_options(name, {}) == []


def test_mistakes_are_named_with_the_nearest_right_option() -> None:
    problems = catalogue.check_options("image-classifier", {"sise": 8, "top_k": 0, "mode": "CMYK", "classes": "c.txt"})
    assert [(problem.option, problem.fix) for problem in problems] == [("sise", "did you mean size?"), ("top_k", ""), ("mode", "")]
    assert problems[1].message == "must be a positive integer, not 0"
    with pytest.raises(ValueError, match=r"handler_args\.sise: image-classifier has no such option; did you mean size"):
        catalogue.with_defaults("image-classifier", {"sise": 8})


def test_options_that_may_name_a_file_say_so() -> None:
    files = {handler: {name for name, option in options.items() if option.file} for handler, options in catalogue.SHIPPED.items()}
    assert files == {
        "tensor": set(),
        "image-classifier": {"classes"},
        "image-segmenter": {"classes"},
        "text-classifier": {"classes", "tokenizer", "vocab"},
    }


@pytest.mark.parametrize("hosts", ["*", ["http://a"], ["a b"], [""], ["*a"], ["a:0"], ["a/b"], ["a@b"], [1]])
def test_hosts_are_hosts(hosts: object) -> None:
    assert [problem.option for problem in catalogue.check_options("image-classifier", {"url_hosts": hosts})] == ["url_hosts"]


def test_any_python_file_takes_the_options_of_own_handlers() -> None:
    assert catalogue.options_of("handler.py:mine") is catalogue.OWN
    assert not catalogue.is_shipped("handler.py")


def test_neither_the_catalogue_nor_the_package_imports_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchrelay_handlers"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("torch", "PIL", "numpy", "orjson"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    spec = importlib.util.spec_from_file_location(
        "torchrelay_handlers", FILE.with_name("__init__.py"), submodule_search_locations=[str(FILE.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "torchrelay_handlers", package)
    spec.loader.exec_module(package)
    from torchrelay_handlers import BadSample, Request  # noqa: F401 -- importing it is the test

    monkeypatch.delitem(sys.modules, "torchrelay_handlers.catalogue", raising=False)
    importlib.import_module("torchrelay_handlers.catalogue")
    with pytest.raises(ImportError):
        _ = package.handler_factory
    with pytest.raises(AttributeError):
        _ = package.nonsense
