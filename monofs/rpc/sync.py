"""Calls from user programs: blocking, no reactor, no thread of its own, safe between threads, over fork and in pickles.

Invariant: an address is tried again only where that cannot do a thing twice: nothing was sent (Unreachable), the server said
it did nothing (NotLeader), or the caller said ``idempotent``.

Not here: connections between calls (conversations.py), one connection (conversation.py), the reconnecting client of nodes (client.py).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from monofs.model.errors import (
    ConnectionLost,
    DeadlineExceeded,
    FrameTooLarge,
    InvalidArgument,
    MonofsError,
    NotLeader,
    ProtocolError,
    Unreachable,
)
from monofs.observe.tracing import new_trace, stamp
from monofs.rpc.addresses import parse_address, split_addresses
from monofs.rpc.api import Message, Method, ServedAnswer
from monofs.rpc.conversation import Conversation
from monofs.rpc.conversations import Conversations
from monofs.rpc.frames import REQUEST_MAX_BYTES, Kind
from monofs.rpc.handshake import Credential, Welcome
from monofs.rpc.tls import ClientTls

if TYPE_CHECKING:
    from monofs.rpc.hedge import Hedge

LOSSES_MAX = 3
"""Times an idempotent request is sent again after its connection broke: it may be what breaks the server."""
_BACKOFF_FIRST_S = 0.02
_BACKOFF_MAX_S = 0.5
_ELECTION_PAUSE_S = 0.2
"""Longest pause while nobody leads: what a client waits beyond the election."""

_A = TypeVar("_A", bound=Message)
_T = TypeVar("_T")
_encode = msgspec.msgpack.Encoder().encode
_DATA, _ANSWER = int(Kind.DATA), int(Kind.ANSWER)


class Pool:
    """Connections to one service: addresses of masters (one leads), or of one worker (`host:port` or a Unix path).

    Methods raise the server's typed errors, and: Unreachable when no address answers (each is tried once, again and again
    for ``patience_s`` if given), DeadlineExceeded after ``timeout_s``, ConnectionLost when the connection broke after the
    request was sent, ProtocolError for answers that make no sense, FrameTooLarge for requests over 1 MiB.
    ``idempotent``: the request may be sent again after ConnectionLost. ``trace`` is the request id in logs, by default a new one;
    unusual errors carry it (``monofs.observe.tracing.stamp``).
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        credential: Credential | None = None,
        *,
        connect_timeout_s: float = 5.0,
        patience_s: float = 0.0,
        silence_s: float = 0.0,
        tls: ClientTls | None = None,
    ) -> None:
        """``silence_s``: within so long a server that says nothing counts as lost, unless it shakes hands on another connection, which is tried after a
        third of it: one whose machine stands still or was cut off closes nothing. 0: answers are waited for until the deadline.
        ``tls``: speak TLS over TCP, and nothing else."""
        self.addresses = split_addresses(addresses)
        self._waits = connect_timeout_s, patience_s, silence_s
        self._credential, self._tls, self._patience_s = credential or Credential(), tls, patience_s
        self._preferred = self.addresses[0]
        self.conversations = Conversations(self._credential, connect_s=connect_timeout_s, silence_s=silence_s, tls=tls)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.addresses, self._credential, self._waits, self._tls))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- calls ----

    def call(
        self,
        method: Method,
        request: Message,
        answer_type: type[_A],
        timeout_s: float = 30.0,
        *,
        idempotent: bool = False,
        trace: int = 0,
    ) -> _A:
        """Ask and wait for the answer."""
        deadline = time.monotonic() + timeout_s
        number, body = int(method), encode_request(request)
        trace = trace or new_trace()
        answer = self._run(
            lambda talk: talk.call(number, body, deadline, trace), deadline, trace, idempotent=idempotent
        )
        return _decode(answer, answer_type)

    def call_with_descriptors(
        self, method: Method, request: Message, answer_type: type[_A], timeout_s: float = 30.0, *, trace: int = 0
    ) -> tuple[_A, list[int]]:
        """The answer and the descriptors that came with it (close-on-exec, the caller's to close). Unix sockets only."""
        deadline = time.monotonic() + timeout_s
        number, body = int(method), encode_request(request)
        trace = trace or new_trace()
        answer, fds = self._run(
            lambda talk: talk.call_with_descriptors(number, body, deadline, trace), deadline, trace, idempotent=False
        )
        try:
            return _decode(answer, answer_type), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def call_with_descriptor(
        self, method: Method, request: Message, answer_type: type[_A], timeout_s: float = 30.0, *, trace: int = 0
    ) -> tuple[_A, int | None]:
        """As :meth:`call_with_descriptors` where at most one descriptor comes."""
        answer, fds = self.call_with_descriptors(method, request, answer_type, timeout_s, trace=trace)
        for fd in fds[1:]:
            os.close(fd)
        return answer, fds[0] if fds else None

    def call_many(
        self,
        method: Method,
        requests: Sequence[Message],
        answer_type: type[_A],
        timeout_s: float = 30.0,
        *,
        idempotent: bool = False,
        trace: int = 0,
    ) -> list[_A | MonofsError]:
        """All requests pipelined on one connection; each one's answer or its error, in order."""
        deadline = time.monotonic() + timeout_s
        number, bodies = int(method), [encode_request(request) for request in requests]
        trace = trace or new_trace()
        answers = self._run(
            lambda talk: talk.call_many(number, bodies, deadline, trace), deadline, trace, idempotent=idempotent
        )
        return [
            stamp(answer, trace) if isinstance(answer, MonofsError) else _decode(answer, answer_type)
            for answer in answers
        ]

    def read_into(
        self,
        method: Method,
        request: Message,
        buffer: Any,
        timeout_s: float = 30.0,
        *,
        trace: int = 0,
        hedge: Hedge | None = None,
        heed: Callable[[ServedAnswer], None] | None = None,
    ) -> int:
        """Receive a stream of DATA straight into a writable buffer; returns how many bytes came, at most its size: whoever wants more of a stream
        whose connection broke asks for the rest.

        Sent again when it broke before any came: reading changes nothing. Raises ProtocolError when more bytes come than fit.
        ``hedge``: whom else to ask, and when (rpc/hedge.py). ``heed`` is told when the answer says more than that it is the end.
        """
        deadline = time.monotonic() + timeout_s
        number, body = int(method), encode_request(request)
        view = memoryview(buffer).cast("B")
        trace = trace or new_trace()

        def read(talk: Conversation) -> int:
            if hedge is None:
                count = talk.read_into(number, body, view, deadline, trace)
            else:
                count = hedge.read_into(talk, number, body, view, deadline, trace)
            if heed is not None and len(talk.answer) > 1:
                heed(_decode(talk.answer, ServedAnswer))
            return count

        return self._run(read, deadline, trace, idempotent=True)

    def stream(
        self,
        method: Method,
        request: Message,
        item_type: type[_A] | None = None,
        timeout_s: float = 300.0,
        *,
        trace: int = 0,
    ) -> Iterator[Any]:
        """Elements as they come: ``item_type`` for ITEM frames, bytes for DATA. An iterator left early closes its connection.

        ``timeout_s`` is for the whole stream. Asked again on another connection only before the first element came.
        """
        deadline = time.monotonic() + timeout_s
        number, body = int(method), encode_request(request)
        trace = trace or new_trace()

        def start(talk: Conversation) -> tuple[Conversation, int, int, bytes | bytearray]:
            request_id = talk.start_stream(number, body, deadline, trace)
            kind, first = talk.next_of_stream(request_id)
            return talk, request_id, kind, first

        talk, request_id, kind, element = self._run(start, deadline, trace, idempotent=True, keep=True)
        finished = False
        try:
            while kind != _ANSWER:
                if kind == _DATA:
                    yield element
                elif item_type is None:
                    raise ProtocolError(f"{method.name} streams items, and no type for them was given")
                else:
                    yield _decode(element, item_type)
                try:
                    kind, element = talk.next_of_stream(request_id)
                except MonofsError as error:
                    finished = True  # an ERROR frame ends a stream as well; a broken conversation says so itself
                    stamp(error, trace)
                    raise
            finished = True
        finally:
            if not finished:
                talk.close()
            self.conversations.give_back(talk)

    def pipeline(self, timeout_s: float = 30.0) -> Pipeline:
        """A connection of the caller's own, for requests that do not wait for one another. To be closed."""
        return Pipeline(self.borrow(timeout_s), self.conversations.give_back)

    def server(self, timeout_s: float = 5.0) -> Welcome:
        """What the server told of itself in the handshake: cluster id, role, release."""
        return self._run(lambda talk: talk.welcome, time.monotonic() + timeout_s, 0, idempotent=True)

    def close(self) -> None:
        """Close all idle connections; those in use close when their call ends. Further calls raise Closed."""
        self.conversations.close()

    # ---- which address, and when again ----

    def _run(
        self,
        action: Callable[[Conversation], _T],
        deadline: float,
        trace: int,
        *,
        idempotent: bool,
        keep: bool = False,
    ) -> _T:
        """Run ``action`` on a conversation, elsewhere or again where that is safe. ``keep``: it stays taken on success."""
        address, pause = self._preferred, _BACKOFF_FIRST_S
        unreachable: set[str] = set()
        hinted: set[str] = set()
        losses = 0
        leaderless = False
        patience = time.monotonic() + self._patience_s
        while True:
            try:
                talk = self.conversations.take(address, deadline)
                unreachable.clear()
                result = self._act(action, talk, keep=keep)
                self._preferred = address
                return result
            except Unreachable as error:
                unreachable.add(address)
                if unreachable.issuperset(self.addresses):
                    if time.monotonic() >= min(patience, deadline):
                        raise self._nobody(error) from None
                    pause = _sleep(pause, deadline)
                    unreachable.clear()
                address = self._after(address)
            except NotLeader as error:
                if len(self.addresses) == 1 and error.detail.get("leader") is None:
                    raise
                leaderless = True
                address = self._leader(error, address)
                if address in hinted or error.detail.get("leader") != address:
                    pause = _sleep(min(pause, _ELECTION_PAUSE_S), deadline)
                hinted.add(address)  # at once the first time: it was just elected, perhaps
            except ConnectionLost as error:
                losses += 1
                if error.detail.get("silent") == address:
                    self._preferred = address = self._after(address)
                is_alone = len(self.addresses) == 1 and "silent" in error.detail
                if not idempotent or losses > LOSSES_MAX or is_alone:
                    stamp(error, trace)
                    raise
                pause = _sleep(pause, deadline)
            except MonofsError as error:
                stamp(error, trace)
                raise
            if time.monotonic() >= deadline:
                told = DeadlineExceeded(_LEADERLESS if leaderless else _silent(self.addresses))
                raise stamp(told, trace)

    def _act(self, action: Callable[[Conversation], _T], talk: Conversation, *, keep: bool) -> _T:
        try:
            result = action(talk)
        except MonofsError:
            self.conversations.give_back(talk)
            raise
        except BaseException:
            # interrupted in the middle: the next answer on it would be this one's
            talk.close()
            self.conversations.give_back(talk)
            raise
        if not keep:
            self.conversations.give_back(talk)
        return result

    def borrow(self, timeout_s: float) -> Conversation:
        """A connection of the caller's own, to be given back to :attr:`conversations`. Raises as every call."""
        return self._run(lambda talk: talk, time.monotonic() + timeout_s, 0, idempotent=True, keep=True)

    def _after(self, address: str) -> str:
        """The address to try next."""
        if address not in self.addresses:
            return self.addresses[0]
        return self.addresses[(self.addresses.index(address) + 1) % len(self.addresses)]

    def _leader(self, error: NotLeader, address: str) -> str:
        """Where a follower says the leader is; the next address when it does not know."""
        hint = error.detail.get("leader")
        if isinstance(hint, str) and hint != address:
            try:
                parse_address(hint)
            except MonofsError:
                return self._after(address)
            return hint
        return self._after(address)

    def _nobody(self, error: Unreachable) -> Unreachable:
        if len(self.addresses) == 1:
            return error
        return Unreachable(f"none of {', '.join(self.addresses)} can be reached; the last one said: {error}")


class Pipeline:
    """One connection, taken from a pool; a few requests at a time. For one thread; errors as of the pool's calls, and never sent again."""

    def __init__(self, talk: Conversation, give_back: Callable[[Conversation], None]) -> None:
        self._talk, self._give_back = talk, give_back
        self._proof, talk.proof = talk.proof, None  # who waits for acknowledgements of writes gives them their time
        talk.slow_s = 0.0  # of a hedged read before
        self._trace = new_trace()
        self.unanswered = 0

    def send(self, method: Method, pieces: Sequence[bytes | memoryview], timeout_s: float) -> int:
        """Send a request made of ``pieces``; returns its number."""
        number = self._talk.start(int(method), pieces, time.monotonic() + timeout_s, self._trace)
        self.unanswered += 1
        return number

    def is_answered(self) -> bool:
        """Whether :meth:`receive` would find something at once: an answer, or that the connection ended."""
        return self._talk.has_bytes()

    def receive(self, answer_type: type[_A], timeout_s: float) -> tuple[int, _A | MonofsError]:
        """The next answer or error to arrive, and the number of its request."""
        try:
            number, answer = self._talk.finish(time.monotonic() + timeout_s)
        except MonofsError as error:
            raise stamp(error, self._trace) from None
        self.unanswered -= 1
        if isinstance(answer, MonofsError):
            return number, stamp(answer, self._trace)
        return number, _decode(answer, answer_type)

    def close(self) -> None:
        """Give the connection back; one with answers to come is closed."""
        if self.unanswered:
            self._talk.close()
        self._talk.proof = self._proof
        self._give_back(self._talk)


_LEADERLESS = (
    "no master came to lead within the time allowed: a majority of them must run and reach one another; `monofs admin quorum info` shows "
    "what the one that answers knows"
)


def _silent(addresses: Sequence[str]) -> str:
    return f"no answer from {', '.join(addresses)} within the time allowed"


def _sleep(pause_s: float, deadline: float) -> float:
    """Wait with jitter, not beyond the deadline; returns the next pause."""
    time.sleep(max(0.0, min(pause_s * random.uniform(0.5, 1.0), deadline - time.monotonic())))  # noqa: S311 - jitter
    return min(pause_s * 2, _BACKOFF_MAX_S)


def _rebuild(
    addresses: Sequence[str], credential: Credential, waits: tuple[float, float, float], tls: ClientTls | None
) -> Pool:
    connect_s, patience_s, silence_s = waits
    return Pool(addresses, credential, connect_timeout_s=connect_s, patience_s=patience_s, silence_s=silence_s, tls=tls)


def encode_request(request: Message) -> bytes:
    """A request's body. Raises ``FrameTooLarge`` and ``InvalidArgument``."""
    try:
        body = _encode(request)
    except UnicodeEncodeError:
        raise InvalidArgument("a path or another text in this request is not valid UTF-8") from None
    if len(body) > REQUEST_MAX_BYTES:
        raise FrameTooLarge(
            f"a request has at most {REQUEST_MAX_BYTES} bytes, this one {len(body)}; ask for less at a time",
            limit=REQUEST_MAX_BYTES,
        )
    return body


def _decode(body: bytes | bytearray, answer_type: type[_A]) -> _A:
    try:
        return msgspec.msgpack.decode(body, type=answer_type)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the answer is not a {answer_type.__name__}: {error}") from None
