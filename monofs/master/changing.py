"""Changes of names: MAKE_DIRECTORY, CREATE, DELETE, RENAME, COPY, TOUCH and REMOVE_TREE.

Under no mount a change is one entry. Below a mount it is an intent, the act on the store, and its end (design.md section 6): a directory of an
object store that is renamed or removed with all below it is one entry too, and a job does the rest. Whether anything may be done is decided
in ``apply`` (law 3); what is checked here before saves work only, but for rights and modes, which are decided here.

What changed in the store meanwhile (``UfsChanged``) is adopted, and the change begun again with fresh knowledge, ``TRIES`` times. An act
with an unclear end is left to the resolver, and its asker gets ``UfsUnknown``. A change is audited once its outcome is known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from monofs.master.acting import TOLD, Acts, step
from monofs.master.attributes import Learner, check_level
from monofs.master.auditing import audited
from monofs.master.intents import Intents, raised
from monofs.master.locks import Locks, Place
from monofs.master.members import Members
from monofs.master.preparing import Preparing
from monofs.master.proposing import Proposer
from monofs.master.resolving import Resolver
from monofs.master.stores import Stores, Unclear
from monofs.metadata.entries import (
    Change,
    Create,
    Delete,
    MakeDirectory,
    RemoveTree,
    Rename,
    RenameTree,
    SetAttributes,
    Stamp,
    Touch,
)
from monofs.metadata.intent_entries import BeginCopy, BeginDelete, BeginMakeDirectory, BeginRename, BeginWrite
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.metadata.tables import ATTRIBUTES_LEVEL, MARKERS_LEVEL, Intent
from monofs.model.attributes import Attributes, check_attributes
from monofs.model.errors import (
    AlreadyExists,
    ConditionFailed,
    CrossMount,
    Internal,
    MonofsError,
    NotEmpty,
    NotFound,
    NotSupported,
    UfsChanged,
    UfsNotEmpty,
    UfsNotFound,
    UfsUnknown,
)
from monofs.model.inode import Flag
from monofs.model.options import WriteType
from monofs.model.paths import Parts, format_path, parse_path
from monofs.observe.failpoints import failpoint
from monofs.rpc.api import (
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    Empty,
    InodeAnswer,
    MakeDirectoryRequest,
    Message,
    RemoveTreeAnswer,
    RemoveTreeRequest,
    RenameAnswer,
    RenameRequest,
    RequestId,
    SetAttributesRequest,
    TouchRequest,
)
from monofs.rpc.service import Call

TRIES = 3
FILE_MODE, DIRECTORY_MODE = 0o644, 0o755
_MODE_BITS = 0o7777
Begin = Callable[[Stamp], Change]
Result = Deferred[Any] | None


class Changing:
    """Handlers of one master."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        preparing: Preparing,
        locks: Locks,
        intents: Intents,
        acts: Acts,
        resolver: Resolver,
        stores: Stores,
        members: Members,
        learner: Learner,
    ) -> None:
        self._namespace, self._proposer, self._preparing, self._locks = namespace, proposer, preparing, locks
        self._intents, self._acts, self._resolver = intents, acts, resolver
        self._stores, self._members, self._learner = stores, members, learner

    # ---- handlers -----------------------------------------------------------------------------------------------------

    def make_directory(self, request: MakeDirectoryRequest, call: Call) -> Result:
        """Answers the record. ``AlreadyExists``, ``NotFound`` (no parent), ``ReadOnly``, ``Busy`` and the store's errors."""
        parts = parse_path(request.path)
        if self._is_unmounted(parts):
            uid, gid = _owner(call)
            mode = request.mode & _MODE_BITS
            marker, kept = self._marker(request)

            def change(stamp: Stamp) -> Change:
                return MakeDirectory(
                    stamp, request.path, mode, uid, gid, request.parents, request.exist_ok, marker, kept
                )

            return self._one_entry(call, "mkdir", (parts,), request.request, change, _inode_answer)
        if request.marker:
            check_level(self._namespace)
        record = audited(call, "mkdir", request.path, "")
        return record.around(self._make_directory(request, parts, call)).addCallback(_inode_answer)

    def _marker(self, request: MakeDirectoryRequest) -> tuple[bool, Attributes | None]:
        """Whether an object is to be made, and what is kept with it, or with a directory that is a bucket. Before all masters keep any: no object, and
        ``NotReady`` where something is to be kept."""
        if self._namespace.level < MARKERS_LEVEL:
            if request.attributes not in (None, Attributes()):
                check_level(self._namespace, MARKERS_LEVEL)
            return False, None
        if request.attributes is not None:
            check_attributes(request.attributes, directory=not request.marker, marker=request.marker)
        return request.marker, request.attributes

    async def _make_directory(self, request: MakeDirectoryRequest, parts: Parts, call: Call) -> Any:
        self._preparing.check(call, parts)

        async def make() -> Any:
            found = await self._preparing.known(parts, call)
            if not request.parents and found.depth < len(parts) - 1:
                await self._preparing.known(parts[:-1], call)
            place = self._preparing.place(parts)
            asker, mode = self._intents.asker(request.request, call.principal), request.mode & _MODE_BITS
            marker, kept = self._marker(request)
            if self._namespace.level < MARKERS_LEVEL:
                marker = request.marker and self._preparing.takes_keys(parts)

            def begin(stamp: Stamp) -> Change:
                exist_ok, replaced = request.exist_ok, request.replaced
                return BeginMakeDirectory(
                    stamp, request.path, mode, request.parents, exist_ok, asker, marker, kept, replaced
                )

            return await self._through([place], begin, call, directory=True)

        return await self._intents.once(request.request, make)

    def create(self, request: CreateRequest, call: Call) -> Result:
        """Answers the record of the new, empty file under no mount. Below a mount ``NotSupported``: it is a write there."""
        uid, gid = _owner(call)
        parts = parse_path(request.path)

        def change(stamp: Stamp) -> Change:
            return Create(stamp, request.path, request.mode & _MODE_BITS, uid, gid)

        return self._one_entry(call, "create", (parts,), request.request, change, _inode_answer)

    def delete(self, request: DeleteRequest, call: Call) -> Result:
        """Removes a file or an empty directory, in its store too."""
        parts = parse_path(request.path)
        if request.as_key or request.if_content is not None:
            check_level(self._namespace)
        marker = request.marker and self._namespace.level >= MARKERS_LEVEL
        if self._is_unmounted(parts):

            def change(stamp: Stamp) -> Change:
                return Delete(stamp, request.path, request.as_key, request.if_content, marker)

            return self._one_entry(call, "delete", (parts,), request.request, change, _empty_answer)
        record = audited(call, "delete", request.path, "")
        return record.around(self._delete(request, parts, call, marker=marker)).addCallback(_empty_answer)

    async def _delete(self, request: DeleteRequest, parts: Parts, call: Call, *, marker: bool) -> None:
        self._preparing.check(call, parts)
        if request.as_key and not marker:
            self._preparing.check_key(parts)

        async def delete() -> None:
            # stores delete whatever is there: who names a version is told of another one before
            await self._preparing.existing(parts, call, now=request.if_content is not None)
            asker = self._intents.asker(request.request, call.principal)
            await self._through(
                [self._preparing.place(parts)],
                lambda stamp: BeginDelete(stamp, request.path, asker, request.as_key, request.if_content, marker),
                call,
            )
            if request.as_key or marker:
                await self._prune(parts[:-1], call)

        await self._intents.once(request.request, delete)

    async def _prune(self, parts: Parts, call: Call) -> None:
        """A key is gone from a store of files: so go the directories that only led to it, as an object store has none. What is not empty there, or being
        changed, stays: the store removes empty ones only."""
        while self._namespace.level >= MARKERS_LEVEL:
            found, path = self._namespace.lookup(parts), format_path(parts)
            inode, located = found.inode, found.located
            if (
                inode is None
                or located is None
                or not inode.flags & Flag.IMPLIED
                or self._namespace.children(inode.id, b"", 1)
            ):
                return
            places = [self._preparing.place(parts)]
            if self._stores.of(located.mount).object_store or self._locks.obstacle(places) is not None:
                return
            asker = self._intents.asker(RequestId(), call.principal)
            try:
                await self._through(places, partial(BeginDelete, path=path, asker=asker, implied=True), call)
            except MonofsError:
                return
            parts = parts[:-1]

    def rename(self, request: RenameRequest, call: Call) -> Result:
        """Answers the record under its new name, and the job that moves the objects of a directory."""
        source, target = parse_path(request.source), parse_path(request.target)
        if self._is_unmounted(source) and self._is_unmounted(target):
            return self._one_entry(
                call,
                "rename",
                (source, target),
                request.request,
                lambda stamp: Rename(stamp, request.source, request.target),
                lambda raw: RenameAnswer(msgspec.Raw(raw)),
            )
        record = audited(call, "rename", request.source, request.target)
        return record.around(self._rename(request, source, target, call)).addCallback(
            lambda result: self._renamed(result, target)
        )

    def _renamed(self, result: Any, target: Parts) -> RenameAnswer:
        """From the record, or from (number of the job, 0)."""
        if isinstance(result, bytes):
            return RenameAnswer(msgspec.Raw(result))
        found = self._namespace.lookup(target)
        if found.raw is None:
            raise NotFound(f"{format_path(target)} was renamed, and is gone again", path=format_path(target))
        return RenameAnswer(msgspec.Raw(found.raw), result[0])

    async def _rename(self, request: RenameRequest, source: Parts, target: Parts, call: Call) -> Any:
        self._preparing.check(call, source, target)

        async def rename() -> Any:
            found = await self._preparing.existing(source, call)
            is_directory = found.inode is not None and found.inode.is_directory
            if is_directory:
                await self._preparing.known(target, call)
            else:
                await self._preparing.known_to_write(target, call)
            places = [
                self._preparing.place(source, tree=is_directory),
                self._preparing.place(target, tree=is_directory),
            ]
            if is_directory and source != target and not self._renames_at_once(found):
                stamp = self._proposer.stamp(request.request)
                change = RenameTree(stamp, request.source, request.target, call.principal.name)
                renamed = await self._tree(places, change, call)
                self._preparing.note_left(source)
                return renamed
            asker = self._intents.asker(request.request, call.principal)
            return await self._through(
                places, lambda stamp: BeginRename(stamp, request.source, request.target, asker), call
            )

        return await self._intents.once(request.request, rename)

    def _renames_at_once(self, found: Lookup) -> bool:
        return found.located is None or self._stores.of(found.located.mount).renames

    def copy(self, request: CopyRequest, call: Call) -> Deferred[Any]:
        """Answers the record of the copy. ``CrossMount`` or ``NotSupported`` where no store can copy it: read it and write it."""
        source, target = parse_path(request.source), parse_path(request.target)
        record = audited(call, "copy", request.source, request.target)
        return record.around(self._copy(request, source, target, call)).addCallback(_inode_answer)

    async def _copy(self, request: CopyRequest, source: Parts, target: Parts, call: Call) -> Any:
        self._preparing.check(call, target)
        if self._is_unmounted(source) or self._is_unmounted(target):
            raise CrossMount(
                f"no store has both {request.source} and {request.target}: read one and write the other",
                path=request.source,
            )

        if request.attributes is not None:
            check_attributes(request.attributes)
        if request.attributes is not None or request.as_key or request.if_content is not None:
            check_level(self._namespace)
        as_key = request.as_key and self._preparing.takes_keys(target)

        async def copy() -> Any:
            await self._preparing.existing(source, call)
            found = await self._preparing.known_to_write(target, call, exclusive=request.exclusive)
            found = self._namespace.lookup_key(target) if as_key else found
            self._preparing.check_replaced(call, target, found)
            place = self._preparing.place(target)
            asker = self._intents.asker(request.request, call.principal)

            def begin(stamp: Stamp) -> Change:
                return BeginCopy(
                    stamp,
                    request.source,
                    request.target,
                    request.parents,
                    request.exclusive,
                    asker,
                    request.attributes,
                    as_key,
                    request.if_content,
                )

            return await self._through([place], begin, call)

        return await self._intents.once(request.request, copy)

    def set_attributes(self, request: SetAttributesRequest, call: Call) -> Deferred[Any]:
        """Answers the record. ``ConditionFailed`` when the file is another one by now."""
        parts = parse_path(request.path)
        record = audited(call, "set-attributes", request.path, "")
        return record.around(self._set_attributes(request, parts, call)).addCallback(_inode_answer)

    async def _set_attributes(self, request: SetAttributesRequest, parts: Parts, call: Call) -> Any:
        self._preparing.check(call, parts)
        if request.attributes is not None:
            check_attributes(request.attributes, directory=request.directory, marker=request.directory)
        check_level(self._namespace, MARKERS_LEVEL if request.directory else ATTRIBUTES_LEVEL)

        async def replace() -> Any:
            await self._preparing.existing(parts, call)
            found = (self._namespace.lookup if request.directory else self._namespace.lookup_key)(parts)
            if self._learner.is_unknown(found):  # or what its store keeps would be forgotten
                await self._learner.learn(parts, directory=request.directory)
            if self._is_told(found):
                return await self._tell(request, parts, call)
            change = SetAttributes(
                self._proposer.stamp(request.request),
                request.path,
                request.content,
                request.expected,
                request.attributes,
                directory=request.directory,
            )
            return await self._proposer.propose(change)

        return await self._intents.once(request.request, replace)

    def _is_told(self, found: Lookup) -> bool:
        """Whether what is kept with a file is kept in its store, too."""
        inode, located = found.inode, found.located
        if inode is None or located is None or inode.is_directory or self._namespace.level < MARKERS_LEVEL:
            return False
        return bool(inode.flags & Flag.PERSISTED) and self._stores.of(located.mount).object_store

    async def _tell(self, request: SetAttributesRequest, parts: Parts, call: Call) -> Any:
        """The store copies the object onto itself, or tags it."""
        asker, kept = self._intents.asker(request.request, call.principal), request.attributes or Attributes()

        def begin(stamp: Stamp) -> Change:
            path, content = request.path, request.content
            return BeginCopy(stamp, path, path, False, False, asker, kept, True, content, request.expected)

        return await self._through([self._preparing.place(parts)], begin, call)

    def touch(self, request: TouchRequest, call: Call) -> Deferred[Any]:
        """Answers the record. What exists below a mount keeps its time, which is its store's: ``NotSupported``."""
        parts = parse_path(request.path)
        record = audited(call, "touch", request.path, "")
        return record.around(self._touch(request, parts, call)).addCallback(_inode_answer)

    async def _touch(self, request: TouchRequest, parts: Parts, call: Call) -> Any:
        self._preparing.check(call, parts)

        async def touch() -> Any:
            found = await self._preparing.known(parts, call)
            if self._is_unmounted(parts):
                return await self._touch_unmounted(request, parts, found, call)
            exists = NotSupported(
                f"{request.path} exists, and its time is that of its store: write it again to change it",
                path=request.path,
            )
            if found.inode is not None:
                raise exists
            place = self._preparing.place(parts)
            asker = self._intents.asker(request.request, call.principal)

            def begin(stamp: Stamp) -> Change:
                through = WriteType.THROUGH
                return BeginWrite(stamp, request.path, FILE_MODE, request.parents, True, None, 0, through, 0, asker)

            try:
                return await self._through([place], begin, call)
            except AlreadyExists:  # somebody made it meanwhile
                raise exists from None

        return await self._intents.once(request.request, touch)

    async def _touch_unmounted(self, request: TouchRequest, parts: Parts, found: Lookup, call: Call) -> Any:
        uid, gid = _owner(call)
        places = [self._preparing.place(parts)]
        if found.inode is None and request.parents and found.depth < len(parts) - 1:
            above = MakeDirectory(
                self._proposer.stamp(), format_path(parts[:-1]), DIRECTORY_MODE, uid, gid, parents=True, exist_ok=True
            )
            await self._tree(places, above, call)
        stamp = self._proposer.stamp()  # to touch once more what this made is harmless
        if found.inode is None:
            with contextlib.suppress(AlreadyExists):  # somebody made it meanwhile
                return await self._tree(places, Create(stamp, request.path, FILE_MODE, uid, gid), call)
        return await self._tree(places, Touch(stamp, request.path), call)

    def remove_tree(self, request: RemoveTreeRequest, call: Call) -> Deferred[Any]:
        """Answers which job deletes in the store what is gone from the tree; 0: nothing is left to delete."""
        parts = parse_path(request.path)
        record = audited(call, "delete -r", request.path, "")
        return record.around(self._remove_tree(request, parts, call)).addCallback(RemoveTreeAnswer)

    async def _remove_tree(self, request: RemoveTreeRequest, parts: Parts, call: Call) -> Any:
        self._preparing.check(call, parts)

        async def remove() -> Any:
            await self._preparing.existing(parts, call)
            stamp = self._proposer.stamp(request.request)
            place = self._preparing.place(parts, tree=True)
            job = await self._tree([place], RemoveTree(stamp, request.path, call.principal.name), call)
            self._preparing.note_left(parts)
            return job

        return await self._intents.once(request.request, remove)

    # ---- one entry ----------------------------------------------------------------------------------------------------

    def _is_unmounted(self, parts: Parts) -> bool:
        return self._namespace.natural_key(parts) is None

    def _one_entry(
        self,
        call: Call,
        command: str,
        paths: Sequence[Parts],
        request: Any,
        make: Begin,
        answer: Callable[[Any], Message],
    ) -> Result:
        """No Deferred while nothing is in the way: this is the hot path of writers under no mount."""
        record = audited(call, command, format_path(paths[0]), format_path(paths[1]) if len(paths) > 1 else "")
        try:
            self._preparing.check_rights(call, *paths)
        except MonofsError as error:
            record(error)
            raise
        places = [self._preparing.place(parts) for parts in paths]
        if self._locks.obstacle(places) is not None:
            return record.around(self._tree(places, make(self._proposer.stamp(request)), call)).addCallback(answer)

        def done(result: Any) -> None:
            if isinstance(result, MonofsError):
                record(result)
                call.fail(result)
            else:
                record(None)
                call.answer(answer(result))
            self._members.wake()

        self._proposer.propose_to(make(self._proposer.stamp(request)), done)
        return None

    async def _tree(self, places: Sequence[Place], change: Change, call: Call) -> Any:
        """A change that is one entry, once nothing is in its way."""
        call.waits_for = f"other changes of {format_path(places[0].parts)} to end"
        return await self._locks.begin(places, lambda: self._proposer.propose(change))

    # ---- through a store ----------------------------------------------------------------------------------------------

    async def _through(self, places: Sequence[Place], begin: Begin, call: Call, *, directory: bool = False) -> Any:
        """Open an intent, act, end it: the record's bytes, None for a deletion. ``directory``: one is made."""
        for _ in range(TRIES - 1):
            try:
                return await self._once_through(places, begin, call, directory=directory)
            except UfsChanged:
                continue  # what is there now was adopted
        return await self._once_through(places, begin, call, directory=directory)

    async def _once_through(self, places: Sequence[Place], begin: Begin, call: Call, *, directory: bool) -> Any:
        path = format_path(places[0].parts)
        call.waits_for = f"another change of {path} to end"
        made = places[-1]  # where something is made, if anything is
        room = partial(self._preparing.make_room, made, call, directory=directory)
        intent = await self._intents.begin(places, begin, room=room)
        if not isinstance(intent, Intent):
            return intent
        at = self._preparing.now()
        call.waits_for = f"the store to change {path}"
        try:
            step("intent.begun")
            found = await self._acts.do(intent)
            step("intent.acted")
        except Unclear as unclear:
            self._resolver.take(intent, unclear.error)
            raise UfsUnknown(f"whether {path} was changed is not known: {unclear.error.message}", path=path) from None
        except MonofsError as error:
            raise await self._given_up(intent, error) from None
        except Exception:
            self._resolver.take(intent, Internal())
            raise
        try:
            raw = await self._intents.end(intent, found)
        except MonofsError as error:  # the journal did not take it
            self._resolver.take(intent, error)
            raise
        self._preparing.note(intent, raw, at, was_missing=not intent.marker)
        failpoint("intent.ended")
        return raised(raw)

    async def _given_up(self, intent: Intent, error: MonofsError) -> MonofsError:
        """The store refused, or has something else: the intent goes, and what the store has is taken over. What the asker is told."""
        if isinstance(error, UfsNotFound):
            error = NotFound(f"{intent.path} is gone from its store", path=intent.path)
        elif isinstance(error, UfsNotEmpty):
            error = NotEmpty(f"{intent.path} is not empty in its store", path=intent.path)
        begun = self._namespace.intent(intent.number)
        if begun is not None and begun.upload:  # of a copy in parts
            self._resolver.take(begun, error)
            return error
        await self._intents.abandon(intent, error, remember=not isinstance(error, UfsChanged))
        if isinstance(error, (*TOLD, NotFound, NotEmpty, ConditionFailed)):
            await self._preparing.adopt(intent.path, intent.target)
        return error


def _owner(call: Call) -> tuple[int, int]:
    principal = call.principal
    return principal.uid, principal.groups[0] if principal.groups else 0


def _inode_answer(raw: bytes) -> InodeAnswer:
    return InodeAnswer(msgspec.Raw(raw))


def _empty_answer(_: None) -> Empty:
    return Empty()
