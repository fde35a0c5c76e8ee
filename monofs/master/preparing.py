"""What every change needs before it begins and after it ended: rights, modes of the mount, fresh knowledge, and telling what was learnt.

**When a change looks at the store first.** What is deleted, renamed or copied must be known, and as freshly as OPEN would know it. A name
that is written (or renamed or copied to) is another matter, because the store itself judges the condition of the act: a file that
is known is replaced by its fingerprint however old the knowledge, a name that is not known is made on the condition that nothing is there,
and where that does not hold the store says so, what it has is adopted, and the change is made again: a stale belief costs one try.
So a look is made only

- when the answer depends on it: ``exclusive`` or ``if_match`` would be refused by old knowledge, or a directory has the name;
- for the first ``LOOKS`` unknown names below a directory within ``LOOKS_WITHIN_S``, because no condition of the store tells that a
  directory has the name. A thousand new files in one directory so cost a few requests, not one each; after a listing of it, none.

After an act its path counts as looked at since the act began, so that reading it back asks nothing; but for local files, whose
fingerprint is *racy* for two seconds (ufs/local.py) and is looked at again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from monofs.master.access import W_OK, X_OK, check_access
from monofs.master.freshness import NEVER, Range
from monofs.master.loading import Loader, awaited
from monofs.master.locks import Place
from monofs.master.reading import Reading
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.metadata.tables import Intent, IntentKind
from monofs.model.errors import MonofsError, MountPoint, ReadOnly
from monofs.model.inode import decode_inode
from monofs.model.mount import Mount
from monofs.model.options import UfsMode
from monofs.model.paths import Parts, format_path, parse_path
from monofs.model.principal import Right
from monofs.observe.logs import logger
from monofs.rpc.api import ReadOptions
from monofs.rpc.service import Call

log = logger(__name__)
LOOKS = 8
LOOKS_WITHIN_S = 60.0
COUNTED_DIRECTORIES = 10_000
_NOW = ReadOptions(0.0, "ALWAYS")


class RoomMaker(Protocol):
    """What moves or deletes objects of directories that were renamed or removed."""

    def make_room(self, job: int, key: str) -> Deferred[None]:
        """Fires once no object that a tree job is to move or delete lies at the natural key ``key`` (of a marker: with its trailing slash) any more, so
        that something new may come there; or when another change of that key is in the way."""


class Preparing:
    """Of one master. ``room_maker`` is set when there are jobs."""

    def __init__(self, namespace: Namespace, loader: Loader, reading: Reading, *, permissions: bool) -> None:
        self._namespace, self._loader, self._reading, self._permissions = namespace, loader, reading, permissions
        self._looks: OrderedDict[int, tuple[int, float]] = OrderedDict()
        self.room_maker: RoomMaker | None = None

    # ---- before -------------------------------------------------------------------------------------------------------

    def check_rights(self, call: Call, *paths: Parts) -> None:
        """Raise unless the caller may change these names: that needs write and search permission on the deepest directory that exists
        above each."""
        for parts in paths:
            chain = self._reading.chain(parts[:-1])
            check_access(call.principal, Right.WRITE, chain, W_OK | X_OK if self._permissions else 0)

    def check(self, call: Call, *paths: Parts) -> None:
        """The same, and that the mounts over them take changes."""
        self.check_rights(call, *paths)
        for parts in paths:
            located = self._namespace.natural_key(parts)
            if located is not None:
                check_changeable(located.mount, parts)

    def check_replaced(self, call: Call, parts: Parts, found: Lookup) -> None:
        """Raise unless the caller may replace the bytes of what was found there, if anything was."""
        if found.inode is not None and self._permissions:
            check_access(call.principal, Right.WRITE, [*self._reading.chain(parts[:-1]), found.inode], W_OK)

    def takes_keys(self, parts: Parts) -> bool:
        """Whether a file may have this path as a key: beside a directory of its name, and below a file. Beside a mount point none may."""
        located = self._namespace.natural_key(parts)
        return located is None or (located.mount.is_object_store and located.key != "")

    def check_key(self, parts: Parts) -> None:
        """Raise ``MountPoint`` where a path is one: as a key it would be the root of the inner store."""
        located = self._namespace.natural_key(parts)
        if located is not None and not located.key:
            raise MountPoint(
                f"{format_path(parts)} is a mount point: no file beside it can be changed", path=format_path(parts)
            )

    def place(self, parts: Parts, *, tree: bool = False) -> Place:
        """A path as locks know it."""
        located = self._namespace.natural_key(parts)
        if located is None:
            return Place(parts, 0, format_path(parts)[1:], tree)
        return Place(parts, located.mount.id, located.key, tree)

    async def known(self, parts: Parts, call: Call, *, now: bool = False) -> Lookup:
        """What the tree holds at a path, as freshly as OPEN would tell. ``now``: its store is asked in any case."""
        found = self._namespace.lookup(parts)
        options = _NOW if now else ReadOptions()
        if self._loader.is_fresh(parts, found, options):
            return found
        call.waits_for = awaited(found.located, parts)
        found = await self._loader.refreshed(parts, found, options)
        call.waits_for = ""
        return found

    async def known_above(self, parts: Parts, depth: int, call: Call) -> None:
        """Know each directory above a path, from the first one that the tree lacks on, until one is missing in the store, too."""
        for length in range(depth + 1, len(parts)):
            if (await self.known(parts[:length], call)).inode is None:
                return

    async def existing(self, parts: Parts, call: Call, *, now: bool = False) -> Lookup:
        """The same; raises ``NotFound`` at once where nothing is there and nothing is about to be, whatever a job may be at there."""
        found = await self.known(parts, call, now=now)
        if found.inode is None and not self._namespace.open_intents.in_the_way(parts):
            raise self._reading.absence(parts, found, call)
        return found

    async def known_to_write(
        self, parts: Parts, call: Call, *, exclusive: bool = False, if_match: str | None = None
    ) -> Lookup:
        """What the tree holds at a path that is to be written: see above for when the store is asked."""
        found = self._namespace.lookup(parts)
        if self._loader.is_fresh(parts, found, ReadOptions()):
            return found
        inode = found.inode
        if inode is None:
            wanted = if_match is not None or self._may_look(found)
        else:
            wanted = inode.is_directory or exclusive or (if_match is not None and if_match != inode.fingerprint)
        return await self.known(parts, call) if wanted else found

    def _may_look(self, found: Lookup) -> bool:
        """Count a look for an unknown name below a directory."""
        if found.parent is None:
            return True
        now = self._loader.now()
        count, since = self._looks.pop(found.parent.id, (0, now))
        if now - since > LOOKS_WITHIN_S:
            count, since = 0, now
        self._looks[found.parent.id] = count + 1, since
        if len(self._looks) > COUNTED_DIRECTORIES:
            self._looks.popitem(last=False)
        return count < LOOKS

    async def make_room(self, place: Place, call: Call, *, directory: bool = False) -> None:
        """What is to be made at a key must not meet an object that still waits there to be moved away or deleted. ``directory``: its marker is made."""
        key = place.key + "/" if directory else place.key
        job = self._namespace.covering_job(place.mount, key) if place.mount else None
        if job is not None and self.room_maker is not None:
            waited, call.waits_for = call.waits_for, f"job {job.number} to clear {key}"
            await self.room_maker.make_room(job.number, key)
            call.waits_for = waited

    # ---- after --------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The clock of freshness: take it before an act, for :meth:`note`."""
        return self._loader.now()

    def note(self, intent: Intent, raw: Any, at: float, *, was_missing: bool = False) -> None:
        """An intent was ended with this record (an error: nothing was changed): its paths count as looked at since ``at``. ``was_missing``: before the act, the store
        had been seen to have nothing there, so a new directory is known to be empty."""
        if not intent.mount or isinstance(raw, MonofsError):
            return
        if intent.kind in (IntentKind.DELETE, IntentKind.RENAME):
            self._note_absent(parse_path(intent.path), at)
        if raw is None:
            return
        inode, freshness = decode_inode(raw), self._loader.freshness
        if at == NEVER or inode.fingerprint.startswith("t:"):
            freshness.forget_present(inode.id)
            return
        freshness.note_present(inode.id, at)
        if intent.kind == IntentKind.MAKE_DIRECTORY and was_missing:
            freshness.note_range(inode.id, Range(b"", None, at))

    def note_left(self, parts: Parts) -> None:
        """What had this path went: the directories that led to it may lead to nothing now."""
        self._loader.note_left(parts)

    def _note_absent(self, parts: Parts, at: float) -> None:
        found = self._namespace.lookup(parts)
        if found.inode is None and found.parent is not None and found.parent.is_directory:
            self._loader.freshness.note_absent(found.parent.id, b"/".join(parts[found.depth :]), at)
        self._loader.note_left(parts)

    async def adopt(self, *paths: str) -> None:
        """Take over what the store has at these paths now. One that does not answer is asked at the next access."""
        for path in filter(None, paths):
            parts = parse_path(path)
            found = self._namespace.lookup(parts)
            if found.inode is not None:
                self._loader.freshness.forget_present(found.inode.id)
            if found.located is None or not found.located.key:
                continue
            try:
                await self._loader.refreshed(parts, found, _NOW)
            except MonofsError as error:
                log.info("not looked at after a change that was not made", path=path, error=str(error))


def check_changeable(mount: Mount, parts: Parts) -> None:
    """Refuse before anything happens what a mount does not allow."""
    path = format_path(parts)
    if mount.readonly:
        raise ReadOnly(f"{path} lies below the read-only mount {mount.path}", path=path)
    if mount.ufs_mode != UfsMode.READ_WRITE:
        raise ReadOnly(
            f"{path} lies below the mount {mount.path}, whose store is set to {mount.ufs_mode}: `monofs mount update` ends that",
            path=path,
        )
