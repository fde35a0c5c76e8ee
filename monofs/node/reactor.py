"""The epoll reactor, without a logging context around every event: nothing here logs through Twisted, and each small request would pay 14 us
of 186 for it.

Not here: what happens at an event, which is Twisted's (``_doReadOrWrite``, which also logs what a handler raises).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor


class Reactor(EPollReactor):
    """See the module."""

    def doPoll(self, timeout: float | None) -> None:  # noqa: N802 - Twisted's name
        """Wait for events at most so long, and act on them."""
        selectables: dict[int, Any] = self._selectables
        for fd, event in self._poller.poll(-1 if timeout is None else timeout, len(selectables)):
            selectable = selectables.get(fd)
            if selectable is not None:
                self._doReadOrWrite(selectable, fd, event)  # type: ignore[no-untyped-call]

    doIteration = doPoll  # noqa: N815 - Twisted's name


def install_reactor() -> Any:
    """Make it the process's reactor."""
    reactor = Reactor()  # type: ignore[no-untyped-call]
    installReactor(reactor)
    return reactor
