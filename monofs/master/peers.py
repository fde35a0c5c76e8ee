"""The journal's members among themselves: one door, two lanes to each other member, and copies of the state.

Heartbeats, votes and answers travel on a lane of their own, so that they never queue behind entries. A message that cannot be sent at once is
dropped, not kept: the core sends again what matters, and a lane that filled up would deliver the past. Invariants: everybody who comes in knows
the cluster secret; messages of another cluster reach no core; a lane holds at most ``LANE_REQUESTS`` unanswered requests.

The door answers WHO from the start, and STEP and SNAPSHOT once there is a journal behind it.

Not here: what messages mean (journal/raft), who is a member (quorum.py), the state itself (snapshots.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from monofs.journal.raft.messages import Append, Message, NodeId
from monofs.journal.wire import decode_message, encode_message
from monofs.master.access import check_access
from monofs.model.errors import InvalidArgument, MonofsError, NotReady
from monofs.model.principal import Right
from monofs.observe.logs import logger
from monofs.observe.metrics import JOURNAL_DROPPED
from monofs.rpc.api import Empty, Method, SnapshotAnswer, SnapshotRequest, StepRequest, WhoAnswer, WhoRequest
from monofs.rpc.client import Client
from monofs.rpc.service import Call, Service

log = logger(__name__)

LANE_REQUESTS = 256
"""Requests of one lane without an answer; messages over it are dropped."""
STEP_BYTES = 4 << 20
"""About how many bytes of messages one request carries."""
STEP_S = 5.0
CONNECT_S = 1.0
BACKOFF_MAX_S = 0.5


class _Lane:
    """A connection to one member that rather loses than keeps."""

    __slots__ = ("_client", "_on_lost", "_unanswered")

    def __init__(self, client: Client, on_lost: Callable[[], None]) -> None:
        self._client, self._on_lost, self._unanswered = client, on_lost, 0

    def send(self, request: StepRequest) -> None:
        """Send, or drop and say so."""
        bound = LANE_REQUESTS if self._client.welcome is not None else 1
        if self._unanswered >= bound:
            self._on_lost()
            return
        self._unanswered += 1
        self._client.call(Method.STEP, request, Empty, STEP_S).addCallbacks(self._answered, self._failed)
        self._client.flush()  # the others' disks begin with it, while this one's turn goes on

    def _answered(self, _: Empty) -> None:
        self._unanswered -= 1

    def _failed(self, failure: Failure) -> None:
        self._unanswered -= 1
        failure.trap(MonofsError)
        self._on_lost()

    def close(self) -> None:
        """No more."""
        self._client.close()


class Peers:
    """The lanes of this member. ``connect(address, **options)`` makes a client; ``unreachable(peer)`` is called when messages were lost."""

    def __init__(
        self,
        me: NodeId,
        connect: Callable[..., Client],
        *,
        reactor: Any,
        envelope: Callable[[], StepRequest],
        unreachable: Callable[[NodeId], None],
    ) -> None:
        self._me, self._connect, self._reactor = me, connect, reactor
        self._envelope, self._unreachable = envelope, unreachable
        self._addresses: dict[NodeId, str] = {}
        self._lanes: dict[NodeId, tuple[_Lane, _Lane]] = {}

    def set_addresses(self, addresses: dict[NodeId, str]) -> None:
        """Where the members' journal doors are; lanes to others end."""
        for peer in list(self._lanes):
            if self._addresses.get(peer) != addresses.get(peer):
                for lane in self._lanes.pop(peer):
                    lane.close()
        self._addresses = addresses

    def send(self, messages: Sequence[Message]) -> None:
        """Send what can be sent now."""
        loads: dict[tuple[NodeId, bool], list[bytes]] = {}
        sizes: dict[tuple[NodeId, bool], int] = {}
        for message in messages:
            key = message.target, isinstance(message, Append) and bool(message.entries)
            body = encode_message(message)
            if sizes.get(key, 0) + len(body) > STEP_BYTES and key in loads:
                self._send(key, loads.pop(key))
                sizes[key] = 0
            loads.setdefault(key, []).append(body)
            sizes[key] = sizes.get(key, 0) + len(body)
        for key, bodies in loads.items():
            self._send(key, bodies)

    def _send(self, key: tuple[NodeId, bool], bodies: list[bytes]) -> None:
        peer, is_bulk = key
        lanes = self._lanes.get(peer)
        if lanes is None:
            address = self._addresses.get(peer)
            if address is None or peer == self._me:
                return
            lanes = self._lanes[peer] = self._lane(peer, address), self._lane(peer, address)
        request = self._envelope()
        request.messages = bodies
        lanes[is_bulk].send(request)

    def _lane(self, peer: NodeId, address: str) -> _Lane:
        client = self._connect(address, connect_timeout_s=CONNECT_S, backoff_max_s=BACKOFF_MAX_S)
        dropped = JOURNAL_DROPPED(f"{peer:x}")

        def lost() -> None:
            dropped.value += 1
            self._unreachable(peer)

        return _Lane(client, lost)

    def close(self) -> None:
        """End all lanes."""
        for lanes in self._lanes.values():
            for lane in lanes:
                lane.close()
        self._lanes.clear()
        self._addresses = {}


class PeerDoor:
    """What a master answers on its journal door. ``who()`` says who this is; the rest is there once :meth:`open` was called."""

    def __init__(self, reactor: Any, *, who: Callable[[], WhoAnswer], cluster: Callable[[], bytes]) -> None:
        self._who, self._cluster = who, cluster
        self._deliver: Callable[[StepRequest, list[Message]], None] | None = None
        self._take: Callable[[SnapshotRequest], Any] | None = None
        self.service = Service("journal", reactor, cluster=cluster)
        self.service.register(Method.WHO, WhoRequest, self._answer_who)
        self.service.register(Method.STEP, StepRequest, self._answer_step)
        self.service.register(Method.SNAPSHOT, SnapshotRequest, self._answer_snapshot)

    def open(
        self,
        deliver: Callable[[StepRequest, list[Message]], None],
        take: Callable[[SnapshotRequest], Deferred[SnapshotAnswer]],
    ) -> None:
        """There is a journal now."""
        self._deliver, self._take = deliver, take

    def _answer_who(self, _: WhoRequest, call: Call) -> WhoAnswer:
        check_access(call.principal, Right.NODE)
        return self._who()

    def _answer_step(self, request: StepRequest, call: Call) -> Empty:
        check_access(call.principal, Right.NODE)
        self._check_cluster(request.cluster)
        if self._deliver is None:
            raise NotReady("this master does not know its group yet: try again shortly")
        self._deliver(request, [decode_message(body) for body in request.messages])
        return Empty()

    def _answer_snapshot(self, request: SnapshotRequest, call: Call) -> Any:
        check_access(call.principal, Right.NODE)
        self._check_cluster(request.cluster)
        if self._take is None:
            raise NotReady("this master does not know its group yet: try again shortly")
        return self._take(request)

    def _check_cluster(self, cluster: bytes) -> None:
        mine = self._cluster()
        if mine and cluster and mine != cluster:
            raise InvalidArgument("these masters belong to different clusters: see journal.peers of both")
