"""Takes from this process what loading a file does not need, for good: resources, and files that are not its own.

Landlock (https://docs.kernel.org/userspace-api/landlock.html) is asked of the kernel by number, as Python has no names for it;
where the kernel lacks it, the caller is told.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVILEGES = 38
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, list a folder
_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}  # rights known to each
_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # the only ones that a rule for a file may give
MEMORY = 32 << 30
OPEN_FILES = 512


def limit(seconds: int, file_bytes: int) -> None:
    """Lower what this process may use; it cannot be raised again, not even by root inside of a user namespace."""
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        lowest = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (lowest, lowest))


def files(readable: list[Path], writable: list[Path]) -> bool:
    """Leave this process these paths and no others. False when the kernel has no Landlock.

    Raises:
        OSError: it has, and refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    every = _BY_VERSION.get(version, _BY_VERSION[5])
    asked = struct.pack("<Q", every)
    rules = _checked(libc.syscall(_CREATE, asked, ctypes.c_size_t(len(asked)), ctypes.c_uint32(0)))
    try:
        for paths, rights in ((readable, _READ), (writable, every)):
            for path in paths:
                _allow(libc, rules, path, rights)
        _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0)))
    finally:
        os.close(rules)
    return True


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        given = rights if path.is_dir() else rights & _FILE_RIGHTS
        rule = struct.pack("<Qi", given, place)
        _checked(libc.syscall(_ADD, ctypes.c_int(rules), ctypes.c_int(1), rule, ctypes.c_uint32(0)))
    finally:
        os.close(place)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
