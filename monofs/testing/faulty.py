"""`monofs` whose disk can be broken from outside: SIGUSR1 makes every fsync fail with EIO from then on, SIGUSR2 fills the disk.

The kernel gives the error (syscalls.py), so all of the program sees it as it would see a broken disk; only a new process is well again.
Run as ``python -m monofs.testing.faulty serve …``.
"""

from __future__ import annotations

import errno
import runpy
import signal

from monofs.testing.syscalls import fail_syscall


def break_syncs(*_: object) -> None:
    """The disk tells of errors when it is asked to keep."""
    fail_syscall("fsync", errno.EIO)
    fail_syscall("fdatasync", errno.EIO)


def fill_disk(*_: object) -> None:
    """There is no room any more."""
    fail_syscall("pwrite64", errno.ENOSPC)
    fail_syscall("fallocate", errno.ENOSPC)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, break_syncs)
    signal.signal(signal.SIGUSR2, fill_disk)
    runpy.run_module("monofs", run_name="__main__", alter_sys=True)
