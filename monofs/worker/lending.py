"""Cached groups for who reads their files: DESCRIPTOR, FETCH and RELEASE.

A reader on this machine is lent the descriptor of a group's file with a bitmap of the pages present, has pages that it misses fetched, and says when it is done; other
workers and loads have pages fetched the same way. Invariants: descriptors leave by the Unix socket alone, each made for its reader; none of a group that is not verified.

Not here: who holds which (leases.py), one FETCH (filling.py), bytes (reading.py).
"""

from __future__ import annotations

from typing import Any

from monofs.model.block import GROUP_SIZE_BYTES, group_length
from monofs.model.capability import Capability
from monofs.model.errors import InvalidArgument, MonofsError, NotSupported
from monofs.model.options import ReadType
from monofs.model.principal import Right
from monofs.observe import metrics
from monofs.rpc.api import (
    DescriptorAnswer,
    DescriptorRequest,
    FetchAnswer,
    FetchRequest,
    Message,
    Method,
    ReleaseAnswer,
    ReleaseRequest,
)
from monofs.rpc.service import Call, Service
from monofs.tiering.cache import Group
from monofs.tiering.group import mask_bytes
from monofs.worker.delivery import Parts
from monofs.worker.filling import Filling, pages_of
from monofs.worker.leases import Leases
from monofs.worker.reading import goes_past_cache

KEPT_MAX = 4096


class Lending:
    """Handlers of one worker. Reactor thread only."""

    def __init__(self, parts: Parts, leases: Leases) -> None:
        self._parts, self._leases = parts, leases
        self._cache, self._disks, self._peers = parts.cache, parts.disks, parts.peers

    def register_methods(self, service: Service) -> None:
        """Serve them."""
        service.register(Method.DESCRIPTOR, DescriptorRequest, self._descriptor, right=Right.READ)
        service.register(Method.FETCH, FetchRequest, self._fetch, right=Right.READ)
        service.register(Method.RELEASE, ReleaseRequest, self._release, right=Right.READ)

    def _descriptor(self, request: DescriptorRequest, call: Call) -> Message | None:
        if call.door != "unix":
            raise NotSupported("descriptors are handed out on the worker's Unix socket only")
        capability = self._parts.open(request.capability)
        if not pages_of(capability.size, request.group):
            raise InvalidArgument(f"group {request.group} lies beyond the end of the file")
        self._leases.check_room(call.connection)
        group = self._cache.lookup(capability.content, request.group)
        length = group_length(capability.size, request.group)
        if group is None or not group.present:
            return DescriptorAnswer(0, 0, length, 0)
        self._leases.check_share(group)
        if request.cache == ReadType.CACHE_PROMOTE:
            self._cache.promote(group)
        if not group.verified:

            def verified(error: MonofsError | None) -> None:
                # asked again from the start: the group may have lost its bad pages, or be gone
                call.fail(error) if error is not None else _again(self._descriptor, request, call)

            self._disks.verify(group, verified)
            return None
        return self._hand_out(group, call, promotes=request.cache == ReadType.CACHE_PROMOTE)

    def _hand_out(self, group: Group, call: Call, *, promotes: bool) -> Message | None:
        """With a descriptor made for this reader: one shared with the cache would let the reader change its flags."""
        if group.directory.files.ready(group) is not None:  # so its name is in memory, and opening it meets no disk
            self._lend(group, call, self._cache.open_reader(group), promotes=promotes)
        else:
            self._disks.open(group, lambda result: self._lend(group, call, result, promotes=promotes))
        return None

    def _lend(self, group: Group, call: Call, result: int | MonofsError, *, promotes: bool) -> None:
        if isinstance(result, MonofsError):
            call.fail(result)
            return
        try:
            if not group.alive:  # dropped while a thread opened it: nothing may be held any more
                call.answer(DescriptorAnswer(0, 0, group.length, 0))
            elif not call.closed:
                self._leases.check_room(call.connection)
                self._cache.touch(group)
                call.attach(result)
                lease = self._leases.grant(call.connection, group, promotes=promotes)
                metrics.DESCRIPTOR_BYTES(str(group.mount)).value += mask_bytes(group.length, group.present)
                call.answer(DescriptorAnswer(group.present, group.base, group.length, lease, group.file))
        except MonofsError as error:
            call.fail(error)
        finally:
            group.directory.close_file(result)

    def _fetch(self, request: FetchRequest, call: Call) -> Message | None:
        capability = self._parts.open(request.capability)
        pages = pages_of(capability.size, request.group)
        if not pages:
            raise InvalidArgument(f"group {request.group} lies beyond the end of the file")
        if request.pages < 0 or request.ahead < 0:
            raise InvalidArgument("pages and ahead cannot be negative")
        if request.check:
            self._check(capability, request.group, request.pages & pages, call)
            return None
        giver = request.giver
        if giver and not self._peers.knows(giver):
            raise InvalidArgument(f"worker {giver} is not known here: nothing can be taken from it")
        at = request.group * GROUP_SIZE_BYTES
        if goes_past_cache(request.cache) or not self._peers.keeps(capability, at, counts=False, wanted=request.keep):
            group = self._cache.lookup(capability.content, request.group)
            if group is None or not group.verified or request.pages & pages & ~group.present:
                return FetchAnswer(0, cached=False)
        if request.cache == ReadType.CACHE_PROMOTE:
            wanted = self._cache.lookup(capability.content, request.group)
            if wanted is not None:
                self._cache.promote(wanted)
        Filling(
            self._parts,
            call,
            capability,
            request.group,
            request.pages & pages,
            request.ahead,
            giver=giver,
            age_ms=request.age_ms,
            unread=request.unread,
        ).resume()
        return None

    def _check(self, capability: Capability, number: int, pages: int, call: Call) -> None:
        """Tell which pages are cached and right."""
        group = self._cache.lookup(capability.content, number)
        if group is None or not group.present & pages:
            call.answer(FetchAnswer(0))
            return
        checked = group.present & pages

        def told(bad: int) -> None:
            right = checked & ~bad if group.alive else 0
            if bad:
                self._cache.drop_pages(group, bad)
            call.answer(FetchAnswer(right, file=group.file))

        self._disks.check(group, told, call.fail, mask=checked)

    def _release(self, request: ReleaseRequest, _call: Call) -> Message:
        self._leases.release(request.leases)
        if len(request.kept) > KEPT_MAX:
            raise InvalidArgument(f"{len(request.kept)} leases kept in one request; at most {KEPT_MAX}")
        self._leases.count_reads(request.kept)
        recalled = self._leases.recalled(request.kept, self._cache.is_wanted)
        metrics.DESCRIPTORS_RECALLED().value += len(recalled)
        return ReleaseAnswer(recalled)


def _again(handler: Any, request: Message, call: Call) -> None:
    """Run a handler once more, outside of the service's border."""
    try:
        answer = handler(request, call)
        if answer is not None:
            call.answer(answer)
    except MonofsError as error:
        call.fail(error)
    except Exception as bug:  # noqa: BLE001 - as the border of every handler
        call.crash(bug)
