"""Names changed in a store and then in the tree, as intents: deleted, renamed, copied, made."""

from __future__ import annotations

import pytest
from intent_lake import ANN, lay, nothing_is_left, told
from metadata_home import Home, directory, file, refused

from monofs.metadata.intent_entries import Asker, BeginMakeDirectory, BeginRename
from monofs.metadata.tables import FeedKind, IntentKind
from monofs.model.errors import (
    AlreadyExists,
    Busy,
    ConditionFailed,
    CrossMount,
    InvalidArgument,
    IsADirectory,
    MountPoint,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotSupported,
)
from monofs.model.inode import Flag, decode_inode


@pytest.fixture
def lake(home: Home) -> Home:
    return lay(home)


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
