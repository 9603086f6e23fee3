"""Reads which globals a pickle names, without running it: by its opcodes alone, as torch's restricted unpickler allows them.

Opcodes: https://github.com/python/cpython/blob/3.11/Lib/pickletools.py
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from typing import IO, Any, cast

LARGEST = 256 << 20  # bytes read for one pickle: tensors are in other records, so real ones are a thousandth of this

_DTYPES = (
    "bfloat16 bits16 bits1x8 bits2x4 bits4x2 bits8 bool complex128 complex32 complex64 float16 float32 float4_e2m1fn_x2 float64 "
    "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu int1 int16 int2 int3 int32 int4 int5 int6 int64 int7 "
    "int8 qint32 qint8 quint2x4 quint4x2 quint8 uint1 uint16 uint2 uint3 uint32 uint4 uint5 uint6 uint64 uint7 uint8"
)
_KINDS = "BFloat16 Bool Byte Char Double Float Half Int Long Short"
_QUANTISED = "per_channel_affine per_channel_affine_float_qparams per_channel_symmetric per_tensor_affine per_tensor_symmetric"
_SPARSE = "BFloat16 Byte Char Double Float Half Int Long Short"


def _allowed() -> frozenset[str]:
    kinds = _KINDS.split()
    names = {"_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set"}
    names |= {"collections.Counter", "collections.OrderedDict"}
    names |= {f"torch.{name}" for name in (*_DTYPES.split(), *_QUANTISED.split(), "Size", "Tensor", "device")}
    for module in ("torch", "torch.cuda"):
        names |= {f"{module}.{kind}Storage" for kind in (*kinds, "ComplexDouble", "ComplexFloat")}
        names |= {f"{module}.{kind}Tensor" for kind in kinds}
    names |= {f"torch.{kind}Storage" for kind in ("QInt32", "QInt8", "QUInt2x4", "QUInt4x2", "QUInt8")}
    names |= {f"{module}.{kind}Tensor" for module in ("torch.sparse", "torch.cuda.sparse") for kind in _SPARSE.split()}
    names |= {"torch.nn.parameter.Parameter", "torch.serialization._get_layout", "torch._tensor._rebuild_from_type_v2"}
    names |= {"torch.storage.TypedStorage", "torch.storage.UntypedStorage"}
    rebuilt = (
        "device_tensor_from_cpu_tensor device_tensor_from_numpy meta_tensor_no_storage nested_tensor parameter "
        "parameter_with_state qtensor sparse_tensor tensor tensor_v2 tensor_v3 wrapper_subclass"
    )
    return frozenset(names | {f"torch._utils._rebuild_{name}" for name in rebuilt.split()})


TORCH = _allowed()
"""What torch 2.13 itself allows: `_get_allowed_globals` of torch/_weights_only_unpickler.py; a test compares."""
NUMPY = frozenset(
    {
        *("numpy.ndarray", "numpy.dtype", "numpy.core.multiarray.scalar", "numpy.core.multiarray._reconstruct"),
        *("numpy._core.multiarray.scalar", "numpy._core.multiarray._reconstruct"),
    }
)
"""Parts of a checkpoint that the handler library reads without numpy's own functions."""
ALLOWED = TORCH | NUMPY

_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_STORES = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_LOADS = {"GET", "BINGET", "LONG_BINGET"}
_EXTENSIONS = {"EXT1", "EXT2", "EXT4"}


class HostilePickle(ValueError):
    """The pickle names a global that data does not need, or cannot be read; the message says which."""


class _Bounded:
    """At most LARGEST bytes of a file: an opcode may claim a length, or a line, of any size."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.left = LARGEST

    def read(self, size: int = -1, /) -> bytes:
        """See io.BufferedReader."""
        return self._counted(self.file.read(min(self.left, size) if size >= 0 else self.left))

    def readline(self, size: int | None = -1, /) -> bytes:
        """See io.BufferedReader."""
        return self._counted(self.file.readline(min(self.left, size) if size is not None and size >= 0 else self.left))

    def _counted(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left <= 0:
            raise HostilePickle(f"is larger than {LARGEST} bytes")
        return data


def scan(file: IO[bytes]) -> None:
    """Read one pickle, up to its STOP.

    Raises HostilePickle for a global that is not in `ALLOWED`, a global whose name the opcodes do not show, and broken opcodes.
    """
    try:
        for name in _globals(file):
            if name not in ALLOWED:
                raise HostilePickle(f"names {name[:200]}, which may run code")
    except HostilePickle:
        raise
    except (
        Exception
    ) as error:  # pickletools raises ValueError, IndexError, UnicodeDecodeError, OverflowError, ... for broken opcodes
        raise HostilePickle(f"is not a readable pickle: {str(error)[:200]}") from error


def _globals(file: IO[bytes]) -> Iterator[str]:
    """The globals in the order of their opcodes, as `module.name`."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", _Bounded(file))):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            module, _, attribute = str(argument).partition(" ")
            yield _modern(module, attribute)
        elif name in _EXTENSIONS:
            raise HostilePickle("names a global by an extension code")
        elif name == "STACK_GLOBAL":
            module, attribute = stack[-2:]
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise HostilePickle("names a global that its opcodes do not show")
            yield _modern(module, attribute)
        top = stack[-1] if stack else None
        _pop(opcode, stack)
        if name in _TEXTS:
            stack.append(argument)
        elif name in _LOADS:
            stack.append(memo[int(str(argument))])
        elif name == "DUP":
            stack += [top, top]
        else:
            stack.extend(pickletools.markobject if one is pickletools.markobject else None for one in opcode.stack_after)
        if name in _STORES:
            stack[-1:] = [top]
            memo[len(memo) if name == "MEMOIZE" else int(str(argument))] = top


def _modern(module: str, attribute: str) -> str:
    """`module.name`, with Python 2's names of modules in Python 3's form: protocol 2 writes `__builtin__`."""
    module, attribute = NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute))
    return f"{module}.{attribute}"


def _pop(opcode: Any, stack: list[Any]) -> None:
    """Take from the stack what an opcode takes, as pickletools.dis does."""
    before = opcode.stack_before
    count = len(before)
    if pickletools.markobject in before or (opcode.name == "POP" and stack and stack[-1] is pickletools.markobject):
        while stack.pop() is not pickletools.markobject:
            pass
        count = before.index(pickletools.markobject) if pickletools.markobject in before else 0
    if count:
        if len(stack) < count:
            raise HostilePickle("takes more from its stack than there is")
        del stack[-count:]
