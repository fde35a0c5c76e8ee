"""Changes of a group of masters as faults: masters come with empty homes and get a vote, others are taken out, some to come again under their old name.

One that is taken out runs on for a while with its home, or was down meanwhile and is started with it: it must not disturb the others. Whatever became of a
change whose answer was lost, :meth:`Membership.settle` ends with every master of ``masters.nodes`` voting and nobody else. Not here: whom faults strike (nemesis.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

from monofs.model.errors import MonofsError, NotFound, QuorumRefused
from monofs.rpc.api import QuorumMember
from monofs.testing.masters import Masters, wait_until
from monofs.testing.smalldisk import empty

ASK_S = 3.0
PATIENCE_S = 120.0
FEWEST = 3


class Membership:
    """``start`` starts a master by name, ``tell`` writes a line of the story."""

    def __init__(
        self, masters: Masters, random: Random, start: Callable[[str], None], tell: Callable[[str, object], None]
    ) -> None:
        self._masters, self._random, self._start, self._tell = masters, random, start, tell
        self.spare: list[str] = []
        """Names of masters that do not run and have no home."""
        self.joining: set[str] = set()
        """They run, and it is not certain that they vote."""
        self.leaving: dict[str, tuple[float, bool]] = {}
        """Taken out: name → when it is stopped, and whether it comes again then, with an empty home."""
        self._fresh: set[str] = set()
        """Started on an empty home, and not seen in the group since."""

    def voters(self) -> list[str]:
        """Names of those that vote, as far as is known."""
        return [name for name in self._masters.nodes if name not in self.joining and name not in self.leaving]

    def remove(self, name: str, *, comes_again: bool) -> bool:
        """Take a voter out, half of the time while it is down; whether it surely is out."""
        if self._random.random() < 0.5:
            self._masters.nodes[name].kill()
        is_out = self._ask("remove", name)
        process = self._masters.nodes[name].process
        if process is not None and process.poll() is not None:
            self._start(name)
        if is_out:
            self.leaving[name] = time.monotonic() + self._random.choice((0.1, 1.0, 5.0)), comes_again
        return is_out

    def add(self) -> str:
        """Start a master that is spare; it is on its way in."""
        name = self.spare.pop()
        self._masters.add(name)
        self._begin(name)
        return name

    def help_in(self) -> None:
        """Try to bring one further that is on its way in."""
        name = self._random.choice(sorted(self.joining))
        if self._ask("add", name) and self._ask("promote", name):
            self._tell("  votes", name)
            self.joining.discard(name)
            self._fresh.discard(name)

    def undo_what_is_due(self, now: float) -> None:
        """Stop those whose time is over."""
        for name in [name for name, (due, _) in self.leaving.items() if due <= now]:
            self._end(name)

    def settle(self) -> None:
        """Bring all in, once everything else is healed and a leader has written."""
        self.undo_what_is_due(float("inf"))
        wait_until(self._is_whole, "a change of the group was not ended", patience_s=PATIENCE_S)
        self.joining.clear()
        self._fresh.clear()

    # ---- parts ------------------------------------------------------------------------------------------------------------

    def _end(self, name: str) -> None:
        _, comes_again = self.leaving.pop(name)
        self._masters.nodes[name].kill()
        empty(self._masters.nodes[name].home)
        if comes_again:
            self._begin(name)
        else:
            del self._masters.nodes[name]
            self.spare.append(name)

    def _begin(self, name: str) -> None:
        self._start(name)
        self.joining.add(name)
        self._fresh.add(name)

    def _is_whole(self) -> bool:
        """Whether exactly all vote; else one more thing is done for it."""
        members = self._members()
        if members is None:
            return False
        for name in set(members) - set(self._masters.nodes):
            self._ask("remove", name)
        for name in self._masters.nodes:
            member = members.get(name)
            if member is not None:
                self._fresh.discard(name)
                if not member.voter:
                    self._ask("promote", name)
            elif name in self._fresh:
                self._ask("add", name)
            else:  # taken out by a change whose answer was lost
                self._tell("  was taken out after all", name)
                self.leaving[name] = 0.0, True
                self._end(name)
        return set(members) == set(self._masters.nodes) and all(member.voter for member in members.values())

    def _members(self) -> dict[str, QuorumMember] | None:
        """By name, as a leader knows them that has just proved that it leads; None: there is none, or it is changing them."""
        try:
            with self._connect() as fs:
                fs.exists("/")
                answer = fs.quorum(of_leader=True)
        except (MonofsError, OSError):
            return None
        if answer.role != "leader" or answer.changing:
            return None
        return {member.name: member for member in answer.members}

    def _ask(self, action: str, name: str) -> bool:
        """Whether it is surely so now."""
        try:
            with self._connect() as fs:
                fs.change_quorum(action, name, self._masters.journal(name) if action == "add" else "")
        except NotFound:
            return action == "remove"
        except QuorumRefused as refusal:
            return action != "remove" and "already" in str(refusal)
        except (MonofsError, OSError):
            return False
        return True

    def _connect(self) -> Any:
        return self._masters.connect(*self._masters.rpc_ports, timeout_s=ASK_S)
