"""COMPARE: one page of a directory, or one file, as the tree has it and as its store shows it. Nothing is changed, nothing remembered.

Not a difference is what the tree does not claim: names it never looked for (a directory that was not listed whole), files no store is to have,
what is being changed or moved, and what changed while the store was asked.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from monofs.master.access import R_OK, check_access
from monofs.master.comparing import found_of, key_of
from monofs.master.loading import awaited, missing
from monofs.master.merging import Merger
from monofs.master.reading import Reading
from monofs.master.stores import Stores
from monofs.metadata.entries import Found
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.model.errors import UfsNotFound
from monofs.model.inode import Flag, Inode, decode_inode
from monofs.model.mount import Located
from monofs.model.paths import Parts, format_path, parse_path
from monofs.model.principal import Right
from monofs.rpc.api import CompareAnswer, CompareRequest, Difference
from monofs.rpc.service import Call
from monofs.ufs.base import UfsPage

PAGE = 1000
SCAN = 1000
MISSING, UNKNOWN = "missing in store", "unknown here"
SIZE, VERSION, KIND = "other size", "other version", "other kind"
_KEPT = int(Flag.EXPLICIT | Flag.MOUNT)
_PERSISTED = int(Flag.PERSISTED)


class Consistency:
    """The handler of one master."""

    def __init__(
        self, namespace: Namespace, merger: Merger, stores: Stores, reading: Reading, *, permissions: bool
    ) -> None:
        self._namespace, self._merger, self._stores, self._reading = namespace, merger, stores, reading
        self._permissions = permissions

    def compare(self, request: CompareRequest, call: Call) -> Deferred[CompareAnswer]:
        """One page. ``NotFound``, or the store's error."""
        parts = parse_path(request.path)
        chain = self._reading.chain(parts)
        check_access(call.principal, Right.READ, chain, R_OK if self._permissions and chain else 0)
        found = self._namespace.lookup(parts)
        if found.inode is None:
            raise missing(parts, found)
        call.waits_for = awaited(found.located, parts)
        return Deferred.fromCoroutine(self._compare(parts, found.inode, found, request.after))

    async def _compare(self, parts: Parts, inode: Inode, found: Lookup, after: bytes) -> CompareAnswer:
        located = found.located
        if not inode.is_directory:
            page = _Page(self._namespace, parts[:-1], self._namespace.applied_index)
            if located is not None and not self._is_kept(parts):
                page.file(parts[-1], inode, await self._status(located, parts[-1]))
            return page.answer(None)
        if located is None or self._merger.is_covered(parts, below=True):
            return self._unasked(parts, inode, after)
        return await self._listed(parts, inode, located, after)

    async def _status(self, located: Located, name: bytes) -> dict[bytes, Found]:
        key = located.key.encode()
        file, directory = await self._stores.of(located.mount).call("head", located.key, lambda ufs: ufs.status(key))
        return {key_of(each): each for each in (found_of(entry, name) for entry in (file, directory) if entry)}

    def _unasked(self, parts: Parts, inode: Inode, after: bytes) -> CompareAnswer:
        """No store to compare with; mounts may lie below."""
        page = _Page(self._namespace, parts, 0)
        records = self._namespace.children(inode.id, after, PAGE)
        for name, raw in records:
            record = decode_inode(raw)
            if record.is_directory:
                page.directories.append(format_path((*parts, name[:-1])))
            else:
                page.files += 1
                page.unpersisted += not record.flags & _PERSISTED
        return page.answer(records[-1][0] if len(records) == PAGE else None)

    async def _listed(self, parts: Parts, inode: Inode, located: Located, after: bytes) -> CompareAnswer:
        page = _Page(self._namespace, parts, self._namespace.applied_index)
        try:
            asked = (await self._merger.ask(parts, after)).page
        except UfsNotFound:
            asked = UfsPage([], None)
        shown = {key_of(each): each for each in (found_of(entry, entry.name) for entry in asked.entries)}
        position: bytes | None = after
        while position is not None:
            records = self._namespace.children(inode.id, position, SCAN)
            for name, raw in records:
                if asked.next is not None and name > asked.next:
                    records = []
                    break
                record = decode_inode(raw)
                path = (*parts, name.removesuffix(b"/"))
                if self._is_kept(path) or _lies_elsewhere(record, located, name):
                    shown.pop(name, None)
                    page.keep(name, record)
                elif record.is_directory:
                    page.directory(name, record, shown)
                else:
                    page.file(name, record, shown)
            position = records[-1][0] if len(records) == SCAN else None
        if inode.flags & Flag.LOADED and inode.changed_index <= page.read_index:
            page.unknown(shown, self._merger.covered_names(parts))
        return page.answer(asked.next)

    def _is_kept(self, parts: Parts) -> bool:
        """Whether a path is being changed, or a job is at it."""
        return bool(
            self._namespace.lock_at(parts) or self._namespace.locked_above(parts) or self._merger.is_covered(parts)
        )


def _lies_elsewhere(record: Inode, located: Located, name: bytes) -> bool:
    """Whether a record's object is not where its directory was listed."""
    bare = name.removesuffix(b"/").decode()
    return record.store_path is not None and record.store_path != (f"{located.key}/{bare}" if located.key else bare)


class _Page:
    """What one page comes to."""

    def __init__(self, namespace: Namespace, parts: Parts, read_index: int) -> None:
        self.namespace, self._parts, self.read_index = namespace, parts, read_index
        self.differences: list[Difference] = []
        self.directories: list[str] = []
        self.files = self.unpersisted = 0

    def keep(self, name: bytes, record: Inode) -> None:
        """Not compared."""
        if record.is_directory:
            self.directories.append(self._path(name))
        else:
            self.files += 1
            self.unpersisted += not record.flags & _PERSISTED

    def directory(self, name: bytes, record: Inode, shown: dict[bytes, Found]) -> None:
        """A directory of the tree."""
        there = shown.pop(name, None)
        if there is not None or record.flags & _KEPT or not record.flags & _PERSISTED or self._is_newer(record):
            self.directories.append(self._path(name))
        elif shown.pop(name[:-1], None) is not None:
            self._differ(name, KIND, "directory", "file")
        else:
            self._differ(name, MISSING, "directory")

    def file(self, name: bytes, record: Inode, shown: dict[bytes, Found]) -> None:
        """A file of the tree."""
        self.files += 1
        there = shown.pop(name, None)
        if not record.flags & _PERSISTED:
            self.unpersisted += 1
        elif self._is_newer(record):
            return
        elif there is None:
            if name + b"/" in shown and self.namespace.lookup((*self._parts, name)).inode == record:
                del shown[name + b"/"]
                self._differ(name, KIND, "file", "directory")
            else:
                self._differ(name, MISSING, f"{record.size} bytes")
        elif there.size != record.size:
            self._differ(name, SIZE, str(record.size), str(there.size))
        elif there.fingerprint != record.fingerprint:
            self._differ(name, VERSION, record.fingerprint, there.fingerprint)

    def unknown(self, shown: dict[bytes, Found], covered: frozenset[bytes]) -> None:
        """What is left of the store's page."""
        for name, there in shown.items():
            parts = (*self._parts, name.removesuffix(b"/"))
            if name not in covered and not self.namespace.lock_at(parts):
                self._differ(name, UNKNOWN, "", "directory" if there.is_directory else f"{there.size} bytes")

    def answer(self, after: bytes | None) -> CompareAnswer:
        """As it goes out."""
        return CompareAnswer(self.differences, self.directories, self.files, self.unpersisted, after)

    def _is_newer(self, record: Inode) -> bool:
        return record.changed_index > self.read_index

    def _differ(self, name: bytes, problem: str, here: str, store: str = "") -> None:
        self.differences.append(Difference(self._path(name), problem, here, store))

    def _path(self, name: bytes) -> str:
        return format_path((*self._parts, name.removesuffix(b"/")))
