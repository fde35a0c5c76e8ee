"""FREE: the cached pages of everything below a path are dropped. Orders go into the feed a thousand contents at a time; the job ends when
every live worker has followed the last one, or was waited for long enough: those that did not are its failures.

``cursor``: ``f`` and the key of the last file whose order is in the feed; then ``w`` and the index of the last order.
"""

from __future__ import annotations

from monofs.master.below import Files
from monofs.master.job_run import Run
from monofs.master.members import Members
from monofs.master.proposing import Proposer
from monofs.metadata.entries import Free
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import FEED_CONTENTS_MAX
from monofs.model.errors import NotFound, NotReady
from monofs.model.ids import NO_CONTENT
from monofs.model.inode import Flag, Inode
from monofs.model.paths import parse_path
from monofs.rpc.api import FeedKind

PASSED_WAIT_S = 60.0
LOOK_S = 0.5
"""A job that is to stop waits no longer than this."""
TOLD_AFTER_S = 3.0
"""Workers follow within a second or so: only later it is worth a word whom the job waits for."""
ORDERING, WAITING = b"f", b"w"


class Freeing:
    """How FREE jobs are worked on."""

    def __init__(self, namespace: Namespace, proposer: Proposer, members: Members) -> None:
        self._namespace, self._proposer, self._members = namespace, proposer, members

    async def work(self, run: Run) -> None:
        """All of one job."""
        if run.cursor[:1] != WAITING:
            found = self._namespace.lookup(parse_path(run.job.path))
            if found.inode is None:
                raise NotFound(f"{run.job.path} is not known here, so nothing of it is cached", path=run.job.path)
            await self._count(run, found.inode)
            force = run.job.arguments.get("force") == "true"
            last = await self._feed(run, found.inode, force=force, pinned=found.pinned)
            run.cursor = WAITING + last.to_bytes(8, "big")
        await self._wait(run, int.from_bytes(run.cursor[1:], "big"))

    async def _count(self, run: Run, top: Inode) -> None:
        """How many files it is about; those that stay are among them."""
        total = 0 if top.is_directory else 1
        files = Files(self._namespace, top) if top.is_directory else None
        while files is not None and not files.ended:
            total += len(files.slice())
            await run.breathe()
        run.total = total

    async def _feed(self, run: Run, top: Inode, *, force: bool, pinned: bool) -> int:
        """Put all contents into the feed; its last index, 0 when there was nothing to free."""
        if not top.is_directory:
            if not top.flags & Flag.PERSISTED:
                run.count("kept")
                return 0
            kept = not force and (pinned or bool(top.flags & Flag.PINNED))
            run.count("pinned", int(kept))
            return 0 if kept or top.content == NO_CONTENT else await self._order(run, [int(top.content)], force=force)
        files, last, waiting = Files(self._namespace, top, run.cursor[1:]), 0, []
        while not files.ended:
            for met in files.slice():
                if not met.inode.flags & Flag.PERSISTED:  # only the cache has it: it stays
                    run.count("kept")
                    continue
                if not force and (pinned or met.pinned):
                    run.count("pinned")
                    continue
                if met.inode.content == NO_CONTENT:
                    run.advance(1)
                    continue
                waiting.append(int(met.inode.content))
                if len(waiting) == FEED_CONTENTS_MAX:
                    last = await self._order(run, waiting, force=force)
                    run.cursor, waiting = ORDERING + met.key, []
            await run.breathe()
        return await self._order(run, waiting, force=force) if waiting else last

    async def _order(self, run: Run, contents: list[int], *, force: bool) -> int:
        kind = FeedKind.FREE_FORCED if force else FeedKind.FREE
        index = await run.persist(lambda: self._propose(kind, contents))
        run.advance(len(contents))
        return index

    async def _propose(self, kind: FeedKind, contents: list[int]) -> int:
        index: int = await self._proposer.insist(Free(self._proposer.stamp(), kind, contents))
        return index

    async def _wait(self, run: Run, last: int) -> None:
        waited_s = 0.0
        while (behind := self._members.behind(last)) and waited_s < PASSED_WAIT_S:
            if waited_s >= TOLD_AFTER_S:
                run.waits("workers that have not followed: " + ", ".join(map(str, behind[:10])))
            await run.pause(LOOK_S)
            waited_s += LOOK_S
        run.waits("")
        for worker in behind:
            run.fail(f"worker {worker}", NotReady("it has not followed yet, and does when it comes to it"))
