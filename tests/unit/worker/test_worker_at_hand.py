"""Bytes for the master of the same process: given to whom READ would give them, at once or not at all."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from worker_world import MIB, World, make_bytes

from monofs.model.capability import peek_capability, seal_capability
from monofs.model.errors import CapabilityInvalid
from monofs.rpc.api import Method, ReadRequest
from monofs.worker.delivery import SMALL_BYTES
from monofs.worker.reading import AFAR_BYTES

SIZE = 20_000


@pytest.fixture
def ask(world: World) -> Callable[[bytes], bytes]:
    def asked(token: bytes) -> bytes:
        seen: list[bytes] = []
        world.run(lambda: seen.append(world.worker.reading.at_hand(peek_capability(token), _Door())))  # type: ignore[arg-type]
        return seen[0]

    return asked


class _Door:
    """The call of a client at the master."""

    door, started = "tcp", 0.0


def test_a_small_file_that_is_cached_is_at_hand_whole(world: World, ask: Callable[[bytes], bytes]) -> None:
    capability, data = world.put(make_bytes(1, SIZE))
    assert ask(capability) == b"", "it is not cached yet"
    assert world.read(capability, 0, SIZE) == data
    assert ask(capability) == data
    assert world.store.gets == [(b"object-1", 0, SIZE)]


def test_a_larger_file_is_not(world: World, ask: Callable[[bytes], bytes]) -> None:
    for size in (AFAR_BYTES, AFAR_BYTES + 1, 3 * MIB):
        capability, data = world.put(make_bytes(1, size))
        assert world.read(capability, 0, size) == data
        assert ask(capability) == (data if size == AFAR_BYTES else b"")


def test_within_the_process_a_larger_one_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Door, "door", "direct")
    for size in (AFAR_BYTES + 1, SMALL_BYTES, SMALL_BYTES + 1):
        capability, data = world.put(make_bytes(1, size))
        assert world.read(capability, 0, size) == data
        found = world.run(lambda token=capability: [world.worker.reading.at_hand(peek_capability(token), _Door())])  # type: ignore[misc]
        assert found == [data if size <= SMALL_BYTES else b""]


def test_what_is_granted_in_another_cluster_or_under_an_unknown_key_is_not_at_hand(
    world: World, ask: Callable[[bytes], bytes]
) -> None:
    capability, data = world.put(make_bytes(1, SIZE))
    assert world.read(capability, 0, SIZE) == data
    granted = peek_capability(capability)
    for wrong in ({"cluster": b"z" * 16}, {"key_id": granted.key_id + 1}):
        foreign = seal_capability(msgspec.structs.replace(granted, **wrong), b"x" * 32)
        with pytest.raises(CapabilityInvalid):
            world.tcp.read_into(Method.READ, ReadRequest(foreign, 0, SIZE), bytearray(SIZE), 10)
        assert ask(foreign) == b""
    assert ask(capability) == data


def test_nothing_is_at_hand_that_was_not_verified_since_an_unclean_stop(
    world: World, ask: Callable[[bytes], bytes]
) -> None:
    capability, data = world.put(make_bytes(1, SIZE))
    assert world.read(capability, 0, SIZE) == data
    world.crash()
    world.start()
    assert ask(capability) == b""
    assert world.read(capability, 0, SIZE) == data
    assert ask(capability) == data


def test_nothing_is_at_hand_of_a_worker_that_stops(make_world: Callable[..., World]) -> None:
    world = make_world()
    capability, data = world.put(make_bytes(1, SIZE))
    assert world.read(capability, 0, SIZE) == data
    worker = world.worker
    world.stop()
    assert worker.reading.at_hand(peek_capability(capability), _Door()) == b""  # type: ignore[arg-type]
