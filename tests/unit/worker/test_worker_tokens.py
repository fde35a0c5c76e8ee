"""Tokens at a worker: it hears of them by registration and heartbeat, asks for the rights they give, and lets go of those removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from worker_world import CLUSTER, PATIENCE_S, World

from monofs.model.errors import NotReady, PermissionDenied, Unauthenticated
from monofs.model.options import WriteType
from monofs.model.token import Token, encode_token, format_token, token_secret
from monofs.rpc.api import (
    Empty,
    FetchAnswer,
    FetchRequest,
    Method,
    TokenGrant,
    VerifyAnswer,
    WorkerStatusAnswer,
    WriteAnswer,
    WriteRequest,
)
from monofs.rpc.handshake import Credential
from monofs.rpc.security import Security
from monofs.rpc.sync import Pool

SECRET = b"the cluster secret of these tests"
READ, WRITE, ADMIN = 1, 2, 4


def salt(number: int) -> bytes:
    return bytes([number]) * 16


def credential(number: int, rights: int, expires_s: int = 0) -> Credential:
    body = encode_token(Token(number, f"token-{number}", rights, expires_s, CLUSTER, salt(number)))
    return Credential(token=format_token(body, token_secret(SECRET, body)))


@pytest.fixture
def secured(make_world: Callable[..., World]) -> World:
    """A worker whose doors ask everybody."""
    return make_world(security=Security(secret=SECRET, authentication="required"))


@pytest.fixture
def issue(secured: World) -> Iterator[Callable[..., Pool]]:
    """Issues tokens and gives connections that show them."""
    pools: list[Pool] = []

    def make(number: int, rights: int, *, heard: bool = True, expires_s: int = 0) -> Pool:
        known = secured.master.tokens.salts
        grant(secured, {**known, number: salt(number)}, heard=heard)
        pools.append(Pool(secured.address, credential(number, rights, expires_s)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def grant(world: World, salts: dict[int, bytes], *, heard: bool = True) -> None:
    """What the master says from now on."""
    world.master.tokens = TokenGrant(salts, max(salts, default=world.master.tokens.last))
    world.master.tokens_index += 1
    if heard:
        world.on_beat()


def status(pool: Pool) -> WorkerStatusAnswer:
    return pool.call(Method.WORKER_STATUS, Empty(), WorkerStatusAnswer, PATIENCE_S)


def test_a_reader_reads_and_does_nothing_else(secured: World, issue: Callable[..., Pool]) -> None:
    data = bytes(range(256)) * 100
    capability, _ = secured.put(data)
    reader = issue(1, READ)
    assert secured.read(capability, 0, len(data), pool=reader) == data
    assert reader.call(Method.FETCH, FetchRequest(capability, 0, 1), FetchAnswer, PATIENCE_S).present == 1
    with pytest.raises(PermissionDenied, match="token-1 has no write right"):
        reader.call(Method.WRITE, WriteRequest(secured.write_capability(9, 1), 0, memoryview(b"x")), WriteAnswer, 5.0)
    with pytest.raises(PermissionDenied, match="admin"):
        reader.call(Method.VERIFY, Empty(), VerifyAnswer, PATIENCE_S)
    assert status(reader).worker == 7


def test_without_the_right_to_read_nothing_is_served(secured: World, issue: Callable[..., Pool]) -> None:
    capability, _ = secured.put(b"bytes" * 100)
    with pytest.raises(PermissionDenied, match="read"):
        secured.read(capability, 0, 5, pool=issue(1, ADMIN))


def test_a_writer_writes(secured: World, issue: Callable[..., Pool]) -> None:
    capability = secured.write_capability(9, 1, write_type=WriteType.MUST_CACHE, mount=0)
    request = WriteRequest(capability, 0, memoryview(b"x"), True)
    assert issue(1, READ | WRITE).call(Method.WRITE, request, WriteAnswer, PATIENCE_S).received == 1
    assert len(secured.master.ended) == 1


def test_a_token_is_honoured_once_the_heartbeat_told_of_it(secured: World, issue: Callable[..., Pool]) -> None:
    early = Pool(secured.address, credential(1, READ))
    with early, pytest.raises(NotReady, match="token-1"):
        status(early)
    assert status(issue(1, READ)).worker == 7


def test_a_removed_token_loses_its_connections_with_the_heartbeat(secured: World, issue: Callable[..., Pool]) -> None:
    gone, other = issue(1, READ), issue(2, READ)
    status(gone)
    status(other)
    (talk,) = gone.conversations._open
    (stays,) = other.conversations._open
    grant(secured, {2: salt(2)})
    with pytest.raises(Unauthenticated, match="token-1 was removed"):
        status(gone)
    assert talk.broken
    status(other)
    assert other.conversations._open == {stays}, "the same connection"


def test_ends_are_judged_by_the_masters_clock(secured: World, issue: Callable[..., Pool]) -> None:
    pool = issue(1, READ, expires_s=4_000_000_000)
    status(pool)
    secured.master.now_ns = 4_000_000_000 * 10**9
    secured.on_beat()
    late = Pool(secured.address, credential(1, READ, 4_000_000_000))
    with late, pytest.raises(Unauthenticated, match="expired"):
        status(late)


def test_a_restarted_worker_hears_of_tokens_when_it_registers(secured: World, issue: Callable[..., Pool]) -> None:
    status(issue(1, READ))
    secured.stop()
    secured.start()
    with Pool(secured.address, credential(1, READ)) as pool:
        assert status(pool).worker == 7
