"""MAKE_DIRECTORY, CREATE, DELETE, RENAME, SET_PIN and FREE.

Each is one proposal; whether it may be done is decided in ``apply`` (law 3). What is checked here before saves work only, but for
rights and modes, which are decided here. A change is audited once its outcome is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from monofs.master.access import R_OK, W_OK, X_OK, check_access
from monofs.master.auditing import audited
from monofs.master.members import Members
from monofs.master.proposing import Proposer
from monofs.master.reading import Reading
from monofs.master.walking import Met, walk_contents
from monofs.metadata.entries import Change, Create, Delete, Free, MakeDirectory, Rename, SetPin
from monofs.metadata.namespace import Namespace
from monofs.model.errors import IsADirectory, MonofsError, NotFound
from monofs.model.inode import Inode
from monofs.model.paths import Parts, format_path, parse_path
from monofs.model.principal import Right
from monofs.rpc.api import (
    CreateRequest,
    DeleteRequest,
    Empty,
    FeedKind,
    FreeAnswer,
    FreeRequest,
    InodeAnswer,
    MakeDirectoryRequest,
    Message,
    RenameRequest,
    SetPinRequest,
)
from monofs.rpc.service import Call

FEED_CONTENTS = 1000
FREE_WAIT_S = 10.0
_MODE_BITS = 0o7777


class Changing:
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

    # ---- one entry each -----------------------------------------------------------------------------------------------

    def make_directory(self, request: MakeDirectoryRequest, call: Call) -> None:
        """Answers the record. ``AlreadyExists``, ``NotFound`` (no parent), ``ReadOnly`` and the journal's errors."""
        parts = parse_path(request.path)
        principal = call.principal

        def change() -> Change:
            self._check_parent(parts, call)
            gid = principal.groups[0] if principal.groups else 0
            stamp = self._proposer.stamp(request.request)
            mode = request.mode & _MODE_BITS
            return MakeDirectory(stamp, request.path, mode, principal.uid, gid, request.parents, request.exist_ok)

        self._propose(call, "mkdir", request.path, "", change, _inode_answer)

    def create(self, request: CreateRequest, call: Call) -> None:
        """Answers the record of the new, empty file."""
        parts = parse_path(request.path)
        principal = call.principal

        def change() -> Change:
            self._check_parent(parts, call)
            gid = principal.groups[0] if principal.groups else 0
            return Create(
                self._proposer.stamp(request.request), request.path, request.mode & _MODE_BITS, principal.uid, gid
            )

        self._propose(call, "create", request.path, "", change, _inode_answer)

    def delete(self, request: DeleteRequest, call: Call) -> None:
        """Removes a file or an empty directory."""
        parts = parse_path(request.path)

        def change() -> Change:
            self._check_parent(parts, call)
            return Delete(self._proposer.stamp(request.request), request.path)

        self._propose(call, "delete", request.path, "", change, _empty_answer)

    def rename(self, request: RenameRequest, call: Call) -> None:
        """Answers the record under its new name."""
        source, target = parse_path(request.source), parse_path(request.target)

        def change() -> Change:
            self._check_parent(source, call)
            self._check_parent(target, call)
            return Rename(self._proposer.stamp(request.request), request.source, request.target)

        self._propose(call, "rename", request.source, request.target, change, _inode_answer)

    def _propose(
        self,
        call: Call,
        command: str,
        source: str,
        target: str,
        make: Callable[[], Change],
        answer: Callable[[Any], Message],
    ) -> None:
        """No Deferred: this is the hot path of writers."""
        record = audited(call, command, source, target)
        try:
            check_access(call.principal, Right.WRITE)
            change = make()
        except MonofsError as error:
            record(error)
            raise

        def done(result: Any) -> None:
            if isinstance(result, MonofsError):
                record(result)
                call.fail(result)
            else:
                record(None)
                call.answer(answer(result))
            self._members.wake()

        self._proposer.propose_to(change, done)

    def _check_parent(self, parts: Parts, call: Call) -> None:
        """Changing a name needs write and search permission on the deepest directory that exists above it."""
        if self._permissions:
            check_access(call.principal, Right.WRITE, self._reading.chain(parts[:-1]), W_OK | X_OK)

    # ---- pins and free ------------------------------------------------------------------------------------------------

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


def _inode_answer(raw: bytes) -> InodeAnswer:
    return InodeAnswer(msgspec.Raw(raw))


def _empty_answer(_: None) -> Empty:
    return Empty()
