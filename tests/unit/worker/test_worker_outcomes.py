"""What a worker makes of a store that does not tell how a write ended: a real S3 server behind a proxy that breaks answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import pytest
from worker_world import MIB, PATIENCE_S, World, make_bytes

from monofs.model.attributes import Attributes
from monofs.model.errors import MonofsError, UfsChanged, UfsFailed, UfsPaused, UfsUnknown
from monofs.rpc.api import HeartbeatRequest, Method, MountGrant, WriteAnswer, WriteRequest
from monofs.testing.buckets import Bucket
from monofs.testing.storeproxy import Fault, StoreProxy
from monofs.worker import stores, uploading

BIG = make_bytes(7, 20 * MIB)


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[StoreProxy]:
    with StoreProxy(bucket.endpoint) as proxy:
        bucket.endpoint = proxy.endpoint
        yield proxy


@pytest.fixture
def writer(
    make_world: Callable[..., World], bucket: Bucket, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> World:
    """A worker whose mount 1 is a bucket behind the proxy; it does not pause long between tries."""
    monkeypatch.setattr(uploading, "BACK_OFF_MOST_S", 0.05)
    world = make_world(opens_real_stores=True)
    world.master.mounts = [MountGrant(1, bucket.uri, bucket.options, 2)]
    world.master.mounts_index = 2
    world.on_beat()
    return world


def uploads(bucket: Bucket) -> list[str]:
    """Uploads nobody completed or aborted."""
    return list(bucket.uploads())


def one_put(writer: World) -> bytes:
    writer.write(writer.write_capability(1, 5000), BIG[:5000])
    return BIG[:5000]


def parts(writer: World) -> bytes:
    writer.write(writer.write_capability(1, -1), BIG)
    return BIG


Write = Callable[[World], bytes]
ACTS = [(one_put, Fault("put", b"file")), (parts, Fault("post", b"file", query="uploadId="))]


@pytest.fixture(params=ACTS, ids=["put", "complete"])
def act(request: pytest.FixtureRequest) -> tuple[Write, Fault]:
    write, fault = request.param
    return write, Fault(fault.kind, fault.key, fault.query)


def test_a_file_is_written_to_a_bucket(writer: World, bucket: Bucket, act: tuple[Write, Fault]) -> None:
    data = act[0](writer)
    assert bucket.get("file") == data
    assert not uploads(bucket)
    end = writer.master.ended[0]
    assert writer.read(writer.capability(1, len(data), "file", end.fingerprint), 0, len(data)) == data


@pytest.mark.parametrize("size", [5000, 20 * MIB])
@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=é"])
def test_what_is_kept_with_a_file_reaches_the_store_with_it_and_the_master_at_its_end(
    writer: World, bucket: Bucket, size: int, kind: str
) -> None:
    said = Attributes({"content-type": kind, "expires": "0"}, {"who": "ann", "content-type": "mine"}, {"k": "a&b"})
    capability = writer.write_capability(1, -1)
    last = msgspec.structs.replace(said, checksums={"crc32": "AAAAAA=="})
    for offset in range(0, size, MIB):
        data = memoryview(BIG)[offset : min(offset + MIB, size)]
        is_last = offset + len(data) == size
        attributes = (last if is_last else said) if is_last or not offset else None
        request = WriteRequest(capability, offset, data, is_last, attributes, "0cc1" if is_last else "")
        writer.tcp.call(Method.WRITE, request, WriteAnswer, PATIENCE_S)
    shown = bucket._client.head_object(Bucket=bucket.name, Key="file")
    assert shown["Metadata"].items() >= {"who": "ann", "content-type": "mine"}.items()
    assert shown["ContentType"].encode("latin-1").decode() == kind
    if size < MIB:  # this server takes no tags with uploads
        tags = bucket._client.get_object_tagging(Bucket=bucket.name, Key="file")["TagSet"]
        assert tags == [{"Key": "k", "Value": "a&b"}]
    end = writer.master.ended[0]
    assert (end.attributes, end.etag) == (last, "0cc1")


def test_an_act_whose_answer_is_lost_is_found_done(
    writer: World, bucket: Bucket, proxy: StoreProxy, act: tuple[Write, Fault]
) -> None:
    write, fault = act
    fault.cut, fault.after_bytes, fault.times = "close", -1, 1
    proxy.add(fault)
    data = write(writer)
    assert fault.used == 1
    assert bucket.get("file") == data
    assert (len(writer.master.ended), writer.master.abandoned, uploads(bucket)) == (1, [], [])


def test_an_act_that_fails_is_tried_again(
    writer: World, bucket: Bucket, proxy: StoreProxy, act: tuple[Write, Fault]
) -> None:
    write, fault = act
    fault.status, fault.code, fault.times = 500, "InternalError", 2
    proxy.add(fault)
    data = write(writer)
    assert bucket.get("file") == data
    assert len(writer.master.ended) == 1


def test_an_act_that_keeps_failing_is_abandoned_and_leaves_nothing(
    writer: World, bucket: Bucket, proxy: StoreProxy, act: tuple[Write, Fault]
) -> None:
    write, fault = act
    fault.status, fault.code = 503, "SlowDown"
    proxy.add(fault)
    with pytest.raises(MonofsError):
        write(writer)
    proxy.clear()
    assert [one.unknown for one in writer.master.abandoned] == [False]
    assert (bucket.keys(), uploads(bucket), writer.master.ended) == ([], [], [])
    assert writer.present(1) == 0


def test_an_act_nobody_can_tell_of_is_left_to_the_master(
    writer: World, bucket: Bucket, proxy: StoreProxy, act: tuple[Write, Fault]
) -> None:
    write, fault = act
    fault.cut, fault.after_bytes = "close", -1
    proxy.add(fault)
    proxy.add(Fault("head", cut="close", early=True, after_bytes=-1))
    with pytest.raises(UfsUnknown, match="did not tell"):
        write(writer)
    assert [one.unknown for one in writer.master.abandoned] == [True]
    assert bucket.keys() == ["file"], "it was done, and the master will see that"
    assert writer.present(1) == 0


def test_an_object_from_outside_is_not_overwritten(writer: World, bucket: Bucket, act: tuple[Write, Fault]) -> None:
    bucket.put("file", b"theirs")
    with pytest.raises(UfsChanged):
        act[0](writer)
    assert bucket.get("file") == b"theirs"
    assert [one.unknown for one in writer.master.abandoned] == [False]
    assert not uploads(bucket)


def test_an_object_from_outside_between_the_act_and_its_outcome_wins(
    writer: World, bucket: Bucket, proxy: StoreProxy, act: tuple[Write, Fault]
) -> None:
    """The answer is lost, and before the store is asked somebody else has written: our act was done, and undone."""
    write, fault = act
    fault.cut, fault.after_bytes, fault.times = "close", -1, 1
    fault.call = partial(bucket.put, "file", b"theirs")  # type: ignore[assignment]
    proxy.add(fault)
    with pytest.raises(UfsChanged):
        write(writer)
    assert bucket.get("file") == b"theirs"
    assert [one.unknown for one in writer.master.abandoned] == [False]
    assert not uploads(bucket)


def test_parts_are_sent_again_until_the_store_has_them(writer: World, bucket: Bucket, proxy: StoreProxy) -> None:
    proxy.add(Fault("put", b"file", query="partNumber=", status=503, times=3))
    proxy.add(Fault("post", b"file", query="uploads", status=500, code="InternalError", times=1))
    parts(writer)
    assert bucket.get("file") == BIG
    assert len(writer.master.uploads) == 1


def test_a_part_the_store_refuses_ends_the_write_and_its_upload(
    writer: World, bucket: Bucket, proxy: StoreProxy
) -> None:
    proxy.add(Fault("put", b"file", query="partNumber=", status=403, code="AccessDenied"))
    with pytest.raises(MonofsError):
        parts(writer)
    assert [one.unknown for one in writer.master.abandoned] == [False]
    assert not uploads(bucket)


def test_an_upload_that_cannot_be_aborted_is_left_to_the_master(
    writer: World, bucket: Bucket, proxy: StoreProxy
) -> None:
    proxy.add(Fault("put", b"file", query="partNumber=", status=403, code="AccessDenied"))
    proxy.add(Fault("delete", b"file", status=500, code="InternalError"))
    with pytest.raises(MonofsError):
        parts(writer)
    assert [one.unknown for one in writer.master.abandoned] == [False], "it knows the upload, and looks after it"
    assert len(uploads(bucket)) == 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three failures are enough, however fast they come, and the pause does not end by itself."""
    monkeypatch.setattr(stores, "FAILING_S", 0.0)
    monkeypatch.setattr(stores, "PAUSE_FIRST_S", 1000.0)
    monkeypatch.setattr(stores, "PAUSE_MOST_S", 1000.0)


def write_as(writer: World, operation: int, *, long: bool = False) -> None:
    writer.write(writer.write_capability(operation, -1 if long else 5000), BIG if long else BIG[:5000])


def break_it(writer: World, proxy: StoreProxy) -> Fault:
    """The store answers no PUT any more, and that is known."""
    fault = Fault("put", status=500, code="InternalError")
    proxy.add(fault)
    with pytest.raises(UfsFailed):
        write_as(writer, 1)
    return fault


def test_a_store_that_cannot_be_written_is_not_tried_by_every_write_and_is_read_as_ever(
    quick: None, writer: World, bucket: Bucket, proxy: StoreProxy
) -> None:
    etag = bucket.put("there", BIG[:5000])
    fault = break_it(writer, proxy)
    used = fault.used
    for operation in range(2, 12):
        with pytest.raises(UfsPaused, match=r"when written to.*it said last") as told:
            write_as(writer, operation, long=operation % 2 == 0)
        assert told.value.detail["again_s"] > 900
    assert fault.used == used
    assert [one.unknown for one in writer.master.abandoned] == [False] * 11, "each is known not to be done"
    assert not uploads(bucket)
    assert writer.read(writer.capability(99, 5000, "there", f"e:{etag}"), 0, 5000) == BIG[:5000]
    writer.on_beat()
    beat = next(each for each in reversed(writer.master.requests) if isinstance(each, HeartbeatRequest))
    assert "when written to" in beat.troubles[1]


def test_one_write_tries_when_the_pause_is_over_and_a_success_ends_it(
    quick: None, writer: World, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(writer, proxy)
    proxy.clear()
    with pytest.raises(UfsPaused):
        write_as(writer, 2)
    breaker = writer.worker._stores.find(1).writing
    writer.run(lambda: setattr(breaker, "_until_s", 0.0))
    write_as(writer, 3)
    assert writer.worker._stores.troubles() == {}
    writer.master.replaced = writer.master.ended[-1].fingerprint
    write_as(writer, 4, long=True)
