"""FREE: the cached pages of everything below a path are dropped. Orders go into the feed a thousand contents at a time; the job ends when
every live worker has followed the last one, or was waited for long enough. ``cursor``: the last file in the feed."""

from __future__ import annotations

from monofs.master.below import Files
from monofs.master.job_run import Run
from monofs.master.members import Members
from monofs.master.proposing import Proposer
from monofs.metadata.entries import Free
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import FEED_CONTENTS_MAX
from monofs.model.errors import NotFound
from monofs.model.ids import NO_CONTENT
from monofs.model.inode import Flag, Inode
from monofs.model.paths import parse_path
from monofs.rpc.api import FeedKind

PASSED_WAIT_S = 60.0


class Freeing:
    """How FREE jobs are worked on."""

    def __init__(self, namespace: Namespace, proposer: Proposer, members: Members) -> None:
        self._namespace, self._proposer, self._members = namespace, proposer, members

    async def work(self, run: Run) -> None:
        """All of one job."""
        found = self._namespace.lookup(parse_path(run.job.path))
        if found.inode is None:
            raise NotFound(f"{run.job.path} is not known here, so nothing of it is cached", path=run.job.path)
        force = run.job.arguments.get("force") == "true"
        last = await self._feed(run, found.inode, force=force, pinned=found.pinned)
        if last:
            run.counts["workers_behind"] = await self._members.when_passed(last, PASSED_WAIT_S)

    async def _feed(self, run: Run, top: Inode, *, force: bool, pinned: bool) -> int:
        """Put all contents into the feed; its last index, 0 when there was nothing to free."""
        if not top.is_directory:
            if not top.flags & Flag.PERSISTED:
                return 0
            kept = not force and (pinned or bool(top.flags & Flag.PINNED))
            run.count("pinned", int(kept))
            return 0 if kept or top.content == NO_CONTENT else await self._order(run, [int(top.content)], force=force)
        files, last, waiting = Files(self._namespace, top, run.cursor), 0, []
        while not files.ended:
            for met in files.slice():
                if (
                    met.inode.content == NO_CONTENT or not met.inode.flags & Flag.PERSISTED
                ):  # only the cache has it: it stays
                    continue
                if not force and (pinned or met.pinned):
                    run.count("pinned")
                    continue
                waiting.append(int(met.inode.content))
                if len(waiting) == FEED_CONTENTS_MAX:
                    last = await self._order(run, waiting, force=force)
                    run.cursor, waiting = met.key, []
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
