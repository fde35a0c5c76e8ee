"""When a path or a listing must be looked at in its store, and the look itself: ask, compare, adopt, remember.

Rules. A known path is fresh when it, or a listing of its directory, was looked at less than its sync interval ago (request's, else
mount's, else cluster's; 0: never fresh, -1: always). A missing path is looked for under load type ONCE unless it was found missing within the
interval; under ALWAYS each time; under NEVER not at all. Mount points and explicit directories need no look. Racy entries are not remembered,
so that the next access looks again. Where many children of one directory are asked for, a page of its listing is
asked instead of each child, as long as pages answer enough of them; a directory is never listed whole for a few.

Store down, or silent for longer than ``namespace.store_patience_s``: a path known before is served as it is (logged, counted, shown by `why`);
this is the one case in which the interval is not kept. A request with interval 0, and anything unknown, waits for the store's answer or error.

Invariant: the tree changes only by ADOPT_PATH, and ADOPT_PAGE of merging.py, proposed only on a difference, with the index read *before* the
store was asked. Looks are single flights.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore

from monofs.master.comparing import found_of, record_differs
from monofs.master.flat import Flats
from monofs.master.flights import Flights
from monofs.master.freshness import NEVER, Freshness, Range
from monofs.master.merging import Merger, Tally
from monofs.master.proposing import Proposer
from monofs.master.stores import UNAVAILABLE, Stores
from monofs.metadata.entries import AdoptPath
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.model.errors import (
    ConditionFailed,
    InvalidArgument,
    MonofsError,
    MountNotFound,
    NotADirectory,
    NotFound,
    UfsNotFound,
)
from monofs.model.inode import Flag, Inode, decode_inode
from monofs.model.mount import Located, Mount
from monofs.model.options import LoadType
from monofs.model.paths import Parts, format_path
from monofs.observe.logs import logger
from monofs.observe.metrics import ADOPTED, STALE_SERVED
from monofs.rpc.api import ReadOptions

log = logger(__name__)
T = TypeVar("T")
CROWD = 8
"""So many stale children of one directory asked for: ask for a page of its listing instead."""
PAGE_MUST_ANSWER = 4
"""A page that answers fewer of the wanted names is no better than asking for each."""
LOOKS_MAX = 3
HEADS_IN_FLIGHT = 16
"""Of one batch."""
COUNTED_DIRECTORIES = 10_000
EMPTIED_NAMES = 64
"""A directory whose first names lead to nothing is taken to lead to nothing until a listing of keys goes through it."""
LOG_EVERY_S = 10.0
_EXPLICIT, _LOADED, _MARKER = int(Flag.EXPLICIT), int(Flag.LOADED), int(Flag.MARKER)


class Loader:
    """Looks for one master. ``default_interval_s`` is ``namespace.sync_interval_s``."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        stores: Stores,
        *,
        default_interval_s: float,
        patience_s: float,
        absent_entries: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._namespace, self._proposer, self._stores = namespace, proposer, stores
        self._default_interval_s, self._clock = default_interval_s, clock
        self._patience_s = patience_s
        self.freshness = Freshness(absent_entries)
        self.merger = Merger(namespace, proposer, stores, self.freshness, clock)
        self.flats = Flats(namespace, stores, self.merger, self.freshness, clock)
        self._mounts_index = namespace.mounts_index
        self._paths: Flights[None] = Flights(clock)
        self._pages: Flights[Range] = Flights(clock)
        self._crowds: OrderedDict[int, int] = OrderedDict()
        self._said: dict[int, float] = {}

    # ---- is a look needed? --------------------------------------------------------------------------------------------

    def interval_s(self, parts: Parts, mount: Mount, options: ReadOptions) -> float:
        """How old what is known of a path may be; negative: any age. The request's, else its policy's, its mount's, the cluster's."""
        if options.sync_interval_s is not None:
            return options.sync_interval_s
        milliseconds = self._namespace.policy_for(parts).sync_interval_ms
        if milliseconds is None:
            milliseconds = mount.sync_interval_ms
        return self._default_interval_s if milliseconds is None else milliseconds / 1000

    def is_fresh(self, parts: Parts, found: Lookup, options: ReadOptions) -> bool:
        """Whether ``found`` may be answered without asking a store. The hot path of STAT and OPEN: no allocation but the name."""
        located = found.located
        if located is None or not located.key:
            return True
        if self._namespace.mounts_index != self._mounts_index:
            self._forget()
        if self._namespace.known_jobs.open_trees and self.merger.is_covered(parts):
            return True
        since = self.since(parts, located, options)
        inode = found.inode
        if inode is None:
            return self._known_missing(parts, found, options.load, since)
        if since == NEVER or inode.flags & _EXPLICIT:
            return True
        at = self.freshness.present.get(inode.id)
        if at is not None and at > since:
            return True
        return found.parent is not None and self._named_at(found.parent, parts[-1], inode) > since

    def seen_at(self, parts: Parts, found: Lookup) -> float:
        """When an existing path was last looked at, on the loader's clock; ``NEVER`` in this process's memory."""
        if found.inode is None or found.parent is None or not parts:
            return NEVER
        at = self.freshness.present.get(found.inode.id, NEVER)
        return max(at, self._named_at(found.parent, parts[-1], found.inode))

    def _named_at(self, parent: Inode, name: bytes, inode: Inode) -> float:
        return self.freshness.named_at(parent.id, name + b"/" if inode.is_directory else name)

    def _known_missing(self, parts: Parts, found: Lookup, load: str, since: float) -> bool:
        if load == LoadType.NEVER:
            return True
        if load != LoadType.ONCE:
            if load != LoadType.ALWAYS:
                raise InvalidArgument(f"load type {load!r} is none of ONCE, ALWAYS, NEVER")
            return False
        parent = found.parent
        if parent is None:
            return False
        if since == NEVER and parent.is_directory and parent.flags & _LOADED:
            return True
        rest = parts[found.depth :]
        freshness = self.freshness
        if freshness.absent_at(parent.id, b"/".join(rest)) > since or freshness.absent_at(parent.id, rest[0]) > since:
            return True
        if freshness.named_at(parent.id, rest[0] + b"/") <= since:
            return False
        return len(rest) > 1 or freshness.named_at(parent.id, rest[0]) > since

    def since(self, parts: Parts, located: Located, options: ReadOptions) -> float:
        """A look that began at this time or later is fresh enough."""
        interval_s = self.interval_s(parts, located.mount, options)
        since = NEVER if interval_s < 0 else self._clock() - interval_s
        freshness = self.freshness
        return max(since, freshness.trusted_since(parts)) if freshness.distrusted else since

    def distrust(self, parts: Parts) -> None:
        """Trust nothing seen of a path and everything below until now: the next access looks at the store."""
        self.freshness.distrust(parts, self._clock())

    # ---- one path -----------------------------------------------------------------------------------------------------

    def refreshed(self, parts: Parts, found: Lookup, options: ReadOptions) -> Deferred[Lookup]:
        """Look at one path that is not fresh and say what the tree holds then."""
        return Deferred.fromCoroutine(self._refreshed(parts, found, options))

    async def _refreshed(self, parts: Parts, found: Lookup, options: ReadOptions) -> Lookup:
        located = found.located
        assert located is not None  # noqa: S101 - a path under no mount is always fresh

        def look() -> Deferred[None]:
            return Deferred.fromCoroutine(self._look(parts, found, located, self.since(parts, located, options)))

        try:
            await (look() if found.inode is None else self.patiently(parts, located.mount, options, look))
        except UNAVAILABLE as error:
            self.check_servable(parts, found, options, error)
        return self._namespace.lookup(parts)

    def check_servable(self, parts: Parts, found: Lookup, options: ReadOptions, error: MonofsError) -> None:
        """Raise ``error`` unless what is known may be served while the store is down; says and counts that it is."""
        located = found.located
        if found.inode is None or located is None or self.interval_s(parts, located.mount, options) == 0:
            raise error
        STALE_SERVED(str(located.mount.id)).value += 1
        now = self._clock()
        if now - self._said.get(located.mount.id, NEVER) > LOG_EVERY_S:
            self._said[located.mount.id] = now
            log.warning(
                "store unavailable: known metadata is served although older than its sync interval",
                mount=located.mount.path,
                path=format_path(parts),
                error=str(error),
            )

    def patiently(
        self, parts: Parts, mount: Mount, options: ReadOptions, begin: Callable[[], Deferred[T]]
    ) -> Deferred[T]:
        """A look whose asker knows what to serve without it. Interval 0 has all the patience of its deadline."""
        if self.interval_s(parts, mount, options) == 0:
            return begin()
        return self._stores.of(mount).patiently(self._patience_s, begin)

    async def _look(self, parts: Parts, found: Lookup, located: Located, since: float) -> None:
        parent = found.parent
        direct = parent is not None and parent.is_directory and found.depth >= len(parts) - 1
        if direct and parent is not None and self._is_crowded(parent, located.mount):
            directory = self._namespace.lookup(parts[:-1])
            if directory.inode is not None and directory.located is not None:
                seen = await self._page(parts[:-1], directory.inode, _before(parts[-1]), since)
                if seen.answers(parts[-1]):
                    return
        await self._head(parts, since)

    def _is_crowded(self, parent: Inode, mount: Mount) -> bool:
        """Count a look at a child; at every ``CROWD``-th, object stores are asked for a page of its neighbours."""
        if not self._stores.of(mount).object_store:
            return False
        count = self._crowds.pop(parent.id, 0) + 1
        if count < CROWD:
            self._crowds[parent.id] = count
            if len(self._crowds) > COUNTED_DIRECTORIES:
                self._crowds.popitem(last=False)
        return count >= CROWD

    def _head(self, parts: Parts, since: float) -> Deferred[None]:
        return self._paths.join(parts, since, lambda: _again(lambda last: self._look_at_path(parts, last=last)))

    async def _look_at_path(self, parts: Parts, *, last: bool) -> None:
        located = self._namespace.lookup(parts).located
        if located is None or not located.key:
            return  # unmounted meanwhile: the tree's answer is right
        at, read_index, mount = self._clock(), self._namespace.applied_index, located.mount
        key = located.key.encode()
        file, directory = await self._stores.of(mount).call("head", located.key, lambda ufs: ufs.status(key))
        self.merger.check_mount(parts, mount, located.key)
        found = self._namespace.lookup(parts)
        name = parts[-1]
        file_found = found_of(file, name) if file is not None else None
        directory_found = found_of(directory, name) if directory is not None else None
        known_file, known_directory = self._records(parts, found)
        if name + b"/" in self.merger.covered_names(parts[:-1]):
            directory_found = known_directory = None  # what the store has left of it is none of the tree's business
        if record_differs(known_file, file_found, read_index) or record_differs(
            known_directory, directory_found, read_index
        ):
            stamp = self._proposer.stamp()
            path = format_path(parts)
            try:
                await self._proposer.insist(
                    AdoptPath(stamp, path, mount.id, read_index, file_found, directory_found, located.key)
                )
            except NotFound:
                pass  # adopting that nothing is there says so
            except MountNotFound:
                return  # unmounted meanwhile: the tree's answer is right again
            ADOPTED("path").value += 1
            found = self._namespace.lookup(parts)
            known_file, known_directory = self._records(parts, found)
            if name + b"/" in self.merger.covered_names(parts[:-1]):
                directory_found = known_directory = None
        now = self._namespace.applied_index
        if record_differs(known_file, file_found, now) or record_differs(known_directory, directory_found, now):
            if last:
                return  # not remembered: the next access looks again
            raise ConditionFailed(f"another look at {format_path(parts)} overtook this one: try again")
        if found.inode is None:
            if found.parent is not None:
                self.freshness.note_absent(found.parent.id, b"/".join(parts[found.depth :]), at)
                self.note_left(parts)
        elif file is not None and file.racy:
            self.freshness.forget_present(found.inode.id)
        else:
            self.freshness.note_present(found.inode.id, at)
            if known_file is not None:
                self.freshness.note_present(known_file.id, at)  # it may lie beside a directory

    def is_marked(self, parts: Parts) -> bool:
        """Whether a directory was seen as an object of its store, so that it is there though nothing is below it."""
        inode = self._namespace.lookup(parts).inode
        return inode is not None and bool(inode.flags & _MARKER)

    def note_left(self, parts: Parts) -> None:
        """What had this path went: of directories that may lead to nothing now, up to the mount point, an object store may have nothing left."""
        for depth in range(len(parts), 0, -1):
            found = self._namespace.lookup(parts[:depth])
            directory, located = found.inode, found.located
            if directory is None or not directory.is_directory:
                continue
            if located is None or not located.key or self._leads_somewhere(directory):
                return
            self.freshness.note_emptied(directory.id)
            if directory.flags & _MARKER:
                return

    def _leads_somewhere(self, directory: Inode) -> bool:
        """Whether one of the first names in a directory is a file, or a directory that is not known to lead to nothing."""
        after = b""
        for _ in range(EMPTIED_NAMES):
            records = self._namespace.children(directory.id, after, 1)
            if not records:
                return False
            after, raw = records[0]
            if not after.endswith(b"/"):
                return True
            inode = decode_inode(raw)
            if inode.flags & _MARKER or int(inode.id) not in self.freshness.emptied:
                return True
        return False

    def _records(self, parts: Parts, found: Lookup) -> tuple[Inode | None, Inode | None]:
        """(file, directory) the tree holds at a path: it may hold both."""
        inode = found.inode
        if inode is None or not inode.is_directory:
            return inode, None
        if found.parent is None:
            return None, inode
        return self._namespace.get_inode(found.parent.id, parts[-1]), inode

    # ---- many paths ---------------------------------------------------------------------------------------------------

    def look_at_many(
        self, wanted: list[tuple[Parts, Lookup]], options: ReadOptions
    ) -> Deferred[dict[Parts, MonofsError]]:
        """Look at paths that are not fresh; tells which could not be looked at. Store-down rules are the caller's."""
        return Deferred.fromCoroutine(self._look_at_many(wanted, options))

    async def _look_at_many(self, wanted: list[tuple[Parts, Lookup]], options: ReadOptions) -> dict[Parts, MonofsError]:
        since = {
            parts: self.since(parts, found.located, options) for parts, found in wanted if found.located is not None
        }
        known = {parts: found.located.mount for parts, found in wanted if found.inode is not None and found.located}
        groups: dict[Parts, list[Parts]] = {}
        for parts in since:
            groups.setdefault(parts[:-1], []).append(parts)
        failed: dict[Parts, MonofsError] = {}
        single: dict[Parts, None] = {}
        for directory, paths in groups.items():
            if len(paths) < CROWD:
                single.update(dict.fromkeys(paths))
                continue

            def look(directory: Parts = directory, paths: list[Parts] = paths) -> Deferred[list[Parts]]:
                oldest = min(since[each] for each in paths)
                return Deferred.fromCoroutine(self._look_by_pages(directory, paths, oldest, options))

            all_known = all(each in known for each in paths)
            try:
                left = await (self.patiently(paths[0], known[paths[0]], options, look) if all_known else look())
                single.update(dict.fromkeys(left))
            except MonofsError as error:
                failed.update(dict.fromkeys(paths, error))
        permits = DeferredSemaphore(HEADS_IN_FLIGHT)

        async def head(parts: Parts) -> None:
            located = self._namespace.lookup(parts).located
            try:
                if located is not None and located.key:
                    look = partial(self._head, parts, since[parts])
                    await (self.patiently(parts, located.mount, options, look) if parts in known else look())
            except MonofsError as error:
                failed[parts] = error

        await DeferredList([permits.run(head, parts) for parts in single], fireOnOneErrback=True)
        return failed

    async def _look_by_pages(
        self, directory: Parts, paths: list[Parts], since: float, options: ReadOptions
    ) -> list[Parts]:
        """Look at children of one directory by pages of its listing; returns those that are better asked for one by one."""
        found = self._namespace.lookup(directory)
        if found.inode is None and found.located is not None and not self.is_fresh(directory, found, options):
            await self._head(directory, since)
            found = self._namespace.lookup(directory)
        if found.inode is None or found.located is None:
            return []
        if not found.inode.is_directory:
            return paths
        left = sorted({each[-1] for each in paths})
        while len(left) >= CROWD:
            try:
                seen = await self._page(directory, found.inode, _before(left[0]), since)
            except UfsNotFound:
                await self._head(directory, since)
                return []
            unanswered = [name for name in left if not seen.answers(name)]
            answered, left = len(left) - len(unanswered), unanswered
            if answered < PAGE_MUST_ANSWER:
                break
        return [(*directory, name) for name in left]

    # ---- a listing ----------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The loader's clock."""
        return self._clock()

    def covering(self, directory: Inode, after: bytes, since: float) -> Range | None:
        """The range of a directory's listing behind ``after`` that was taken over later than ``since``."""
        if self._namespace.mounts_index != self._mounts_index:
            self._forget()
        return self.freshness.covering(directory.id, after, since)

    def page(
        self, parts: Parts, directory: Inode, after: bytes, since: float, *, deep: bool = False
    ) -> Deferred[Range]:
        """Take over the page of a directory's listing behind ``after``; the range it spoke for. Fails with the 6xxx family
        (``UfsNotFound``: the store has no such directory). ``deep``: all below will be asked for, so it may come from a flat listing, and be short."""
        if self._namespace.mounts_index != self._mounts_index:
            self._forget()
        if deep:
            return Deferred.fromCoroutine(self._deep_page(parts, directory, after, since))
        return self._page(parts, directory, after, since)

    async def _deep_page(self, parts: Parts, directory: Inode, after: bytes, since: float) -> Range:
        seen = await self._pages.join(
            (directory.id, after, "deep"),
            since,
            lambda: _again(lambda _: self._look_at_page(parts, directory, after, since)),
        )
        return seen if seen.at >= since else await self._page(parts, directory, after, since)

    def load_behind(
        self, parts: Parts, directory: Inode, located: Located, after: bytes, *, deep_since: float | None = None
    ) -> bool:
        """Take over the next page in the background, unless the store has enough to do: the next access asks then. ``deep_since``: for a walk of all below;
        where flat listings pay, it is for the walk to ask for the next one, and False says that none told of this page at that time or later."""
        if deep_since is not None and self.flats.pays(located.mount):
            if self.flats.find(parts, after, deep_since) is None:
                return False
        elif self._stores.of(located.mount).busy:
            return True
        since = NEVER if deep_since is None else deep_since
        self.page(parts, directory, after, since, deep=deep_since is not None).addErrback(
            lambda failure: log.debug("page not loaded ahead", path=format_path(parts), error=str(failure.value))
        )
        return True

    def _page(self, parts: Parts, directory: Inode, after: bytes, since: float) -> Deferred[Range]:
        return self._pages.join(
            (directory.id, after), since, lambda: _again(lambda _: self._look_at_page(parts, directory, after))
        )

    async def _look_at_page(
        self, parts: Parts, directory: Inode, after: bytes, deep_since: float | None = None
    ) -> Range:
        if deep_since is None:
            asked = await self.merger.ask(parts, after)
        else:
            asked = await self.flats.ask(parts, after, deep_since)
        try:
            return await self.merger.take_over(parts, directory, after, asked, Tally())
        except ConditionFailed:
            self.flats.forget(asked.mount.id)
            raise

    def _forget(self) -> None:
        """Mounts changed: what was seen of their stores may be of another one."""
        self._mounts_index = self._namespace.mounts_index
        self.freshness.clear()
        self.flats.clear()
        self._crowds.clear()
        self._said.clear()
        self._stores.keep_only({mount.id for _, mount in self._namespace.mounts()})


def awaited(located: Located | None, parts: Parts, *, others: int = 0) -> str:
    """What a call waits for that looks at a path in its store, for its deadline's message."""
    store = located.mount.uri if located is not None else "no store"
    return f"the store {store} to tell about {format_path(parts)}" + (f" and {others} other paths" if others else "")


def missing(parts: Parts, found: Lookup) -> MonofsError:
    """The error of a path that is not there."""
    if found.parent is not None and not found.parent.is_directory:
        return NotADirectory(f"{format_path(parts)}: a component of the path is a file", path=format_path(parts))
    return NotFound(f"{format_path(parts)}: no such file or directory", path=format_path(parts))


async def _again(look: Callable[[bool], Coroutine[Deferred[Any], Any, T]]) -> T:
    """A look that a change of its mount, another look or very many removals overtook is begun anew, a bounded number of times;
    ``look`` is told whether it is the last one."""
    for _ in range(LOOKS_MAX - 1):
        try:
            return await look(False)
        except ConditionFailed:
            continue
    return await look(True)


def _before(name: bytes) -> bytes:
    """A position at or shortly before ``name`` that any store understands: the name without its last character."""
    return name.decode()[:-1].encode()
