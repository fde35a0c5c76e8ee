"""The rules by which what a store shows is asked for and believed, each where breaking it does harm.

What ``apply`` makes of a page is in metadata/test_namespace_adoption.py; here is what must be true of the question.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from master_house import Held, House, write
from scribe import Scribe

from monofs.model.errors import NotADirectory, NotFound, UfsDenied
from monofs.model.inode import Flag
from monofs.rpc import api
from monofs.rpc.api import Method, ReadOptions

LOOKS = ReadOptions(0.0)


@pytest.fixture
def lake(house: House, data: Path) -> House:
    """A house with ``data``, which holds ``f``, mounted and listed at /lake."""
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.list("/lake")
    house.asked()
    return house


def known(house: House) -> list[str]:
    """What the tree holds at /lake, the store unasked."""
    return house.list("/lake", -1.0)


# ---- the journal index is read before the store is asked ------------------------------------------------------------


def test_a_page_does_not_take_away_what_was_written_since_it_was_asked_for(lake: House) -> None:
    held = lake.hold_answer("list")
    listing = lake.begin(Method.LIST, api.ListRequest("/lake", options=LOOKS))
    held.wait_until_there()
    Scribe(lake).write("/lake/late", b"22")
    held.release()
    listing()
    assert known(lake) == ["f", "late"]


def test_a_page_does_not_bring_back_what_was_deleted_since_it_was_asked_for(lake: House) -> None:
    held = lake.hold_answer("list")
    listing = lake.begin(Method.LIST, api.ListRequest("/lake", options=LOOKS))
    held.wait_until_there()
    lake.ask(Method.DELETE, api.DeleteRequest("/lake/f"))
    held.release()
    listing()
    assert known(lake) == []


def test_a_look_at_a_path_does_not_bring_back_what_was_deleted_since(lake: House) -> None:
    held = lake.hold_answer("head")
    look = lake.begin(Method.STAT, api.StatRequest("/lake/f", LOOKS))
    held.wait_until_there()
    lake.ask(Method.DELETE, api.DeleteRequest("/lake/f"))
    held.release()
    with pytest.raises(NotFound):
        look()
    assert known(lake) == []


# ---- an answer is as old as its question ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "head"])
def test_an_answer_that_took_long_is_as_old_as_its_question(lake: House, kind: str) -> None:
    held = lake.hold_answer(kind)
    request = api.ListRequest("/lake", options=LOOKS) if kind == "list" else api.StatRequest("/lake/f", LOOKS)
    asking = lake.begin(Method.LIST if kind == "list" else Method.STAT, request)
    held.wait_until_there()
    lake.now_s += 50
    held.release()
    asking()
    lake.now_s += 20
    lake.asked()
    if kind == "list":
        lake.list("/lake")
    else:
        lake.stat("/lake/f")
    assert lake.asked() == [kind]


def test_a_name_of_a_page_that_an_older_look_overtook_is_not_taken_for_seen_with_the_page(
    lake: House, data: Path
) -> None:
    write(data / "f", b"22")
    of_path, of_page = Held(), Held()
    lake.watch.after = {"head": of_path, "list": of_page}
    look = lake.begin(Method.STAT, api.StatRequest("/lake/f", LOOKS))
    of_path.wait_until_there()
    write(data / "f", b"333")
    lake.now_s += 50
    listing = lake.begin(Method.LIST, api.ListRequest("/lake", options=LOOKS))
    of_page.wait_until_there()
    of_path.release()
    look()
    of_page.release()
    listing()
    assert lake.stat("/lake/f", -1.0).size == 2, "the page is older news than what the look brought"
    lake.now_s += 15
    assert lake.stat("/lake/f").size == 3, "the look is over a minute old, and the page was not believed"


# ---- a mount that changed is asked again ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "head"])
def test_what_was_asked_of_a_mount_before_it_changed_is_asked_again(lake: House, kind: str) -> None:
    held = lake.hold_answer(kind)
    request = api.ListRequest("/lake", options=LOOKS) if kind == "list" else api.StatRequest("/lake/f", LOOKS)
    asking = lake.begin(Method.LIST if kind == "list" else Method.STAT, request)
    held.wait_until_there()
    lake.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/lake", readonly=True))
    held.release()
    asking()
    assert lake.asked().count(kind) == 2


def test_what_was_seen_of_a_mount_is_forgotten_when_it_changes(lake: House) -> None:
    lake.list("/lake")
    lake.stat("/lake/f")
    assert lake.asked() == []
    lake.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/lake", readonly=True))
    lake.asked()
    lake.stat("/lake/f")
    assert lake.asked() == ["head"]


# ---- distrust, explicit directories, whole listings -----------------------------------------------------------------


def test_what_is_distrusted_is_looked_at_however_lately_it_was_seen(lake: House) -> None:
    lake.now_s += 1
    lake.ask(Method.NEEDS_SYNC, api.NeedsSyncRequest("/lake"))
    lake.stat("/lake/f")
    assert lake.asked() == ["head"]


def test_an_explicit_directory_is_the_trees_own_and_the_store_is_not_asked_about_it(
    lake: House, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "x", b"1")
    lake.mount("/lake/d/in", tmp_path / "other")
    lake.asked()
    assert lake.stat("/lake/d", 0.0).flags & Flag.EXPLICIT
    assert lake.asked() == []
    assert lake.list("/lake/d", 0.0) == ["in/"], "the store has no such directory, and that is no error"
    sync(lake, "/lake")
    assert lake.list("/lake/d/in", -1.0) == ["x"], "a sync enters them although the store does not show them"


def test_what_lay_in_an_explicit_directory_that_the_store_lacks_is_gone_and_the_directory_stays(
    house: House, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (data / "d" / "e").mkdir(parents=True)
    write(data / "d" / "x", b"1")
    write(data / "d" / "e" / "y", b"1")
    house.mount("/lake", data)
    house.mount("/lake/d/e/in", tmp_path / "other")
    assert (house.list("/lake/d"), house.list("/lake/d/e")) == (["e/", "x"], ["in/", "y"])
    shutil.rmtree(data / "d" / "e")
    sync(house, "/lake")
    assert house.list("/lake/d/e", -1.0) == ["in/"], "a sync enters what only the tree has"
    shutil.rmtree(data / "d")
    assert house.list("/lake/d", 0.0) == ["e/"]


def test_a_file_the_store_has_is_not_hidden_by_a_directory_made_for_the_cache_alone(house: House, data: Path) -> None:
    write(data / "a", b"1")
    house.mount("/lake", data)
    scribe = Scribe(house)
    with pytest.raises(NotADirectory):
        scribe.begin("/lake/a/b/c", 1, write_type="MUST_CACHE", parents=True)
    assert house.list("/lake") == ["a"]


def sync(house: House, path: str) -> None:
    number = house.ask(Method.JOB_ADD, api.JobAddRequest("sync", path)).jobs[0].number
    for _ in range(10_000):
        if house.ask(Method.JOB_LIST, api.JobListRequest(number)).jobs[0].state == "done":
            return
        house.loop.do(lambda: None)
    pytest.fail("the sync did not end")


def test_a_directory_of_which_one_page_was_seen_is_not_taken_for_known(house: House, data: Path) -> None:
    for number in range(1200):
        write(data / f"{number:04}", b"1")
    house.mount("/lake", data)
    pages: list[int] = []

    def fail_after_the_first() -> None:
        pages.append(1)
        if len(pages) > 1:
            raise UfsDenied("no more")

    house.watch.before = {"list": fail_after_the_first}
    house.ask(Method.LIST, api.ListRequest("/lake", limit=10))
    house.asked()
    assert not house.stat("/lake").flags & Flag.LOADED
    assert house.stat("/lake/1199", -1.0).size == 1
