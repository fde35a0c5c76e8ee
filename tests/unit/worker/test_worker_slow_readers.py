"""Many readers that take nothing: what waits for them is bounded, in this process and in the kernel, and others are served."""

from __future__ import annotations

import fcntl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from worker_world import MIB, PATIENCE_S, World, make_bytes

from monofs.model.options import ReadType
from monofs.rpc.api import Method, ReadRequest
from monofs.rpc.conversation import Conversation
from monofs.rpc.handshake import Credential
from monofs.rpc.link import CROWD, NARROW_BYTES, TURN_BYTES
from monofs.rpc.service import Limits
from monofs.worker.delivery import CHUNK_BYTES, KEPT_BYTES

READERS = CROWD + 36
SIZE = 16 * MIB
UNSENT = 0x894B  # SIOCOUTQNSD: bytes a TCP socket holds that were not sent


@contextmanager
def slow_readers(world: World, capability: bytes, read_type: str = ReadType.CACHE) -> Iterator[list[Conversation]]:
    """Connections that asked for everything and read nothing yet; each has as much waiting as ever will."""
    deadline = time.monotonic() + 3000
    talks = [Conversation(world.address, Credential(), deadline) for _ in range(READERS)]
    try:
        for talk in talks:
            request = ReadRequest(capability, 0, SIZE, read_type)
            talk.start_stream(Method.READ, msgspec.msgpack.encode(request), deadline, 0)
        world.on_reactor_until(lambda: len([link for link in links(world) if link.queued_bytes]) == READERS)
        yield talks
    finally:
        for talk in talks:
            talk.close()


def links(world: World):  # type: ignore[no-untyped-def] # connections of the TCP door
    return list(world.listeners[0].connections)


def unsent(world: World) -> list[int]:
    """Bytes the kernel holds unsent for each reader, ascending."""

    def look() -> list[int]:
        room = bytes(4)
        return sorted(struct.unpack("i", fcntl.ioctl(link.sock, UNSENT, room))[0] for link in links(world))

    return list(world.run(look))


def finish(talk: Conversation) -> bytes:
    """All a slow reader was sent, now that it reads."""
    data = bytearray()
    while True:
        kind, body = talk.next_of_stream(talk._last_id)
        if kind == 2:  # ANSWER
            return bytes(data)
        data += body


def test_what_waits_for_a_crowd_of_slow_readers_is_bounded(world: World) -> None:
    capability, data = world.put(make_bytes(1, SIZE))
    assert world.read(capability, 0, SIZE) == data
    with slow_readers(world, capability) as talks:
        waiting = world.run(lambda: [(link.queued_bytes, link.memory_bytes) for link in links(world)])
        assert max(queued for queued, _ in waiting) <= CHUNK_BYTES + 4 * TURN_BYTES
        assert sum(memory for _, memory in waiting) <= READERS * 1024, (
            "blocks wait in their files, only frames in memory"
        )
        narrow = unsent(world)[: READERS - CROWD]
        assert max(narrow) <= NARROW_BYTES + MIB, "the kernel holds little for each once they are many"
        assert world.read(capability, 0, SIZE) == data, "others are served"
        assert finish(talks[0]) == data
        assert finish(talks[-1]) == data


def test_what_a_store_sent_for_a_crowd_of_slow_readers_is_bounded(world: World) -> None:
    capability, data = world.put(make_bytes(2, SIZE))
    with slow_readers(world, capability, ReadType.STORE) as talks:
        world.on_reactor_until(lambda: world.worker._fetcher.count == 0)
        kept, queued = world.run(
            lambda: (world.worker.reading._parts.kept.bytes, max(link.memory_bytes for link in links(world)))
        )
        assert kept <= KEPT_BYTES
        assert queued <= Limits().queued_bytes // 4 + world.store.chunk + TURN_BYTES
        assert world.run(lambda: world.worker.service().queued_bytes) <= Limits().queued_total_bytes
        assert finish(talks[3]) == data
    world.on_reactor_until(lambda: not world.worker.reading._parts.kept.bytes)


def test_a_crowd_that_has_gone_leaves_the_door_wide(world: World) -> None:
    capability, data = world.put(make_bytes(1, SIZE))
    assert world.read(capability, 0, SIZE) == data
    flusher = world.listeners[0].flusher
    with slow_readers(world, capability):
        assert world.run(lambda: flusher.waiting) == READERS
    world.on_reactor_until(lambda: len(links(world)) == 1)
    assert world.read(capability, 0, SIZE) == data
    world.on_reactor_until(lambda: flusher.waiting == 0)


@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_a_reader_whose_link_became_narrow_gets_the_same_bytes(world: World, door: str) -> None:
    capability, data = world.put(make_bytes(1, SIZE))
    pool = world.tcp if door == "tcp" else world.unix
    assert world.read(capability, 0, SIZE, pool=pool) == data
    with slow_readers(world, capability):
        for offset in (0, 3 * MIB + 1):
            assert world.read(capability, offset, SIZE - offset, pool=pool, timeout_s=PATIENCE_S) == data[offset:]
    assert world.read(capability, 0, SIZE, pool=pool) == data
