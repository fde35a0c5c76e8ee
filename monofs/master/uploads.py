"""Uploads of S3 clients below a mount of an object store: BEGIN_UPLOAD, OPEN_PART, COMPLETE_UPLOAD, ABORT_UPLOAD.

Each is an upload of the store, and an intent, for as long as it is open: its id in the store is journaled before the first part is let in. Parts go from any door to the
worker that owns the block they will probably lie in, and on to the store; what is known of each the door keeps. Completing locks the path, has the store join the
parts, and ends the intent; refused, it goes on as if nothing had happened.

Invariants: at most one of completion and abortion is under way; a part is sent only for an upload that is journaled. Not here: uploads that nobody ends
(resolving.py), the bytes (worker/parting.py).
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.defer import TimeoutError as DeferredTimeout

from monofs.master.acting import Acts, step
from monofs.master.auditing import audited
from monofs.master.channels import Channels
from monofs.master.intents import Intents, raised
from monofs.master.issuing import Issuer
from monofs.master.members import Members
from monofs.master.preparing import Preparing
from monofs.master.proposing import Proposer
from monofs.master.resolving import Resolver, waits_for_parts
from monofs.master.stores import Unclear
from monofs.metadata.intent_entries import BeginWrite, Publish, RecordUpload
from monofs.metadata.namespace import Namespace
from monofs.metadata.ops.remove_mount import WAY_OUT
from monofs.metadata.tables import UPLOADS_LEVEL, UPLOADS_MAX, Intent, IntentKind
from monofs.model.attributes import check_attributes
from monofs.model.block import block_of, slot_of
from monofs.model.errors import (
    Busy,
    Internal,
    InvalidArgument,
    MonofsError,
    NotReady,
    NoWorker,
    UfsChanged,
    UfsNotFound,
    UfsUnknown,
    WriteLost,
)
from monofs.model.ids import ContentId, MountId
from monofs.model.mount import Mount
from monofs.model.options import WriteType
from monofs.model.paths import parse_path
from monofs.observe.failpoints import failpoint
from monofs.rpc.api import (
    AbortUploadRequest,
    BeginUploadAnswer,
    BeginUploadRequest,
    BeginWriteAnswer,
    CompleteUploadRequest,
    Empty,
    InodeAnswer,
    KeepPartsRequest,
    Method,
    OpenPartRequest,
    RequestId,
    UploadedPart,
)
from monofs.rpc.service import Call
from monofs.ufs.base import PARTS_MAX

FILE_MODE = 0o644
TRIES = 3
LAST_BYTES = 5 << 20
"""A smaller part can only be the last, and tells nothing of where it lies."""
KEEP_S = 2.0
"""How long workers may take to make parts readable; who takes longer has them for nothing."""


@dataclass(slots=True)
class _Seen:
    """What this master remembers of an upload, for the sake of warmth alone."""

    part_bytes: int = 0
    """Of its largest part, so of all but the last; 0: none came that could be another."""
    workers: set[int] = field(default_factory=set)


class Uploads:
    """Handlers of one master."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        preparing: Preparing,
        intents: Intents,
        acts: Acts,
        resolver: Resolver,
        members: Members,
        issuer: Issuer,
        channels: Channels,
        *,
        busy_wait_s: float,
        reactor: Any,
    ) -> None:
        self._namespace, self._proposer, self._preparing = namespace, proposer, preparing
        self._intents, self._acts, self._resolver = intents, acts, resolver
        self._members, self._issuer, self._channels = members, issuer, channels
        self._busy_wait_s, self._reactor = busy_wait_s, reactor
        self._ending: set[int] = set()
        self._seen: OrderedDict[int, _Seen] = OrderedDict()

    # ---- beginning ----------------------------------------------------------------------------------------------------

    def begin(self, request: BeginUploadRequest, call: Call) -> Deferred[BeginUploadAnswer]:
        """Answers the operation; 0 where parts are to be kept as files."""
        return audited(call, "upload", request.path, "").around(self._begin(request, call))

    async def _begin(self, request: BeginUploadRequest, call: Call) -> BeginUploadAnswer:
        parts = parse_path(request.path)
        self._preparing.check(call, parts)
        check_attributes(request.attributes)
        self._preparing.check_replaced(call, parts, self._namespace.lookup_key(parts))
        located = self._namespace.natural_key(parts)
        write_type = self._namespace.policy_for(parts).write_type or WriteType.CACHE_THROUGH
        is_fit = located is not None and located.mount.is_object_store and write_type != WriteType.MUST_CACHE
        is_old = self._namespace.level < UPLOADS_LEVEL or not all(map(self._members.takes_parts, self._members.live()))
        if not is_fit or is_old:
            return BeginUploadAnswer(0)
        asker = self._intents.asker(RequestId(), call.principal)
        intent = await self._intents.begin(
            [],
            lambda stamp: BeginWrite(
                stamp,
                request.path,
                FILE_MODE,
                parents=True,
                exclusive=False,
                if_match=None,
                size=-1,
                write_type=write_type,
                worker=0,
                asker=asker,
                attributes=request.attributes,
                as_key=True,
                upload=True,
            ),
        )
        assert isinstance(intent, Intent)  # noqa: S101 - an upload is never there already
        try:
            step("intent.begun")
            upload = await self._acts.begin_upload(intent)
            step("write.upload-begun")
        except (Unclear, MonofsError) as problem:
            error = problem.error if isinstance(problem, Unclear) else problem
            await self._intents.abandon(intent, error, remember=False)
            raise error from None
        await self._proposer.insist(RecordUpload(self._proposer.stamp(), intent.number, upload))
        return BeginUploadAnswer(intent.number)

    # ---- parts --------------------------------------------------------------------------------------------------------

    def open_part(self, request: OpenPartRequest, call: Call) -> BeginWriteAnswer:
        """Answers whom to send the bytes to. ``WriteLost`` when the upload is not open, ``NoWorker``."""
        intent = self._open(request.operation, call)
        if not 1 <= request.number <= PARTS_MAX or request.size < 0:
            raise InvalidArgument(f"part {request.number} of {request.size} bytes is none: parts are 1 to {PARTS_MAX}")
        parts = parse_path(intent.path)
        seen = self._seen.setdefault(intent.number, _Seen())
        if len(self._seen) > UPLOADS_MAX:
            self._seen.popitem(last=False)
        if request.size >= LAST_BYTES:
            seen.part_bytes = max(seen.part_bytes, request.size)
        offset = (request.number - 1) * seen.part_bytes if seen.part_bytes or request.number == 1 else -1
        worker = self._worker(intent, max(offset, 0))
        seen.workers.add(worker)
        operation = secrets.randbits(62) | 1 << 62
        found = self._namespace.lookup_key(parts)
        token = self._issuer.issue_part(intent, parts, found, operation, request.number, request.size, offset)
        return BeginWriteAnswer(token, operation, worker, intent.write_type, self._members.epoch)

    def _worker(self, intent: Intent, offset: int) -> int:
        """The owner of the block in which a part will lie, or another that takes parts."""
        layout = self._namespace.layout_for(parse_path(intent.path))
        slot = slot_of(ContentId(intent.content), block_of(offset, layout))
        for worker in (*self._members.owners(slot), *self._members.live()):
            if self._members.takes_parts(worker):
                return worker
        if self._members.awaits_workers():
            raise NotReady("this master leads since a moment, and no worker has come to it yet: try again shortly")
        raise NoWorker("no worker is there to take the bytes: is one running, and does it reach this master?")

    # ---- the end ------------------------------------------------------------------------------------------------------

    def complete(self, request: CompleteUploadRequest, call: Call) -> Deferred[InodeAnswer]:
        """Answers the record of the file."""
        intent = self._open(request.operation, call)
        return audited(call, "complete", intent.path, "").around(self._complete(request, call))

    async def _complete(self, request: CompleteUploadRequest, call: Call) -> InodeAnswer:
        numbers = [part.number for part in request.parts]
        if not numbers or numbers != sorted(set(numbers)):
            raise InvalidArgument("an upload is completed with parts in the order of their numbers, each once")
        number = request.operation
        if number in self._ending:
            raise Busy("this upload is being completed or aborted", operation=number)
        self._ending.add(number)
        try:
            for _ in range(TRIES - 1):
                try:
                    return await self._once(request, call)
                except UfsChanged:
                    continue  # what is there now was adopted
            return await self._once(request, call)
        finally:
            self._ending.discard(number)

    async def _once(self, request: CompleteUploadRequest, call: Call) -> InodeAnswer:
        open_ = self._open(request.operation, call)
        parts = parse_path(open_.path)
        await self._preparing.known(parts, call)
        self._preparing.check_replaced(call, parts, self._namespace.lookup_key(parts))
        place, size = self._preparing.place(parts), sum(part.size for part in request.parts)
        call.waits_for = f"another change of {open_.path} to end"
        intent = await self._intents.begin(
            [place],
            lambda stamp: Publish(
                stamp, open_.number, size, request.exclusive, request.if_content, attributes=request.attributes
            ),
            room=lambda: self._preparing.make_room(place, call),
        )
        assert isinstance(intent, Intent)  # noqa: S101 - PUBLISH gives the intent
        at = self._preparing.now()
        call.waits_for = f"the store to join the parts of {intent.path}"
        try:
            step("write.published")
            found = await self._acts.complete(intent, [f"{part.number}:{part.tag}" for part in request.parts])
            step("intent.acted")
        except Unclear as unclear:
            self._resolver.take(intent, unclear.error)
            raise UfsUnknown(
                f"whether {intent.path} was completed is not known: {unclear.error.message}", path=intent.path
            ) from None
        except MonofsError as error:
            raise await self._refused(intent, error) from None
        except Exception:
            self._resolver.take(intent, Internal())
            raise
        await self._keep(intent, request.parts)
        try:
            raw = await self._intents.end(intent, found, size=size)
        except MonofsError as error:  # the journal did not take it
            self._resolver.take(intent, error)
            raise
        self._preparing.note(intent, raw, at)
        failpoint("intent.ended")
        return InodeAnswer(msgspec.Raw(raised(raw)))

    async def _refused(self, intent: Intent, error: MonofsError) -> MonofsError:
        """The store did not join the parts. What the asker is told."""
        if isinstance(error, UfsNotFound) and error.detail.get("store_code") == "NoSuchUpload":
            lost = WriteLost(f"the upload of {intent.path} is not in its store any more", path=intent.path)
            try:  # parts stay where it was not the store that said so
                await self._acts.clean(self._acts.store_of(intent), intent)
            except (Unclear, MonofsError):
                await self._intents.reopen(intent)
            else:
                await self._intents.abandon(intent, lost, remember=False)
            return lost
        await self._intents.reopen(intent)
        if isinstance(error, UfsChanged):
            await self._preparing.adopt(intent.path)
        return error

    async def _keep(self, intent: Intent, parts: list[UploadedPart]) -> None:
        """Have workers make readable what they kept of these parts, before anybody can ask for it, and give back all else."""
        seen = self._seen.pop(intent.number, None)
        if seen is None:
            return
        keep = KeepPartsRequest(intent.content, parts)
        asked = [self._channels.call(worker, Method.KEEP_PARTS, keep, Empty, KEEP_S) for worker in sorted(seen.workers)]
        await DeferredList(asked, consumeErrors=True)

    def abort(self, request: AbortUploadRequest, call: Call) -> Deferred[Any]:
        """Answers Empty once nothing of it is left."""
        return Deferred.fromCoroutine(self._abort(request, call))

    async def _abort(self, request: AbortUploadRequest, call: Call) -> Empty:
        try:
            intent = self._open(request.operation, call)
        except WriteLost:
            return Empty()
        if intent.number in self._ending or intent.acting:
            raise Busy(f"the upload of {intent.path} is being completed", path=intent.path)
        call.waits_for = f"the store to forget the upload of {intent.path}"
        await self._give_up(intent)
        return Empty()

    async def _give_up(self, intent: Intent) -> None:
        self._ending.add(intent.number)
        try:
            self._resolver.take(intent, WriteLost("the upload was aborted"))
            await self._intents.when_closed(intent.number)
            await self._keep(intent, [])
        finally:
            self._ending.discard(intent.number)

    def waiting(self, mount: MountId) -> list[Intent]:
        """Those below a mount that wait for their clients, and that nobody is ending; oldest first."""
        uploads = self._namespace.open_intents.uploads.values()
        return [
            each
            for each in uploads
            if each.mount == mount and waits_for_parts(each) and each.number not in self._ending
        ]

    async def give_up(self, mount: Mount, given_up: list[Intent], call: Call) -> list[str]:
        """Abort these, which wait for their clients below a mount; their paths. ``Busy`` when its store has not forgotten them within
        ``master.busy_wait_s``: they go once it does."""
        call.waits_for = f"the store to forget {len(given_up)} uploads"
        ending = [Deferred.fromCoroutine(self._give_up(intent)) for intent in given_up]
        ended: Deferred[Any] = Deferred()  # what is not waited for any more goes on
        DeferredList(ending, fireOnOneErrback=True).chainDeferred(ended)
        try:
            await ended.addTimeout(self._busy_wait_s, self._reactor)
        except DeferredTimeout:
            left = sum(self._namespace.intent(intent.number) is not None for intent in given_up)
            shown = f"{left} of {len(given_up)} uploads in parts below {mount.path} are not aborted in {mount.uri} yet"
            raise Busy(f"{shown}: {WAY_OUT}", path=mount.path) from None
        call.waits_for = ""
        return [intent.path for intent in given_up]

    def _open(self, operation: int, call: Call) -> Intent:
        """The upload, if the caller may write its file. Raises ``WriteLost``."""
        intent = self._namespace.intent(operation)
        if intent is None or intent.kind != IntentKind.UPLOAD or not intent.upload:
            raise WriteLost(f"upload {operation} is not open: it was completed or aborted, or is too old")
        self._preparing.check(call, parse_path(intent.path))
        return intent
