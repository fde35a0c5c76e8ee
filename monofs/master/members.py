"""The workers: who is registered, who lives, what each has heard of the feed, and who serves a slot now.

Leases and cursors are in memory only: after a restart a worker's heartbeat gets ``SessionExpired`` and it registers again.
Ids, the slot table, and where each worker was heard last are in the namespace. Which of a slot's workers live is this master's view, told beside the table: a worker that falls silent
changes no table before it is away for long (planning.py), and the next in the list serves at once.

A heartbeat is a long poll: answered at once when there is feed behind the worker's cursor, mounts or keys changed, or the worker knows no slot table yet,
else after ``wait_s``.

Invariant: grants (mounts with their secrets in clear, capability keys) are given only to principals with the NODE right.
"""

from __future__ import annotations

import secrets
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred

from monofs.master.access import check_access
from monofs.master.policies import group_specs
from monofs.master.proposing import Proposer
from monofs.master.publishing import Publisher
from monofs.master.secrets import Vault
from monofs.master.settling import Settling
from monofs.master.tokens import token_grant
from monofs.metadata.entries import RegisterWorker
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import ADDRESSES_LEVEL, IDENTITY_BYTES
from monofs.model.errors import HomeUnusable, InvalidArgument, SessionExpired, WorkersUsedUp
from monofs.model.ids import MountId
from monofs.model.principal import Right
from monofs.model.slots import WEIGHT_MAX, WORKER_MAX, ZONE_MAX
from monofs.observe.logs import logger
from monofs.rpc.addresses import parse_address
from monofs.rpc.api import (
    ClusterAnswer,
    ClusterRequest,
    FeedItem,
    HeartbeatAnswer,
    HeartbeatRequest,
    MountGrant,
    RegisterAnswer,
    RegisterRequest,
    SlotsKnown,
    SlotsNews,
    WorkerInfo,
)
from monofs.rpc.service import Call

log = logger(__name__)
LEASE_S = 10.0
TOTALS_MAX = 64
"""Numbers taken from a heartbeat; a newer worker may know more."""
"""A worker silent for this long is not given to clients."""
FORGET_S = 3600.0
"""One silent for this long no longer holds the feed; it registers again and finds out what it missed."""
WAIT_MAX_S = LEASE_S / 2
FEED_RECORDS = 100
"""Feed records in one heartbeat answer."""
TROUBLED_SHOWN = 10
"""Workers named that do not ask a store."""
CONSOLE_MAX = 300
"""Characters of the address of a worker's console."""


class Resolver(Protocol):
    """Brings to an end the writes of workers that are at them no more."""

    def registered(self, worker: int, operations: list[int]) -> None:
        """A worker began anew, and is at these."""

    def heartbeat(self, worker: int, operations: list[int] | None) -> None:
        """A worker is at these; None: it does not tell."""


@dataclass(slots=True)
class Member:
    """A registered worker."""

    info: WorkerInfo
    cursor: int
    durable: int
    """The cursor that would outlive a crash of the worker."""
    heard: float
    weight: int
    zone: str
    live: bool = True
    group_bytes: dict[int, int] = field(default_factory=dict)
    """Policy id → bytes cached, as last told."""
    troubles: dict[int, str] = field(default_factory=dict)
    """Mount id → why its store is not asked, as last told."""
    totals: list[float] = field(default_factory=list)
    """What it has done since it began, as last told (observe/totals.py)."""
    console: str = ""
    """Where its own console is; '': it told of none."""
    life: int = 0
    """Of its process; 0: not told."""


class _Poll:
    """A heartbeat that waits."""

    __slots__ = ("call", "request", "timer")

    def __init__(self, request: HeartbeatRequest, call: Call) -> None:
        self.request, self.call = request, call
        self.timer: Any = None


class Members:
    """Handlers REGISTER, HEARTBEAT and CLUSTER; ``address()`` is where this master listens, for CLUSTER."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        vault: Vault,
        keys: dict[int, bytes],
        *,
        reactor: Any,
        clock: Callable[[], float],
        now_ns: Callable[[], int],
        version: str,
        address: Callable[[], str],
    ) -> None:
        self.resolver: Resolver | None = None
        """Hears of what writes workers are at; set once there is one."""
        self.on_registered: Callable[[], None] = lambda: None
        self._namespace, self._proposer, self._vault, self._keys = namespace, proposer, vault, keys
        self._reactor, self._clock, self._now_ns, self._version = reactor, clock, now_ns, version
        self.members: dict[int, Member] = {}
        self._address = address
        self._polls: dict[int, _Poll] = {}
        self._passing: list[tuple[int, Deferred[int]]] = []
        self._broken: set[int] = set()
        self.since = clock()
        """When this master began to lead."""
        self._live: list[int] = []
        self._publisher = Publisher(namespace, clock)
        self._settling = Settling()
        self._table, self._in_table = namespace.slots, frozenset(namespace.slots.workers())
        self._listed, self._living = secrets.randbits(62), secrets.randbits(62)
        """Names of the present list of workers and of who lives, that no other master gives."""
        proposer.on_applied(self.wake)

    # ---- who lives ----------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Of the slot table: the journal index it came into force at."""
        return self._namespace.known_slots.table.epoch

    def live(self) -> list[int]:
        """Ids of workers within their lease, sorted."""
        return self._live

    def owners(self, slot: int) -> list[int]:
        """Workers to ask for a slot, those first that come first in its list; empty while none lives."""
        return self._namespace.slots.serving(slot, self._live)

    def takes_parts(self, worker: int) -> bool:
        """Whether a live worker knows parts of uploads: one of an older release, which tells of no life, would take a part for the whole file."""
        return bool(self.members[worker].life)

    def silent_s(self, worker: int) -> float | None:
        """Seconds since a worker's last heartbeat, as far as people want to know: 0 while it comes in time, then whole seconds, of a longer silence the first two digits; None: it never came.
        So what thousands of workers say of it does not change all the time."""
        member = self.members.get(worker)
        if member is None:
            return None
        silent_s = int(self._clock() - member.heard)
        step_s = 10 ** max(len(str(silent_s)) - 2, 0)
        return float(silent_s // step_s * step_s) if silent_s > WAIT_MAX_S else 0.0

    def silent(self, most: int) -> dict[str, float]:
        """Address → :meth:`silent_s` of registered workers whose heartbeat is late, ``most`` of them."""
        told = ((self.members[worker].info.address, self.silent_s(worker)) for worker in sorted(self.members))
        return dict(islice(((address, silent_s) for address, silent_s in told if silent_s), most))

    def check_leases(self) -> None:
        """Call every second or so: notice who fell silent, and forget who did long ago."""
        now = self._clock()
        for worker, member in list(self.members.items()):
            silent_s = now - member.heard
            was_live, member.live = member.live, silent_s < LEASE_S
            if was_live and not member.live:
                log.warning("worker fell silent", worker=worker, address=member.info.address)
            if silent_s > FORGET_S:
                del self.members[worker]
                self._listed += 1
        live = sorted(worker for worker, member in self.members.items() if member.live)
        if now - self.since >= LEASE_S:
            self._settling.keep(live)
        if live != self._live:
            self._live = live
            self._living += 1
        self._settle_passing()

    def heard_s(self, worker: int) -> float | None:
        """When a worker was last heard; None: never by this master."""
        member = self.members.get(worker)
        return None if member is None else member.heard

    def group_bytes(self) -> dict[int, int]:
        """Policy id → bytes that live workers have cached of its pages."""
        total: dict[int, int] = {}
        for member in self.members.values():
            for policy, count in member.group_bytes.items() if member.live else ():
                total[policy] = total.get(policy, 0) + count
        return total

    def trouble(self, mount: MountId) -> str:
        """Which live workers do not ask the store of a mount now, and what the first of them says; empty: all do."""
        told = {
            worker: member.troubles[mount]
            for worker, member in sorted(self.members.items())
            if member.live and mount in member.troubles
        }
        if not told:
            return ""
        shown = ", ".join(map(str, islice(told, TROUBLED_SHOWN))) + ("" if len(told) <= TROUBLED_SHOWN else ", ...")
        return f"worker{'s' if len(told) > 1 else ''} {shown}: {next(iter(told.values()))}"

    def trim_through(self) -> int:
        """The feed index every worker has acted on, and would have after a crash. Workers registered in the namespace but not heard since this master began to
        lead hold the feed for ``FORGET_S``."""
        waited = self._clock() - self.since >= FORGET_S
        cursors = []
        for worker in self._namespace.workers():
            member = self.members.get(worker)
            if member is not None:
                cursors.append(member.durable)
            elif not waited:
                cursors.append(0)
        return min(cursors, default=self._namespace.feed_bounds()[1])

    def has_begun(self) -> None:
        """This master leads now: every worker gets a full lease to be heard."""
        self.since = self._clock()
        for member in self.members.values():
            member.heard = self.since
        self._settling.begin(worker for worker, _, _ in self._namespace.known_slots.shares)

    def awaits_workers(self) -> bool:
        """Whether workers that are registered have a rest of their first lease to be heard by a master that leads since a moment."""
        if self._clock() - self.since >= LEASE_S:
            return False
        known = (self.members.get(worker) for worker in self._namespace.workers())
        return any(member is None or not member.live for member in known)

    # ---- handlers -----------------------------------------------------------------------------------------------------

    def cluster(self, request: ClusterRequest, call: Call) -> ClusterAnswer:
        """The workers and the slot table, as far as the asker does not know them."""
        check_access(call.principal, Right.READ)
        is_known = request.workers == self._listed
        return ClusterAnswer(
            self._namespace.cluster,
            self._namespace.incarnation,
            self.epoch,
            [] if is_known else [self._shown(member) for _, member in sorted(self.members.items())],
            [],
            self._address(),
            self._version,
            self.awaits_workers(),
            None if request.slots is None else self._slots_news(request.slots),
            self._listed,
        )

    def _slots_news(self, known: SlotsKnown, *, with_formers: bool = False) -> SlotsNews:
        silent = None
        if known.live != self._living:
            silent = sorted(worker for worker, member in self.members.items() if not member.live)
        deltas = self._publisher.deltas(known, with_formers=with_formers)
        return SlotsNews(self.epoch, deltas, self._living, silent)

    @staticmethod
    def _shown(member: Member) -> WorkerInfo:
        info = member.info
        return msgspec.structs.replace(info, live=member.live)

    def register(self, request: RegisterRequest, call: Call) -> Deferred[RegisterAnswer]:
        """A worker announces itself: it gets its id, its keys and its mounts."""
        check_access(call.principal, Right.NODE)
        if len(request.identity) != IDENTITY_BYTES:
            raise InvalidArgument(f"a worker's identity has {IDENTITY_BYTES} bytes")
        if not 0 <= request.weight <= WEIGHT_MAX or len(request.zone) > ZONE_MAX:
            raise InvalidArgument(f"a weight is 0 to {WEIGHT_MAX:,}, and a zone has at most {ZONE_MAX} characters")
        parse_address(request.address)  # clients and other workers are told it
        self._proposer.check_leads()
        return Deferred.fromCoroutine(self._register(request))

    async def _register(self, request: RegisterRequest) -> RegisterAnswer:
        worker = self._namespace.worker_of(request.identity)
        if not worker and self._namespace.meta.last_worker < WORKER_MAX:
            address = request.address if self._namespace.level >= ADDRESSES_LEVEL else ""
            worker = await self._proposer.insist(RegisterWorker(self._proposer.stamp(), request.identity, address))
        elif worker:
            await self._note_address(worker, request.address)
        if not 0 < worker <= WORKER_MAX:
            raise WorkersUsedUp(f"this cluster has had {WORKER_MAX:,} workers, and has no number left for another")
        info = WorkerInfo(
            worker,
            request.address,
            request.unix,
            request.host,
            True,
            request.capacity_bytes,
            request.used_bytes,
            request.keeps,
        )
        now = self._clock()
        member = Member(info, request.cursor, request.cursor, now, request.weight, request.zone)
        member.console, member.life = request.console[:CONSOLE_MAX], request.life
        before = self.members.get(worker)
        self.members[worker] = member
        self._settling.heard(worker, 0, {}, {})
        self._listed += 1
        if worker not in self._live:  # no look at all leases: thousands may come at once
            insort(self._live, worker)
            self._living += 1
        elif (
            before is not None and before.life != member.life
        ):  # it was away, and nobody was told; it may have lost copies meanwhile
            self._living += 1
        log.info("worker registered", worker=worker, address=request.address, unix=request.unix)
        if self.resolver is not None:
            self.resolver.registered(worker, request.operations)
        self.on_registered()
        oldest, newest = self._namespace.feed_bounds()
        return RegisterAnswer(
            worker,
            self._namespace.cluster,
            self._namespace.incarnation,
            self.epoch,
            self._keys,
            self._grants(),
            LEASE_S,
            self._now_ns(),
            newest,
            oldest,
            group_specs(self._namespace),
            token_grant(self._namespace),
            self._namespace.meta.keys_index,
            self._is_in_table(worker),
            self._namespace.meta.last_intent,
        )

    async def note_addresses(self) -> None:
        """From now on the cluster remembers where workers listen, so that the next leader can say where one was that it never heard."""
        for worker, member in list(self.members.items()):
            await self._note_address(worker, member.info.address)

    async def _note_address(self, worker: int, address: str) -> None:
        namespace = self._namespace
        if namespace.level >= ADDRESSES_LEVEL and namespace.address_of(worker) != address:
            identity = namespace.workers()[worker]
            await self._proposer.insist(RegisterWorker(self._proposer.stamp(), identity, address))

    def _is_in_table(self, worker: int) -> bool | None:
        if self._table is not self._namespace.slots:
            self._table, self._in_table = self._namespace.slots, frozenset(self._namespace.slots.workers())
        return worker in self._in_table if self._table.epoch else None

    def heartbeat(self, request: HeartbeatRequest, call: Call) -> HeartbeatAnswer | None:
        """A worker is alive and asks for news. ``SessionExpired``: register (again) first; it fell so far behind that news is lost, or
        this master does not know it."""
        check_access(call.principal, Right.NODE)
        self._proposer.check_leads()
        member = self.members.get(request.worker)
        if member is None:
            raise SessionExpired(f"worker {request.worker} is not registered with this master: register again")
        oldest, newest = self._namespace.feed_bounds()
        if request.cursor < min(oldest - 1, newest):
            raise SessionExpired(f"the feed no longer reaches back to {request.cursor}: register again")
        member.heard, member.cursor = self._clock(), request.cursor
        member.durable = request.durable if request.durable >= 0 else request.cursor
        member.group_bytes, member.troubles = request.group_bytes, request.troubles
        member.totals = request.totals[:TOTALS_MAX]
        if request.slots is not None:
            self._settling.heard(request.worker, request.slots.epoch, request.over, request.left)
        if self.resolver is not None:
            self.resolver.heartbeat(request.worker, request.operations)
        member.info = msgspec.structs.replace(
            member.info, capacity_bytes=request.capacity_bytes, used_bytes=request.used_bytes
        )
        if not member.live or self._passing:
            self.check_leases()
        knows_none = request.slots is not None and not request.slots.epoch and bool(self.epoch)
        if self._has_news(request) or knows_none or request.wait_s <= 0:
            return self._news(request)
        self._end(self._polls.pop(request.worker, None))
        poll = self._polls[request.worker] = _Poll(request, call)
        poll.timer = self._reactor.callLater(min(request.wait_s, WAIT_MAX_S), self._expire, poll)
        return None

    # ---- long polls ---------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something was applied: answer the polls that have news."""
        for worker, poll in list(self._polls.items()):
            if self._has_news(poll.request):
                del self._polls[worker]
                self._end(poll)

    def stop(self) -> None:
        """Answer everyone who waits."""
        polls, self._polls = self._polls, {}
        for poll in polls.values():
            self._end(poll)
        passing, self._passing = self._passing, []
        for _, waiter in passing:
            waiter.callback(0)

    def _expire(self, poll: _Poll) -> None:
        if self._polls.get(poll.request.worker) is poll:
            del self._polls[poll.request.worker]
        poll.timer = None
        self._end(poll)

    def _end(self, poll: _Poll | None) -> None:
        if poll is None:
            return
        if poll.timer is not None:
            poll.timer.cancel()
            poll.timer = None
        if not poll.call.closed:
            poll.call.answer(self._news(poll.request))

    def _has_news(self, request: HeartbeatRequest) -> bool:
        namespace = self._namespace
        return (
            request.mounts_index != namespace.mounts_index
            or request.policies_index != namespace.meta.policies_index
            or request.tokens_index != namespace.meta.keys_index
            or namespace.feed_bounds()[1] > request.cursor
        )

    def _news(self, request: HeartbeatRequest) -> HeartbeatAnswer:
        records = self._namespace.feed(request.cursor, FEED_RECORDS)
        changed = request.mounts_index != self._namespace.mounts_index
        policies_index = self._namespace.meta.policies_index
        keys_index = self._namespace.meta.keys_index
        return HeartbeatAnswer(
            [FeedItem(index, kind, contents) for index, kind, contents in records],
            records[-1][0] if records else request.cursor,
            self.epoch,
            self._now_ns(),
            self._keys if changed else None,
            self._grants() if changed else None,
            self._namespace.mounts_index,
            group_specs(self._namespace) if request.policies_index != policies_index else None,
            policies_index,
            token_grant(self._namespace) if request.tokens_index != keys_index else None,
            keys_index,
            self._heartbeat_slots(request.slots),
            self._settling.news(request.worker, self._namespace.slots),
        )

    def _heartbeat_slots(self, known: SlotsKnown | None) -> SlotsNews | None:
        table = self._namespace.slots
        if known is None or (known.epoch, known.digest, known.live) == (table.epoch, table.digest, self._living):
            return None
        return self._slots_news(known, with_formers=True)

    def _grants(self) -> list[MountGrant]:
        """All mounts but those whose secrets cannot be opened: one of these must not keep workers from the others."""
        grants, broken = [], set()
        for _, mount in self._namespace.mounts():
            try:
                options = mount.options | self._vault.open(mount)
            except HomeUnusable as error:
                broken.add(mount.changed_index)
                if mount.changed_index not in self._broken:
                    log.error("workers are not told of a mount", mount=mount.path, error=str(error))
                continue
            grants.append(MountGrant(mount.id, mount.uri, options, mount.changed_index, mount.ufs_mode))
        self._broken = broken
        return grants

    # ---- who has acted on the feed ------------------------------------------------------------------------------------

    def when_passed(self, index: int, timeout_s: float) -> Deferred[int]:
        """How many live workers have not yet acted on feed ``index``: 0 as soon as none, else the number after ``timeout_s``."""
        waiter: Deferred[int] = Deferred()
        if not self._behind(index):
            waiter.callback(0)
            return waiter
        entry = (index, waiter)
        self._passing.append(entry)

        def expire() -> None:
            if entry in self._passing:
                self._passing.remove(entry)
                waiter.callback(self._behind(index))

        timer = self._reactor.callLater(timeout_s, expire)

        def done(behind: int) -> int:
            if timer.active():
                timer.cancel()
            return behind

        return waiter.addCallback(done)

    def behind(self, index: int) -> list[int]:
        """Live workers that have not acted on feed ``index``."""
        return [worker for worker, member in self.members.items() if member.live and member.cursor < index]

    def _behind(self, index: int) -> int:
        return len(self.behind(index))

    def _settle_passing(self) -> None:
        for entry in list(self._passing):
            if not self._behind(entry[0]):
                self._passing.remove(entry)
                entry[1].callback(0)
