"""Init: the new directory passes check; nothing is overwritten or left incomplete."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from torchrelay.authoring.init import HANDLERS, InitOptions, default_name, init, questions
from torchrelay.core.errors import ModelInvalid
from torchrelay.stages import check


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("weights", ["", "s3://bucket/path/model.pt", "hf://org/repo/model.safetensors@main"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_new_directory_passes_check(tmp_path: Path, handler: str, weights: str, device: str) -> None:
    folder = tmp_path / "new" / "My model"
    written = init(folder, InitOptions(handler=handler, weights=weights, device=device))
    checked = check.run(folder)
    assert checked.model.name == "my-model"
    assert checked.model.handler == handler
    assert checked.model.device == device
    assert [sample.name for sample in checked.samples] == ["example"]
    assert sorted(written.files) == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert written.next_steps
    # the answer of the author's weights is unknown: it is left open, with a warning
    assert [warning.field for warning in checked.warnings] == (["expect"] if weights else [])


def test_the_schema_is_named_for_editors(tmp_path: Path) -> None:
    init(tmp_path, InitOptions(name="a"))
    first = (tmp_path / "model.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=https://raw.githubusercontent.com/org/deploy/main/schema/model.schema.json"


def test_the_authors_weights_and_classes(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"weights")
    init(tmp_path, InitOptions(name="no", weights="w.pt", handler="image-classifier", classes=("yes", "no", 'a "b"', "ü: {")))
    model = check.run(tmp_path).model
    assert model.name == "no"
    assert model.weights.uri == "w.pt"
    assert model.handler_args["classes"] == ["yes", "no", 'a "b"', "ü: {"]
    assert not (tmp_path / "model.pt").exists()


def test_example_weights_are_always_the_same(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        init(tmp_path / folder, InitOptions(name="a"))
    data = (tmp_path / "a/model.pt").read_bytes()
    assert data == (tmp_path / "b/model.pt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert sorted(archive.namelist()) == ["model/byteorder", "model/data.pkl", "model/data/0", "model/data/1", "model/version"]
        assert struct.unpack("<2f", archive.read("model/data/1")) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (InitOptions(name="A/b"), 'name: "A/b" is not a legal name'),
        (InitOptions(name="a\nhandler: x"), "name: "),
        (InitOptions(handler="tensr"), 'handler: "tensr" is not supported; did you mean tensor?'),
        (InitOptions(device="tpu"), "device: must be 'cpu' or 'gpu'"),
        (InitOptions(weights="gone.pt"), 'weights: "gone.pt" does not exist; put the file into'),
        (InitOptions(weights="gs://a/b"), "weights: gs:// is not supported"),
        (InitOptions(handler="image-classifier", classes=("a",)), "classes: are fewer than two"),
        (InitOptions(handler="image-classifier", classes=("a", "a")), "classes: contain a name twice"),
        (InitOptions(handler="image-classifier", classes=("a", "b\u2028c")), "classes: contain a control character"),
    ],
)
def test_illegal_answers_are_refused(tmp_path: Path, options: InitOptions, fragment: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        init(tmp_path / "new", options)
    assert fragment in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["model.yaml", ".gitignore", "samples/example.json"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(ModelInvalid, match=rf"^{name}: exists already; choose another directory"):
        init(tmp_path, InitOptions(name="a"))
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [Path(name).name]


def test_a_failed_init_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "example.json":
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space"):
        init(tmp_path, InitOptions(name="a"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_questions(tmp_path: Path) -> None:
    by_field = {question.field: question for question in questions(tmp_path / "Grand Été 2")}
    assert by_field["name"].default == "grand-t-2"
    assert by_field["handler"].choices == HANDLERS
    assert by_field["classes"].only_for_handler == "image-classifier"
    assert set(by_field) == set(InitOptions.__dataclass_fields__)
    assert default_name(tmp_path / "___") == "model"
