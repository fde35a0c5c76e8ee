"""Moving single objects after their renamed directory: copy, record, delete; for the passes of a MOVE job (job_move.py), and for
writers who need the key of an object that still lies there.

Invariants: an object is deleted only after the record that names its copy is journaled, and only while it is *doomed* in the job's record; a copy
nobody recorded is deleted again. An object that came to the new key from outside after the renaming wins, as any change from outside
does. Recording and deleting of one job are one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredLock

from monofs.master.below import Below, Met
from monofs.master.job_acts import Guard, began_ns, came_after, mount_of, operation_of
from monofs.master.job_sync import LOOK_NOW
from monofs.master.loading import Loader
from monofs.master.locks import Locks
from monofs.master.proposing import Proposer
from monofs.master.stores import UNAVAILABLE, MountedStore, Stores, Unclear
from monofs.metadata.entries import Moved, MovedFile, UpdateJob
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import JOINED_LEVEL, MARKERS_LEVEL, Job
from monofs.model.errors import Busy, MonofsError, UfsChanged, UfsNotFound
from monofs.model.inode import Flag, Inode
from monofs.model.paths import Parts, format_path, parse_path
from monofs.observe.failpoints import failpoint
from monofs.ufs.base import Condition, UfsEntry, UnderStorage

TOLD = "a job moves it to where its directory is now"
_PERSISTED = int(Flag.PERSISTED)


class Item(NamedTuple):
    """A file whose object is to be moved: where its record is, and where its object lies and belongs."""

    parts: Parts
    parent: int
    inode: Inode
    old_key: str
    new_key: str


class Mover:
    """Of one master."""

    def __init__(
        self, namespace: Namespace, proposer: Proposer, stores: Stores, locks: Locks, loader: Loader, *, reactor: Any
    ) -> None:
        self._namespace, self._proposer, self._stores, self._locks = namespace, proposer, stores, locks
        self._loader, self._reactor = loader, reactor
        self._recording: dict[int, DeferredLock] = {}
        self._uploads: dict[int, dict[str, str]] = {}

    def store(self, job: Job) -> MountedStore:
        """Where the objects of a job are."""
        return self._stores.of(mount_of(self._namespace, job))

    def new_prefix(self, job: Job) -> str:
        """The key the moved directory has now."""
        located = self._namespace.natural_key(parse_path(job.target))
        if located is None:
            raise UfsNotFound(f"{job.target} lies under no mount any more")
        return located.key

    def guard(self, job: Job, keys: list[str]) -> Guard:
        """Claim keys of a job's mount."""
        return Guard(self._locks.try_claim(job.mount, keys, told=TOLD), self._reactor)

    def items(self, job: Job, slice_: Sequence[Met]) -> list[Item]:
        """What is to be moved of these files of the directory."""
        top, prefix = parse_path(job.target), self.new_prefix(job)
        found = []
        for met in slice_:
            if not met.inode.flags & _PERSISTED:
                continue
            relative = met.key.decode()
            inherited = f"{job.key}/{relative}" if met.own is None else f"{met.own}/{relative.rpartition('/')[2]}"
            old_key, new_key = met.inode.store_path or inherited, f"{prefix}/{relative}"
            if old_key != new_key:
                found.append(Item((*top, *met.key.split(b"/")), met.parent, met.inode, old_key, new_key))
        return found

    async def join(self, job: Job, placed: Sequence[Met]) -> None:
        """Have directories that were made while an earlier job was at work, and lie where their path said then, lie with the one above them again, which
        is at that key now."""
        prefix = self.new_prefix(job)
        files = [
            MovedFile(met.parent, met.key.split(b"/")[-2] + b"/", 0, met.inode.store_path, natural, "", 0)
            for met in placed
            if met.inode.store_path not in (None, natural := f"{prefix}/{met.key[:-1].decode()}")
        ]
        if files and self._namespace.level >= JOINED_LEVEL:
            await self._proposer.insist(Moved(self._proposer.stamp(), job.number, files))

    async def look_at(self, parts: Parts) -> None:
        """Take over how a file is in the store now."""
        try:
            await self._loader.refreshed(parts, self._namespace.lookup(parts), LOOK_NOW)
        except MonofsError:
            return  # the next pass meets it again

    def begin(self, number: int) -> None:
        """A run of a job begins: no copy is under way."""
        self._uploads[number] = {}

    def end(self, number: int) -> None:
        """A job is done."""
        self._recording.pop(number, None)
        self._uploads.pop(number, None)

    # ---- one file -----------------------------------------------------------------------------------------------------

    async def copy(self, job: Job, guard: Guard, item: Item) -> MovedFile:
        """Copy an object to its new key. ``UfsChanged``, ``UfsNotFound``: the version recorded is not there any more."""
        operation = f"{operation_of(self._namespace, job)}-{item.inode.content:x}"
        store, target = self.store(job), item.new_key.encode()
        condition = Condition(absent=True)
        for last in (False, False, True):
            try:
                entry = await self._copy_once(job, guard, store, item, operation, condition)
                break
            except (UfsChanged, Unclear):
                there = await store.call("head", item.new_key, lambda ufs: ufs.look(target))
                if there is not None and there.operation == operation:
                    entry = there
                    break
                if last:
                    raise
                if there is None:
                    if condition.absent:
                        raise  # so it was the object that is to be copied
                    condition = Condition(absent=True)
                elif came_after(there, began_ns(job, store)) and there.operation == "":
                    return self._moved_file(item, item.inode.fingerprint, item.inode.mtime_ns)
                else:
                    condition = Condition(there.fingerprint)
        failpoint("move.copied")
        return self._moved_file(item, entry.fingerprint, entry.mtime_ns)

    @staticmethod
    def _moved_file(item: Item, fingerprint: str, mtime_ns: int) -> MovedFile:
        name = item.parts[-1]
        return MovedFile(item.parent, name, item.inode.content, item.old_key, item.new_key, fingerprint, mtime_ns)

    def _copy_once(
        self, job: Job, guard: Guard, store: MountedStore, item: Item, operation: str, condition: Condition
    ) -> Deferred[UfsEntry]:
        source, target, fingerprint = item.old_key.encode(), item.new_key.encode(), item.inode.fingerprint

        def begun(upload: str) -> None:
            self._record_upload(job.number, item.new_key, upload)

        return guard.act(
            store,
            "copy",
            item.new_key,
            lambda ufs: ufs.copy(source, fingerprint, target, operation, condition, begun=begun),
            size=item.inode.size,
        )

    def _record_upload(self, number: int, key: str, upload: str) -> None:
        """On the thread that copies: go on once the id of its upload is journaled."""

        def record() -> UpdateJob:
            uploads = self._uploads.setdefault(number, {})
            uploads[key] = upload
            return UpdateJob(self._proposer.stamp(), number, uploads=dict(uploads))

        self._proposer.insist_from_thread(record, "the id of an upload")

    # ---- recording and deleting ---------------------------------------------------------------------------------------

    async def record(self, job: Job, guard: Guard, done: Sequence[tuple[Item, MovedFile]]) -> list[Item]:
        """Journal that these were copied, and delete what they were copied from; those that were taken over."""
        if not done:
            return []
        lock = self._recording.setdefault(job.number, DeferredLock())
        await lock.acquire()
        try:
            await self._proposer.insist(Moved(self._proposer.stamp(), job.number, [file for _, file in done]))
            failpoint("move.recorded")
            taken = [item for item, file in done if self._is_recorded(item, file)]
            for item, file in done:
                self._uploads.get(job.number, {}).pop(file.new_key, None)
                if not self._is_recorded(item, file):
                    await self._undo(job, guard, item, file)
            await self._delete_doomed_locked(job.number, guard)
        finally:
            lock.release()
        return taken

    def _is_recorded(self, item: Item, file: MovedFile) -> bool:
        """Whether the record names the copy. An entry whose outcome was unknown was proposed twice: only the state tells."""
        now = self._namespace.get_inode(item.parent, item.parts[-1])
        return now is not None and now.store_path == file.new_key and now.content == item.inode.content

    async def _undo(self, job: Job, guard: Guard, item: Item, file: MovedFile) -> None:
        """The file changed while it was copied: the copy is nobody's, unless something new has its key."""
        found = self._namespace.lookup(item.parts)
        if found.inode is not None and found.located is not None and found.located.key == file.new_key:
            return
        store, target = self.store(job), file.new_key.encode()
        there = await store.call("head", file.new_key, lambda ufs: ufs.look(target))
        mine = f"{operation_of(self._namespace, job)}-{item.inode.content:x}"
        if there is not None and there.operation == mine:
            await guard.act(store, "delete", file.new_key, lambda ufs: ufs.delete(target))

    async def delete_doomed(self, number: int) -> bool:
        """Delete what is doomed; False: some of it is left."""
        lock = self._recording.setdefault(number, DeferredLock())
        await lock.acquire()
        try:
            return await self._delete_doomed_locked(number, None)
        finally:
            lock.release()

    async def _delete_doomed_locked(self, number: int, held: Guard | None) -> bool:
        """``held``: a guard that has the keys already."""
        job = self._namespace.job(number)
        if job is None or not (job.doomed or job.uploads):
            return True
        guard = held or self.guard(job, job.doomed)
        try:
            going = [key for key in job.doomed if (held is None and key not in guard.refused) or key in guard.keys]
            left = [key for key in job.doomed if key not in set(going)]
            failed: dict[bytes, MonofsError] = {}
            if going:
                raw = [key.encode() for key in going]
                failed = await guard.act(self.store(job), "delete", job.key, lambda ufs: ufs.delete_many(raw))
                failpoint("move.deleted")
        except (*UNAVAILABLE, Unclear):
            return False
        finally:
            if held is None:
                guard.release()
        left += [key for key in going if key.encode() in failed]
        uploads = dict(self._uploads.get(number, {}))
        await self._proposer.insist(UpdateJob(self._proposer.stamp(), number, doomed=left, uploads=uploads))
        return not left

    # ---- what has no record -------------------------------------------------------------------------------------------

    async def carry(self, job: Job, guard: Guard, entry: UfsEntry, *, wanted: bool = True) -> MonofsError | None:
        """Move the marker of a directory, or an object no path can name, named relative to the old prefix, or delete one that is not ``wanted``; what kept
        the old one from being deleted.
        ``UfsChanged``, ``UfsNotFound``: something lies at its new key, or it is gone."""
        old = job.key.encode() + b"/" + entry.name
        new = self.new_prefix(job).encode() + b"/" + entry.name
        store, operation = self.store(job), operation_of(self._namespace, job)
        try:
            if wanted:
                copier = _copier(old, entry.fingerprint, new, operation)
                await guard.act(store, "copy", job.key, copier, size=entry.size)
        except UfsChanged as error:
            if not entry.is_directory or error.detail.get("source"):
                raise
            # a marker is there already, so this one is of no use any more
        failed = await guard.act(store, "delete", job.key, lambda ufs: ufs.delete_many([old]))
        return next(iter(failed.values()), None)

    def is_new(self, job: Job, relative: bytes) -> bool:
        """Whether the tree has something at the former path that an object there belongs to. A marker belongs to a directory that is an object, not to one
        that only leads to what was written there since."""
        inode = self._namespace.lookup(parse_path(job.path)).inode
        if inode is None or not inode.is_directory or inode.id == job.directory:
            return False
        found = Below(self._namespace, inode.id).record(relative) if relative else inode
        if found is None or not found.is_directory:
            return found is not None
        return bool(found.flags & Flag.MARKER) or self._namespace.level < MARKERS_LEVEL

    def has_directory(self, job: Job, relative: bytes) -> bool:
        """Whether the moved directory has this one below it, or is it."""
        return not relative or Below(self._namespace, job.directory).record(relative) is not None

    # ---- for writers --------------------------------------------------------------------------------------------------

    async def make_room(self, job: Job, key: str) -> None:
        """Move what lies at a key away now, if it is a file's of the renamed directory, or the marker (a key that ends in ``/``) of one there. ``Busy``
        when that cannot be done now."""
        if not key.startswith(job.key + "/"):
            return
        if key.endswith("/"):
            await self._carry_marker(job, key)
            return
        if key in job.doomed:
            await self.delete_doomed(job.number)
            return
        relative = key[len(job.key) + 1 :].encode()
        below = Below(self._namespace, job.directory)
        inode, parent = below.record(relative), below.parent
        if inode is None or parent is None:
            return
        items = self.items(job, [Met(relative, inode, False, parent, below.own)])
        if not items or items[0].old_key != key:
            return
        item = items[0]
        guard = self.guard(job, [item.old_key, item.new_key])
        try:
            if guard.refused:
                return  # whoever works at it is waited for by the asker
            copied = await self.copy(job, guard, item)
            await self.record(job, guard, [(item, copied)])
        except (UfsChanged, UfsNotFound):
            await self.look_at(item.parts)
        except Unclear as error:
            raise Busy(f"{format_path(item.parts)} cannot be moved out of the way: {error}") from error
        finally:
            guard.release()

    async def _carry_marker(self, job: Job, key: str) -> None:
        store, raw, relative = self.store(job), key.encode(), key[len(job.key) + 1 :].encode()
        guard = self.guard(job, [key[:-1]])
        try:
            if guard.refused or self.is_new(job, relative):
                return
            there = await store.call("head", key, lambda ufs: ufs.look(raw))
            if there is not None:
                await self.carry(job, guard, replace(there, name=relative, is_directory=True))
        except (UfsChanged, UfsNotFound):
            return  # what lies there now came from outside since
        except Unclear as error:
            raise Busy(f"what lies at {key} cannot be moved out of the way: {error}") from error
        finally:
            guard.release()


def _copier(source: bytes, fingerprint: str, target: bytes, operation: str) -> Callable[[UnderStorage], UfsEntry]:
    return lambda ufs: ufs.copy(source, fingerprint, target, operation, Condition(absent=True))
