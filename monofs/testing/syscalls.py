"""Making one system call of this process fail, by the kernel: a seccomp filter returns the errno instead of running the call.

For throw-away processes only: a filter cannot be taken away again. It works for every thread, needs no privilege and no package, and
the code under test is untouched, so a test sees what a failing disk would show. Linux on x86-64 and arm64.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_NUMBERS = {
    "x86_64": {
        "fsync": 74,
        "fdatasync": 75,
        "pwrite64": 18,
        "fallocate": 285,
        "renameat2": 316,
        "linkat": 265,
        "seccomp": 317,
    },
    "aarch64": {
        "fsync": 82,
        "fdatasync": 83,
        "pwrite64": 68,
        "fallocate": 47,
        "renameat2": 276,
        "linkat": 37,
        "seccomp": 277,
    },
}
_SET_MODE_FILTER, _TSYNC, _PR_SET_NO_NEW_PRIVS = 1, 1, 38
_LOAD_NUMBER, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def fail_syscall(name: str, error: int) -> None:
    """From now on ``name`` fails with errno ``error`` in every thread of this process. Raises ``OSError`` when that is refused."""
    numbers = _NUMBERS[platform.machine()]
    steps = (
        (_LOAD_NUMBER, 0, 0, 0),
        (_JUMP_EQUAL, 0, 1, numbers[name]),
        (_RETURN, 0, 0, _ERRNO | error),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(steps), ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        numbers["seccomp"], _SET_MODE_FILTER, _TSYNC, ctypes.byref(program)
    ):
        code_ = ctypes.get_errno()
        raise OSError(code_, os.strerror(code_))
