"""Reads the names that an exported learner's pickle refers to, without running it.

A pickle is a program: it can import any module and call anything in it. The names are a hint for the reader and do not protect:
a hostile file can use names that look harmless. The flag and the sandbox protect.
"""

import _compat_pickle
import pickletools
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torchrelay.authoring.fastai.learner import refused
from torchrelay.core.text import printable

MAX_PICKLE = 256 << 20
MAX_SHOWN = 12
USUAL = (
    "fastai",
    "fastcore",
    "fasttransform",
    "fastprogress",
    "torch",
    "torchvision",
    "plum",
    "numpy",
    "pandas",
    "pathlib",
    "PIL",
)
# No learner needs these, and they run programs, read files or open connections. A file that names one is always refused.
FORBIDDEN = {
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
_MEMO_WRITES = {"PUT", "BINPUT", "LONG_BINPUT"}
_MEMO_READS = {"GET", "BINGET", "LONG_BINGET"}


@dataclass(frozen=True)
class PickleNames:
    """Every `module.name` that a pickle refers to, in its order, each once."""

    names: tuple[str, ...]

    @property
    def forbidden(self) -> list[str]:
        """The names that no learner needs."""
        return [name for name in self.names if _is_forbidden(name)]

    @property
    def own_code(self) -> bool:
        """Whether the pickle contains functions as byte code."""
        return any(name.startswith("cloudpickle.") for name in self.names)

    def summary(self) -> str:
        """Return how many names of each usual package there are, and the other names in full."""
        packages = Counter(name.partition(".")[0] for name in self.names)
        usual = ", ".join(f"{printable(package)} ({count})" for package, count in packages.most_common() if package in USUAL)
        others = [printable(name, 80) for name in self.names if name.partition(".")[0] not in USUAL]
        more = f" and {len(others) - MAX_SHOWN} more" if len(others) > MAX_SHOWN else ""
        code = "; it contains functions as byte code (cloudpickle)" if self.own_code else ""
        return f"it refers to {usual or 'no usual package'}; other names: {', '.join(others[:MAX_SHOWN]) or 'none'}{more}{code}"


def read_names(path: Path) -> PickleNames:
    """Read the names in an exported learner without running it.

    Raises:
        ModelInvalid: it is not an exported learner, or cannot be read to its end.
    """
    fix = "export it again with learn.export() of fastai 2"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.filename.rpartition("/")[2] == "constants.pkl" for entry in entries):
                raise refused(
                    "it is TorchScript, which needs no export",
                    "serve it as it is: write `weights: {uri: FILE, format: torchscript}` in a model.yaml",
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
        return PickleNames(tuple(dict.fromkeys(_names(data))))
    except Exception as error:  # a damaged or hostile file may raise anything here; a file that cannot be read is not loaded
        raise refused(f"its pickle cannot be read to its end: {printable(str(error))}", fix) from error


def _names(data: bytes) -> list[str]:
    names: list[str] = []
    texts: list[str] = []  # the last two texts on the stack, which STACK_GLOBAL takes
    memo: dict[int, str] = {}
    last = ""
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in {"GLOBAL", "INST"}:
            names.append(_python3_name(*str(argument).split(" ", 1)))
        elif name in _TEXTS:
            last = str(argument)
            texts = [*texts[-1:], last]
        elif name in _MEMO_READS and isinstance(argument, int) and argument in memo:
            last = memo[argument]
            texts = [*texts[-1:], last]
        elif name in _MEMO_WRITES and isinstance(argument, int):
            memo[argument] = last
        elif name == "MEMOIZE":
            memo[len(memo)] = last
        elif name == "STACK_GLOBAL":
            if len(texts) != 2:
                raise ValueError("it computes a name while it is loaded")
            names.append(".".join(texts))
        elif name.startswith("EXT"):
            raise ValueError("it uses the extension registry")
    return names


def _python3_name(module: str, name: str) -> str:
    """Return Python 3's name; protocol 2 writes the names of Python 2, `__builtin__.eval` for example."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def _is_forbidden(name: str) -> bool:
    module, _, rest = name.partition(".")
    if name in _HARMLESS or module not in FORBIDDEN or name.startswith("os.path."):
        return False
    only = FORBIDDEN[module]
    return only is None or rest.rpartition(".")[2] in only
