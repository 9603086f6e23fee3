"""Reads modules that are not installed beside the command: the handlers and the runtime. None of them is imported."""

import ast
from pathlib import Path
from typing import Any

from reference_pages.markdown import ROOT


def module_at(folder: str, name: str) -> Path:
    """Return a module's file below a folder, wherever it is.

    Raises:
        FileNotFoundError: there is none, or more than one.
    """
    files = sorted((ROOT / folder).rglob(name))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder}: {len(files)} files are called {name}; expected one")
    return files[0]


def first_sentence(file: Path) -> str:
    """Return the first paragraph of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def constant(file: Path, name: str) -> Any:
    """Return the literal that a module assigns to a name.

    Raises:
        LookupError: it assigns none.
    """
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if (
            any(isinstance(one, ast.Name) and one.id == name for one in targets)
            and isinstance(node, ast.Assign | ast.AnnAssign)
            and node.value
        ):
            return ast.literal_eval(node.value)
    raise LookupError(f"{file}: assigns no literal to {name}")


def class_fields(file: Path, name: str) -> list[tuple[str, str, str]]:
    """Return name, type and default of every field of a dataclass.

    Raises:
        LookupError: there is no such class.
    """
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
            return [
                (ast.unparse(one.target), ast.unparse(one.annotation), ast.unparse(one.value) if one.value else "")
                for one in fields
            ]
    raise LookupError(f"{file}: there is no class {name}")
