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
_SET_SECCOMP, _FILTER = 22, 2
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38  # EPERM, ENOSYS
_FOREIGN = 0x40000000  # numbers from here on are x32's, a second way to the same calls
# The kernel's number of each processor, and its numbers of: socket, ptrace, process_vm_readv and _writev, keyctl, io_uring_setup,
# memfd_create, unshare, setns, fork, vfork. The first also blocks sockets that are files (Docker's, an ssh agent's), which neither
# Landlock nor a network namespace blocks. memfd_create makes memory that no limit counts.
_CALLS = {
    "x86_64": (0xC000003E, (41, 101, 310, 311, 250, 425, 319, 272, 308, 57, 58)),
    "aarch64": (0xC00000B7, (198, 117, 270, 271, 219, 425, 279, 97, 268)),
}
# Calls that change a file by its name, which Landlock allows (truncate up to its second version): truncate, chmod, fchmodat,
# fchmodat2, chown, lchown, fchownat, setxattr, lsetxattr, removexattr, lremovexattr, utime, utimes, futimesat, utimensat.
_CHANGES = {
    "x86_64": (76, 90, 268, 452, 92, 94, 260, 188, 189, 197, 198, 132, 235, 261, 280),
    "aarch64": (45, 53, 452, 54, 5, 6, 14, 15, 88),
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435  # its flags are in memory, where a filter cannot see them; without it the C library uses clone
_THREAD = 0x00010000  # the flag of a thread; a clone without it is a process
ADDRESSES = 32 << 30  # bytes of address space, which libraries take without using them
MEMORY = 16 << 30  # bytes that this process, the only one, can write to; at most MEMORY_SHARE of the machine's
MEMORY_SHARE = 0.75
OPEN_FILES = 512


def memory() -> int:
    """Return the bytes that this process can use."""
    return min(MEMORY, int(MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))


def limit(seconds: int, file_bytes: int) -> None:
    """Lower this process's limits. They cannot be raised again, not even by root inside a user namespace.

    `calls` allows no second process, so they hold for everything that the file starts.
    """
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_AS, ADDRESSES),
        (resource.RLIMIT_DATA, memory()),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        lowest = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (lowest, lowest))


def calls() -> bool:
    """Block sockets, new processes (not threads), access to other ones, and changes of files by name.

    Return False for an unknown processor.

    Raises:
        OSError: the kernel refuses.
    """
    known = _CALLS.get(platform.machine())
    if known is None:
        return False
    processor, numbers = known[0], known[1] + _CHANGES[platform.machine()]
    load, equal, at_least, has, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    refuse_at = 9 + len(numbers)
    program = [(load, 0, 0, 4), (equal, 0, refuse_at - 2, processor), (load, 0, 0, 0), (at_least, refuse_at - 4, 0, _FOREIGN)]
    program += [(equal, refuse_at - 5 - place, 0, number) for place, number in enumerate(numbers)]
    program += [(equal, 5, 0, _CLONE3), (equal, 0, 2, _CLONE[platform.machine()])]
    program += [(load, 0, 0, 16), (has, 0, 1, _THREAD)]  # the first argument, its flags
    program += [(answer, 0, 0, _ALLOW), (answer, 0, 0, _REFUSE), (answer, 0, 0, _UNKNOWN)]
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
