"""Uploads in parts below a mount of a store: journaled before their first part, completed, refused, aborted, resumed and swept."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from acts import PATIENT, Silence
from lakes import ended, rename
from master_house import House
from scribe import Scribe, inode_of

from monofs.config.schema import Config, MasterConfig, SecurityConfig
from monofs.metadata.entries import Stamp
from monofs.metadata.intent_entries import Asker, BeginWrite
from monofs.metadata.tables import UPLOADS_LEVEL, decode_intent
from monofs.model.attributes import Attributes
from monofs.model.errors import (
    AlreadyExists,
    Busy,
    ConditionFailed,
    ConnectionLost,
    InvalidArgument,
    MonofsError,
    MountPoint,
    NoWorker,
    PermissionDenied,
    UfsFailed,
    UfsNotFound,
    UfsUnknown,
    WouldLose,
    WriteLost,
)
from monofs.model.principal import NODE, Principal
from monofs.rpc import api
from monofs.rpc.api import Method, UploadedPart
from monofs.rpc.direct import DirectClient
from monofs.testing.buckets import Bucket
from monofs.testing.ceph import Ceph
from monofs.testing.storeproxy import Fault, StoreProxy

BIG = b"0123456789abcdef" * (5 << 16)
HOUR_NS = 3600 * 10**9
WEEK_NS = 7 * 24 * HOUR_NS
SAID = Attributes({"content-type": "text/plain"}, {"color": "blue"})
pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def house(make_house: Callable[..., House], bucket: Bucket) -> House:
    made = make_house(PATIENT)
    made.ask(Method.MOUNT_ADD, api.MountAddRequest("/lake", bucket.uri, bucket.options))
    return made


@pytest.fixture
def scribe(house: House) -> Scribe:
    return Scribe(house)


@pytest.fixture
def proxied(make_house: Callable[..., House], bucket: Bucket, ceph: Ceph) -> Iterator[tuple[House, StoreProxy]]:
    """A master that reaches its store through a proxy, and the proxy."""
    house = make_house(PATIENT)
    with StoreProxy(ceph.endpoint) as proxy:
        options = {**bucket.options, "endpoint": proxy.endpoint}
        house.ask(Method.MOUNT_ADD, api.MountAddRequest("/lake", bucket.uri, options))
        yield house, proxy


def begin(house: House, path: str = "/lake/f") -> int:
    return int(house.ask(Method.BEGIN_UPLOAD, api.BeginUploadRequest(path, SAID)).operation)


def send(scribe: Scribe, operation: int, number: int, data: bytes) -> UploadedPart:
    """A part, by whoever the master names."""
    opened = scribe.opened(scribe.house.ask(Method.OPEN_PART, api.OpenPartRequest(operation, number, len(data))))
    store = scribe.store(opened.mount)
    told = store.put_part(opened.key.encode(), opened.upload, opened.part, 0, [memoryview(data)])
    store.close()
    return UploadedPart(number, len(data), told.partition(":")[2])


def complete(house: House, operation: int, *parts: UploadedPart, **how: object) -> api.InodeAnswer:
    kept = Attributes(SAID.headers, SAID.user, checksums={"crc32": "AAAA"}, parts=[(1, len(parts), 4)])
    return house.ask(Method.COMPLETE_UPLOAD, api.CompleteUploadRequest(operation, [*parts], kept, **how))


def is_open(house: House) -> bool:
    return bool(house.ask(Method.INTENT_LIST, api.Empty()).intents)


def uploads(bucket: Bucket) -> list[str]:
    return sorted(name.partition(" ")[0] for name in bucket.uploads())


def etag_of(*parts: bytes) -> str:
    return f"{hashlib.md5(b''.join(hashlib.md5(part).digest() for part in parts)).hexdigest()}-{len(parts)}"


def test_an_upload_is_one_of_the_store_whose_id_is_journaled_before_a_part_is_let_in(
    house: House, bucket: Bucket, scribe: Scribe
) -> None:
    operation = begin(house)
    (intent,) = house.ask(Method.INTENT_LIST, api.Empty()).intents
    assert (intent.number, intent.kind, intent.path, intent.state) == (operation, "upload", "/lake/f", "its parts come")
    assert uploads(bucket) == ["f"]
    opened = scribe.opened(house.ask(Method.OPEN_PART, api.OpenPartRequest(operation, 1, 4)))
    assert opened.upload == intent.upload != ""
    two, one = send(scribe, operation, 2, b"tail"), send(scribe, operation, 1, BIG)
    assert house.list("/lake") == []
    made = inode_of(complete(house, operation, one, two))
    assert (made.size, made.fingerprint) == (len(BIG) + 4, f"e:{etag_of(BIG, b'tail')}")
    assert house.list("/lake") == ["f"]
    assert (bucket.get("f"), bucket.uploads()) == (BIG + b"tail", {})
    assert not is_open(house)


def test_where_no_store_takes_parts_they_are_files(house: House, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    house.mount("/files", tmp_path / "files")
    assert begin(house, "/files/f") == begin(house, "/plain/f") == 0
    house.ask(Method.POLICY_SET, api.PolicySetRequest(api.PolicyInfo("/lake/kept", write_type="MUST_CACHE")))
    assert begin(house, "/lake/kept/f") == 0
    house.namespace.store.meta.level = UPLOADS_LEVEL - 1
    assert begin(house) == 0
    assert not is_open(house)


def test_a_worker_of_an_older_release_is_given_no_part(house: House, scribe: Scribe) -> None:
    operation = begin(house)
    offsets = range(1, 200)
    older = Scribe(house, life=0)

    def given() -> set[int]:
        asked = (api.OpenPartRequest(operation, number, len(BIG)) for number in offsets)
        return {house.ask(Method.OPEN_PART, each).worker for each in asked}

    assert given() == {scribe.number}
    assert begin(house) == 0, "parts are files until it is of this release"
    older.life = 2
    older.register()
    assert begin(house) != 0


def test_what_is_kept_with_the_file_is_in_the_store_and_here(house: House, bucket: Bucket, scribe: Scribe) -> None:
    operation = begin(house)
    complete(house, operation, send(scribe, operation, 1, b"tail"))
    store = scribe.store(1)
    told = store.headers(b"f")[1]
    store.close()
    assert (told["content-type"], told["x-amz-meta-color"]) == ("text/plain", "blue")
    kept = house.ask(Method.STAT, api.StatRequest("/lake/f", attributes=True)).attributes
    assert b"crc32" in bytes(kept)


def test_refused_by_a_condition_it_goes_on(house: House, bucket: Bucket, scribe: Scribe) -> None:
    operation = begin(house)
    part = send(scribe, operation, 1, b"mine")
    there = scribe.write("/lake/f", b"there")
    with pytest.raises(AlreadyExists):
        complete(house, operation, part, exclusive=True)
    with pytest.raises(ConditionFailed):
        complete(house, operation, part, if_content=int(there.content) + 1)
    assert house.stat("/lake/f") == there
    complete(house, operation, part, if_content=int(there.content))
    assert bucket.get("f") == b"mine"
    assert not is_open(house)


def test_it_replaces_no_file_that_its_client_may_not_write(make_house: Callable[..., House], bucket: Bucket) -> None:
    house = make_house(Config(security=SecurityConfig(permissions=True)))
    house.ask(Method.MOUNT_ADD, api.MountAddRequest("/lake", bucket.uri, bucket.options))
    scribe, ada = Scribe(house), Principal("ada", uid=1000)
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/lake/d", 0o777))
    begun = house.ask(Method.BEGIN_UPLOAD, api.BeginUploadRequest("/lake/d/f", SAID), ada).operation
    part = send(scribe, begun, 1, b"mine")
    scribe.write("/lake/d/f", b"theirs")
    with pytest.raises(PermissionDenied):
        house.ask(Method.BEGIN_UPLOAD, api.BeginUploadRequest("/lake/d/f", SAID), ada)
    with pytest.raises(PermissionDenied):
        house.ask(Method.COMPLETE_UPLOAD, api.CompleteUploadRequest(begun, [part], SAID), ada)
    scribe.write("/lake/d/source", b"source")
    with pytest.raises(PermissionDenied):
        house.ask(Method.COPY, api.CopyRequest("/lake/d/source", "/lake/d/f"), ada)
    assert bucket.get("d/f") == b"theirs"


def test_refused_by_the_store_it_goes_on_and_its_path_is_free(house: House, bucket: Bucket, scribe: Scribe) -> None:
    operation = begin(house)
    small, last = send(scribe, operation, 1, b"small"), send(scribe, operation, 2, b"last")
    with pytest.raises(UfsFailed) as refused:
        complete(house, operation, small, last)
    assert refused.value.detail["store_code"] == "EntityTooSmall"
    scribe.write("/lake/f", b"somebody else's")
    one = send(scribe, operation, 1, BIG)
    complete(house, operation, one, last)
    assert bucket.get("f") == BIG + b"last"


def test_what_came_to_the_store_meanwhile_is_replaced_unless_a_condition_says_no(
    house: House, bucket: Bucket, scribe: Scribe
) -> None:
    house.list("/lake")
    plain, exclusive = begin(house), begin(house, "/lake/g")
    bucket.put("f", b"from outside")
    bucket.put("g", b"from outside")
    complete(house, plain, send(scribe, plain, 1, b"mine"))
    assert bucket.get("f") == b"mine"
    part = send(scribe, exclusive, 1, b"mine")
    with pytest.raises(AlreadyExists):
        complete(house, exclusive, part, exclusive=True)
    assert house.stat("/lake/g").size == len(b"from outside")


def test_an_upload_that_was_aborted_is_gone_from_the_store(house: House, bucket: Bucket, scribe: Scribe) -> None:
    operation = begin(house)
    part = send(scribe, operation, 1, b"x")
    for _ in range(2):
        house.begin(Method.ABORT_UPLOAD, api.AbortUploadRequest(operation))
        house.resolve()
    assert bucket.uploads() == {}
    assert not is_open(house)
    with pytest.raises(WriteLost):
        send(scribe, operation, 2, b"x")
    with pytest.raises(WriteLost):
        complete(house, operation, part)


def test_one_that_its_store_has_forgotten_is_forgotten_here(proxied: tuple[House, StoreProxy], bucket: Bucket) -> None:
    house, proxy = proxied
    scribe = Scribe(house)
    operation = begin(house)
    part = send(scribe, operation, 1, b"x")
    proxy.add(Fault("post", query="uploadId=", status=404, code="NoSuchUpload"))
    with pytest.raises(WriteLost):
        complete(house, operation, part)
    assert not is_open(house)
    assert bucket.uploads() == {}, "in case it was not the store that said so"


def test_one_that_only_a_proxy_does_not_find_goes_on(proxied: tuple[House, StoreProxy], bucket: Bucket) -> None:
    house, proxy = proxied
    scribe = Scribe(house)
    operation = begin(house)
    part = send(scribe, operation, 1, b"x")
    proxy.add(Fault("post", query="uploadId=", times=1, status=404, body=b"not here"))
    with pytest.raises(UfsNotFound):
        complete(house, operation, part)
    complete(house, operation, part)
    assert bucket.get("f") == b"x"


def test_open_uploads_outlive_a_restart(house: House, bucket: Bucket, scribe: Scribe) -> None:
    operation = begin(house)
    one = send(scribe, operation, 1, BIG)
    house.restart()
    scribe.register()
    house.resolve()
    complete(house, operation, one, send(scribe, operation, 2, b"tail"))
    assert bucket.get("f") == BIG + b"tail"


def test_one_of_which_no_id_is_journaled_ends_with_a_restart(house: House) -> None:
    through, asker = "CACHE_THROUGH", Asker()
    change = BeginWrite(
        Stamp(1), "/lake/f", 0o644, True, False, None, -1, through, 0, asker, SAID, as_key=True, upload=True
    )
    begun = decode_intent(house.loop.do(house.master._proposer.propose, change))
    with pytest.raises(WriteLost):
        house.ask(Method.OPEN_PART, api.OpenPartRequest(begun.number, 1, 1))
    house.restart()
    house.resolve()
    assert not is_open(house)


@pytest.mark.parametrize("restart", [False, True], ids=["in place", "after a restart"])
@pytest.mark.parametrize("acts", [True, False], ids=["done", "not done"])
def test_a_completion_with_an_unknown_end_was_one_or_the_upload_goes_on(
    house: House, bucket: Bucket, scribe: Scribe, acts: bool, restart: bool
) -> None:
    operation = begin(house)
    part = send(scribe, operation, 1, b"whole")
    house.list("/lake")
    silence = Silence(house, acts=acts, names=("complete_upload",))
    with pytest.raises(UfsUnknown):
        complete(house, operation, part)
    silence.end(restart=restart)
    scribe.register()
    assert is_open(house) != acts
    if not acts:
        assert house.list("/lake", 0) == []
        complete(house, operation, part)
    assert (bucket.get("f"), bucket.uploads()) == (b"whole", {})
    assert house.stat("/lake/f").size == 5
    kept = house.ask(Method.STAT, api.StatRequest("/lake/f", attributes=True)).attributes
    assert b"crc32" in bytes(kept), "what was journaled with the act"


def test_one_that_goes_on_is_aborted_while_what_its_store_shows_is_adopted(
    house: House, bucket: Bucket, scribe: Scribe
) -> None:
    operation = begin(house)
    part = send(scribe, operation, 1, b"x")
    house.list("/lake")
    silence = Silence(house, acts=False, names=("complete_upload",))
    with pytest.raises(UfsUnknown):
        complete(house, operation, part)
    silence.ended = True
    adopting = house.hold("head")
    for _ in range(3000):
        house.loop.do(house._try_again)
        if adopting._there.wait(0.02):
            break
    adopting.wait_until_there()
    house.begin(Method.ABORT_UPLOAD, api.AbortUploadRequest(operation))()
    assert not is_open(house)
    adopting.release()
    assert bucket.uploads() == {}


def test_one_that_nobody_ends_goes_after_a_week(house: House, bucket: Bucket, scribe: Scribe) -> None:
    old = begin(house)
    send(scribe, old, 1, b"x")
    house.later_ns = WEEK_NS - HOUR_NS
    young = begin(house, "/lake/g")
    house.loop.do(house.master._resolver.look_around)
    house.settle()
    assert uploads(bucket) == ["f", "g"]
    house.later_ns += 2 * HOUR_NS
    house.loop.do(house.master._resolver.look_around)
    house.resolve()
    assert uploads(bucket) == ["g"]
    assert [each.number for each in house.ask(Method.INTENT_LIST, api.Empty()).intents] == [young]


def steps(call: Callable[[], object]) -> int:
    """Lines of Python that a call runs."""
    count = 0

    def trace(*_: object) -> Callable[..., object]:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def test_what_every_heartbeat_looks_through_does_not_grow_with_open_uploads(house: House, scribe: Scribe) -> None:
    write = scribe.begin("/lake/w", 4)
    resolver = house.master._resolver

    def looks() -> list[int]:
        calls = (resolver.look_around, lambda: resolver.heartbeat(scribe.number, [write.operation]))
        return [house.loop.do(steps, call) for call in calls]

    begin(house, "/lake/first")
    few = looks()
    for number in range(50):
        begin(house, f"/lake/u{number}")
    assert looks() == few
    house.later_ns = HOUR_NS
    scribe.heartbeat([])
    house.settle()
    assert all(each.kind == "upload" for each in house.ask(Method.INTENT_LIST, api.Empty()).intents)


def test_a_mount_with_open_uploads_is_removed_with_them_when_that_is_said(
    house: House, bucket: Bucket, scribe: Scribe
) -> None:
    operations = [begin(house, f"/lake/f{number}") for number in range(7)]
    send(scribe, operations[0], 1, b"x")
    with pytest.raises(
        WouldLose, match=r"7 uploads in parts below /lake are not complete: /lake/f0, .*/lake/f4, …: .*--discard"
    ):
        house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))
    assert len(bucket.uploads()) == 7
    gone = house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake", discard=True))
    assert gone.given_up == [f"/lake/f{number}, which was being uploaded in parts" for number in range(7)]
    assert bucket.uploads() == {}
    assert not is_open(house)
    with pytest.raises(WriteLost):
        send(scribe, operations[0], 2, b"x")


@pytest.fixture
def impatient(make_house: Callable[..., House], bucket: Bucket) -> House:
    """Who unmounts waits but a moment for the store to forget uploads."""
    made = make_house(Config(master=MasterConfig(busy_wait_s=0.05)))
    made.ask(Method.MOUNT_ADD, api.MountAddRequest("/lake", bucket.uri, bucket.options))
    return made


def paths(house: House) -> list[str]:
    return [each.path for each in house.ask(Method.MOUNT_LIST, api.Empty()).mounts]


def test_a_removal_does_not_wait_for_a_store_that_does_not_forget_an_upload(impatient: House, bucket: Bucket) -> None:
    operation = begin(impatient)
    silence = Silence(impatient, acts=False, names=("abort_upload",))
    for words in ("1 of 1 uploads in parts below /lake are not aborted in s3://", "/lake/f is being changed in s3://"):
        with pytest.raises(Busy, match=f"{words}.*noAccess"):
            impatient.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake", discard=True))
        assert is_open(impatient)
    with pytest.raises(Busy):
        complete(impatient, operation, UploadedPart(1, 1, "x"))
    silence.end(restart=False)
    assert not is_open(impatient)
    assert bucket.uploads() == {}
    impatient.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/later"))
    assert paths(impatient) == ["/lake"]
    impatient.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))
    assert paths(impatient) == []


def test_a_mount_whose_store_does_not_forget_an_upload_goes_without_it(impatient: House) -> None:
    begin(impatient)
    silence = Silence(impatient, acts=False, names=("abort_upload",))
    request = api.MountRemoveRequest("/lake", discard=True)
    with pytest.raises(Busy):
        impatient.ask(Method.MOUNT_REMOVE, request)
    impatient.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/lake", ufs_mode="noAccess"))
    (given_up,) = impatient.ask(Method.MOUNT_REMOVE, request).given_up
    assert given_up.startswith("/lake/f, which is being uploaded in parts")
    silence.end(restart=False)
    assert (paths(impatient), is_open(impatient)) == ([], False)


def test_whoever_waits_for_a_change_below_a_mount_hears_that_this_went_with_it(house: House, scribe: Scribe) -> None:
    operation = begin(house)
    scribe.begin("/lake/g", 1)
    Silence(house, acts=False, names=("abort_upload",))
    aborting = house.begin(Method.ABORT_UPLOAD, api.AbortUploadRequest(operation))
    making = house.begin(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/lake/g"))
    house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/lake", ufs_mode="noAccess"))
    house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake", discard=True))
    aborting()
    with pytest.raises(ConditionFailed, match="under no mount any more"):
        making()


def test_a_mount_stays_when_nobody_hears_any_more_that_it_went(house: House, bucket: Bucket) -> None:
    begin(house)
    client = DirectClient(house.service, NODE)
    held = house.hold("abort_upload")
    request = api.MountRemoveRequest("/lake", discard=True)
    removing = house.loop.begin(client.call, Method.MOUNT_REMOVE, request, api.MountRemoveAnswer)
    held.wait_until_there()
    house.loop.do(client.close)
    with pytest.raises(ConnectionLost):
        removing()
    held.release()
    house.settle()
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/later"))
    assert (paths(house), is_open(house), bucket.uploads()) == (["/lake"], False, {})


@pytest.mark.parametrize("why", ["mount", "write", "job"])
def test_uploads_stay_when_their_mount_cannot_go(
    house: House, bucket: Bucket, make_bucket: Callable[[], Bucket], scribe: Scribe, why: str
) -> None:
    begin(house)
    held, job = house.hold("copy"), 0
    error: type[MonofsError] = Busy
    if why == "mount":
        other = make_bucket()
        house.ask(Method.MOUNT_ADD, api.MountAddRequest("/lake/in", other.uri, other.options))
        error = MountPoint
    elif why == "write":
        scribe.begin("/lake/w", 4)
    else:
        bucket.put("old/g", b"1")
        house.stat("/lake/old")
        job = rename(house, "/lake/old", "/lake/new")
        held.wait_until_there()
    for discard in (True, False):
        with pytest.raises(error):
            house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake", discard=discard))
    held.release()
    if job:
        ended(house, job)
    assert uploads(bucket) == ["f"]
    assert is_open(house)


def test_uploads_of_other_mounts_and_ended_ones_are_not_in_the_way_of_a_removal(
    house: House, bucket: Bucket, make_bucket: Callable[[], Bucket], scribe: Scribe
) -> None:
    other = make_bucket()
    house.ask(Method.MOUNT_ADD, api.MountAddRequest("/other", other.uri, other.options))
    begin(house, "/other/f")
    done = begin(house)
    complete(house, done, send(scribe, done, 1, b"x"))
    house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))
    assert uploads(other) == ["f"]
    assert is_open(house)


def test_others_change_the_path_and_what_is_around_it_while_parts_come(house: House, scribe: Scribe) -> None:
    operation = begin(house, "/lake/d/f")
    part = send(scribe, operation, 1, b"x")
    scribe.write("/lake/d/f", b"first")
    house.ask(Method.DELETE, api.DeleteRequest("/lake/d/f"))
    complete(house, operation, part)
    assert house.stat("/lake/d/f").size == 1


@pytest.mark.parametrize("numbers", [[], [2, 1], [1, 1]])
def test_parts_are_named_in_order(house: House, numbers: list[int]) -> None:
    operation = begin(house)
    with pytest.raises(InvalidArgument):
        complete(house, operation, *(UploadedPart(number, 1, "x") for number in numbers))
    assert is_open(house)


def test_without_a_worker_no_part_is_taken(house: House) -> None:
    operation = begin(house)
    with pytest.raises(NoWorker):
        house.ask(Method.OPEN_PART, api.OpenPartRequest(operation, 1, 1))
    for number in (0, 10_001):
        with pytest.raises(MonofsError):
            house.ask(Method.OPEN_PART, api.OpenPartRequest(operation, number, 1))
