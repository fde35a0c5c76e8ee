"""LIST_KEYS: a directory and all below it as object stores list a bucket: one walk, depth first, in the order of keys.

A directory's name ends in ``/`` in the tree's keys, so the order of records is that of keys. The walk begins by descending to where the page begins,
and passes over what a common prefix stands for without looking into it: a page costs what it tells, however much lies between. Directories below
mounts are looked at in their stores as LIST does (listing.py), the next few ahead of the walk.

A directory that is an object (``Flag.MARKER``) is told as the key ``dir/`` before what lies below it. Another one is told so only where nothing is below
it: one that somebody made through another door. Hidden are those made on the way to a file that is gone again (``Flag.IMPLIED``), and those of an object
store, which has a marker or nothing.

Invariant: what a page tells is greater than ``after`` (of a prefix: some key it stands for is), and ``next`` is not less than any of it. Bounds: a page
that met ``WORK_MAX`` names (or reads instead, ``READ_COSTS``), or waited for ``LOOKS_MAX`` looks, ends early. Memory is O(depth times slice).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import msgspec
from twisted.internet.defer import Deferred

from monofs.master.access import R_OK, check_access
from monofs.master.listing import Listing
from monofs.master.loading import Loader, awaited
from monofs.master.reading import Reading, parse
from monofs.master.stores import Stores
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.metadata.tables import MARKERS_LEVEL
from monofs.model.errors import InvalidArgument, NotADirectory, PermissionDenied
from monofs.model.inode import Flag, Inode, decode_inode
from monofs.model.paths import NAME_MAX_BYTES, Parts, format_path, name_problem
from monofs.model.principal import Right
from monofs.rpc.api import ListKeysAnswer, ListKeysRequest, ReadOptions
from monofs.rpc.service import Call

LIMIT_MAX = 1000
KEY_MAX_BYTES = 4096
"""Longest prefix, delimiter and position."""
WORK_MAX = 20_000
READ_COSTS = 16
"""A read of a directory takes as long as meeting so many names: a page that meets directories only holds up the reactor for tens of milliseconds."""
LOOKS_MAX = 200
AHEAD = 16
"""Directories that are looked at ahead of the walk."""
BEYOND = b"\xff"
"""Greater than any byte of a name, which is UTF-8: a prefix and this is the position behind all that begins with the prefix."""
_NOW = ReadOptions(0.0)
_SLASH = ord("/")
_EXPLICIT, _IMPLIED, _MARKER = int(Flag.EXPLICIT), int(Flag.IMPLIED), int(Flag.MARKER)


class _Told(NamedTuple):
    """A key and its record, or a common prefix and none; ``position`` is the one behind it."""

    key: bytes
    raw: bytes
    position: bytes


class _Frame:
    """A directory on the way of a walk."""

    __slots__ = (
        "after",
        "asked",
        "begun",
        "directory",
        "ended",
        "entered",
        "fresh",
        "holds",
        "is_stores",
        "key",
        "later",
        "parts",
        "records",
    )

    def __init__(self, parts: Parts, key: bytes, directory: Inode, after: bytes, *, begun: bool) -> None:
        self.parts, self.key, self.directory, self.after, self.begun = parts, key, directory, after, begun
        """``begun``: the page begins within it, so what came before in it is not known."""
        self.records: deque[tuple[bytes, bytes]] = deque()
        """Read up to ``after`` and not met yet."""
        self.later: deque[bytes] = deque()
        """Directories among them that were not looked at ahead yet."""
        self.fresh = not begun
        """Whether it is told itself, if it is an object, once it was read."""
        self.asked = self.entered = 0
        self.ended = False
        self.is_stores = False
        """Whether directories in it are there only as long as an object store has them, unless they are EXPLICIT."""
        self.holds = False
        """Whether any key was met below it."""


class KeyListing:
    """The LIST_KEYS handler of one master."""

    def __init__(
        self, namespace: Namespace, loader: Loader, listing: Listing, reading: Reading, stores: Stores
    ) -> None:
        self.namespace, self.loader, self.listing = namespace, loader, listing
        self.reading, self.stores = reading, stores

    def list(self, request: ListKeysRequest, call: Call) -> Deferred[ListKeysAnswer]:
        """One page. ``NotFound``, ``NotADirectory``, or the store's error."""
        if not 1 <= request.limit <= LIMIT_MAX:
            raise InvalidArgument(f"limit {request.limit} is not from 1 to {LIMIT_MAX}")
        if max(map(len, (request.prefix, request.delimiter, request.after))) > KEY_MAX_BYTES:
            raise InvalidArgument(f"a prefix, a delimiter and a position have at most {KEY_MAX_BYTES} bytes")
        return Deferred.fromCoroutine(_Walk(self, request, call).page())


class _Walk:
    """The walk of one page."""

    def __init__(self, tools: KeyListing, request: ListKeysRequest, call: Call) -> None:
        self._tools, self._request, self._call = tools, request, call
        self._prefix, self._delimiter, self._options = request.prefix, request.delimiter, request.options
        self._frames: list[_Frame] = []
        self._position = request.after
        """Everything of the page's up to here was told, or is not to be."""
        self._met = self._looks = 0

    async def page(self) -> ListKeysAnswer:
        """Tell as many as are wanted, and meet one more to know whether there is more."""
        answer = ListKeysAnswer([], [], [], None)
        await self._seek(parse(self._request.path), max(self._request.after, before(self._prefix)))
        left = self._request.limit
        while left := left - self._take_files(answer, left):
            told = await self._next()
            if told is None:
                answer.next = self._position if self._frames else None
                return answer
            if told.raw:
                answer.keys.append(told.key)
                answer.inodes.append(msgspec.Raw(told.raw))
            else:
                answer.prefixes.append(told.key)
            self._position = told.position
            left -= 1
        last = self._position
        if await self._next() is not None or self._frames:
            answer.next = last
        return answer

    def _take_files(self, answer: ListKeysAnswer, most: int) -> int:
        """Tell the run of files that comes next, as far as it was read: most pages are made of them, and a step for each costs four times as much."""
        if not self._frames:
            return 0
        frame, prefix, delimiter, start = self._frames[-1], self._prefix, self._delimiter, len(self._prefix)
        directory, records, keys, inodes = frame.key, frame.records, answer.keys, answer.inodes
        told = len(keys)
        while records and len(keys) - told < most:
            name, raw = records[0]
            key = directory + name
            if name[-1] == _SLASH or not key.startswith(prefix) or (delimiter and key.find(delimiter, start) >= 0):
                break
            records.popleft()
            keys.append(key)
            inodes.append(msgspec.Raw(raw))
        taken = len(keys) - told
        if taken:
            frame.holds, self._position = True, keys[-1]
            self._met += taken
        return taken

    async def _next(self) -> _Told | None:
        """What comes next; None at the end (no frames are left) or when the page has cost enough."""
        frames, prefix = self._frames, self._prefix
        while frames and not self._is_spent():
            frame = frames[-1]
            if frame.records:
                name, raw = frame.records.popleft()
                self._met += 1
                key = frame.key + name
                if not key.startswith(prefix) and key > prefix:
                    frames.clear()
                elif not name.endswith(b"/"):
                    return self._told(frame, key, raw)
                elif self._is_whole(frame, key, raw):
                    return self._told(frame, key, b"")
                else:
                    self._descend(frame, name, raw)
            elif not frame.ended:
                own = await self._read(frame)
                if own is not None:
                    return self._told(frame, frame.key, own)
            else:
                told = await self._leave()
                if told is not None:
                    return told
        return None

    def _is_spent(self) -> bool:
        """Whether the page ends early. It never ends where it began."""
        if self._met < WORK_MAX and self._looks < LOOKS_MAX and not self._call.closed:
            return False
        return self._position > self._request.after

    def _told(self, frame: _Frame, key: bytes, raw: bytes) -> _Told:
        """A key that was met, or the common prefix it has; then all that has it is passed over."""
        frame.holds = True
        at = key.find(self._delimiter, len(self._prefix)) if self._delimiter else -1
        if at < 0:
            return _Told(key, raw, key)
        common = key[: at + len(self._delimiter)]
        frames = self._frames
        emptied = self._tools.loader.freshness.emptied
        while frames[-1].key.startswith(common) and len(frames) > 1:
            emptied.pop(int(frames.pop().directory.id), None)
        frame = frames[-1]
        frame.holds = True
        rest = common[len(frame.key) :]
        records = frame.records
        while records and records[0][0].startswith(rest):
            records.popleft()
        if not records and not frame.ended:
            frame.after = max(frame.after, (rest + BEYOND)[: NAME_MAX_BYTES + 2])
        return _Told(common, b"", common + BEYOND)

    def _is_whole(self, frame: _Frame, key: bytes, raw: bytes) -> bool:
        """Whether all below a directory has one common prefix, and something is there for certain."""
        if not self._delimiter or key.find(self._delimiter, len(self._prefix)) < 0:
            return False
        inode = decode_inode(raw)
        if inode.flags & _MARKER:
            return True
        if frame.is_stores and not inode.flags & _EXPLICIT:
            return int(inode.id) not in self._tools.loader.freshness.emptied
        return not inode.flags & _IMPLIED

    # ---- from directory to directory ------------------------------------------------------------------------------------

    async def _seek(self, parts: Parts, after: bytes) -> None:
        """The next key will be the first one greater than ``after``. Raises unless the directory that is listed is there and may be read."""
        key = b""
        *names, last = after.split(b"/")
        for name in (*names, None):
            found = await self._known(parts)
            inode = found.inode
            if not self._frames:
                self._check_top(parts, found)
            if inode is None or not inode.is_directory or not self._may_read(parts):
                return
            behind = last if name is None else name + b"/"
            self._frames.append(_Frame(parts, key, inode, behind[: NAME_MAX_BYTES + 2], begun=True))
            if name is None or name_problem(name) is not None:
                return
            parts, key = (*parts, name), key + name + b"/"

    def _check_top(self, parts: Parts, found: Lookup) -> None:
        if found.inode is None:
            raise self._tools.reading.absence(parts, found, self._call)
        if not found.inode.is_directory:
            raise NotADirectory(f"{format_path(parts)} is not a directory", path=format_path(parts))
        check_access(self._call.principal, Right.READ, self._tools.reading.chain(parts), R_OK)

    async def _known(self, parts: Parts) -> Lookup:
        found = self._tools.namespace.lookup(parts)
        if self._tools.loader.is_fresh(parts, found, self._options):
            return found
        self._waits(parts, found)
        return await self._tools.loader.refreshed(parts, found, self._options)

    def _waits(self, parts: Parts, found: Lookup) -> None:
        self._looks += 1
        self._call.waits_for = awaited(found.located, parts)

    def _may_read(self, parts: Parts) -> bool:
        """What lies in directories that the asker may not list is left out."""
        chain = self._tools.reading.chain(parts)
        try:
            check_access(self._call.principal, Right.READ, chain, R_OK if chain else 0)
        except PermissionDenied:
            return False
        return True

    def _descend(self, frame: _Frame, name: bytes, raw: bytes) -> None:
        frame.entered += 1
        self._look_ahead(frame)
        parts = (*frame.parts, name[:-1])
        if self._may_read(parts):
            self._frames.append(_Frame(parts, frame.key + name, decode_inode(raw), b"", begun=False))

    async def _leave(self) -> _Told | None:
        """Leave a directory that was met to its end; it is told itself when it is shown for holding nothing."""
        frame = self._frames.pop()
        if not self._frames:
            return None
        above = self._frames[-1]
        above.holds = above.holds or frame.holds
        shown = not frame.holds and not frame.begun and frame.key.startswith(self._prefix)
        if shown:
            raw = await self._marker(above, frame)
            if raw is not None:
                return self._told(above, frame.key, raw)
        self._position = max(self._position, frame.key + BEYOND)
        return None

    async def _marker(self, above: _Frame, frame: _Frame) -> bytes | None:
        """The record of an empty directory that is shown as a key."""
        inode, emptied = frame.directory, self._tools.loader.freshness.emptied
        found = self._tools.namespace.lookup(frame.parts)
        if not above.is_stores or inode.flags & _EXPLICIT:
            return None if inode.flags & _IMPLIED else found.raw
        if int(inode.id) in emptied:
            self._waits(frame.parts, found)
            found = await self._tools.loader.refreshed(frame.parts, found, _NOW)
            emptied.pop(int(inode.id), None)
        if self._tools.namespace.level >= MARKERS_LEVEL:
            return None  # the store has its marker, or nothing
        return found.raw if found.inode is not None and found.inode.id == inode.id else None

    # ---- reading a directory --------------------------------------------------------------------------------------------

    async def _read(self, frame: _Frame) -> bytes | None:
        """Read the next names of a directory, after a look at its store where that must be; its record, if it is an object that was not told yet."""
        if frame.after:
            behind = frame.key + frame.after + (BEYOND if frame.after.endswith(b"/") else b"")
            self._position = max(self._position, behind)
        self._met += READ_COSTS
        tools = self._tools
        found = tools.namespace.lookup(frame.parts)
        inode, raw, through = found.inode, found.raw, None
        if inode is not None and inode.id == frame.directory.id:
            seen = tools.listing.seen(frame.parts, found, frame.after, self._options)
            if seen is None:
                self._waits(frame.parts, found)
                seen = await tools.listing.look(
                    frame.parts, found, frame.after, self._options, deep=not self._delimiter
                )
                now = tools.namespace.lookup(frame.parts)
                inode, raw = now.inode, now.raw
            through = seen.through
        if inode is None or inode.id != frame.directory.id:  # gone meanwhile, or another one
            frame.ended = frame.holds = True
            return None
        frame.directory = inode
        frame.is_stores = found.located is not None and tools.stores.of(found.located.mount).object_store
        limit = self._request.limit + 1
        records = tools.namespace.children(inode.id, frame.after, limit)
        if through is not None and (len(records) < limit or records[-1][0] > through):
            records = [record for record in records if record[0] <= through]
            frame.after = through
        elif len(records) < limit:
            frame.ended = True
        else:
            frame.after = records[-1][0]
        frame.records.extend(records)
        if not self._is_cut(frame):
            frame.later.extend(name for name, _ in records if name.endswith(b"/"))
        is_told = frame.fresh and inode.flags & _MARKER and frame.key.startswith(self._prefix)
        frame.fresh = False
        return raw if is_told else None

    def _is_cut(self, frame: _Frame) -> bool:
        """Whether the walk enters no directory of this one: their names end in the delimiter."""
        return self._delimiter == b"/" and len(frame.key) >= self._prefix.rfind(b"/") + 1

    def _look_ahead(self, frame: _Frame) -> None:
        """Have the pages of the directories that come next taken over while those before them are told."""
        loader, namespace, listing = self._tools.loader, self._tools.namespace, self._tools.listing
        while frame.later and frame.asked < frame.entered + AHEAD:
            parts = (*frame.parts, frame.later[0][:-1])
            found = namespace.lookup(parts)
            if found.inode is not None and found.located is not None:
                since = listing.since(parts, found, self._options)
                is_wanted = since < loader.now() and listing.seen(parts, found, b"", self._options) is None
                deep = not self._delimiter and listing.may_be_old(parts, found.located, self._options)
                deep_since = since if deep else None
                if is_wanted and not loader.load_behind(parts, found.inode, found.located, b"", deep_since=deep_since):
                    return
            frame.later.popleft()
            frame.asked += 1
            if found.inode is None or found.located is None:
                return


def before(prefix: bytes) -> bytes:
    """A position right before all keys that begin with ``prefix``: no key lies between."""
    return prefix[:-1] + bytes([prefix[-1] - 1]) + BEYOND if prefix and prefix[-1] else prefix[:-1]
