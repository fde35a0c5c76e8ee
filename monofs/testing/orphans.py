"""Processes that do not outlive the test run that started them, however it ends.

The kernel's signal comes when the *thread* that started the process ends, so only processes of the main thread can have it.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None] | None:
    """A ``preexec_fn`` that has the kernel kill the new process with this one; None outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return _ask_kernel


def _ask_kernel() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
