"""Takes away from this process, for good, what loading a file does not need: resources, sockets, and other people's files.

Landlock (https://docs.kernel.org/userspace-api/landlock.html) and seccomp (https://docs.kernel.org/userspace-api/seccomp_filter.html)
are called by number, because Python has no names for them; the return values say whether the kernel has them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVILEGES = 38
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, list a folder
_BY_VERSION = {
    1: (1 << 13) - 1,
    2: (1 << 14) - 1,
    3: (1 << 15) - 1,
    4: (1 << 15) - 1,
    5: (1 << 16) - 1,
}  # each version's rights
_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # the only rights that a rule for a file can give
_SET_SECCOMP, _FILTER, _ALLOW, _REFUSE = 22, 2, 0x7FFF0000, 0x00050000 | 1  # EPERM
_FOREIGN = 0x40000000  # numbers from here on are x32's, a second way to the same calls
# The kernel's number of each processor, and its numbers of: socket, ptrace, process_vm_readv and _writev, keyctl, io_uring_setup.
# The first also blocks sockets that are files (Docker's, an ssh agent's); neither Landlock nor a network namespace blocks those.
_CALLS = {"x86_64": (0xC000003E, (41, 101, 310, 311, 250, 425)), "aarch64": (0xC00000B7, (198, 117, 270, 271, 219, 425))}
MEMORY = 32 << 30
OPEN_FILES = 512


def limit(seconds: int, file_bytes: int) -> None:
    """Lower this process's limits. They cannot be raised again, not even by root inside a user namespace."""
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


def calls() -> bool:
    """Block sockets and access to other processes. Return False for an unknown processor.

    Raises:
        OSError: the kernel refuses.
    """
    known = _CALLS.get(platform.machine())
    if known is None:
        return False
    processor, numbers = known
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    refuse_at = 5 + len(numbers)
    program = [(load, 0, 0, 4), (equal, 0, refuse_at - 2, processor), (load, 0, 0, 0), (at_least, refuse_at - 4, 0, _FOREIGN)]
    program += [(equal, refuse_at - 5 - place, 0, number) for place, number in enumerate(numbers)]
    program += [(answer, 0, 0, _ALLOW), (answer, 0, 0, _REFUSE)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    libc = ctypes.CDLL(None, use_errno=True)
    argument = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "seccomp")
    _checked(libc.prctl(_SET_SECCOMP, _FILTER, argument, 0, 0), "seccomp")
    return True


def files(readable: list[Path], writable: list[Path]) -> bool:
    """Allow this process these paths and no others. Return False when the kernel has no Landlock.

    Raises:
        OSError: the kernel has Landlock and refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    every = _BY_VERSION.get(version, _BY_VERSION[5])
    attributes = struct.pack("<Q", every)
    rules = _checked(libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)))
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
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        allowed = rights if path.is_dir() else rights & _FILE_RIGHTS
        rule = struct.pack("<Qi", allowed, descriptor)
        _checked(libc.syscall(_ADD, ctypes.c_int(rules), ctypes.c_int(1), rule, ctypes.c_uint32(0)))
    finally:
        os.close(descriptor)


def _checked(result: int, what: str = "Landlock") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
