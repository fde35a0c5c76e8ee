"""One master of several: its identity, its journal door, its lanes to the others, and the journal over them.

Opening, in this order: a state received before is put in place; the door opens and says who this is; the group is found or formed; the log is read
back; only then does this master speak. Invariant: a master whose log is not that of its identity never answers STEP. Not here: what any of the parts does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from monofs.config.schema import Config
from monofs.journal.book import MEMBERS_MAX, Seat, decode_book, encode_book, parse_peers
from monofs.journal.face import Role
from monofs.journal.raft.messages import InstallSnapshot, Membership, Message, NodeId, Position, Refused, SnapshotWanted
from monofs.journal.recovery import list_segments
from monofs.journal.replicated import Replicated
from monofs.journal.wire import decode_membership, encode_membership
from monofs.master.peers import PeerDoor, Peers
from monofs.master.snapshots import RECEIVED, Receiving, Sending
from monofs.metadata.copying import end_install, install_database
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import LEVEL
from monofs.model.errors import MonofsError, invariant
from monofs.model.ids import Term
from monofs.node.forming import ASK_S, Forming, load_identity, proves_removal
from monofs.node.home import Home
from monofs.observe.logs import logger
from monofs.rpc.api import Method, StepRequest, WhoAnswer, WhoRequest
from monofs.rpc.client import Client
from monofs.rpc.handshake import Credential
from monofs.rpc.server import Limits, Listener, Security, listen_tcp
from monofs.rpc.tls import ClientTls

log = logger(__name__)
JOURNAL_CONNECTIONS = 256
NO_LEADER = "no master leads: nothing can be changed before a majority"
WATCH_S = 3.0
"""Between two looks; whom two find without a leader is told: elections take a fraction of it."""


def install_received(home: Home) -> bool:
    """Put a state that a leader sent in place of the one here, before anything is opened; whether there was one."""
    received = home.path(RECEIVED)
    if not os.path.exists(received):
        return False
    log.warning("installing the state received from the leader", file=received)
    install_database(home.path("namespace"), received)
    os.unlink(received)
    return True


class Group:
    """Implements ``replicated.Network``. ``journal`` is what the master proposes to."""

    def __init__(
        self,
        home: Home,
        config: Config,
        namespace: Namespace,
        *,
        credential: Credential,
        security: Security,
        tls: ClientTls | None,
        installed: bool,
        reactor: Any,
        on_failure: Callable[[BaseException], None],
        rpc: Callable[[], str],
        skip: frozenset[int],
    ) -> None:
        settings = config.journal
        self._peers_given = parse_peers(settings.peers)
        self._home, self._config, self._namespace, self._reactor = home, config, namespace, reactor
        self._installed, self._rpc = installed, rpc
        directory = home.path("journal")
        self._has_log = os.path.isdir(directory) and bool(list_segments(directory).chain)
        self.identity = load_identity(home, settings.id, has_log=self._has_log)
        self.me = NodeId(self.identity.id)
        self._credential, self._tls = credential, tls
        self._security = replace(security, authentication="required", insecure=False)
        self._membership: Membership | None = None
        self._rpcs: dict[NodeId, str] = {}
        self._heard_from: dict[NodeId, str] = {}
        """Journal doors of members this master's membership does not name yet: it joins."""
        self._levels: dict[NodeId, int] = {}
        """The highest entry level each member knows, as it said last."""
        self._of_another_lease: set[NodeId] = set()
        """Members that are not heard, told of in the log already."""
        self._listener: Listener | None = None
        self._watcher = LoopingCall(self._watch)
        self._watcher.clock = reactor
        self._leaderless = 0
        """How many looks in a row found no leader."""
        self._waits_for = "starting"
        """What was told last of a group that is not there yet, or that does not have this master yet."""
        self._asked: dict[str, Client] = {}
        """Journal doors that are asked, while nobody leads, whether this master was removed."""
        self._asking = False
        self.journal = Replicated(
            directory, namespace, settings, self.me, reactor=reactor, on_failure=on_failure, skip=skip
        )
        self.journal.rpc_of = lambda node: rpc() if node == self.me else self._rpcs.get(node)
        self._door = PeerDoor(reactor, who=self._who, cluster=lambda: namespace.cluster)
        self._lanes = Peers(
            self.me, self._connect, reactor=reactor, envelope=self._envelope, unreachable=self.journal.unreachable
        )
        self._receiving = Receiving(home.directory, reactor=reactor, cluster=lambda: namespace.cluster)
        self._sending = Sending(
            namespace.store,
            self.me,
            reactor=reactor,
            dial=self._dial_member,
            cluster=lambda: namespace.cluster,
            copied=self.journal.state_copied,
            offer=self._offer,
            sent=self.journal.snapshot_sent,
        )
        self.journal.copied_of = self._sending.copied_of

    # ---- opening and closing ------------------------------------------------------------------------------------------------

    async def start(self) -> str:
        """Open the door, find the group, read the log, begin; the door's address. Waits for the other masters while there is no group yet."""
        settings = self._config.journal
        limits = Limits(connections=JOURNAL_CONNECTIONS)
        self._listener = listen_tcp(
            self._reactor, self._door.service, settings.host, settings.port, security=self._security, limits=limits
        )
        if self._has_log or self._installed:
            membership = self._kept_membership()
        else:
            forming = Forming(self.identity, self._peers_given, self._connect, self._reactor, self._wait)
            membership = await forming.find()
        begins = not self._has_log and not self._installed
        self.journal.open(self, membership, begins=begins, installed=self._installed)
        if self._installed:
            end_install(self._home.path("namespace"))
        self.journal.on_role(self._hear_role)
        self._door.open(self._deliver, lambda request: Deferred.fromCoroutine(self._receiving.take(request)))
        self.journal.start()
        self._watcher.start(WATCH_S, now=False)
        return self._listener.address

    def _wait(self, why: str) -> None:
        self._waits_for = why
        tell(why)

    def trouble(self) -> str:
        """Why this master is of no use to clients now; empty: it leads, or knows who does."""
        if self.journal.removed or not self._watcher.running:
            return self.journal.removed or self._waits_for
        status = self.journal.raft_status()
        if not status.membership.members():
            return self._waits_for
        return "" if status.leader else NO_LEADER

    def _watch(self) -> None:
        """Say when nobody leads for long, and when somebody does again; find out whether that is because this master was removed."""
        status = self.journal.raft_status()
        members = status.membership.members()
        if self.journal.removed or not members:  # without any it waits to be added, and has said so
            return
        if self.me not in members and status.membership_index <= status.commit:
            self._become_removed()
            return
        if status.leader:
            if self._leaderless >= 2:
                log.info("a master leads again", term=status.term)
                tell(f"a master leads again, in term {status.term}")
            self._leaderless = 0
            return
        self._leaderless += 1
        if not self._asking:
            self._asking = True
            Deferred.fromCoroutine(self._ask_whether_removed())
        if self._leaderless == 2:
            names = ", ".join(sorted(seat.name for seat in decode_book(status.membership.book)))
            log.warning("no master leads", masters=names)
            tell(f"{NO_LEADER} of {names} runs and reaches one another")

    async def _ask_whether_removed(self) -> None:
        """A master that was removed while it was down hears nothing any more, and the rest of the group does not answer its elections."""
        own = {self._addresses().get(self.me), self._peers_given[self.identity.name]}
        try:
            for address in {*self._addresses().values(), *self._peers_given.values()} - own:
                if address not in self._asked:
                    self._asked[address] = self._connect(address, connect_timeout_s=ASK_S)
                request = WhoRequest(self.identity.name, self.me)
                try:
                    who = await self._asked[address].call(Method.WHO, request, WhoAnswer, ASK_S)
                    is_removed = proves_removal(who, self.me, self._namespace.cluster, self.journal.last())
                except MonofsError:
                    continue
                if is_removed:
                    self._become_removed()
                    return
        finally:
            self._asking = False

    def _become_removed(self) -> None:
        """Say so, and nothing more to the group; what clients get names it too."""
        name, address = self.identity.name, self._peers_given[self.identity.name]
        self.journal.removed = (
            f"this master, {name}, was removed from the group, and its home cannot come back. Stop it; to take {name} in again, start it on an empty home "
            f"and run `monofs admin quorum add {name}={address} --promote`"
        )
        log.error("removed from the group", reason=self.journal.removed)
        tell(self.journal.removed)

    def _kept_membership(self) -> Membership:
        """For a log that begins behind an installed state: a leader's, which names the members, or a backup's, which makes a group of one."""
        members = self._namespace.members
        if members:
            return decode_membership(members)
        seat = Seat(self.me, self.identity.name, self._peers_given[self.identity.name])
        return Membership((self.me,), (), (), encode_book([seat]))

    async def stop(self) -> None:
        """Hand leadership over; then no more messages in or out. The journal is closed after."""
        if self._watcher.running:
            self._watcher.stop()
        await self.journal.hand_over()
        self._sending.stop()
        for client in self._asked.values():
            client.close()
        if self._listener is not None:
            await self._listener.stop()
        self._lanes.close()

    # ---- who is who -----------------------------------------------------------------------------------------------------------

    def _who(self) -> WhoAnswer:
        membership = self._membership
        known = encode_membership(membership) if membership is not None and membership.voters else b""
        commit = self.journal.committed() or Position(0, 0)
        return WhoAnswer(self.identity.name, self.me, self._rpc(), self._namespace.cluster, known, *commit)

    def membership_changed(self, membership: Membership) -> None:
        """See ``replicated.Network``."""
        self._membership = membership
        self._heard_from.clear()
        self._lanes.set_addresses(self._addresses())

    def _addresses(self) -> dict[NodeId, str]:
        """Of all members' journal doors; what this master's own configuration says of a name goes before the book."""
        book = self._membership.book if self._membership is not None else b""
        return self._heard_from | {
            seat.id: self._peers_given.get(seat.name, seat.address) for seat in decode_book(book)
        }

    def dial(self, address: str) -> Client:
        """A channel to a journal door."""
        return self._connect(address)

    def _connect(self, address: str, **options: Any) -> Client:
        return Client(self._reactor, address, self._credential, tls=self._tls, **options)

    def _dial_member(self, member: NodeId) -> Client | None:
        address = self._addresses().get(member)
        return self.dial(address) if address else None

    def _hear_role(self, role: Role, _: Term) -> None:
        """A leader that began alone, or moved, puts its own address into the book, where the others will look for it."""
        membership = self._membership
        if role is not Role.LEADER or membership is None:
            return
        seats = decode_book(membership.book)
        mine = Seat(self.me, self.identity.name, self._peers_given[self.identity.name])
        if mine not in seats:
            book = encode_book([*(seat for seat in seats if seat.id != self.me), mine])
            try:
                self.journal.change_membership(membership._replace(book=book)).addErrback(self._book_not_changed)
            except Refused as refusal:
                self._book_not_changed(refusal)

    def _book_not_changed(self, why: object) -> None:
        log.warning("the book of members does not have this master's address yet; it is tried again", reason=str(why))

    # ---- messages -------------------------------------------------------------------------------------------------------------

    def _envelope(self) -> StepRequest:
        address = self._addresses().get(self.me) or self._peers_given[self.identity.name]
        digest = self.journal.digest()
        return StepRequest(
            self._namespace.cluster, self.me, self._rpc(), address, *digest, lease_ms=self.journal.lease_ms, level=LEVEL
        )

    def _deliver(self, request: StepRequest, messages: list[Message]) -> None:
        sender = NodeId(request.sender)
        if request.rpc:
            self._rpcs[sender] = request.rpc
        if sender not in self._addresses() and len(self._heard_from) < MEMBERS_MAX:
            self._heard_from[sender] = request.journal
            self._lanes.set_addresses(self._addresses())
        self._levels[sender] = request.level
        if not self._has_one_lease(sender, request.lease_ms):
            return
        if request.digest_index:
            self.journal.compare(sender, request.digest_index, request.digest)
        self.journal.receive([each for each in messages if self._may_pass(each)])

    def voters_level(self) -> int:
        """The highest entry level that every voter knows; 0 while one has not said."""
        membership = self._membership
        voters = [each for each in membership.members() if membership.is_voter(each)] if membership is not None else []
        return min((LEVEL if each == self.me else self._levels.get(each, 0) for each in voters), default=0)

    def _has_one_lease(self, sender: NodeId, lease_ms: int) -> bool:
        """Whether a member promises what this one counts on. One that does not is not heard: a lease would be broken by its vote."""
        if lease_ms == self.journal.lease_ms:
            self._of_another_lease.discard(sender)
            return True
        if sender not in self._of_another_lease:
            self._of_another_lease.add(sender)
            log.error(
                "a master with another read lease is not heard: set journal.read_lease and journal.election_timeout_s alike on all",
                master=f"{sender:x}",
                theirs_ms=lease_ms,
                mine_ms=self.journal.lease_ms,
            )
        return False

    def _may_pass(self, message: Message) -> bool:
        """An offer to install is taken only for a state that is here, whole and proved."""
        return not isinstance(message, InstallSnapshot) or self._receiving.is_whole(message.position)

    def send(self, messages: Sequence[Message]) -> None:
        """See ``replicated.Network``. One that was removed keeps quiet."""
        if not self.journal.removed:
            self._lanes.send(messages)

    def send_snapshot(self, wanted: SnapshotWanted) -> None:
        """See ``replicated.Network``."""
        self._sending.send(wanted)

    def _offer(self, peer: NodeId, position: Position) -> None:
        message = self.journal.install_message(peer, position)
        if message is not None:
            self._lanes.send([message])

    def install(self, snapshot: InstallSnapshot) -> None:
        """See ``replicated.Network``: give the file its name and start this process anew, which installs it."""
        invariant(self._receiving.is_whole(snapshot.position), "only a whole state is installed")
        self._receiving.publish()
        ready_file = os.path.expanduser(self._config.node.ready_file)
        if ready_file and os.path.exists(ready_file):
            os.unlink(ready_file)
        log.warning("starting anew to install the leader's state", index=snapshot.position.index)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very process, its own arguments


def tell(line: str) -> None:
    """To whoever watches the terminal or the supervisor's log: what a node waits for."""
    sys.stderr.write(f"monofs: {line}\n")
    sys.stderr.flush()
