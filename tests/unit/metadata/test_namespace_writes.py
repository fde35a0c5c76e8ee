"""Writes of files as intents: whole, in parts, and as uploads of clients; what is there before, between and after."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest
from intent_lake import ANN, KEPT, LONG, lay, nothing_is_left, told
from metadata_home import NOBODY, Home, directory, file, refused

from monofs.metadata.entries import Found, RemoveBelow, RemoveMount, SetPin, UpdateMount
from monofs.metadata.intent_entries import Abandon, BeginWrite, Publish, RecordUpload, Reopen
from monofs.metadata.tables import FeedKind, Intent, IntentKind
from monofs.model.attributes import encode_attributes
from monofs.model.errors import (
    AlreadyExists,
    Busy,
    ConditionFailed,
    CrossMount,
    InvalidArgument,
    IsADirectory,
    MonofsError,
    NotADirectory,
    NotFound,
    Overloaded,
    ReadOnly,
    UfsChanged,
    WriteLost,
)
from monofs.model.ids import NO_CONTENT, make_content_id
from monofs.model.inode import Flag, decode_inode
from monofs.model.paths import parse_path


@pytest.fixture
def lake(home: Home) -> Home:
    return lay(home)


# ---- writing --------------------------------------------------------------------------------------------------------


def test_a_new_file_has_its_name_when_its_act_is_done(lake: Home) -> None:
    intent = lake.begin_write("/m/new/deep/f", asker=ANN)
    assert intent == Intent(
        number=1,
        kind=IntentKind.WRITE,
        name=f"{lake.namespace.cluster.hex()[:12]}-1-1",
        path="/m/new/deep/f",
        acting=True,
        mount=1,
        key="new/deep/f",
        content=make_content_id(1, 3),
        size=10,
        mode=0o600,
        uid=7,
        gid=8,
        worker=1,
        client=ANN.client,
        sequence=1,
        lowest=1,
        created_ns=lake.clock_ns,
        principal="ann",
        parents=True,
    )
    assert not lake.exists("/m/new")
    record = decode_inode(lake.end(intent, file("f", "x", mtime_ns=5 * 10**9)))
    assert record == lake.inode("/m/new/deep/f")
    assert (record.content, record.size, record.mtime_ns, record.fingerprint) == (intent.content, 10, 5 * 10**9, "e:x")
    assert (record.mode, record.uid, record.gid, record.flags) == (0o600, 7, 8, Flag.PERSISTED)
    assert lake.inode("/m/new").flags == lake.inode("/m/new/deep").flags == Flag.PERSISTED
    assert nothing_is_left(lake)


def test_a_file_replaced_keeps_its_inode_and_pin_and_its_old_content_retires(lake: Home) -> None:
    lake.apply(SetPin(lake.stamp(), "/m/f", True))
    old = lake.inode("/m/f")
    intent = lake.begin_write("/m/f", size=20)
    assert intent.replaced == "e:1"
    assert lake.inode("/m/f") == old
    lake.end(intent, file("f", "2", 20))
    new = lake.inode("/m/f")
    assert (new.id, new.content, new.size) == (old.id, intent.content, 20)
    assert new.flags == Flag.PERSISTED | Flag.PINNED
    assert told(lake, FeedKind.RETIRED) == [old.content]
    assert told(lake, FeedKind.PIN) == [new.content]


def test_a_file_of_no_bytes_has_no_content(lake: Home) -> None:
    assert lake.begin_write("/m/zero", size=0).content == NO_CONTENT
    parts = lake.begin_write("/m/parts", size=-1)
    assert parts.content
    lake.begin(Publish(lake.stamp(), parts.number, 0))
    lake.end(parts, file("parts", size=0), size=0)
    assert lake.inode("/m/parts").content == NO_CONTENT
    assert told(lake, FeedKind.RETIRED) == [parts.content]


def test_the_attributes_of_a_file_are_those_its_store_keeps(lake: Home) -> None:
    lake.end(lake.begin_write("/m/new"), Found(b"new", False, 10, 10**18, "t:1", 0o100640, 3, 4))
    new = lake.inode("/m/new")
    assert (new.mode, new.uid, new.gid) == (0o640, 3, 4)
    again = Found(b"new", False, 10, 10**18, "t:1", 0o100640, 3, 4)
    assert lake.adopt("/m", [again, file("f"), directory("d"), directory("empty")]) == (0, 0, 0)


def test_what_no_store_has_is_told_with_its_places_and_kept_by_explicit_directories(lake: Home) -> None:
    lake.keep("/m/d/below/scratch")
    record = lake.inode("/m/d/below/scratch")
    assert record.flags == 0
    places = lake.namespace.places(record.content)
    assert places is not None
    assert places.chains == [(0, [1])]
    assert lake.inode("/m/d").flags == Flag.PERSISTED | Flag.LOADED | Flag.EXPLICIT | Flag.KEPT
    assert lake.inode("/m/d/below").flags == Flag.EXPLICIT | Flag.KEPT
    assert lake.adopt("/m", []) == (0, 0, 2)
    assert lake.exists("/m/d/below/scratch")
    lake.write("/m/d/below/scratch", "2")
    assert lake.namespace.places(record.content) is None
    assert lake.inode("/m/d/below/scratch").flags == Flag.PERSISTED


def test_what_no_store_has_outlives_a_mount_made_below_its_directories(lake: Home) -> None:
    lake.mount("/m/x/inner")
    lake.keep("/m/x/scratch")
    assert lake.apply(RemoveMount(lake.stamp(), "/m/x/inner")) == []
    lake.adopt("/m/x", [])
    lake.adopt("/m", [])
    assert lake.exists("/m/x/scratch")


def test_files_under_no_mount_are_written_too(home: Home) -> None:
    refusal = home.begin_write("/a/f")
    assert refused(refusal, InvalidArgument)
    intent = home.begin_write("/a/f", write_type="MUST_CACHE")
    assert (intent.mount, intent.key) == (0, "")
    home.end(intent, None)
    record = home.inode("/a/f")
    assert (record.size, record.flags, record.mode, record.fingerprint) == (10, 0, 0o600, "")
    assert home.inode("/a").flags == Flag.EXPLICIT
    before = home.inode("/a").mtime_ns
    home.keep("/a/g")
    assert home.inode("/a").mtime_ns > before
    home.delete("/a/f")
    assert home.namespace.places(record.content) is None
    assert told(home, FeedKind.RETIRED) == [record.content]


def test_places_go_with_what_is_replaced_or_removed_with_its_directory(home: Home) -> None:
    for path in ("/d/a", "/d/b", "/e"):
        home.keep(path)
    contents = [home.inode(path).content for path in ("/d/a", "/d/b", "/e")]
    home.rename("/d/a", "/e")
    assert home.namespace.places(contents[0]) is not None
    assert home.namespace.places(contents[2]) is None
    assert home.remove_tree("/d") == 0
    while home.apply(RemoveBelow(home.stamp(), 1)):
        pass
    assert home.namespace.places(contents[1]) is None


def test_a_write_in_parts_leaves_the_path_as_it_is_until_it_is_published(lake: Home) -> None:
    one, other = lake.begin_write("/m/f", size=-1), lake.begin_write("/m/f", size=-1)
    assert not one.acting
    assert one.content != other.content
    assert lake.namespace.lock_at(parse_path("/m/f")) == 0
    assert lake.apply(RecordUpload(lake.stamp(), one.number, "up-1")) is None
    assert lake.apply(RecordUpload(lake.stamp(), one.number, "up-1")) is None
    assert refused(lake.apply(RecordUpload(lake.stamp(), one.number, "up-2")), ConditionFailed)
    published = lake.begin(Publish(lake.stamp(), one.number, 30))
    assert (published.acting, published.size, published.replaced, published.upload) == (True, 30, "e:1", "up-1")
    assert lake.begin(Publish(lake.stamp(), one.number, 30)) == published
    assert refused(lake.apply(Publish(lake.stamp(), one.number, 31)), InvalidArgument)
    assert refused(lake.apply(Publish(lake.stamp(), other.number, 5)), Busy)
    lake.end(published, file("f", "2", 30))
    later = lake.begin(Publish(lake.stamp(), other.number, 5))
    assert later.replaced == "e:2"
    assert refused(lake.apply(Abandon(lake.stamp(), other.number, UfsChanged.code, "changed")), UfsChanged)
    assert lake.inode("/m/f").size == 30
    assert told(lake, FeedKind.RETIRED) == [make_content_id(1, 1), other.content]
    assert nothing_is_left(lake)


def test_what_a_write_was_asked_under_is_decided_again_when_it_is_published(lake: Home) -> None:
    def parts(path: str, **how: object) -> int:
        return lake.begin_write(path, size=-1, **how).number  # type: ignore[arg-type]

    exclusive, matching = parts("/m/x", exclusive=True), parts("/m/f", if_match="e:1")
    orphan, kind = parts("/m/d/new", parents=False), parts("/m/y")
    lake.write("/m/x")
    lake.write("/m/f", "2")
    lake.remove_tree("/m/d")
    lake.write("/m/y/z")
    for number, error in (
        (exclusive, AlreadyExists),
        (matching, ConditionFailed),
        (orphan, NotFound),
        (kind, IsADirectory),
        (999, WriteLost),
    ):
        assert refused(lake.apply(Publish(lake.stamp(), number, 1)), error)
    assert refused(lake.apply(Publish(lake.stamp(), kind, -1)), InvalidArgument)
    for intent in lake.namespace.intents(0, 10):
        lake.apply(Abandon(lake.stamp(), intent.number, 1002, ""))


def test_writes_are_refused_before_anything_happens(lake: Home) -> None:
    lake.mount("/ro", readonly=True)
    lake.mount("/gone", ufs_mode="noAccess")
    lake.mount("/kept", ufs_mode="readOnly")
    cases: list[tuple[MonofsError, type[MonofsError]]] = [
        (lake.begin_write("/m/d"), IsADirectory),
        (lake.begin_write("/"), IsADirectory),
        (lake.begin_write("/m/d", exclusive=True), AlreadyExists),
        (lake.begin_write("/m/f", exclusive=True), AlreadyExists),
        (lake.begin_write("/m/f", if_match="e:2"), ConditionFailed),
        (lake.begin_write("/m/none", if_match="e:2"), ConditionFailed),
        (lake.begin_write("/m/f/x"), NotADirectory),
        (lake.begin_write("/m/none/x", parents=False), NotFound),
        (lake.begin_write("/m/x", write_type="ASYNC_THROUGH"), InvalidArgument),
        (lake.begin_write("/ro/x"), ReadOnly),
        (lake.begin_write("/ro/x", write_type="MUST_CACHE"), ReadOnly),
        (lake.begin_write("/gone/x"), ReadOnly),
        (lake.begin_write("/kept/x", size=-1), ReadOnly),
        (lake.begin_mkdir("/ro/x"), ReadOnly),
        (lake.begin_copy("/m/f", "/ro/x"), CrossMount),
    ]
    for result, error in cases:
        assert refused(result, error)
    assert "noAccess" in str(cases[11][0])
    assert nothing_is_left(lake)


def test_a_mount_that_turns_read_only_refuses_what_was_not_published(lake: Home) -> None:
    intent = lake.begin_write("/m/x", size=-1)
    index = lake.covering("/m").changed_index
    lake.apply(UpdateMount(lake.stamp(), "/m", index, {}, b"", False, None, "readOnly"))
    assert lake.covering("/m").ufs_mode == "readOnly"
    assert refused(lake.apply(Publish(lake.stamp(), intent.number, 1)), ReadOnly)
    for refusal in (
        lake.begin_delete("/m/f"),
        lake.begin_rename("/m/f", "/m/x"),
        lake.remove_tree("/m/d"),
        lake.rename_tree("/m/d", "/m/x"),
    ):
        assert refused(refusal, ReadOnly)
    lake.apply(Abandon(lake.stamp(), intent.number, ReadOnly.code, "read-only"))


def test_modes_of_mounts_are_those_there_are(home: Home) -> None:
    assert refused(home.mount("/m", ufs_mode="sometimes"), InvalidArgument)
    assert home.mount("/m", ufs_mode="noAccess").ufs_mode == "noAccess"
    index = home.covering("/m").changed_index
    update = UpdateMount(home.stamp(), "/m", index, {}, b"", False, None, "no")
    assert refused(home.apply(update), InvalidArgument)


def test_a_path_too_long_for_a_key_is_locked_and_written_like_any_other(lake: Home) -> None:
    intent = lake.begin_write(LONG + "/one")
    other = lake.begin_write(LONG + "/other")
    assert refused(lake.begin_write(LONG + "/one"), Busy)
    assert lake.findings() == {}
    lake.flush()
    lake.lose_memory()
    lake.open()
    assert refused(lake.begin_write(LONG + "/one"), Busy)
    lake.end(intent, file("one"))
    lake.end(other, file("other"))
    assert lake.names(LONG) == [b"one", b"other"]
    assert nothing_is_left(lake)


# ---- uploads of clients -----------------------------------------------------------------------------------------------


def begin_upload(home: Home, path: str = "/m/up", write_type: str = "CACHE_THROUGH", size: int = -1) -> Any:
    change = BeginWrite(
        home.stamp(), path, 0o600, True, False, None, size, write_type, 0, NOBODY, KEPT, as_key=True, upload=True
    )
    intent = home.begin(change)
    if isinstance(intent, Intent):
        home.apply(RecordUpload(home.stamp(), intent.number, "store's id"))
    return intent


def publish(home: Home, number: int, size: int = 3, **how: Any) -> Any:
    return home.begin(Publish(home.stamp(), number, size, **how))


def test_an_upload_locks_nothing_until_it_is_completed(lake: Home) -> None:
    intent = begin_upload(lake, "/m/f")
    assert (intent.kind, intent.acting, intent.worker, intent.size) == (IntentKind.UPLOAD, False, 0, -1)
    lake.end(lake.begin_write("/m/f"), file("f", "2"))
    whole = msgspec.structs.replace(KEPT, checksums={"crc32": "AAAA"}, parts=[(1, 1, 3)])
    acting = publish(lake, intent.number, attributes=whole)
    assert (acting.acting, acting.size, acting.replaced, acting.attributes) == (True, 3, "e:2", whole)
    assert refused(lake.begin_write("/m/f"), Busy)
    lake.end(acting, file("f", "3", 3))
    found = lake.inode("/m/f")
    assert (found.size, found.fingerprint, found.content) == (3, "e:3", intent.content)
    assert lake.namespace.raw_attributes(found) == encode_attributes(whole)
    assert nothing_is_left(lake)


def test_one_whose_completion_came_to_nothing_is_as_it_was(lake: Home) -> None:
    intent = begin_upload(lake)
    before = lake.namespace.intent(intent.number)
    whole = msgspec.structs.replace(KEPT, checksums={"crc32": "AAAA"}, parts=[(1, 1, 3)], part_checksums=[b"1234"])
    publish(lake, intent.number, exclusive=True, attributes=whole)
    assert refused(publish(lake, intent.number), Busy), "one completion at a time"
    assert lake.apply(Reopen(lake.stamp(), intent.number)) is None
    assert lake.namespace.intent(intent.number) == before
    assert lake.apply(Reopen(lake.stamp(), intent.number)) is None
    lake.end(lake.begin_write("/m/up"), file("up", "1"))
    assert refused(publish(lake, intent.number, exclusive=True), AlreadyExists)
    assert refused(publish(lake, intent.number, if_content=5), ConditionFailed)
    lake.end(publish(lake, intent.number), file("up", "2", 3))
    assert lake.inode("/m/up").fingerprint == "e:2"
    assert nothing_is_left(lake)


def test_what_is_no_upload_is_not_reopened(lake: Home) -> None:
    intent = lake.begin_write("/m/f")
    assert refused(lake.apply(Reopen(lake.stamp(), intent.number)), InvalidArgument)
    assert refused(lake.apply(Reopen(lake.stamp(), 99)), WriteLost)


@pytest.mark.parametrize(
    ("path", "write_type", "size"),
    [("/f", "MUST_CACHE", -1), ("/m/f", "MUST_CACHE", -1), ("/m/f", "CACHE_THROUGH", 5)],
)
def test_an_upload_is_of_a_store_and_of_unknown_size(lake: Home, path: str, write_type: str, size: int) -> None:
    assert refused(begin_upload(lake, path, write_type, size), InvalidArgument)


def test_uploads_leave_room_for_other_changes(lake: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["monofs.metadata.ops.begin_write"], "UPLOADS_MAX", 2)
    one, two = begin_upload(lake, "/m/1"), begin_upload(lake, "/m/2")
    assert refused(begin_upload(lake, "/m/3"), Overloaded)
    lake.end(lake.begin_write("/m/other"), file("other", "1"))
    lake.close()
    lake.open()
    assert refused(begin_upload(lake, "/m/3"), Overloaded)
    for intent in (one, two):
        lake.apply(Abandon(lake.stamp(), intent.number, WriteLost.code, "aborted"))
    assert begin_upload(lake, "/m/3").number
