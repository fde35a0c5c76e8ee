"""LIST: a page of a directory, from the tree where the tree may speak, else after the store's page was taken over.

A page never claims more than was looked at: it ends where the fresh ranges end, and its ``next`` is that position, so pages may be
shorter than asked, even empty, before the last. While a client reads one page, the next is taken over in the background.

Invariant: names of a page are sorted keys greater than ``after``; ``next`` is greater than all of them or equal to the last; so a
name present throughout a paged listing is shown exactly once. Memory is O(page).
"""

from __future__ import annotations

from functools import partial

import msgspec
from twisted.internet.defer import Deferred

from monofs.master.access import R_OK, check_access
from monofs.master.freshness import NEVER, Range
from monofs.master.loading import Loader, awaited
from monofs.master.reading import Reading, parse
from monofs.master.stores import UNAVAILABLE
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.model.errors import InvalidArgument, NotADirectory, UfsNotFound
from monofs.model.inode import Flag, Inode, decode_inode
from monofs.model.mount import Located
from monofs.model.options import LoadType
from monofs.model.paths import Parts, format_path
from monofs.model.principal import Right
from monofs.rpc.api import NIL, ListAnswer, ListRequest, ReadOptions
from monofs.rpc.service import Call

LIMIT_MAX = 10_000
AFTER_MAX_BYTES = 257
_WHOLE = Range(b"", None, 0.0)
"""The tree may speak for all of a directory."""


class Listing:
    """The LIST handler of one master."""

    def __init__(self, namespace: Namespace, loader: Loader, reading: Reading) -> None:
        self._namespace, self._loader, self._reading = namespace, loader, reading
        self._nested_index = -1
        self._nested: dict[Parts, dict[bytes, int]] = {}

    def list(self, request: ListRequest, call: Call) -> ListAnswer | Deferred[ListAnswer]:
        """One page. ``NotFound``, ``NotADirectory``, or the store's error."""
        if not 1 <= request.limit <= LIMIT_MAX:
            raise InvalidArgument(f"limit {request.limit} is not from 1 to {LIMIT_MAX}")
        if len(request.after) > AFTER_MAX_BYTES:
            raise InvalidArgument("after is longer than any name")
        parts = parse(request.path)
        found = self._namespace.lookup(parts)
        if found.inode is not None and found.inode.is_directory:
            seen = self.seen(parts, found, request.after, request.options)
            if seen is not None:
                return self._answer(parts, found.inode, found, request, call, seen)
        call.waits_for = awaited(found.located, parts)
        return Deferred.fromCoroutine(self._list_looked_at(parts, found, request, call))

    def since(self, parts: Parts, found: Lookup, options: ReadOptions) -> float:
        """When a look must have begun. ALWAYS: with the request, for a listing shows what is missing here."""
        if found.located is None:
            return NEVER
        if options.load == LoadType.ALWAYS:
            options = msgspec.structs.replace(options, sync_interval_s=0.0)
        return self._loader.since(parts, found.located, options)

    def seen(self, parts: Parts, found: Lookup, after: bytes, options: ReadOptions) -> Range | None:
        """The range of a directory right behind ``after`` that the tree may speak for; None: the store must be asked."""
        if found.located is None or options.load == LoadType.NEVER:
            return _WHOLE
        if self._loader.merger.is_covered(parts, below=True):
            return _WHOLE
        assert found.inode is not None  # noqa: S101 - the caller has a directory
        since = self.since(parts, found, options)
        if since == NEVER and found.inode.flags & Flag.LOADED:
            return _WHOLE
        return self._loader.covering(found.inode, after, since)

    async def _list_looked_at(self, parts: Parts, found: Lookup, request: ListRequest, call: Call) -> ListAnswer:
        options = request.options
        if found.inode is None or not found.inode.is_directory:
            if not self._loader.is_fresh(parts, found, options):
                found = await self._loader.refreshed(parts, found, options)
            if found.inode is None:
                raise self._reading.absence(parts, found, call)
            if not found.inode.is_directory:
                raise NotADirectory(f"{format_path(parts)} is not a directory", path=format_path(parts))
        seen = self.seen(parts, found, request.after, options)
        if seen is None:
            seen = await self.look(parts, found, request.after, options, deep=request.deep)
            found = self._namespace.lookup(parts)
        directory = found.inode
        if directory is None or not directory.is_directory:
            raise self._reading.absence(parts, found, call)
        return self._answer(parts, directory, found, request, call, seen)

    def may_be_old(self, parts: Parts, located: Located, options: ReadOptions) -> bool:
        """Whether what a store told a moment ago will do."""
        return options.load != LoadType.ALWAYS and self._loader.interval_s(parts, located.mount, options) != 0

    async def look(
        self, parts: Parts, found: Lookup, after: bytes, options: ReadOptions, *, deep: bool = False
    ) -> Range:
        """Take over the page behind ``after``; a directory that is gone from the store is looked at itself. ``deep``: all below it will be listed."""
        inode, located = found.inode, found.located
        assert inode is not None  # noqa: S101 - the caller has a directory
        assert located is not None  # noqa: S101 - under a mount
        deep = deep and self.may_be_old(parts, located, options)
        try:
            look = partial(self._loader.page, parts, inode, after, self.since(parts, found, options), deep=deep)
            loaded = inode.flags & Flag.LOADED
            seen = await (self._loader.patiently(parts, located.mount, options, look) if loaded else look())
            gone = not after and seen.through is None and not self._namespace.children(inode.id, b"", 1)
            gone = gone and not self._loader.is_marked(parts)
        except UfsNotFound:
            seen, gone = _WHOLE, True
        except UNAVAILABLE as error:
            if not inode.flags & Flag.LOADED:
                raise
            self._loader.check_servable(parts, found, options, error)
            return _WHOLE
        if gone and located.key and not inode.flags & Flag.EXPLICIT:
            await self._loader.refreshed(parts, found, options)
        return seen

    def _answer(
        self, parts: Parts, directory: Inode, found: Lookup, request: ListRequest, call: Call, seen: Range
    ) -> ListAnswer:
        check_access(call.principal, Right.READ, self._reading.chain(parts), R_OK)
        names: list[bytes] = []
        inodes: list[msgspec.Raw] = []
        position: bytes | None = request.after
        since = self.since(parts, found, request.options)
        while position is not None and len(names) < request.limit:
            wanted = request.limit - len(names)
            records = self._namespace.children(directory.id, position, wanted)
            ended = len(records) < wanted
            for name, raw in records:
                if seen.through is not None and name > seen.through:
                    ended = True
                    break
                names.append(name)
                inodes.append(msgspec.Raw(raw))
            if not ended:
                position = names[-1]
                break
            position = seen.through
            if position is None:
                break
            more = self._loader.covering(directory, position, since)
            if more is None:
                break
            seen = more
        if position is not None and found.located is not None and seen is not _WHOLE:
            self._load_behind(parts, directory, found, position, since, deep=request.deep)
        nested = self._nested_in(parts)
        mounts = {at: nested[name] for at, name in enumerate(names) if name in nested} if nested else {}
        answer = ListAnswer(names, inodes, position, mounts)
        if request.attributes:
            answer.attributes = [
                msgspec.Raw(self._namespace.raw_attributes(decode_inode(raw)) or NIL) for raw in inodes
            ]
        return answer

    def _load_behind(
        self, parts: Parts, directory: Inode, found: Lookup, position: bytes, since: float, *, deep: bool
    ) -> None:
        """So that the next page is ready when it is asked for. An interval of 0 would not accept it."""
        assert found.located is not None  # noqa: S101 - checked by the caller
        if since < self._loader.now() and self._loader.covering(directory, position, since) is None:
            self._loader.load_behind(parts, directory, found.located, position, deep_since=since if deep else None)

    def _nested_in(self, parts: Parts) -> dict[bytes, int]:
        """Names (with ``/``) of mount points right below a path."""
        if self._nested_index != self._namespace.mounts_index:
            self._nested_index = self._namespace.mounts_index
            self._nested = {}
            for prefix, mount in self._namespace.mounts():
                if prefix:
                    self._nested.setdefault(prefix[:-1], {})[prefix[-1] + b"/"] = mount.id
        return self._nested.get(parts, {})
