"""Writes as the master sees them: begun, published by their worker, ended, given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from master_house import House, write
from scribe import Asking, Scribe, inode_of

from monofs.config.schema import Config, MasterConfig
from monofs.model.capability import Rights
from monofs.model.errors import (
    AlreadyExists,
    Busy,
    ConditionFailed,
    InvalidArgument,
    IsADirectory,
    NotFound,
    NoWorker,
    PermissionDenied,
    ReadOnly,
    UfsChanged,
    UfsDenied,
    UfsNoAccess,
    UfsUnknown,
    UfsUnreachable,
    WriteLost,
)
from monofs.model.inode import Flag
from monofs.model.principal import Principal, Right
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.testing.masters import wait_until
from monofs.ufs.base import Condition

ADA = Principal("ada", uid=1000, groups=(100,), rights=Right.READ | Right.WRITE)
PATIENT = Config(master=MasterConfig(busy_wait_s=30.0))


@pytest.fixture
def house(make_house: Callable[..., House], data: Path) -> House:
    made = make_house(PATIENT)
    made.mount("/lake", data)
    return made


@pytest.fixture
def scribe(house: House) -> Scribe:
    return Scribe(house)


def intents(house: House) -> list[api.IntentInfo]:
    return house.ask(Method.INTENT_LIST, api.Empty()).intents


def test_a_file_is_in_the_tree_once_it_is_in_the_store(house: House, scribe: Scribe, data: Path) -> None:
    begun = scribe.begin("/lake/d/f", 5)
    held = scribe.opened(begun)
    assert (held.rights, held.key, held.fingerprint, held.size) == (Rights.WRITE, "d/f", "", 5)
    assert (begun.worker, begun.write_type) == (scribe.number, "CACHE_THROUGH")
    assert [(one.kind, one.path, one.worker) for one in intents(house)] == [("write", "/lake/d/f", scribe.number)]
    entry = scribe.put(begun, b"hello")
    with pytest.raises(NotFound):
        house.stat("/lake/d/f")
    inode = scribe.end(begun, entry, 5)
    assert (data / "d" / "f").read_bytes() == b"hello"
    assert (inode.size, inode.content, inode.fingerprint) == (5, held.content, entry.fingerprint)
    assert house.stat("/lake/d/f") == inode
    assert intents(house) == []


def test_what_was_written_opens_with_the_content_it_was_written_under(house: House, scribe: Scribe) -> None:
    inode = scribe.write("/lake/f", b"12345")
    opened = house.ask(Method.OPEN, api.OpenRequest("/lake/f"))
    assert inode_of(opened) == inode
    assert opened.workers == []


def test_an_overwrite_is_conditional_on_the_version_known(house: House, scribe: Scribe, data: Path) -> None:
    write(data / "f", b"old")
    known = house.stat("/lake/f")
    begun = scribe.begin("/lake/f", 3)
    held = scribe.opened(begun)
    assert held.fingerprint == known.fingerprint
    assert (held.replaced_content, held.replaced_size) == (known.content, 3)
    inode = scribe.end(begun, scribe.put(begun, b"new"), 3)
    assert inode.id == known.id
    assert inode.content != known.content


def test_a_file_changed_from_outside_is_adopted_and_written_at_the_second_try(
    house: House, scribe: Scribe, data: Path
) -> None:
    write(data / "f", b"old")
    house.stat("/lake/f")
    (data / "f").write_bytes(b"from outside")
    begun = scribe.begin("/lake/f", 3)
    with pytest.raises(UfsChanged) as refused:
        scribe.put(begun, b"new")
    told = scribe.abandon(begun, refused.value)
    assert told.code == UfsChanged.code
    assert house.stat("/lake/f").size == len(b"from outside")
    assert intents(house) == []
    scribe.write("/lake/f", b"new")
    assert (data / "f").read_bytes() == b"new"


def test_a_condition_of_the_writer_that_does_not_hold_in_the_store_is_told_as_such(
    house: House, scribe: Scribe, data: Path
) -> None:
    write(data / "f", b"old")
    known = house.stat("/lake/f")
    begun = scribe.begin("/lake/f", 3, if_match=known.fingerprint)
    (data / "f").write_bytes(b"from outside")
    with pytest.raises(UfsChanged) as refused:
        scribe.put(begun, b"new")
    assert scribe.abandon(begun, refused.value).code == ConditionFailed.code
    begun = scribe.begin("/lake/g", 3, exclusive=True)
    (data / "g").write_bytes(b"from outside")
    with pytest.raises(UfsChanged) as refused:
        scribe.put(begun, b"new")
    assert scribe.abandon(begun, refused.value).code == AlreadyExists.code


def test_conditions_are_decided_with_fresh_knowledge(house: House, scribe: Scribe, data: Path) -> None:
    write(data / "f", b"old")
    known = house.stat("/lake/f")
    with pytest.raises(AlreadyExists):
        scribe.begin("/lake/f", 3, exclusive=True)
    with pytest.raises(ConditionFailed):
        scribe.begin("/lake/f", 3, if_match="another")
    (data / "f").unlink()
    house.now_s += 3600
    begun = scribe.begin("/lake/f", 3, exclusive=True)
    scribe.abandon(begun, UfsDenied("no"))
    with pytest.raises(ConditionFailed):
        scribe.begin("/lake/f", 3, if_match=known.fingerprint)


def test_a_thousand_new_files_in_one_directory_cost_a_few_looks(house: House, scribe: Scribe, data: Path) -> None:
    (data / "d").mkdir()
    house.asked()
    for number in range(100):
        scribe.write(f"/lake/d/f{number}", b"")
    assert len(house.asked()) <= 10
    house.now_s += 30
    house.list("/lake/d")
    house.asked()
    scribe.write("/lake/d/new", b"")
    assert house.asked() == []


def test_a_directory_or_the_root_is_not_written(house: House, scribe: Scribe, data: Path) -> None:
    (data / "d").mkdir()
    for path in ("/", "/lake", "/lake/d"):
        with pytest.raises(IsADirectory):
            scribe.begin(path, 1)
        with pytest.raises(IsADirectory):
            house.ask(Method.MAY_WRITE, api.MayWriteRequest(path))


def test_may_write_tells_what_beginning_would_and_journals_nothing(house: House, scribe: Scribe, data: Path) -> None:
    write(data / "f", b"1")
    planning = house.master._duties._planning
    wait_until(lambda: house.namespace.slots.epoch > 0 and not planning._is_planning, "no slots are assigned")
    before = house.namespace.applied_index
    assert house.ask(Method.MAY_WRITE, api.MayWriteRequest("/lake/g")) == api.Empty()
    assert house.namespace.applied_index == before
    with pytest.raises(AlreadyExists):
        house.ask(Method.MAY_WRITE, api.MayWriteRequest("/lake/f", exclusive=True))
    with pytest.raises(NotFound):
        house.ask(Method.MAY_WRITE, api.MayWriteRequest("/lake/no/such", parents=False))


def test_without_a_worker_nothing_is_begun(house: House) -> None:
    with pytest.raises(NoWorker):
        house.ask(Method.BEGIN_WRITE, api.BeginWriteRequest("/lake/f", size=1))
    assert intents(house) == []


def test_the_write_type_is_the_requests_else_cache_through_and_must_cache_without_a_store(
    house: House, scribe: Scribe
) -> None:
    assert scribe.begin("/lake/a", 1).write_type == "CACHE_THROUGH"
    assert scribe.begin("/lake/b", 1, write_type="THROUGH").write_type == "THROUGH"
    assert scribe.begin("/lake/c", 1, write_type="MUST_CACHE").write_type == "MUST_CACHE"
    assert scribe.begin("/plain", 1).write_type == "MUST_CACHE"
    with pytest.raises(InvalidArgument, match="no store"):
        scribe.begin("/other", 1, write_type="THROUGH")
    with pytest.raises(InvalidArgument, match="MUST_CACHE"):
        scribe.begin("/lake/d", 1, write_type="ASYNC_THROUGH")


def test_bytes_that_no_store_has_are_read_from_the_worker_that_keeps_them(house: House, scribe: Scribe) -> None:
    for path in ("/plain", "/lake/d/cached"):
        inode = scribe.write(path, b"12345", write_type="MUST_CACHE")
        assert not inode.flags & Flag.PERSISTED
        assert house.ask(Method.OPEN, api.OpenRequest(path)).workers == [scribe.number]
    house.now_s += 3600
    assert house.list("/lake") == ["d/"], "the store knows nothing of it, and takes nothing away"


def test_readonly_mounts_and_stores_being_serviced_refuse_before_anything(
    house: House, scribe: Scribe, data: Path
) -> None:
    write(data / "f", b"1")
    house.stat("/lake/f")
    (data.parent / "other").mkdir()
    house.mount("/frozen", data.parent / "other", readonly=True)
    with pytest.raises(ReadOnly, match="read-only"):
        scribe.begin("/frozen/f", 1)
    for mode in ("readOnly", "noAccess"):
        house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/lake", ufs_mode=mode))
        house.asked()
        for method, request in (
            (Method.BEGIN_WRITE, api.BeginWriteRequest("/lake/g", size=1)),
            (Method.MAY_WRITE, api.MayWriteRequest("/lake/g")),
            (Method.DELETE, api.DeleteRequest("/lake/f")),
            (Method.RENAME, api.RenameRequest("/lake/f", "/lake/g")),
            (Method.COPY, api.CopyRequest("/lake/f", "/lake/g")),
            (Method.TOUCH, api.TouchRequest("/lake/g")),
            (Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/lake/d")),
            (Method.REMOVE_TREE, api.RemoveTreeRequest("/lake/d")),
        ):
            with pytest.raises(ReadOnly, match=mode):
                house.ask(method, request)
        assert house.asked() == []
    with pytest.raises(UfsNoAccess, match="noAccess"):
        house.stat("/lake/unknown")
    house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/lake", ufs_mode="readWrite"))
    scribe.write("/lake/g", b"1")


def test_large_files_lock_their_path_only_when_they_are_published(house: House, scribe: Scribe, data: Path) -> None:
    begun = scribe.begin("/lake/f", -1)
    held = scribe.opened(begun)
    scribe.write("/lake/f", b"meanwhile")
    store = scribe.store(held.mount)
    upload = store.begin_upload(held.key.encode(), held.operation_name)
    house.ask(Method.RECORD_UPLOAD, api.RecordUploadRequest(begun.operation, upload, scribe.number))
    assert intents(house)[0].upload == upload
    part = store.put_part(held.key.encode(), upload, 1, 0, [memoryview(b"large")])
    published = house.ask(Method.PUBLISH, api.PublishRequest(begun.operation, 5, scribe.number))
    assert published.replaced == house.stat("/lake/f").fingerprint
    assert published == house.ask(Method.PUBLISH, api.PublishRequest(begun.operation, 5, scribe.number))
    house.impatient()
    with pytest.raises(Busy, match="write of /lake/f"):
        scribe.begin("/lake/f", 1)
    condition = scribe_condition(published)
    entry = store.complete_upload(held.key.encode(), upload, [part], 5, held.operation_name, condition)
    assert scribe.end(begun, entry, 5).size == 5
    assert (data / "f").read_bytes() == b"large"
    store.close()


def scribe_condition(published: api.PublishAnswer) -> Condition:
    return Condition(fingerprint=published.replaced) if published.replaced else Condition(absent=True)


def test_the_second_writer_of_a_path_waits_for_the_first_and_replaces_its_version(
    house: House, scribe: Scribe, data: Path
) -> None:
    first = scribe.begin("/lake/f", 5)
    second = scribe.begin_later("/lake/f", 6)
    entry = scribe.put(first, b"first")
    scribe.end(first, entry, 5)
    begun = second()
    assert scribe.opened(begun).fingerprint == entry.fingerprint
    scribe.end(begun, scribe.put(begun, b"second"), 6)
    assert (data / "f").read_bytes() == b"second"


def test_who_waits_too_long_is_told_what_is_in_the_way(house: House, scribe: Scribe) -> None:
    begun = scribe.begin("/lake/d/f", 5)
    house.impatient()
    for path in ("/lake/d/f", "/lake/d/f/below"):
        with pytest.raises(Busy, match=f"operation {begun.operation}"):
            scribe.begin(path, 1)
    with pytest.raises(Busy, match=r"write of /lake/d/f.*operation"):
        house.ask(Method.REMOVE_TREE, api.RemoveTreeRequest("/lake"))


def test_only_nodes_and_the_writes_own_worker_speak_for_it(house: House, scribe: Scribe) -> None:
    begun = scribe.begin("/lake/f", 5)
    for method, request in (
        (Method.RECORD_UPLOAD, api.RecordUploadRequest(begun.operation, "u", 77)),
        (Method.PUBLISH, api.PublishRequest(begun.operation, 5, 77)),
        (Method.END_WRITE, api.EndWriteRequest(begun.operation, 5, worker=77)),
        (Method.ABANDON_WRITE, api.AbandonWriteRequest(begun.operation, api.Failure(1, ""), worker=77)),
    ):
        with pytest.raises(PermissionDenied, match="node"):
            house.ask(method, request, ADA)
        with pytest.raises(PermissionDenied, match="belongs to worker"):
            house.ask(method, request)


def test_an_end_told_twice_is_answered_twice(house: House, scribe: Scribe) -> None:
    begun = scribe.begin("/lake/f", 5)
    entry = scribe.put(begun, b"hello")
    first = scribe.end(begun, entry, 5)
    assert scribe.end(begun, entry, 5) == first
    house.restart()
    assert scribe.end(begun, entry, 5) == first, "found by the capability: this master never heard of it"
    with pytest.raises(WriteLost):
        scribe.end(begun, replace(entry, fingerprint="t:another"), 5)


def test_a_beginning_asked_for_twice_opens_one_intent(house: House, scribe: Scribe) -> None:
    request = Asking().next()
    first, second = (scribe.begin("/lake/f", 5, request=request) for _ in range(2))
    assert first.operation == second.operation
    house.restart()
    scribe.register((first.operation,))
    assert scribe.begin("/lake/f", 5, request=request).operation == first.operation
    assert len(intents(house)) == 1


def test_a_write_given_up_leaves_the_path_free(house: House, scribe: Scribe) -> None:
    begun = scribe.begin("/lake/f", 5)
    assert scribe.abandon(begun, UfsDenied("not allowed")).code == UfsDenied.code
    assert intents(house) == []
    with pytest.raises(WriteLost, match="not allowed"):
        scribe.end(begun, None, 5)
    scribe.write("/lake/f", b"1")


def test_a_write_with_an_unknown_end_is_found_out_by_the_master(house: House, scribe: Scribe) -> None:
    for path, is_done in (("/lake/done", True), ("/lake/not", False)):
        begun = scribe.begin(path, 5)
        if is_done:
            scribe.put(begun, b"hello")
        told = scribe.abandon(begun, UfsUnreachable("no answer"), unknown=True)
        assert told.code == UfsUnknown.code
        house.settle()
        if is_done:
            assert house.stat(path).content == scribe.opened(begun).content
        else:
            with pytest.raises(NotFound):
                house.stat(path)
    assert intents(house) == []


def test_capabilities_of_writes_are_renewed_while_the_write_is_open(house: House, scribe: Scribe) -> None:
    begun = scribe.begin("/lake/f", 5)
    renewed = house.ask(Method.RENEW, api.RenewRequest([begun.capability])).capabilities[0]
    held = scribe.opened(api.BeginWriteAnswer(renewed, begun.operation, begun.worker, ""))
    assert (held.rights, held.operation) == (Rights.WRITE, begun.operation)
    scribe.abandon(begun, UfsDenied("no"))
    assert house.ask(Method.RENEW, api.RenewRequest([begun.capability])).capabilities == [b""]
