"""Work of one call done by several threads: the blocks of one large range come from several workers at a time.

Invariants: the caller works too, and helpers only join it, ``AT_ONCE`` threads a call and ``HELPERS_MAX`` more of the process at most, so
nothing ever waits for a helper; when :func:`spread` returns or raises, no helper touches what the caller gave it any more (but for an
interrupt that comes while it waits for them).
Not here: what is done.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable

AT_ONCE = 4
"""Threads of one call: four workers fill a 100 Gbit/s link, and one client's memory holds four pieces."""
HELPERS_MAX = 12
"""Threads of all calls of a process beside their callers."""

_free = threading.BoundedSemaphore(HELPERS_MAX)


def spread(tasks: Iterable[Callable[[], None]]) -> None:
    """Run all tasks. After an error no further one begins; the error of the first task in order is raised when all have ended."""
    todo = deque(enumerate(tasks))
    failures: dict[int, BaseException] = {}

    def work() -> None:
        while todo and not failures:
            try:
                number, task = todo.popleft()
            except IndexError:
                return
            try:
                task()
            except BaseException as error:  # noqa: BLE001 - the caller raises it
                failures[number] = error

    helpers: list[threading.Thread] = []
    wanted = min(AT_ONCE, len(todo)) - 1
    try:
        while len(helpers) < wanted and _help(work, helpers):
            pass
        work()
    finally:
        todo.clear()
        for helper in helpers:
            helper.join()
    if failures:
        raise failures[min(failures)]


def _help(work: Callable[[], None], helpers: list[threading.Thread]) -> bool:
    """Start one more helper; False: there are as many as may be."""
    free = _free

    def run() -> None:
        try:
            work()
        finally:
            free.release()

    if not free.acquire(blocking=False):
        return False
    helper = threading.Thread(target=run, name="monofs-block", daemon=True)
    try:
        helper.start()
    except RuntimeError:  # no more threads may be started
        free.release()
        return False
    helpers.append(helper)
    return True


def _start_afresh() -> None:
    global _free
    _free = threading.BoundedSemaphore(HELPERS_MAX)


os.register_at_fork(after_in_child=_start_afresh)
