"""Retries apply once: what each client was answered, until it says that the answer arrived (law 3).

A client is known while it holds an answer, and new when it says that it has received none yet (its requests may overtake each
other on their way: the first need not arrive first). Its last answer is always held, because only a later request can trim it, so the
``applied`` table is the whole of it: client and sequence -> (lowest, time, answer). Kept decoded in memory and bounded there.

Clients are forgotten when they were silent for an hour, and the longest silent ones sooner where others need room; never one heard
within :data:`QUIET_NS` of the state's time. That is law 3's promise: a retry within a minute of the client's last change applies once.

Invariant: a request of a known client runs at most once; one whose fate is not known any more is refused, never run, unless it
claims to be among the first of its client.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from monofs.metadata.entries import Stamp
from monofs.metadata.store import Store
from monofs.metadata.tables import APPLIED, NameChange, pack_id, unpack_id
from monofs.model.errors import InvalidArgument, MonofsError, Overloaded, SessionExpired, from_code
from monofs.model.mount import Mount

ANSWERS_PER_CLIENT_MAX = 1024
ANSWERS_MAX = 262_144
"""Answers held for all clients together."""
QUIET_NS = 60 * 10**9
"""A client heard of within this is never forgotten for the sake of others."""
CLIENT_ID_MAX_BYTES = 64
SEQUENCE_MAX = 1 << 62
_PAGE = 1000


class Answer(msgspec.Struct, array_like=True, gc=False):
    """One record of ``applied``. ``form`` tells how ``value`` is read: see :func:`encode_result`."""

    lowest: int
    now_ns: int
    form: int
    value: Any = None


class Session:
    """One client: its answers by sequence as stored, what it trimmed up to, and when it was last heard of."""

    __slots__ = ("answers", "lowest", "seen_ns")

    def __init__(self) -> None:
        self.answers: dict[int, bytes] = {}
        self.lowest = 0
        self.seen_ns = 0


class Fresh:
    """The mark of a request that was not applied before."""


FRESH = Fresh()


class Sessions:
    """All clients, loaded from the store and kept equal to it."""

    def __init__(self, store: Store) -> None:
        self.clients: OrderedDict[bytes, Session] = OrderedDict()
        """In the order of ``seen_ns``."""
        self.held = 0
        after = b""
        while page := store.scan(APPLIED, after, _PAGE):
            for key, raw in page:
                self._load(key, raw)
            after = page[-1][0]
        self.clients = OrderedDict(sorted(self.clients.items(), key=lambda item: (item[1].seen_ns, item[0])))

    def recall(self, stamp: Stamp, now_ns: int) -> Any:
        """The answer given before, or a refusal; :data:`FRESH` when the request is to be run now, at the state's time ``now_ns``."""
        client = stamp.client
        if not client:
            return FRESH
        sequence = stamp.sequence
        if len(client) > CLIENT_ID_MAX_BYTES or not 0 < sequence < SEQUENCE_MAX:
            return InvalidArgument(f"a client id has 1 to {CLIENT_ID_MAX_BYTES} bytes and numbers its requests from 1")
        session = self.clients.get(client)
        if session is None:
            if sequence > 1 and stamp.lowest != 1:
                return SessionExpired(
                    "this client was silent for too long: reconnect, and look whether the change was made"
                )
            if self.held >= ANSWERS_MAX and self._longest_silent(now_ns, client) is None:
                return Overloaded("too many answers are held for clients; try again")
            return FRESH
        held = session.answers.get(sequence)
        if held is not None:
            return decode_result(held)
        if sequence < session.lowest:
            return SessionExpired(f"request {sequence} was answered and its answer was received before")
        if len(session.answers) >= ANSWERS_PER_CLIENT_MAX or self.held >= ANSWERS_MAX:
            left = sum(1 for number in session.answers if number >= stamp.lowest)
            is_full = self.held - len(session.answers) + left >= ANSWERS_MAX
            if left >= ANSWERS_PER_CLIENT_MAX or (is_full and self._longest_silent(now_ns, client) is None):
                return Overloaded(f"{left} answers wait for this client to receive them; try again")
        return FRESH

    def remember(self, stamp: Stamp, now_ns: int, result: Any) -> list[NameChange]:
        """Hold an answer, trim those the client received and make room; returns the changes of the ``applied`` table."""
        client = stamp.client
        session = self.clients.get(client)
        if session is None:
            session = self.clients[client] = Session()
        changes: list[NameChange] = []
        if stamp.lowest > session.lowest:
            before, session.lowest = session.lowest, min(stamp.lowest, stamp.sequence)
            passed = range(before, session.lowest)
            # nearly always one number: looking at every answer held cost more than the operation (512 in flight)
            held = passed if len(passed) <= len(session.answers) else list(session.answers)
            for sequence in [number for number in held if number in session.answers and number < session.lowest]:
                del session.answers[sequence]
                self.held -= 1
                changes.append((APPLIED, answer_key(client, sequence), None))
        raw = encode_result(session.lowest, now_ns, result)
        session.answers[stamp.sequence] = raw
        session.seen_ns = now_ns
        self.clients.move_to_end(client)
        self.held += 1
        changes.append((APPLIED, answer_key(client, stamp.sequence), raw))
        while self.held > ANSWERS_MAX:
            silent = self._longest_silent(now_ns, client)
            if silent is None:
                break  # an earlier release may have held more
            changes += self.expire(silent)
            self.drop([silent])
        return changes

    def _longest_silent(self, now_ns: int, but: bytes) -> bytes | None:
        """The client that is forgotten first, the lesser id of two heard at the same time; None when all were heard lately."""
        found, seen_ns = None, now_ns - QUIET_NS
        for client, session in self.clients.items():
            if session.seen_ns > seen_ns:
                break
            if client != but:
                seen_ns = session.seen_ns
                found = client if found is None else min(found, client)
        return found

    def expire(self, client: bytes) -> list[NameChange]:
        """The changes of the ``applied`` table that forget a client; :meth:`drop` it when they are taken over."""
        session = self.clients.get(client)
        if session is None:
            return []
        return [(APPLIED, answer_key(client, sequence), None) for sequence in session.answers]

    def drop(self, clients: list[bytes]) -> None:
        """Forget clients whose answers are deleted."""
        for client in clients:
            session = self.clients.pop(client, None)
            if session is not None:
                self.held -= len(session.answers)

    def _load(self, key: bytes, raw: bytes) -> None:
        client, sequence = split_answer_key(key)
        session = self.clients.setdefault(client, Session())
        answer = _decode_answer(raw)
        session.answers[sequence] = raw
        session.lowest = max(session.lowest, answer.lowest)
        session.seen_ns = max(session.seen_ns, answer.now_ns)
        self.held += 1


def answer_key(client: bytes, sequence: int) -> bytes:
    """Length of the client id (1 byte), the id, the sequence (8 bytes big-endian)."""
    return bytes((len(client),)) + client + pack_id(sequence)


def split_answer_key(key: bytes) -> tuple[bytes, int]:
    """The inverse of :func:`answer_key`."""
    return key[1:-8], unpack_id(key[-8:])


_encode = msgspec.msgpack.Encoder().encode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode


def encode_result(lowest: int, now_ns: int, result: Any) -> bytes:
    """An answer as stored. Forms: 0 as it is (None, int, bytes); 1 tuple of ints; 2 Mount; 3 error (code, message, detail)."""
    if isinstance(result, MonofsError):
        return _encode(Answer(lowest, now_ns, 3, [result.code, result.message, result.detail]))
    if isinstance(result, Mount):
        return _encode(Answer(lowest, now_ns, 2, result))
    return _encode(Answer(lowest, now_ns, 1 if isinstance(result, tuple) else 0, result))


def decode_result(raw: bytes) -> Any:
    """The result a retry gets: equal to the first one."""
    answer = _decode_answer(raw)
    if answer.form == 3:
        code, message, detail = answer.value
        return from_code(code, message, detail)
    if answer.form == 2:
        return msgspec.convert(answer.value, Mount)
    return tuple(answer.value) if answer.form == 1 else answer.value
