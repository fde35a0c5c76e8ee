"""Descriptors out at local readers.

Invariant: a group stays held (its bytes count as used, even once unlinked) exactly while a lease on it is out; a lease ends by
RELEASE or with its connection. Lease numbers are random, so that RELEASE may come by another connection of the same client
without letting clients guess each other's. Not here: sending descriptors.
"""

from __future__ import annotations

import secrets

from monofs.model.errors import Overloaded
from monofs.rpc.service import Connection
from monofs.tiering.cache import Cache, Group


class Leases:
    """All leases of a worker; at most ``most`` a connection. Reactor thread only."""

    def __init__(self, cache: Cache, most: int) -> None:
        self._cache, self._most = cache, most
        self._groups: dict[int, tuple[Connection, Group]] = {}
        self._of: dict[Connection, set[int]] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def check_room(self, connection: Connection) -> None:
        """Raise ``Overloaded`` when the connection holds as many descriptors as it may."""
        if len(self._of.get(connection, ())) >= self._most:
            raise Overloaded(f"this connection holds {self._most} descriptors; release some first")

    def grant(self, connection: Connection, group: Group) -> int:
        """Hold ``group`` for ``connection``; the lease's number, never 0."""
        held = self._of.get(connection)
        if held is None:
            held = self._of[connection] = set()
            connection.on_close(lambda: self.release_all(connection))
        lease = secrets.randbits(63) | 1
        self._cache.hold(group)
        self._groups[lease] = (connection, group)
        held.add(lease)
        return lease

    def release(self, leases: list[int]) -> None:
        """End leases; unknown ones were ended before."""
        for lease in leases:
            found = self._groups.pop(lease, None)
            if found is not None:
                connection, group = found
                self._of.get(connection, set()).discard(lease)
                self._cache.release(group)

    def release_all(self, connection: Connection) -> None:
        """The connection has ended."""
        self.release(list(self._of.get(connection, ())))
        self._of.pop(connection, None)

    def release_everything(self) -> None:
        """The worker stops."""
        self.release(list(self._groups))
        self._of.clear()
