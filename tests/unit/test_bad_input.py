"""Every way in which a model directory is wrong: the file and line that are named, and what is said."""

from pathlib import Path

import pytest

from tests.unit.model_dirs import GOOD_YAML, write
from torchrelay.core.errors import ModelInvalid
from torchrelay.stages import check

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
HANDLER = GOOD_YAML.replace("handler: tensor", "handler: handler.py").replace("handler_args: {shape: [4]}\n", "")


def plus(text: str) -> str:
    """The good model.yaml with more lines: the first of them is line 6."""
    return GOOD_YAML + text


YAML_CASES: list[tuple[str, str | bytes, str, str]] = [
    ("empty", "", "model.yaml:1:", "is empty; write `key: value` lines"),
    ("comment_only", "# nothing\n", "model.yaml:1:", "is empty"),
    ("list", "- name: digits\n", "model.yaml:1:", "is a list"),
    ("scalar", "digits\n", "model.yaml:1:", "is a single value"),
    ("not_utf8", b"name: digits\nversion: \xff\n", "model.yaml:2:", "byte 0xff is not UTF-8"),
    ("utf16", "name: digits\n".encode("utf-16"), "model.yaml:1:", "is not UTF-8"),
    ("control_character", "name: digits\nversion: \x07\n", "model.yaml:2:", "holds a control character"),
    ("tab", plus("batch:\n\tsize: 8\n"), "model.yaml:7:", "a tab where YAML allows only spaces; indent with spaces"),
    ("unclosed", plus("batch: {size: 8\n"), "model.yaml:7:", "is not YAML"),
    ("no_colon_space", plus("workers 2\nbatch: 3\n"), "model.yaml:7:", "is not YAML"),
    ("two_documents", plus("---\nname: b\n"), "model.yaml:6:", "holds a second YAML document"),
    (
        "python_tag",
        plus("init_args: !!python/object/apply:os.system [id]\n"),
        "model.yaml:6:",
        "python/object/apply:os.system is not allowed",
    ),
    ("merge_key", plus("batch: {<<: {size: 1}}\n"), "model.yaml:6:", "merge keys (<<) are not supported"),
    ("alias_without_anchor", plus("version: *v\n"), "model.yaml:6:", "alias *v has no anchor before it"),
    ("alias_of_itself", plus("init_args: &a {b: *a}\n"), "model.yaml:6:", "alias *a contains itself"),
    (
        "billion_laughs",
        plus(
            "init_args:\n  a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"  {n}: &{n} [{', '.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True))
        ),
        "model.yaml:",
        "expands to more than 20000 values",
    ),
    ("deep", plus("init_args: " + "[" * 5000), "model.yaml:6:", "nests deeper than 32 levels"),
    ("large", plus("#" * 300_000), "model.yaml:", "is larger than 262144 bytes"),
    ("complex_key", plus("? [a]\n: b\n"), "model.yaml:6:", "a key must be one word or quoted text"),
    ("duplicate_key", plus("name: other\n"), "model.yaml:6:", "name: is written twice, first at line 1; keep one"),
    (
        "duplicate_inner_key",
        plus("batch:\n  size: 1\n  size: 2\n"),
        "model.yaml:8:",
        "batch.size: is written twice, first at line 7",
    ),
    (
        "unknown_key",
        plus("wokers: 2\n"),
        "model.yaml:6:",
        "wokers: unknown key; did you mean workers? allowed: batch, default_version, device",
    ),
    (
        "unknown_inner_key",
        plus("batch:\n  sise: 2\n"),
        "model.yaml:7:",
        "batch.sise: unknown key; did you mean size? allowed: delay_ms, size",
    ),
    (
        "unknown_target",
        plus("targets: {kuberntes: {}}\n"),
        "model.yaml:6:",
        "targets.kuberntes: unknown key; did you mean kubernetes?",
    ),
    ("unknown_unlike_all", plus("zzz: 2\n"), "model.yaml:6:", "zzz: unknown key; allowed: batch, default_version, device"),
    ("key_with_newline", plus('"a\\nb": 2\n'), "model.yaml:6:", "a\\nb: unknown key"),
    ("key_with_bidi", plus('"a\\u202eb": 2\n'), "model.yaml:6:", "a\\u202eb: unknown key"),
    (
        "missing_name",
        "weights: model.pt\nhandler: tensor\nmodel_file: model.py\n",
        "model.yaml:1:",
        "name: required key is missing; write `name: digits`",
    ),
    ("missing_weights", "name: a\nhandler: tensor\n", "model.yaml:1:", "weights: required key is missing"),
    ("null_name", GOOD_YAML.replace("digits", ""), "model.yaml:1:", "name: expected text, got nothing"),
    ("name_with_path", GOOD_YAML.replace("digits", "../digits"), "model.yaml:1:", 'name: "../digits" is not a legal name'),
    ("name_with_tag", GOOD_YAML.replace("digits", "Digits:v1"), "model.yaml:1:", "did you mean digits-v1?"),
    ("name_too_long", GOOD_YAML.replace("digits", "d" * 64), "model.yaml:1:", "at most 63"),
    ("name_newline_at_end", GOOD_YAML.replace("digits", '"digits\\n"'), "model.yaml:1:", 'name: "digits\\n" is not a legal name'),
    ("name_unicode", GOOD_YAML.replace("digits", "ziffern-ü"), "model.yaml:1:", "is not a legal name"),
    ("version_with_slash", plus("version: a/b\n"), "model.yaml:6:", 'version: "a/b" is not a legal version'),
    ("version_starts_with_dot", plus("version: .1\n"), "model.yaml:6:", 'version: ".1" is not a legal version'),
    (
        "type_quoted_number",
        plus("workers: '2'\n"),
        "model.yaml:6:",
        'workers: expected a whole number, got the text "2"; remove the quotes',
    ),
    ("type_octal", plus("workers: 010\n"), "model.yaml:6:", "write 10 without leading zeros"),
    ("type_float", plus("workers: 1.5\n"), "model.yaml:6:", "workers: expected a whole number, got 1.5"),
    ("type_bool_as_number", plus("workers: true\n"), "model.yaml:6:", "workers: expected a whole number, got true"),
    ("type_list", plus("batch: [8]\n"), "model.yaml:6:", "batch: expected a mapping, got a list"),
    ("type_mapping", plus("extra_files: {a: b}\n"), "model.yaml:6:", "extra_files: expected a list, got a mapping"),
    ("device", plus("device: gup\n"), "model.yaml:6:", "device: must be 'cpu' or 'gpu', not \"gup\"; did you mean gpu?"),
    ("batch_zero", plus("batch: {size: 0}\n"), "model.yaml:6:", "batch.size: must be at least 1, not 0"),
    ("batch_large", plus("batch: {size: 1025}\n"), "model.yaml:6:", "batch.size: must be at most 1024, not 1025"),
    ("delay_zero", plus("batch: {delay_ms: 0}\n"), "model.yaml:6:", "TorchServe treats 0 as 100 ms"),
    ("huge_number", plus("workers: " + "9" * 5000 + "\n"), "model.yaml:6:", "workers: expected a whole number"),
    ("infinite_cpu", plus("resources: {cpu: .inf}\n"), "model.yaml:6:", "resources.cpu:"),
    (
        "memory_unit",
        plus("resources: {memory: 2GB}\n"),
        "model.yaml:6:",
        'resources.memory: "2GB" has no legal unit; did you mean 2G?',
    ),
    ("memory_no_unit", plus("resources: {memory: 2}\n"), "model.yaml:6:", "did you mean 2Gi?"),
    ("memory_small", plus("resources: {memory: 64Mi}\n"), "model.yaml:6:", "is less than a server needs to start"),
    (
        "memory_words",
        plus("resources: {memory: much}\n"),
        "model.yaml:6:",
        '"much" is not an amount of memory; write for example 2Gi',
    ),
    (
        "gpu_on_cpu",
        plus("resources: {gpu: 1}\n"),
        "model.yaml:6:",
        "resources.gpu: asks for 1, but device is cpu; write `device: gpu`",
    ),
    ("port", plus("targets: {docker: {port: 65536}}\n"), "model.yaml:6:", "targets.docker.port: must be at most 65535, not 65536"),
    ("environment_name", plus("environment: {2X: a}\n"), "model.yaml:6:", 'environment.2X: "2X" is not a legal name of a variable'),
    ("environment_reserved", plus("environment: {TORCHRELAY_PORT: 1}\n"), "model.yaml:6:", "TORCHRELAY_PORT is set by Torchrelay"),
    ("environment_value", plus("environment: {A: [1]}\n"), "model.yaml:6:", "environment.A: expected text, got a list"),
    ("environment_null_byte", plus('environment: {A: "a\\0b"}\n'), "model.yaml:6:", "environment.A: holds a control character"),
    (
        "weights_scheme",
        GOOD_YAML.replace("model.pt", "s3a://b/model.pt"),
        "model.yaml:2:",
        "weights: s3a:// is not supported; did you mean s3://?",
    ),
    ("weights_gs", GOOD_YAML.replace("model.pt", "gs://b/model.pt"), "model.yaml:2:", "weights: gs:// is not supported"),
    (
        "weights_s3_no_key",
        GOOD_YAML.replace("model.pt", "s3://bucket/"),
        "model.yaml:2:",
        "is not a legal S3 address; write s3://bucket/key",
    ),
    ("weights_s3_bucket", GOOD_YAML.replace("model.pt", "s3://Bucket/k"), "model.yaml:2:", "is not a legal S3 address"),
    ("weights_hf_short", GOOD_YAML.replace("model.pt", "hf://org/file.pt"), "model.yaml:2:", "write hf://org/repo/path[@revision]"),
    (
        "weights_http",
        GOOD_YAML.replace("model.pt", "http://host/m.pt"),
        "model.yaml:2:",
        "http:// can be changed on the way; write https://",
    ),
    (
        "weights_password",
        GOOD_YAML.replace("model.pt", "https://me:secret@host/m.pt"),
        "model.yaml:2:",
        "the address carries a password",
    ),
    ("weights_directory", GOOD_YAML.replace("model.pt", "https://host/"), "model.yaml:2:", "is not a legal file name"),
    ("weights_up", GOOD_YAML.replace("model.pt", "../model.pt"), "model.yaml:2:", '"../model.pt" leaves the model directory'),
    ("weights_number", GOOD_YAML.replace("model.pt", "[model.pt]"), "model.yaml:2:", "expected an address or a mapping with `uri`"),
    (
        "weights_missing",
        GOOD_YAML.replace("model.pt", "other.pt"),
        "model.yaml:2:",
        'weights: "other.pt" does not exist; put the file there',
    ),
    ("weights_folder", GOOD_YAML.replace("model.pt", "samples"), "model.yaml:2:", '"samples" is a folder, not a file'),
    (
        "sha256",
        GOOD_YAML.replace("model.pt", "{uri: model.pt, sha256: abc}"),
        "model.yaml:2:",
        'weights.sha256: "abc" is not a sha256; write its 64 hexadecimal',
    ),
    (
        "weights_key",
        GOOD_YAML.replace("model.pt", "{url: model.pt}"),
        "model.yaml:2:",
        "weights.url: unknown key; did you mean uri?",
    ),
    (
        "handler_typo",
        GOOD_YAML.replace("tensor", "tensr"),
        "model.yaml:3:",
        'no shipped handler is called "tensr"; did you mean tensor?',
    ),
    ("handler_missing", HANDLER, "model.yaml:3:", 'handler: "handler.py" does not exist'),
    (
        "handler_attribute",
        GOOD_YAML.replace("tensor", "handler.py:1"),
        "model.yaml:3:",
        '"1" is not a Python name; write handler.py:attribute',
    ),
    ("handler_absolute", GOOD_YAML.replace("tensor", "/handler.py"), "model.yaml:3:", '"/handler.py" is not relative'),
    ("handler_option", GOOD_YAML.replace("shape", "shap"), "model.yaml:4:", "handler_args.shap: unknown key; did you mean shape?"),
    ("handler_option_value", GOOD_YAML.replace("[4]", "4"), "model.yaml:4:", "handler_args.shape: must be a list of integers"),
    ("model_file_suffix", GOOD_YAML.replace("model.py", "model.pyc"), "model.yaml:5:", '"model.pyc" is not a Python file'),
    ("model_file_missing", GOOD_YAML.replace("model.py", "net.py"), "model.yaml:5:", 'model_file: "net.py" does not exist'),
    (
        "init_args_typo",
        plus("init_args: {widht: 3}\n"),
        "model.yaml:6:",
        "init_args.widht: is not a parameter of init_function (model.py:4); did you mean width?",
    ),
    (
        "init_args_unused",
        GOOD_YAML.replace("model_file: model.py", "init_args: {a: 1}"),
        "model.yaml:5:",
        "init_args: needs a model_file",
    ),
    ("requirements_missing", plus("requirements: req.txt\n"), "model.yaml:6:", 'requirements: "req.txt" does not exist'),
    (
        "extra_missing",
        plus("extra_files:\n  - model.py\n  - nothing.txt\n"),
        "model.yaml:8:",
        'extra_files[1]: "nothing.txt" does not exist',
    ),
    (
        "extra_up",
        plus("extra_files:\n  - ../x\n"),
        "model.yaml:7:",
        'extra_files[0]: "../x" leaves the model directory; move the file into it',
    ),
    ("extra_backslash", plus("extra_files: ['a\\b']\n"), "model.yaml:6:", "holds a backslash"),
    ("extra_itself", plus("extra_files: [.]\n"), "model.yaml:6:", "is the model directory itself"),
    (
        "extra_twice",
        plus("extra_files: [samples/one.json, samples]\n"),
        "model.yaml:6:",
        'extra_files[1]: "samples/one.json" is listed twice',
    ),
    (
        "samples_missing",
        plus("samples: tests\n"),
        "tests:",
        "samples: does not exist; put a request with its expected answer there",
    ),
]


@pytest.mark.parametrize(("text", "place", "fragment"), [case[1:] for case in YAML_CASES], ids=[case[0] for case in YAML_CASES])
def test_model_yaml(tmp_path: Path, text: str | bytes, place: str, fragment: str) -> None:
    assert_problem(write(tmp_path, {"model.yaml": text}), place, fragment)


def assert_problem(folder: Path, place: str, fragment: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        check.run(folder)
    lines = [str(problem) for problem in caught.value.problems]
    assert any(line.startswith(place) and fragment in line for line in lines), "\n".join(lines)
    assert all(line.isprintable() for line in lines)


FILE_CASES: list[tuple[str, dict[str, str | bytes | None], str, str]] = [
    ("weights_empty", {"model.pt": b""}, "model.yaml:2:", '"model.pt" is empty'),
    ("weights_lfs", {"model.pt": LFS}, "model.yaml:2:", "is a Git LFS pointer, not the file itself (run `git lfs pull`)"),
    ("no_samples", {"samples/one.json": None, "samples/.keep": ""}, "samples:", "holds no sample"),
    ("model_syntax", {"model.py": "import torch\n\ndef init_function(:\n"}, "model.py:3:", "is not Python: "),
    ("model_null_byte", {"model.py": b"a = 1\0"}, "model.py:", "is not Python: source code string cannot contain null bytes"),
    ("model_nested", {"model.py": "a = " + "(" * 5000}, "model.py:", "is not Python"),
    ("model_attribute_chain", {"model.py": "a" + ".a" * 100_000}, "model.py:", "is nested too deeply to be read"),
    ("model_empty", {"model.py": ""}, "model.py:1:", "has neither init_function nor a class that derives from torch.nn.Module"),
    (
        "model_two_networks",
        {"model.py": "from torch import nn\nclass A(nn.Module): ...\nclass B(nn.Module): ...\n"},
        "model.py:3:",
        "holds several networks (A, B); add `def init_function",
    ),
    (
        "model_needs_argument",
        {"model.py": "def init_function(width): ...\n"},
        "model.py:1:",
        'init_function needs "width", which init_args',
    ),
    (
        "handler_syntax",
        {"model.yaml": HANDLER, "handler.py": "x = 1\nif x\n"},
        "handler.py:2:",
        "is not Python: expected ':'; correct the syntax",
    ),
    (
        "handler_without",
        {"model.yaml": HANDLER, "handler.py": "print('hello')\n"},
        "handler.py:1:",
        "holds no handler; write `handler = handler_factory",
    ),
    ("handler_near", {"model.yaml": HANDLER, "handler.py": "handlr = 1\n"}, "handler.py:1:", "did you mean handlr to be handler?"),
    ("handler_lfs", {"model.yaml": HANDLER, "handler.py": LFS}, "model.yaml:3:", "is a Git LFS pointer"),
    (
        "handler_attribute",
        {"model.yaml": HANDLER.replace("handler.py", "handler.py:Predict"), "handler.py": "class Predictr: ...\n"},
        "handler.py:",
        "defines no Predict, which `handler` in model.yaml names; did you mean Predictr?",
    ),
    (
        "handler_half_a_class",
        {"model.yaml": HANDLER, "handler.py": "class A:\n    def handle(self, d, c): ...\n"},
        "handler.py:1:",
        "holds no handler",
    ),
    (
        "left_behind",
        {"model.yaml": HANDLER, "handler.py": "from helper import x\nhandler = x()\n", "helper.py": ""},
        "handler.py:1:",
        "imports helper, but helper.py is not in the archive; list helper.py in extra_files",
    ),
    (
        "requirements_line",
        {"requirements.txt": "numpy==2\n\nnot a requirement!\n"},
        "requirements.txt:3:",
        '"not a requirement!" is not a requirement',
    ),
    (
        "requirements_torch",
        {"requirements.txt": "# net\nTorch>=2\n"},
        "requirements.txt:2:",
        "Torch comes with the runtime image, which pins it",
    ),
    ("requirements_option", {"requirements.txt": "--index-ur https://x\n"}, "requirements.txt:1:", "did you mean --index-url?"),
    (
        "requirements_file",
        {"requirements.txt": "-r other.txt\n"},
        "requirements.txt:1:",
        "-r names another file, which does not exist where",
    ),
    ("requirements_editable", {"requirements.txt": "-e .\n"}, "requirements.txt:1:", "-e names a folder"),
    ("requirements_path", {"requirements.txt": "./x.whl\n"}, "requirements.txt:1:", '"./x.whl" is a path'),
    (
        "requirements_password",
        {"requirements.txt": "--index-url https://a:b@host/simple\n"},
        "requirements.txt:1:",
        "the address carries a password",
    ),
    (
        "requirements_url_password",
        {"requirements.txt": "x @ https://a:b@host/x.zip\n"},
        "requirements.txt:1:",
        "the address carries a password",
    ),
    ("requirements_twice", {"requirements.txt": "a==1\nA==2\n"}, "requirements.txt:2:", "A is already required at line 1"),
    (
        "requirements_hash",
        {"requirements.txt": "a==1 \\\n  --hash=sha256:zz\n"},
        "requirements.txt:1:",
        '"sha256:zz" is not a hash',
    ),
    ("requirements_bytes", {"requirements.txt": b"a==1\n\xff\n"}, "requirements.txt:2:", "byte 0xff is not UTF-8"),
    ("requirements_control", {"requirements.txt": "a\x1b[2J\n"}, "requirements.txt:1:", "a\\x1b[2J"),
    (
        "classes_missing",
        {"model.yaml": GOOD_YAML.replace("tensor", "image-classifier").replace("{shape: [4]}", "{classes: c.txt}")},
        "model.yaml:4:",
        'handler_args.classes: "c.txt" does not exist',
    ),
    (
        "classes_up",
        {"model.yaml": GOOD_YAML.replace("tensor", "image-classifier").replace("{shape: [4]}", "{classes: ../c.txt}")},
        "model.yaml:4:",
        'handler_args.classes: "../c.txt" leaves the model directory',
    ),
    (
        "reserved",
        {"model.yaml": plus("extra_files: [torchrelay.json]\n"), "torchrelay.json": "{}"},
        "model.yaml:6:",
        "has a name that is reserved in the archive",
    ),
    (
        "reserved_folder",
        {"model.yaml": plus("extra_files: [mar-inf]\n"), "mar-inf/x": "x"},
        "model.yaml:6:",
        '"mar-inf/x" has a name',
    ),
    (
        "case",
        {"model.yaml": plus("extra_files: [a, A]\n"), "a": "x", "A": "y"},
        "model.yaml:6:",
        '"A" differs only in case from "a" in the archive; rename one',
    ),
    (
        "same_name",
        {"model.yaml": GOOD_YAML.replace("model.pt", "data/model.py"), "data/model.py": "x"},
        "model.yaml:2:",
        '"data/model.py" gets the same name as "model.py" in the archive',
    ),
    (
        "empty_folder",
        {"model.yaml": plus("extra_files: [empty]\n"), "empty/__pycache__/x.pyc": ""},
        "model.yaml:6:",
        '"empty" is an empty folder',
    ),
    (
        "extra_lfs",
        {"model.yaml": plus("extra_files: [vocab]\n"), "vocab/v.txt": LFS},
        "model.yaml:6:",
        '"vocab/v.txt" is a Git LFS pointer',
    ),
    (
        "extra_odd_name",
        {"model.yaml": plus("extra_files: [x]\n"), "x/a\nb": "1"},
        "model.yaml:6:",
        '"x/a\\nb" is not a legal file name',
    ),
]


@pytest.mark.parametrize(("changes", "place", "fragment"), [case[1:] for case in FILE_CASES], ids=[case[0] for case in FILE_CASES])
def test_files(tmp_path: Path, changes: dict[str, str | bytes | None], place: str, fragment: str) -> None:
    assert_problem(write(tmp_path, changes), place, fragment)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = "name: A b\nweights: none.pt\nhandler: handler.py\nbatch: {sise: 1}\nworkers: 0\nextra_files: [../x, gone]\n"
    text += "nmae: x\nname: b\n"
    write(
        tmp_path,
        {"model.yaml": text, "handler.py": "(", "requirements.txt": "torch\n", "samples/one.json": "{}", "samples/two.json": "["},
    )
    with pytest.raises(ModelInvalid) as caught:
        check.run(tmp_path)
    assert [f"{problem.file}:{problem.line}:{problem.field}" for problem in caught.value.problems] == [
        "model.yaml:1:name",
        "model.yaml:2:weights",
        "model.yaml:4:batch.sise",
        "model.yaml:5:workers",
        "model.yaml:6:extra_files[0]",
        "model.yaml:6:extra_files[1]",
        "model.yaml:7:nmae",
        "model.yaml:8:name",
        "handler.py:1:",
        "requirements.txt:1:",
        "samples/one.json:1:request",
        "samples/two.json:1:",
    ]


def test_no_directory_and_no_file(tmp_path: Path) -> None:
    assert_problem(tmp_path / "nowhere", f"{tmp_path}/nowhere:", "does not exist; name a directory that holds model.yaml")
    assert_problem(tmp_path, "model.yaml:", f"does not exist; run `torchrelay init {tmp_path}`")
    (tmp_path / "model.yaml").mkdir()
    assert_problem(tmp_path, "model.yaml:", "is not a file")


def test_symbolic_links_that_lead_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text("secret")
    folder = write(tmp_path / "model", {"model.yaml": plus("extra_files: [link.txt, folder, data]\n"), "data/x": "x"})
    (folder / "link.txt").symlink_to(tmp_path / "outside/secret.txt")
    (folder / "folder").symlink_to(tmp_path / "outside")
    (folder / "data/inner").symlink_to(tmp_path / "outside/secret.txt")
    for place in ('extra_files[0]: "link.txt"', 'extra_files[1]: "folder"', 'extra_files[2]: "data/inner"'):
        assert_problem(folder, f"model.yaml:6: {place}", "leads out of the model directory by a symbolic link")


def test_links_in_circles_and_to_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path, {"model.yaml": plus("extra_files: [a, c]\n")})
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    (folder / "c").symlink_to(folder / "gone")
    assert_problem(folder, 'model.yaml:6: extra_files[0]: "a"', "cannot be read")
    assert_problem(folder, 'model.yaml:6: extra_files[1]: "c"', "is a symbolic link to nothing")


IGNORED = 'is ignored: "handler.py" loads its network itself'
SAGEMAKER = "def model_fn(model_dir): ...\ndef predict_fn(data, model): ...\n"
NATIVE = "class Handler:\n    def initialize(self, context): ...\n    def handle(self, data, context): ...\n"


@pytest.mark.parametrize(
    ("text", "handler", "field", "message"),
    [
        (HANDLER + "init_args: {a: 1}\n", SAGEMAKER, "init_args", IGNORED),
        (HANDLER + "init_args: {a: 1}\n", SAGEMAKER, "model_file", IGNORED),
        (HANDLER + "init_args: {a: 1}\n", NATIVE, "init_args", IGNORED),
        (plus("targets: {sagemaker: {role: x}}\n"), "", "targets.sagemaker", "is not supported yet: its options are ignored"),
        (plus("targets: {lambda: {memory: 1}}\n"), "", "targets.lambda", "is not supported yet: its options are ignored"),
        (plus("targets: {local: {}}\nresources: {memory: 1Gi}\n"), "", "resources.memory", "is ignored by the target local"),
    ],
)
def test_an_unused_field_or_file_is_a_warning(tmp_path: Path, text: str, handler: str, field: str, message: str) -> None:
    files: dict[str, str | bytes | None] = {"handler.py": handler, "model.py": "def init_function(a): ...\n"} if handler else {}
    write(tmp_path, {**files, "model.yaml": text})
    warnings = {warning.field: warning.message for warning in check.run(tmp_path).warnings}
    assert message in warnings[field]


@pytest.mark.parametrize("targets", ["{sagemaker: {}}", "{lambda: }", "{local: {}, docker: {}}"])
def test_a_used_or_empty_field_gives_no_warning(tmp_path: Path, targets: str) -> None:
    write(tmp_path, {"model.yaml": plus(f"targets: {targets}\nresources: {{cpu: 2}}\n")})
    assert check.run(tmp_path).warnings == []
