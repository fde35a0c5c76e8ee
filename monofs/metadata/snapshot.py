"""One LMDB read transaction over all tables: the lowest layer of every read, and the whole of an offline one.

Invariant: what it shows never changes. It must be closed before the environment is, and is used by one thread at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import lmdb

from monofs.metadata.tables import (
    FORMAT_VERSION,
    LEVEL,
    META_KEY,
    TABLE_NAMES,
    TREE_NAME,
    Meta,
    Table,
    decode_meta,
    pack_id,
    unpack_id,
)
from monofs.model.errors import HomeUnusable

Databases = list["lmdb._Database | None"]
"""Handles by table number; 0 is ``tree``. None: a table the release that wrote this database did not have yet, so it is empty."""
_FIRST_TABLES = Table.META
"""Every database has the tables up to this one."""


class Snapshot:
    """Reads of one moment of the database."""

    __slots__ = ("_databases", "_txn")

    def __init__(self, environment: lmdb.Environment, databases: Databases) -> None:
        self._databases = databases
        self._txn = environment.begin()

    def get(self, space: int, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        if space >= 0:
            return self._txn.get(pack_id(space) + key, None, self._databases[0])
        database = self._databases[-space]
        return None if database is None else self._txn.get(key, None, database)

    def scan(self, space: int, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to ``limit`` (key, value) of a space with keys greater than ``after``, in key order."""
        prefix, table = (pack_id(space), 0) if space >= 0 else (b"", -space)
        start = prefix + after
        cut = len(prefix)
        found: list[tuple[bytes, bytes]] = []
        database = self._databases[table]
        if database is None:
            return found
        with self._txn.cursor(database) as cursor:
            if not (cursor.set_range(start) if start else cursor.first()):
                return found
            if after and cursor.key() == start and not cursor.next():
                return found
            for key, value in cursor.iternext():
                if not key.startswith(prefix):
                    break
                found.append((key[cut:], value))
                if len(found) == limit:
                    break
        return found

    def parents(self, after: int, limit: int) -> list[int]:
        """Up to ``limit`` ids greater than ``after`` that have children in ``tree``, in order."""
        found: list[int] = []
        with self._txn.cursor(self._databases[0]) as cursor:
            more = cursor.set_range(pack_id(after + 1))
            while more and len(found) < limit:
                found.append(unpack_id(cursor.key()))
                more = cursor.set_range(pack_id(found[-1] + 1))
        return found

    def meta(self) -> Meta | None:
        """The meta record; None in a database that was never flushed. Raises ``HomeUnusable`` when it cannot be decoded."""
        raw = self._txn.get(META_KEY, None, self._databases[Table.META])
        return None if raw is None else read_meta(raw)

    def close(self) -> None:
        """End the transaction."""
        self._txn.abort()


def read_meta(raw: bytes) -> Meta:
    """Decode a meta record and refuse a newer format or entry level."""
    try:
        meta = decode_meta(raw)
    except ValueError:
        raise HomeUnusable(
            "the meta record of the namespace cannot be decoded: restore the home from a backup"
        ) from None
    if meta.format > FORMAT_VERSION:
        raise HomeUnusable(
            f"the namespace has format {meta.format}, this release knows up to {FORMAT_VERSION}: start a newer release"
        )
    if meta.level > LEVEL:
        raise HomeUnusable(
            f"the namespace has entry level {meta.level}, this release knows up to {LEVEL}: start the release that wrote it, or a newer one"
        )
    return meta


def open_databases(environment: lmdb.Environment, *, create: bool) -> Databases:
    """Open the named databases, ``tree`` first. Those of later tables may be missing in a database that is not written to."""
    databases: Databases = [environment.open_db(TREE_NAME, create=create)]
    for table in Table:
        try:
            databases.append(environment.open_db(TABLE_NAMES[table], create=create))
        except lmdb.NotFoundError:
            if table <= _FIRST_TABLES:
                raise
            databases.append(None)
    return databases


@contextlib.contextmanager
def open_offline(directory: str) -> Iterator[Snapshot]:
    """A snapshot of a closed home's namespace, or of a database file, read-only. Raises ``HomeUnusable`` when it cannot be opened."""
    is_file = os.path.isfile(directory)
    if not is_file and not os.path.exists(os.path.join(directory, "data.mdb")):
        raise HomeUnusable(f"{directory} holds no namespace")
    try:
        environment = lmdb.open(
            directory, subdir=not is_file, readonly=True, lock=False, max_dbs=32, create=False, readahead=False,
            map_size=1 << 40,
        )  # fmt: skip
    except lmdb.Error as problem:
        raise HomeUnusable(f"the namespace in {directory} cannot be opened: {problem}") from None
    try:
        snapshot = Snapshot(environment, open_databases(environment, create=False))
        try:
            yield snapshot
        finally:
            snapshot.close()
    except lmdb.NotFoundError:
        raise HomeUnusable(f"the namespace in {directory} lacks tables: it was never started") from None
    finally:
        environment.close()
