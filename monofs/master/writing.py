"""Writing files: MAY_WRITE and BEGIN_WRITE for clients; RECORD_UPLOAD, PUBLISH, END_WRITE and ABANDON_WRITE for the worker that takes the
bytes.

The path of a write is told in docs/architecture.md. Here an intent is opened, a worker named and a capability sealed; when the worker has
acted, its outcome makes the name.

Invariant: what a worker tells about a write counts only when it comes from a node, and from the write's own worker.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from monofs.master.access import check_access
from monofs.master.attributes import check_level
from monofs.master.auditing import audited
from monofs.master.freshness import NEVER
from monofs.master.intents import Intents, raised
from monofs.master.issuing import Issuer
from monofs.master.members import Members
from monofs.master.preparing import Preparing
from monofs.master.proposing import Proposer
from monofs.master.resolving import Resolver
from monofs.metadata.entries import Found, Stamp
from monofs.metadata.intent_entries import BeginWrite, Publish, RecordUpload
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.metadata.tables import ATTRIBUTES_LEVEL, INTENTS_MAX, KEPT_LEVEL, Intent, IntentKind
from monofs.model.attributes import check_attributes
from monofs.model.block import slot_of
from monofs.model.errors import (
    AlreadyExists,
    ConditionFailed,
    InvalidArgument,
    IsADirectory,
    MonofsError,
    NotADirectory,
    NotFound,
    NotReady,
    NoWorker,
    OutcomeUnknown,
    PermissionDenied,
    UfsChanged,
    UfsUnknown,
    WriteLost,
    from_code,
)
from monofs.model.ids import NO_CONTENT, make_content_id
from monofs.model.options import WriteType
from monofs.model.paths import Parts, format_path, parse_path
from monofs.model.principal import Right
from monofs.observe.audit import audit
from monofs.observe.failpoints import failpoint
from monofs.rpc.api import (
    AbandonWriteAnswer,
    AbandonWriteRequest,
    BeginWriteAnswer,
    BeginWriteRequest,
    Empty,
    EndWriteRequest,
    Failure,
    InodeAnswer,
    MayWriteRequest,
    PublishAnswer,
    PublishRequest,
    RecordUploadRequest,
)
from monofs.rpc.service import Call

_MODE_BITS = 0o7777


class Writing:
    """Handlers of one master."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        preparing: Preparing,
        intents: Intents,
        resolver: Resolver,
        members: Members,
        issuer: Issuer,
    ) -> None:
        self._namespace, self._proposer, self._preparing = namespace, proposer, preparing
        self._intents, self._resolver, self._members, self._issuer = intents, resolver, members, issuer
        self._beginning = 0
        self._acting_since: OrderedDict[int, float] = OrderedDict()
        """Operation -> when its worker was let act, on the clock of freshness."""

    # ---- for clients --------------------------------------------------------------------------------------------------

    def may_write(self, request: MayWriteRequest, call: Call) -> Deferred[Empty]:
        """Answers Empty, or with the error BEGIN_WRITE would meet now. Nothing is journaled, locks are not waited for."""
        return Deferred.fromCoroutine(self._may_write(request, call))

    async def _may_write(self, request: MayWriteRequest, call: Call) -> Empty:
        parts = parse_path(request.path)
        self._preparing.check(call, parts)
        found = await self._preparing.known(parts, call)
        self._check_file(parts, found, call)
        path = format_path(parts)
        if found.inode is not None and request.exclusive:
            raise AlreadyExists(f"{path} exists already", path=path)
        if found.parent is not None and not found.parent.is_directory:
            raise NotADirectory(f"a component of {path} is a file", path=path)
        if found.depth < len(parts) - 1 and not request.parents:
            raise NotFound(f"the directory that should hold {path} does not exist", path=path)
        self._worker()
        return Empty()

    def begin_write(self, request: BeginWriteRequest, call: Call) -> Deferred[Any]:
        """Answers whom to send the bytes to. Refusals of ``apply``, ``NoWorker``, ``Busy``, the store's errors."""
        record = audited(call, "write", request.path, "")
        asked = self._intents.once(request.request, lambda: self._begin(request, call))

        def failed(failure: Any) -> Any:
            if isinstance(failure.value, MonofsError):
                record(failure.value)
            return failure

        return asked.addCallback(self._begun, call).addErrback(failed)

    async def _begin(self, request: BeginWriteRequest, call: Call) -> Intent | bytes:
        parts = parse_path(request.path)
        self._preparing.check(call, parts)
        if request.attributes is not None:
            check_attributes(request.attributes)
        if request.attributes is not None or request.as_key or request.if_content is not None:
            check_level(self._namespace)
        known = self._intents.of_request(request.request)
        if known is not None:
            return known
        if request.within:
            await self._check_within(request.within, call)
        unreached = self._unreached(request)
        if request.settle:
            return await self._settle(unreached, request, call)
        worker = self._worker(avoid=0 if unreached is None else unreached.worker)
        if unreached is not None:
            await self._give_up(unreached, request, call)
        if request.reached and (request.exclusive or request.if_match is not None or request.if_content is not None):
            made = self._made(request)
            if made is not None:
                return made
        found = await self._preparing.known_to_write(
            parts, call, exclusive=request.exclusive, if_match=request.if_match
        )
        as_key = request.as_key and self._preparing.takes_keys(parts)
        if as_key:
            found = self._namespace.lookup_key(parts)
        self._check_file(parts, found, call)
        write_type = self._write_type(parts, request.write_type)
        if found.depth < len(parts) - 1 and (not request.parents or write_type == WriteType.MUST_CACHE):
            # directories to be made of which no store will say that a file is in the way
            await self._preparing.known_above(parts, found.depth, call)
        place = self._preparing.place(parts)
        asker = self._intents.asker(request.request, call.principal)
        call.waits_for = f"another change of {request.path} to end"

        def make(stamp: Stamp) -> BeginWrite:
            return BeginWrite(
                stamp,
                request.path,
                request.mode & _MODE_BITS,
                request.parents,
                request.exclusive,
                request.if_match,
                request.size,
                write_type,
                worker,
                asker,
                request.attributes,
                as_key,
                request.if_content,
            )

        self._beginning += 1
        try:
            if request.size < 0:  # the path is locked, and its place made free, when it is published
                begun = await self._intents.begin([], make)
            else:
                begun = await self._intents.begin([place], make, room=lambda: self._preparing.make_room(place, call))
        finally:
            self._beginning -= 1
        assert isinstance(begun, Intent)  # noqa: S101 - a write is never there already
        if begun.acting:
            self._note_acting(begun)
        failpoint("intent.begun")
        return begun

    def _begun(self, intent: Any, call: Call) -> BeginWriteAnswer:
        if isinstance(intent, bytes):
            return BeginWriteAnswer(b"", 0, 0, "", self._members.epoch, msgspec.Raw(intent))
        if not isinstance(intent, Intent):
            raise ConditionFailed("this write ended before: look at the path")
        self._resolver.begun(intent.number, call.connection)
        parts = parse_path(intent.path)
        found = self._namespace.lookup_key(parts) if intent.as_key else self._namespace.lookup(parts)
        token = self._issuer.issue_write(intent, parts, found)
        return BeginWriteAnswer(token, intent.number, intent.worker, intent.write_type, self._members.epoch)

    async def _check_within(self, path: str, call: Call) -> None:
        above = (await self._preparing.existing(parse_path(path), call)).inode
        if above is None or not above.is_directory:
            raise NotFound(f"{path} is no directory", path=path)

    def _check_file(self, parts: Parts, found: Lookup, call: Call) -> None:
        inode, path = found.inode, format_path(parts)
        if not parts or (inode is not None and inode.is_directory):
            raise IsADirectory(f"{path} is a directory", path=path)
        self._preparing.check_replaced(call, parts, found)

    def _write_type(self, parts: Parts, asked: str) -> str:
        """As the request says, or the path's policy, or CACHE_THROUGH; without a store only MUST_CACHE."""
        if asked and asked not in set(WriteType):
            raise InvalidArgument(f"write type {asked!r} is none of {', '.join(WriteType)}")
        if self._namespace.natural_key(parts) is None:
            if asked and asked != WriteType.MUST_CACHE:
                raise InvalidArgument(
                    f"{format_path(parts)} is under no mount: there is no store to write through to, only MUST_CACHE"
                )
            return WriteType.MUST_CACHE
        return asked or self._namespace.policy_for(parts).write_type or WriteType.CACHE_THROUGH

    def _unreached(self, request: BeginWriteRequest) -> Intent | None:
        """The write that is to be given up for this one, if it is still open."""
        written = self._issuer.opened(request.instead) if request.instead else None
        return self._namespace.intent(written.operation) if written is not None and written.operation else None

    async def _give_up(self, intent: Intent, request: BeginWriteRequest, call: Call) -> None:
        """Should its worker act all the same, that is a change from outside (design.md section 6)."""
        error = WriteLost(f"worker {intent.worker} could not be reached: another one takes the bytes of {intent.path}")
        if request.reached:
            if intent.worker in self._members.live():
                raise NotReady(f"worker {intent.worker}, which takes the bytes of {intent.path}, is heard of: ask it")
            self._resolver.take(intent, error)
            call.waits_for = f"the store to tell what became of {intent.path}, whose worker is gone"
            await self._intents.when_closed(intent.number)
            return
        self._audit(intent, call, error)
        await self._intents.abandon(intent, error, remember=False)

    async def _settle(self, intent: Intent | None, request: BeginWriteRequest, call: Call) -> bytes:
        """What became of a write, once that is known."""
        if not request.reached:
            raise InvalidArgument(
                "`settle` asks what became of a write whose worker was reached: say so", path=request.path
            )
        if intent is not None:
            await self._give_up(intent, request, call)
        made = self._made(request)
        if made is None:
            raise WriteLost(f"{request.path} was not written: its worker was lost before", path=request.path)
        return made

    def _made(self, request: BeginWriteRequest) -> bytes | None:
        """The record of the file that the write made which ``instead`` was given for; None: it made none. Raises ``OutcomeUnknown``."""
        written = self._issuer.opened(request.instead)
        if written is None:
            return None
        closed = self._intents.closed_with(written.operation)
        if closed is not None:
            return closed if isinstance(closed, bytes) else None
        parts = parse_path(request.path)  # ended while another master led
        found = self._namespace.lookup_key(parts) if request.as_key else self._namespace.lookup(parts)
        if found.inode is not None and found.inode.content == written.content != NO_CONTENT:
            return found.raw
        raise OutcomeUnknown(
            f"whether {request.path} was written by the first try is not known: look whether it is there"
        )

    def _worker(self, *, avoid: int = 0) -> int:
        """The owner of the first block of the content that is given next, where that can be foreseen, else any worker that lives."""
        live = [worker for worker in self._members.live() if worker != avoid]
        if not live and self._members.awaits_workers():
            raise NotReady("this master leads since a moment, and no worker has come to it yet: try again shortly")
        if not live:
            raise NoWorker("no worker is there to take the bytes: is one running, and does it reach this master?")
        meta = self._namespace.meta
        content = make_content_id(meta.incarnation, meta.last_content + 1 + self._beginning)
        owners = self._members.owners(slot_of(content, 0))
        return next((worker for worker in owners if worker != avoid), live[0])

    # ---- for the worker of a write ------------------------------------------------------------------------------------

    def record_upload(self, request: RecordUploadRequest, call: Call) -> Deferred[Empty]:
        """Answers once the id of an upload is journaled."""
        self._of_worker(request.operation, request.worker, call)
        change = RecordUpload(self._proposer.stamp(), request.operation, request.upload)
        return Deferred.fromCoroutine(self._proposer.insist(change)).addCallback(lambda _: Empty())

    def publish(self, request: PublishRequest, call: Call) -> Deferred[PublishAnswer]:
        """Answers once the path is locked, with the condition of the act. Refused, the write stays open, to be abandoned."""
        return Deferred.fromCoroutine(self._publish(request, call))

    async def _publish(self, request: PublishRequest, call: Call) -> PublishAnswer:
        intent = self._of_worker(request.operation, request.worker, call)
        parts = parse_path(intent.path)
        if not intent.acting:
            await self._preparing.known(parts, call)
            place = self._preparing.place(parts)
            call.waits_for = f"another change of {intent.path} to end"
            keeps = self._namespace.level >= KEPT_LEVEL
            kept, etag = (request.attributes, request.etag) if keeps else (None, "")
            begun = await self._intents.begin(
                [place],
                lambda stamp: Publish(stamp, intent.number, request.size, attributes=kept, etag=etag),
                room=lambda: self._preparing.make_room(place, call),
            )
            assert isinstance(begun, Intent)  # noqa: S101 - PUBLISH gives the intent
            intent = begun
            self._note_acting(intent)
        return PublishAnswer(intent.replaced, intent.exclusive, intent.key)

    def end_write(self, request: EndWriteRequest, call: Call) -> Deferred[InodeAnswer]:
        """Answers the record of the file that was written; again, when asked again."""
        return Deferred.fromCoroutine(self._end(request, call))

    async def _end(self, request: EndWriteRequest, call: Call) -> InodeAnswer:
        check_access(call.principal, Right.NODE)
        if self._namespace.intent(request.operation) is None:
            return InodeAnswer(msgspec.Raw(self._ended_before(request)))
        intent = self._of_worker(request.operation, request.worker, call)
        found = None
        if request.persisted:
            name = parse_path(intent.path)[-1]
            found = Found(
                name,
                is_directory=False,
                size=request.size,
                mtime_ns=request.mtime_ns,
                fingerprint=request.fingerprint,
                mode=request.mode,
                uid=request.uid,
                gid=request.gid,
            )
        if request.attributes is not None:
            check_attributes(request.attributes)
        keeps = self._namespace.level >= ATTRIBUTES_LEVEL
        failpoint("intent.acted")
        at = self._acting_since.pop(intent.number, NEVER)
        raw = await self._intents.end(
            intent,
            found,
            size=request.size,
            workers=[] if request.persisted else [intent.worker],
            attributes=request.attributes if keeps else None,
            etag=request.etag if keeps else "",
        )
        failpoint("intent.ended")
        if isinstance(
            raw, ConditionFailed
        ):  # somebody resolved it at the same moment: who has the bytes may begin again
            raw = WriteLost(f"operation {intent.number} was given up while it ended")
        self._audit(intent, call, raw if isinstance(raw, MonofsError) else None)
        raw = raised(raw)
        self._preparing.note(intent, raw, at)
        return InodeAnswer(msgspec.Raw(raw))

    def _ended_before(self, request: EndWriteRequest) -> bytes:
        """The record an END_WRITE was answered with; found by its content when this master does not remember."""
        closed = self._intents.closed_with(request.operation)
        raw = closed if closed is not None else self._written(request)
        if not isinstance(raw, bytes):
            why = f": {raw.message}" if isinstance(raw, MonofsError) else ""
            raise WriteLost(f"operation {request.operation} was given up{why}")
        return raw

    def _written(self, request: EndWriteRequest) -> bytes | None:
        written = self._issuer.opened(request.capability)
        if written is None or written.operation != request.operation:
            return None
        names = tuple(written.key.encode().split(b"/"))
        point = next((at for at, mount in self._namespace.mounts() if mount.id == written.mount), ())
        found = self._namespace.lookup(point + names)
        inode = found.inode
        if inode is None or inode.size != request.size or inode.fingerprint != request.fingerprint:
            return None
        return found.raw if inode.content == written.content or not inode.size else None

    def abandon_write(self, request: AbandonWriteRequest, call: Call) -> Deferred[AbandonWriteAnswer]:
        """Answers what the writer is to be told."""
        return Deferred.fromCoroutine(self._abandon(request, call))

    async def _abandon(self, request: AbandonWriteRequest, call: Call) -> AbandonWriteAnswer:
        check_access(call.principal, Right.NODE)
        if self._namespace.intent(request.operation) is None:
            return AbandonWriteAnswer(request.error)
        intent = self._of_worker(request.operation, request.worker, call)
        error = from_code(request.error.code, request.error.message, request.error.detail)
        if request.unknown:
            self._resolver.take(intent, error)
            error = UfsUnknown(f"whether {intent.path} was written is not known: {error.message}", path=intent.path)
            return AbandonWriteAnswer(_failure(error))
        error = _told(intent, error)
        self._audit(intent, call, error)
        if intent.upload:  # only here is it known whether the worker dropped it
            self._resolver.take(intent, error)
            return AbandonWriteAnswer(_failure(error))
        await self._intents.abandon(intent, error, remember=False)
        if isinstance(error, UfsChanged | AlreadyExists | ConditionFailed):
            await self._preparing.adopt(intent.path)
        return AbandonWriteAnswer(_failure(error))

    def _note_acting(self, intent: Intent) -> None:
        self._acting_since[intent.number] = self._preparing.now()
        if len(self._acting_since) > INTENTS_MAX:
            self._acting_since.popitem(last=False)

    def _of_worker(self, operation: int, worker: int, call: Call) -> Intent:
        """The open write a worker speaks of."""
        check_access(call.principal, Right.NODE)
        intent = self._namespace.intent(operation)
        if intent is None or intent.kind != IntentKind.WRITE:
            raise WriteLost(f"operation {operation} is not open: it ended, or was given up, before")
        if worker and worker != intent.worker:
            raise PermissionDenied(f"operation {operation} belongs to worker {intent.worker}, not {worker}")
        return intent

    @staticmethod
    def _audit(intent: Intent, call: Call, error: MonofsError | None) -> None:
        audit(
            principal=intent.principal,
            peer=call.peer,
            command="write",
            source=intent.path,
            allowed=True,
            succeeded=error is None,
            error=0 if error is None else error.code,
            trace=call.trace,
            by=intent.by,
        )


def _told(intent: Intent, error: MonofsError) -> MonofsError:
    """What a writer is told whose condition did not hold in the store."""
    if not isinstance(error, UfsChanged):
        return error
    if intent.exclusive:
        return AlreadyExists(f"{intent.path} exists already", path=intent.path)
    if intent.if_match is not None:
        return ConditionFailed(f"{intent.path} is not the version that was asked for", path=intent.path)
    return error


def _failure(error: MonofsError) -> Failure:
    return Failure(error.code, error.message, error.detail)
