"""What one process holds of a cluster: connections to masters, links to workers, the identity its changes carry.

Invariant: nothing here survives a fork or a pickle; a file system object makes a new session in each process
(filesystem.py), so no socket, lock, lease or client id is ever shared by two processes. No reactor, and no threads but those of reads that are begun and waited for later, and of
questions to many workers while they are asked.
Not here: paths and files.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar, cast

import msgspec

from monofs.client.ahead import Ahead
from monofs.client.cluster import SILENT_S, Cluster, WorkerLink
from monofs.client.errors import python_error
from monofs.client.fallback import Fallback, StoreAccess
from monofs.client.hedging import Hedging
from monofs.client.info import Opened
from monofs.client.recent import Recent
from monofs.model.errors import (
    Closed,
    ConnectionLost,
    DeadlineExceeded,
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
from monofs.rpc.api import (
    ClusterAnswer,
    ClusterRequest,
    Message,
    Method,
    OpenRequest,
    ReadManyRequest,
    ReadOptions,
    ReadRequest,
    RequestId,
)
from monofs.rpc.handshake import Credential
from monofs.rpc.hedge import Hedge
from monofs.rpc.sync import Pool
from monofs.rpc.tls import ClientTls

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
SILENCE_S = 2.0
"""A master of several that says nothing for so long, and does not prove meanwhile that it lives, is left for another one (rpc/sync.py)."""
WORKER_SILENCE_S = 1.5
"""The same of a worker, but for the acknowledgements of what is written to it."""
WORKERS_AT_ONCE = 16
"""Of many that are asked the same."""
READ_TRIES = 8
"""How often one piece is tried over connections that break in the middle, without a single byte of progress."""

FROM_CACHE = 2
"""``ReadRequest.asked``: only what is cached is wanted."""

_AGAIN = (ConnectionLost, Unreachable, NotLeader, NotReady, Overloaded)
_AGAIN_CHANGE = (*_AGAIN, OutcomeUnknown)

A = TypeVar("A", bound=Message)
T = TypeVar("T")
Each = TypeVar("Each", bound="Opened | MonofsError")


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
    stores: tuple[StoreAccess, ...] = ()
    """Stores that are read themselves while no worker lives."""
    silence_s: float | None = None
    """After so long a master that says nothing must prove that it lives; None: ``SILENCE_S`` where several are given, and one alone is waited for."""


class Session:
    """One process's side of a file system object."""

    def __init__(self, options: Options, *, patient: bool) -> None:
        """``patient``: a master has answered this program before, so that one which does not is waited for."""
        self.options = options
        self.pid = os.getpid()
        self.patient = patient
        silence_s = options.silence_s
        if silence_s is None:
            silence_s = SILENCE_S if len(options.masters) > 1 else 0.0
        self._masters = Pool(options.masters, options.credential, silence_s=silence_s, tls=options.tls)
        shuffled = random.sample(options.masters, len(options.masters))
        self._any_master = Pool(shuffled, options.credential, silence_s=silence_s, tls=options.tls)
        self._closed = False
        self._lock = threading.Lock()
        self._client = b""
        self._sequence = 0
        self._unanswered: set[int] = set()
        self._one: Pool | None = None
        """Connections to the master that :meth:`at` asked last."""
        self.ahead = Ahead()
        self.cluster = Cluster(self._fetch_cluster, self.connect)
        self._recent = Recent(options.look)
        self._hedging = {Method.READ: Hedging(), Method.READ_MANY: Hedging()}
        self.fallback = Fallback(options.stores, options.timeout_s) if options.stores else None
        self.workers_gone_until_s = 0.0
        """Until when (time.monotonic) no worker is asked where there is a fallback."""

    def ask(self, method: Method, request: Message, answer_type: type[A], *, timeout_s: float | None = None) -> A:
        """Ask the master something that changes nothing; retried over restarts and changes of leader.

        Raises ``NoMaster`` at once when no master was ever reached, else after ``timeout_s``.
        """
        return self._retry(
            lambda left_s: self._masters.call(method, request, answer_type, left_s, idempotent=True), timeout_s
        )

    def at(self, address: str, method: Method, request: Message, answer_type: type[A], timeout_s: float) -> A | None:
        """Ask this very master something that changes nothing; None: it does not answer within ``timeout_s``, or this operation's own time."""
        self.check_open()
        with self._lock:
            old, pool = None, self._one
            if pool is None or pool.addresses != (address,):
                old, self._one = pool, self.connect(address)
                pool = self._one
        if old is not None:
            old.close()
        try:
            return pool.call(method, request, answer_type, min(timeout_s, self.options.timeout_s), idempotent=True)
        except (*_AGAIN, Closed, DeadlineExceeded):
            return None

    def open(self, path: str, options: ReadOptions, data_bytes: int = 0) -> Opened:
        """OPEN, with the bytes of a file of at most so many, if they are at hand; while no master answers, what it said of the path lately, if this program takes answers of that age."""

        def ask(timeout_s: float | None) -> list[Opened]:
            return [self.ask(Method.OPEN, OpenRequest(path, options, data_bytes), Opened, timeout_s=timeout_s)]

        return self.open_by(ask, [path])[0]

    def open_by(self, ask: Callable[[float | None], list[Each]], paths: Sequence[str]) -> list[Each]:
        """What ``ask`` says of these paths within so many seconds; while no master answers, as :meth:`open`, for all of them or none."""
        recent = self._recent
        kept = [opened for path in paths if (opened := recent.find(path)) is not None] if recent.bound_s else []
        if len(kept) < len(paths):
            answers = ask(None)
        else:
            try:
                answers = ask(recent.patience_s())
            except (*_AGAIN, NoMaster, DeadlineExceeded):
                self.check_open()
                recent.note_away()
                return cast("list[Each]", kept)
        for path, answer in zip(paths, answers, strict=True):
            if isinstance(answer, Opened):
                recent.keep(path, answer)
        return answers

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
            is_unclear = False

            def attempt(left_s: float, request: Message = request) -> A:
                nonlocal is_unclear
                try:
                    return self._masters.call(method, request, answer_type, left_s)
                except (ConnectionLost, OutcomeUnknown):
                    is_unclear = True
                    raise

            try:
                answer = self._retry(attempt, timeout_s, _AGAIN_CHANGE)
                if not alone:
                    self._known(request_id)
                return answer
            except SessionExpired:
                self._forget_client(request_id.client)
                if is_unclear or renewed:
                    raise OutcomeUnknown(
                        "this client was silent for too long; look whether the change happened"
                    ) from None
                renewed = True  # no try was carried out: ask again as a new client
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
        replicas: int = 1,
        *,
        patient: bool = True,
    ) -> T:
        """Run ``attempt`` with the best worker for a block, and with others while they do not answer; with ``holders`` only, if given.

        Raises ``NoWorker`` after ``timeout_s``, not ``patient``: when each was asked once and none lives; else what the attempt raises.
        """
        deadline_s = time.monotonic() + self.options.timeout_s
        pause_s = FIRST_PAUSE_S
        while True:
            last: MonofsError | None = None
            links: list[WorkerLink] = []
            lives = False
            try:
                links = self.cluster.candidates(content, block, epoch, holders, replicas)
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
                        last, lives = error, lives or isinstance(error, NotReady | Overloaded)
            if links and not lives and not patient:
                raise NoWorker(f"no worker answers ({last})") from None
            if time.monotonic() + pause_s >= deadline_s:
                raise NoWorker(f"no worker answers ({last})") from None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self.cluster.look_again()

    def ask_each(
        self, links: Sequence[WorkerLink], method: Method, request: Message, answer_type: type[A], timeout_s: float
    ) -> dict[str, A | MonofsError]:
        """What each of these workers answers, by address in their order; an error stands for one that does not.

        ``WORKERS_AT_ONCE`` are asked at a time, those that failed lately last. Each has ``timeout_s``, and one whose turn does not come within that is not asked: all of it takes
        twice as long at most, whatever hangs.
        """
        until_s = time.monotonic() + timeout_s

        def ask(link: WorkerLink) -> A | MonofsError:
            try:
                if time.monotonic() > until_s:
                    raise DeadlineExceeded(f"it was not asked: others took the {timeout_s:g} s there were")
                return link.pool().call(method, request, answer_type, timeout_s)
            except (ConnectionLost, Unreachable, DeadlineExceeded) as error:
                link.silent_until_s = time.monotonic() + SILENT_S
                return python_error(error)
            except MonofsError as error:
                return python_error(error)

        if len(links) < 2:
            return {link.info.address: ask(link) for link in links}
        ranked = sorted(links, key=lambda link: link.silent_until_s)
        with ThreadPoolExecutor(min(len(ranked), WORKERS_AT_ONCE), "monofs-workers") as threads:
            answers = {link.info.id: answer for link, answer in zip(ranked, threads.map(ask, ranked), strict=True)}
        return {link.info.address: answers[link.info.id] for link in links}

    def check_open(self) -> None:
        """Raise ``Closed`` after close()."""
        if self._closed:
            raise Closed("the file system is closed")

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        self.ahead.close()
        self.cluster.close()
        if self.fallback is not None:
            self.fallback.close()
        for pool in (self._masters, self._any_master, self._one):
            if pool is not None:
                pool.close()

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
        return Pool((address,), self.options.credential, silence_s=WORKER_SILENCE_S, tls=self.options.tls)

    def read_into(
        self,
        link: WorkerLink,
        request: ReadRequest | ReadManyRequest,
        view: memoryview,
        others: Callable[[], list[WorkerLink]],
    ) -> int:
        """READ or READ_MANY from a worker into ``view``; from the first of ``others`` that is another, if that has the bytes cached, when it is slow to
        begin. Returns how many bytes came. Raises as ``Pool.read_into``.
        """
        method = Method.READ if isinstance(request, ReadRequest) else Method.READ_MANY
        hedging, timeout_s = self._hedging[method], self.options.timeout_s
        if link.lag.error is not None:
            link.lag.wait_s(time.monotonic())  # this may be the read that tries it

        def second() -> tuple[Pool, Message] | None:
            now_s = time.monotonic()
            found = next((each for each in others() if each is not link and each.is_well(now_s)), None)
            if found is None or not hedging.spend():
                return None
            return found.pool(), msgspec.structs.replace(request, asked=FROM_CACHE)

        hedge = Hedge(hedging.delay_s, second)
        count = link.pool().read_into(method, request, view, timeout_s, hedge=hedge, heed=self.cluster.heed)
        hedging.note(link.info.id, hedge.first_byte_s, won=hedge.has_won)
        if hedge.has_won or not hedge.was_due:
            link.raced(time.monotonic(), lost=hedge.has_won)
        return count

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
