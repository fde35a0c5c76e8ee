"""Clients of the simulated masters, and the history of what they asked and heard.

A client has one request at a time under a session of its own; without a usable answer it asks again, elsewhere, under the same number. An
answer ends an operation; so do too many tries, and then its outcome is unknown for ever: the client goes on, half the time under a new
session, so that the old request may yet take effect. Values are written once. Invariant: the history tells the truth as the client saw it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monofs.model.errors import MonofsError, NotLeader
from monofs.testing.linearizability import Kind, Operation
from monofs.testing.simulation.events import MS, SECOND
from monofs.testing.simulation.machine import CAS, GET, PUT, TOO_OLD, Answer, Request

if TYPE_CHECKING:
    from monofs.testing.simulation.member import Member
    from monofs.testing.simulation.world import World

TRIES_MAX = 6
_KINDS = {GET: Kind.GET, PUT: Kind.PUT, CAS: Kind.CAS}


class Client:
    """One client. ``completed`` counts answered operations."""

    def __init__(self, world: World, name: str, keys: int) -> None:
        self.world, self.name = world, name
        self.dice = world.events.random(f"client {name}")
        self.keys = [f"k{n}" for n in range(keys)]
        self.completed = 0
        self.stopping = False
        self.busy = False
        self._session, self._number = 0, 0
        self._values = 0
        self._last_seen: dict[str, str | None] = {}
        self._request: Request | None = None
        self._called = 0
        self._tries = 0
        self._attempt = 0
        self._leader: int | None = None
        self._then: list[str] | None = None
        self.pace_ns = 80 * MS

    def start(self) -> None:
        """Begin to ask."""
        self.world.events.after(self.dice.randrange(self.pace_ns), self._next)

    def read_all(self) -> None:
        """From now on only read each key once, then stop."""
        self._then = list(self.keys)

    def _next(self) -> None:
        if self.busy or self.stopping:
            return
        dice = self.dice
        if self._then is not None:
            if not self._then:
                self.stopping = True
                return
            kind, key = GET, self._then.pop()
        else:
            kind, key = dice.choice((GET, GET, PUT, CAS, CAS)), dice.choice(self.keys)
        value = expected = None
        number = 0
        if kind != GET:
            self._number += 1
            self._values += 1
            number, value = self._number, f"{self.name}-{self._values}"
            if dice.random() < 0.05:
                value = None
            expected = self._last_seen.get(key)
        self._request = Request(f"{self.name}.{self._session}", number, kind, key, value, expected)
        self._called = self.world.events.position()
        self._tries, self.busy = 0, True
        self._ask()

    def _ask(self) -> None:
        """Send the request to whoever is thought to lead."""
        if self._tries >= TRIES_MAX:
            self._give_up()
            return
        self._tries += 1
        self._attempt += 1
        world, attempt, request = self.world, self._attempt, self._request
        reads = self._request is not None and self._request.kind == GET
        faithful = 0.5 if reads else 0.85  # followers answer reads, too
        target = self._leader if self._leader in world.members and self.dice.random() < faithful else None
        if target is None:
            target = self.dice.choice(sorted(world.members))
        member = world.members[target]
        world.network.send(self.name, target, request, lambda asked: self._arrive(member, asked, attempt))
        world.events.after(self.dice.randrange(300 * MS, 3 * SECOND), self._timed_out, attempt)

    def _arrive(self, member: Member, request: Request, attempt: int) -> None:
        network = self.world.network

        def reply(result: Any) -> None:
            network.send(member.me, self.name, result, lambda told: self._hear(member, told, attempt))

        member.do(member.life, member.serve, request, reply)

    def _timed_out(self, attempt: int) -> None:
        if attempt == self._attempt and self.busy:
            self._leader = None
            self._ask()

    def _hear(self, member: Member, result: Any, attempt: int) -> None:
        if attempt != self._attempt or not self.busy:
            return
        if isinstance(result, MonofsError):
            hint = result.detail.get("leader") if isinstance(result, NotLeader) else None
            self._leader = int(hint) if hint not in (None, "0") else None
            self._attempt += 1  # the timeout of this one is over
            self.world.events.after(self.dice.randrange(5 * MS, 200 * MS), self._again, self._attempt)
            return
        self._leader = member.me if member.me == self._leader or self.dice.random() < 0.9 else None
        if result == TOO_OLD:
            self.world.violated(f"{self.name} heard that its newest request {self._request} is an old one", None)
        self._complete(result)

    def _again(self, attempt: int) -> None:
        if attempt == self._attempt and self.busy:
            self._ask()

    def _complete(self, answer: Answer) -> None:
        request = self._request
        assert request is not None
        self._last_seen[request.key] = request.value if request.kind != GET and answer.done else answer.seen
        self._record(request, self.world.events.position(), answer)
        self.completed += 1
        self._rest()

    def _give_up(self) -> None:
        request = self._request
        assert request is not None
        self.world.events.counts["unanswered get" if request.kind == GET else "unknown outcome"] += 1
        self._record(request, None, Answer(done=True, seen=None))
        if self.dice.random() < 0.5:
            self._session, self._number = self._session + 1, 0
        self._rest()

    def _record(self, request: Request, returned: int | None, answer: Answer) -> None:
        self.world.history.append(
            Operation(
                _KINDS[request.kind],
                request.key,
                self._called,
                returned,
                value=request.value,
                expected=request.expected,
                seen=answer.seen,
                done=answer.done,
                client=self.name,
            )
        )
        self.world.events.trace(self.name, "asked", request, "heard", answer if returned is not None else "nothing")

    def finish(self) -> None:
        """The run ends: what is still asked stays open."""
        if self.busy:
            self._give_up()

    def _rest(self) -> None:
        self.busy = False
        self._request = None
        self._attempt += 1
        self.world.events.after(self.dice.randrange(1, self.pace_ns), self._next)
