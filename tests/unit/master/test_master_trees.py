"""Whole directories: removed and renamed in the tree at once, and in the store by jobs that meet writers, outsiders and restarts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from lakes import Lake, ended, job, remove_tree, rename, start, steer, tree, wait_until_ended
from master_house import Held, House
from scribe import Scribe

from monofs.config.schema import Config, MasterConfig
from monofs.master.job_acts import came_after
from monofs.master.job_delete import is_doomed
from monofs.model.errors import (
    Busy,
    InvalidArgument,
    NotFound,
    NotLeader,
    NotSupported,
    OutcomeUnknown,
    Overloaded,
    UfsDenied,
    UfsFailed,
    UfsThrottled,
    UfsUnknown,
)
from monofs.model.ids import InodeId
from monofs.model.inode import Inode
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.ufs import s3_uploads
from monofs.ufs.base import UfsEntry

IMPATIENT = Config(master=MasterConfig(busy_wait_s=0.2))


@pytest.fixture
def house(make_house: Callable[..., House], lake: Lake) -> House:
    made = make_house(IMPATIENT)
    lake.mount(made)
    return made


@pytest.fixture
def objects(bucket: object) -> Lake:
    return Lake(None, bucket)  # type: ignore[arg-type]


@pytest.fixture
def object_house(make_house: Callable[..., House], objects: Lake) -> House:
    made = make_house(IMPATIENT)
    objects.mount(made)
    return made


def many(lake: Lake, count: int = 30) -> None:
    for number in range(count):
        lake.put(f"d/{number % 3}/f{number:03}", b"%d" % number)
    lake.put("d/top", b"t")
    lake.put("other/f", b"o")


# ---- removing ------------------------------------------------------------------------------------------------------------


def test_a_removed_tree_is_gone_at_once_and_its_objects_follow(house: House, lake: Lake) -> None:
    many(lake)
    tree(house, "/lake")
    number = remove_tree(house, "/lake/d")
    assert tree(house, "/lake") == ["/lake/other/", "/lake/other/f"]
    done = ended(house, number)
    assert (done.kind, done.state, done.path, done.failed) == ("delete", "done", "/lake/d", 0)
    assert lake.listed() == ["other/f"]
    assert tree(house, "/lake", 0) == ["/lake/other/", "/lake/other/f"]


def test_what_the_tree_never_saw_goes_with_its_directory(house: House, lake: Lake) -> None:
    many(lake)
    house.stat("/lake/d")
    ended(house, remove_tree(house, "/lake/d"))
    assert lake.listed() == ["other/f"]


def test_an_empty_directory_goes_with_its_marker(house: House, lake: Lake) -> None:
    lake.put("d/e/", b"")
    lake.put("d/", b"")
    house.list("/lake/d")
    ended(house, remove_tree(house, "/lake/d"))
    assert lake.listed() == []


def test_a_new_tree_in_the_place_of_the_removed_one_is_left_alone(house: House, lake: Lake) -> None:
    many(lake)
    tree(house, "/lake")
    held = house.hold("scan" if lake.bucket else "sweep")
    number = remove_tree(house, "/lake/d")
    held.wait_until_there()
    scribe = Scribe(house)
    scribe.write("/lake/d/0/f003", b"new")
    scribe.write("/lake/d/new", b"newer")
    assert tree(house, "/lake/d") == ["/lake/d/0/", "/lake/d/0/f003", "/lake/d/new"]
    held.release()
    assert ended(house, number).failed == 0
    assert lake.listed() == ["d/0/f003", "d/new", "other/f"]
    assert (lake.get("d/0/f003"), lake.get("d/new")) == (b"new", b"newer")
    assert tree(house, "/lake/d", 0) == ["/lake/d/0/", "/lake/d/0/f003", "/lake/d/new"]


def test_what_comes_from_outside_after_the_removal_stays_and_shows_when_the_job_is_done(
    object_house: House, objects: Lake
) -> None:
    house, lake = object_house, objects
    many(lake)
    tree(house, "/lake")
    held = house.hold("scan")
    number = remove_tree(house, "/lake/d")
    held.wait_until_there()
    lake.put("d/late", b"from outside")
    lake.put("d/top", b"anew")
    with pytest.raises(NotFound):
        house.stat("/lake/d/late", 0)
    held.release()
    ended(house, number)
    assert lake.listed() == ["d/late", "d/top", "other/f"]
    house.now_s += 3600
    assert tree(house, "/lake/d") == ["/lake/d/late", "/lake/d/top"]


def test_a_paused_deletion_goes_on_when_resumed_and_cannot_be_stopped(house: House, lake: Lake) -> None:
    many(lake)
    tree(house, "/lake")
    held = house.hold("scan" if lake.bucket else "remove_tree")
    number = remove_tree(house, "/lake/d")
    held.wait_until_there()
    assert steer(house, number, "pause").state == "paused"
    with pytest.raises(NotSupported, match="only paused"):
        steer(house, number, "stop")
    held.release()
    with pytest.raises(Busy, match=f"job {number}"):
        remove_tree(house, "/lake")
    assert job(house, number).state == "paused"
    assert steer(house, number, "resume").state == "running"
    ended(house, number)
    assert lake.listed() == ["other/f"]
    with pytest.raises(InvalidArgument, match="has ended"):
        steer(house, number, "stop")


@pytest.mark.parametrize("point", ["scan", "delete_many", "remove_tree", "sweep"])
def test_a_deletion_goes_on_after_a_restart(house: House, lake: Lake, point: str) -> None:
    if (point in ("scan", "delete_many")) != (lake.bucket is not None):
        pytest.skip("not a step of this store")
    many(lake)
    tree(house, "/lake")
    held = house.hold(point)
    number = remove_tree(house, "/lake/d")
    held.wait_until_there()
    held.release()
    house.restart()
    ended(house, number)
    assert lake.listed() == ["other/f"]
    assert tree(house, "/lake", 0) == ["/lake/other/", "/lake/other/f"]


def test_objects_that_cannot_be_deleted_are_counted_named_and_tried_again(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    many(lake)
    tree(house, "/lake")
    refused = 1

    def refuse(name: str, *_: object) -> None:
        nonlocal refused
        if refused:
            refused -= 1
            raise UfsDenied("no permission to delete here")

    house.watch.before["delete_many"] = lambda: refuse("delete_many")
    number = remove_tree(house, "/lake/d")
    done = ended(house, number)
    assert (done.state, done.failed, done.failures) == ("done", 0, [])
    assert lake.listed() == ["other/f"]


def test_a_deletion_waits_for_a_store_that_does_not_answer(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    many(lake)
    tree(house, "/lake")
    failures = 4

    def fail() -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise UfsThrottled("slow down")

    house.watch.before["scan"] = fail
    number = remove_tree(house, "/lake/d")
    done = ended(house, number)
    assert (done.state, done.error, failures) == ("done", "", 0)
    assert lake.listed() == ["other/f"]


def test_a_tree_under_no_mount_needs_no_job(house: House) -> None:
    Scribe(house).write("/scratch/a/b", b"1")
    assert remove_tree(house, "/scratch") == 0
    with pytest.raises(NotFound):
        house.stat("/scratch")


def test_keys_no_path_can_name_go_with_their_directory(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    lake.put("d/a", b"1")
    lake.put("d//b", b"2")
    lake.put("d/../c", b"3")
    tree(house, "/lake")
    ended(house, remove_tree(house, "/lake/d"))
    assert lake.listed() == []


# ---- renaming ------------------------------------------------------------------------------------------------------------


def test_a_renamed_directory_has_its_name_at_once_and_its_objects_follow(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    many(lake)
    before = {path: house.stat(path).content for path in tree(house, "/lake/d") if not path.endswith("/")}
    held = house.hold("copy")
    number = rename(house, "/lake/d", "/lake/e")
    held.wait_until_there()
    assert house.stat("/lake/e/top").content == before["/lake/d/top"]
    with pytest.raises(NotFound):
        house.stat("/lake/d/top", 0)
    held.release()
    done = ended(house, number)
    assert (done.kind, done.state, done.done, done.total, done.failed) == ("move", "done", 31, 31, 0)
    assert done.bytes_done == sum(len(b"%d" % number) for number in range(30)) + 1
    assert not [key for key in lake.listed() if key.startswith("d/")]
    house.now_s += 3600
    after = {path: house.stat(path).content for path in tree(house, "/lake/e") if not path.endswith("/")}
    assert after == {path.replace("/lake/d", "/lake/e"): content for path, content in before.items()}, "still warm"


def test_what_only_the_store_knew_moves_along(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    many(lake)
    house.stat("/lake/d")
    ended(house, rename(house, "/lake/d", "/lake/e"))
    assert [key for key in lake.listed() if not key.startswith("e/")] == ["other/f"]
    assert len(lake.listed()) == 32
    assert house.stat("/lake/e/2/f002").size == 1


def test_markers_and_unnameable_keys_move_along(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    for key in ("d/", "d/e/", "d/f/g/", "d//x"):
        lake.put(key, b"")
    lake.put("d/f/h", b"1")
    tree(house, "/lake")
    ended(house, rename(house, "/lake/d", "/lake/n"))
    assert lake.listed() == ["n/", "n//x", "n/e/", "n/f/g/", "n/f/h"]
    assert tree(house, "/lake", 0) == ["/lake/n/", "/lake/n/e/", "/lake/n/f/", "/lake/n/f/g/", "/lake/n/f/h"]


def test_an_empty_directory_moves(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/lake/d"))
    ended(house, rename(house, "/lake/d", "/lake/e"))
    assert lake.listed() == ["e/"]
    assert tree(house, "/lake", 0) == ["/lake/e/"]


def test_a_file_written_at_a_former_path_comes_to_its_key_after_the_old_object_left_it(
    object_house: House, objects: Lake
) -> None:
    house, lake = object_house, objects
    many(lake)
    tree(house, "/lake")
    number = rename(house, "/lake/d", "/lake/e")
    steer(house, number, "pause")
    scribe = Scribe(house)
    scribe.write("/lake/d/top", b"new")
    assert (lake.get("d/top"), lake.get("e/top")) == (b"new", b"t")
    steer(house, number, "resume")
    ended(house, number)
    assert (lake.get("d/top"), lake.get("e/top")) == (b"new", b"t")
    assert [key for key in lake.listed() if key.startswith("d/")] == ["d/top"]
    assert tree(house, "/lake/d", 0) == ["/lake/d/top"]


def test_files_written_removed_and_overwritten_below_the_new_name_meanwhile_end_as_told(
    object_house: House, objects: Lake
) -> None:
    house, lake = object_house, objects
    many(lake)
    tree(house, "/lake")
    held = house.hold("copy")
    number = rename(house, "/lake/d", "/lake/e")
    held.wait_until_there()
    steer(house, number, "pause")
    held.release()
    scribe = Scribe(house)
    scribe.write("/lake/e/new", b"new")
    scribe.write("/lake/e/2/f029", b"over")
    house.ask(Method.DELETE, api.DeleteRequest("/lake/e/2/f026"))
    steer(house, number, "resume")
    ended(house, number)
    assert not [key for key in lake.listed() if key.startswith("d/")]
    assert (lake.get("e/new"), lake.get("e/2/f029")) == (b"new", b"over")
    assert "e/2/f026" not in lake.listed()
    assert house.stat("/lake/e/2/f029", 0).size == 4


def test_an_object_put_at_the_new_key_from_outside_wins(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    many(lake)
    tree(house, "/lake")
    held = house.hold("copy")
    number = rename(house, "/lake/d", "/lake/e")
    held.wait_until_there()
    lake.put("e/2/f029", b"from outside")
    held.release()
    ended(house, number)
    assert lake.get("e/2/f029") == b"from outside"
    assert not [key for key in lake.listed() if key.startswith("d/")]
    house.now_s += 3600
    assert house.stat("/lake/e/2/f029").size == len(b"from outside")


def test_what_comes_to_the_former_prefix_from_outside_shows_there_when_the_job_is_done(
    object_house: House, objects: Lake
) -> None:
    house, lake = object_house, objects
    many(lake)
    tree(house, "/lake")
    held = house.hold("copy")
    number = rename(house, "/lake/d", "/lake/e")
    held.wait_until_there()
    lake.put("d/late", b"from outside")
    held.release()
    ended(house, number)
    assert [key for key in lake.listed() if key.startswith("d/")] == ["d/late"]
    house.now_s += 3600
    assert tree(house, "/lake/d") == ["/lake/d/late"]


@pytest.mark.parametrize("point", ["copy", "delete_many", "scan"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_move_goes_on_after_a_restart_at_any_step(object_house: House, objects: Lake, point: str, when: str) -> None:
    house, lake = object_house, objects
    many(lake)
    before = {path: house.stat(path).content for path in tree(house, "/lake/d") if not path.endswith("/")}
    held = Held()
    (house.watch.before if when == "before" else house.watch.after)[point] = held
    number = rename(house, "/lake/d", "/lake/e")
    held.wait_until_there()
    held.release()
    house.restart()
    ended(house, number)
    assert [key for key in lake.listed() if not key.startswith("e/")] == ["other/f"]
    after = {path: house.stat(path).content for path in tree(house, "/lake/e", 0) if not path.endswith("/")}
    assert after == {path.replace("/lake/d", "/lake/e"): content for path, content in before.items()}


def test_the_upload_a_large_object_is_copied_by_is_recorded_and_aborted_after_a_crash(
    object_house: House, objects: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, lake = object_house, objects
    assert lake.bucket is not None
    monkeypatch.setattr(s3_uploads, "COPY_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(s3_uploads, "COPY_PART_BYTES", 5 << 20)
    data = bytes(range(256)) * (12 << 12)
    lake.put("d/large", data)
    content = house.stat("/lake/d/large").content
    held, real = [Held()], s3_uploads.S3Uploads._copy_part

    def copy_part(store: s3_uploads.S3Uploads, *part: Any) -> str:
        if held:
            held[0]()
        return real(store, *part)

    monkeypatch.setattr(s3_uploads.S3Uploads, "_copy_part", copy_part)
    number = rename(house, "/lake/d", "/lake/e")
    held[0].wait_until_there()
    record = house.namespace.job(number)
    assert record is not None
    assert set(record.uploads) == {"e/large"}
    first = held.pop()
    house.restart()
    ended(house, number)
    first.release()
    assert lake.listed() == ["e/large"]
    assert lake.get("e/large") == data
    assert lake.bucket.uploads() == {}
    house.now_s += 3600
    assert house.stat("/lake/e/large").content == content, "the copy has another etag and the same bytes"


def test_a_copy_whose_answer_was_lost_is_found(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    many(lake)
    tree(house, "/lake")
    losses = 5

    def lose() -> None:
        nonlocal losses
        if losses:
            losses -= 1
            raise UfsFailed("the answer was lost")

    house.watch.after["copy"] = lose
    done = ended(house, rename(house, "/lake/d", "/lake/e"))
    assert (done.state, done.failed, losses) == ("done", 0, 0)
    assert len(lake.listed()) == 32


def test_a_chain_of_renames_leaves_the_objects_at_the_last_name(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    many(lake)
    tree(house, "/lake")
    names = ["d", "e", "f", "g"]
    for source, target in pairwise(names):
        ended(house, rename(house, f"/lake/{source}", f"/lake/{target}"))
    assert [key for key in lake.listed() if not key.startswith("g/")] == ["other/f"]
    lake.put("g/top", b"changed outside")
    house.now_s += 3600
    house.list("/lake/g")
    assert house.stat("/lake/g/top").size == len(b"changed outside")


def test_directories_made_while_objects_were_moved_lie_with_the_rest_at_the_next_renaming(
    object_house: House, objects: Lake
) -> None:
    house, lake = object_house, objects
    lake.put("d/f")
    tree(house, "/lake")
    number = rename(house, "/lake/d", "/lake/e")
    steer(house, number, "pause")
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/lake/e/made"))
    Scribe(house).write("/lake/e/led/to/x", b"1", parents=True)
    steer(house, number, "resume")
    ended(house, number)
    ended(house, rename(house, "/lake/e", "/lake/f"))
    for key in ("f/made/late", "f/led/late", "f/led/to/late"):
        lake.put(key)
    house.now_s += 61
    number = rename(house, "/lake/f", "/lake/e")
    steer(house, number, "pause")
    found = [path for path in tree(house, "/lake/e", 0) if not path.endswith("/")]
    assert found == [f"/lake/e/{name}" for name in ("f", "led/late", "led/to/late", "led/to/x", "made/late")]
    steer(house, number, "resume")
    ended(house, number)
    assert [key for key in lake.listed() if not key.endswith("/")] == [path.removeprefix("/lake/") for path in found]


def test_tree_operations_over_an_open_job_get_busy_with_its_number(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    many(lake)
    tree(house, "/lake")
    held = house.hold("copy")
    number = rename(house, "/lake/d", "/lake/e")
    held.wait_until_there()
    for act in (lambda: remove_tree(house, "/lake/e"), lambda: rename(house, "/lake/e", "/lake/f")):
        with pytest.raises(Busy, match=f"job {number}"):
            act()
    held.release()
    ended(house, number)


# ---- told ----------------------------------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_and_unknown_ones_are_named(house: House, lake: Lake) -> None:
    many(lake)
    first, second = start(house, "sync", "/lake"), start(house, "sync", "/lake/d")
    ended(house, first)
    ended(house, second)
    assert [each.number for each in house.ask(Method.JOB_LIST, api.JobListRequest()).jobs] == [second, first]
    with pytest.raises(NotFound, match="no job 99"):
        job(house, 99)


# ---- what came when --------------------------------------------------------------------------------------------------------

REMOVED_NS = 1_700_000_000_500_000_000


@pytest.mark.parametrize(
    ("offset_ns", "is_after"),
    [(-2_000_000_001, False), (-1, False), (0, False), (1, True), (2_000_000_000, True)],
)
def test_an_object_is_newer_than_a_removal_by_its_time(offset_ns: int, is_after: bool) -> None:
    entry = UfsEntry(b"x", False, 1, REMOVED_NS + offset_ns, "e:1")
    assert came_after(entry, REMOVED_NS) is is_after


def test_a_time_in_whole_seconds_may_hide_that_an_object_is_newer() -> None:
    for seconds, is_after in ((1_699_999_999, False), (1_700_000_000, True), (1_700_000_001, True)):
        assert came_after(UfsEntry(b"x", False, 1, seconds * 10**9, "e:1"), REMOVED_NS) is is_after


def test_the_version_the_tree_knew_goes_however_late_it_seems_but_not_the_same_bytes_put_again() -> None:
    late = REMOVED_NS + 5 * 10**9
    known = Inode(kind=1, id=InodeId(7), fingerprint="e:1", mtime_ns=late)
    assert is_doomed(REMOVED_NS, known, UfsEntry(b"x", False, 1, late, "e:1"))
    assert not is_doomed(REMOVED_NS, known, UfsEntry(b"x", False, 1, late + 10**9, "e:1"))
    assert not is_doomed(REMOVED_NS, known, UfsEntry(b"x", False, 1, late, "e:2"))
    assert not is_doomed(REMOVED_NS, None, UfsEntry(b"x", False, 1, late, "e:1"))


@pytest.mark.parametrize("seed", range(3))
def test_a_journal_that_does_not_tell_what_it_took_changes_nothing_of_this(
    make_house: Callable[..., House], objects: Lake, seed: int
) -> None:
    """Rule: an entry whose outcome is unknown is proposed again, and only the state tells what it did."""
    lake, house = objects, make_house(IMPATIENT)
    lake.mount(house)
    many(lake, 120)
    before = {path: house.stat(path).content for path in tree(house, "/lake/d") if not path.endswith("/")}
    house.stop()
    house.flaky = seed
    house.start()
    try:
        number = rename(house, "/lake/d", "/lake/e")
    except (OutcomeUnknown, Overloaded, NotLeader, UfsUnknown):
        jobs = house.namespace.open_tree_jobs()
        if not jobs:
            return
        number = jobs[0].number
    wait_until_ended(house, number)
    assert [key for key in lake.listed() if not key.startswith("e/")] == ["other/f"]
    house.stop()
    house.flaky = None
    house.start()
    after = {path: house.stat(path).content for path in tree(house, "/lake/e", 0) if not path.endswith("/")}
    assert after == {path.replace("/lake/d", "/lake/e"): content for path, content in before.items()}
