"""The thread of one storage directory: unlinks, copies and a look at the file system each second, in the order they came.

Invariant: jobs run one at a time, first come first served; the owner's thread never waits here. A disk that hangs stops only its
own keeper. Not here: what the jobs do.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from monofs.observe.logs import logger

TICK_S = 1.0

log = logger(__name__)


class Keeper:
    """Runs jobs; calls ``tick`` each second and when woken."""

    def __init__(self, name: str, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._jobs: deque[Callable[[], None]] = deque()
        self._submitted = self._done = 0
        self._woken = self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"tier {name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job (any thread)."""
        with self._changed:
            self._jobs.append(job)
            self._submitted += 1
            self._changed.notify_all()

    def wake(self) -> None:
        """Tick soon."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    @property
    def is_idle(self) -> bool:
        """No job is queued or running. A plain read: true means that all jobs submitted by this thread are done."""
        return self._done == self._submitted

    def wait(self, timeout_s: float | None = None, *, enough: Callable[[], bool] = lambda: False) -> bool:
        """Wait until every job submitted before this call is done, or enough of them; False when ``timeout_s`` ran out first."""
        if self.is_idle:
            return True
        with self._changed:
            goal = self._submitted
            return self._changed.wait_for(lambda: self._done >= goal or enough(), timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Finish what is queued and end; False when the disk did not let it within ``timeout_s``."""
        if not self._thread.is_alive():
            return True
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        due_s = time.monotonic() + TICK_S
        while True:
            with self._changed:
                wait_s = max(0.0, due_s - time.monotonic())
                self._changed.wait_for(lambda: self._jobs or self._woken or self._stopping, wait_s)
                if self._stopping and not self._jobs:
                    return
                is_due = self._woken or time.monotonic() >= due_s  # however many jobs come
                job = self._jobs.popleft() if self._jobs and not is_due else None
                if job is None:
                    self._woken, due_s = False, time.monotonic() + TICK_S
            try:
                (job or self._tick)()
            except Exception as error:  # noqa: BLE001 - a bug in one job must not stop unlinking for ever
                log.error("tier job failed", exception=error)
            if job is not None:
                with self._changed:
                    self._done += 1
                    self._changed.notify_all()
