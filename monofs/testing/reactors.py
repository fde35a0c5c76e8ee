"""A real reactor in a thread, for tests of what lives on one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from monofs.node.reactor import Reactor

PATIENCE_S = 60.0


class Loop:
    """A reactor of its own in a thread; ``do`` runs a function there and waits for its result, a Deferred's too."""

    def __init__(self) -> None:
        self.reactor: Any = Reactor()  # type: ignore[no-untyped-call]
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="test-reactor", daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def _run(self) -> None:
        self.reactor.callWhenRunning(self._started.set)
        self.reactor.run(installSignalHandlers=False)

    def do(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Its result, or what it raised."""
        return self.begin(function, *arguments, **named)()

    def begin(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Callable[[], Any]:
        """Start it without waiting; the callable returned waits for its result."""
        results: queue.Queue[tuple[bool, Any]] = queue.Queue()

        def run() -> None:
            try:
                result = function(*arguments, **named)
            except BaseException as error:  # noqa: BLE001 - raised where it was asked for
                results.put((False, error))
                return
            if isinstance(result, Deferred):
                result.addCallbacks(
                    lambda value: results.put((True, value)), lambda failure: results.put((False, failure.value))
                )
            else:
                results.put((True, result))

        def wait() -> Any:
            fine, value = results.get(timeout=PATIENCE_S)
            if not fine:
                raise value
            return value

        self.reactor.callFromThread(run)
        return wait

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Turn by turn of the reactor, until it holds; the reactor decides how long, a bound of turns when it never does."""
        for _ in range(5000):
            if self.do(condition):
                return
            self.do(deferLater, self.reactor, 0.001, lambda: None)
        raise AssertionError("it never held")

    def stop(self) -> None:
        """The thread ends."""
        self.reactor.callFromThread(self.reactor.stop)
        self._thread.join(10)
