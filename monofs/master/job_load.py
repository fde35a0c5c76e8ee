"""LOAD: everything below a path, or what a list names there, is brought into the cache: what is not known of it is looked at in the store, its
pages are fetched by the workers of each block, as many of them as copies are wanted, and at the end it is looked whether they are all there.

``cursor``: ``s`` and the cursor of the looking (job_sync.py); ``f`` and the position of the first file that is not loaded; ``v`` and that of the first
that was not looked at again. A position is a key below the path, or one of a list (job_list.py). A file that cannot be loaded is tried
a few times, counted and named; while no worker lives, the job waits.

Invariant: a load that is done without failures left every page of its files at as many workers as it was asked for, as of the last look.
Not here: which copies are kept afterwards (policies, worker/handing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from monofs.master.below import Files, Frontier
from monofs.master.channels import SILENT, Channels
from monofs.master.freshness import NEVER, Range
from monofs.master.issuing import Issuer
from monofs.master.job_list import Item, PathList
from monofs.master.job_run import TOTAL_BYTES, Run
from monofs.master.job_sync import Syncing
from monofs.master.loading import Loader
from monofs.master.pacing import Pace
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.model.block import GROUP_SIZE_BYTES, group_length, page_count, pages_mask
from monofs.model.errors import CapabilityExpired, ContentChanged, MonofsError, NotCached, NotFound, NoWorker, TierFull
from monofs.model.ids import NO_CONTENT, ContentId
from monofs.model.inode import Flag, Inode
from monofs.model.paths import Parts, format_path, parse_path
from monofs.rpc.api import CachedAnswer, CachedRequest, FetchAnswer, FetchRequest, Method, ReadOptions
from monofs.tiering.group import mask_bytes

FETCH_TIMEOUT_S = 30.0
"""Then it is asked again, of whoever owns the block by then: a worker that is gone keeps nobody waiting, and what a slow store brought has landed."""
TRIES = 4
LOOKING, FETCHING, CHECKING = b"s", b"f", b"v"
UNLISTED, WITHOUT_ROOM, NOT_CACHED = "unlisted", "without_room", "not_cached_bytes"
"""Among the counts: directories that could not be listed, files the cache had no room for, and bytes that were not in it at the end."""
CHECKED_GROUPS = 10_000
"""About so many groups workers are asked for at once."""
LOOKS_MAX = 5
"""Times what is missing at the end is loaded again while workers come and go."""
EVICTED = "evicted"
"""Why a group left a worker's cache, when it was for room: it is not brought again."""
TOO_FEW = "too few"
"""Why a copy is missing: its worker does not live."""
Do = Callable[[Parts], Coroutine[Deferred[Any], Any, None]]
_AGAIN = (ContentChanged, CapabilityExpired, NotFound)
"""The file is another one by now: look, and load what it is."""
_WHOLE = Range(b"", None, 0.0)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a job was asked for. ``replicas`` 0: as the policy of each path says."""

    top: Parts
    replicas: int
    verify: str
    """'': look at the end whether all is there; ``after``: compare it with its checksums too; ``only``: that alone, load nothing."""
    index: str
    separator: bytes


class Piece(NamedTuple):
    """Some pages of a content's group."""

    content: ContentId
    group: int
    pages: int
    size_bytes: int


class File(NamedTuple):
    """A file whose pages are looked for, as it was then. ``is_strict``: so many copies were asked for, and not just as many as workers live."""

    parts: Parts
    inode: Inode
    copies: int
    is_strict: bool

    def short(self, live: int) -> int:
        """How many copies a block lacks for want of workers."""
        return max(0, self.copies - live) if self.is_strict else 0


class Lost(NamedTuple):
    """Bytes of a file that are not where they should be, and why, if that is known: how groups of it left a cache, or ``TOO_FEW``."""

    file: File
    size_bytes: int
    why: str


class Walk:
    """The files of a job, in the order of their positions: those below a directory, or one file."""

    def __init__(self, namespace: Namespace, top: Parts, inode: Inode, position: bytes) -> None:
        self.position, self.ended = position, False
        self._top = top
        self._files = Files(namespace, inode, position) if inode.is_directory else None

    async def slice(self) -> list[Item]:
        """The next of them; it may be empty before the end."""
        if self._files is None:
            self.ended = True
            return [Item(b"", self._top)]
        met = self._files.slice()
        self.ended = self._files.ended
        return [Item(each.key, (*self._top, *each.key.split(b"/"))) for each in met]


class Loading:
    """How LOAD jobs are worked on."""

    def __init__(
        self,
        namespace: Namespace,
        loader: Loader,
        syncing: Syncing,
        issuer: Issuer,
        channels: Channels,
        clock: Callable[[], float],
    ) -> None:
        self._namespace, self._loader, self._syncing = namespace, loader, syncing
        self._issuer, self._channels, self._clock = issuer, channels, clock

    async def work(self, run: Run) -> None:
        """All of one job."""
        given = run.job.arguments
        separator = b"\0" if given.get("nul") == "true" else b"\n"
        wish = Wish(
            parse_path(run.job.path),
            int(given.get("replicas", 0)),
            given.get("verify", ""),
            given.get("index", ""),
            separator,
        )
        if run.cursor[:1] not in (FETCHING, CHECKING):
            if not wish.index:
                await self._look(run, wish.top)
            if given.get("metadata_only") == "true":
                if wish.index:
                    await self._each(run, wish, LOOKING, partial(self._pass, run))
                return
            if run.failed:
                run.counts[UNLISTED] = run.failed
            run.begin(CHECKING if wish.verify == "only" else FETCHING, await self._count(run, wish))
        pace = Pace(int(given.get("bandwidth", 0)), self._clock)
        if run.cursor[:1] == FETCHING:
            await self._each(run, wish, FETCHING, partial(self._load, run, wish, pace, first=True))
            done, total = run.done, run.total
            run.begin(CHECKING, total)
            run.done = 0 if wish.verify else done
        load = partial(self._load, run, wish, pace, first=False)
        if run.cursor == CHECKING:  # failures are counted anew: what was tried again may be there
            run.failed = run.counts.get(UNLISTED, 0)
            run.counts.pop(NOT_CACHED, None)
        if wish.verify:
            await self._each(run, wish, CHECKING, partial(self._verify, run, wish, load))
        else:
            await self._look_again(run, wish, load)

    @staticmethod
    async def _pass(run: Run, _: Parts) -> None:
        """Looking was all."""
        _count_file(run)

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

    async def _count(self, run: Run, wish: Wish) -> int:
        """How many files it is about."""
        if wish.index:
            return await self._list(run, wish, b"").count()
        found = self._namespace.lookup(wish.top)
        if found.inode is None:
            return 0
        if not found.inode.is_directory:
            run.counts[TOTAL_BYTES] = found.inode.size
            return 1
        files, total, size = Files(self._namespace, found.inode), 0, 0
        while not files.ended:
            met = files.slice()
            total += len(met)
            size += sum(each.inode.size for each in met if each.inode.flags & Flag.PERSISTED)
            await run.breathe()
        run.counts[TOTAL_BYTES] = size
        return total

    # ---- walking ------------------------------------------------------------------------------------------------------

    def _walk(self, run: Run, wish: Wish, position: bytes) -> Walk | PathList | None:
        if wish.index:
            return self._list(run, wish, position)
        inode = self._namespace.lookup(wish.top).inode
        return None if inode is None else Walk(self._namespace, wish.top, inode, position)

    def _list(self, run: Run, wish: Wish, position: bytes) -> PathList:
        return PathList(
            self._namespace,
            self._loader,
            self._issuer,
            self._channels,
            run,
            wish.index,
            wish.top,
            position=position,
            separator=wish.separator,
        )

    async def _each(self, run: Run, wish: Wish, phase: bytes, do: Do) -> None:
        """``do`` to every file from the cursor on, several at a time."""
        walk = self._walk(run, wish, run.cursor[1:])
        if walk is None:
            return
        frontier, window, reached = Frontier(), run.window(), run.cursor[1:]
        while not walk.ended:
            for item in await walk.slice():
                run.check()
                piece = frontier.begin(reached)
                reached = item.position
                await window.begin(partial(self._do_one, run, item, do, frontier, piece))
                run.cursor = phase + frontier.cursor(reached)
            await run.breathe()
        await window.drain()
        run.cursor = phase + reached

    async def _do_one(self, run: Run, item: Item, do: Do, frontier: Frontier, piece: int) -> None:
        if item.error is not None:
            run.fail(item.name, item.error)
        else:
            await do(item.parts)
        frontier.end(piece)

    # ---- fetching -----------------------------------------------------------------------------------------------------

    async def _load(self, run: Run, wish: Wish, pace: Pace, parts: Parts, *, first: bool) -> None:
        """One file, as it is by now. ``first``: it counts, and its bytes."""
        for tried in range(1, TRIES + 1):
            run.check()
            try:
                await self._fetch(run, wish, pace, parts, first=first)
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
        if first:
            _count_file(run)

    async def _is_there(self, parts: Parts) -> bool:
        found = self._namespace.lookup(parts)
        if found.located is not None and found.located.key:
            found = await self._loader.refreshed(parts, found, ReadOptions(0.0))
        return found.inode is not None and not found.inode.is_directory

    def _file(self, parts: Parts) -> Lookup | None:
        """What a path leads to, if it is a file with bytes that stores have: those that only workers have are where they are."""
        found = self._namespace.lookup(parts)
        inode = found.inode
        if inode is None or inode.is_directory or inode.content == NO_CONTENT or found.located is None:
            return None
        return found if inode.flags & Flag.PERSISTED else None

    def _copies(self, wish: Wish, parts: Parts) -> int:
        """How many are wanted. A policy may have been made for a larger cluster than there is now."""
        width = max(1, self._namespace.slots.replicas)
        return wish.replicas or min(self._namespace.policy_for(parts).replicas or 1, width)

    async def _fetch(self, run: Run, wish: Wish, pace: Pace, parts: Parts, *, first: bool) -> None:
        """All groups of a file; what the cache has is not fetched again."""
        found = self._file(parts)
        if found is None or found.inode is None:
            return
        inode, copies = found.inode, self._copies(wish, parts)
        for group in range(_groups(inode)):
            length = group_length(inode.size, group)
            for page in range(0, page_count(length), pace.pages):
                pages = pages_mask(page, min(page + pace.pages, page_count(length)) - 1)
                piece = Piece(inode.content, group, pages, mask_bytes(length, pages))
                for place in range(copies):
                    await self._fetch_piece(run, pace, parts, piece, place)
                if first:
                    _count_bytes(run, piece.size_bytes)

    async def _fetch_piece(self, run: Run, pace: Pace, parts: Parts, piece: Piece, place: int) -> None:
        """At the worker in this place of the block's. The first one gets them from the store, the others from it."""
        wait_s = pace.take(piece.size_bytes)
        if wait_s > 0:
            await run.pause(wait_s)
        found = self._file(parts)
        if found is None or found.inode is None or found.inode.content != piece.content:
            raise ContentChanged(f"{format_path(parts)} changed while it was loaded")
        inode, at = found.inode, piece.group * GROUP_SIZE_BYTES
        token, _ = self._issuer.issue(parts, inode, found.located, pinned=found.pinned)
        request = FetchRequest(token, piece.group, piece.pages, unread=True)

        async def ask() -> FetchAnswer:
            if not place:
                return await self._channels.ask_owner(inode, at, Method.FETCH, request, FetchAnswer, FETCH_TIMEOUT_S)
            owners = self._channels.owners(inode, at)
            if place >= len(owners):
                return FetchAnswer(0)  # so few live: it is told at the end
            return await self._channels.call(owners[place], Method.FETCH, request, FetchAnswer, FETCH_TIMEOUT_S)

        answer = await run.persist(ask, also=SILENT)
        if not answer.cached:
            run.count(WITHOUT_ROOM)
            raise TierFull(f"there is no room to cache {format_path(parts)}: free or unpin something, or raise a quota")
        pace.give_back(max(0, piece.size_bytes - answer.fetched_bytes))
        run.count("copied_bytes" if place else "fetched_bytes", answer.fetched_bytes)

    # ---- is it all there? -----------------------------------------------------------------------------------------------

    async def _look_again(self, run: Run, wish: Wish, load: Do) -> None:
        """Load once more what a worker lost on the way, unless that was for want of room: it would drive out others. Count and name what is not in
        the cache then, whatever the reason."""
        walk = self._walk(run, wish, run.cursor[1:])
        while walk is not None and not walk.ended:
            items = await walk.slice()
            for item in items:
                if item.error is not None:
                    run.fail(item.name, item.error)
            for files in _batches(self._files(wish, items)):
                for each in await self._lost_at_last(run, files, load):
                    self._tell_lost(run, each)
            run.cursor = CHECKING + (items[-1].position if items else run.cursor[1:])
            await run.breathe()

    async def _lost_at_last(self, run: Run, files: list[File], load: Do) -> list[Lost]:
        """What of some files is not cached though it was loaded once more. When other workers came to own blocks meanwhile, they are looked at again."""
        lost = await self._lost(run, files)
        for _ in range(LOOKS_MAX):
            if not lost or run.counts.get(WITHOUT_ROOM) or any(each.why == EVICTED for each in lost):
                break
            epoch, window = self._namespace.slots.epoch, run.window()
            for each in lost:
                if each.why != TOO_FEW:
                    await window.begin(partial(load, each.file.parts))
            await window.drain()
            lost = await self._lost(run, [each.file for each in lost])
            if epoch == self._namespace.slots.epoch:
                break
        return lost

    def _files(self, wish: Wish, items: list[Item]) -> Iterator[File]:
        for item in items:
            found = self._file(item.parts) if item.error is None else None
            if found is not None and found.inode is not None:
                yield File(item.parts, found.inode, self._copies(wish, item.parts), bool(wish.replicas))

    def _workers(self, file: File, group: int) -> list[int]:
        """Those live workers that are to have a group. ``NoWorker`` while none lives."""
        owners = self._channels.owners(file.inode, group * GROUP_SIZE_BYTES)
        if not owners:
            raise NoWorker("no worker lives: `monofs admin report` lists those that are known")
        return owners[: file.copies]

    async def _lost(self, run: Run, files: list[File]) -> list[Lost]:
        """Those of some files that are not wholly cached; the workers of all their blocks are asked at once."""

        async def ask() -> list[Lost]:
            asked: dict[int, dict[int, None]] = {}
            owners = {}
            """Those asked: by the time they answer others may own the blocks."""
            for file in files:
                for group in range(_groups(file.inode)):
                    owners[file.inode.content, group] = self._workers(file, group)
                    for worker in owners[file.inode.content, group]:
                        asked.setdefault(worker, {})[file.inode.content] = None
            there: dict[tuple[int, int, int], int] = {}
            why: dict[int, str] = {}
            for worker, contents in asked.items():
                request = CachedRequest(list(contents))
                answer = await self._channels.call(worker, Method.CACHED, request, CachedAnswer, FETCH_TIMEOUT_S)
                there |= {(worker, each.content, each.group): each.pages for each in answer.groups}
                why |= {each.content: each.why for each in answer.gone}
            lost = (self._lost_of(file, owners, there, why.get(file.inode.content, "")) for file in files)
            return [each for each in lost if each.size_bytes]

        return await run.persist(ask, also=SILENT)

    def _lost_of(
        self,
        file: File,
        asked: dict[tuple[ContentId, int], list[int]],
        there: dict[tuple[int, int, int], int],
        why: str,
    ) -> Lost:
        inode, missed, short = file.inode, 0, 0
        for group in range(_groups(inode)):
            length, pages = group_length(inode.size, group), _all_pages(inode, group)
            owners = asked[inode.content, group]
            short += file.short(len(owners)) * length
            for worker in owners:
                missed += mask_bytes(length, pages & ~there.get((worker, inode.content, group), 0))
        return Lost(file, missed + short, why if missed else TOO_FEW)

    async def _verify(self, run: Run, wish: Wish, load: Do, parts: Parts) -> None:
        """Have the workers of a file's blocks compare its pages with their checksums; wrong ones are dropped, and loaded again if that is wanted."""
        for file in self._files(wish, [Item(b"", parts)]):
            for last in (wish.verify == "only", True):
                missed = short = 0
                for group in range(_groups(file.inode)):
                    wrong, lacking = await run.persist(partial(self._verified, file, group), also=SILENT)
                    missed, short = missed + wrong, short + lacking
                    if wish.verify == "only":
                        _count_bytes(run, group_length(file.inode.size, group))
                if not missed or last:
                    break
                run.count("loaded_again_bytes", missed)
                await load(parts)
            self._tell_lost(run, Lost(file, missed + short, "" if missed else TOO_FEW))
            if missed + short:
                return
        _count_file(run)

    async def _verified(self, file: File, group: int) -> tuple[int, int]:
        """Bytes of a group that are missing or wrong, of all copies together that workers are there for; and of those that none is there for."""
        inode, pages, length = file.inode, _all_pages(file.inode, group), group_length(file.inode.size, group)
        owners, missed = self._workers(file, group), 0
        for worker in owners:
            found = self._namespace.lookup(file.parts)
            token, _ = self._issuer.issue(file.parts, inode, found.located, pinned=found.pinned)
            request = FetchRequest(token, group, pages, check=True)
            answer = await self._channels.call(worker, Method.FETCH, request, FetchAnswer, FETCH_TIMEOUT_S)
            missed += mask_bytes(length, pages & ~answer.present)
        return missed, file.short(len(owners)) * length

    def _tell_lost(self, run: Run, lost: Lost) -> None:
        if not lost.size_bytes:
            return
        path = format_path(lost.file.parts)
        run.count(NOT_CACHED, lost.size_bytes)
        known = run.failures.get(path, "")
        what = f"{lost.size_bytes} bytes of it are not in the cache at the end"
        run.fail(path, NotCached(known or what + _REASONS.get(lost.why, "")))


_REASONS = {
    EVICTED: ": the cache has no room for all that was loaded",
    TOO_FEW: ": some of the workers that are to have copies do not live",
}


def _count_file(run: Run) -> None:
    """One more is done; those a restart repeats count once."""
    run.advance(int(run.total < 0 or run.done < run.total))


def _count_bytes(run: Run, size: int) -> None:
    """So many bytes are done; those a restart repeats count once."""
    left = run.counts.get(TOTAL_BYTES, run.bytes_done + size) - run.bytes_done
    run.advance(bytes_=max(0, min(size, left)))


def _batches(files: Iterator[File]) -> Iterator[list[File]]:
    """Of about so many groups each as may be asked for at once."""
    batch: list[File] = []
    groups = 0
    for file in files:
        batch.append(file)
        groups += _groups(file.inode) * file.copies
        if groups >= CHECKED_GROUPS:
            yield batch
            batch, groups = [], 0
    if batch:
        yield batch


def _groups(inode: Inode) -> int:
    return -(-inode.size // GROUP_SIZE_BYTES)


def _all_pages(inode: Inode, group: int) -> int:
    return pages_mask(0, page_count(group_length(inode.size, group)) - 1)
