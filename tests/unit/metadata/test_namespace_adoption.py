"""Taking over what stores show: the rules of sync, one by one."""

from __future__ import annotations

import pytest
from metadata_home import Home, directory, file, refused

from monofs.metadata import draft as draft_module
from monofs.metadata.entries import AdoptPage, Found, SetLevel
from monofs.metadata.ops.adopt_page import EXAMINED_MAX
from monofs.metadata.tables import MARKER_BYTES_LEVEL
from monofs.model.errors import ConditionFailed, InvalidArgument, MountNotFound, NotFound, NotReady
from monofs.model.ids import NO_CONTENT, InodeId, MountId, make_content_id
from monofs.model.inode import Flag, decode_inode
from monofs.model.paths import parse_path


@pytest.fixture
def lake(home: Home) -> Home:
    """A namespace with a mount at /m."""
    home.mount("/m")
    return home


def retired(home: Home) -> list[int]:
    return [content for _, kind, contents in home.namespace.feed(0, 1000) for content in contents if kind == 1]


def test_a_page_brings_files_with_contents_and_directories_without(lake: Home) -> None:
    found = [
        Found(b"d", True, mode=0o40700, uid=3, gid=4),
        Found(b"f", False, 10, 5 * 10**9, "e:x", 0o100600, 5, 6),
        file("zero", size=0),
    ]
    assert lake.adopt("/m", found) == (3, 0, 0)
    made = lake.inode("/m/f")
    assert made.content == make_content_id(1, 1)
    assert (made.size, made.mtime_ns, made.fingerprint) == (10, 5 * 10**9, "e:x")
    assert (made.mode, made.uid, made.gid) == (0o600, 5, 6)
    assert made.flags == Flag.PERSISTED | Flag.HEADERS_UNKNOWN
    assert lake.inode("/m/zero").content == NO_CONTENT
    assert lake.inode("/m/zero").mode == 0o644
    folder = lake.inode("/m/d")
    assert (folder.mode, folder.uid, folder.gid, folder.flags) == (0o700, 3, 4, Flag.PERSISTED)
    assert lake.inode("/m").flags & Flag.LOADED


def test_the_same_page_again_changes_nothing(lake: Home) -> None:
    found = [directory("d"), file("f"), file("zero", size=0)]
    lake.adopt("/m", found)
    before = lake.tree()
    assert lake.adopt("/m", found) == (0, 0, 0)
    assert lake.tree() == before
    assert retired(lake) == []


def test_another_version_gets_a_new_content_id_and_the_old_one_is_retired(lake: Home) -> None:
    lake.adopt("/m", [file("f", "1"), file("g", "1", size=10)])
    old = lake.inode("/m/f"), lake.inode("/m/g")
    assert lake.adopt("/m", [file("f", "2"), file("g", "1", size=11)]) == (0, 2, 0)
    new = lake.inode("/m/f"), lake.inode("/m/g")
    assert [inode.id for inode in new] == [inode.id for inode in old]
    assert retired(lake) == [inode.content for inode in old]
    assert not {inode.content for inode in new} & {inode.content for inode in old}


def test_a_file_that_becomes_empty_has_no_content_any_more(lake: Home) -> None:
    lake.adopt("/m", [file("f")])
    old = lake.inode("/m/f").content
    lake.adopt("/m", [file("f", "2", size=0)])
    assert lake.inode("/m/f").content == NO_CONTENT
    assert retired(lake) == [old]


def test_times_that_differ_by_less_than_their_precision_are_no_change(lake: Home) -> None:
    lake.adopt("/m", [file("f", mtime_ns=10**18 + 123_000_000)])
    before = lake.inode("/m/f")
    assert lake.adopt("/m", [file("f", mtime_ns=10**18)]) == (0, 0, 0)
    assert lake.adopt("/m", [file("f", mtime_ns=0)]) == (0, 0, 0)
    assert lake.adopt("/m", [file("f", mtime_ns=10**18 + 2 * 10**9)]) == (0, 1, 0)
    after = lake.inode("/m/f")
    assert after.content == before.content
    assert after.mtime_ns == 10**18 + 2 * 10**9


def test_pins_and_ids_of_directories_survive_a_sync(lake: Home) -> None:
    from monofs.metadata.entries import SetPin

    lake.adopt("/m", [directory("d"), file("f")])
    lake.apply(SetPin(lake.stamp(), "/m/f", True))
    identity = lake.inode("/m/d").id
    lake.adopt("/m", [Found(b"d", True, mtime_ns=10**18), file("f", "2")])
    assert lake.inode("/m/d").id == identity
    assert lake.inode("/m/d").mtime_ns == 10**18
    assert lake.inode("/m/f").flags & Flag.PINNED


def test_names_the_page_speaks_for_and_does_not_show_are_removed(lake: Home) -> None:
    lake.adopt("/m", [file(name) for name in "abcdef"])
    contents = {name: lake.inode(f"/m/{name}").content for name in "abcdef"}
    assert lake.adopt("/m", [file("c")], after=b"a", through=b"d", complete=False) == (0, 0, 2)
    assert lake.names("/m") == [b"a", b"c", b"e", b"f"]
    assert lake.adopt("/m", [], after=b"e") == (0, 0, 1)
    assert lake.names("/m") == [b"a", b"c", b"e"]
    assert retired(lake) == [contents[name] for name in "bdf"]


def test_a_directory_that_is_gone_takes_everything_below_with_it(lake: Home) -> None:
    from monofs.metadata.entries import RemoveBelow

    lake.adopt("/m", [directory("d")])
    lake.adopt("/m/d", [directory("e"), file("f")])
    lake.adopt("/m/d/e", [file("g")])
    contents = [lake.inode("/m/d/f").content, lake.inode("/m/d/e/g").content]
    assert lake.adopt("/m", []) == (0, 0, 1)
    assert lake.names("/m") == []
    while lake.apply(RemoveBelow(lake.stamp(), 10)):
        pass
    assert sorted(retired(lake)) == sorted(contents)
    assert lake.namespace.counts()["inodes"] == 2


def test_a_path_that_turns_from_file_to_directory_and_back(lake: Home) -> None:
    lake.adopt("/m", [file("x")])
    assert lake.adopt("/m", [directory("x")]) == (1, 0, 1)
    assert lake.inode("/m/x").is_directory
    assert lake.adopt("/m", [file("x", "2")]) == (1, 0, 1)
    assert not lake.inode("/m/x").is_directory
    lake.adopt_path("/m/x", directory=directory("x"))
    assert lake.names("/m") == [b"x/"]
    lake.adopt_path("/m/x", file=file("x", "3"))
    assert lake.names("/m") == [b"x"]


def test_an_object_beside_a_prefix_of_the_same_name_is_kept_and_the_directory_is_what_paths_lead_to(lake: Home) -> None:
    assert lake.adopt("/m", [file("a"), directory("a"), file("a.txt")]) == (3, 0, 0)
    assert lake.names("/m") == [b"a", b"a.txt", b"a/"]
    assert lake.inode("/m/a").is_directory
    lake.adopt("/m", [file("a"), file("a.txt")])
    assert not lake.inode("/m/a").is_directory


def test_what_a_slow_listing_says_never_undoes_newer_news(lake: Home) -> None:
    lake.adopt("/m", [file("changed", "1"), file("gone"), file("same")])
    slow = len(lake.log)
    lake.adopt("/m", [file("changed", "2"), file("new"), file("same")])
    before = lake.tree()
    found = [file("changed", "1"), file("gone"), file("same")]
    assert lake.adopt("/m", found, read_index=slow) == (0, 0, 0)
    assert lake.tree() == before


def test_a_name_that_came_after_the_listing_was_read_is_not_removed_nor_are_its_directories(lake: Home) -> None:
    lake.adopt("/m", [directory("d")])
    lake.adopt("/m/d", [directory("e")])
    slow = len(lake.log)
    lake.adopt_path("/m/d/e/new", file("new"))
    assert lake.adopt("/m", [], read_index=slow) == (0, 0, 0)
    assert lake.adopt("/m/d", [], read_index=slow) == (0, 0, 0)
    assert lake.exists("/m/d/e/new")
    assert lake.adopt("/m", []) == (0, 0, 1)


def test_a_removed_name_stays_removed_until_it_is_seen_again_later(lake: Home) -> None:
    lake.adopt("/m", [file("x"), directory("d")])
    slow = len(lake.log)
    lake.adopt("/m", [])
    assert lake.adopt("/m", [file("x"), directory("d")], read_index=slow) == (0, 0, 0)
    assert refused(lake.adopt_path("/m/x", file("x"), read_index=slow), NotFound)
    assert refused(lake.adopt_path("/m/d/y", file("y"), read_index=slow), NotFound)
    assert lake.names("/m") == []
    assert lake.adopt("/m", [file("x")]) == (1, 0, 0)


def test_tombstones_are_bounded_and_listings_older_than_the_dropped_ones_are_refused(
    lake: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft_module, "TOMBSTONES_MAX", 3)
    lake.adopt("/m", [file(name) for name in "abcdefg"])
    slow = len(lake.log)
    lake.adopt("/m", [file(name) for name in "abcde"])
    later = len(lake.log)
    lake.adopt("/m", [file(name) for name in "abcd"])
    assert lake.namespace.counts()["tombstones"] == 3
    assert lake.adopt("/m", [file(name) for name in "abcdefg"], read_index=slow) == (0, 0, 0)
    lake.adopt("/m", [file(name) for name in "abc"])
    assert lake.namespace.counts()["tombstones"] == 3
    assert refused(lake.adopt("/m", [file("f")], read_index=slow), ConditionFailed)
    assert lake.adopt("/m", [file(name) for name in "abcde"], read_index=later) == (0, 0, 0)
    lake.adopt("/m", [])
    assert lake.namespace.counts()["tombstones"] == 3


def test_the_same_name_removed_again_and_again_keeps_its_newest_tombstone(
    lake: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft_module, "TOMBSTONES_MAX", 1)
    for _ in range(3):
        lake.adopt("/m", [file("x")])
        slow = len(lake.log)
        lake.adopt("/m", [])
        assert lake.adopt("/m", [file("x")], read_index=slow) == (0, 0, 0)


def test_listings_read_before_the_mount_was_made_or_changed_are_refused(lake: Home) -> None:
    born = lake.covering("/m").changed_index
    assert refused(lake.adopt("/m", [file("x")], read_index=born - 1), ConditionFailed)
    assert refused(lake.adopt_path("/m/x", file("x"), read_index=born - 1), ConditionFailed)
    assert lake.adopt("/m", [file("x")], read_index=born) == (1, 0, 0)


def test_pages_that_are_not_pages_are_refused_whole(lake: Home) -> None:
    def page(found: list[Found], after: bytes = b"", through: bytes | None = None) -> object:
        return lake.adopt("/m", found, after=after, through=through, sort=False)

    assert refused(page([file("b"), file("a")]), InvalidArgument)
    assert refused(page([file("a"), file("a")]), InvalidArgument)
    assert refused(page([directory("a"), file("a")]), InvalidArgument)
    assert refused(page([file("a")], after=b"a"), InvalidArgument)
    assert refused(page([file("c")], through=b"b"), InvalidArgument)
    assert refused(page([file(f"{n:04}") for n in range(1001)]), InvalidArgument)
    for name in (b"", b".", b"..", b"a/b", b"a\0b", b"\xff", b"n" * 256):
        assert refused(page([file(name)]), InvalidArgument)
        assert refused(page(sorted([file(name), file(b"ok")], key=lambda entry: entry.name)), InvalidArgument)
    assert lake.names("/m") == []


def test_only_the_mount_that_was_asked_is_believed(lake: Home) -> None:
    outer = lake.covering("/m")
    lake.mount("/m/inner")
    lake.mkdir("/plain")
    assert refused(lake.adopt("/m/inner", [file("x")], mount=outer), MountNotFound)
    assert refused(lake.adopt("/plain", [file("x")], mount=outer), MountNotFound)
    assert refused(lake.adopt_path("/m/inner/x", file("x"), mount=outer), MountNotFound)
    assert refused(lake.adopt_path("/plain/x", file("x"), mount=outer), MountNotFound)
    nowhere = AdoptPage(lake.stamp(), InodeId(999), outer.id, len(lake.log), b"", None, [], True)
    assert refused(lake.apply(nowhere), NotFound)


def test_a_path_found_makes_its_parents(lake: Home) -> None:
    raw = lake.adopt_path("/m/a/b/f", file("f"))
    assert decode_inode(raw) == lake.inode("/m/a/b/f")
    assert lake.inode("/m/a").flags == Flag.PERSISTED
    raw = lake.adopt_path("/m/a/b", directory=directory("b"))
    assert decode_inode(raw) == lake.inode("/m/a/b")
    assert lake.adopt_path("/m/a/b/f", file("f")) == lake.namespace.lookup(parse_path("/m/a/b/f")).raw


@pytest.mark.parametrize(("level", "size"), [(MARKER_BYTES_LEVEL, 300), (MARKER_BYTES_LEVEL - 1, 0)])
def test_from_a_level_on_a_directory_that_is_an_object_has_the_bytes_of_it(lake: Home, level: int, size: int) -> None:
    lake.apply(SetLevel(lake.stamp(), level))
    lake.adopt("/m", [Found(b"d", is_directory=True, size=300, fingerprint="e:1")])
    assert lake.inode("/m/d").size == size


def test_a_path_found_below_what_was_a_file_makes_a_directory_beside_it(lake: Home) -> None:
    lake.adopt("/m", [file("a")])
    assert decode_inode(lake.adopt_path("/m/a/f", file("f"))).size == 10
    assert lake.names("/m") == [b"a", b"a/"]


def test_a_path_with_an_object_and_a_prefix_gives_the_directory(lake: Home) -> None:
    raw = lake.adopt_path("/m/a", file("a"), directory("a"))
    assert decode_inode(raw).is_directory
    assert lake.names("/m") == [b"a", b"a/"]


def test_a_path_found_missing_is_removed_and_says_so(lake: Home) -> None:
    lake.adopt("/m", [file("f"), directory("d")])
    content = lake.inode("/m/f").content
    assert refused(lake.adopt_path("/m/f"), NotFound)
    assert refused(lake.adopt_path("/m/d"), NotFound)
    assert refused(lake.adopt_path("/m/x/y"), NotFound)
    assert lake.names("/m") == []
    assert retired(lake) == [content]


def test_the_mount_point_itself_is_never_taken_away(lake: Home) -> None:
    before = lake.inode("/m")
    assert decode_inode(lake.adopt_path("/m")) == before
    assert decode_inode(lake.adopt_path("/m", directory=directory("m"))) == before


def test_a_file_told_as_a_directory_is_refused(lake: Home) -> None:
    assert refused(lake.adopt_path("/m/x", file=directory("x")), InvalidArgument)
    assert refused(lake.adopt_path("/m/x", directory=file("x")), InvalidArgument)


def test_a_directory_of_100_000_files_listed_in_pages(lake: Home) -> None:
    names = [f"{n:06}" for n in range(100_000)]
    for start in range(0, len(names), 1000):
        page = [file(name) for name in names[start : start + 1000]]
        last = start + 1000 == len(names)
        result = lake.adopt(
            "/m",
            page,
            after=names[start - 1].encode() if start else b"",
            through=None if last else page[-1].name,
            complete=last,
            sort=False,
        )
        assert result == (1000, 0, 0)
        if start % 30_000 == 0:
            lake.flush()
    assert lake.inode("/m").flags & Flag.LOADED
    seen: list[bytes] = []
    while page_of := lake.namespace.children(lake.inode("/m").id, seen[-1] if seen else b"", 1000):
        seen += [name for name, _ in page_of]
    assert seen == [name.encode() for name in names]


def test_a_page_that_speaks_for_too_many_names_leaves_the_rest_to_the_next(lake: Home) -> None:
    names = [f"{n:06}" for n in range(EXAMINED_MAX + 1500)]
    for start in range(0, len(names), 1000):
        lake.adopt(
            "/m", [file(n) for n in names[start : start + 1000]], after=names[start - 1].encode() if start else b""
        )
    lake.adopt("/m", [file("a-new"), file(names[-1], "2")])
    assert len(lake.names("/m")) == 1501
    assert lake.exists("/m/a-new")
    assert lake.inode(f"/m/{names[-1]}").fingerprint == "e:2"
    assert lake.adopt("/m", []) == (0, 0, 1501)


def test_nothing_is_adopted_before_the_namespace_is_initialised(tmp_path: object) -> None:
    from pathlib import Path

    home = Home(Path(str(tmp_path)) / "db")
    assert refused(home.mkdir("/a"), NotReady)
    page = AdoptPage(home.stamp(), InodeId(1), MountId(1), 0, b"", None, [], True)
    assert refused(home.apply(page), NotFound)
    assert home.namespace.lookup(()).inode is None
    home.close()
