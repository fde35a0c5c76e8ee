"""What one process holds of a cluster: connections to masters, links to workers, the identity its changes carry.

Invariant: nothing here survives a fork or a pickle; a file system object makes a new session in each process
(filesystem.py), so no socket, lock, lease or client id is ever shared by two processes. No threads and no reactor.
Not here: paths and files.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from monofs.client.cluster import Cluster, WorkerLink
from monofs.model.errors import (
    Closed,
    ConnectionLost,
    MonofsError,
    NoMaster,
    NotLeader,
    NotReady,
    NoWorker,
    OutcomeUnknown,
    Overloaded,
    SessionExpired,
    Unreachable,
)
from monofs.model.ids import ContentId
from monofs.rpc.api import ClusterAnswer, ClusterRequest, Message, Method, ReadOptions, RequestId
from monofs.rpc.handshake import Credential
from monofs.rpc.sync import Pool
from monofs.rpc.tls import ClientTls

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
SILENCE_S = 1.0
"""A master of several that says nothing for so long must prove that it lives, else another is asked (rpc/sync.py)."""
READ_TRIES = 8
"""How often one piece is tried over connections that break in the middle, without a single byte of progress."""

_AGAIN = (ConnectionLost, Unreachable, NotLeader, NotReady, Overloaded)
_AGAIN_CHANGE = (*_AGAIN, OutcomeUnknown)

A = TypeVar("A", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """All a file system object is made of; what it pickles as."""

    masters: tuple[str, ...]
    credential: Credential
    timeout_s: float
    read: ReadOptions
    look: ReadOptions
    """For what only looks at the namespace: any master may answer unless it is to be linearizable."""
    read_type: str
    tls: ClientTls | None = None


class Session:
    """One process's side of a file system object."""

    def __init__(self, options: Options, *, patient: bool) -> None:
        """``patient``: a master has answered this program before, so that one which does not is waited for."""
        self.options = options
        self.pid = os.getpid()
        self.patient = patient
        silence_s = SILENCE_S if len(options.masters) > 1 else 0.0
        self._masters = Pool(options.masters, options.credential, silence_s=silence_s, tls=options.tls)
        shuffled = random.sample(options.masters, len(options.masters))
        self._any_master = Pool(shuffled, options.credential, silence_s=silence_s, tls=options.tls)
        self._closed = False
        self._lock = threading.Lock()
        self._client = b""
        self._sequence = 0
        self._unanswered: set[int] = set()
        self.cluster = Cluster(self._fetch_cluster, self.connect)

    def ask(self, method: Method, request: Message, answer_type: type[A], *, timeout_s: float | None = None) -> A:
        """Ask the master something that changes nothing; retried over restarts and changes of leader.

        Raises ``NoMaster`` at once when no master was ever reached, else after ``timeout_s``.
        """
        return self._retry(
            lambda left_s: self._masters.call(method, request, answer_type, left_s, idempotent=True), timeout_s
        )

    def stream(self, method: Method, request: Message, item_type: type[A], *, timeout_s: float) -> Iterator[A | bytes]:
        """A stream of the master's, as ``Pool.stream``: asked again only before its first element came."""
        self.check_open()
        return self._masters.stream(method, request, item_type, timeout_s)

    def look(self, method: Method, request: Message, answer_type: type[A], options: ReadOptions) -> A:
        """:meth:`ask` for STAT, STAT_MANY and LIST: with ``options`` of a weaker consistency any master answers."""
        pool = self._masters if options.consistency == "linearizable" else self._any_master
        return self._retry(lambda left_s: pool.call(method, request, answer_type, left_s, idempotent=True), None)

    def change(
        self,
        method: Method,
        make: Callable[[RequestId], Message],
        answer_type: type[A],
        *,
        timeout_s: float | None = None,
        alone: bool = False,
    ) -> A:
        """Ask the master for a change, which it applies once however often it is asked (design.md, law 3).

        ``alone``: under a client id of its own. For BEGIN_WRITE, whose answer masters do not hold: they know its open intent by the id.
        """
        renewed = False
        while True:
            request_id = RequestId(secrets.token_bytes(16), 1, 1) if alone else self._new_request_id()
            request = make(request_id)
            asked = 0

            def attempt(left_s: float, request: Message = request) -> A:
                nonlocal asked
                asked += 1
                return self._masters.call(method, request, answer_type, left_s)

            try:
                answer = self._retry(attempt, timeout_s, _AGAIN_CHANGE)
                if not alone:
                    self._known(request_id)
                return answer
            except SessionExpired:
                self._forget_client(request_id.client)
                if asked > 1 or renewed:
                    raise OutcomeUnknown(
                        "this client was silent for too long; look whether the change happened"
                    ) from None
                renewed = True  # refused at the first try, so it was not done: ask again as a new client
            finally:
                with self._lock:
                    if self._client == request_id.client:  # else these are the numbers of another client
                        self._unanswered.discard(request_id.sequence)

    def on_worker(
        self,
        content: ContentId,
        block: int,
        epoch: int,
        attempt: Callable[[WorkerLink], T],
        holders: Sequence[int] = (),
    ) -> T:
        """Run ``attempt`` with the best worker for a block, and with others while they do not answer; with ``holders`` only, if given.

        Raises ``NoWorker`` after ``timeout_s``, else what the attempt raises.
        """
        deadline_s = time.monotonic() + self.options.timeout_s
        pause_s = FIRST_PAUSE_S
        while True:
            last: MonofsError | None = None
            links: list[WorkerLink] = []
            try:
                links = self.cluster.candidates(content, block, epoch, holders)
            except NotReady as error:  # no worker came to a new leader yet
                last = error
            for link in links:
                again = True
                while again:
                    try:
                        return attempt(link)
                    except (ConnectionLost, Unreachable, NotReady, Overloaded, Closed) as error:
                        self.check_open()
                        again = self.cluster.failed(link, error)
                        last = error
            if time.monotonic() + pause_s >= deadline_s:
                raise NoWorker(f"no worker answers ({last})") from None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self.cluster.look_again()

    def check_open(self) -> None:
        """Raise ``Closed`` after close()."""
        if self._closed:
            raise Closed("the file system is closed")

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        self.cluster.close()
        self._masters.close()
        self._any_master.close()

    def _retry(
        self,
        attempt: Callable[[float], T],
        timeout_s: float | None,
        again: tuple[type[MonofsError], ...] = _AGAIN,
    ) -> T:
        self.check_open()
        deadline_s = time.monotonic() + (self.options.timeout_s if timeout_s is None else timeout_s)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                answer = attempt(max(0.001, deadline_s - time.monotonic()))
                self.patient = True
                return answer
            except again as error:
                self.check_open()
                gone = isinstance(error, (Unreachable, ConnectionLost))
                if time.monotonic() + pause_s >= deadline_s or (gone and not self.patient):
                    if isinstance(error, Unreachable):
                        raise NoMaster(f"no master answers ({error}): {NoMaster.hint}") from None
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _fetch_cluster(self, request: ClusterRequest, timeout_s: float | None) -> ClusterAnswer:
        return self.ask(Method.CLUSTER, request, ClusterAnswer, timeout_s=timeout_s)

    def connect(self, address: str) -> Pool:
        """Connections to one node."""
        return Pool((address,), self.options.credential, tls=self.options.tls)

    def _known(self, request_id: RequestId) -> None:
        """The master holds the answer to this request, and so knows its client: later requests may be numbered after it."""
        with self._lock:
            if not self._client:
                self._client, self._sequence, self._unanswered = request_id.client, request_id.sequence, set()

    def _new_request_id(self) -> RequestId:
        """The next number; while no client of this process is known to the master, the first one of another client."""
        with self._lock:
            if not self._client:
                return RequestId(secrets.token_bytes(16), 1, 1)
            self._sequence += 1
            self._unanswered.add(self._sequence)
            return RequestId(self._client, self._sequence, min(self._unanswered))

    def _forget_client(self, client: bytes) -> None:
        with self._lock:
            if self._client == client:
                self._client = b""
