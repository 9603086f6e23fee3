"""README.md and docs/: links lead somewhere, generated parts are current, and every error kind has its section."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from reference_pages import __main__ as pages
from reference_pages import command_line, schemas
from tests.workflow.act import COMMAND
from torchrelay.core import troubleshooting
from torchrelay.core.paths import ROOT

README = (ROOT / "README.md").read_text()
WRITTEN = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")] + sorted(
    ROOT.glob("docs/**/*.md")
)
OWN_PAGE = re.compile(r"https://github\.com/org/deploy/(?:blob|tree)/[\w.-]+/([^)>\s#`]+)(?:#([\w-]+))?")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The addresses that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def missing(page: Path) -> list[str]:
    """The links of a page that lead nowhere in this repository."""
    text = without_code(page.read_text())
    targets = [(page.parent, link) for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text)]
    targets += [(ROOT, f"{path}#{anchor}" if anchor else path) for path, anchor in OWN_PAGE.findall(text)]
    wrong = []
    for folder, link in targets:
        path, _, anchor = unquote(link).partition("#")
        file = (folder / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    assert missing(page) == []


def test_control_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n[a](#a) [b](#b) [c](no.md) <https://github.com/org/deploy/blob/main/no.md>")
    assert missing(page) == ["#b", "no.md", "no.md"]


def test_generated_pages_and_parts_are_current() -> None:
    assert pages.outdated() == [], "run `make docs`"


def test_control_a_changed_page_is_outdated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pages.PAGES, "samples.md", lambda: "changed")
    assert pages.outdated() == ["docs/reference/samples.md"]


def test_the_annotated_model_yaml_is_a_model() -> None:
    import yaml

    from torchrelay.model.model import Model

    shown = re.search(r"## The same as a file.*?```yaml\n(.*?)```", schemas.model_yaml(), re.DOTALL)
    assert shown is not None
    values = {name: value for name, value in yaml.safe_load(shown[1]).items() if value is not None}
    assert set(values) <= set(Model.model_fields)
    assert Model.model_validate(values) == Model.model_validate(
        {name: values[name] for name in ("name", "weights", "handler", "targets")}
    )


def test_every_error_kind_has_a_section_and_no_section_is_stale() -> None:
    page = ROOT / "docs" / "troubleshooting.md"
    kinds = {one.kind for one in command_line.error_classes()}
    sections = set(re.findall(r"^## `(\w+)`$", page.read_text(), re.MULTILINE))
    assert sections == kinds
    assert kinds <= anchors(page)


def test_the_address_of_a_kind_is_its_section() -> None:
    address = troubleshooting.address("gate_failed")
    assert [(path, anchor) for path, anchor in OWN_PAGE.findall(address)] == [("docs/troubleshooting.md", "gate_failed")]


def test_two_causes_never_share_an_exit_code() -> None:
    codes = [one.exit_code for one in command_line.error_classes()]
    assert len(codes) == len(set(codes))


def test_every_verb_has_a_help_text() -> None:
    assert [path for path, command, _ in command_line.commands() if not (command.help or "").strip()] == []


def test_the_act_command_is_the_one_that_is_tested() -> None:
    assert f"$ {COMMAND}\n" in README


def test_the_readmes_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {name for page in WRITTEN for name in re.findall(r"(?:^\$ |`)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert {"demo", "test"} <= named
    assert [name for name in sorted(named) if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_figures_say_what_they_were_measured_with() -> None:
    figures = (ROOT / "docs" / "figures.md").read_text()
    named = set(re.findall(r"benchmarks/(\w+)\.py", figures))
    assert {"push_path", "serving"} <= named
    assert [name for name in sorted(named) if not (ROOT / "benchmarks" / f"{name}.py").is_file()] == []


def test_the_architecture_page_names_files_that_exist() -> None:
    written = (ROOT / "docs" / "architecture.md").read_text().partition("## Every module")[0]
    named = set(re.findall(r"`([\w/.-]+(?:\.py|\.yml|/))`", written))
    folders = [ROOT, ROOT / "scripts/torchrelay", *(ROOT / "handlers").glob("**/"), *(ROOT / "runtime").glob("**/")]
    assert len(named) > 30
    elsewhere = {".torchrelay/", "./"}
    assert [name for name in sorted(named - elsewhere) if not any((folder / name).exists() for folder in folders)] == []
