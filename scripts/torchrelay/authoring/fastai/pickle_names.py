"""What an exported learner names, read from its pickle without running it.

A pickle is a program: it may import any module and call anything in it. What it names is a hint to the reader and no guard: a
hostile file can hide behind names that look harmless. The guards are the flag and the sandbox.
"""

import _compat_pickle
import pickletools
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torchrelay.authoring.fastai.refusal import refused
from torchrelay.core.text import printable

MAX_PICKLE = 256 << 20
MAX_TOLD = 12
OURS = ("fastai", "fastcore", "fasttransform", "fastprogress", "torch", "torchvision", "plum", "numpy", "pandas", "pathlib", "PIL")
# What no learner has ever needed and what runs, reads or reaches things: named here, the file is refused, flag or not.
NEVER = {
    "os": None,
    "posix": None,
    "nt": None,
    "subprocess": None,
    "pty": None,
    "socket": None,
    "shutil": None,
    "ctypes": None,
    "runpy": None,
    "webbrowser": None,
    "urllib": None,
    "requests": None,
    "http": None,
    "multiprocessing": None,
    "builtins": {"eval", "exec", "compile", "__import__", "open", "breakpoint", "input"},
    "io": {"open", "open_code", "FileIO"},
    "_io": {"open", "open_code", "FileIO"},
    "importlib": {"import_module", "__import__", "reload"},
}
_HARMLESS = {"os.PathLike"}
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"}
_KEEPS = {"PUT", "BINPUT", "LONG_BINPUT"}
_RECALLS = {"GET", "BINGET", "LONG_BINGET"}


@dataclass(frozen=True)
class Look:
    """Every `module.name` that the pickle names, in its order, each once."""

    names: tuple[str, ...]

    @property
    def never(self) -> list[str]:
        """Those that no learner needs."""
        return [name for name in self.names if _is_never(name)]

    @property
    def own_code(self) -> bool:
        """Whether it brings functions along as byte code."""
        return any(name.startswith("cloudpickle.") for name in self.names)

    def told(self) -> str:
        """For a reader: how many names of which packages, and the unusual ones in full."""
        packages = Counter(name.partition(".")[0] for name in self.names)
        usual = ", ".join(f"{printable(package)} ({count})" for package, count in packages.most_common() if package in OURS)
        others = [printable(name, 80) for name in self.names if name.partition(".")[0] not in OURS]
        more = f" and {len(others) - MAX_TOLD} more" if len(others) > MAX_TOLD else ""
        code = "; it brings functions along as byte code (cloudpickle)" if self.own_code else ""
        return f"it names things of {usual or 'no usual package'}; beside them {', '.join(others[:MAX_TOLD]) or 'none'}{more}{code}"


def look(path: Path) -> Look:
    """Read the names in an exported learner; nothing of it is run.

    Raises:
        ModelInvalid: it is no such file, or cannot be read to its end.
    """
    fix = "export it anew with learn.export() of fastai 2"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.filename.rpartition("/")[2] == "constants.pkl" for entry in entries):
                raise refused(
                    "it is TorchScript, which needs no export: serve it as weights", "write `weights: FILE` in a model.yaml"
                )
            pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1 or len({entry.filename for entry in entries}) != len(entries):
                raise refused("it is a zip file, but not one that learn.export() writes", fix)
            if pickles[0].file_size > MAX_PICKLE or pickles[0].compress_type != zipfile.ZIP_STORED:
                raise refused("its pickle is larger than a learner's, or compressed", fix)
            data = archive.read(pickles[0])
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise refused(f"it is not a file that learn.export() writes: {printable(str(error))}", fix) from error
    try:
        return Look(tuple(dict.fromkeys(_names(data))))
    except Exception as error:  # whatever breaks the reading of it, hostile or damaged: a file that cannot be read is not loaded
        raise refused(f"its pickle cannot be read to its end: {printable(str(error))}", fix) from error


def _names(data: bytes) -> list[str]:
    found: list[str] = []
    texts: list[str] = []  # the last two on the stack, as far as STACK_GLOBAL is concerned
    kept: dict[int, str] = {}
    last = ""
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in {"GLOBAL", "INST"}:
            found.append(_today(*str(argument).split(" ", 1)))
        elif name in _TEXTS:
            last = str(argument)
            texts = [*texts[-1:], last]
        elif name in _RECALLS and isinstance(argument, int) and argument in kept:
            last = kept[argument]
            texts = [*texts[-1:], last]
        elif name in _KEEPS and isinstance(argument, int):
            kept[argument] = last
        elif name == "MEMOIZE":
            kept[len(kept)] = last
        elif name == "STACK_GLOBAL":
            if len(texts) != 2:
                raise ValueError("a name is made up as it is loaded")
            found.append(".".join(texts))
        elif name.startswith("EXT"):
            raise ValueError("it uses the registry of extensions")
    return found


def _today(module: str, name: str) -> str:
    """Python 3's name of what protocol 2 calls as Python 2 did, `__builtin__.eval` say."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def _is_never(name: str) -> bool:
    module, _, rest = name.partition(".")
    if name in _HARMLESS or module not in NEVER or name.startswith("os.path."):
        return False
    only = NEVER[module]
    return only is None or rest.rpartition(".")[2] in only
