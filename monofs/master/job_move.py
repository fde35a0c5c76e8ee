"""MOVE: the objects below a directory that was renamed in the tree are moved after it in the store.

A pass first looks at the directory where its objects still lie, so that what only the store knew goes along; then it walks the tree and moves
files in batches (moving.py). What failed or was being changed is left to the next pass. When nothing is left, markers of directories and keys
no path can name follow, and MOVED(last) ends the job.

Invariant: all that stands between two steps is in the job's record, so every step may be the last one of a process.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from monofs.master.below import Files
from monofs.master.job_acts import Guard, began_ns, came_after, mount_of, operation_of, path_of
from monofs.master.job_run import Backoff, Run
from monofs.master.job_sync import Syncing
from monofs.master.moving import Item, Mover
from monofs.master.proposing import Proposer
from monofs.master.stores import UNAVAILABLE, MountedStore, Unclear
from monofs.metadata.entries import Moved, MovedFile
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import Job, JobState
from monofs.model.errors import ConditionFailed, MonofsError, NotReady, UfsChanged, UfsNotEmpty, UfsNotFound
from monofs.model.paths import format_path, parse_path
from monofs.ufs.base import UfsEntry

BATCH = 100
BATCH_BYTES = 256 << 20
SCAN = 1000


class Moving:
    """How MOVE jobs are worked on."""

    def __init__(self, namespace: Namespace, proposer: Proposer, mover: Mover, syncing: Syncing) -> None:
        self._namespace, self._proposer, self._mover, self._syncing = namespace, proposer, mover, syncing

    async def work(self, run: Run) -> None:
        """All of one job."""
        await self._clean(run)
        run.total = await self._count(run)
        backoff, passes = Backoff(), 0
        while True:
            passes += 1
            run.forget_failures()
            left = await self._pass(run)
            if not left:
                left = await self._follow(run, any_age=passes > 1)
            if not left:
                break
            run.waits(f"{run.failed} objects could not be moved yet" if run.failed else "objects are being changed")
            await run.pause(backoff.next_s())
            run.waits("")
        await run.save()
        await self._finish(run.job.number)

    async def _finish(self, number: int) -> None:
        try:
            await self._proposer.insist(Moved(self._proposer.stamp(), number, [], last=True))
        except ConditionFailed:
            job = self._namespace.job(number)
            if job is not None and job.state != JobState.DONE:  # done by an entry whose outcome was not told
                raise
        self._mover.end(number)

    async def _clean(self, run: Run) -> None:
        """What an earlier run left between two steps."""
        job = self._namespace.job(run.job.number) or run.job
        store = self._mover.store(job)
        for key, upload in job.uploads.items():
            raw, recorded = key.encode(), upload
            await run.persist(
                lambda raw=raw, key=key, recorded=recorded: store.act(  # type: ignore[misc]
                    "abort", key, lambda ufs: ufs.abort_upload(raw, recorded)
                )
            )
        self._mover.begin(job.number)
        while True:
            run.check()
            if await self._mover.delete_doomed(job.number):
                return
            await run.pause(1.0)

    async def _count(self, run: Run) -> int:
        """Files moved and to be moved. What an earlier job left is put right on the way."""
        files, total = self._files(run.job), run.done
        while files is not None and not files.ended:
            total += len(self._mover.items(run.job, files.slice()))
            await self._mover.join(run.job, files.placed)
            await run.breathe()
        return total

    def _files(self, job: Job) -> Files | None:
        inode = self._namespace.lookup(parse_path(job.target)).inode
        return Files(self._namespace, inode) if inode is not None and inode.id == job.directory else None

    # ---- a pass -------------------------------------------------------------------------------------------------------

    async def _pass(self, run: Run) -> int:
        """Move what can be moved; how much is left."""
        await self._syncing.walk(run, parse_path(run.job.target), quiet=True)
        run.cursor = b""
        files, window = self._files(run.job), run.window(2)
        batch: list[Item] = []
        left = [run.failed]
        size = 0
        while files is not None and not files.ended:
            for item in self._mover.items(run.job, files.slice()):
                batch.append(item)
                size += item.inode.size
                if len(batch) == BATCH or size >= BATCH_BYTES:
                    await window.begin(partial(self._move_batch, run, batch, left))
                    batch, size = [], 0
            await run.breathe()
        if batch:
            await window.begin(partial(self._move_batch, run, batch, left))
        await window.drain()
        return left[0]

    async def _move_batch(self, run: Run, batch: list[Item], left: list[int]) -> None:
        job = run.job
        guard = self._mover.guard(job, [key for item in batch for key in (item.old_key, item.new_key)])
        try:
            going = [item for item in batch if not guard.refused & {item.old_key, item.new_key}]
            left[0] += len(batch) - len(going)
            copied: list[MovedFile | None] = [None] * len(going)
            own = run.window(max(1, run.requests // 2))
            try:
                for position, item in enumerate(going):
                    run.check()
                    await own.begin(partial(self._copy_into, run, guard, item, copied, position))
                await own.drain()
            finally:
                await own.settle()
            done = [(item, file) for item, file in zip(going, copied, strict=True) if file is not None]
            left[0] += len(going) - len(done)
            taken = await self._mover.record(job, guard, done)
            left[0] += len(done) - len(taken)
            run.advance(len(taken), sum(item.inode.size for item in taken))
        finally:
            guard.release()

    async def _copy_into(
        self, run: Run, guard: Guard, item: Item, copied: list[MovedFile | None], position: int
    ) -> None:
        """Copy one file; a failure is counted."""
        try:
            copied[position] = await self._mover.copy(run.job, guard, item)
            run.waits("")
        except (*UNAVAILABLE, Unclear, NotReady) as error:
            run.waits(error)
        except (UfsChanged, UfsNotFound):
            await self._mover.look_at(item.parts)  # it changed in the store, or went: the next pass knows
        except MonofsError as error:
            run.fail(format_path(item.parts), error)

    # ---- what has no record -------------------------------------------------------------------------------------------

    async def _follow(self, run: Run, *, any_age: bool) -> int:
        """Markers of directories, and objects no path can name; how much is left. ``any_age``: what could have a path follows too."""
        if not await self._mover.delete_doomed(run.job.number):
            return 1
        job, key = run.job, run.job.key.encode()
        store = self._mover.store(job)
        left = int(not await self._follow_own(run, store, any_age=any_age))
        after: bytes | None = b""
        while after is not None:
            run.check()
            position = after
            page = await run.persist(
                lambda position=position: store.call(  # type: ignore[misc]
                    "scan", job.key, lambda ufs: ufs.scan(key, after=position, limit=SCAN)
                )
            )
            for entry in page.entries:
                left += not await self._follow_one(run, store, entry, any_age=any_age)
            after = page.next
        if not left:
            await self._make_empty_directories(run)
        return left

    async def _follow_own(self, run: Run, store: MountedStore, *, any_age: bool) -> bool:
        """The former directory's own marker, which is not among what lies below it; as :meth:`_follow_one`."""
        own = run.job.key.encode() + b"/"
        marker = await run.persist(lambda: store.call("head", run.job.key, lambda ufs: ufs.look(own)))
        if marker is None:
            return True
        return await self._follow_one(run, store, replace(marker, name=b"", is_directory=True), any_age=any_age)

    async def _make_empty_directories(self, run: Run) -> None:
        """Directories with nothing below need a marker at their new place to be seen there, where none came along."""
        files = self._files(run.job)
        prefix, operation = self._mover.new_prefix(run.job), operation_of(self._namespace, run.job)
        store = self._mover.store(run.job)
        while files is not None and not files.ended:
            files.slice()
            for name in files.take_empty():
                key = prefix.encode() + (b"/" + name.rstrip(b"/") if name else b"")
                await run.persist(
                    lambda key=key: store.act(  # type: ignore[misc]
                        "mkdir", prefix, lambda ufs: ufs.make_directory(key, operation)
                    )
                )
            await run.breathe()

    async def _follow_one(self, run: Run, store: MountedStore, entry: UfsEntry, *, any_age: bool) -> bool:
        """One entry that is left at the old prefix; whether it needs nothing more."""
        job = run.job
        mount, old = mount_of(self._namespace, job), job.key.encode() + b"/" + entry.name
        if self._mover.is_new(job, entry.name) or (not entry.is_directory and came_after(entry, began_ns(job, store))):
            run.count("kept")
            return True
        if not entry.is_directory and path_of(mount, old) is not None and not any_age:
            return False  # a look at the directory finds it
        natural = _text(old)
        guard = self._mover.guard(job, [] if natural is None else [natural])
        try:
            if guard.refused:
                return False
            if self._mover.is_new(job, entry.name):
                return True
            wanted = not entry.is_directory or self._mover.has_directory(job, entry.name)
            problem = await self._mover.carry(job, guard, entry, wanted=wanted)
        except (UfsChanged, UfsNotFound):
            return True  # something lies at its new key, or it is gone
        except (*UNAVAILABLE, Unclear) as error:
            run.waits(error)
            return False
        finally:
            guard.release()
        if problem is not None and not isinstance(problem, UfsNotEmpty):
            run.fail(repr(old), problem)
            return False
        return True


def _text(key: bytes) -> str | None:
    """A key as claims have it; None: no path has it, so nobody can ask for it."""
    try:
        return key.removesuffix(b"/").decode()
    except UnicodeDecodeError:
        return None
