"""DELETE: the objects below a directory that was removed from the tree follow in the store.

A store that can takes the whole directory out of sight in one step and sweeps it. Else the job makes passes over ``scan(prefix)``: an
object goes when the tree knew that very version, or when it is not newer than the removal; it stays when the tree has something new at its path, or
when it came from outside meanwhile (the end of the job uncovers it). What failed, or was being changed, is left to the next pass; a
pass that leaves nothing ends the job.

Invariant: nothing is deleted but under a claim, with no lock at its key and nothing of that name in the tree, so never what was
written through monofs after the removal. ``cursor``: ``k`` and the key a pass has reached, or ``s``: out of sight, to be swept.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from monofs.master.below import Below, Frontier
from monofs.master.job_acts import Guard, began_ns, came_after, is_version, mount_of, operation_of, path_of
from monofs.master.job_run import Backoff, Run
from monofs.master.locks import Locks
from monofs.master.stores import UNAVAILABLE, MountedStore, Stores, Unclear
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import Job, JobState
from monofs.model.errors import Busy, MonofsError, UfsFailed, UfsNotEmpty
from monofs.model.inode import Inode
from monofs.model.mount import Mount
from monofs.model.paths import format_path, parse_path
from monofs.observe.failpoints import failpoint
from monofs.ufs.base import UfsEntry

BATCH = 1000
SWEPT = b"s"
REACHED = b"k"
CLAIM_TURNS = 3
TOLD = "a job deletes what was there before"


class Deleting:
    """How DELETE jobs are worked on."""

    def __init__(self, namespace: Namespace, stores: Stores, locks: Locks, *, reactor: Any) -> None:
        self._namespace, self._stores, self._locks, self._reactor = namespace, stores, locks, reactor

    async def work(self, run: Run) -> None:
        """All of one job."""
        store = self._stores.of(mount_of(self._namespace, run.job))
        if store.renames and await self._out_of_sight(run, store):
            return
        backoff = Backoff()
        while not await _Pass(self, run).made():
            run.waits(f"{run.failed} objects could not be deleted yet" if run.failed else "objects are being changed")
            await run.pause(backoff.next_s())
            run.waits("")

    async def _out_of_sight(self, run: Run, store: MountedStore) -> bool:
        """The quick way, where nothing new is in the place of the directory yet; False: there is, or the store has no such way."""
        job, operation = run.job, operation_of(self._namespace, run.job)
        key = job.key.encode()
        if run.cursor[:1] == REACHED:
            return False
        if run.cursor != SWEPT:
            guard = await self._claimed(run)
            try:
                if guard.refused or self._namespace.lookup(parse_path(job.path)).inode is not None:
                    return False
                if not await guard.act(store, "sweep", job.key, lambda ufs: ufs.remove_tree(key, operation)):
                    return False
            finally:
                guard.release()
            failpoint("delete.batch-sent")
            run.cursor = SWEPT
            await run.save()
        await run.persist(lambda: store.act("sweep", job.key, lambda ufs: ufs.sweep(operation, key)))
        return True

    async def _claimed(self, run: Run) -> Guard:
        """The whole directory; the change that removed it may still be about to tell its asker."""
        for _ in range(CLAIM_TURNS):
            guard = self.guard(run, [run.job.key])
            if not guard.refused:
                break
            guard.release()
            await run.breathe()
        return guard

    async def make_room(self, job: Job, key: str) -> None:
        """Delete what lies at a key now, if it is the job's to delete; a marker (a key that ends in ``/``) may stay, but not a file of its name. ``Busy``
        when the store does not tell."""
        key = key.removesuffix("/")
        store, raw = self._stores.of(mount_of(self._namespace, job)), key.encode()
        if not key.startswith(job.key + "/") or job.state == JobState.DONE:
            return
        relative = raw[len(job.key.encode()) + 1 :]
        guard = Guard(self._locks.try_claim(job.mount, [key], told=TOLD), self._reactor)
        try:
            new = self._new(job)
            if guard.refused or (new is not None and new.record(relative) is not None):
                return
            there = await store.call("head", key, lambda ufs: ufs.look(raw))
            known = Below(self._namespace, job.directory).record(relative)
            if there is not None and is_doomed(began_ns(job, store), known, there):
                await guard.act(store, "delete", key, lambda ufs: ufs.delete(raw))
        except Unclear as error:
            raise Busy(f"{key} cannot be cleared for something new: {error}") from error
        finally:
            guard.release()

    def _new(self, job: Job) -> Below | None:
        inode = self._namespace.lookup(parse_path(job.path)).inode
        return Below(self._namespace, inode.id) if inode is not None and inode.is_directory else None

    def known(self, run: Run) -> Below:
        """What the tree knew below the directory when it was removed."""
        return Below(self._namespace, run.job.directory)

    def new(self, run: Run) -> Below | None:
        """What the tree has in its place now."""
        return self._new(run.job)

    def store(self, mount: Mount) -> MountedStore:
        """Of the job's mount, as its options are now."""
        return self._stores.of(mount)

    def mount(self, run: Run) -> Mount:
        """The job's mount."""
        return mount_of(self._namespace, run.job)

    def guard(self, run: Run, keys: list[str]) -> Guard:
        """Claim keys."""
        return Guard(self._locks.try_claim(run.job.mount, keys, told=TOLD), self._reactor)


class _Pass:
    """One pass over what the store has below the prefix."""

    def __init__(self, world: Deleting, run: Run) -> None:
        self._world, self._run = world, run
        self._prefix = run.job.key.encode() + b"/"
        self._known = world.known(run)
        self._frontier = Frontier()
        self._whole = run.cursor in (b"", REACHED)
        self._left = 0
        self._removed_ns = 0
        self._open_directories: list[bytes] = []

    async def made(self) -> bool:
        """Delete what is to be deleted; whether nothing of it is left."""
        run, key = self._run, self._run.job.key.encode()
        run.forget_failures()
        # directories that no prefix stands for go after what they hold, so what follows waits for what came before
        ordered = self._world.store(self._world.mount(run)).renames
        window = run.window(1 if ordered else None)
        after: bytes | None = run.cursor[1:]
        while after is not None:
            run.check()
            store, position = self._world.store(self._world.mount(run)), after

            def scan(store: MountedStore = store, position: bytes = position) -> Any:
                return store.call("scan", run.job.key, lambda ufs: ufs.scan(key, after=position, limit=BATCH))

            page = await run.persist(scan)
            run.check()
            self._removed_ns = began_ns(run.job, store)
            going = self._going(page.entries, ordered=ordered, last=page.next is None)
            piece = self._frontier.begin(position)
            await window.begin(partial(self._delete, going, piece, page.next or position))
            after = page.next
        await window.drain()
        await self._delete_own_marker()
        run.cursor = b""
        return self._whole and not self._left

    def _going(self, entries: list[UfsEntry], *, ordered: bool, last: bool) -> list[bytes]:
        """Names of a page that are to be deleted, in an order in which they can be."""
        going: list[bytes] = []
        for entry in entries:
            while self._open_directories and not entry.name.startswith(self._open_directories[-1]):
                going.append(self._open_directories.pop())
            if not is_doomed(self._removed_ns, self._known.record(entry.name), entry):
                self._run.count("kept")
            elif ordered and entry.is_directory:
                self._open_directories.append(entry.name)
            else:
                going.append(entry.name)
        if last:
            going += reversed(self._open_directories)
            self._open_directories.clear()
        return going

    async def _delete(self, names: list[bytes], piece: int, reached: bytes) -> None:
        """Delete these names, as far as nothing new is in their place, and count them."""
        for start in range(0, len(names), BATCH):
            await self._delete_batch(names[start : start + BATCH])
        self._frontier.end(piece)
        self._run.cursor = REACHED + self._frontier.cursor(reached)

    async def _delete_batch(self, names: list[bytes]) -> None:
        run = self._run
        mount = self._world.mount(run)
        store = self._world.store(mount)
        claimable = {name: natural for name in names if (natural := _natural(self._prefix + name)) is not None}
        guard = self._world.guard(run, list(dict.fromkeys(claimable.values())))
        try:
            new = self._world.new(run)
            going = []
            for name in names:
                natural = claimable.get(name)
                if natural is not None and natural in guard.refused:
                    self._left += 1
                elif new is not None and new.record(name) is not None:
                    run.count("kept")
                else:
                    going.append(self._prefix + name)
            if not going:
                return
            failed = await guard.act(store, "delete", run.job.key, lambda ufs: ufs.delete_many(going))
            failpoint("delete.batch-sent")
        except (*UNAVAILABLE, Unclear) as error:
            self._left += len(names)
            run.waits(error)
            return
        finally:
            guard.release()
        run.waits("")
        run.advance(len(going) - len(failed))
        for key, problem in failed.items():
            self._failed(mount, key, problem)

    def _failed(self, mount: Mount, key: bytes, problem: MonofsError) -> None:
        if isinstance(problem, UfsNotEmpty):
            return  # a directory that holds what stays
        self._left += 1
        parts = path_of(mount, key)
        self._run.fail(repr(key) if parts is None else format_path(parts), problem)

    async def _delete_own_marker(self) -> None:
        """The directory itself, where the store has something of that name, unless there is a new one."""
        run = self._run
        mount, own = self._world.mount(run), run.job.key.encode()
        store = self._world.store(mount)
        guard = self._world.guard(run, [run.job.key])
        try:
            if guard.refused:
                self._left += 1
                return
            if self._world.new(run) is None:
                await guard.act(store, "delete", run.job.key, lambda ufs: ufs.remove_directory(own))
        except UfsNotEmpty:
            return
        except (*UNAVAILABLE, Unclear) as error:
            self._left += 1
            run.fail(format_path(parse_path(run.job.path)), UfsFailed(str(error)))
        finally:
            guard.release()


def is_doomed(removed_ns: int, record: Inode | None, entry: UfsEntry) -> bool:
    """Whether what the store shows was there when the directory was removed. ``record``: what the tree knew of it then."""
    if not came_after(entry, removed_ns):
        return True
    if record is None:
        return False
    return entry.is_directory or is_version(entry, record.fingerprint, record.mtime_ns)


def _natural(key: bytes) -> str | None:
    """A key as claims have it; None: no path has it, so nobody can ask for it."""
    try:
        return key.removesuffix(b"/").decode()
    except UnicodeDecodeError:
        return None
