"""Looking at every master all the time, from outside: who leads in which term, and for how long nobody does.

Invariant checked: no two masters ever lead in one term (election safety as an observer can see it).
"""

from __future__ import annotations

import threading
import time
from typing import Any

from monofs.model.errors import MonofsError
from monofs.rpc.api import QuorumAnswer
from monofs.testing.masters import Masters

LOOK_S = 0.1
ANSWER_S = 1.0
LONG_GAP_S = 2.0


class Watch:
    """Threads that ask. ``answers``: the newest of each master; None: it does not answer now."""

    def __init__(self, masters: Masters) -> None:
        self._masters = masters
        self.answers: dict[str, QuorumAnswer | None] = {}
        self.leaders: dict[int, int] = {}
        """Term → id of the master that was seen to lead in it."""
        self.wrongs: list[str] = []
        self.longest_gap_s = 0.0
        """The longest time in which no master said that it leads."""
        self.gaps: list[tuple[float, float]] = []
        """(when it ended by the wall clock, how long) of all longer than ``LONG_GAP_S``."""
        self._last_led = time.monotonic()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin."""
        self._last_led = time.monotonic()
        for name in self._masters.rpc_ports:  # also those that are to come
            self._threads.append(threading.Thread(target=self._look, args=(name,), daemon=True, name=f"watch-{name}"))
            self._threads[-1].start()

    def stop(self) -> None:
        """End, and wait for the threads."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def leader(self) -> str | None:
        """The master that leads in the newest term, as far as is known."""
        leading = {
            name: answer for name, answer in self.answers.items() if answer is not None and answer.role == "leader"
        }
        return max(leading, key=lambda name: leading[name].term, default=None)

    def _look(self, name: str) -> None:
        fs: Any = None
        while not self._stopping.wait(LOOK_S):
            try:
                fs = fs or self._masters.connect(name, timeout_s=ANSWER_S)
                answer = fs.quorum()
            except (MonofsError, OSError):
                self.answers[name] = None
                continue
            self.answers[name] = answer
            if answer.role == "leader":
                self._note(answer)
        if fs is not None:
            fs.close()

    def _note(self, answer: QuorumAnswer) -> None:
        with self._lock:
            now = time.monotonic()
            gap_s = now - self._last_led
            self.longest_gap_s = max(self.longest_gap_s, gap_s)
            if gap_s > LONG_GAP_S:
                self.gaps.append((time.time(), gap_s))
            self._last_led = now
            known = self.leaders.setdefault(answer.term, answer.me)
            if known != answer.me:
                self.wrongs.append(f"two masters lead in term {answer.term}: {known:x} and {answer.me:x}")
