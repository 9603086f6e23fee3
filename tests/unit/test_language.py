"""Plain English: the words below stay out of strings, comments, docstrings, names and documents.

Each pattern stands with a phrase that it finds and the plain words to use. `COVERED` lists the folders and files that are checked.
"""

import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchrelay.core.paths import ROOT

COVERED = (
    "handlers",
    "runtime",
    "tests/unit/handlers",
    *sorted(f"tests/unit/{file.name}" for file in (ROOT / "tests/unit").glob("test_runtime_*.py")),
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs/conf.py",
    "docs/figures.md",
    "docs/handlers.md",
    "docs/index.md",
    "docs/security.md",
    "docs/torchserve.md",
    "docs/troubleshooting.md",
    "docs/tutorials",
    ".github",
    "actions",
    "examples",
    "infra",
    "k8s",
    "schema",
    "scripts/pictures.py",
    "scripts/reference_pages",
    "scripts/references.py",
    "setup.py",
    "scripts/torchrelay",
    ".ci",
    ".devcontainer",
    "tests/README.md",
    "tests/build_go_programs.py",
    "tests/cluster",
    "benchmarks",
    "tests/integration/fastai",
    "tests/container",
    "tests/cache.py",
    "tests/conftest.py",
    "tests/gotools.py",
    "tests/machine.py",
    "tests/progress.py",
    "tests/run.py",
    "tests/runner_lines.py",
    "tests/small_image.py",
    "tests/start_handler.py",
    "tests/gpu_image",
    "tests/integration",
    "tests/unit/conftest.py",
    "tests/unit/kube_cluster.py",
    "tests/unit/model_dirs.py",
    "tests/unit/test_assets.py",
    "tests/unit/test_aws_trust.py",
    "tests/unit/test_bad_input.py",
    "tests/unit/test_benchmarks_serving.py",
    "tests/unit/test_check.py",
    "tests/unit/test_cli.py",
    "tests/unit/test_compare.py",
    "tests/unit/test_core.py",
    "tests/unit/test_daemon.py",
    "tests/unit/test_dependencies.py",
    "tests/unit/test_diagnosis.py",
    "tests/unit/test_diff.py",
    "tests/unit/test_doctor.py",
    "tests/unit/test_dsse.py",
    "tests/unit/test_ecr_names.py",
    "tests/unit/test_error_file.py",
    "tests/unit/test_fastai_model_source.py",
    "tests/unit/test_fastai_pickle_names.py",
    "tests/unit/test_init.py",
    "tests/unit/test_inputs.py",
    "tests/unit/test_job_result.py",
    "tests/unit/test_journal.py",
    "tests/unit/test_kube_api.py",
    "tests/unit/test_kube_lease.py",
    "tests/unit/test_kube_manifests.py",
    "tests/unit/test_kube_reasons.py",
    "tests/unit/test_kube_rules.py",
    "tests/unit/test_kube_target.py",
    "tests/unit/test_kubeconfig.py",
    "tests/unit/test_layers.py",
    "tests/unit/test_mar.py",
    "tests/unit/test_markdown.py",
    "tests/unit/test_model.py",
    "tests/unit/test_newer.py",
    "tests/unit/test_oidc.py",
    "tests/unit/test_openapi.py",
    "tests/unit/test_openapi_front.py",
    "tests/unit/test_outside.py",
    "tests/unit/test_plan.py",
    "tests/unit/test_probe.py",
    "tests/unit/test_provenance.py",
    "tests/unit/test_ready.py",
    "tests/unit/test_recording.py",
    "tests/unit/test_registry_reference.py",
    "tests/unit/test_retry.py",
    "tests/unit/test_runner.py",
    "tests/unit/test_samples.py",
    "tests/unit/test_sbom.py",
    "tests/unit/test_schema.py",
    "tests/unit/test_server_config.py",
    "tests/unit/test_server_env.py",
    "tests/unit/test_setup_layer.py",
    "tests/unit/test_signals.py",
    "tests/unit/test_summary.py",
    "tests/unit/test_target_docker_discard.py",
    "tests/unit/test_target_docker_restore.py",
    "tests/unit/test_target_images.py",
    "tests/unit/test_untrusted_layer.py",
    "tests/unit/test_verify.py",
    "tests/unit/test_version_lock.py",
    "tests/unit/test_weights_sources.py",
    "tests/unit/test_workflows.py",
    "tests/unit/test_workflows_claims.py",
    "tests/unit/test_workflows_outputs.py",
    "tests/unit/test_workflows_references.py",
    "tests/unit/test_yaml_document.py",
    "tests/unit/verb_outputs.py",
    "tests/unit/workflow_files.py",
    "tests/workflow",
)
SUFFIXES = {".py", ".md", ".yml", ".yaml", ".json", ".sh", ".txt", ".toml", ".js", ""}

# pattern, a phrase that it finds, the words to use
WORDS = (
    (r"mend(s|ed|ing)?", "each finding says its mend", "fix"),
    (r"anew", "starting it anew", "again; restart"),
    (r"told|tells", "what the sandbox told", "reports, says, returns, contains; the message, the reason, the reply"),
    (r"(un)?prove(d|s|n)?|proof|proving", "the proved image", "verify, verified, not verified; the verdict"),
    (r"can(not)? be had", "port 8080 cannot be had", "cannot listen on; is missing; is unreachable"),
    (r"stranger'?s'? words?", "looked at as a stranger's words", "untrusted"),
    (r"believe(s|d)?", "what it says is not believed", "trusted; parse"),
    (r"of (its|their|your|our) own", "a port of its own", "its own X, a separate X"),
    (r"ours", "a folder of ours", "our X; the project's"),
    (r"lies? in", "the folder that it lies in", "is in, is at"),
    (r"may not", "a step may not write there", "must not; is not allowed to"),
    (r"such as are", "actions such as are there", "a relative clause with its noun"),
    (r"(?<!there )is no(?! (longer|more))", "the statement is no object", "is not a"),
    (r"(is|are) of(?! (the same|type|kind))", "the bundle is of another model", "belongs to; comes from"),
)
NAMES = {"said", "found", "made", "given", "kept"}
"""Participles are not names of variables, parameters, functions or attributes: name the thing."""
LIBRARY = re.compile(r"\s*(from hypothesis import |@given\()")
"""Lines with a name that a library chose: hypothesis' `given`."""


def compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", re.IGNORECASE)


PATTERNS = [(compiled(pattern), advice) for pattern, _, advice in WORDS]


def texts(path: Path, content: str) -> Iterator[tuple[int, str]]:
    """Yield line numbers and what people read there: of Python its comments and strings, of any other file everything."""
    if path.suffix != ".py":
        yield from enumerate(content.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield from enumerate(token.string.splitlines(), token.start[0])
        elif token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            words = token.string.replace("_", " ")
            named = token.string in NAMES and not LIBRARY.match(token.line)
            yield token.start[0], f"the name {token.string}" if named else words


def banned(path: Path, content: str) -> list[str]:
    """Return `file:line: words: what to use` for each line that has banned words."""
    return [
        f"{path}:{line}: {match[0]!r}: {advice}"
        for line, text in texts(path, content)
        for pattern, advice in [*PATTERNS, (compiled(rf"the name ({'|'.join(NAMES)})"), "a noun that says what it is")]
        if (match := pattern.search(text))
    ]


def files(covered: str) -> list[Path]:
    top = ROOT / covered
    if top.is_file():
        return [top]
    return sorted(path for path in top.rglob("*") if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts)


@pytest.mark.parametrize("covered", COVERED)
def test_no_banned_word(covered: str) -> None:
    assert files(covered), f"{covered} is missing: correct COVERED"
    lines = [line for path in files(covered) for line in banned(path.relative_to(ROOT), path.read_text())]
    assert lines == [], "\n".join(lines)


@pytest.mark.parametrize(("phrase", "advice"), [(phrase, advice) for _, phrase, advice in WORDS])
@pytest.mark.parametrize(
    ("name", "form"),
    [("a.md", "Text.\n{}\n"), ("a.py", "x = 1  # {}\n"), ("a.py", 'x = f"{}"\n'), ("a.py", '"""Text.\n\n{}\n"""\n')],
    ids=["document", "comment", "string", "docstring"],
)
def test_each_banned_word_is_found(name: str, form: str, phrase: str, advice: str) -> None:
    """The control."""
    (line,) = banned(Path(name), form.format(phrase))
    assert line.startswith(f"{name}:")
    assert line.endswith(advice)


@pytest.mark.parametrize(
    "code", ["said = 1\n", "def read(given): pass\n", "x.made()\n", "class A:\n    kept: int\n", "is_proved = 1\n", "told = 1\n"]
)
def test_a_participle_as_a_name_is_found(code: str) -> None:
    assert len(banned(Path("a.py"), code)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a recommended amendment",
        "improve it",
        "waterproof",
        "there is no file",
        "it is no longer there",
        "was found and made",
        "hours",
    ],
)
def test_ordinary_words_pass(text: str) -> None:
    assert banned(Path("a.md"), text) == []
    assert banned(Path("a.py"), f"x = 1  # {text}\n") == []


def test_hypothesis_given_passes() -> None:
    assert banned(Path("a.py"), "from hypothesis import given\n\n\n@given(x=1)\ndef test() -> None: ...\n") == []
