"""The conversations of a process with servers, kept open between calls; over threads and forks.

Invariants: a conversation is used by one thread at a time; a forked child never uses (or shuts down) a connection of its
parent; what broke is never handed out again.

Not here: one conversation (conversation.py), which address is asked, and when again (sync.py).
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque

from monofs.model.errors import Closed, DeadlineExceeded, MonofsError, Overloaded, Unreachable
from monofs.rpc.blocking import Proof
from monofs.rpc.conversation import Conversation
from monofs.rpc.handshake import Credential
from monofs.rpc.tls import ClientTls

IDLE_MAX = 8
"""Idle connections kept to one address."""
OPEN_MAX = 256
"""Connections one pool may have in use and idle; more calls at a time get Overloaded."""
_ALL: weakref.WeakSet[Conversations] = weakref.WeakSet()


class Conversations:
    """Those in use and those that are idle, by address."""

    def __init__(self, credential: Credential, *, connect_s: float, silence_s: float, tls: ClientTls | None) -> None:
        """``silence_s``, ``tls``: as of ``sync.Pool``."""
        self._credential, self._connect_s, self._tls = credential, connect_s, tls
        self._silence_s, self._proof_s = silence_s, silence_s * 2 / 3
        self._closed = False
        self._reset()
        _ALL.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[str, deque[Conversation]] = {}
        self._open: set[Conversation] = set()

    def take(self, address: str, deadline: float) -> Conversation:
        """One for a call to ``address``, until it is given back. Raises as ``Conversation``, ``Closed``, and ``Overloaded``."""
        if self._closed:
            raise Closed("this connection pool is closed")
        idle = self._idle.get(address)
        while idle:
            try:
                talk = idle.pop()
            except IndexError:  # another thread was faster
                break
            if talk.is_usable():
                return talk
            talk.close()
            self.give_back(talk)
        with self._lock:
            if len(self._open) >= OPEN_MAX:
                raise Overloaded(f"this process has {OPEN_MAX} connections to {address} in use already")
        proof_s, tls = self._proof_s, self._tls
        if proof_s:
            talk = Conversation(address, self._credential, deadline, connect_s=proof_s, handshake_s=proof_s, tls=tls)
            talk.proof = Proof(self._silence_s - proof_s, self._silence_s, lambda: self._lives(address))
        else:
            talk = Conversation(address, self._credential, deadline, connect_s=self._connect_s, tls=tls)
        with self._lock:
            self._open.add(talk)
        return talk

    def give_back(self, talk: Conversation) -> None:
        """End a use; what is broken is forgotten."""
        if not talk.broken and not self._closed:
            idle = self._idle.get(talk.address)
            if idle is None:
                idle = self._idle.setdefault(talk.address, deque())
            if talk in self._open and len(idle) < IDLE_MAX:
                idle.append(talk)
                return
        talk.close()
        with self._lock:
            self._open.discard(talk)

    def close(self) -> None:
        """Close those that are idle; those in use close when they are given back. None is to be had any more."""
        self._closed = True
        with self._lock:
            idle = [talk for talks in self._idle.values() for talk in talks]
            self._idle.clear()
            self._open.difference_update(idle)
        for talk in idle:
            talk.close()

    def forget_parent(self) -> None:
        """For the fork hook: in a child, close this process's copies of the parent's sockets and start anew."""
        inherited = self._open
        self._reset()
        for talk in inherited:
            talk.close()

    def _lives(self, address: str) -> bool:
        """Whether a server shakes hands now."""
        limit = time.monotonic() + self._proof_s
        try:
            Conversation(address, self._credential, limit, connect_s=self._proof_s, tls=self._tls).close()
        except (Unreachable, DeadlineExceeded):
            return False
        except MonofsError:  # it speaks
            return True
        return True


def _after_fork() -> None:
    for each in list(_ALL):
        each.forget_parent()


os.register_at_fork(after_in_child=_after_fork)
