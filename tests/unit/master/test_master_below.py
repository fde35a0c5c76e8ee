"""Names below mounts are changed in the store and in the tree: deleted, renamed, copied, made, whoever comes between."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from acts import PATIENT, ask, is_open
from lakes import Lake
from master_house import House
from scribe import Asking, Scribe, inode_of

from monofs.model.errors import (
    AlreadyExists,
    Busy,
    CrossMount,
    IsADirectory,
    MonofsError,
    NotEmpty,
    NotFound,
    NotSupported,
    UfsDenied,
    UfsFailed,
    UfsUnknown,
)
from monofs.model.inode import Flag, Kind
from monofs.observe.audit import AUDIT_LOGGER
from monofs.rpc import api
from monofs.rpc.api import Method

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def house(make_house: Callable[..., House], lake: Lake) -> House:
    made = make_house(PATIENT)
    lake.mount(made)
    return made


# ---- what each change does ---------------------------------------------------------------------------------------------


def test_a_deleted_file_is_gone_from_both(house: House, lake: Lake) -> None:
    lake.put("d/f", b"1")
    lake.put("d/g", b"2")
    ask(house, Method.DELETE, "/lake/d/f")
    assert lake.listed() == ["d/g"]
    house.asked()
    with pytest.raises(NotFound):
        house.stat("/lake/d/f")
    assert house.asked() == [], "what was deleted is known to be missing"
    with pytest.raises(NotFound):
        ask(house, Method.DELETE, "/lake/d/f")


def test_a_renamed_file_keeps_its_content_and_its_bytes_move_in_the_store(house: House, lake: Lake) -> None:
    lake.put("d/f", b"bytes")
    before = house.stat("/lake/d/f")
    with pytest.raises(NotFound, match="should hold"):
        ask(house, Method.RENAME, "/lake/d/f", "/lake/e/new/g")
    ask(house, Method.MAKE_DIRECTORY, "/lake/e/new", parents=True)
    after = inode_of(ask(house, Method.RENAME, "/lake/d/f", "/lake/e/new/g"))
    assert (after.id, after.content, after.size) == (before.id, before.content, 5)
    assert lake.get("e/new/g") == b"bytes"
    with pytest.raises(NotFound):
        house.stat("/lake/d/f")
    house.now_s += 3600
    assert house.stat("/lake/e/new/g").content == before.content, "the store's next listing shows the same version"
    assert not is_open(house)


def test_a_rename_replaces_a_file(house: House, lake: Lake) -> None:
    lake.put("f", b"new")
    lake.put("g", b"old bytes")
    replaced = house.stat("/lake/g").content
    ask(house, Method.RENAME, "/lake/f", "/lake/g")
    assert lake.listed() == ["g"]
    assert lake.get("g") == b"new"
    assert house.stat("/lake/g").size == 3
    assert replaced in [content for _, kind, some in house.namespace.feed(0, 100) if kind == 1 for content in some]


def test_a_copy_is_made_by_the_store(house: House, lake: Lake) -> None:
    lake.put("f", b"bytes")
    made = inode_of(ask(house, Method.COPY, "/lake/f", "/lake/d/g"))
    assert lake.get("d/g") == b"bytes"
    assert made.content != house.stat("/lake/f").content
    with pytest.raises(AlreadyExists):
        ask(house, Method.COPY, "/lake/f", "/lake/d/g", exclusive=True)
    with pytest.raises(IsADirectory):
        ask(house, Method.COPY, "/lake/d", "/lake/e")
    with pytest.raises(CrossMount):
        ask(house, Method.COPY, "/lake/f", "/plain")


def test_directories_are_made_and_removed_while_empty(house: House, lake: Lake) -> None:
    made = inode_of(ask(house, Method.MAKE_DIRECTORY, "/lake/a/b", parents=True))
    assert made.kind == Kind.DIRECTORY
    assert lake.listed() == ["a/b/"]
    with pytest.raises(AlreadyExists):
        ask(house, Method.MAKE_DIRECTORY, "/lake/a/b")
    assert inode_of(ask(house, Method.MAKE_DIRECTORY, "/lake/a/b", exist_ok=True)) == made
    with pytest.raises(NotFound):
        ask(house, Method.MAKE_DIRECTORY, "/lake/none/b")
    house.asked()
    assert house.list("/lake/a/b") == []
    assert house.asked() == [], "a directory that was just made is known to be empty"
    with pytest.raises(NotEmpty):
        ask(house, Method.DELETE, "/lake/a")
    ask(house, Method.DELETE, "/lake/a/b")
    with pytest.raises(NotFound):
        house.stat("/lake/a/b")


def test_touch_makes_an_empty_file_and_leaves_what_a_store_has(house: House, lake: Lake) -> None:
    made = inode_of(ask(house, Method.TOUCH, "/lake/d/_SUCCESS"))
    assert (made.size, bool(made.flags & Flag.PERSISTED)) == (0, True)
    assert lake.get("d/_SUCCESS") == b""
    with pytest.raises(NotSupported, match="its store"):
        ask(house, Method.TOUCH, "/lake/d/_SUCCESS")


def test_touch_under_no_mount_makes_a_file_or_renews_its_time(house: House) -> None:
    made = inode_of(ask(house, Method.TOUCH, "/plain/d/f"))
    again = inode_of(ask(house, Method.TOUCH, "/plain/d/f"))
    assert again.id == made.id
    assert again.mtime_ns >= made.mtime_ns


def test_a_directory_is_renamed_at_once_where_the_store_can_and_by_a_job_elsewhere(house: House, lake: Lake) -> None:
    lake.put("tmp/f", b"1")
    lake.put("tmp/d/g", b"2")
    house.list("/lake/tmp")
    answer = ask(house, Method.RENAME, "/lake/tmp", "/lake/final")
    assert inode_of(answer).kind == Kind.DIRECTORY
    assert house.stat("/lake/final/f").size == 1
    if lake.bucket is None:
        assert answer.job == 0
        assert lake.listed() == ["final/d/g", "final/f"]
    else:
        assert answer.job == 1
        assert inode_of(answer).store_path == "tmp"
    with pytest.raises(NotFound):
        house.stat("/lake/tmp")


def test_a_tree_is_gone_at_once_and_a_job_deletes_it_in_the_store(house: House, lake: Lake) -> None:
    lake.put("d/f", b"1")
    lake.put("d/e/g", b"2")
    answer = ask(house, Method.REMOVE_TREE, "/lake/d")
    assert answer.job > 0
    with pytest.raises(NotFound):
        house.stat("/lake/d/f")
    assert house.list("/lake", 0) == []
    ask(house, Method.MAKE_DIRECTORY, "/plain/a/b", parents=True)
    assert ask(house, Method.REMOVE_TREE, "/plain").job == 0


def test_what_only_workers_hold_is_renamed_and_deleted_and_uncovers_nothing(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    lake.put("f", b"an older version")
    house.stat("/lake/f")
    kept = scribe.write("/lake/f", b"kept", write_type="MUST_CACHE")
    renamed = inode_of(ask(house, Method.RENAME, "/lake/f", "/lake/g"))
    assert (renamed.content, renamed.flags & Flag.PERSISTED) == (kept.content, 0)
    assert lake.listed() == []
    house.now_s += 3600
    with pytest.raises(NotFound):
        house.stat("/lake/f", 0)
    ask(house, Method.DELETE, "/lake/g")
    assert house.list("/lake", 0) == []


def test_names_are_changed_once_however_often_they_are_asked_for(house: House, lake: Lake) -> None:
    asking = Asking()
    lake.put("f", b"1")
    lake.put("tree/f", b"1")
    for method, arguments in (
        (Method.RENAME, ("/lake/f", "/lake/g")),
        (Method.COPY, ("/lake/g", "/lake/h")),
        (Method.MAKE_DIRECTORY, ("/lake/d",)),
        (Method.TOUCH, ("/lake/t",)),
        (Method.REMOVE_TREE, ("/lake/tree",)),
        (Method.DELETE, ("/lake/h",)),
    ):
        request = asking.next()
        first = ask(house, method, *arguments, request=request)
        assert ask(house, method, *arguments, request=request) == first
        house.restart()
        assert ask(house, method, *arguments, request=request) == first


# ---- the store had its own mind ----------------------------------------------------------------------------------------


def test_a_rename_begins_again_when_its_target_came_from_outside_meanwhile(house: House, lake: Lake) -> None:
    lake.put("f", b"mine")
    house.stat("/lake/f")
    with pytest.raises(NotFound):
        house.stat("/lake/g")
    lake.put("g", b"from outside")
    answer = inode_of(ask(house, Method.RENAME, "/lake/f", "/lake/g"))
    assert answer.size == 4
    assert (lake.listed(), lake.get("g")) == (["g"], b"mine")


def test_what_is_gone_from_the_store_is_told_and_taken_over(house: House, lake: Lake) -> None:
    lake.put("f", b"mine")
    house.stat("/lake/f")
    if lake.bucket is not None:
        lake.bucket.delete("f")
    else:
        assert lake.directory is not None
        (lake.directory / "f").unlink()
    with pytest.raises(NotFound):
        ask(house, Method.RENAME, "/lake/f", "/lake/g")
    with pytest.raises(NotFound):
        house.stat("/lake/f")
    assert not is_open(house)


def test_a_directory_filled_from_outside_is_not_removed(house: House, lake: Lake) -> None:
    ask(house, Method.MAKE_DIRECTORY, "/lake/d")
    lake.put("d/f", b"from outside")
    with pytest.raises(NotEmpty):
        ask(house, Method.DELETE, "/lake/d")
    assert lake.get("d/f") == b"from outside"
    assert not is_open(house)


def test_a_refusal_of_the_store_is_told_and_nothing_was_changed(house: House, lake: Lake) -> None:
    lake.put("f", b"mine")

    def refuse() -> None:
        raise UfsDenied("the credentials may not do that")

    house.stat("/lake/f")
    house.watch.before = dict.fromkeys(("delete", "rename", "copy", "make_directory", "put"), refuse)
    for method, arguments in (
        (Method.DELETE, ("/lake/f",)),
        (Method.RENAME, ("/lake/f", "/lake/g")),
        (Method.COPY, ("/lake/f", "/lake/g")),
        (Method.MAKE_DIRECTORY, ("/lake/d",)),
        (Method.TOUCH, ("/lake/t",)),
    ):
        with pytest.raises(UfsDenied, match="may not"):
            ask(house, method, *arguments)
    assert not is_open(house)
    assert house.list("/lake", 0) == ["f"]


@pytest.mark.parametrize("is_done", [True, False], ids=["it was done", "it was not done"])
def test_an_act_that_tells_nothing_is_looked_after(house: House, lake: Lake, is_done: bool) -> None:
    lake.put("f", b"1")
    lake.put("h", b"22")
    failures = 1

    def fail() -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise UfsFailed("the answer was lost")

    house.stat("/lake/f")
    house.stat("/lake/h")
    for method, arguments in (
        (Method.COPY, ("/lake/f", "/lake/c")),
        (Method.RENAME, ("/lake/f", "/lake/g")),
        (Method.MAKE_DIRECTORY, ("/lake/d",)),
        (Method.TOUCH, ("/lake/t",)),
        (Method.DELETE, ("/lake/h",)),
    ):
        failures = 1
        acts = dict.fromkeys(("delete", "rename", "copy", "make_directory", "put"), fail)
        house.watch.before, house.watch.after = ({}, acts) if is_done else (acts, {})
        ask(house, method, *arguments)
        assert failures == 0
    assert lake.listed() == ["c", "d/", "g", "t"]
    assert not is_open(house)


def test_who_cannot_be_told_what_happened_is_told_so_and_the_master_finds_out(house: House, lake: Lake) -> None:
    lake.put("f", b"1")
    house.stat("/lake/f")
    is_silent = True

    def fail() -> None:
        if is_silent:
            raise UfsFailed("no answer")

    house.watch.before = dict.fromkeys(("delete", "look"), fail)
    with pytest.raises(UfsUnknown):
        ask(house, Method.DELETE, "/lake/f")
    shown = house.ask(Method.INTENT_LIST, api.Empty()).intents[0]
    assert (shown.kind, shown.path) == ("delete", "/lake/f")
    house.impatient()
    with pytest.raises(Busy, match="delete of /lake/f"):
        ask(house, Method.RENAME, "/lake/f", "/lake/g")
    why = house.ask(Method.WHY, api.StatRequest("/lake/f")).facts
    assert why["intents"][0]["kind"] == "delete"
    is_silent = False
    house.resolve()
    assert lake.listed() == []
    assert not is_open(house)


# ---- changes that meet --------------------------------------------------------------------------------------------------


def test_nothing_is_made_below_a_directory_that_is_being_deleted(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    ask(house, Method.MAKE_DIRECTORY, "/lake/d")
    held = house.hold("remove_directory")
    deleted = house.begin(Method.DELETE, api.DeleteRequest("/lake/d"))
    held.wait_until_there()
    created = scribe.begin_later("/lake/d/f", 1)
    made = house.begin(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/lake/d/e", parents=True))
    held.release()
    deleted()
    begun = created()
    scribe.end(begun, scribe.put(begun, b"1"), 1)
    made()
    house.now_s += 3600
    assert house.list("/lake/d", 0) == ["e/", "f"]
    assert set(lake.listed()) - {"d/"} == {"d/e/", "d/f"}


def test_a_file_below_a_directory_being_renamed_lands_in_what_has_the_name_then(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    if lake.bucket is not None:
        pytest.skip("a directory of an object store is renamed at once")
    lake.put("d/f", b"1")
    house.list("/lake/d")
    held = house.hold("rename")
    renamed = house.begin(Method.RENAME, api.RenameRequest("/lake/d", "/lake/e"))
    held.wait_until_there()
    created = scribe.begin_later("/lake/d/g", 1)
    held.release()
    renamed()
    begun = created()
    scribe.end(begun, scribe.put(begun, b"1"), 1)
    assert lake.listed() == ["d/g", "e/f"]
    assert house.list("/lake", 0) == ["d/", "e/"]


def test_a_tree_is_not_removed_or_renamed_over_a_write_below_it(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    lake.put("d/old", b"1")
    house.list("/lake/d")
    begun = scribe.begin("/lake/d/f", 1)
    house.impatient()
    for method, arguments in (
        (Method.REMOVE_TREE, ("/lake/d",)),
        (Method.RENAME, ("/lake/d", "/lake/e")),
    ):
        with pytest.raises(Busy, match="write of /lake/d/f"):
            ask(house, method, *arguments)
    scribe.end(begun, scribe.put(begun, b"1"), 1)
    ask(house, Method.RENAME, "/lake/d", "/lake/e")
    assert house.stat("/lake/e/f").size == 1


def test_a_rename_waits_for_the_writer_of_its_target_and_replaces_what_he_wrote(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    lake.put("f", b"renamed")
    house.stat("/lake/f")
    begun = scribe.begin("/lake/g", 1)
    renamed = house.begin(Method.RENAME, api.RenameRequest("/lake/f", "/lake/g"))
    scribe.end(begun, scribe.put(begun, b"1"), 1)
    renamed()
    assert (lake.listed(), lake.get("g")) == (["g"], b"renamed")


def test_a_reader_of_what_is_renamed_over_keeps_its_content(house: House, lake: Lake) -> None:
    lake.put("f", b"new")
    lake.put("g", b"old")
    opened = house.ask(Method.OPEN, api.OpenRequest("/lake/g"))
    ask(house, Method.RENAME, "/lake/f", "/lake/g")
    now = house.ask(Method.OPEN, api.OpenRequest("/lake/g"))
    assert inode_of(now).content != inode_of(opened).content


def test_two_that_delete_one_file_both_hear_that_it_is_gone(house: House, lake: Lake) -> None:
    lake.put("f", b"1")
    house.stat("/lake/f")
    held = house.hold("delete")
    first = house.begin(Method.DELETE, api.DeleteRequest("/lake/f"))
    held.wait_until_there()
    second = house.begin(Method.DELETE, api.DeleteRequest("/lake/f"))
    held.release()
    first()
    with pytest.raises(NotFound):
        second()


# ---- told -----------------------------------------------------------------------------------------------------------------


def test_every_change_of_a_store_leaves_one_audit_record(
    house: House, lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=AUDIT_LOGGER)
    lake.put("f", b"1")
    ask(house, Method.RENAME, "/lake/f", "/lake/g")
    ask(house, Method.COPY, "/lake/g", "/lake/h")
    ask(house, Method.DELETE, "/lake/g")
    Scribe(house).write("/lake/w", b"1")
    with pytest.raises(MonofsError):
        ask(house, Method.DELETE, "/lake/none")
    fields = [record.fields for record in caplog.records if record.name == AUDIT_LOGGER]
    shown = [(one["command"], one["source"], one["target"], one["succeeded"]) for one in fields]
    assert shown == [
        ("rename", "/lake/f", "/lake/g", True),
        ("copy", "/lake/g", "/lake/h", True),
        ("delete", "/lake/g", "", True),
        ("write", "/lake/w", "", True),
        ("delete", "/lake/none", "", False),
    ]
