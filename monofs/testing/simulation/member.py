"""One master of the simulated world: the product's core and driver over a simulated disk, network and clock.

A *life* of a member lasts from a start to a crash; what belongs to a life that ended does nothing any more. Everything a member does, it
does in :meth:`Member.do`, so a pause holds it all back, and a power cut can come inside of any change of its disk. Durable, beyond lives:
the disk and the machine's last flush. Not here: when things go wrong (faults.py), what must hold (ledger.py).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from monofs.journal.driver import Driver
from monofs.journal.face import Role
from monofs.journal.raft import reading
from monofs.journal.raft.messages import (
    NOBODY,
    InstallSnapshot,
    Membership,
    Message,
    NodeId,
    Persist,
    Position,
    Refused,
    SnapshotWanted,
)
from monofs.journal.raft.messages import (
    Role as RaftRole,
)
from monofs.journal.wire import decode_message, encode_message
from monofs.model.errors import InvariantBroken, JournalCorrupt, MonofsError, NotLeader, OutcomeUnknown, Overloaded
from monofs.model.ids import Term
from monofs.testing.simulation.disk import Disk, PowerLost
from monofs.testing.simulation.events import MS
from monofs.testing.simulation.log import SimulatedLog, flip_bit
from monofs.testing.simulation.machine import GET, Answer, Image, Registers, Request, encode

if TYPE_CHECKING:
    from monofs.testing.simulation.world import World

QUEUE_MAX_BYTES = 1 << 20
SNAPSHOT_TIMEOUT_NS = 1000 * MS
HELD_MAX = 4000
"""Messages that wait for a paused member; more are lost, as from a full socket."""


class Clock:
    """A member's CLOCK_BOOTTIME: it may run a little fast or slow, goes on through pauses and the death of the process, and begins anew when
    the machine has lost power."""

    def __init__(self, world: World, dice: random.Random, drift: float) -> None:
        self._world = world
        self._offset = dice.randrange(10**15)
        self.rate = 1.0 + dice.uniform(-drift, drift)

    def boot(self) -> None:
        """The machine starts."""
        self._offset = -int(self._world.events.now_ns * self.rate)

    def now_ns(self) -> int:
        """What the member reads."""
        return self._offset + int(self._world.events.now_ns * self.rate)


class Member:
    """See the module. ``up``: alive (perhaps paused); ``broken``: its disk lost acknowledged bytes, it never starts again."""

    def __init__(self, world: World, me: int, image: Image, *, drift: float) -> None:
        self.world, self.me = world, NodeId(me)
        self.dice = world.events.random(f"member {me}")
        self.clock = Clock(world, self.dice, drift)
        self.disk = Disk(world.events.random(f"disk {me}"))
        self.durable = image
        self.received: Image | None = None
        """A whole state, to be installed by the next start."""
        self.life = 0
        self.lives = 0
        self.up = self.broken = self.paused = False
        self.sync_most_ns = 2 * MS
        self.machine: Registers
        self.log: SimulatedLog
        self.driver: Driver
        self._held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._turn_asked = False
        self._disk_free_ns = 0
        self._jobs: deque[Callable[[], None]] = deque()
        """Asked of the disk, no effect yet."""
        self._received: dict[Position, Image] = {}
        self._sending: dict[NodeId, Position] = {}

    def __str__(self) -> str:
        return f"m{self.me}"

    # ---- doing --------------------------------------------------------------------------------------------------------------

    def later(self, delay_ns: int, function: Callable[..., None], *arguments: Any) -> None:
        """Do something in this life after a while."""
        self.world.events.after(delay_ns, self.do, self.life, function, *arguments)

    def do(self, life: int, function: Callable[..., None], *arguments: Any) -> None:
        """Do it now, unless that life is over; a paused member does it when it goes on."""
        if life != self.life or not self.up:
            return
        if self.paused:
            if len(self._held) < HELD_MAX:
                self._held.append((function, arguments))
            return
        try:
            function(*arguments)
        except PowerLost:
            self.world.events.counts["power cut inside a change of the disk"] += 1
            self.crash(power=True)
        self.world.check(self)

    def pause(self) -> None:
        """Stop as SIGSTOP does."""
        self.paused = True

    def resume(self) -> None:
        """Go on, with an old state and a new time."""
        if not self.up or not self.paused:
            return
        self.paused = False
        held, self._held = self._held, []
        self.dice.shuffle(held)  # many sockets and a timer, all of them due: any order may be
        if self.dice.random() < 0.5:
            kinds = sorted({_kind(function) for function, _ in held})
            self.dice.shuffle(kinds)
            held.sort(key=lambda each: kinds.index(_kind(each[0])))
        for function, arguments in held:
            self.later(0, function, *arguments)

    # ---- lives ----------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a life, as a process does: read the log back, then take part."""
        if self.up or self.broken:
            return
        world = self.world
        self.lives += 1
        self.life = self.lives
        self.up, self.paused = True, False
        self._held, self._received, self._sending, self._turn_asked = [], {}, {}, False
        self._disk_free_ns = 0
        self._jobs.clear()
        try:
            self._open()
        except PowerLost:
            world.events.counts["power cut while starting"] += 1
            self.crash(power=True)
            return
        except JournalCorrupt as error:
            self.up = False
            self.broken = True
            world.events.trace(self, "refuses to start:", error)
            world.expect_corrupt(self)
            return
        except MonofsError as error:
            world.events.trace(self, "cannot start:", error)
            self.fail(error)
            return
        self._tick()
        world.check(self)

    def _open(self) -> None:
        world = self.world
        installed = self.install_received()
        self.machine = Registers(self.durable)
        self.machine.hear = lambda index, crc: world.ledger.applied(self, index, crc)
        self.log = SimulatedLog(self.disk, world.events)
        found = self.log.open(self.durable, installed=installed)
        self.received = None
        restarted = self.lives > 1
        core = world.make_core(
            self.me,
            world.settings,
            random=random.Random(self.dice.getrandbits(64)),
            hard_state=found.hard_state,
            base=found.base,
            membership_at_base=found.membership,
            entries=found.entries,
            applied=self.durable.index,
            now_ns=self.clock.now_ns(),
            restarted=restarted,
            older=found.older,
        )
        self.driver = world.make_driver(core, self, self.machine, self, queue_max_bytes=QUEUE_MAX_BYTES)
        world.events.trace(self, "started", found.hard_state, found.base, f"last {core.status().last}")
        world.ledger.started(self)

    def install_received(self) -> bool:
        """Put a state received in the place of the old one; a power cut here leaves one or the other."""
        image = self.received
        if image is None or image.index < self.durable.index:
            return False
        self.disk.changed()
        self.durable = image
        self.world.events.counts["snapshot installed"] += 1
        self.world.events.trace(self, "installed", image.index, image.term)
        self.world.ledger.applied(self, image.index, image.crc)
        return True

    def crash(self, *, power: bool) -> None:
        """End this life now. ``power``: the machine loses what was not synced; else only the process dies."""
        if not self.up:
            return
        self.up = False
        self.life = 0
        if power and self._jobs and self.dice.random() < 0.8:
            self._break_off(self._jobs[0])
        lost = self.disk.cut_power() if power else 0
        self.disk.end_process()
        if power:
            self.clock.boot()
        self.world.events.counts["crash"] += 1
        if lost:
            self.world.events.counts["torn tail"] += 1
        self.world.events.trace(self, "crashed", "power" if power else "kill", f"{lost} sectors lost")
        self.world.events.after(self.world.restart_delay_ns(), self.start)

    def _break_off(self, job: Callable[[], None]) -> None:
        """The power goes while the disk is at it."""
        self.disk.countdown = self.dice.randrange(6)
        try:
            job()
        except PowerLost:
            self.world.events.counts["power cut inside a change of the disk"] += 1
        except (OSError, MonofsError):
            pass  # nobody is left to be told

    def is_leader(self) -> bool:
        """Thinks to lead."""
        return self.driver.core.role is RaftRole.LEADER

    def describe(self) -> str:
        """For a failure's report."""
        if not self.up:
            return "broken" if self.broken else "down"
        status = self.driver.core.status()
        return f"{status.role.value} t{status.term} leader {status.leader} commit {status.commit} last {status.last} {status.membership}"

    def flip_bit(self, dice: random.Random) -> bool:
        """Damage what was acknowledged; False when there is nothing to damage."""
        return flip_bit(self.disk, dice)

    def _tick(self) -> None:
        self.driver.tick(self.clock.now_ns())
        self.later(int(self.world.settings.tick_s * 1e9 / self.clock.rate), self._tick)

    # ---- clients and operators ------------------------------------------------------------------------------------------------

    def serve(self, request: Request, reply: Callable[[Any], None]) -> None:
        """A client's request arrived."""
        if request.kind == GET:
            self._count_read()
            self.driver.read_barrier(lambda error: reply(error or self._read(request)), self.clock.now_ns())
            return
        entry = encode(request)
        self.driver.propose(entry, reply, len(entry.body))

    def _count_read(self) -> None:
        core = self.driver.core
        if not self.is_leader():
            self.world.events.counts["read at a follower"] += core.leader != NOBODY
        elif reading.lease_until_ns(core):
            self.world.events.counts["read under a lease"] += 1

    def _read(self, request: Request) -> Answer:
        return Answer(done=True, seen=self.machine.values.get(request.key))

    def change_membership(self, membership: Membership) -> None:
        """An operator asks for other members here. Raises ``Refused``."""
        self.driver.core.propose_membership(membership)
        self.run_soon()

    def transfer(self, target: NodeId) -> None:
        """An operator asks for another leader. Raises ``Refused``."""
        self.driver.core.transfer(target)
        self.run_soon()

    def flush(self, keep: int) -> None:
        """The machine's state becomes durable; the log gives up what is ``keep`` entries behind it."""
        self.durable = self.machine.image()
        if self.durable.index > keep:
            self._on_disk(lambda: self.log.release(self.durable.index - keep), self._released)

    def _released(self, error: BaseException | None) -> None:
        if error is not None:
            self.driver.fail(error)
        else:
            self.driver.core.compact(self.log.first_index() - 1)

    # ---- the driver's disk ------------------------------------------------------------------------------------------------------

    def persist(self, batch: Persist, done: Callable[[BaseException | None], None]) -> None:
        """The journal thread: one job after the other; each takes effect at one moment and is told of later."""
        self._on_disk(lambda: self.log.persist(batch), done)

    @property
    def is_over_bound(self) -> bool:
        """Too much of the log waits for a flush."""
        return self.log.is_over_bound()

    def _on_disk(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        now = self.world.events.now_ns
        took = self.dice.randrange(MS // 10, self.sync_most_ns)
        effect = max(now, self._disk_free_ns) + int(took * self.dice.random())
        self._disk_free_ns = max(now, self._disk_free_ns) + took
        self._jobs.append(job)
        self.world.events.at(effect, self._take_effect, self.life, done, self._disk_free_ns)

    def _take_effect(self, life: int, done: Callable[[BaseException | None], None], told_ns: int) -> None:
        """Also while paused: a call to the disk goes on in the kernel."""
        if life != self.life or not self.up:
            return
        error: BaseException | None = None
        try:
            self._jobs.popleft()()
        except PowerLost:
            self._jobs.clear()
            self.world.events.counts["power cut inside a change of the disk"] += 1
            self.crash(power=True)
            return
        except (OSError, MonofsError) as failure:
            error = failure
        self.world.events.at(told_ns, self.do, life, done, error)

    def read(self, first_index: int, max_bytes: int, done: Callable[[Any], None]) -> None:
        """The reading thread."""
        self.world.events.counts["entries fetched from the disk"] += 1
        self.later(self.dice.randrange(MS // 10, 5 * MS), lambda: done(self.log.read(first_index, max_bytes)))

    # ---- the driver's outside ---------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[Message]) -> None:
        """To the network."""
        world = self.world
        for message in messages:
            world.ledger.sent(self, message)
            target = world.members.get(message.target)
            if target is not None:
                carried = decode_message(encode_message(message)) if world.plan.encoded else message
                world.network.send(self.me, message.target, carried, target.arrived)

    def arrived(self, message: Message) -> None:
        """From the network."""
        self.do(self.life, self._receive, message)

    def _receive(self, message: Message) -> None:
        if self.world.events.tracing:
            self.world.events.trace(self, "<-", message)
        self.driver.receive([message], self.clock.now_ns())

    def send_snapshot(self, wanted: SnapshotWanted) -> None:
        """Stream the state: here one large, slow message, answered when it arrived."""
        peer, image = wanted.peer, self.machine.image()
        position = Position(image.index, image.term)
        message = self.driver.core.install_message(peer, position)
        target = self.world.members.get(peer)
        if message is None or target is None:
            self.driver.core.snapshot_sent(peer, position, ok=False)
            return
        self.world.events.counts["snapshot sent"] += 1
        self._sending[peer] = position
        took = self.dice.randrange(5 * MS, 200 * MS)
        self.world.events.after(
            took, self.world.network.send, self.me, peer, (message, image, self), target.snapshot_arrived
        )
        self.later(SNAPSHOT_TIMEOUT_NS, self._snapshot_over, peer, position, False)

    def snapshot_arrived(self, what: tuple[InstallSnapshot, Image, Member]) -> None:
        """All of a snapshot is here and verified."""
        self.do(self.life, self._snapshot_arrived, what)

    def _snapshot_arrived(self, what: tuple[InstallSnapshot, Image, Member]) -> None:
        message, image, sender = what
        self._received[message.position] = image
        self.driver.receive([message], self.clock.now_ns())
        self.world.network.send(
            self.me,
            sender.me,
            None,
            lambda _: sender.do(sender.life, sender._snapshot_over, self.me, message.position, True),
        )

    def _snapshot_over(self, peer: NodeId, position: Position, ok: bool) -> None:
        if self._sending.get(peer) == position:
            del self._sending[peer]
            self.driver.core.snapshot_sent(peer, position, ok)
            self.run_soon()

    def install(self, snapshot: InstallSnapshot) -> None:
        """Keep the state received, durably; the next start puts it in the place of the old one, and that start is now."""
        image = self._received.pop(snapshot.position, None)
        if image is None:
            self.driver.core.snapshot_failed()
            return
        self._on_disk(lambda: self._keep(image), lambda _: self._start_anew())

    def _keep(self, image: Image) -> None:
        self.disk.changed()
        self.received = image

    def _start_anew(self) -> None:
        self.world.events.counts["snapshot kept"] += 1
        self.crash(power=False)
        self.start()

    def become(self, role: Role, term: Term) -> None:
        """Roles as told to listeners."""
        self.world.events.trace(self, "is told:", role, term)

    def run_soon(self) -> None:
        """A turn of the reactor."""
        if not self._turn_asked:
            self._turn_asked = True
            self.later(self.dice.randrange(0, MS // 20), self._turn)

    def _turn(self) -> None:
        self._turn_asked = False
        self.driver.run()

    def refusal(self, refused: Refused) -> MonofsError:
        """What a caller hears."""
        if refused.reason == "not_leader":
            return NotLeader("not the leader", leader=str(refused.leader))
        if refused.reason == "no_answer":
            self.world.events.counts["read given up by a follower"] += 1
            return OutcomeUnknown("no answer")
        return Overloaded(refused.reason)

    def fail(self, failure: BaseException) -> None:
        """The node stops; a supervisor will start it again."""
        self.world.events.trace(self, "stopped:", repr(failure))
        if isinstance(failure, InvariantBroken) or not isinstance(failure, (MonofsError, OSError)):
            self.world.violated(f"{self} stopped by a bug: {failure!r}", failure)
        self.world.events.counts[f"stopped: {type(failure).__name__}"] += 1
        self.crash(power=False)


def _kind(function: Callable[..., None]) -> str:
    return str(getattr(function, "__name__", "disk"))
