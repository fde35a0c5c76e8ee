"""A small pool of threads with a bounded queue and two priorities.

Threads here only sit in system calls (reads, writes, sockets); results go back to the reactor through ``callFromThread`` by the
work itself. Threads are daemons, so one that hangs in a dead store or disk never keeps the process alive. Not here: results,
cancellation, retries.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from monofs.model.errors import NotReady, Overloaded
from monofs.observe.logs import logger

log = logger(__name__)


class Pool:
    """At most ``threads`` calls at a time, at most ``queue`` waiting. ``submit`` from the reactor thread only."""

    def __init__(self, name: str, threads: int, queue: int) -> None:
        self._name, self._most, self._bound = name, threads, queue
        self._urgent: deque[Callable[[], None]] = deque()
        self._idle_work: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        self._stopped = False

    @property
    def queued(self) -> int:
        """Calls that no thread has begun."""
        return len(self._urgent) + len(self._idle_work)

    def submit(self, work: Callable[[], None], *, urgent: bool = True) -> None:
        """Queue a call; it must handle its own errors. Raises ``Overloaded`` at the bound, ``NotReady`` once stopped.

        Work that is not urgent (read-ahead, verification by command) starts when nothing urgent waits.
        """
        with self._changed:
            if self._stopped:
                raise NotReady("the worker is stopping")
            if self.queued >= self._bound:
                raise Overloaded(f"{self._bound} calls wait for {self._name} already; try again shortly")
            (self._urgent if urgent else self._idle_work).append(work)
            if self._waiting:
                self._waiting -= 1  # this thread is taken, though it has not woken yet
                self._changed.notify()
                return
            if len(self._threads) >= self._most:
                return
        thread = threading.Thread(target=self._run, name=f"monofs-{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if self._threads:
                return  # one of them will come to it
            self.take_back()
            raise Overloaded(f"no thread can be started for {self._name}; try again shortly") from None
        self._threads.append(thread)

    def take_back(self) -> list[Callable[[], None]]:
        """Empty the queue: the calls that no thread has begun, and none will."""
        with self._changed:
            taken = [*self._urgent, *self._idle_work]
            self._urgent.clear()
            self._idle_work.clear()
            return taken

    def stop(self, timeout_s: float) -> None:
        """Drop what waits and wait at most ``timeout_s`` for the running calls, all together; blocking."""
        with self._changed:
            self._stopped = True
            self._urgent.clear()
            self._idle_work.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._urgent and not self._idle_work:
                    if self._stopped:
                        return
                    self._waiting += 1
                    self._changed.wait()
                work = self._urgent.popleft() if self._urgent else self._idle_work.popleft()
            try:
                work()
            except Exception as error:  # noqa: BLE001 - a thread of the pool must outlive any bug in its work
                log.error("work failed", exception=error, pool=self._name)
