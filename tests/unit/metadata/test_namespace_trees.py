"""Whole directories removed and renamed at once, the jobs that follow in the store, and what a listing is not believed about meanwhile."""

from __future__ import annotations

import sys

import pytest
from metadata_home import Home, directory, file, refused

from monofs.metadata.entries import (
    AddMount,
    AdoptPage,
    AdoptPath,
    Moved,
    MovedFile,
    RemoveBelow,
    SetLevel,
    SetPin,
    UpdateMount,
)
from monofs.metadata.intent_entries import Abandon, Publish
from monofs.metadata.tables import JOINED_LEVEL, JobKind, JobState
from monofs.model.errors import (
    Busy,
    ConditionFailed,
    CrossMount,
    InvalidArgument,
    MountPoint,
    NotADirectory,
    NotEmpty,
    NotFound,
    Overloaded,
)
from monofs.model.inode import Flag, decode_inode
from monofs.model.paths import parse_path


@pytest.fixture
def lake(home: Home) -> Home:
    """A mount at /m with a tree /m/a of two files and a directory with a third."""
    home.mount("/m")
    home.adopt("/m", [directory("a"), file("f")])
    home.adopt("/m/a", [directory("s"), file("x"), file("y")])
    home.adopt("/m/a/s", [file("z")])
    return home


def shown(home: Home, path: str) -> list[str]:
    """Keys where the store has what is below a directory of the tree."""
    return sorted(home.key(each) for each in home.tree() if each.startswith(path + "/") and not each.endswith("/"))


# ---- removing -------------------------------------------------------------------------------------------------------


def test_a_tree_is_gone_at_once_and_stays_readable_for_its_job(lake: Home) -> None:
    top = lake.inode("/m/a")
    number = lake.remove_tree("/m/a")
    assert not lake.exists("/m/a")
    job = lake.namespace.job(number)
    assert job is not None
    assert (job.kind, job.state, job.path, job.mount, job.key, job.directory, job.user) == (
        JobKind.DELETE,
        JobState.RUNNING,
        "/m/a",
        1,
        "a",
        top.id,
        "ann",
    )
    assert [name for name, _ in lake.namespace.children(top.id, b"", 10)] == [b"s/", b"x", b"y"]
    assert not lake.namespace.pending_removal()
    assert lake.apply(RemoveBelow(lake.stamp(), 100)) == 0
    assert lake.namespace.counts()["inodes"] == 7, "root, mount point, f, and four below"
    lake.update_job(number, state=JobState.DONE)
    while lake.apply(RemoveBelow(lake.stamp(), 1)):
        pass
    assert lake.namespace.counts()["inodes"] == 3


def test_under_no_mount_nothing_is_left_for_a_job(home: Home) -> None:
    home.mkdir("/d/e", parents=True)
    home.create("/d/f")
    assert home.remove_tree("/d") == 0
    assert len(home.namespace.known_jobs) == 0
    assert home.namespace.pending_removal()


def test_trees_that_cannot_go_are_refused(lake: Home) -> None:
    assert refused(lake.remove_tree("/m/none"), NotFound)
    assert refused(lake.remove_tree("/m/f"), NotADirectory)
    assert refused(lake.remove_tree("/m"), MountPoint)
    assert refused(lake.remove_tree("/"), MountPoint)
    lake.mount("/m/a/s/inner")
    refusal = lake.remove_tree("/m/a")
    assert refused(refusal, MountPoint)
    assert "/m/a/s/inner" in str(refusal)


def test_what_a_job_deletes_is_not_adopted_whenever_the_store_was_asked(lake: Home) -> None:
    number = lake.remove_tree("/m/a")
    found = [directory("a"), file("f")]
    assert lake.adopt("/m", found) == (0, 0, 0)
    assert refused(lake.adopt_path("/m/a/x", file("x")), NotFound)
    during = len(lake.log)
    lake.update_job(number, state=JobState.DONE)
    assert lake.adopt("/m", found, read_index=during) == (0, 0, 0)
    assert refused(lake.adopt_path("/m/a/x", file("x"), read_index=during), NotFound)
    assert lake.adopt("/m", found) == (1, 0, 0)


def test_a_new_tree_in_the_place_of_one_being_deleted_is_the_truth_there(lake: Home) -> None:
    number = lake.remove_tree("/m/a")
    lake.write("/m/a/x", "new")
    found = [file("x", "old"), file("y", "old"), directory("s")]
    assert lake.adopt("/m/a", found) == (0, 0, 0)
    assert not lake.inode("/m/a").flags & Flag.LOADED
    assert lake.adopt("/m/a", []) == (0, 0, 0)
    assert lake.names("/m/a") == [b"x"]
    assert lake.inode("/m/a/x").fingerprint == "e:new"
    lake.update_job(number, state=JobState.DONE)
    assert lake.adopt("/m/a", [file("x", "new")]) == (0, 0, 0)
    assert lake.inode("/m/a").flags & Flag.LOADED


def test_a_file_beside_a_prefix_being_deleted_is_not_covered_by_its_job(lake: Home) -> None:
    lake.remove_tree("/m/a")
    assert lake.adopt("/m", [file("a"), directory("a"), file("f")]) == (1, 0, 0)
    assert not lake.inode("/m/a").is_directory


def test_a_key_that_is_deleted_next_is_not_written_before(lake: Home) -> None:
    number = lake.remove_tree("/m/a")
    lake.update_job(number, doomed=["a/x"])
    refusal = lake.write("/m/a/x")
    assert refused(refusal, Busy)
    assert refusal.detail["job"] == number
    assert lake.write("/m/a/y")
    lake.update_job(number, doomed=[])
    assert lake.write("/m/a/x")


def test_tree_operations_wait_for_tree_jobs_at_above_and_below_and_file_operations_do_not(lake: Home) -> None:
    lake.adopt("/m", [directory("a"), directory("b"), directory("p"), file("f")])
    lake.adopt("/m/p", [directory("c")])
    lake.adopt("/m/p/c", [directory("d")])
    lake.remove_tree("/m/p/c")
    lake.write("/m/p/c/d/new")
    for refusal in (
        lake.remove_tree("/m/p"),
        lake.remove_tree("/m/p/c"),
        lake.remove_tree("/m/p/c/d"),
        lake.rename_tree("/m/p/c/d", "/m/e"),
        lake.rename_tree("/m/a", "/m/p/c/e"),
        lake.begin_rename("/m/p/c/d", "/m/e"),
        lake.apply(AddMount(lake.stamp(), "/m/p/c/mnt", "s3://b", {}, b"", False, False)),
    ):
        assert refused(refusal, Busy)
    assert refused(lake.begin_delete("/m/p/c/d"), NotEmpty)
    lake.end(lake.begin_delete("/m/p/c/d/new"), None)
    lake.end(lake.begin_mkdir("/m/p/c/made"), directory("made"))
    lake.end(lake.begin_delete("/m/p/c/made"), None)
    lake.end(lake.begin_rename("/m/f", "/m/p/c/f"), file("f"))
    assert lake.remove_tree("/m/a")
    assert [job.path for job in lake.namespace.open_tree_jobs()] == ["/m/p/c", "/m/a"]


# ---- renaming -------------------------------------------------------------------------------------------------------


def test_a_renamed_tree_has_its_new_names_at_once_and_its_objects_where_they_were(lake: Home) -> None:
    before = {path: inode.content for path, inode in lake.tree().items()}
    assert lake.rename_tree("/m/a", "/m/b") == (1, 0)
    assert lake.names("/m/b") == [b"s/", b"x", b"y"]
    assert not lake.exists("/m/a")
    assert lake.inode("/m/b").store_path == "a"
    assert shown(lake, "/m/b") == ["a/s/z", "a/x", "a/y"]
    assert lake.key("/m/b/none/at/all") == "a/none/at/all"
    assert lake.natural("/m/b/x") == "b/x"
    assert lake.inode("/m/b/x").content == before["/m/a/x"]
    job = lake.namespace.job(1)
    assert job is not None
    assert (job.kind, job.path, job.target, job.key, job.directory) == (
        JobKind.MOVE,
        "/m/a",
        "/m/b",
        "a",
        lake.inode("/m/b").id,
    )
    lake.lose_memory()
    lake.open()
    assert shown(lake, "/m/b") == ["a/s/z", "a/x", "a/y"]


def test_objects_moved_name_their_new_keys_and_at_the_end_nothing_says_otherwise(lake: Home) -> None:
    number, _ = lake.rename_tree("/m/a", "/m/b")
    assert lake.moved(number, "/m/b/x", "/m/b/s/z") == (0, 1)
    assert shown(lake, "/m/b") == ["a/y", "b/s/z", "b/x"]
    assert lake.inode("/m/b/x").fingerprint == "e:moved"
    job = lake.namespace.job(number)
    assert job is not None
    assert job.doomed == ["a/x", "a/s/z"]
    assert refused(lake.apply(Moved(lake.stamp(), number, [], True)), ConditionFailed)
    lake.update_job(number, doomed=[])
    assert lake.moved(number, "/m/b/y") == (0,)
    assert lake.finish_move(number) == ()
    assert lake.inode("/m/b").store_path is None
    assert shown(lake, "/m/b") == ["b/s/z", "b/x", "b/y"]
    ended = lake.namespace.job(number)
    assert ended is not None
    assert (ended.state, ended.ended_index) == (JobState.DONE, len(lake.log))
    assert refused(lake.moved(number), ConditionFailed)


def test_a_tree_renamed_again_lies_where_its_objects_are(lake: Home) -> None:
    number, _ = lake.rename_tree("/m/a", "/m/b")
    assert refused(lake.rename_tree("/m/b", "/m/c"), Busy)
    assert refused(lake.remove_tree("/m/b"), Busy)
    lake.moved(number, "/m/b/x", "/m/b/y", "/m/b/s/z")
    lake.finish_move(number)
    again, _ = lake.rename_tree("/m/b", "/m/c")
    assert shown(lake, "/m/c") == ["b/s/z", "b/x", "b/y"]
    lake.moved(again, "/m/c/x", "/m/c/y", "/m/c/s/z")
    lake.finish_move(again)
    assert shown(lake, "/m/c") == ["c/s/z", "c/x", "c/y"]


def test_a_directory_made_while_objects_were_moved_lies_with_the_one_above_it_at_the_next_renaming(lake: Home) -> None:
    def own_again(job: int, above: str, name: str) -> object:
        key = lake.inode(f"{above}/{name}").store_path or ""
        parent = lake.inode(above).id
        told = MovedFile(parent, name.encode() + b"/", 0, key, lake.natural(f"{above}/{name}"), "", 0)
        return lake.apply(Moved(lake.stamp(), job, [told]))

    number, _ = lake.rename_tree("/m/a", "/m/b")
    lake.end(lake.begin_mkdir("/m/b/made"), directory("made"))
    lake.write("/m/b/made/new")
    assert own_again(number, "/m/b", "made") == (), "its objects lie where its path says"
    lake.moved(number, "/m/b/x", "/m/b/y", "/m/b/s/z")
    lake.finish_move(number)
    again, _ = lake.rename_tree("/m/b", "/m/c")
    assert lake.inode("/m/c/made").store_path == "b/made"
    assert own_again(again, "/m/c", "made") == (0,)
    assert own_again(again, "/m/c", "made") == ()
    assert (lake.inode("/m/c/made").store_path, lake.key("/m/c/made")) == (None, "b/made")
    job = lake.namespace.job(again)
    assert job is not None
    assert job.doomed == []
    lake.moved(again, "/m/c/x", "/m/c/y", "/m/c/s/z", "/m/c/made/new")
    lake.finish_move(again)
    assert shown(lake, "/m/c") == ["c/made/new", "c/s/z", "c/x", "c/y"]


@pytest.mark.parametrize(("level", "after"), [(JOINED_LEVEL, "b/s"), (JOINED_LEVEL - 1, "a/s")])
def test_a_file_beside_a_directory_of_its_name_lies_where_its_own_record_says_from_a_level_on(
    lake: Home, level: int, after: str
) -> None:
    lake.apply(SetLevel(lake.stamp(), level))

    def lies(path: str) -> str:
        located = lake.namespace.lookup_key(parse_path(path)).located
        assert located is not None
        return located.key

    lake.adopt("/m/a", [directory("s"), file("s"), file("x"), file("y")])
    number, _ = lake.rename_tree("/m/a", "/m/b")
    assert lies("/m/b/s") == "a/s"
    b, parent = lake.inode("/m/b"), lake.inode("/m/b").id
    raw = lake.namespace.get_inode(parent, b"s")
    assert raw is not None
    told = MovedFile(b.id, b"s", raw.content, "a/s", "b/s", "e:moved", 10**18)
    assert lake.apply(Moved(lake.stamp(), number, [told])) == (0,)
    assert (lies("/m/b/s"), lies("/m/b/s/z"), lake.key("/m/b/s")) == (after, "a/s/z", "a/s")


def test_what_changed_while_it_was_copied_is_not_taken_for_moved(lake: Home) -> None:
    number, _ = lake.rename_tree("/m/a", "/m/b")
    b, x = lake.inode("/m/b"), lake.inode("/m/b/x")
    copied = MovedFile(b.id, b"x", x.content, "a/x", "b/x", "e:moved", 10**18)
    intent = lake.begin_write("/m/b/x")
    assert intent.key == "a/x"
    assert lake.apply(Moved(lake.stamp(), number, [copied])) == ()
    lake.end(intent, file("x", "2"))
    assert lake.apply(Moved(lake.stamp(), number, [copied])) == ()
    parts = lake.begin_write("/m/b/x", size=-1)
    fresh = MovedFile(b.id, b"x", lake.inode("/m/b/x").content, "a/x", "b/x", "e:moved", 10**18)
    assert lake.apply(Moved(lake.stamp(), number, [fresh])) == (), "the parts are sent for the old key"
    assert parts.key == "a/x"
    lake.end(lake.begin_delete("/m/b/y"), None)
    gone = MovedFile(b.id, b"y", 1, "a/y", "b/y", "e:moved", 10**18)
    lost = MovedFile(999, b"y", 1, "a/y", "b/y", "e:moved", 10**18)
    assert lake.apply(Moved(lake.stamp(), number, [gone, lost])) == ()
    assert shown(lake, "/m/b") == ["a/s/z", "a/x"]
    for intent in lake.namespace.intents(0, 10):
        lake.apply(Abandon(lake.stamp(), intent.number, 1002, ""))
    assert lake.apply(Moved(lake.stamp(), number, [fresh])) == (0,)


def test_new_names_below_a_renamed_tree_lie_where_their_path_says(lake: Home) -> None:
    number, _ = lake.rename_tree("/m/a", "/m/b")
    lake.write("/m/b/new")
    lake.write("/m/b/s/new")
    lake.write("/m/b/fresh/deep/new")
    lake.end(lake.begin_mkdir("/m/b/made"), directory("made"))
    lake.write("/m/b/made/new")
    lake.end(lake.begin_rename("/m/b/x", "/m/b/s/renamed"), file("renamed"))
    lake.end(lake.begin_rename("/m/b/y", "/m/out"), file("out"))
    lake.end(lake.begin_copy("/m/f", "/m/b/copy"), file("copy"))
    lake.keep("/m/b/scratch")
    assert shown(lake, "/m/b") == [
        "a/s/z",
        "b/copy",
        "b/fresh/deep/new",
        "b/made/new",
        "b/new",
        "b/s/new",
        "b/s/renamed",
        "b/scratch",
    ]
    assert lake.key("/m/out") == "out"
    assert lake.inode("/m/b/fresh").store_path == "b/fresh"
    assert lake.inode("/m/b/fresh/deep/new").store_path is None
    lake.moved(number, "/m/b/s/z")
    lake.finish_move(number)
    assert all(key.startswith("b/") for key in shown(lake, "/m/b"))


def test_a_write_where_an_object_has_still_to_be_moved_from_waits_for_that(lake: Home) -> None:
    number, _ = lake.rename_tree("/m/a", "/m/b")
    for refusal in (
        lake.write("/m/a/x"),
        lake.write("/m/a/s/z"),
        lake.begin_copy("/m/f", "/m/a/y", parents=True),
    ):
        assert refused(refusal, Busy)
        assert refusal.detail["job"] == number
    parts = lake.begin_write("/m/a/x", size=-1)
    assert refused(lake.apply(Publish(lake.stamp(), parts.number, 1)), Busy)
    lake.apply(Abandon(lake.stamp(), parts.number, 1002, ""))
    lake.write("/m/a/other")
    lake.moved(number, "/m/b/x")
    assert refused(lake.write("/m/a/x"), Busy), "its old object is deleted next"
    lake.update_job(number, doomed=[])
    assert lake.write("/m/a/x", "new")
    assert (lake.key("/m/a/x"), lake.key("/m/b/x")) == ("a/x", "b/x")


def test_listings_of_a_tree_being_moved_are_of_its_old_place_and_say_nothing_of_what_left_it(lake: Home) -> None:
    number, _ = lake.rename_tree("/m/a", "/m/b")
    lake.write("/m/b/new", "1")
    lake.moved(number, "/m/b/x")
    found = [directory("s"), file("y", "2"), file("late")]
    assert lake.adopt("/m/b", found) == (1, 1, 0)
    assert lake.key("/m/b/late") == "a/late"
    assert lake.names("/m/b") == [b"late", b"new", b"s/", b"x", b"y"]
    assert lake.adopt("/m/b", [file("new", "9"), file("x", "9")]) == (0, 0, 2), "y and late; no directory goes"
    assert lake.names("/m/b") == [b"new", b"s/", b"x"]
    assert lake.inode("/m/b/new").fingerprint == "e:1"


def test_what_is_made_where_a_renamed_tree_was_is_not_taken_for_a_part_of_it(lake: Home) -> None:
    lake.rename_tree("/m/a", "/m/b")
    lake.write("/m/a/new", "1")
    lake.write("/m/a/t/deep", "1")
    begun = lake.begin_write("/m/a/begun")
    shown = [directory("s"), directory("t"), file("begun"), file("late"), file("new"), file("x"), file("y")]
    assert lake.adopt("/m/b", shown) == (1, 0, 0)
    assert lake.names("/m/b") == [b"late", b"s/", b"x", b"y"]
    assert refused(lake.adopt_path("/m/b/new", file("new")), NotFound)
    assert refused(lake.adopt_path("/m/b/t/deep", file("deep")), NotFound)
    lake.end(begun, file("begun"))
    assert lake.names("/m/a") == [b"begun", b"new", b"t/"]
    assert (lake.key("/m/a/new"), lake.key("/m/b/late")) == ("a/new", "a/late")


def test_listings_beside_a_tree_being_moved_neither_take_it_away_nor_bring_it_back(lake: Home) -> None:
    number, _ = lake.rename_tree("/m/a", "/m/b")
    before = len(lake.log)
    for found in ([directory("a"), file("f")], [directory("b"), file("f")], [file("f")]):
        assert lake.adopt("/m", found) == (0, 0, 0)
    lake.moved(number, "/m/b/x", "/m/b/y", "/m/b/s/z")
    lake.finish_move(number)
    assert lake.adopt("/m", [directory("a"), file("f")], read_index=before) == (0, 0, 0)
    assert lake.adopt("/m", [directory("b"), file("f")]) == (0, 0, 0)
    assert lake.adopt("/m/b", [directory("s"), file("x", "moved"), file("y", "out")]) == (0, 1, 0)
    assert lake.inode("/m/b/y").fingerprint == "e:out"
    assert lake.adopt("/m/b/s", []) == (0, 0, 1)


def test_a_directory_above_a_tree_being_moved_is_not_removed_though_the_store_shows_none(lake: Home) -> None:
    lake.adopt("/m", [directory("a"), directory("p"), file("f")])
    number, _ = lake.rename_tree("/m/a", "/m/p/b")
    assert lake.adopt("/m", [file("f")]) == (0, 0, 0)
    assert lake.exists("/m/p/b/x")
    during = len(lake.log)
    lake.moved(number, "/m/p/b/x", "/m/p/b/y", "/m/p/b/s/z")
    lake.finish_move(number)
    assert lake.adopt("/m", [file("f")], read_index=during) == (0, 0, 0)
    assert lake.adopt("/m", [file("f")]) == (0, 0, 1)


def test_a_look_at_one_path_of_a_moving_tree_is_of_where_its_object_lies(lake: Home) -> None:
    number, _ = lake.rename_tree("/m/a", "/m/b")
    lake.moved(number, "/m/b/x")
    raw = lake.adopt_path("/m/b/x", file("x", "outside"))
    assert decode_inode(raw).fingerprint == "e:outside"
    assert lake.key("/m/b/x") == "b/x"
    raw = lake.adopt_path("/m/b/s/late", file("late"))
    assert lake.key("/m/b/s/late") == "a/s/late"
    assert refused(lake.adopt_path("/m/b/x"), NotFound)


def test_what_was_asked_about_another_key_is_not_believed(lake: Home) -> None:
    top = lake.inode("/m/a").id
    mount = lake.covering("/m").id
    intent = lake.begin_rename("/m/a", "/m/b")
    lake.end(intent, directory("b"))
    now = len(lake.log)
    page = AdoptPage(lake.stamp(), top, mount, now, b"", None, [], True, "a")
    assert refused(lake.apply(page), ConditionFailed)
    look = AdoptPath(lake.stamp(), "/m/b/x", mount, now, None, None, "a/x")
    assert refused(lake.apply(look), ConditionFailed)
    assert lake.exists("/m/b/x")
    page = AdoptPage(lake.stamp(), top, mount, now, b"", None, [directory("s"), file("y")], False, "b")
    assert lake.apply(page) == (0, 0, 1)
    look = AdoptPath(lake.stamp(), "/m/b/y", mount, len(lake.log), None, None, "b/y")
    assert refused(lake.apply(look), NotFound)


def test_renames_of_trees_are_refused_as_rename_2_does(lake: Home) -> None:
    lake.adopt("/m", [directory("a"), directory("empty"), directory("full"), file("f")])
    lake.adopt("/m/full", [file("x")])
    lake.mount("/n")
    lake.mkdir("/plain")
    cases = [
        (("/m/none", "/m/x"), NotFound),
        (("/m/f", "/m/x"), NotADirectory),
        (("/m/a", "/m/f"), NotADirectory),
        (("/m/a", "/m/full"), NotEmpty),
        (("/m/a", "/m/a/s/x"), InvalidArgument),
        (("/m/a", "/m/none/x"), NotFound),
        (("/m/a", "/n/a"), CrossMount),
        (("/plain", "/other"), ConditionFailed),
        (("/m", "/x"), MountPoint),
    ]
    for (source, target), error in cases:
        assert refused(lake.rename_tree(source, target), error)
    assert lake.rename_tree("/m/a", "/m/a") == (0, 0)
    assert lake.rename_tree("/m/a", "/m/empty") == (1, 0)
    assert shown(lake, "/m/empty") == ["a/s/z", "a/x", "a/y"]


def test_a_renamed_tree_takes_pins_and_what_no_store_has_along(lake: Home) -> None:
    lake.keep("/m/a/s/scratch")
    lake.apply(SetPin(lake.stamp(), "/m/a", True))
    lake.end(lake.begin_mkdir("/m/p"), directory("p"))
    number, _ = lake.rename_tree("/m/a", "/m/p/b")
    assert lake.inode("/m/p").flags & Flag.EXPLICIT
    assert lake.namespace.lookup(parse_path("/m/p/b/x")).pinned
    assert lake.moved(number, "/m/p/b/s/scratch") == (), "no store has it, so nothing of it is moved"
    assert lake.namespace.places(lake.inode("/m/p/b/s/scratch").content) is not None
    lake.moved(number, "/m/p/b/x", "/m/p/b/y", "/m/p/b/s/z")
    lake.finish_move(number)
    assert lake.adopt("/m", [file("f")]) == (0, 0, 0)


def test_what_is_moved_in_one_entry_is_bounded(lake: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = sys.modules["monofs.metadata.ops.moved"]  # its package shows the operation of that name
    number, _ = lake.rename_tree("/m/a", "/m/b")
    monkeypatch.setattr(moved, "FILES_MAX", 1)
    assert refused(lake.moved(number, "/m/b/x", "/m/b/y"), InvalidArgument)
    monkeypatch.setattr(moved, "DOOMED_MAX", 1)
    assert lake.moved(number, "/m/b/x") == (0,)
    assert refused(lake.moved(number, "/m/b/y"), Overloaded)
    assert refused(lake.moved(99), NotFound)


# ---- adoption beside intents --------------------------------------------------------------------------------------------


def test_listings_leave_alone_what_is_being_changed(lake: Home) -> None:
    writing, deleting = lake.begin_write("/m/a/new"), lake.begin_delete("/m/f")
    renaming = lake.begin_rename("/m/a/x", "/m/a/w")
    assert lake.adopt("/m", [directory("a")]) == (0, 0, 0)
    found = [directory("s"), file("new", "8"), file("w", "9"), file("y")]
    assert lake.adopt("/m/a", found) == (0, 0, 0)
    assert refused(lake.adopt_path("/m/a/new", file("new", "8")), NotFound)
    assert lake.adopt("/m", []) == (0, 0, 0), "a is above what is being written"
    lake.end(writing, file("new", "8"))
    lake.end(deleting, None)
    lake.end(renaming, file("w", "9"))
    assert lake.adopt("/m/a", found) == (0, 0, 0)


def test_nothing_is_adopted_in_a_directory_that_is_being_changed(lake: Home) -> None:
    lake.adopt("/m/a/s", [])
    intent = lake.begin_delete("/m/a/s")
    assert lake.adopt("/m/a/s", [file("late")]) == (0, 0, 0)
    assert refused(lake.adopt_path("/m/a/s/late", file("late")), NotFound)
    assert lake.end(intent, None) is None


def test_a_listing_older_than_what_was_written_below_a_directory_does_not_remove_it(lake: Home) -> None:
    slow = len(lake.log)
    lake.write("/m/a/s/new")
    assert lake.adopt("/m", [], read_index=slow) == (0, 0, 1)
    assert lake.exists("/m/a/s/new")
    assert lake.adopt("/m/a", [file("x"), file("y")], read_index=slow) == (0, 0, 0)
    assert lake.exists("/m/a/s/new")
    lake.end(lake.begin_write("/m/f"), file("f", "2"))
    assert lake.adopt("/m", [directory("a"), file("f", "1")], read_index=slow) == (0, 0, 0)
    assert lake.inode("/m/f").fingerprint == "e:2"


def test_a_read_only_mount_still_takes_over_what_its_store_shows(lake: Home) -> None:
    index = lake.covering("/m").changed_index
    lake.apply(UpdateMount(lake.stamp(), "/m", index, {}, b"", True))
    assert lake.adopt("/m", [directory("a")]) == (0, 0, 1)
