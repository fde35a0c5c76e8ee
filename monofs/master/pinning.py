"""SET_PIN and FREE: what workers keep, and what they drop, of what lies below a path. They are told through the feed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from monofs.master.access import R_OK, W_OK, check_access
from monofs.master.auditing import audited
from monofs.master.members import Members
from monofs.master.proposing import Proposer
from monofs.master.reading import Reading
from monofs.master.walking import Met, walk_contents
from monofs.metadata.entries import Free, SetPin
from monofs.metadata.namespace import Namespace
from monofs.model.errors import IsADirectory, NotFound
from monofs.model.inode import Inode
from monofs.model.paths import format_path, parse_path
from monofs.model.principal import Right
from monofs.rpc.api import FeedKind, FreeAnswer, FreeRequest, InodeAnswer, SetPinRequest
from monofs.rpc.service import Call

FEED_CONTENTS = 1000
FREE_WAIT_S = 10.0


class Pinning:
    """Handlers of one master."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        reading: Reading,
        members: Members,
        *,
        permissions: bool,
        reactor: Any,
    ) -> None:
        self._namespace, self._proposer, self._reading, self._members = namespace, proposer, reading, members
        self._permissions, self._reactor = permissions, reactor

    def set_pin(self, request: SetPinRequest, call: Call) -> Deferred[Any]:
        """Answers the record; workers are told through the feed to pin or unpin what they have of the contents below."""
        record = audited(call, "pin" if request.pinned else "unpin", request.path, "")
        return record.around(self._set_pin(request, call))

    async def _set_pin(self, request: SetPinRequest, call: Call) -> InodeAnswer:
        parts = parse_path(request.path)
        check_access(call.principal, Right.WRITE, self._reading.chain(parts), W_OK if self._permissions else 0)
        await self._reading.known(parts)
        raw = await self._proposer.propose(SetPin(self._proposer.stamp(request.request), request.path, request.pinned))
        found = self._namespace.lookup(parts)
        if found.inode is not None and found.pinned == request.pinned:
            kind = FeedKind.PIN if request.pinned else FeedKind.UNPIN
            await self._feed(found.inode, kind, lambda met: request.pinned or not met.pinned)
        return InodeAnswer(msgspec.Raw(raw))

    def free(self, request: FreeRequest, call: Call) -> Deferred[Any]:
        """Answers once every live worker has dropped the pages, or after ten seconds with how many have not yet."""
        return audited(call, "free", request.path, "").around(self._free(request, call))

    async def _free(self, request: FreeRequest, call: Call) -> FreeAnswer:
        parts = parse_path(request.path)
        check_access(call.principal, Right.WRITE, self._reading.chain(parts), R_OK if self._permissions else 0)
        found = self._namespace.lookup(parts)
        if found.inode is None:
            raise NotFound(f"{format_path(parts)} is not known here, so nothing of it is cached", path=request.path)
        if found.inode.is_directory and not request.recursive:
            raise IsADirectory(
                f"{format_path(parts)} is a directory: free it recursively (fs free -R)", path=request.path
            )
        kept = 0
        above = found.pinned

        def wanted(met: Met) -> bool:
            nonlocal kept
            if not met.persisted:
                return False  # only the cache has it: no order frees it, so none is counted
            if request.force or not (above or met.pinned):
                return True
            kept += 1
            return False

        kind = FeedKind.FREE_FORCED if request.force else FeedKind.FREE
        files, last = await self._feed(found.inode, kind, wanted)
        behind = await self._members.when_passed(last, FREE_WAIT_S) if files else 0
        return FreeAnswer(files, kept, behind)

    async def _feed(self, top: Inode, kind: FeedKind, wanted: Callable[[Met], bool]) -> tuple[int, int]:
        """Put the wanted contents below ``top`` into the feed; (how many, last feed index)."""
        total, last = 0, 0
        waiting: list[int] = []
        async for slice_ in walk_contents(self._namespace, top, self._reactor):
            waiting.extend(met.content for met in slice_ if wanted(met))
            while len(waiting) >= FEED_CONTENTS:
                last = await self._proposer.insist(Free(self._proposer.stamp(), kind, waiting[:FEED_CONTENTS]))
                total += FEED_CONTENTS
                del waiting[:FEED_CONTENTS]
        if waiting:
            last = await self._proposer.insist(Free(self._proposer.stamp(), kind, waiting))
            total += len(waiting)
        return total, last
