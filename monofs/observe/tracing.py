"""Request ids: one 64-bit number from the call of a user's program to the log lines of every thread that works for it.

The asker draws it (:func:`new_trace`) and it travels in every frame header as ``trace``. A service keeps it in :data:`TRACE` while a
handler runs; coroutines inherit it over their awaits, work handed to threads takes it along with :func:`tracing`, and log lines pick it
up by themselves. Work that many requests share carries the id of the one that began it.

Invariant: 0 means: no request caused this. People see the number as 16 hex digits and hear "request id".
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from monofs.model.errors import MonofsError, is_unusual

TRACE: ContextVar[int] = ContextVar("monofs_trace", default=0)
"""The request this thread or coroutine works for."""

current_trace = TRACE.get
_numbers = itertools.count(1)


def new_trace() -> int:
    """A request id: a random start per process (again after fork), then counted, which costs no system call. Any thread."""
    return next(_numbers)


def _begin() -> None:
    global _numbers
    _numbers = itertools.count(secrets.randbits(63) + 1)


def show_trace(trace: int) -> str:
    """As logs, errors and people show it."""
    return f"{trace:016x}"


def stamp(error: MonofsError, trace: int) -> MonofsError:
    """Put the request id into an error an operator will want to find in the logs, unless one is there; everyday errors stay bare.

    For errors that belong to one request only: an error shared by several must be copied first.
    """
    if trace and is_unusual(error.code):
        error.detail.setdefault("trace", show_trace(trace))
    return error


@contextmanager
def tracing(trace: int) -> Iterator[None]:
    """Work for ``trace`` inside the block."""
    token = TRACE.set(trace)
    try:
        yield
    finally:
        TRACE.reset(token)


_begin()
os.register_at_fork(after_in_child=_begin)
