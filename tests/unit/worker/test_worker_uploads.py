"""Parts of uploads at a worker: passed on to the store's upload, their pages kept until the upload is a file. A real S3 server behind a proxy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from worker_world import CLUSTER, KEY, MIB, PATIENCE_S, World, make_bytes

from monofs.model.block import DEFAULT_LAYOUT
from monofs.model.capability import CacheGroup, Capability, Rights, seal_capability
from monofs.model.errors import MonofsError, UfsDenied, UfsFailed, WriteLost
from monofs.model.ids import MountId, make_content_id
from monofs.model.principal import NODE
from monofs.rpc.api import AbortWriteRequest, Empty, KeepPartsRequest, Method, MountGrant, UploadedPart
from monofs.rpc.direct import DirectClient
from monofs.testing.buckets import Bucket
from monofs.testing.masters import wait_until
from monofs.testing.storeproxy import Fault, StoreProxy
from monofs.ufs.base import ANYTHING, UnderStorage
from monofs.ufs.registry import open_ufs
from monofs.worker import parting, uploading

PART = 5 * MIB
DATA = make_bytes(3, 2 * PART + 1_300_000)


class Upload:
    """One upload of content 1, played by the test: it is the master, and whoever sends parts."""

    def __init__(self, world: World, bucket: Bucket, store: UnderStorage, proxy: StoreProxy) -> None:
        self.world, self.bucket, self.store, self.proxy = world, bucket, store, proxy
        self.id = store.begin_upload(b"file", "c-1-1")
        self.tries = 1 << 62
        self.parts: dict[int, UploadedPart] = {}

    def token(self, number: int, size: int, offset: int) -> bytes:
        self.tries += 1
        now = int(time.time())
        return seal_capability(
            Capability(
                1, CLUSTER, make_content_id(1, 1), size, DEFAULT_LAYOUT, MountId(1), "file", "", CacheGroup.DEFAULT, Rights.WRITE,
                now, now + 300, self.tries, "c-1-1", "CACHE_THROUGH", upload=self.id, part=number, part_offset=offset,
            ),
            KEY,
        )  # fmt: skip

    def send(self, number: int, data: bytes, offset: int) -> None:
        tag = self.world.write(self.token(number, len(data), offset), data).tag
        self.parts[number] = UploadedPart(number, len(data), tag)

    def keep(self, parts: list[UploadedPart]) -> None:
        """Tell the worker which parts the upload ended with."""
        master = DirectClient(self.world.direct.service, NODE)
        self.world.run(
            master.call, Method.KEEP_PARTS, KeepPartsRequest(make_content_id(1, 1), parts), Empty, PATIENCE_S
        )

    def reserved(self) -> int:
        return self.world.run(lambda: self.world.cache.directories[0].reserved)

    def finish(self) -> tuple[bytes, int]:
        """The bytes of the file as the worker reads them, and how often it had to ask the store for some."""
        parts = [self.parts[number] for number in sorted(self.parts)]
        size = sum(part.size for part in parts)
        self.keep(parts)
        tags = [f"{part.number}:{part.tag}" for part in parts]
        made = self.store.complete_upload(b"file", self.id, tags, size, "c-1-1", ANYTHING)
        now = int(time.time())
        reading = Capability(
            1, CLUSTER, make_content_id(1, 1), size, DEFAULT_LAYOUT, MountId(1), "file", made.fingerprint, CacheGroup.DEFAULT,
            Rights.READ, now, now + 300,
        )  # fmt: skip
        before = self.proxy.count("get")
        return self.world.read(seal_capability(reading, KEY), 0, size), self.proxy.count("get") - before


@pytest.fixture
def upload(make_world: Callable[..., World], bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upload]:
    monkeypatch.setattr(uploading, "BACK_OFF_MOST_S", 0.05)
    with StoreProxy(bucket.endpoint) as proxy:
        bucket.endpoint = proxy.endpoint
        world = make_world(opens_real_stores=True)
        world.master.mounts = [MountGrant(1, bucket.uri, bucket.options, 2)]
        world.master.mounts_index = 2
        world.on_beat()
        store = open_ufs(bucket.uri, bucket.options, timeout_s=30.0)
        yield Upload(world, bucket, store, proxy)
        store.close()


def cut(data: bytes, size: int) -> list[tuple[int, bytes, int]]:
    return [(at // size + 1, data[at : at + size], at) for at in range(0, len(data), size)]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_what_is_where_it_was_expected_is_read_without_the_store(upload: Upload, order: tuple[int, ...]) -> None:
    parts = cut(DATA, PART)
    for number in order:
        upload.send(*parts[number - 1])
    assert upload.world.present() == 0, "nobody reads it before it is a file"
    assert upload.finish() == (DATA, 0)


def test_a_last_part_of_which_nobody_knew_where_it_lies_is_warm_too(upload: Upload) -> None:
    one, two, last = cut(DATA, PART)
    upload.send(3, last[1], -1)
    upload.send(*one)
    upload.send(*two)
    assert upload.finish() == (DATA, 0)


@pytest.mark.parametrize("size", [PART + 1, PART + MIB // 2])
def test_parts_that_end_within_pages_are_joined_right(upload: Upload, size: int) -> None:
    for part in cut(DATA, size):
        upload.send(*part)
    data, gets = upload.finish()
    assert data == DATA
    assert gets < 3, "the pages that two parts share"


def test_a_part_that_was_expected_elsewhere_is_read_from_the_store(upload: Upload) -> None:
    one, two, last = cut(DATA, PART)
    upload.send(1, one[1], PART)
    upload.send(*two)
    upload.send(3, last[1], 7 * MIB)
    data, gets = upload.finish()
    assert data == DATA
    assert gets > 0


def test_a_part_that_came_again_is_the_second(upload: Upload) -> None:
    one, two, last = cut(DATA, PART)
    other = make_bytes(9, PART)
    upload.send(1, other, 0)
    upload.send(*one)
    upload.send(*two)
    upload.send(3, other[: len(last[1])], last[2])
    upload.send(*last)
    assert upload.finish()[0] == DATA


def test_the_end_of_a_part_that_the_store_refused_is_no_part_of_the_file(upload: Upload) -> None:
    for part in cut(DATA, PART):
        upload.send(*part)
    upload.proxy.add(Fault("put", b"file", query="partNumber=3", status=403, code="AccessDenied", times=1))
    with pytest.raises(UfsDenied):
        upload.send(3, make_bytes(9, len(DATA) - 2 * PART), 2 * PART)
    assert upload.finish()[0] == DATA


def test_parts_that_are_not_named_are_no_part_of_the_file(upload: Upload) -> None:
    parts = [(1, DATA[:PART], 0), (2, DATA[PART:][:PART], PART), (3, DATA[-MIB:], 2 * PART)]
    for part in parts:
        upload.send(*part)
    upload.send(3, DATA[-1000:], 2 * PART)
    assert upload.finish()[0] == DATA[: 2 * PART] + DATA[-1000:]


def test_an_upload_that_ends_without_parts_holds_no_room(upload: Upload) -> None:
    for part in cut(DATA, PART):
        upload.send(*part)
    used = upload.world.run(lambda: upload.world.cache.directories[0].used)
    assert used + upload.reserved() > 0
    upload.keep([])
    assert upload.reserved() == 0
    assert upload.world.run(lambda: upload.world.cache.directories[0].used) == 0
    assert upload.world.present() == 0


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parting, "HELD_BYTES", MIB)
    monkeypatch.setattr(parting, "PIECE_BYTES", 2 * MIB)


@pytest.mark.usefixtures("streamed")
def test_a_large_part_is_sent_while_it_comes(upload: Upload) -> None:
    for part in cut(DATA, PART):
        upload.send(*part)
    assert upload.finish() == (DATA, 0)


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("sent", [MIB, 4 * MIB])
def test_a_large_part_whose_sender_goes_away_is_none(upload: Upload, sent: int) -> None:
    for _ in range(20):  # more often than there are threads
        token = upload.token(1, PART, 0)
        upload.world.write(token, DATA[:sent], last=False)
        upload.world.tcp.call(Method.ABORT_WRITE, AbortWriteRequest(token), Empty, PATIENCE_S)
    assert list(upload.bucket.uploads().values()) == [0]
    for part in cut(DATA, PART):
        upload.send(*part)
    assert upload.finish()[0] == DATA


@pytest.mark.usefixtures("streamed")
def test_a_large_part_that_the_store_refuses_can_be_sent_again(upload: Upload) -> None:
    upload.proxy.add(Fault("put", b"file", query="partNumber=", status=403, code="AccessDenied", times=1))
    one, two, last = cut(DATA, PART)
    with pytest.raises(UfsDenied):
        upload.send(*one)
    for part in (one, two, last):
        upload.send(*part)
    assert upload.finish()[0] == DATA


@pytest.mark.usefixtures("streamed")
def test_large_parts_of_which_nothing_comes_are_given_up_and_hold_up_no_other(
    upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parting, "STALLED_S", 0.05)
    tokens = [upload.token(1, PART, 0) for _ in range(20)]  # more than there are threads
    for token in tokens:
        upload.world.write(token, DATA[:1000], last=False)
    wait_until(lambda: not upload.world.run(lambda: upload.world.worker._writers._open), "parts are open")
    for token in tokens:
        with pytest.raises(WriteLost, match="no bytes of the part came"):
            upload.world.write(token, DATA[1000:2000], begin=1000, last=False)
    monkeypatch.setattr(parting, "STALLED_S", 60.0)
    for part in cut(DATA, PART):
        upload.send(*part)
    assert upload.finish()[0] == DATA


@pytest.mark.usefixtures("streamed")
def test_a_large_part_reaches_its_store_piece_by_piece(make_world: Callable[..., World], tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    world = make_world(opens_real_stores=True)
    world.master.mounts, world.master.mounts_index = [MountGrant(1, f"file://{lake}", {}, 2)], 2
    world.on_beat()
    store = open_ufs(f"file://{lake}", {}, timeout_s=30.0)
    token = Upload(world, None, store, None).token(1, PART, 0)  # type: ignore[arg-type]
    for at in (0, 1000):
        world.write(token, DATA[at : at + 1000], begin=at, last=False)
        wait_until(
            lambda end=at + 1000: [each.stat().st_size for each in lake.iterdir()] == [end], "the store has not all"
        )
    world.write(token, DATA[2000:PART], begin=2000)
    assert [each.read_bytes() for each in lake.iterdir()] == [DATA[:PART]]
    store.close()


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("is_late", [True, False])
def test_a_store_that_gives_up_a_part_that_came_late_does_not_count_as_down(
    upload: Upload, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    monkeypatch.setattr(parting, "LATE_S", -1.0 if is_late else 600.0)
    upload.proxy.add(Fault("put", b"file", query="partNumber=", status=500, code="InternalError", times=1))
    with pytest.raises(WriteLost if is_late else UfsFailed):
        upload.send(*cut(DATA, PART)[0])
    writing = upload.world.run(lambda: upload.world.worker._stores.find(1).writing)
    assert writing._count == (0 if is_late else 1)


def test_a_part_that_the_store_throttles_is_sent_again_by_the_worker(upload: Upload) -> None:
    upload.proxy.add(Fault("put", b"file", query="partNumber=", status=503, times=3))
    for part in cut(DATA, PART):
        upload.send(*part)
    assert upload.finish() == (DATA, 0)


def test_a_full_cache_costs_warmth_only(make_world: Callable[..., World], bucket: Bucket) -> None:
    with StoreProxy(bucket.endpoint) as proxy:
        bucket.endpoint = proxy.endpoint
        world = make_world(opens_real_stores=True, quota=8 * MIB)
        world.master.mounts = [MountGrant(1, bucket.uri, bucket.options, 2)]
        world.master.mounts_index = 2
        world.on_beat()
        store = open_ufs(bucket.uri, bucket.options, timeout_s=30.0)
        upload = Upload(world, bucket, store, proxy)
        for part in cut(DATA, PART):
            upload.send(*part)
        assert upload.finish()[0] == DATA
        store.close()


def test_a_part_of_another_size_than_was_said_is_refused(upload: Upload) -> None:
    with pytest.raises(MonofsError, match="announced with"):
        upload.world.write(upload.token(1, 10, 0), DATA[:11])
    with pytest.raises(MonofsError, match="announced with"):
        upload.world.write(upload.token(1, 10, 0), DATA[:9])
    assert list(upload.bucket.uploads().values()) == [0]
