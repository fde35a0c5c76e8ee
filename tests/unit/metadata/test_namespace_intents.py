"""Intents: begun, published, ended, abandoned; what they lock, whom they answer, and that nothing of them is left."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest
from metadata_home import NOBODY, Home, directory, file, refused

from monofs.metadata import sessions
from monofs.metadata.draft import Draft
from monofs.metadata.entries import AddMount, ExpireClients, Found, RemoveBelow, RemoveMount, SetPin, Stamp, UpdateMount
from monofs.metadata.intent_entries import (
    Abandon,
    Asker,
    BeginMakeDirectory,
    BeginRename,
    BeginWrite,
    End,
    Publish,
    RecordUpload,
    Reopen,
)
from monofs.metadata.ops import guarding
from monofs.metadata.sessions import FRESH
from monofs.metadata.tables import LOCKS, FeedKind, Intent, IntentKind
from monofs.model.attributes import Attributes, encode_attributes
from monofs.model.errors import (
    AlreadyExists,
    Busy,
    ConditionFailed,
    CrossMount,
    InvalidArgument,
    IsADirectory,
    MonofsError,
    MountPoint,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotSupported,
    Overloaded,
    ReadOnly,
    SessionExpired,
    UfsChanged,
    WouldLose,
    WriteLost,
)
from monofs.model.ids import NO_CONTENT, make_content_id
from monofs.model.inode import Flag, decode_inode
from monofs.model.paths import parse_path

ANN = Asker(b"ann's client", 1, 1, "ann", 7, 8)
KEPT = Attributes({"content-type": "text/plain"}, {"a": "b"})
LONG = "/m/" + "/".join(["d" * 200] * 15)
"""A path whose bytes are no key of a database."""


@pytest.fixture
def lake(home: Home) -> Home:
    """A mount at /m with a file, a directory with a file, and an empty directory."""
    home.mount("/m")
    home.adopt("/m", [file("f"), directory("d"), directory("empty")])
    home.adopt("/m/d", [file("g")])
    return home


def told(home: Home, kind: FeedKind) -> list[int]:
    return [content for _, at, contents in home.namespace.feed(0, 1000) for content in contents if at == kind]


def nothing_is_left(home: Home) -> bool:
    assert home.namespace.intents(0, 10) == []
    assert home.namespace.meta.intents == 0
    return home.store.scan(LOCKS, b"", 10) == []


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


# ---- locks ----------------------------------------------------------------------------------------------------------


def test_a_lock_keeps_off_changes_at_its_path_above_and_below_and_no_others(lake: Home) -> None:
    intent = lake.begin_write("/m/d/x/f")
    for refusal in (
        lake.begin_write("/m/d/x/f"),
        lake.begin_write("/m/d/x"),
        lake.begin_write("/m/d/x/f/deeper"),
        lake.begin_mkdir("/m/d/x"),
        lake.begin_rename("/m/d", "/m/e"),
        lake.begin_rename("/m/f", "/m/d/x/f/g"),
        lake.begin_copy("/m/f", "/m/d/x/f"),
        lake.remove_tree("/m/d"),
        lake.rename_tree("/m/d", "/m/e"),
        lake.mount("/m/d/x"),
    ):
        if not isinstance(refusal, NotFound):
            assert refused(refusal, Busy)
    assert refused(lake.begin_write("/m/d/x"), Busy)
    assert lake.begin_write("/m/d/x/f").detail["operation"] == intent.number
    lake.end(lake.begin_write("/m/d/g"), file("g", "2"))
    lake.end(lake.begin_write("/m/d/x/ff"), file("ff"))
    lake.end(intent, file("f"))
    assert lake.names("/m/d/x") == [b"f", b"ff"]


def test_locks_are_asked_for_by_path_above_and_below(lake: Home) -> None:
    namespace = lake.namespace
    number = lake.begin_rename("/m/f", "/m/d/f").number
    for path in ("/m/f", "/m/d/f"):
        assert namespace.lock_at(parse_path(path)) == number
        assert namespace.locked_above(parse_path(path + "/below")) == number
    assert [namespace.locked_below(parse_path(path)) for path in ("/", "/m", "/m/d", "/m/f", "/m/e")] == [
        number,
        number,
        number,
        0,
        0,
    ]
    assert namespace.locked_above(parse_path("/m/d/g")) == 0
    assert namespace.intent(number) == namespace.intents(0, 10)[0]
    assert namespace.intents(number, 10) == []
    lake.apply(Abandon(lake.stamp(), number, 1002, ""))
    assert namespace.locked_below(()) == 0


def test_cache_only_changes_keep_off_locks_too(home: Home) -> None:
    home.mkdir("/d/e", parents=True)
    home.create("/f")
    intent = home.begin_write("/d/e/x", write_type="MUST_CACHE")
    for refusal in (
        home.create("/d/e/x"),
        home.mkdir("/d/e/x"),
        home.rename("/d", "/g"),
        home.rename("/f", "/d/e/x"),
        home.remove_tree("/d"),
        home.mount("/d/e/x/y"),
    ):
        assert refused(refusal, Busy)
    assert refused(home.delete("/d/e"), Busy)
    home.end(intent, None)
    assert home.rename("/f", "/d/e/x")


def test_open_intents_are_bounded(lake: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "INTENTS_MAX", 2)
    one = lake.begin_write("/m/1")
    lake.end(lake.begin_write("/m/2"), file("2"))
    two = lake.begin_write("/m/2")
    for refusal in (lake.begin_write("/m/3"), lake.begin_delete("/m/f"), lake.begin_mkdir("/m/3")):
        assert refused(refusal, Overloaded)
    lake.end(one, file("1"))
    lake.end(two, file("2", "2"))


def test_intents_and_locks_survive_restarts(lake: Home) -> None:
    one, two = lake.begin_write("/m/1", asker=ANN), lake.begin_rename("/m/f", "/m/d/f")
    lake.begin_write("/m/3", size=-1)
    for stop in (lake.lose_memory, lake.flush):
        stop()
        if stop == lake.flush:
            lake.close()
        lake.open()
        assert lake.namespace.intents(0, 10)[:2] == [one, two]
        assert lake.namespace.intent_of(ANN) == one
        assert refused(lake.begin_write("/m/1"), Busy)
        assert refused(lake.begin_write("/m/d/f"), Busy)
    for intent in lake.namespace.intents(0, 10):
        lake.apply(Abandon(lake.stamp(), intent.number, 1002, ""))
    assert nothing_is_left(lake)


# ---- deleting -------------------------------------------------------------------------------------------------------


def test_a_file_is_gone_from_the_tree_when_it_is_gone_from_its_store(lake: Home) -> None:
    content = lake.inode("/m/f").content
    slow = len(lake.log)
    intent = lake.begin_delete("/m/f", ANN)
    assert (intent.kind, intent.key, intent.replaced, intent.acting) == (IntentKind.DELETE, "f", "e:1", True)
    assert lake.exists("/m/f")
    assert lake.end(intent, None) is None
    assert not lake.exists("/m/f")
    assert told(lake, FeedKind.RETIRED) == [content]
    found = [file("f"), directory("d"), directory("empty")]
    assert lake.adopt("/m", found, read_index=slow) == (0, 0, 0), "an older listing brings it back"
    assert lake.adopt("/m", found) == (1, 0, 0)


def test_an_empty_directory_is_deleted_and_one_that_is_not_is_refused(lake: Home) -> None:
    assert refused(lake.begin_delete("/m/d"), NotEmpty)
    intent = lake.begin_delete("/m/empty")
    assert intent.directory
    assert refused(lake.begin_write("/m/empty/x"), Busy)
    lake.end(intent, None)
    assert not lake.exists("/m/empty")


def test_deletions_are_refused_where_there_is_nothing_to_delete(lake: Home) -> None:
    assert refused(lake.begin_delete("/m/none"), NotFound)
    assert refused(lake.begin_delete("/m/f/x"), NotADirectory)
    assert refused(lake.begin_delete("/m"), MountPoint)
    assert refused(lake.begin_delete("/"), MountPoint)
    lake.create("/plain")
    assert refused(lake.begin_delete("/plain"), ConditionFailed)
    assert refused(lake.delete("/m/f"), NotSupported)


def test_a_file_that_no_store_has_is_deleted_there_too_for_an_older_one_may_lie_there(lake: Home) -> None:
    lake.keep("/m/f")
    content = lake.inode("/m/f").content
    intent = lake.begin_delete("/m/f")
    assert (intent.key, intent.replaced) == ("f", "")
    lake.end(intent, None)
    assert lake.namespace.places(content) is None


# ---- renaming, copying, making directories ----------------------------------------------------------------------------


def test_a_renamed_file_keeps_inode_and_content_and_has_what_its_store_says(lake: Home) -> None:
    before, replaced = lake.inode("/m/f"), lake.inode("/m/d/g")
    intent = lake.begin_rename("/m/f", "/m/d/g")
    assert (intent.key, intent.target_key, intent.replaced, intent.target_replaced) == ("f", "d/g", "e:1", "e:1")
    record = decode_inode(lake.end(intent, file("g", "2", mtime_ns=7 * 10**9)))
    assert record == lake.inode("/m/d/g")
    assert (record.id, record.content, record.fingerprint, record.mtime_ns) == (
        before.id,
        before.content,
        "e:2",
        7 * 10**9,
    )
    assert not lake.exists("/m/f")
    assert told(lake, FeedKind.RETIRED) == [replaced.content]


def test_a_directory_is_renamed_by_stores_that_do(lake: Home) -> None:
    slow = len(lake.log)
    intent = lake.begin_rename("/m/d", "/m/empty")
    assert (intent.directory, intent.key, intent.target_key) == (True, "d", "empty")
    lake.end(intent, directory("empty"))
    assert lake.names("/m") == [b"empty/", b"f"]
    assert lake.exists("/m/empty/g")
    assert lake.key("/m/empty/g") == "empty/g"
    assert lake.adopt("/m", [directory("d"), file("f")], read_index=slow) == (0, 0, 0)


def test_renaming_onto_itself_tells_the_record(lake: Home) -> None:
    result = lake.apply(BeginRename(lake.stamp(), "/m/f", "/m/f/", ANN))
    assert result[:1] == b"\0"
    assert decode_inode(result[1:]) == lake.inode("/m/f")
    assert nothing_is_left(lake)


def test_a_file_that_no_store_has_is_renamed_with_its_places(lake: Home) -> None:
    lake.keep("/m/s")
    intent = lake.begin_rename("/m/s", "/m/d/s")
    assert intent.replaced == ""
    lake.end(intent, None)
    assert lake.namespace.places(lake.inode("/m/d/s").content) is not None
    assert lake.inode("/m/d").flags & Flag.EXPLICIT
    assert refused(lake.end(lake.begin_rename("/m/f", "/m/x"), None), ConditionFailed)
    assert lake.exists("/m/f")
    assert nothing_is_left(lake)


def test_renames_are_refused_as_rename_2_does(lake: Home) -> None:
    lake.mount("/n")
    lake.create("/plain")
    cases = [
        (("/m/none", "/m/x"), NotFound),
        (("/m/f", "/m/none/x"), NotFound),
        (("/m/f", "/m/d"), IsADirectory),
        (("/m/d", "/m/f"), NotADirectory),
        (("/m/d", "/m/d/x"), InvalidArgument),
        (("/m/empty", "/m/d"), NotEmpty),
        (("/m/f", "/n/f"), CrossMount),
        (("/m/f", "/f"), CrossMount),
        (("/plain", "/other"), ConditionFailed),
        (("/m", "/x"), MountPoint),
        (("/m/f", "/n"), MountPoint),
    ]
    for (source, target), error in cases:
        assert refused(lake.begin_rename(source, target), error)
    lake.mount("/m/d/inner")
    assert refused(lake.begin_rename("/m/d", "/m/x"), MountPoint)


def test_a_copy_has_a_content_of_its_own_and_leaves_its_source_unlocked(lake: Home) -> None:
    intent = lake.begin_copy("/m/f", "/m/c/f", parents=True)
    assert (intent.replaced, intent.target_replaced, intent.size) == ("e:1", "", 10)
    other = lake.begin_copy("/m/f", "/m/d/g")
    assert refused(lake.begin_write("/m/c/f"), Busy)
    lake.end(intent, file("f", "9"))
    lake.end(other, file("g", "9"))
    contents = {lake.inode(path).content for path in ("/m/f", "/m/c/f", "/m/d/g")}
    assert len(contents) == 3
    assert lake.inode("/m/c/f").fingerprint == "e:9"


def test_copies_are_refused_where_the_store_cannot_make_them(lake: Home) -> None:
    lake.keep("/m/s")
    lake.keep("/s")
    lake.mount("/n")
    cases = [
        (lake.begin_copy("/m/none", "/m/x"), NotFound),
        (lake.begin_copy("/m/d", "/m/x"), IsADirectory),
        (lake.begin_copy("/m/f", "/m/f"), InvalidArgument),
        (lake.begin_copy("/m/f", "/m/d"), IsADirectory),
        (lake.begin_copy("/m/f", "/m/d/g", exclusive=True), AlreadyExists),
        (lake.begin_copy("/m/f", "/m/none/x"), NotFound),
        (lake.begin_copy("/m/f", "/n/x"), CrossMount),
        (lake.begin_copy("/m/s", "/m/x"), NotSupported),
        (lake.begin_copy("/s", "/x"), NotSupported),
    ]
    for result, error in cases:
        assert refused(result, error)


def test_a_directory_made_in_its_store_is_its_listings_to_judge(lake: Home) -> None:
    intent = lake.begin_mkdir("/m/a/b", parents=True)
    assert (intent.kind, intent.key, intent.directory) == (IntentKind.MAKE_DIRECTORY, "a/b", True)
    record = decode_inode(lake.end(intent, directory("b")))
    assert record == lake.inode("/m/a/b")
    assert (record.flags, record.mode) == (Flag.PERSISTED, 0o700)
    assert lake.inode("/m/a").mode == 0o700
    assert lake.adopt("/m", []) == (0, 0, 4)


def test_directories_that_cannot_be_made_are_refused(lake: Home) -> None:
    assert refused(lake.begin_mkdir("/m/d"), AlreadyExists)
    assert refused(lake.begin_mkdir("/m/f", exist_ok=True), AlreadyExists)
    assert refused(lake.begin_mkdir("/m/f/x"), NotADirectory)
    assert refused(lake.begin_mkdir("/m/x/y"), NotFound)
    assert refused(lake.begin_mkdir("/x"), ConditionFailed)
    result = lake.apply(BeginMakeDirectory(lake.stamp(), "/m/d", 0, False, True, Asker()))
    assert result[:1] == b"\0"
    assert decode_inode(result[1:]) == lake.inode("/m/d")


# ---- ending ---------------------------------------------------------------------------------------------------------


def test_outcomes_that_cannot_be_are_refused_and_leave_the_intent_open(lake: Home) -> None:
    through, kept = lake.begin_write("/m/x"), lake.begin_write("/m/y", write_type="MUST_CACHE")
    parts, made = lake.begin_write("/m/z", size=-1), lake.begin_mkdir("/m/made")
    assert refused(lake.end(through, None), InvalidArgument)
    assert refused(lake.end(through, file("x"), size=11), InvalidArgument)
    assert refused(lake.end(kept, file("y")), InvalidArgument)
    assert refused(lake.apply(End(lake.stamp(), kept.number, None, 10)), InvalidArgument)
    assert refused(lake.end(parts, file("z")), InvalidArgument)
    assert refused(lake.end(made, None), InvalidArgument)
    assert len(lake.namespace.intents(0, 10)) == 4
    for intent in (through, kept, parts, made):
        assert refused(lake.apply(Abandon(lake.stamp(), intent.number, NotFound.code, "no")), NotFound)
    assert told(lake, FeedKind.RETIRED) == [through.content, kept.content, parts.content]
    assert refused(lake.end(through, file("x")), ConditionFailed)
    assert refused(lake.apply(Abandon(lake.stamp(), through.number, 1002, "")), ConditionFailed)


def test_the_outcome_is_the_answer_of_the_request(lake: Home) -> None:
    intent = lake.begin_write("/m/x", asker=ANN)
    stamp = Stamp(lake.clock_ns, ANN.client, 1, 1)
    assert lake.namespace.recall(stamp) is FRESH
    assert refused(lake.begin_write("/m/elsewhere", asker=ANN), Busy)
    record = lake.end(intent, file("x"), stamp=stamp)
    assert lake.namespace.recall(stamp) == record
    assert lake.end(intent, file("x"), stamp=stamp) == record
    assert refused(lake.begin_write("/m/elsewhere", asker=ANN), Busy)
    second = lake.begin_delete("/m/x", Asker(ANN.client, 2, 1))
    lake.apply(Abandon(Stamp(lake.clock_ns, ANN.client, 2, 1), second.number, UfsChanged.code, "changed"))
    assert refused(lake.namespace.recall(Stamp(lake.clock_ns, ANN.client, 2, 1)), UfsChanged)
    assert refused(lake.begin_delete("/m/x", Asker(ANN.client, 2, 1)), UfsChanged)


def test_an_outcome_is_applied_though_its_asker_is_past_hearing_it(lake: Home) -> None:
    """The act was done: whether somebody still waits for the answer changes nothing."""
    trimmed = lake.begin_write("/m/x", asker=Asker(ANN.client, 2, 1))
    forgotten = lake.begin_write("/m/y", asker=Asker(b"gone", 1, 1))
    lake.apply(ExpireClients(lake.stamp(ANN.client, 1, 1), [b"gone"]))
    lake.apply(ExpireClients(lake.stamp(ANN.client, 3, 3), [b"gone"]))
    stamp = Stamp(lake.clock_ns, ANN.client, 2, 1)
    assert refused(lake.namespace.recall(stamp), SessionExpired)
    assert lake.end(trimmed, file("x"), stamp=stamp) == lake.namespace.lookup(parse_path("/m/x")).raw
    stamp = Stamp(lake.clock_ns, b"gone", 9, 8)
    assert lake.apply(Abandon(stamp, forgotten.number, UfsChanged.code, "changed")).code == UfsChanged.code
    assert nothing_is_left(lake)
    assert b"gone" not in lake.namespace.clients()


def test_an_outcome_is_applied_where_no_more_answers_are_held(lake: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    intent = lake.begin_write("/m/x", asker=ANN)
    monkeypatch.setattr(sessions, "ANSWERS_MAX", 0)
    stamp = Stamp(lake.clock_ns, ANN.client, 1, 1)
    assert isinstance(lake.end(intent, file("x"), stamp=stamp), bytes)
    assert nothing_is_left(lake)


def test_a_mount_owes_its_store_what_is_open_and_goes_only_when_that_is_given_up(lake: Home) -> None:
    intent = lake.begin_write("/m/x", asker=ANN)
    job = lake.remove_tree("/m/d")
    assert refused(lake.apply(RemoveMount(lake.stamp(), "/m")), Busy)
    lake.apply(Abandon(lake.stamp(), intent.number, 1002, ""))
    assert refused(lake.apply(RemoveMount(lake.stamp(), "/m")), Busy)
    late = lake.begin_write("/m/x")
    index = lake.covering("/m").changed_index
    lake.apply(UpdateMount(lake.stamp(), "/m", index, {}, b"", False, None, "noAccess"))
    unasked = lake.apply(RemoveMount(lake.stamp(), "/m", False, len(lake.log)))
    assert refused(unasked, WouldLose)
    assert "/m/x, which is being written" in str(unasked)
    assert "job 1, which deletes what was below /m/d" in str(unasked)
    assert lake.namespace.counts()["intents"] == 1
    told_of = lake.apply(RemoveMount(lake.stamp(), "/m", True, len(lake.log)))
    assert told_of == ["/m/x, which is being written", "job 1, which deletes what was below /m/d"]
    assert nothing_is_left(lake)
    assert late.content in told(lake, FeedKind.RETIRED)
    assert lake.namespace.job(job).state == 4
    assert refused(lake.end(late, file("x")), ConditionFailed)
    while lake.apply(RemoveBelow(lake.stamp(), 10)):
        pass
    assert lake.namespace.counts()["inodes"] == 1


def test_a_mount_given_up_tells_which_uploads_stay_in_its_store(lake: Home) -> None:
    begun = lake.begin_write("/m/large", size=-1)
    lake.apply(RecordUpload(lake.stamp(), begun.number, "upload-1"))
    index = lake.covering("/m").changed_index
    lake.apply(UpdateMount(lake.stamp(), "/m", index, {}, b"", False, None, "noAccess"))
    assert lake.apply(RemoveMount(lake.stamp(), "/m", True, len(lake.log))) == [
        "/m/large, which is being written (upload upload-1)"
    ]


def test_a_mount_stays_when_files_no_store_has_came_while_it_was_searched_for_them(lake: Home) -> None:
    searched = len(lake.log)
    lake.write("/m/d/persisted")
    assert lake.namespace.meta.kept_index <= searched
    lake.keep("/m/d/kept")
    assert refused(lake.apply(RemoveMount(lake.stamp(), "/m", True, searched)), Busy)
    searched = len(lake.log)
    lake.end(lake.begin_rename("/m/d/kept", "/m/kept"), None)
    assert refused(lake.apply(RemoveMount(lake.stamp(), "/m", False, searched)), Busy), "one it may have missed moved"
    searched = len(lake.log)
    lake.keep("/m/e/kept")
    moves = len(lake.log)
    lake.rename_tree("/m/e", "/m/g")
    assert lake.namespace.meta.kept_index == moves + 1
    lake.keep("/elsewhere")
    assert lake.namespace.meta.kept_index == moves + 1, "it lies below no mount"


def test_a_mount_is_not_made_where_something_is_under_way(lake: Home) -> None:
    intent = lake.begin_write("/m/new/f")
    assert refused(lake.apply(AddMount(lake.stamp(), "/m/new", "s3://b", {}, b"", False, False)), Busy)
    lake.end(intent, file("f"))


def test_a_mount_made_over_a_write_in_parts_loses_it(lake: Home) -> None:
    intent = lake.begin_write("/m/new/f", size=-1)
    lake.mount("/m/new")
    assert refused(lake.apply(Publish(lake.stamp(), intent.number, 1)), WriteLost)
    lake.apply(Abandon(lake.stamp(), intent.number, 1002, ""))


def test_ends_do_what_still_can_be_done(lake: Home) -> None:
    """Beside adoption, which leaves locked names alone, nothing gets past a lock; ends do not rely on it."""
    deleting, renaming = lake.begin_delete("/m/f"), lake.begin_rename("/m/d/g", "/m/d/h")
    emptying = lake.begin_delete("/m/empty")
    root, d = lake.inode("/m").id, lake.inode("/m/d").id
    gone = [(root, b"f", lake.inode("/m/f")), (d, b"g", lake.inode("/m/d/g"))]
    draft = Draft(lake.namespace, len(lake.log), 1)
    for parent, key, inode in gone:
        draft.remove_file(parent, key, inode)
    draft.add_inode(lake.inode("/m/empty").id, b"child", draft.changed(gone[0][2], id=lake.inode("/m/f").id))
    lake.namespace._take_over(draft, 1)
    assert lake.end(deleting, None) is None
    assert refused(lake.end(renaming, file("h")), NotFound)
    assert refused(lake.end(emptying, None), NotEmpty)
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
