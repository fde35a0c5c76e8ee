"""SYNC: everything below a path is looked at in its stores, page by page, several directories at a time, each mount on its own.

Every mount at or below the path is a *walk*: directories in the order of their flat keys, the smallest key first, so that what is begun and
not finished stays small whatever the tree looks like: pages' worth of names for each level of each directory in flight. While one
page is taken over, the next one of its directory is asked for.

Invariant: ``cursor`` names for each walk a flat key before which everything was looked at. Memory is O(requests times depth times page).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush

import msgspec
from twisted.internet.defer import CancelledError, Deferred

from monofs.master.freshness import Range
from monofs.master.job_run import Run, Window
from monofs.master.loading import Loader, missing
from monofs.master.merging import Asked, Tally
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.model.errors import ConditionFailed, MonofsError, NotFound, UfsNotFound
from monofs.model.inode import Flag, Inode
from monofs.model.mount import Mount
from monofs.model.paths import Parts, format_path, is_prefix, parse_path
from monofs.rpc.api import ReadOptions

TRIES = 4
"""Of one directory's page; a failure after these is counted and named."""
SCAN = 1000
CURSOR_BYTES = 60_000
BEYOND = b"\xff"
"""Greater than any byte of a name."""
LOOK_NOW = ReadOptions(0.0, "ALWAYS")
_MOUNT = int(Flag.MOUNT)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[int, bytes | None]).decode


class Directory:
    """A directory whose listing is under way. ``after`` None: listed to its end."""

    __slots__ = ("after", "ahead", "children", "parts", "prefix")

    def __init__(self, parts: Parts, prefix: bytes, after: bytes) -> None:
        self.parts, self.prefix = parts, prefix
        self.after: bytes | None = after
        self.children: deque[bytes] = deque()
        """Directories of the pages taken over that were not begun yet, with their ``/``."""
        self.ahead: Deferred[Asked | Exception] | None = None
        """The page behind ``after``, asked for already."""

    @property
    def key(self) -> bytes:
        """Flat key of what comes next in it."""
        return self.prefix + (self.children[0] if self.children else self.after or b"")

    @property
    def order(self) -> bytes:
        """The same as it sorts among others: behind all that lies below the last directory that was begun."""
        is_behind = not self.children and self.after is not None and self.after.endswith(b"/")
        return self.key + BEYOND if is_behind else self.key

    @property
    def is_finished(self) -> bool:
        """Whether nothing comes next."""
        return self.after is None and not self.children


class Walk:
    """The directories below one root in the order of their keys. ``enough`` tells of a page that need not be asked for."""

    def __init__(
        self,
        namespace: Namespace,
        loader: Loader,
        run: Run,
        root: Parts,
        *,
        cursor: bytes,
        quiet: bool = False,
        enough: Callable[[Parts, Lookup, bytes], Range | None] | None = None,
    ) -> None:
        self._quiet = quiet
        self._namespace, self._loader, self._run, self._enough = namespace, loader, run, enough
        self._root, self._since = root, loader.now()
        self._ready: list[tuple[bytes, int, Directory]] = []
        self._asked: dict[int, Directory] = {}
        self._number = 0
        self._begin_at(cursor)

    def _begin_at(self, cursor: bytes) -> None:
        """The directories on the way to the cursor, each to be gone on with behind the next one."""
        parts, prefix = self._root, b""
        *names, last = cursor.split(b"/")
        for name in names:
            self._push(Directory(parts, prefix, name + b"/"))
            parts, prefix = (*parts, name), prefix + name + b"/"
        self._push(Directory(parts, prefix, last))

    def _push(self, directory: Directory) -> None:
        if not directory.is_finished:
            self._number += 1
            heappush(self._ready, (directory.order, self._number, directory))

    def cursor(self) -> bytes | None:
        """A flat key before which all is done; None: all is."""
        keys = [each.key for each in self._asked.values()]
        if self._ready:
            keys.append(self._ready[0][0].removesuffix(BEYOND))
        return min(keys, default=None)

    async def walked(self, window: Window) -> None:
        """Look at everything."""
        while self._ready or self._asked:
            if not self._ready:
                await window.landing()
                continue
            directory = heappop(self._ready)[2]
            if directory.children:
                name = directory.children.popleft()
                child = Directory((*directory.parts, name[:-1]), directory.prefix + name, b"")
                self._push(directory)
                self._push(child)
                continue
            self._number += 1
            self._asked[self._number] = directory
            await window.begin(partial(self._step, self._number, directory))
        await window.drain()

    async def _step(self, number: int, directory: Directory) -> None:
        """One page of one directory; one that cannot be looked at is counted and left."""
        run = self._run
        run.check()
        begun, after = directory.after == b"", directory.after or b""
        try:
            await run.persist(partial(self._page, directory, after), tries=TRIES)
        except UfsNotFound:
            directory.after = None
            await self._look_at(directory.parts)
        except MonofsError as error:
            directory.after = None
            run.fail(format_path(directory.parts), error)
        if begun and not self._quiet:
            run.count("directories")
        del self._asked[number]
        self._push(directory)

    async def _page(self, directory: Directory, after: bytes) -> None:
        parts = directory.parts
        found = self._namespace.lookup(parts)
        inode = found.inode
        if inode is None or not inode.is_directory or self._loader.merger.is_covered(parts, below=True):
            directory.after = None
            return
        if found.located is None or (inode.flags & _MOUNT and parts != self._root):
            directory.after = None  # a walk of its own
            return
        seen = self._enough(parts, found, after) if self._enough is not None else None
        if seen is not None:
            directory.children.extend(self._directories(inode, after, seen.through))
        else:
            seen = await self._take_over(directory, inode, after)
        through = directory.after = seen.through
        if found.located.key and not after and through is None:
            await self._confirm(parts, inode)

    async def _take_over(self, directory: Directory, inode: Inode, after: bytes) -> Range:
        tally, parts = Tally(), directory.parts
        ahead, directory.ahead = directory.ahead, None
        asked = await (self._ask(parts, after) if ahead is None else ahead)
        for last in (False, False, True):
            if isinstance(asked, Exception):
                raise asked
            if asked.page.next is not None and not asked.is_flat:
                directory.ahead = Deferred.fromCoroutine(self._ask(parts, asked.page.next))
            try:
                seen = await self._loader.merger.take_over(parts, inode, after, asked, tally)
            except ConditionFailed:
                self._loader.flats.forget(asked.mount.id)
                if last:
                    raise
                asked = await self._ask(parts, after)
            else:
                break
        directory.children.extend(tally.directories)
        if not self._quiet:
            self._run.count("changed", tally.changed)
            self._run.advance(tally.seen)
        return seen

    async def _ask(self, parts: Parts, after: bytes) -> Asked | Exception:
        """The page, or what went wrong: nobody may be waiting when it does."""
        try:
            return await self._loader.flats.ask(parts, after, self._since)
        except (MonofsError, CancelledError) as error:
            return error

    def _directories(self, inode: Inode, after: bytes, through: bytes | None) -> list[bytes]:
        """Directories the tree holds in a stretch that was not asked for."""
        names: list[bytes] = []
        low: bytes | None = after
        while low is not None:
            records = self._namespace.children(inode.id, low, SCAN)
            for name, _ in records:
                if through is not None and name > through:
                    return names
                if name.endswith(b"/"):
                    names.append(name)
            low = records[-1][0] if len(records) == SCAN else None
        return names

    async def _confirm(self, parts: Parts, inode: Inode) -> None:
        """A directory in which nothing was found may be gone altogether."""
        if self._namespace.children(inode.id, b"", 1) or inode.flags & Flag.EXPLICIT or self._loader.is_marked(parts):
            return
        await self._look_at(parts)

    async def _look_at(self, parts: Parts) -> None:
        found = self._namespace.lookup(parts)
        if found.located is not None and found.located.key:
            await self._loader.refreshed(parts, found, LOOK_NOW)


def _told(cursors: dict[int, bytes | None]) -> bytes:
    """Cursors of walks as one. Very many long ones find no room: the walks of those left out begin anew."""
    told = _encode(cursors)
    while len(told) > CURSOR_BYTES:
        cursors.pop(max(cursors, key=lambda mount: len(cursors[mount] or b"")))
        told = _encode(cursors)
    return told


class Syncing:
    """How SYNC jobs are worked on."""

    def __init__(self, namespace: Namespace, loader: Loader) -> None:
        self._namespace, self._loader = namespace, loader

    async def work(self, run: Run) -> None:
        """All of one job."""
        parts = parse_path(run.job.path)
        found = await self.looked_at(run, parts)
        if found.inode is not None and found.inode.is_directory:
            await self.walk(run, parts)
        else:
            run.advance(1)

    async def looked_at(self, run: Run, parts: Parts) -> Lookup:
        """The path itself, as its store has it now. ``NotFound`` when it is neither there nor was."""
        before = self._namespace.lookup(parts)
        found = before
        if before.located is not None and before.located.key and not self._loader.merger.is_covered(parts):
            found = await run.persist(lambda: self._loader.refreshed(parts, before, LOOK_NOW), tries=TRIES)
        if before.inode is None and found.inode is None:
            raise missing(parts, found)
        return found

    async def walk(
        self,
        run: Run,
        parts: Parts,
        *,
        prefix: bytes = b"",
        quiet: bool = False,
        enough: Callable[[Parts, Lookup, bytes], Range | None] | None = None,
    ) -> None:
        """Walk all mounts at and below a directory, side by side. ``prefix`` stands before the cursor; ``quiet`` counts failures only."""
        roots = self._roots(parts)
        reached = _decode(run.cursor[len(prefix) :]) if run.cursor else {}
        walks: dict[int, Walk | None] = {}
        for mount, root in roots.items():
            start = reached.get(mount, b"")
            if start is None:
                walks[mount] = None
                continue
            walks[mount] = Walk(self._namespace, self._loader, run, root, cursor=start, quiet=quiet, enough=enough)

        def cursor() -> bytes:
            return prefix + _told({mount: None if walk is None else walk.cursor() for mount, walk in walks.items()})

        run.tell_cursor = cursor
        window = run.window()
        share = max(2, run.requests // max(1, len(roots)))
        for walk in walks.values():
            if walk is not None:
                await window.begin(partial(walk.walked, run.window(share)))
        await window.drain()
        run.cursor, run.tell_cursor = cursor(), None

    def has_roots(self, parts: Parts) -> bool:
        """Whether a mount lies over a directory or below it."""
        return any(is_prefix(parts, at) or is_prefix(at, parts) for at, _ in self._namespace.mounts())

    def _roots(self, parts: Parts) -> dict[int, Parts]:
        """Mount id to where its walk begins."""
        roots: dict[int, Parts] = {}
        over: tuple[Parts, Mount] | None = None
        for at, mount in self._namespace.mounts():  # the deepest first
            if is_prefix(parts, at) and at != parts:
                roots[mount.id] = at
            elif over is None and is_prefix(at, parts):
                over = at, mount
        if over is not None:
            roots[over[1].id] = parts
        if not roots:
            raise NotFound(f"{format_path(parts)} lies under no mount, and no mount below it: there is nothing to sync")
        return roots
