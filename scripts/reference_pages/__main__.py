"""Writes or checks every generated page.

A generated part of a hand-written page stands between `<!-- NAME -->` and `<!-- /NAME -->`: `modules` is the table of all modules,
`file PATH` is a file of this repository as a code block.

    python -m reference_pages            write them
    python -m reference_pages --check    fail when one is out of date
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from reference_pages import command_line, environment, library, schemas, workflow
from reference_pages.markdown import ROOT, table
from reference_pages.sources import first_sentence

REFERENCE = ROOT / "docs" / "reference"
PARTS = re.compile(r"<!-- (modules|file [\w./-]+) -->\n.*?<!-- /\1 -->", re.DOTALL)
PAGES_WITH_PARTS = ("README.md", "CONTRIBUTING.md", "docs/*.md", "docs/tutorials/*.md")
LANGUAGES = {".yml": "yaml", ".yaml": "yaml", ".py": "python", ".json": "json"}


def modules() -> str:
    """Return one table per package: every module with the first sentence of its docstring."""
    blocks = []
    for top in ("scripts/torchrelay", "handlers", "runtime"):
        folders: dict[Path, list[Path]] = {}
        for file in sorted((ROOT / top).rglob("*.py")):
            folders.setdefault(file.parent, []).append(file)
        for folder, files in folders.items():
            name = folder.relative_to(ROOT).as_posix()
            package = next((first_sentence(file) for file in files if file.name == "__init__.py"), "")
            own = [file for file in files if file.name != "__init__.py"]
            blocks.append(f"**`{name}/`** {package}".rstrip())
            if own:
                blocks.append(
                    table(["module", "what it does"], [[f"`{file.name}`", first_sentence(file)] for file in own]).rstrip("\n")
                )
    return "\n\n".join(blocks)


def part(name: str) -> str:
    """Return a generated part by the name in its marks."""
    if name == "modules":
        return f"\n{modules()}\n"
    file = ROOT / name.partition(" ")[2]
    return f"\n```{LANGUAGES.get(file.suffix, 'text')}\n{file.read_text(encoding='utf-8').rstrip()}\n```\n"


def with_parts(text: str) -> str:
    """Return a page with its generated parts as they must be now."""

    def renewed(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{part(match[1])}\n<!-- /{match[1]} -->"

    return PARTS.sub(renewed, text)


PAGES: dict[str, Callable[[], str]] = {
    "model-yaml.md": schemas.model_yaml,
    "samples.md": schemas.samples,
    "serve-yml.md": workflow.serve_yml,
    "actions.md": workflow.actions,
    "command-line.md": command_line.command_line,
    "exit-codes.md": command_line.exit_codes,
    "environment.md": environment.environment,
    "handlers.md": library.handlers,
    "image.md": library.image,
}


def rendered() -> dict[Path, str]:
    """Return every generated file with its text, and every hand-written page that has generated parts."""
    texts = {REFERENCE / name: make() for name, make in PAGES.items()}
    for pattern in PAGES_WITH_PARTS:
        for file in sorted(ROOT.glob(pattern)):
            text = file.read_text(encoding="utf-8")
            if PARTS.search(text):
                texts[file] = with_parts(text)
    return texts


def outdated() -> list[str]:
    """Return the files that differ from what would be written, and pages in docs/reference that nothing writes."""
    texts = rendered()
    wrong = [file for file, text in texts.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    wrong += [file for file in sorted(REFERENCE.glob("*.md")) if file not in texts]
    return [file.relative_to(ROOT).as_posix() for file in wrong]


def main(arguments: list[str] | None = None) -> int:
    """Write every page, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    if parser.parse_args(arguments).check:
        for name in (wrong := outdated()):
            sys.stderr.write(f"{name}: out of date; run `make docs`\n")
        return 1 if wrong else 0
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for file, text in rendered().items():
        file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
