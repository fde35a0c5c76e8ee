"""Descriptors out at local readers.

Invariant: a group stays held (its bytes count as used, even once unlinked) exactly while a lease on it is out; a lease ends by
RELEASE or with its connection; who holds one is asked for it (`recalled`) when its group's room is wanted; while room is searched for and held groups are in
the way, no more than one byte in ``SHARE`` of a directory is lent, so that the rest can make room for what is new. Lease numbers are random, so that RELEASE may come by another connection of the same client
without letting clients guess each other's. Not here: sending descriptors.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from monofs.model.errors import Overloaded, TierFull
from monofs.rpc.service import Connection
from monofs.tiering.blockfile import file_groups
from monofs.tiering.cache import Cache, Group
from monofs.tiering.directory import Directory

SHARE = 2


class Leases:
    """All leases of a worker; at most ``most`` a connection. Reactor thread only."""

    def __init__(self, cache: Cache, most: int) -> None:
        self._cache, self._most = cache, most
        self._groups: dict[int, tuple[Connection, Group]] = {}
        self._promoting: set[int] = set()
        """Leases of readers who want what they read in the top tier."""
        self._kept: set[int] = set()
        """Leases whose readers have said that they keep them."""
        self._of: dict[Connection, set[int]] = {}
        self._files: dict[int, tuple[int, int]] = {}
        """Files with leases: by number, how many leases, and what was counted for it."""
        self._lent: dict[Directory, int] = {}
        """Bytes that files with leases may come to have."""

    def __len__(self) -> int:
        return len(self._groups)

    def check_room(self, connection: Connection) -> None:
        """Raise ``Overloaded`` when the connection holds as many descriptors as it may."""
        if len(self._of.get(connection, ())) >= self._most:
            raise Overloaded(f"this connection holds {self._most} descriptors; release some first")

    def check_share(self, group: Group) -> None:
        """Raise ``TierFull`` when the group's file is not lent, and must not be while others need room."""
        directory = group.directory
        if group.file in self._files or not self._cache.is_pressed(directory):
            return
        if SHARE * (self._lent.get(directory, 0) + _extent(group)) > directory.quota:
            raise TierFull(
                f"{directory.name}: readers on this machine hold a large part of it and others need room; read over the socket",
                directory=directory.name,
            )

    def grant(self, connection: Connection, group: Group, *, promotes: bool) -> int:
        """Hold ``group`` for ``connection``; the lease's number, never 0. ``promotes``: its reader wants it in the top tier."""
        held = self._of.get(connection)
        if held is None:
            held = self._of[connection] = set()
            connection.on_close(lambda: self.release_all(connection))
        lease = secrets.randbits(63) | 1
        self._cache.hold(group)
        self._groups[lease] = (connection, group)
        held.add(lease)
        leases, size = self._files.get(group.file, (0, 0))
        if not leases:
            size = _extent(group)
            self._lent[group.directory] = self._lent.get(group.directory, 0) + size
        self._files[group.file] = leases + 1, size
        if promotes:
            self._promoting.add(lease)
        return lease

    def release(self, leases: list[int]) -> None:
        """End leases; unknown ones were ended before."""
        for lease in leases:
            found = self._groups.pop(lease, None)
            if found is not None:
                connection, group = found
                self._of.get(connection, set()).discard(lease)
                self._promoting.discard(lease)
                self._kept.discard(lease)
                count, size = self._files.pop(group.file)
                if count > 1:
                    self._files[group.file] = count - 1, size
                else:
                    self._lent[group.directory] -= size
                self._cache.release(group)

    def count_reads(self, leases: list[int]) -> None:
        """Readers keep these, for they read through them since they last said so: reads that this worker did not see. The first time
        says nothing new: that a descriptor is read once is counted when it is given."""
        for lease in leases:
            found = self._groups.get(lease)
            if found is None:
                continue
            if lease in self._kept:
                group = self._cache.lookup(*found[1].key) or found[1]  # it may have changed its tier since
                self._cache.touch(group)
                if lease in self._promoting:
                    self._cache.promote(group)
            self._kept.add(lease)

    def recalled(self, leases: list[int], is_wanted: Callable[[Group], bool]) -> list[int]:
        """Those of the leases that are out on groups whose room is wanted, or are known no more."""
        return [lease for lease in leases if (found := self._groups.get(lease)) is None or is_wanted(found[1])]

    def release_all(self, connection: Connection) -> None:
        """The connection has ended."""
        self.release(list(self._of.get(connection, ())))
        self._of.pop(connection, None)

    def release_everything(self) -> None:
        """The worker stops."""
        self.release(list(self._groups))
        self._of.clear()


def _extent(group: Group) -> int:
    return sum(mate.length for mate in file_groups(group))
