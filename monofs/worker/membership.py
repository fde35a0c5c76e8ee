"""Being a worker of a cluster: registering, heartbeats, and acting on what they bring.

Order of doing, which is law: another cluster or incarnation, or a feed cursor the master's feed no longer reaches back to, drops all
clean pages and pins *before* keys are taken over, because keys are what lets readers in (another cluster ends all writes too); the cursor
moves only when everything up to it was acted on. Secrets of mounts and keys stay in memory. Any failure ends in registering again, which is idempotent.

The slot table is followed with the heartbeats; until the first has come it is the empty one. Who follows a table knows the tables that led to it and,
in all but large clusters, where its workers listen: else what former owners have would be fetched again. Not here: who makes it (the master), the
checks made with the keys (gate.py).
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from monofs.config.schema import WorkerConfig
from monofs.model.errors import HomeUnusable, MonofsError, NotLeader, NotReady, TierFull
from monofs.model.ids import ContentId
from monofs.model.slots import EMPTY, SlotTable, follow
from monofs.observe.logs import logger
from monofs.observe.totals import totals
from monofs.rpc.addresses import host_id
from monofs.rpc.api import (
    ClusterAnswer,
    ClusterRequest,
    FeedItem,
    FeedKind,
    GroupSpec,
    HeartbeatAnswer,
    HeartbeatRequest,
    Message,
    Method,
    MountGrant,
    RegisterAnswer,
    RegisterRequest,
    SlotsKnown,
    SlotsNews,
    TokenGrant,
)
from monofs.tiering.cache import Cache, Rule
from monofs.worker.gate import Gate
from monofs.worker.parts import Parts
from monofs.worker.peers import Peers
from monofs.worker.pins import Pins

log = logger(__name__)

IDENTITY_BYTES = 16
REGISTER_S = 10.0
SILENCE_S = 2.0
"""A master this late with the answer to a heartbeat is left: another may lead since, and clients wait for a worker it knows."""
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 5.0
LISTS_S = 300.0
"""How many workers of a cluster ask in a second where the others listen, after a change of the slot table."""
LEADERLESS_MOST_S = 0.5
"""Masters answer, and another leads, or soon will: until a worker has found it, nothing that is not cached can be read."""
RETIRED_FEW, RETIRED_S = 256, 0.05
"""Contents retire one by one while files are overwritten: of so few records, those of so long are acted on together."""
SLICE = 500
"""Contents of the feed acted on in one turn of the reactor."""


class MasterClient(Protocol):
    """The channel to the master: rpc.client.Client or rpc.direct.DirectClient."""

    def call(self, method: Method, request: Message, answer_type: type[Any], timeout_s: float = 30.0) -> Deferred[Any]:
        """Ask; fails with a MonofsError."""


class Membership:
    """One worker's place in its cluster. Reactor thread only."""

    def __init__(
        self,
        config: WorkerConfig,
        cache: Cache,
        gate: Gate,
        pins: Pins,
        peers: Peers,
        master: MasterClient,
        *,
        reactor: Any,
        identity: bytes,
        on_mounts: Callable[[list[MountGrant]], None],
        operations: Callable[[], list[int]] = list,
        troubles: Callable[[], dict[int, str]] = dict,
        on_cluster: Callable[[], None] = lambda: None,
        on_begun: Callable[[int], None] = lambda _: None,
        on_tokens: Callable[[TokenGrant], None] = lambda _: None,
        on_slots: Callable[[], None] = lambda: None,
        on_replicas: Callable[[], None] = lambda: None,
        on_addresses: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``operations`` tells the writes this worker is at, ``troubles`` of mounts whose stores it does not ask; ``on_cluster`` is called before another cluster is joined, ``on_begun`` with
        the last operation of which the master gave up the writes it did not hear named, ``on_slots`` when the slot table has changed, ``on_replicas`` when other paths are to have copies, ``on_addresses`` when more may be known of where its workers listen. ``tell`` is given what to show whoever started the
        worker, while it waits for its first master."""
        self._config, self._cache, self._gate, self._pins, self._master = config, cache, gate, pins, master
        self._reactor, self._identity, self._on_mounts = reactor, identity, on_mounts
        self._operations, self._on_cluster, self._on_tokens = operations, on_cluster, on_tokens
        self._troubles, self._on_begun = troubles, on_begun
        self._peers, self._on_slots, self._on_addresses = peers, on_slots, on_addresses
        self._on_replicas = on_replicas
        self._tell = tell
        self._waits_for: set[int] = set()
        self.worker = 0
        self.slots: SlotTable = EMPTY
        """Which workers each slot lists, as told last."""
        self.silent: frozenset[int] = frozenset()
        """Workers that did not live when the master told last."""
        self._parts = Parts()
        self._specs: list[GroupSpec] = []
        self._live = self._listed = 0
        self._list_at_s = 0.0
        self._mounts_index = self._policies_index = self._tokens_index = 0
        self._address = self._unix = self._console = ""
        self._life = secrets.randbits(62)
        self._first: Deferred[None] | None = None
        self._loop: Deferred[None] | None = None

    def start(self, address: str, unix: str, console: str = "") -> Deferred[None]:
        """Begin, and say where this worker and its console are; fires after the first registration, however long that takes. Fails with ``NotReady`` if stopped before."""
        self._address, self._unix, self._console = address, unix, console
        first = self._first = Deferred()
        self._loop = Deferred.fromCoroutine(self._run())
        return first  # not self._first: a master in this process may have answered already

    def stop(self) -> None:
        """End the loop; the master learns by silence."""
        if self._loop is not None:
            self._loop.cancel()
            self._loop = None
        if self._first is not None:
            first, self._first = self._first, None
            first.errback(NotReady("the worker was stopped before a master knew it"))

    async def _run(self) -> None:
        delay_s, told = RETRY_FIRST_S, ""
        while True:
            most_s = RETRY_MOST_S
            try:
                await self._register()
                delay_s, told = RETRY_FIRST_S, ""
                while True:
                    await self._heartbeat()
            except CancelledError:
                return
            except MonofsError as error:
                most_s = LEADERLESS_MOST_S if isinstance(error, NotLeader) else RETRY_MOST_S
                if str(error) != told:  # once, not every few seconds for as long as the master is away
                    told = str(error)
                    log.warning("the master does not answer", error=told, code=error.code)
                if self._first is not None and error.code not in self._waits_for:  # each reason once
                    self._waits_for.add(error.code)
                    self._tell(f"waiting for a master to take this worker in: {error.message}")
            except Exception as bug:  # noqa: BLE001 - a worker that stopped heartbeating would be lost for good
                log.error("heartbeat failed", exception=bug)
            delay_s = min(delay_s, most_s)
            try:
                await deferLater(self._reactor, delay_s * (0.5 + random.random()))  # noqa: S311 - spreads load
            except CancelledError:
                return
            delay_s = min(delay_s * 2, RETRY_MOST_S)

    async def _register(self) -> None:
        cache = self._cache
        request = RegisterRequest(
            self._identity,
            self._address,
            self._unix,
            host_id(),
            cache.capacity_bytes,
            cache.used_bytes,
            cache.durable_cursor,
            cache.cluster,
            cache.incarnation,
            self._operations(),
            self._config.weight,
            self._config.zone,
            self._config.local_copy != "never",
            self._console,
            self._life,
        )
        answer: RegisterAnswer = await self._master.call(Method.REGISTER, request, RegisterAnswer, REGISTER_S)
        is_new = True
        if (answer.cluster, answer.incarnation) != (cache.cluster, cache.incarnation):
            if cache.cluster:
                log.warning("this is another cluster or incarnation: dropping what was cached")
                self._tell(
                    "this home was a worker's of another cluster, or of this one before it was restored: what it had cached is dropped, and set aside where no store has it"
                )
            self._on_cluster()
            cache.adopt_cluster(answer.cluster, answer.incarnation)
            cache.set_cursor(answer.feed_head)
        elif is_cursor_lost(cache.cursor, answer.feed_head, answer.feed_tail):
            log.warning(
                "the master's feed does not reach from here to now: dropping what was cached", cursor=cache.cursor
            )
            cache.drop_clean()
            cache.unpin([ContentId(content) for content in cache.pins])
            cache.set_cursor(answer.feed_head)
        else:
            is_new = not self.worker
        self._gate.hear(answer.now_ns)
        if is_new:
            self._pins.begin()
        self._on_begun(answer.begun)
        self._gate.set_keys(answer.keys, answer.cluster)
        self._on_mounts(answer.mounts)
        self._parts.registered(listed=answer.listed)
        self._take_groups(answer.groups)
        if answer.tokens is not None:
            self._on_tokens(answer.tokens)
        self._tokens_index = answer.tokens_index
        self.worker, self._mounts_index, self._policies_index = answer.worker, 0, 0
        if self._first is not None:
            first, self._first = self._first, None
            log.info("registered", worker=answer.worker, address=self._address)
            first.callback(None)

    async def _heartbeat(self) -> None:
        cache = self._cache
        interval_s, began = self._config.heartbeat_interval_s, time.monotonic()
        over, left = self._told_of_parts()
        request = HeartbeatRequest(
            self.worker,
            cache.cursor,
            cache.capacity_bytes,
            cache.used_bytes,
            self._mounts_index,
            wait_s=interval_s,
            durable=cache.durable_cursor,
            policies_index=self._policies_index,
            group_bytes=cache.group_bytes(),
            over=over,
            left=left,
            operations=self._operations(),
            tokens_index=self._tokens_index,
            slots=SlotsKnown(self.slots.epoch, self.slots.digest, self._live),
            troubles=self._troubles(),
            totals=totals(),
        )
        answer: HeartbeatAnswer = await self._master.call(
            Method.HEARTBEAT, request, HeartbeatAnswer, interval_s + SILENCE_S
        )
        self._gate.hear(answer.now_ns)
        if answer.slots is not None:
            await self._take_slots(answer.slots)
        if answer.parts is not None:
            self._parts.told(answer.parts.settled, answer.parts.over)
        else:
            self._parts.unknown()
        self._keep_parts()
        if self._peers.wants_addresses and time.monotonic() >= self._list_at_s and await self._list_workers():
            self._on_addresses()
        if answer.keys is not None:
            self._gate.set_keys(answer.keys, cache.cluster)
        if answer.mounts is not None:
            self._on_mounts(answer.mounts)
            self._mounts_index = answer.mounts_index
        if answer.groups is not None:
            self._take_groups(answer.groups)
            self._policies_index = answer.policies_index
        if answer.tokens is not None:
            self._on_tokens(answer.tokens)
            self._tokens_index = answer.tokens_index
        for item in answer.feed:
            await self._act(item)
        self._pins.known_s = answer.now_ns // 10**9
        if answer.cursor > cache.cursor:
            cache.set_cursor(answer.cursor)
        rest_s = interval_s - (time.monotonic() - began)
        tables = None if answer.slots is None else answer.slots.deltas
        news = (answer.feed, answer.mounts, answer.keys, answer.groups, answer.tokens, tables)
        if rest_s > 0 and not any(part is not None and part != [] for part in news):
            await deferLater(self._reactor, rest_s)  # a master that answers nothing early must not be asked in a loop
        elif 0 < len(answer.feed) < RETIRED_FEW and all(item.kind == FeedKind.RETIRED for item in answer.feed):
            await deferLater(self._reactor, RETIRED_S)

    async def _take_slots(self, news: SlotsNews) -> None:
        before, tables = self.slots, [self.slots]
        for packed in news.deltas:
            tables.append(follow(tables[-1], [packed]))
        has_come_or_gone = news.silent is not None and bool(self._peers.replicas)  # perhaps with less than it had
        heard = False
        if tables[-1] is not before or has_come_or_gone:
            self._peers.wants_addresses = True
            spread_s = len(tables[-1].workers()) / LISTS_S
            if spread_s <= 1.0:  # heartbeats are spread so far
                heard = await self._list_workers()
            else:
                self._list_at_s = time.monotonic() + random.random() * spread_s  # noqa: S311 - spreads load
        if news.silent is not None:
            self.silent, self._live = frozenset(news.silent), news.live
        self.slots = tables[-1]
        for table in tables:
            self._peers.follow(self.worker, table, self.silent)
        if self.slots is not before:
            followed = tables[1:] if before.epoch else tables[-1:]  # by any of them others may have grown meanwhile
            for table in followed:
                self._parts.follow(self.worker, table)
            self._on_slots()
        elif heard or has_come_or_gone:
            self._on_addresses()  # not before it is known who lives

    async def _list_workers(self) -> bool:
        """Learn where the others listen; whether that was told anew."""
        request = ClusterRequest(workers=self._listed)
        answer: ClusterAnswer = await self._master.call(Method.CLUSTER, request, ClusterAnswer, REGISTER_S)
        if answer.workers:
            self._listed = answer.listed
            live = [info.id for info in answer.workers if info.live]
            self._peers.hear({info.id: info.address for info in answer.workers}, awaited=answer.awaited, live=live)
        else:
            self._peers.wants_addresses = False
        return bool(answer.workers)

    def _take_groups(self, groups: list[GroupSpec]) -> None:
        self._specs = groups
        self._keep_parts()
        replicas = {spec.id: spec.replicas for spec in groups if spec.replicas > 1}
        before, self._peers.replicas = self._peers.replicas, replicas
        if replicas != before:
            self._on_replicas()

    def _keep_parts(self) -> None:
        """Take over what policies say, of their quotas this worker's part."""
        used, rules = self._cache.group_bytes(), {}
        for spec in self._specs:
            quota = self._parts.of(spec.id, spec.quota_bytes, used.get(spec.id, 0)) if spec.quota_bytes else None
            rules[spec.id] = Rule(quota, spec.priority, spec.ttl_s)
        self._cache.set_groups(rules)

    def _told_of_parts(self) -> tuple[dict[int, int], dict[int, int]]:
        """By policy id: what could not go although it is over this worker's part, and what it leaves of its part to others."""
        used = self._cache.group_bytes()
        held = [(spec.id, spec.quota_bytes, used.get(spec.id, 0)) for spec in self._specs if spec.quota_bytes]
        over = {policy: over for policy, quota, count in held if (over := self._parts.over(quota, count))}
        left = {policy: left for policy, quota, count in held if (left := self._parts.left(policy, quota, count))}
        return over, left

    async def _act(self, item: FeedItem) -> None:
        cache = self._cache
        for begin in range(0, len(item.contents), SLICE):
            contents = [ContentId(content) for content in item.contents[begin : begin + SLICE]]
            if item.kind in (FeedKind.RETIRED, FeedKind.UNPIN):
                self._pins.end(contents)
            if item.kind == FeedKind.RETIRED:
                for content in contents:
                    cache.retire(content)
            elif item.kind in (FeedKind.FREE, FeedKind.FREE_FORCED):
                cache.free(contents, force=item.kind == FeedKind.FREE_FORCED)
            elif item.kind == FeedKind.PIN:
                try:
                    cache.pin(contents)
                except TierFull as error:  # what is not pinned can be evicted; the feed must go on
                    log.warning("not all can be pinned", error=str(error))
            elif item.kind == FeedKind.UNPIN:
                cache.unpin(contents)
            else:
                log.warning("a feed record of a kind this release does not know was passed over", kind=item.kind)
            if begin + SLICE < len(item.contents):
                await deferLater(self._reactor, 0)


def is_cursor_lost(cursor: int, feed_head: int, feed_tail: int) -> bool:
    """Whether the feed may have held records between ``cursor`` and its oldest one now. ``feed_tail`` is that oldest index.

    A cursor beyond the feed is lost too: the master's home was restored from before, and gives the same content ids again.
    """
    return cursor > feed_head or (cursor < feed_tail - 1 and cursor < feed_head)


def load_identity(home: str) -> bytes:
    """The 16 random bytes that name this worker's home for ever, made at first start. Raises ``HomeUnusable``."""
    path = os.path.join(home, "worker", "identity")
    try:
        try:
            with open(path, "rb") as file:
                identity = file.read(IDENTITY_BYTES + 1)
        except FileNotFoundError:
            identity = _make_identity(path)
    except OSError as error:
        raise HomeUnusable(f"{path} cannot be read or made: {error.strerror}") from None
    if len(identity) != IDENTITY_BYTES:
        raise HomeUnusable(f"{path} is damaged: remove it, and this worker joins as a new one")
    return identity


def _make_identity(path: str) -> bytes:
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    identity = secrets.token_bytes(IDENTITY_BYTES)
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, identity)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(path + ".new", path)
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return identity
