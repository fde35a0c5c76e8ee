"""Faults for a group of masters, drawn from a seed: one after the other, and as they come on top of one another.

Of each kind a fault is *done* at once and *undone* either when its time is over or by :meth:`Nemesis.heal`. Half of those that strike one master
strike the leader. Most of the time a majority is left alone, so that clients have answers to be held to; now and then nothing is.
Invariant: after ``heal`` and ``finish`` every master runs, unpaused, on a disk that works, and packets pass. Processes are started here only, on the main thread.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from datetime import UTC, datetime
from random import Random

from monofs.model.errors import MonofsError
from monofs.testing.masters import Masters
from monofs.testing.membership import FEWEST, Membership
from monofs.testing.nodes import ServedNode
from monofs.testing.smalldisk import SmallDisk
from monofs.testing.watch import Watch

ASK_S = 3.0
IDLE_S = 0.05
STALE_S = 2.0
"""What is known of a master may be so old."""
EXIT_UNSAFE, EXIT_NOT_STARTED = 70, 1
PATIENCE_S = 120.0
BOLD = 0.15
"""How often a fault may take away the majority."""


class Nemesis:
    """``faults``: how many of each kind were done. ``small``: the file system that is one master's home; None: none is."""

    def __init__(
        self, masters: Masters, watch: Watch, random: Random, workers: list[ServedNode], small: SmallDisk | None
    ) -> None:
        self._masters, self._watch, self._random, self._workers, self._small = masters, watch, random, workers, small
        self.faults: Counter[str] = Counter()
        self._story = os.path.join(masters.directory, "faults.log")
        self._paused: dict[str, float] = {}
        """Name → when it goes on."""
        self._down: dict[str, float] = {}
        """Name → when it is started again."""
        self._broken: set[str] = set()
        """Disks that fail; their masters are to end by themselves."""
        self._starting: dict[str, float] = {}
        """Name → when it was started; until it answers it is no help to others."""
        self.wrongs: list[str] = []
        """Masters that ended when nothing had been done to them, or not as they should."""
        self._cut_until = 0.0
        self._full_until = 0.0
        """0: the small disk is not full."""
        self._was_full = False
        """The small disk was, in this burst: its master may end."""
        self.membership = Membership(masters, random, self._start, self._tell)
        self._kinds = {
            self._kill: 5,
            self._pause: 4,
            self._pause_leader: 3,
            self._restart_often: 1,
            self._break_syncs: 2,
            self._refuse_writes: 1,
            self._transfer: 3,
            self._replace: 2,
            self._shrink: 2,
            self._grow: 2,
            self._help_in: 6,
        }
        if small is not None:
            self._kinds[self._fill_disk] = 2
        if workers:
            self._kinds[self._kill_worker] = 1
        if masters.lab is not None:
            self._kinds |= {self._cut_one_way: 3, self._cut_both_ways: 2, self._isolate: 2, self._strand_leader: 4}

    def rage(self, seconds: float) -> None:
        """Faults for so long."""
        self._was_full = bool(self._full_until)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            kinds = list(self._kinds)
            kind = self._random.choices(kinds, [self._kinds[each] for each in kinds])[0]
            before = sum(self.faults.values())
            kind()
            is_done = sum(self.faults.values()) > before
            until = time.monotonic() + (self._random.choice((0.05, 0.3, 1.0, 3.0)) if is_done else IDLE_S)
            while time.monotonic() < min(until, end):
                self._undo_what_is_due()
                time.sleep(0.02)

    def _note(self, kind: str, whom: object = "") -> None:
        """Count a fault and write down when it was."""
        self.faults[kind] += 1
        self._tell(kind, whom)

    def _tell(self, kind: str, whom: object = "") -> None:
        with open(self._story, "a") as story:
            story.write(f"{datetime.now(UTC).time()} {kind} {whom}\n")

    # ---- whom -------------------------------------------------------------------------------------------------------------

    def _disturbed(self) -> set[str]:
        for name in [name for name, when in self._starting.items() if self._answers(name, when)]:
            del self._starting[name]
        disturbed = {*self._paused, *self._down, *self._broken, *self._starting}
        if self._full_until and self._small is not None:
            disturbed.add(os.path.basename(self._small.directory))
        if self._masters.lab is not None and self._masters.lab.cuts:
            disturbed.add(min(self._victims_of_cuts()))
        return disturbed

    def _may_lose(self, name: str) -> bool:
        """Whether a majority of the voters is left to itself without this one."""
        voters = self.membership.voters()
        return len((self._disturbed() | {name}) & set(voters)) <= (len(voters) - 1) // 2

    def _answers(self, name: str, started: float) -> bool:
        return time.monotonic() > started + STALE_S and self._watch.answers.get(name) is not None

    def _start(self, name: str) -> None:
        self._masters.nodes[name].launch()
        self._starting[name] = time.monotonic()
        self._tell("  started", name)

    def _victims_of_cuts(self) -> list[str]:
        lab = self._masters.lab
        counts = Counter(name for pair in (lab.cuts if lab is not None else ()) for name in pair)
        return [counts.most_common(1)[0][0]]

    def _victim(self) -> str | None:
        """Whom to strike: the leader half of the time; nobody when that would take the majority away and this is no bold moment."""
        names = [name for name in self._masters.nodes if name not in self.membership.leaving]
        leader = self._watch.leader()
        name = leader if leader in names and self._random.random() < 0.5 else self._random.choice(names)
        bold = self._random.random() < BOLD
        if name in self._paused or name in self._down or name in self._broken:
            return None
        return name if bold or self._may_lose(name) else None

    # ---- faults -----------------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        if (name := self._victim()) is not None:
            self._note("kill -9", name)
            self._masters.nodes[name].kill()
            self._down[name] = time.monotonic() + self._random.choice((0.0, 0.2, 1.0, 5.0))

    def _restart_often(self) -> None:
        if (name := self._victim()) is not None:
            self._note("restart loop", name)
            node = self._masters.nodes[name]
            for _ in range(4):
                node.kill()
                self._start(name)
                time.sleep(self._random.uniform(0.1, 1.2))

    def _pause(self) -> None:
        if (name := self._victim()) is not None and self._runs(name):
            self._note("SIGSTOP", name)
            self._masters.signal(name, signal.SIGSTOP)
            self._paused[name] = time.monotonic() + 10 ** self._random.uniform(-1.0, 1.3)

    def _pause_leader(self) -> None:
        """Long enough that another leads meanwhile: it wakes up and believes that it still does."""
        name = self._watch.leader()
        if name is None or name not in self.membership.voters() or not self._may_lose(name) or not self._runs(name):
            return
        self._note("SIGSTOP of the leader", name)
        self._masters.signal(name, signal.SIGSTOP)
        self._paused[name] = time.monotonic() + self._random.uniform(3.0, 8.0)

    def _break_syncs(self) -> None:
        self._break("fsync fails", signal.SIGUSR1)

    def _refuse_writes(self) -> None:
        self._break("writes refused", signal.SIGUSR2)

    def _fill_disk(self) -> None:
        """The small disk is full for a while; its master ends, is started again, and ends."""
        assert self._small is not None
        name = os.path.basename(self._small.directory)
        if not self._full_until and name in self.membership.voters() and self._may_lose(name):
            self._note("disk full", name)
            self._was_full = True
            self._full_until = time.monotonic() + self._random.choice((0.5, 2.0, 6.0))
            self._small.fill()

    def _kill_worker(self) -> None:
        worker = self._random.choice(self._workers)
        self._note("worker kill -9", worker.home)
        worker.kill()
        worker.launch()

    def _break(self, kind: str, number: signal.Signals) -> None:
        if (name := self._victim()) is not None and self._runs(name):
            self._note(kind, name)
            self._masters.signal(name, number)
            self._broken.add(name)

    def _transfer(self) -> None:
        name = self._random.choice(self.membership.voters())
        try:
            with self._masters.connect(*self._masters.rpc_ports, timeout_s=ASK_S) as fs:
                fs.change_quorum("transfer", name)
            self._note("transfer", name)
        except (MonofsError, OSError) as error:
            self._note("transfer, refused", f"{name}: {error}")

    def _cut_one_way(self) -> None:
        if (pair := self._pair()) is not None:
            self._note("cut one way", pair)
            self._cut(pair)

    def _cut_both_ways(self) -> None:
        if (pair := self._pair()) is not None:
            self._note("cut both ways", pair)
            self._cut(pair, pair[::-1])

    def _isolate(self) -> None:
        if (name := self._victim()) is not None:
            self._note("cut off", name)
            self._cut_off(name)

    def _strand_leader(self) -> None:
        """Cut the leader off from all others, not from its clients; half of the time it dies with what only it has."""
        name = self._watch.leader()
        if name not in self.membership.voters() or self._masters.lab is None or self._masters.lab.cuts:
            return
        if name in self._disturbed():
            return
        self._note("leader cut off", name)
        self._cut_off(name)
        time.sleep(self._random.uniform(0.1, 1.5))
        if self._random.random() < 0.5 and self._runs(name):
            self._note("kill -9", name)
            self._masters.nodes[name].kill()
            self._down[name] = time.monotonic() + self._random.choice((1.0, 3.0))

    def _cut_off(self, name: str) -> None:
        others = [each for each in self._masters.nodes if each != name]
        self._cut(*((name, each) for each in others), *((each, name) for each in others))

    def _pair(self) -> tuple[str, str] | None:
        if (name := self._victim()) is None:
            return None
        pair = [name, self._random.choice([each for each in self._masters.nodes if each != name])]
        if self._random.random() < 0.5:
            pair.reverse()
        return pair[0], pair[1]

    def _cut(self, *pairs: tuple[str, str]) -> None:
        assert self._masters.lab is not None
        for source, target in pairs:
            self._masters.lab.cut(source, target)
        self._cut_until = time.monotonic() + self._random.choice((0.3, 1.0, 3.0, 8.0))

    # ---- another group ----------------------------------------------------------------------------------------------------

    def _replace(self) -> None:
        """A master is taken out, and comes again under its name with an empty home."""
        self._take_out("replacement", comes_again=True)

    def _shrink(self) -> None:
        if len(self.membership.voters()) > FEWEST:
            self._take_out("shrinking", comes_again=False)

    def _take_out(self, kind: str, *, comes_again: bool) -> None:
        name = self._victim()
        if name is None or name not in self.membership.voters() or name in self._disturbed():
            return
        is_out = self.membership.remove(name, comes_again=comes_again)
        self._note(kind if is_out else f"{kind}, refused", name)

    def _grow(self) -> None:
        if self.membership.spare:
            self._note("growing", self.membership.add())

    def _help_in(self) -> None:
        if self.membership.joining:
            self.membership.help_in()

    def finish(self) -> None:
        """End the changes of the group that were begun, and wait until every master and worker serves."""
        self.membership.settle()
        for node in [*self._masters.nodes.values(), *self._workers]:
            node.wait_ready(timeout_s=PATIENCE_S)

    # ---- undoing ----------------------------------------------------------------------------------------------------------

    def _runs(self, name: str) -> bool:
        process = self._masters.nodes[name].process
        return process is not None and process.poll() is None

    def _undo_what_is_due(self) -> None:
        now = time.monotonic()
        for name in [name for name, due in self._paused.items() if due <= now]:
            del self._paused[name]
            self._masters.signal(name, signal.SIGCONT)
            self._tell("  goes on", name)
        for name in [name for name in self._broken if not self._runs(name)]:
            self._broken.discard(name)
            self._note("ended itself", name)
            self._check_end(name, {EXIT_UNSAFE, EXIT_NOT_STARTED, -signal.SIGUSR1, -signal.SIGUSR2})
            self._down[name] = now + 0.2
        self._undo_full_disk(now)
        self.membership.undo_what_is_due(now)
        for name in [name for name, due in self._down.items() if due <= now]:
            del self._down[name]
            self._start(name)
        lab = self._masters.lab
        if lab is not None and lab.cuts and self._cut_until <= now:
            lab.heal()
            self._tell("  cuts healed")

    def _undo_full_disk(self, now: float) -> None:
        """A master whose disk is full ends when it has to write, and cannot start; it is started again and again, as a supervisor would."""
        if not self._full_until or self._small is None:
            return
        name = os.path.basename(self._small.directory)
        if self._full_until <= now:
            self._small.free()
            self._full_until = 0.0
            self._tell("  room again", name)
        if name in self._masters.nodes and name not in self._down and not self._runs(name):
            self._note("ended itself", name)
            self._check_end(name, {EXIT_UNSAFE, EXIT_NOT_STARTED})
            self._down[name] = now + 0.2

    def _check_end(self, name: str, expected: set[int]) -> None:
        process = self._masters.nodes[name].process
        code = process.returncode if process is not None else None
        if code not in expected:
            end = self._masters.nodes[name].output()[-500:]
            self.wrongs.append(f"{name} ended with {code}, expected {sorted(expected) or 'nothing'}: {end}")

    def heal(self) -> None:
        """Undo all."""
        self._tell("all healed")
        if self._masters.lab is not None:
            self._masters.lab.heal()
        for name in self._broken:  # not asked to write since, perhaps
            node = self._masters.nodes[name]
            if self._runs(name):
                self._masters.signal(name, signal.SIGCONT)
                node.kill()
            self._down[name] = 0.0
        self._broken.clear()
        self._paused = dict.fromkeys(self._paused, 0.0)
        self._down = dict.fromkeys(self._down, 0.0)
        self._full_until = min(self._full_until, 0.1)
        self._undo_what_is_due()
        self.revive()

    def revive(self) -> None:
        """Start again who does not run: after all is healed, too, one that met the full disk before may be on its way to end."""
        for name in self._masters.nodes:
            if not self._runs(name):
                is_small = self._small is not None and name == os.path.basename(self._small.directory)
                may_end = is_small and self._was_full
                if self._down.pop(name, None) is None:  # else it was told
                    self._note("ended itself" if may_end else "ended itself unasked", name)
                    self._check_end(name, {EXIT_UNSAFE, EXIT_NOT_STARTED} if may_end else set())
                self._start(name)
