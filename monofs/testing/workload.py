"""Clients that use a namespace as a map, write down what they asked and were told, and judge it afterwards.

*Contenders* fight over few paths: ``mkdir`` is put-if-absent (the value is the mode), ``delete`` is remove, ``stat`` is get; their history
must be linearizable (linearizability.py). *Owners* have names of their own, so every outcome is known beforehand: a refusal means that a retry
was done twice or an acknowledged change was lost; what they were acknowledged must be there at the end. Invariant: an operation stands in
the history as long as it may have had an effect; one whose outcome was not learnt stays open. Not here: faults.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from monofs.client.info import Found
from monofs.model.errors import AlreadyExists, MonofsError, NotFound
from monofs.rpc.api import Method, StatRequest
from monofs.rpc.sync import Pipeline, Pool
from monofs.testing.linearizability import Kind, Operation, Undecided, Verdict, check

CLIENT_TIMEOUT_S = 8.0
THINK_S = 0.01
"""A client's mean pause between operations: the trial is about faults, not about load."""
MODES = 512
LINES = 24
"""Connections of a straggler: as many reads as it has under way."""
PACE_S = 0.05
GROWTH, PACE_MAX_S = 1.6, 0.4
"""Each read without an answer makes the pause before the next longer: the last are asked eight seconds into a silence."""
PATIENCE_S = 60.0
PRESENT = "present"


class Record:
    """What all clients of one burst did."""

    def __init__(self) -> None:
        self._clock = itertools.count()
        self.values: list[Operation] = []
        """A register for each path that holds a mode. Whether a delete met something is not in it."""
        self.presence: list[Operation] = []
        """The same paths, and only whether something is there; every operation has its exact meaning."""
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        """Of unknown outcomes, by class."""
        self.wrongs: list[str] = []
        """What must never be, in words."""
        self.acknowledged: list[float] = []
        """When changes were acknowledged, by the monotonic clock."""

    def now(self) -> int:
        """The next position in the one order of all calls and returns."""
        return next(self._clock)

    def add(self, kind: str, path: str, mode: int | None, called: int, outcome: str, client: int) -> None:
        """Write down one operation. ``mode``: what mkdir writes, what stat saw."""
        returned = None if outcome == "unknown" else self.now()
        present = None if mode is None else PRESENT
        if kind == "stat":
            if returned is not None:
                self.values.append(Operation(Kind.GET, path, called, returned, seen=mode, client=client))
                self.presence.append(Operation(Kind.GET, path, called, returned, seen=present, client=client))
        elif kind == "mkdir":
            put = Operation(Kind.CAS, path, called, returned, value=mode, client=client)
            self.presence.append(
                put._replace(value=PRESENT, seen=PRESENT if outcome == "refused" else None, done=outcome != "refused")
            )
            if outcome != "refused":
                self.values.append(put)
        else:
            taken = Operation(Kind.CAS, path, called, returned, value=None, expected=PRESENT, client=client)
            self.presence.append(taken._replace(done=outcome != "refused"))
            if outcome == "refused":
                self.values.append(Operation(Kind.GET, path, called, returned, seen=None, client=client))
            else:
                self.values.append(Operation(Kind.PUT, path, called, returned, value=None, client=client))

    def judge(self) -> tuple[list[str], int]:
        """What is wrong with the burst, in words; and how many histories were too large to decide."""
        wrongs, undecided = list(self.wrongs), 0
        for name, history in (("values", self.values), ("presence", self.presence)):
            verdict: Verdict = check(history)
            if isinstance(verdict, Undecided):
                undecided += 1
            elif hasattr(verdict, "stuck"):
                wrongs.append(f"the history of {name} is not linearizable: {verdict}")
        return wrongs, undecided


class Client(threading.Thread):
    """One program with its own connections; works until ``stopping`` is set."""

    def __init__(self, number: int, connect: Callable[[], Any], record: Record, seed: str) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.number, self._connect, self.record = number, connect, record
        self.random = random.Random(f"{seed}/{number}")
        self.stopping = threading.Event()
        self._fs: Any = None

    def run(self) -> None:
        """Thread."""
        while not self.stopping.is_set():
            try:
                if self._fs is None:
                    self._fs = self._connect()
                self.step()
                time.sleep(self.random.uniform(0.0, 2 * THINK_S))
            except Exception as error:  # noqa: BLE001 - a client that died silently would make the trial easy
                if self._fs is None:
                    time.sleep(0.05)
                    continue
                self.record.wrongs.append(f"client {self.number} failed: {error!r}")
                return
        if self._fs is not None:
            self._fs.close()

    def step(self) -> None:
        """One operation."""
        raise NotImplementedError

    def change(self, kind: str, act: Callable[[], Any], refusal: type[MonofsError]) -> str:
        """Do a change; ``ok``, ``refused`` or ``unknown``."""
        try:
            act()
        except refusal:
            outcome = "refused"
        except (MonofsError, OSError) as error:
            outcome = "unknown"
            self.record.errors[f"{kind}: {type(error).__name__}"] += 1
        else:
            outcome = "ok"
        if outcome != "unknown":
            self.record.acknowledged.append(time.monotonic())
        self.record.outcomes[f"{kind} {outcome}"] += 1
        return outcome


class Contender(Client):
    """See the module. ``paths``: what all contenders of a burst fight over."""

    paths: list[str] = []

    def step(self) -> None:
        """One operation on one of the paths."""
        path, choice, record = self.random.choice(self.paths), self.random.random(), self.record
        if choice < 0.45:
            called = record.now()
            try:
                seen: int | None = self._fs.stat(path).inode.mode
                outcome = "ok"
            except NotFound:
                seen, outcome = None, "ok"
            except (MonofsError, OSError) as error:
                seen, outcome = None, "unknown"
                record.errors[f"stat: {type(error).__name__}"] += 1
            record.add("stat", path, seen, called, outcome, self.number)
            record.outcomes[f"stat {outcome}"] += 1
        elif choice < 0.75:
            mode = self.random.randrange(MODES)
            called = record.now()
            outcome = self.change("mkdir", lambda: self._fs.make_directory(path, mode=mode), AlreadyExists)
            record.add("mkdir", path, mode, called, outcome, self.number)
        else:
            called = record.now()
            outcome = self.change("delete", lambda: self._fs.delete(path), NotFound)
            record.add("delete", path, None, called, outcome, self.number)


class Straggler(threading.Thread):
    """Reads that do not let go: asks the master that leads on connections of its own, goes on asking while nothing is answered, and follows nobody.

    What a leader that was paused or cut off says when it goes on is caught by such reads only: other clients have left it by then.
    """

    def __init__(
        self,
        number: int,
        paths: list[str],
        leader: Callable[[], str | None],
        dial: Callable[[str], Pool],
        record: Record,
        seed: str,
    ) -> None:
        super().__init__(name=f"straggler-{number}", daemon=True)
        self._number, self._paths, self._leader, self._dial, self._record = number, paths, leader, dial, record
        self._random = random.Random(f"{seed}/{number}")
        self.stopping = threading.Event()

    def run(self) -> None:
        """Thread."""
        while not self.stopping.is_set():
            name = self._leader()
            if name is None:
                time.sleep(PACE_S)
                continue
            try:
                with self._dial(name) as pool:
                    self._ask_one(pool)
            except (MonofsError, OSError):
                time.sleep(PACE_S)

    def _ask_one(self, pool: Pool) -> None:
        """Until it says that it does not lead, or its connections end."""
        idle = [pool.pipeline(CLIENT_TIMEOUT_S) for _ in range(LINES)]
        asked: list[tuple[Pipeline, str, int]] = []
        due = 0.0
        try:
            while not self.stopping.is_set():
                if idle and time.monotonic() >= due:
                    line, path = idle.pop(), self._random.choice(self._paths)
                    asked.append((line, path, self._record.now()))
                    line.send(Method.STAT, [msgspec.msgpack.encode(StatRequest(path))], PATIENCE_S)
                    due = time.monotonic() + min(PACE_S * GROWTH ** len(asked), PACE_MAX_S)
                time.sleep(PACE_S)
                for each in list(asked):
                    if each[0].is_answered():
                        asked.remove(each)
                        self._take(*each)
                        idle.append(each[0])
        finally:
            for line in [*idle, *(line for line, _, _ in asked)]:
                line.close()

    def _take(self, line: Pipeline, path: str, called: int) -> None:
        _, answer = line.receive(Found, PATIENCE_S)
        if isinstance(answer, MonofsError) and not isinstance(answer, NotFound):
            raise answer
        seen = None if isinstance(answer, MonofsError) else answer.inode.mode
        self._record.add("stat", path, seen, called, "ok", self._number)
        self._record.outcomes["straggling stat ok"] += 1


class Owner(Client):
    """See the module. ``home``: its directory, which is there."""

    home = ""

    def __init__(self, number: int, connect: Callable[[], Any], record: Record, seed: str) -> None:
        super().__init__(number, connect, record, seed)
        self.present: set[str] = set()
        self.absent: set[str] = set()
        self._last = 0

    def step(self) -> None:
        """Make a name, move it or not, take it away or not."""
        self._last += 1
        path = f"{self.home}/n{self._last}"
        make = self._fs.create if self.random.random() < 0.5 else self._fs.make_directory
        if self._do("create", path, lambda: make(path), AlreadyExists) != "ok":
            return
        self.present.add(path)
        if self.random.random() < 0.3:
            target = f"{path}.moved"
            self.present.discard(path)
            if self._do("rename", path, lambda: self._fs.rename(path, target), NotFound) != "ok":
                return
            self.absent.add(path)
            self.present.add(target)
            path = target
        if self.random.random() < 0.3:
            self.present.discard(path)
            if self._do("delete", path, lambda: self._fs.delete(path), NotFound) == "ok":
                self.absent.add(path)

    def _do(self, kind: str, path: str, act: Callable[[], Any], refusal: type[MonofsError]) -> str:
        outcome = self.change(f"own {kind}", act, refusal)
        if outcome == "refused":
            self.record.wrongs.append(
                f"{kind} of {path}, which nobody else touches, was refused: done twice, or something acknowledged was lost"
            )
        return outcome

    def missing(self, fs: Any) -> list[str]:
        """What was acknowledged and is not so, in words."""
        found = {info.path for info in fs.list(self.home)}
        gone = [f"{path} was acknowledged and is gone" for path in sorted(self.present - found)]
        return gone + [f"{path} was acknowledged as taken away and is there" for path in sorted(self.absent & found)]
