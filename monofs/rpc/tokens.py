"""Which tokens a service honours, and the connections that came in by one.

Invariant: a token lets in only while it is in the list last taken over, with the salt it was issued with, and before its end; a connection
outlives its token by less than a minute when it expires, and not at all once a list without it was taken over.
A token with a number beyond the list was issued after it: its holder is asked to try again (``NotReady``), and the list will come.

Not here: proof (handshake.py), and where the list comes from: the namespace on masters, heartbeats on workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from monofs.model.errors import MonofsError, NotReady, Unauthenticated
from monofs.model.principal import Principal
from monofs.model.token import Token

LOOK_S = 30.0
"""Ends of tokens with open connections are looked at so often, whatever happens to the clock."""


class Admitted(Protocol):
    """A connection that came in by a token."""

    def dismiss(self, error: MonofsError) -> None:
        """Say why, and close."""

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back when it is gone."""


class Tokens:
    """Of one service; reactor thread only. ``now_s`` tells seconds since 1970 by the cluster's clock."""

    def __init__(self, reactor: Any, now_s: Callable[[], float] = time.time) -> None:
        self.now_s = now_s
        self._reactor = reactor
        self._salts: dict[int, bytes] | None = None
        self._last = 0
        self._admitted: dict[int, tuple[Token, set[Admitted]]] = {}
        self._timer: Any = None

    def take(self, salts: Mapping[int, bytes], last: int) -> None:
        """Honour these from now on: number to salt; ``last`` is the newest number ever given. Connections of others are closed."""
        self._salts, self._last = dict(salts), last
        for token, _ in list(self._admitted.values()):
            if self._salts.get(token.number) != token.salt:
                self._dismiss(token, f"the token {token.name} was removed")

    def check(self, token: Token, cluster: bytes) -> Principal:
        """Whom a token lets in whose holder has proved to have its secret. Raises ``Unauthenticated``, ``NotReady``."""
        if token.cluster != cluster:
            raise Unauthenticated(f"the token {token.name} is of another cluster")
        if token.is_expired(self.now_s()):
            raise Unauthenticated(f"the token {token.name} has expired: ask for a new one (`monofs token add`)")
        if self._salts is None or token.number > self._last:
            raise NotReady(
                f"this node has not heard of the token {token.name} yet: try again shortly, and ask for another one if this lasts"
            )
        if self._salts.get(token.number) != token.salt:
            raise Unauthenticated(f"the token {token.name} was removed")
        return token.principal()

    def admit(self, token: Token, connection: Admitted) -> None:
        """A connection came in by a token: close it when that ends."""
        _, connections = self._admitted.setdefault(token.number, (token, set()))
        connections.add(connection)
        connection.on_close(lambda: self._forget(token.number, connection))
        if token.expires_s:
            self._look_later()

    def _forget(self, number: int, connection: Admitted) -> None:
        held = self._admitted.get(number)
        if held is not None:
            held[1].discard(connection)
            if not held[1]:
                del self._admitted[number]

    def _look_later(self) -> None:
        """One timer for all, while something can expire."""
        ends = [token.expires_s for token, _ in self._admitted.values() if token.expires_s]
        if not ends:
            return
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._reactor.callLater(min(LOOK_S, max(0.0, min(ends) - self.now_s()) + 0.01), self._look)

    def _look(self) -> None:
        now_s = self.now_s()
        for token, _ in list(self._admitted.values()):
            if token.is_expired(now_s):
                self._dismiss(token, f"the token {token.name} has expired")
        self._look_later()

    def _dismiss(self, token: Token, why: str) -> None:
        _, connections = self._admitted.pop(token.number)
        for connection in connections:
            connection.dismiss(Unauthenticated(why))
