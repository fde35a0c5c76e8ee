"""Reads that are begun now and waited for later, on a few threads of the process.

Invariants: every future ends, with bytes or an error, also when the file system is closed before its turn; the pieces of one path in one call are of one
content, so they are told together, once all of them are here; at most ``CALLS_MAX`` calls wait or run.
Not here: how many pieces are read (many.py).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import Any, TypeVar

from monofs.client.errors import python_error
from monofs.model.errors import Closed, ContentChanged, MonofsError, Overloaded

CALLS_MAX = 1024
"""Calls that wait or run; more get ``Overloaded``."""
THREADS = 4
"""Calls that run at a time; each uses the threads a call that is waited for uses."""

T = TypeVar("T")


class Ahead:
    """The calls of one session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._calls = 0
        self._closed = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """What ``work`` gives, run on a thread soon; ``Closed`` when the session closes before its turn. Raises ``Overloaded`` at the bound, ``Closed``."""
        promise: Future[T] = Future()

        def run() -> None:
            if not promise.set_running_or_notify_cancel():
                return
            try:
                promise.set_result(work())
            except BaseException as error:  # noqa: BLE001 - whoever waits raises it
                promise.set_exception(error)

        def ended(call: Future[None]) -> None:
            with self._lock:
                self._calls -= 1
            if call.cancelled() and promise.set_running_or_notify_cancel():
                promise.set_exception(Closed("the file system was closed before its turn came"))

        with self._lock:
            if self._closed:
                raise Closed("the file system is closed")
            if self._calls >= CALLS_MAX:
                raise Overloaded(f"{CALLS_MAX} calls are on their way already: wait for some of them first")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, "monofs-ahead")
            call = self._pool.submit(run)
            self._calls += 1
        call.add_done_callback(ended)
        return promise

    def close(self) -> None:
        """What has not begun never will."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


class Promised(list[bytes | MonofsError]):
    """Results by position, each told to its future: of a path when all its pieces are here and of one content, of an open file at once."""

    def __init__(self, sources: Sequence[object]) -> None:
        super().__init__([b""] * len(sources))
        self.futures: list[Future[bytes]] = [Future() for _ in sources]
        self._sources = sources
        self._of: dict[str, list[int]] = {}
        for position, source in enumerate(sources):
            if isinstance(source, str):
                self._of.setdefault(source, []).append(position)
        self._left = {path: len(positions) for path, positions in self._of.items()}
        self._lock = threading.Lock()

    def __setitem__(self, position: Any, result: Any) -> None:
        super().__setitem__(position, result)
        source = self._sources[position]
        if not isinstance(source, str):
            self._tell(position)
            return
        with self._lock:
            self._left[source] -= 1
            if self._left[source]:
                return
            self._left[source] = len(self._of[source])  # they are read once more if the path changed
        positions = self._of[source]
        if not any(isinstance(self[each], ContentChanged) for each in positions):
            for each in positions:
                self._tell(each)

    def finish(self, error: BaseException | None) -> None:
        """Nothing more comes: tell what was not told yet, or the error that ended the call."""
        for position in range(len(self)):
            self._tell(position, error)

    def _tell(self, position: int, error: BaseException | None = None) -> None:
        future, result = self.futures[position], self[position] if error is None else error
        with contextlib.suppress(InvalidStateError):  # told before, or cancelled by who waited
            if isinstance(result, BaseException):
                future.set_exception(python_error(result) if isinstance(result, MonofsError) else result)
            else:
                future.set_result(result)
