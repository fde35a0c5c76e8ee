"""STAT, STAT_MANY, OPEN, OPEN_MANY and RENEW.

A path that is fresh is answered by a plain call (one lookup, one struct); only one that must be looked at in its store makes a
Deferred. A batch looks at all its stale paths together. Record bytes are spliced into answers unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import msgspec
from twisted.internet.defer import Deferred

from monofs.master.access import R_OK, X_OK, check_access
from monofs.master.attributes import Learner
from monofs.master.issuing import Issuer
from monofs.master.loading import Loader, awaited, missing
from monofs.master.members import Members
from monofs.master.stores import UNAVAILABLE, Clock, Stores
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.model.capability import Capability
from monofs.model.errors import InvalidArgument, IsADirectory, MonofsError
from monofs.model.inode import Flag, Inode, Kind
from monofs.model.options import LoadType
from monofs.model.paths import Parts, format_path, parse_path
from monofs.model.principal import Right
from monofs.rpc.api import (
    NIL,
    Failure,
    OpenAnswer,
    OpenManyAnswer,
    OpenManyRequest,
    OpenRequest,
    ReadOptions,
    RenewAnswer,
    RenewRequest,
    StatAnswer,
    StatManyAnswer,
    StatManyRequest,
    StatRequest,
)
from monofs.rpc.service import Call

BATCH_MAX = 1000
_PERSISTED, _DIRECTORY = int(Flag.PERSISTED), int(Kind.DIRECTORY)
A = TypeVar("A", StatAnswer, OpenAnswer)
M = TypeVar("M", StatManyAnswer, OpenManyAnswer)
AtHand = Callable[[Capability, Call], bytes]
"""The bytes of what is granted here; none when they cannot be given at once."""
Asking = StatRequest | OpenRequest | StatManyRequest | OpenManyRequest
Answering = Callable[[Parts, Lookup, Call, Asking], A]
parse = lru_cache(maxsize=8192)(parse_path)
"""Paths repeat; parsing one costs four times a hit."""


class Reading:
    """Handlers of one master; ``permissions`` turns POSIX modes on."""

    def __init__(
        self,
        namespace: Namespace,
        loader: Loader,
        stores: Stores,
        issuer: Issuer,
        members: Members,
        learner: Learner,
        *,
        permissions: bool,
        clock: Clock,
        at_hand: AtHand | None = None,
    ) -> None:
        """``at_hand``: the worker of this process, if there is one."""
        self._namespace, self._loader, self._stores = namespace, loader, stores
        self._issuer, self._members, self._learner = issuer, members, learner
        self._permissions, self._clock, self._at_hand = permissions, clock, at_hand

    def stat(self, request: StatRequest, call: Call) -> StatAnswer | Deferred[StatAnswer]:
        """The record of a path. ``NotFound``, ``NotADirectory``, or the store's error."""
        return self._one(request, call, self._stat_answer)

    def stat_many(self, request: StatManyRequest, call: Call) -> StatManyAnswer | Deferred[StatManyAnswer]:
        """The records of at most 1,000 paths; a path's error is its own."""
        return self._many(request, call, self._stat_answer, StatManyAnswer)

    def open(self, request: OpenRequest, call: Call) -> OpenAnswer | Deferred[OpenAnswer]:
        """The record of a file and the capability to read it. ``IsADirectory`` beside the errors of STAT."""
        return self._one(request, call, self._open_answer)

    def open_many(self, request: OpenManyRequest, call: Call) -> OpenManyAnswer | Deferred[OpenManyAnswer]:
        """The same for at most 1,000 paths."""
        return self._many(request, call, self._open_answer, OpenManyAnswer)

    def renew(self, request: RenewRequest, _: Call) -> RenewAnswer:
        """New capabilities for old ones."""
        return self._issuer.renew(request)

    def chain(self, parts: Parts) -> list[Inode]:
        """Records from the root to ``parts``, as far as they exist; empty when permissions are off."""
        if not self._permissions:
            return []
        inodes = []
        for depth in range(len(parts) + 1):
            inode = self._namespace.lookup(parts[:depth]).inode
            if inode is None:
                break
            inodes.append(inode)
        return inodes

    def _chain_to(self, parts: Parts, found: Lookup) -> list[Inode]:
        """The same to what was found, which may lie beside a directory."""
        chain = self.chain(parts)
        if chain and found.inode is not None:
            chain[-1] = found.inode
        return chain

    def absence(self, parts: Parts, found: Lookup, call: Call) -> MonofsError:
        """The error of a missing path; ``PermissionDenied`` to whom it may not be known that it is missing."""
        if self._permissions:
            check_access(call.principal, Right.READ, self.chain(parts), X_OK)
        return missing(parts, found)

    async def known(self, parts: Parts) -> Lookup:
        """What the tree holds at a path; one that the tree does not have is looked for in its store first."""
        found = self._namespace.lookup(parts)
        if found.inode is not None or self._loader.is_fresh(parts, found, ReadOptions()):
            return found
        return await self._loader.refreshed(parts, found, ReadOptions())

    # ---- one ----------------------------------------------------------------------------------------------------------

    def _one(self, request: StatRequest | OpenRequest, call: Call, answer: Answering[A]) -> A | Deferred[A]:
        parts, options = parse(request.path), request.options
        lookup = self._namespace.lookup_key if request.as_key else self._namespace.lookup
        found = lookup(parts)
        if self._loader.is_fresh(parts, found, options):
            return self._learnt(parts, found, call, request, answer)
        call.waits_for = awaited(found.located, parts)
        looked = self._loader.refreshed(parts, found, options)
        return looked.addCallback(lambda _: self._learnt(parts, lookup(parts), call, request, answer))

    def _learnt(
        self, parts: Parts, found: Lookup, call: Call, request: StatRequest | OpenRequest, answer: Answering[A]
    ) -> A | Deferred[A]:
        """The answer, once what is kept beside the bytes is known, if it is wanted."""
        if not request.attributes or not self._learner.is_unknown(found) or request.options.load == LoadType.NEVER:
            return answer(parts, found, call, request)
        if isinstance(request, OpenRequest) and request.learn_later:
            told = answer(parts, found, call, request)
            if isinstance(told, OpenAnswer):
                told.unlearnt = True
            return told
        call.waits_for = awaited(found.located, parts)
        if found.inode is not None and found.inode.is_directory:
            learnt, lookup = self._learner.learn_directory(parts), self._namespace.lookup
        else:
            learnt, lookup = self._learner.learn_many([parts]), self._namespace.lookup_key
        return learnt.addCallback(lambda _: answer(parts, lookup(parts), call, request))

    def _attributes(self, inode: Inode) -> msgspec.Raw:
        """What is kept beside the bytes."""
        raw = self._namespace.remembered_attributes(inode)
        return NIL if raw is None else msgspec.Raw(raw)

    def _stat_answer(self, parts: Parts, found: Lookup, call: Call, request: Asking) -> StatAnswer:
        inode = found.inode
        if inode is None or found.raw is None:
            raise self.absence(parts, found, call)
        if self._permissions:
            check_access(call.principal, Right.READ, self._chain_to(parts, found))
        located = found.located
        return StatAnswer(
            msgspec.Raw(found.raw),
            0 if located is None else located.mount.id,
            found.pinned,
            self._attributes(inode) if request.attributes else NIL,
        )

    def _open_answer(self, parts: Parts, found: Lookup, call: Call, request: Asking) -> OpenAnswer:
        inode = found.inode
        if inode is None or found.raw is None:
            raise self.absence(parts, found, call)
        if inode.kind == _DIRECTORY:
            raise IsADirectory(f"{format_path(parts)} is a directory", path=format_path(parts))
        if self._permissions:
            check_access(call.principal, Right.READ, self._chain_to(parts, found), R_OK)
        located, policy = found.located, self._namespace.known_policies.of(parts)
        granted = self._issuer.grant(inode, located, policy.id, pinned=found.pinned)
        mount = 0 if located is None else located.mount.id
        data, token, workers = b"", b"", []
        is_alone = False
        if isinstance(request, OpenRequest) and self._at_hand is not None and 0 < inode.size <= request.data_bytes:
            data = self._at_hand(granted, call)
            is_alone = request.data_alone and bool(data)
        if not is_alone:
            token = self._issuer.seal(granted)
            workers = [] if inode.flags & _PERSISTED or not inode.size else self.holders(inode)
        return OpenAnswer(
            msgspec.Raw(found.raw),
            token,
            granted.expires_s,
            self._members.epoch,
            mount,
            workers,
            data,
            policy.replicas or 1,
            self._attributes(inode) if request.attributes else NIL,
        )

    def holders(self, inode: Inode) -> list[int]:
        """Who holds bytes that no store has."""
        places = self._namespace.places(inode.content)
        return [] if places is None else list(dict.fromkeys(worker for _, chain in places.chains for worker in chain))

    # ---- many ---------------------------------------------------------------------------------------------------------

    def _many(
        self,
        request: StatManyRequest | OpenManyRequest,
        call: Call,
        answer_one: Answering[A],
        build: Callable[[list[A | None], dict[int, Failure]], M],
    ) -> M | Deferred[M]:
        paths, options, attributes = request.paths, request.options, request.attributes
        if len(paths) > BATCH_MAX:
            raise InvalidArgument(f"at most {BATCH_MAX} paths a request, not {len(paths)}")
        asked: list[tuple[Parts, Lookup] | MonofsError] = []
        stale: dict[Parts, Lookup] = {}
        lookup = self._namespace.lookup_key if request.as_key else self._namespace.lookup
        is_fresh = self._loader.is_fresh
        for path in paths:
            try:
                parts = parse(path)
                found = lookup(parts)
                if not is_fresh(parts, found, options):
                    stale[parts] = found
                asked.append((parts, found))
            except MonofsError as error:
                asked.append(error)

        def answer(parts: Parts, found: Lookup) -> A:
            return answer_one(parts, found, call, request)

        if not stale:
            return self._when_learnt(
                asked, attributes=attributes, then=lambda: build(*self._answers(asked, call, answer))
            )
        first = next(iter(stale))
        call.waits_for = awaited(stale[first].located, first, others=len(stale) - 1)
        looked = self._loader.look_at_many(list(stale.items()), options)

        def answered(failed: dict[Parts, MonofsError]) -> M | Deferred[M]:
            again: list[tuple[Parts, Lookup] | MonofsError] = []
            for each in asked:
                if isinstance(each, MonofsError):
                    again.append(each)
                    continue
                parts, found = each[0], lookup(each[0])
                again.append(self._unless_failed(parts, found, failed.get(parts), options))
            return self._when_learnt(
                again, attributes=attributes, then=lambda: build(*self._answers(again, call, answer))
            )

        return looked.addCallback(answered)

    def _when_learnt(
        self, asked: list[tuple[Parts, Lookup] | MonofsError], *, attributes: bool, then: Callable[[], M]
    ) -> M | Deferred[M]:
        """``then()``, once what stores keep with these files is known, if it is wanted."""
        unknown = (
            [each[0] for each in asked if not isinstance(each, MonofsError) and self._learner.is_unknown(each[1])]
            if attributes
            else []
        )
        if not unknown:
            return then()
        learnt = self._learner.learn_many(unknown)

        def answered(_: None) -> M:
            for position, each in enumerate(asked):
                if not isinstance(each, MonofsError) and self._learner.is_unknown(each[1]):
                    asked[position] = each[0], self._namespace.lookup_key(each[0])
            return then()

        return learnt.addCallback(answered)

    def _unless_failed(
        self, parts: Parts, found: Lookup, error: MonofsError | None, options: ReadOptions
    ) -> tuple[Parts, Lookup] | MonofsError:
        """What is known of a path, or why the look that it needed failed."""
        if error is not None:
            if not isinstance(error, UNAVAILABLE):
                return error
            try:
                self._loader.check_servable(parts, found, options, error)
            except MonofsError as unservable:
                return unservable
        return parts, found

    def _answers(
        self, asked: list[tuple[Parts, Lookup] | MonofsError], call: Call, answer: Callable[[Parts, Lookup], A]
    ) -> tuple[list[A | None], dict[int, Failure]]:
        good: list[A | None] = []
        bad: dict[int, Failure] = {}
        for position, each in enumerate(asked):
            try:
                if isinstance(each, MonofsError):
                    raise each
                good.append(answer(each[0], each[1]))
            except MonofsError as error:
                good.append(None)
                bad[position] = call.part_failed(error)
        return good, bad
