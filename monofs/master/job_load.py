"""LOAD: everything below a path is brought into the cache: what is not known of it is looked at in the store, then its pages are fetched
by the workers that own them.

``cursor``: ``s`` and the cursor of the looking (job_sync.py), then ``f`` and the key of the first file that is not loaded. A file that cannot be
loaded is tried a few times, counted and named; while no worker lives, the job waits.
"""

from __future__ import annotations

from functools import partial

from monofs.master.below import Files, Frontier, Met
from monofs.master.channels import SILENT, Channels
from monofs.master.freshness import NEVER, Range
from monofs.master.issuing import Issuer
from monofs.master.job_run import Run
from monofs.master.job_sync import Syncing
from monofs.master.loading import Loader
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.model.block import GROUP_SIZE_BYTES, group_length, page_count, pages_mask
from monofs.model.errors import (
    CapabilityExpired,
    ContentChanged,
    MonofsError,
    NotFound,
    TierFull,
)
from monofs.model.ids import NO_CONTENT
from monofs.model.inode import Flag, Inode
from monofs.model.paths import Parts, format_path, parse_path
from monofs.rpc.api import FetchAnswer, FetchRequest, Method, ReadOptions

FETCH_TIMEOUT_S = 30.0
"""Then it is asked again, of whoever owns the block by then: a worker that is gone keeps nobody waiting, and what a slow store brought has landed."""
TRIES = 4
LOOKING, FETCHING = b"s", b"f"
_AGAIN = (ContentChanged, CapabilityExpired, NotFound)
"""The file is another one by now: look, and load what it is."""
_WHOLE = Range(b"", None, 0.0)


class Loading:
    """How LOAD jobs are worked on."""

    def __init__(
        self, namespace: Namespace, loader: Loader, syncing: Syncing, issuer: Issuer, channels: Channels
    ) -> None:
        self._namespace, self._loader, self._syncing = namespace, loader, syncing
        self._issuer, self._channels = issuer, channels

    async def work(self, run: Run) -> None:
        """All of one job."""
        parts = parse_path(run.job.path)
        if run.cursor[:1] != FETCHING:
            await self._look(run, parts)
            if run.job.arguments.get("metadata_only") == "true":
                return
            total = await self._count(run, parts)
            run.cursor, run.done, run.total = FETCHING, 0, total
        found = self._namespace.lookup(parts)
        if found.inode is None:
            return
        if not found.inode.is_directory:
            run.total = 1
            await self._load(run, parts)
            return
        await self._load_below(run, parts, found.inode)

    # ---- looking ------------------------------------------------------------------------------------------------------

    async def _look(self, run: Run, parts: Parts) -> None:
        """What is not known yet, or too old, is looked at."""
        found = self._namespace.lookup(parts)
        if found.inode is None or not self._loader.is_fresh(parts, found, ReadOptions()):
            found = await self._syncing.looked_at(run, parts)
        if found.inode is not None and found.inode.is_directory and self._syncing.has_roots(parts):
            await self._syncing.walk(run, parts, prefix=LOOKING, enough=self._enough)

    def _enough(self, parts: Parts, found: Lookup, after: bytes) -> Range | None:
        """A stretch of a directory that need not be looked at."""
        inode, located = found.inode, found.located
        if inode is None or located is None:
            return _WHOLE
        since = self._loader.since(parts, located, ReadOptions())
        if since == NEVER and inode.flags & Flag.LOADED:
            return _WHOLE
        return self._loader.covering(inode, after, since)

    async def _count(self, run: Run, parts: Parts) -> int:
        found = self._namespace.lookup(parts)
        if found.inode is None or not found.inode.is_directory:
            return 1
        files, total = Files(self._namespace, found.inode), 0
        while not files.ended:
            total += len(files.slice())
            await run.breathe()
        return total

    # ---- fetching -----------------------------------------------------------------------------------------------------

    async def _load_below(self, run: Run, parts: Parts, top: Inode) -> None:
        files, frontier, window = Files(self._namespace, top, run.cursor[1:]), Frontier(), run.window()
        reached = run.cursor[1:]
        while not files.ended:
            for met in files.slice():
                run.check()
                piece = frontier.begin(reached)
                reached = met.key
                await window.begin(partial(self._load_one, run, parts, met, frontier, piece))
                run.cursor = FETCHING + frontier.cursor(reached)
            await run.breathe()
        await window.drain()
        run.cursor = FETCHING + reached

    async def _load_one(self, run: Run, parts: Parts, met: Met, frontier: Frontier, piece: int) -> None:
        await self._load(run, (*parts, *met.key.split(b"/")))
        frontier.end(piece)

    async def _load(self, run: Run, parts: Parts) -> None:
        """One file, as it is by now."""
        for tried in range(1, TRIES + 1):
            run.check()
            try:
                await self._fetch(run, parts)
            except _AGAIN as error:
                if tried == TRIES:
                    run.fail(format_path(parts), error)
                    return
                if not await self._is_there(parts):
                    break
            except MonofsError as error:
                run.fail(format_path(parts), error)
                return
            else:
                break
        run.advance(1)

    async def _is_there(self, parts: Parts) -> bool:
        found = self._namespace.lookup(parts)
        if found.located is not None and found.located.key:
            found = await self._loader.refreshed(parts, found, ReadOptions(0.0))
        return found.inode is not None and not found.inode.is_directory

    async def _fetch(self, run: Run, parts: Parts) -> None:
        """All groups of a file; what the cache has is not fetched again."""
        found = self._namespace.lookup(parts)
        inode = found.inode
        if inode is None or inode.is_directory or inode.content == NO_CONTENT or found.located is None:
            return
        if not inode.flags & Flag.PERSISTED:
            return  # the workers that keep it are the only ones who have it
        content, groups = inode.content, -(-inode.size // GROUP_SIZE_BYTES)
        for group in range(groups):
            found = self._namespace.lookup(parts)
            if found.inode is None or found.inode.content != content or found.located is None:
                raise ContentChanged(f"{format_path(parts)} changed while it was loaded")
            token, _ = self._issuer.issue(parts, found.inode, found.located, pinned=found.pinned)
            await self._fetch_group(run, parts, found.inode, group, token)

    async def _fetch_group(self, run: Run, parts: Parts, inode: Inode, group: int, token: bytes) -> None:
        length = group_length(inode.size, group)
        request = FetchRequest(token, group, pages_mask(0, page_count(length) - 1))

        async def ask() -> FetchAnswer:
            at = group * GROUP_SIZE_BYTES
            return await self._channels.ask_owner(inode, at, Method.FETCH, request, FetchAnswer, FETCH_TIMEOUT_S)

        answer = await run.persist(ask, also=SILENT)
        if not answer.cached:
            raise TierFull(f"there is no room to cache {format_path(parts)}: free or unpin something, or raise a quota")
        run.advance(bytes_=length)
        run.count("fetched_bytes", answer.fetched_bytes)
