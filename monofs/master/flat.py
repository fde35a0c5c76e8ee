"""Pages of directories for who walks all below them: taken from flat listings of their store, where those tell of many directories at once.

A walk of very many small directories costs a request for each, where a flat listing brings a thousand keys a request. The stretches that were listed last are
kept for a moment, and each directory in them is answered from there. A walk goes on by asking for the stretch that begins where nothing is known; another
directory that is asked for meanwhile waits for the stretch that begins before it.

Flat listings of large directories tell no more than their own do, and less of directories that hold much below: where a stretch met few directories, their
own listings are asked for, until they prove small again.

Invariant: what is handed out carries the journal index and the time read *before* its stretch was asked for, and is judged by them as any page is (merging.py);
its directory was the same at that index, with the same key. Only the end of a MOVE job gives directories of object stores other keys.
Not here: how a stretch is read (ufs/flat.py). Bounds: ``STRETCHES_MAX`` pages of keys, for ``AGE_MAX_S``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from twisted.internet.defer import Deferred

from monofs.master.freshness import Freshness
from monofs.master.merging import PAGE_ENTRIES, Asked, Merger
from monofs.master.stores import Stores
from monofs.metadata.namespace import Namespace
from monofs.model.ids import MountId
from monofs.model.mount import Located, Mount
from monofs.model.paths import Parts
from monofs.ufs.flat import Stretch, position_of

STRETCHES_MAX = 16
AGE_MAX_S = 30.0
"""A stretch asked for longer ago is not believed, however old answers may be."""
SMALL_NAMES = 125
"""A stretch that meets more keys a directory tells too little: eight directories are to be worth a request."""
SMALL_IN_A_ROW = 8
"""So many directories of few names, and flat listings are tried again."""
WAITS_MAX = 2
KEY_MAX_BYTES = 1024


class _Held(NamedTuple):
    """A stretch that was listed."""

    stretch: Stretch
    mount: Mount
    read_index: int
    at: float


class _Source:
    """What is known of the store of one mount."""

    def __init__(self) -> None:
        self.pays = True
        self.small = 0
        self.flying: dict[bytes, list[Deferred[None]]] = {}
        """Where a stretch begins that was asked for -> who waits for it."""


class Flats:
    """Of one master. ``clock`` tells monotonic seconds."""

    def __init__(
        self,
        namespace: Namespace,
        stores: Stores,
        merger: Merger,
        freshness: Freshness,
        clock: Callable[[], float],
    ) -> None:
        self._namespace, self._stores, self._merger = namespace, stores, merger
        self._freshness, self._clock = freshness, clock
        self._sources: dict[MountId, _Source] = {}
        self._held: OrderedDict[tuple[MountId, bytes], _Held] = OrderedDict()

    def clear(self) -> None:
        """Forget everything: mounts changed."""
        self._sources.clear()
        self._held.clear()

    def forget(self, mount: MountId) -> None:
        """Ask the store of a mount anew: what it told was overtaken."""
        for each in [each for each in self._held if each[0] == mount]:
            del self._held[each]

    def pays(self, mount: Mount) -> bool:
        """Whether directories of a mount are asked for by stretches."""
        return mount.is_object_store and self._source(mount).pays

    async def ask(self, parts: Parts, after: bytes, since: float) -> Asked:
        """The page of a directory behind ``after`` as its store showed it at ``since`` or later; as ``Merger.ask``."""
        located = self._namespace.lookup(parts).located
        if located is None or not located.mount.is_object_store:
            return await self._merger.ask(parts, after)
        source = self._source(located.mount)
        asked = (
            self.find(parts, after, since) if not source.pays else await self._ask(source, parts, located, after, since)
        )
        if asked is None:
            asked = await self._merger.ask(parts, after)
            self._learn(source, asked, after)
        return asked

    def find(self, parts: Parts, after: bytes, since: float) -> Asked | None:
        """The page of a directory behind ``after`` from what was listed at ``since`` or later."""
        found = self._namespace.lookup(parts)
        located, inode = found.located, found.inode
        if located is None or inode is None:
            return None
        oldest = max(since, self._clock() - AGE_MAX_S, self._freshness.listed_at(inode.id))
        for (mount, _), held in reversed(self._held.items()):
            if (
                mount == located.mount.id
                and held.at >= oldest
                and held.mount.changed_index == located.mount.changed_index
                and not self._namespace.known_jobs.has_moved(mount, held.read_index)
            ):
                page = held.stretch.page(located.key.encode(), after)
                if page is not None and not self._namespace.was_removed(parts, held.read_index):
                    return Asked(page, held.mount, located.key, held.read_index, held.at, is_flat=True)
        return None

    async def _ask(self, source: _Source, parts: Parts, located: Located, after: bytes, since: float) -> Asked | None:
        position = position_of(located.key.encode(), after)
        for _ in range(WAITS_MAX):
            asked = self.find(parts, after, since)
            begun = max((each for each in source.flying if each <= position), default=None)
            if asked is not None or begun is None:
                break
            landed: Deferred[None] = Deferred()
            source.flying[begun].append(landed)
            await landed
        else:
            asked = self.find(parts, after, since)
        if asked is not None or not source.pays or position in source.flying:
            return asked
        if len(located.mount.uri) + len(position) > KEY_MAX_BYTES:
            return None
        await self._fetch(source, located.mount, position)
        return self.find(parts, after, since)

    async def _fetch(self, source: _Source, mount: Mount, position: bytes) -> None:
        source.flying[position] = []
        at, read_index = self._clock(), self._namespace.applied_index
        try:
            page = await self._stores.of(mount).call(
                "scan", position.decode(errors="replace"), lambda ufs: ufs.scan(b"", after=position, limit=PAGE_ENTRIES)
            )
            if page.entries or page.next is None:
                stretch = Stretch(position, page.entries, cut=page.next is not None)
                source.pays = page.next is None or len(page.entries) <= SMALL_NAMES * stretch.directories()
                self._held[mount.id, position] = _Held(stretch, mount, read_index, at)
                self._held.move_to_end((mount.id, position))
                while len(self._held) > STRETCHES_MAX:
                    self._held.popitem(last=False)
        finally:
            for landed in source.flying.pop(position):
                landed.callback(None)

    def _learn(self, source: _Source, asked: Asked, after: bytes) -> None:
        page = asked.page
        is_small = not after and page.next is None and len(page.entries) < SMALL_NAMES
        source.small = source.small + 1 if is_small else 0
        if source.small >= SMALL_IN_A_ROW:
            source.pays, source.small = True, 0

    def _source(self, mount: Mount) -> _Source:
        source = self._sources.get(mount.id)
        if source is None:
            source = self._sources[mount.id] = _Source()
        return source
