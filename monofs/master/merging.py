"""Merging pages of a store's listing with the tree: ask, compare, adopt, remember what the page spoke for.

Invariant: the tree changes only by ADOPT_PAGE, proposed only on a difference, with the index read *before* the store was asked. Memory is
O(page). Not here: when a page is to be asked for (loading.py, job_sync.py), and what of it is believed (apply).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from monofs.master.comparing import Spoken, found_of, key_of, marker_differs, page_differs, record_differs
from monofs.master.freshness import Freshness, Range
from monofs.master.proposing import Proposer
from monofs.master.stores import Stores
from monofs.metadata.entries import AdoptPage, Found
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import MARKER_BYTES_LEVEL, MARKERS_LEVEL
from monofs.model.errors import ConditionFailed, MountNotFound, UfsNotFound
from monofs.model.inode import Flag, Inode, decode_inode
from monofs.model.mount import Mount
from monofs.model.paths import PATH_MAX_BYTES, Parts, format_path, parse_path
from monofs.observe.logs import logger
from monofs.observe.metrics import ADOPTED, ODD_NAMES
from monofs.ufs.base import UfsEntry, UfsPage

log = logger(__name__)
PAGE_ENTRIES = 1000
SLICE = 2000
"""Records of the tree compared with a page at a time."""
PAGES_KEPT = 256
ODD_KEPT = 1000
"""Names no path can hold, kept for the report."""
_LOADED = int(Flag.LOADED)


class Asked(NamedTuple):
    """A page of a store's listing on its way into the tree."""

    page: UfsPage
    mount: Mount
    """As it was when its store was asked."""
    key: str
    """Of the directory, where its objects lay then."""
    read_index: int
    at: float
    is_flat: bool = False
    """Whether a flat listing told it, of this directory and of others."""


@dataclass(slots=True)
class Tally:
    """What a look met: entries seen, names added, changed or removed by them, and the directories among them, with their ``/``."""

    seen: int = 0
    changed: int = 0
    directories: list[bytes] = field(default_factory=list)


class _Adopted(NamedTuple):
    """A stretch of a directory that was adopted at a journal index, or a little before."""

    at_index: int
    directory: int
    after: bytes
    through: bytes | None


class Merger:
    """Merges pages for one master."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        stores: Stores,
        freshness: Freshness,
        clock: Callable[[], float],
    ) -> None:
        self._namespace, self._proposer, self._stores = namespace, proposer, stores
        self._freshness, self._clock = freshness, clock
        self.odd: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        """(directory, key) of names that no path can hold."""
        self.odd_seen = 0
        self._beside: OrderedDict[Parts, None] = OrderedDict()
        """Files that were listed beside a directory of their name."""
        self._pages: deque[_Adopted] = deque(maxlen=PAGES_KEPT)
        """The pages adopted last."""

    def is_covered(self, parts: Parts, *, below: bool = False) -> bool:
        """Whether an open job deletes or moves what the store has at a path (``below``: below it): the tree alone tells what is there."""
        namespace = self._namespace
        if not namespace.known_jobs.open_trees:
            return False
        natural = namespace.natural_key(parts)
        if natural is None:
            return False
        key = natural.key + "/" if below and natural.key else natural.key
        return namespace.covering_job(natural.mount.id, key) is not None

    def covered_names(self, directory: Parts) -> frozenset[bytes]:
        """Names (with their ``/``) right below a directory that are covered as a whole."""
        jobs = self._namespace.known_jobs.open_trees
        if not jobs:
            return frozenset()
        paths = (parse_path(job.path) for job in jobs.values())
        return frozenset(parts[-1] + b"/" for parts in paths if parts and parts[:-1] == directory)

    async def ask(self, parts: Parts, after: bytes) -> Asked:
        """A page of a directory's listing, as the store shows it now. ``UfsNotFound``: it has no such directory, and nothing else keeps
        it; one that the tree keeps for itself is empty there."""
        found = self._namespace.lookup(parts)
        located = found.located
        if located is None:
            raise MountNotFound(f"nothing is mounted over {format_path(parts)} any more", path=format_path(parts))
        at, read_index, mount = self._clock(), self._namespace.applied_index, located.mount
        key = located.key.encode()
        try:
            page = await self._stores.of(mount).call(
                "list", located.key, lambda ufs: ufs.list(key, after=after, limit=PAGE_ENTRIES)
            )
        except UfsNotFound:
            if not key or found.inode is None or not found.inode.flags & Flag.EXPLICIT:
                raise
            page = UfsPage([], None)
        return Asked(page, mount, located.key, read_index, at)

    async def take_over(self, parts: Parts, directory: Inode, after: bytes, asked: Asked, tally: Tally) -> Range:
        """Merge a page with the tree. ``ConditionFailed``: a change of the mount, or very many removals, overtook it: ask again."""
        page, read_index = asked.page, asked.read_index
        self.check_mount(parts, asked.mount, asked.key)
        room = PATH_MAX_BYTES - sum(len(name) + 1 for name in parts) - 1
        found = [self._found(directory, entry) for entry in page.entries if len(entry.name) <= room]
        spoken = Spoken(self.covered_names(parts), asked.key if self._namespace.known_jobs.is_moving else None)
        if spoken.covered:
            found = [each for each in found if key_of(each) not in spoken.covered]
        self._note_odd(parts, [*page.odd, *(entry.name for entry in page.entries if len(entry.name) > room)])
        self._note_beside(parts, page.entries)
        tally.seen += len(found)
        tally.directories = [each.name + b"/" for each in found if each.is_directory]
        shown = len(tally.directories)
        proposals = await self._adopt(directory, asked, after, found, spoken, tally)
        if len(tally.directories) > shown:
            tally.directories = sorted(set(tally.directories))
        racy = frozenset(entry.name for entry in page.entries if entry.racy)
        overtaken: frozenset[bytes] = frozenset()
        if self._may_be_overtaken(directory, after, page.next, read_index, proposals):  # else the tree is the page
            overtaken = self._overtaken(directory, after, page.next, found, spoken)
        self._freshness.note_range(directory.id, Range(after, page.next, asked.at, racy | overtaken))
        if found:
            self._freshness.note_present(directory.id, asked.at)
        return Range(after, page.next, asked.at, racy, overtaken)

    def _found(self, directory: Inode, entry: UfsEntry) -> Found:
        """What is told of an entry. The marker of a directory that is known is judged with the directory's own page, by what the tree had of it when its
        store was asked; one that is added by this page is newer than that."""
        if entry.is_directory and entry.fingerprint:
            key, level = entry.name + b"/", self._namespace.level
            if level < MARKERS_LEVEL or self._namespace.get_inode(directory.id, key) is not None:
                return Found(entry.name, is_directory=True)
        return found_of(entry, entry.name)

    def check_mount(self, parts: Parts, asked: Mount, key: str) -> None:
        """Raise ``ConditionFailed`` when the mount that was asked was changed meanwhile, or what was asked about lies elsewhere now."""
        located = self._namespace.lookup(parts).located
        if located is None or located.mount.changed_index != asked.changed_index or located.key != key:
            raise ConditionFailed(f"the mount over {format_path(parts)} was changed meanwhile: try again")

    def _may_be_overtaken(
        self, directory: Inode, after: bytes, through: bytes | None, read_index: int, proposals: int
    ) -> bool:
        """Whether anything but pages of other stretches was applied since the store was asked."""
        between = self._namespace.applied_index - read_index
        if between == proposals:
            return False
        pages = [each for each in self._pages if each.at_index > read_index]
        here = sum(
            each.directory == directory.id
            and (each.through is None or after < each.through)
            and (through is None or each.after < through)
            for each in pages
        )
        return len(pages) < between or here > proposals

    def _overtaken(
        self, directory: Inode, after: bytes, through: bytes | None, found: list[Found], spoken: Spoken
    ) -> frozenset[bytes]:
        """Names a page spoke for and the tree does not show so, because another look was taken over while this one was on its way."""
        now, shown = self._namespace.applied_index, {key_of(each): each for each in found}
        names: set[bytes] = set()
        low: bytes | None = after
        while low is not None and len(names) <= PAGE_ENTRIES:
            known = self._namespace.children(directory.id, low, SLICE)
            for name, raw in known:
                if through is not None and name > through:
                    break
                record, entry = decode_inode(raw), shown.pop(name, None)
                if record_differs(record, entry, now) and not spoken.passes_over(name, record):
                    names.add(name)
            low = known[-1][0] if len(known) == SLICE and (through is None or known[-1][0] < through) else None
        names.update(shown)
        return frozenset(names)

    async def _adopt(
        self, directory: Inode, asked: Asked, after: bytes, found: list[Found], spoken: Spoken, tally: Tally
    ) -> int:
        """Merge a page with the tree, in slices of both, so that no proposal speaks for more than a slice of either; how many
        proposals that took."""
        proposals = 0
        through, read_index = asked.page.next, asked.read_index
        complete = self._freshness.completes(directory.id, after, through)
        marker = asked.page.marker if self._namespace.level >= MARKERS_LEVEL else None
        is_other = marker is not None and marker_differs(directory, marker, read_index)
        tells_bytes = self._namespace.level >= MARKER_BYTES_LEVEL
        low, last = after, False
        while not last:
            known = self._namespace.children(directory.id, low, SLICE)
            high: bytes | None = known[-1][0] if len(known) == SLICE else through
            last = high == through or (high is not None and through is not None and high > through)
            if last:
                high = through
                known = [record for record in known if through is None or record[0] <= through]
            if directory.flags & Flag.EXPLICIT:  # so may be what lies below, without the store's leave
                tally.directories += [name for name, _ in known if name.endswith(b"/")]
            part = [each for each in found if low < key_of(each) and (high is None or key_of(each) <= high)]
            now_complete = last and complete
            if (
                is_other
                or (now_complete and not directory.flags & _LOADED)
                or page_differs(known, part, read_index, spoken)
            ):
                stamp = self._proposer.stamp()
                added, changed, removed = await self._proposer.insist(
                    AdoptPage(
                        stamp,
                        directory.id,
                        asked.mount.id,
                        read_index,
                        low,
                        high,
                        part,
                        now_complete,
                        asked.key,
                        marker[:2] if marker is not None and is_other else None,
                        marker[2] if marker is not None and is_other and tells_bytes else 0,
                    )
                )
                is_other = False
                tally.changed += added + changed + removed
                self._pages.append(_Adopted(self._namespace.applied_index, directory.id, low, high))
                ADOPTED("page").value += 1
                proposals += 1
            if high is not None:
                low = high
        return proposals

    def _note_beside(self, parts: Parts, entries: Sequence[UfsEntry]) -> None:
        directories = {entry.name for entry in entries if entry.is_directory}
        for entry in entries if directories else ():
            if not entry.is_directory and entry.name in directories and len(self._beside) < ODD_KEPT:
                self._beside[*parts, entry.name] = None

    def beside_directories(self) -> list[Parts]:
        """Files that a listing showed beside a directory of their name, which is what their path means; as far as it is so still."""
        namespace = self._namespace
        for parts in [*self._beside]:
            inode, file = namespace.lookup(parts).inode, namespace.lookup_key(parts).inode
            if inode is None or not inode.is_directory or file is None:
                del self._beside[parts]
        return list(self._beside)

    def _note_odd(self, parts: Parts, names: Sequence[bytes]) -> None:
        if not names:
            return
        path = format_path(parts)
        fresh = [name for name in names if (path, name) not in self.odd]
        self.odd_seen += len(fresh)
        ODD_NAMES().add(len(fresh))
        room = ODD_KEPT - len(self.odd)
        for name in fresh[:room]:
            self.odd[path, name] = None
        if fresh and room > 0:
            log.warning(
                "names that no path can hold are unreachable", directory=path, count=len(fresh), first=repr(fresh[0])
            )
