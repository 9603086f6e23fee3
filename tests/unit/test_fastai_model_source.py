"""model.py and the directory contain only what the tables know; an untrusted description that says more is refused."""

import ast
import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from torchrelay.authoring.fastai import directory, export, module_classes, module_kinds, picture, tensorfile
from torchrelay.authoring.fastai.learner import LearnerDescription, parse
from torchrelay.authoring.fastai.model_source import DescriptionInvalid, model_file
from torchrelay.core.errors import ModelInvalid
from torchrelay.core.text import printable

CONV = {
    "kind": "Conv2d",
    "args": {
        "in_channels": 3,
        "out_channels": 4,
        "kernel_size": [3, 3],
        "stride": [2, 1],
        "padding": [1, 1],
        "dilation": [1, 1],
        "groups": 1,
        "bias": False,
        "padding_mode": "zeros",
    },
}
NETWORK = {"kind": "Sequential", "parts": [["0", CONV], ["1", {"kind": "ReLU", "args": {"inplace": True}}]]}
LEARNER = {
    "fenced": True,
    "unplugged": True,
    "problems": [],
    "stand_ins": [],
    "task": "classify",
    "size": [8, 10],
    "picture": [16, 20],
    "fit": "crop",
    "channels": 3,
    "mean": [0.1, 0.2, 0.3],
    "std": [1.0, 1.0, 1.0],
    "activation": "softmax",
    "outputs": [1, 3],
    "vocab": ["a", "b", "c"],
    "answer": {"confidences": [0.2, 0.7, 0.1]},
    "network": NETWORK,
}


def network_of(text: str) -> torch.nn.Module:
    namespace: dict[str, Any] = {}
    exec(compile(text, "model.py", "exec"), namespace)  # noqa: S102 -- the test is about this code
    network: torch.nn.Module = namespace["init_function"]()
    return network


def test_defaults_are_left_out() -> None:
    text = model_file(NETWORK, "A title.", (3, 8, 10), "numbers")
    assert "\n        nn.Conv2d(3, 4, 3, stride=(2, 1), padding=1, bias=False),\n        nn.ReLU(inplace=True),\n" in text
    assert "import torch\n" not in text
    assert list(network_of(text).state_dict()) == ["0.weight"]
    assert ast.get_docstring(ast.parse(text)) is not None


def test_a_sequence_keeps_its_names() -> None:
    text = model_file({"kind": "Sequential", "parts": [["conv0", CONV]]}, "A title.", (3, 8, 10), "numbers")
    assert list(network_of(text).state_dict()) == ["conv0.weight"]


def change(path: list[Any], value: Any) -> dict[str, Any]:
    network = copy.deepcopy(NETWORK)
    at: Any = network
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return network


@pytest.mark.parametrize(
    "network",
    [
        None,
        [],
        {"kind": "eval"},
        {"kind": "Sequential"},
        {"kind": "Sequential", "parts": [["0"]]},
        {"kind": "Sequential", "parts": [["0", None]]},
        {"kind": "Sequential", "parts": [["a\nimport os\n", CONV]]},
        {"kind": "Sequential", "parts": [["0", CONV], ["0", CONV]]},
        {"kind": "SequentialEx", "parts": [["1", CONV]]},
        {"kind": "MergeLayer", "args": {"dense": True}},
        {"kind": "DynamicUnet", "parts": [["0", CONV]], "skips": [0]},
        {"kind": "DynamicUnet", "parts": [["0", CONV]], "skips": "import os"},
        {"kind": "Presized", "parts": [["network", CONV]], "size": ["1); import os; (", 2]},
        {"kind": "Presized", "parts": [["other", CONV]], "size": [1, 2]},
        {"kind": "ResBlock", "args": {}, "parts": [["convpath", CONV]]},
        {"kind": "DenseBlock", "parts": [["0", CONV]]},
        {"kind": "DenseBlock", "parts": [["class", CONV]]},
        {"kind": "DenseBlock", "parts": [["None", CONV]]},
        {"kind": "Sequential", "parts": [['a", __import__("os"), ("', CONV]]},
        {"kind": "Sequential", "parts": [["a\n", CONV]]},
        {"kind": "Dropout", "args": {"p": 10**400, "inplace": False}},
        {"kind": "Dropout", "args": {"p": 10**5000, "inplace": False}},
        {"kind": "Dropout", "args": {"p": float("inf"), "inplace": False}},
        {"kind": "Dropout", "args": {"p": "0.5", "inplace": False}},
        {"kind": "Dropout", "args": {"p": True, "inplace": False}},
        change(["parts", 0, 1, "args", "in_channels"], "3); import os; ("),
        change(["parts", 0, 1, "args", "in_channels"], True),
        change(["parts", 0, 1, "args", "in_channels"], -1),
        change(["parts", 0, 1, "args", "kernel_size"], [3, "3"]),
        change(["parts", 0, 1, "args", "kernel_size"], []),
        change(["parts", 0, 1, "args", "padding_mode"], 'zeros"); import os; ("'),
        change(["parts", 0, 1, "args", "bias"], 1),
        change(["parts", 0, 1, "args"], {}),
        change(["parts", 1, 1, "args"], {"inplace": True, "more": 1}),
    ],
)
def test_a_description_with_more_content_is_refused(network: Any) -> None:
    with pytest.raises(DescriptionInvalid):
        model_file(network, "A title.", (3, 8, 10), "numbers")


CODE = "__import__('os').environ.__setitem__('MARK', 'ran')"
HOSTILE = (
    f'""";{CODE};"""',
    f'"""\n{CODE}\n"""',
    f'"""\r{CODE}\r"""',
    f'"""\x0c;{CODE};"""',
    f"''';{CODE};'''",
    f'\\""";{CODE};#',
    "\\",
    '"',
    "\\N{no such character}",
    "\\x",
    "{network}{0}{title.__class__}",
    "\u202e\u2066evil",
    "a\0b",
    "\ud800",
    "\u2028import os",
    "\ufeffa",
    "# -*- coding: utf-7 -*-",
    "x" * 5000,
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_name_does_not_get_into_the_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MARK", raising=False)
    usual = ast.parse(directory.files(learner(), "one", "learner.pkl")["model.py"]).body
    for origin in (name, printable(name)):
        content = directory.files(learner(), "one", origin)["model.py"]
        text = content.decode("ascii")
        network_of(text)
        code = ast.parse(content).body
        assert [ast.dump(statement) for statement in code[1:]] == [ast.dump(statement) for statement in usual[1:]]
        assert isinstance(code[0], ast.Expr)
        assert isinstance(code[0].value, ast.Constant)
        assert max(map(len, text.splitlines())) < 400
    assert "MARK" not in os.environ


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_class_name_is_data_only(name: str) -> None:
    usual = directory.files(learner(), "one", "learner.pkl")
    vocab = [name[:1000], "b", "c"]
    if "\ud800" in name:
        with pytest.raises(ModelInvalid, match=r"is not valid: vocab\.0"):
            learner(vocab=vocab)
        return
    files = directory.files(learner(vocab=vocab), "one", "learner.pkl")
    assert files["model.py"] == usual["model.py"]
    settings, plain = (yaml.safe_load(one["model.yaml"]) for one in (files, usual))
    listed = settings["handler_args"].pop("classes")
    del plain["handler_args"]["classes"]
    assert settings == plain
    text = files[listed].decode("utf-8-sig")
    assert (text.removesuffix("\n").split("\n") if listed.endswith(".txt") else json.loads(text)) == vocab


def test_a_hostile_folder_name_is_data_only() -> None:
    usual = yaml.safe_load(directory.files(learner(), "one", "learner.pkl")["model.yaml"])
    for name in HOSTILE:
        if name != "\ud800":
            settings = yaml.safe_load(directory.files(learner(), name, "learner.pkl")["model.yaml"])
            assert settings == {**usual, "name": name}


def test_the_next_steps_quote_the_folder() -> None:
    exported = export.Exported(Path("a; touch b"), [], "", 0, 0.0, 0.0, [])
    assert export.next_steps(exported)[0] == "torchrelay relay 'a; touch b'"


def test_a_description_without_end_is_refused() -> None:
    network: dict[str, Any] = CONV
    for _ in range(100):
        network = {"kind": "Sequential", "parts": [["0", network]]}
    with pytest.raises(DescriptionInvalid, match="too deep or too large"):
        model_file(network, "A title.", (3, 8, 10), "numbers")


def test_every_kind_has_its_class() -> None:
    for name, kind in module_kinds.KINDS.items():
        assert kind.written.startswith("nn.") or kind.written in module_classes.PARTS, name
    order = list(module_classes.PARTS)
    for name, needs in module_classes.NEEDS.items():
        assert all(order.index(need) < order.index(name) for need in needs), name
    ast.parse("\n".join(module_classes.PARTS.values()))


def learner(**changed: Any) -> LearnerDescription:
    return parse({**copy.deepcopy(LEARNER), **changed})


def expected(**changed: Any) -> Any:
    files = directory.files(learner(**changed), "one", "learner.pkl")
    return json.loads(files["samples/learner.json"])["expect"]


def test_the_sample_expects_the_learners_answer() -> None:
    assert expected() == {"json": {"class": "b", "confidence": 0.7}, "compare": "numeric", "atol": 0.005}
    close = {"confidences": [0.4501, 0.45, 0.0999]}
    assert expected(answer=close) == {"json": {}, "compare": "subset"}
    several = expected(activation="sigmoid", answer={"confidences": [0.9, 0.2, 0.6]})
    assert [one["class"] for one in several["json"]["top"]] == ["a", "c", "b"]


def mask(pixels: list[int], unsure: int = 0, rivals: list[int] | None = None) -> dict[str, Any]:
    import base64

    text = base64.b64encode(bytes(pixels)).decode()
    answer = {"size": [2, len(pixels) // 2], "mask": text, "unsure": unsure, "rivals": rivals or []}
    return {"task": "segment", "outputs": [1, 3, 2, len(pixels) // 2], "answer": answer}


@pytest.mark.parametrize(
    ("unsure", "rivals", "keys"),
    [
        (0, [], {"size", "base64_prediction", "classes"}),
        (1, [2], {"size", "classes"}),
        (1, [1], {"size"}),  # another class may occur
        (4, [2], {"size"}),  # enough to swap the order
    ],
)
def test_the_sure_part_of_a_mask_is_expected(unsure: int, rivals: list[int], keys: set[str]) -> None:
    value = expected(**mask([0] * 10 + [2] * 4, unsure, rivals))["json"]
    assert value.keys() == keys
    if "classes" in keys:
        assert value["classes"] == [{"class": "a"}, {"class": "c"}]


def test_unusual_class_names_survive() -> None:
    for vocab in (["a", "b ", "c"], ["", "b", "c"], ["a", "b\nc", "d"], ["a\u2028", "b", "c"]):
        files = directory.files(learner(vocab=vocab), "one", "learner.pkl")
        assert json.loads(files["classes.json"]) == vocab
    assert directory.files(learner(), "no", "learner.pkl")["classes.txt"] == b"a\nb\nc\n"
    assert yaml.safe_load(directory.files(learner(), "1e3", "learner.pkl")["model.yaml"])["name"] == "1e3"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"problems": ["one\nis bad", "two"]}, "two; supported: vision_learner"),
        ({"size": [8]}, "is not valid: size"),
        ({"size": [8, 0]}, "is not valid: size.1"),
        ({"fit": "pad"}, "is not valid: fit"),
        ({"mean": [float("nan")]}, "is not valid: mean.0"),
        ({"std": [0.0]}, "standard deviation of zero"),
        ({"std": [1.0, 1.0]}, "a different number of channels"),
        ({"answer": {"confidences": [1.0]}}, "does not return one number per class"),
        ({"outputs": [1, 3, 4, 4]}, "is not valid"),
        ({"more": 1}, "is not valid: more"),
        (mask([0] * 4) | {"activation": "sigmoid"}, "several classes per pixel"),
        (mask([0] * 4) | {"outputs": [1, 300, 2, 2]}, "it has 300 classes"),
        (mask([0] * 4) | {"answer": {"size": [2, 2], "mask": "AA==", "unsure": 0, "rivals": []}}, "is not valid"),
        (mask([0] * 4) | {"answer": {"size": [2, 2], "mask": "?", "unsure": 0, "rivals": []}}, "is not valid: answer.mask"),
    ],
)
def test_an_invalid_description_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelInvalid, match=message):
        learner(**changed)


def test_the_picture_is_the_same_everywhere(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "one.png").write_bytes(picture.png(6, 9))
    image = Image.open(tmp_path / "one.png")
    image.load()
    assert image.size == (9, 6)
    assert image.getpixel((0, 0)) == (128, 212, 218)
    assert picture.size_for(48, 64) == (96, 128)
    assert picture.size_for(600, 600) == (600, 600)


def header(text: bytes, body: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + body


def entry(**changed: Any) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}}).encode()


def test_tensors_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "one"
    tensorfile.write(path, [("a", "F32", (2,), b"01234567"), ("b", "U8", (), b"8"), ("c", "I64", (0, 3), b"")])
    entries = tensorfile.read(path)
    blob = path.read_bytes()
    assert {name: (one.dtype, one.shape, blob[one.start : one.end]) for name, one in entries.items()} == {
        "a": ("F32", (2,), b"01234567"),
        "b": ("U8", (), b"8"),
        "c": ("I64", (0, 3), b""),
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "illegal length"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "illegal length"),
        (header(b"{]"), "not JSON"),
        (header(b"[]"), "not an object"),
        (header(entry(), b"0" * 7), "more or less than|overlap"),
        (header(entry(), b"0" * 9), "more or less than"),
        (header(entry(data_offsets=[1, 9]), b"0" * 9), "overlap or leave gaps"),
        (header(entry(shape=[3]), b"0" * 8), "does not fit its shape"),
        (header(entry(shape=[-2]), b"0" * 8), "illegal shape"),
        (header(entry(shape="2"), b"0" * 8), "illegal shape"),
        (header(entry(dtype="C64"), b"0" * 8), "is incomplete"),
        (header(b'{"a": 1}'), "is incomplete"),
        (header(b'{"a\\n": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}}', b"0"), "illegal name"),
    ],
)
def test_an_invalid_file_of_tensors_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "one").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        tensorfile.read(tmp_path / "one")


@pytest.mark.parametrize("comparison", [{}, {"difference": 0.1, "largest": 2.0}, {"difference": float("nan"), "largest": 1.0}])
def test_a_different_answer_is_refused(comparison: dict[str, Any]) -> None:
    with pytest.raises(ModelInvalid, match=r"network and the learner differ|could not be compared"):
        export.require_parity(comparison)
    assert export.require_parity({"difference": 0.001, "largest": 2.0}) == (0.001, 2.0)


def test_everything_is_written_or_nothing(tmp_path: Path) -> None:
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    files = directory.files(learner(), "one", "learner.pkl")
    with pytest.raises(ModelInvalid):
        export.write(tmp_path / "one", {**files, "model.py": b"("}, weights)
    assert list(tmp_path.iterdir()) == [weights]
    (tmp_path / "one").mkdir()
    (tmp_path / ".one.part").mkdir()  # left by a killed run
    export.write(tmp_path / "one", files, weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "one"]
    assert (tmp_path / "one/model.pt").read_bytes() == b"weights"
