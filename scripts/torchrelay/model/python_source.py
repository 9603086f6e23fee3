"""Parses handlers and networks without running them, and checks that they define what the server needs."""

import ast
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import nearest, printable, shown

MAX_BYTES = 4 << 20
# What torchrelay_handlers.resolve looks for by name; a class or a handler_factory(...) may have any name.
NAMES = {"handler", "handle", "model_fn", "input_fn", "predict_fn", "output_fn"}
NAMES |= {"init_function", "preprocess", "preprocess_function", "postprocess", "postprocess_function"}
HANDLER_FORMS = (
    "write `handler = handler_factory(init_function, ...)`, or a class with `initialize` and `handle`, "
    "or the functions model_fn, input_fn, predict_fn and output_fn"
)

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class PythonSource:
    """A parsed Python file: what it defines at its top level, with lines."""

    name: str
    defined: dict[str, ast.stmt]
    opaque: bool  # `from x import *` may define anything
    imports: dict[str, int]  # top-level package or module -> line, imports inside functions too

    def function(self, name: str) -> _Function | None:
        """The function of this name, when it is written in this file."""
        found = self.defined.get(name)
        return found if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef) else None

    @property
    def classes(self) -> list[ast.ClassDef]:
        """The classes of the file, in its order."""
        return [found for found in self.defined.values() if isinstance(found, ast.ClassDef)]


def read(data: bytes, name: str) -> PythonSource:
    """Parse a Python file.

    Raises ModelInvalid, with the line of the mistake.
    """
    name = printable(name)
    if len(data) > MAX_BYTES:
        raise _invalid(name, None, f"is larger than {MAX_BYTES} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(data)
    except SyntaxError as error:
        raise _invalid(name, error.lineno, f"is not Python: {printable(error.msg)}", "correct the syntax") from error
    except ValueError as error:  # null bytes
        raise _invalid(name, None, f"is not Python: {printable(str(error))}") from error
    except (RecursionError, MemoryError) as error:
        raise _invalid(name, None, "is nested too deeply to be read") from error
    defined: dict[str, ast.stmt] = {}
    opaque = False
    for statement in _top_level(tree.body):
        for bound in _bound(statement):
            defined[bound] = statement
            opaque = opaque or bound == "*"
    return PythonSource(name, defined, opaque, _imports(tree))


def _invalid(name: str, line: int | None, message: str, fix: str = "") -> ModelInvalid:
    return ModelInvalid([Problem(name, line, "", message, fix)])


def _imports(tree: ast.Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name.partition(".")[0], node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.setdefault(node.module.partition(".")[0], node.lineno)
    return found


def _top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import, those in if, try and with included."""
    for statement in body:
        yield statement
        for part in ("body", "orelse", "finalbody"):
            if isinstance(statement, ast.If | ast.Try | ast.With):
                yield from _top_level(getattr(statement, part, []))
        for handler in getattr(statement, "handlers", []):
            yield from _top_level(handler.body)


def _bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0]
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            for node in ast.walk(target):
                if isinstance(node, ast.Name):
                    yield node.id


def ignored_fields(source: PythonSource) -> list[str]:
    """Return the fields of model.yaml that this handler does not use, because it loads its network itself."""
    own = {"handler", "init_function", "preprocess", "preprocess_function", "postprocess", "postprocess_function"}
    if source.opaque or own & source.defined.keys() or any(map(_is_factory_call, source.defined.values())):
        return []
    if "model_fn" in source.defined:
        return ["handler_args", "init_args", "model_file"]
    complete = ({"initialize", "handle"} <= {getattr(item, "name", "") for item in found.body} for found in source.classes)
    return ["handler_args", "init_args"] if any(complete) else []


def handler_problems(source: PythonSource, attribute: str | None) -> list[Problem]:
    """Why the file holds no handler; nothing when it does, or may."""
    if attribute is not None:
        if attribute in source.defined or source.opaque:
            return []
        near = nearest(attribute, source.defined)
        fix = f"did you mean {near}?" if near else f"define it in {source.name}"
        return [Problem(source.name, None, "", f"defines no {attribute}, which `handler` in model.yaml names", fix)]
    if source.opaque or NAMES & source.defined.keys() or any(map(_is_factory_call, source.defined.values())):
        return []
    if any(_is_handler_class(found, source) for found in source.classes):
        return []
    near = nearest("handler", [name for name in source.defined if name != "handler_factory"])
    guess = f"did you mean {printable(near)} to be handler? " if near else ""
    return [Problem(source.name, 1, "", "holds no handler", guess + HANDLER_FORMS)]


def _is_factory_call(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
    return isinstance(value, ast.Call) and _base_name(value.func) == "handler_factory"


def _is_handler_class(found: ast.ClassDef, source: PythonSource) -> bool:
    methods = {item.name for item in found.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    if {"handle", "initialize"} <= methods or (found.bases and {"handle", "initialize"} & methods):
        return True
    return any(_base_name(base).endswith("Handler") or _is_handler_base(base, source, found) for base in found.bases)


def _is_handler_base(base: ast.expr, source: PythonSource, child: ast.ClassDef) -> bool:
    parent = source.defined.get(_base_name(base))
    earlier = isinstance(parent, ast.ClassDef) and parent is not child and parent.lineno < child.lineno
    return earlier and isinstance(parent, ast.ClassDef) and _is_handler_class(parent, source)


def _base_name(base: ast.expr) -> str:
    if isinstance(base, ast.Subscript):
        base = base.value
    return base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""


def network_problems(source: PythonSource, init_args: dict[str, Any]) -> list[tuple[str | None, Problem]]:
    """Why the file makes no network of `init_args`; each with the argument it is about, None when about the file."""
    maker = _maker(source)
    if isinstance(maker, Problem):
        return [(None, maker)]
    return [] if maker is None else _argument_problems(source, maker, init_args)


def _maker(source: PythonSource) -> tuple[str, _Function] | Problem | None:
    """The function that makes the network, with the words for it; None when it is out of sight."""
    if function := source.function("init_function"):
        return "init_function", function
    if source.opaque or "init_function" in source.defined:
        return None
    modules = [found for found in source.classes if _is_module(found, source)]
    if len(modules) > 1:
        names = ", ".join(found.name for found in modules)
        fix = "add `def init_function(**kwargs): return ...` that makes the one to serve"
        return Problem(source.name, modules[1].lineno, "", f"holds several networks ({printable(names)})", fix)
    if not modules:
        if any(found.bases for found in source.classes):
            return None  # its base comes from another file and may well be a network
        fix = "write `def init_function(**kwargs)` that returns the network without its weights"
        return Problem(source.name, 1, "", "has neither init_function nor a class that derives from torch.nn.Module", fix)
    found = modules[0]
    method = next((item for item in found.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    return None if method is None else (found.name, method)


def _is_module(found: ast.ClassDef, source: PythonSource) -> bool:
    for base in found.bases:
        name = _base_name(base)
        if name in {"Module", "Sequential"}:
            return True
        parent = source.defined.get(name)
        if isinstance(parent, ast.ClassDef) and parent.lineno < found.lineno and _is_module(parent, source):
            return True
    return False


def _argument_problems(
    source: PythonSource, maker: tuple[str, _Function], init_args: dict[str, Any]
) -> list[tuple[str | None, Problem]]:
    words, function = maker
    arguments = function.args
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    by_position = {argument.arg for argument in arguments.posonlyargs}
    if function.name == "__init__":
        positional = positional[1:]
    required = positional[: len(positional) - len(arguments.defaults)] if arguments.defaults else list(positional)
    keyword = [argument.arg for argument in arguments.kwonlyargs]
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    required += [argument.arg for argument, default in pairs if default is None]
    known = [name for name in (*positional, *keyword) if name not in by_position]
    problems: list[tuple[str | None, Problem]] = []
    if arguments.kwarg is None:
        for name in init_args:
            if name not in known:
                near = nearest(name, known)
                takes = f"{words} takes {', '.join(known) or 'no arguments'}"
                fix = f"did you mean {near}? {takes}" if near else takes
                problems.append((name, Problem(source.name, function.lineno, "", f"is not a parameter of {words}", fix)))
    for name in required:
        if name not in init_args:
            message = f"{words} needs {shown(name)}, which init_args in model.yaml does not give"
            fix = f"write `init_args: {{{name}: ...}}` or give it a default"
            problems.append((None, Problem(source.name, function.lineno, "", message, fix)))
    return problems
