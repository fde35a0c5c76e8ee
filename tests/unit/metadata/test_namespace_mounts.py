"""Mounting, updating, unmounting, and taking detached subtrees apart."""

from __future__ import annotations

from metadata_home import Home, directory, file, refused

from monofs.metadata.entries import AddMount, AdoptPage, RemoveBelow, RemoveMount, UpdateMount
from monofs.metadata.tables import MOUNTS_MAX
from monofs.model.errors import (
    AlreadyExists,
    ConditionFailed,
    InvalidArgument,
    InvalidPath,
    MountExists,
    MountNotFound,
    MountPoint,
    NotADirectory,
    NotEmpty,
    Overloaded,
)
from monofs.model.inode import Flag
from monofs.model.mount import Mount
from monofs.model.paths import parse_path


def unmount(home: Home, path: str) -> object:
    return home.apply(RemoveMount(home.stamp(), path))


def remove_all(home: Home, limit: int = 1000) -> int:
    """Run REMOVE_BELOW until nothing is left; returns how many entries it took."""
    entries = 1
    while (left := home.apply(RemoveBelow(home.stamp(), limit))) > 0:
        assert home.namespace.pending_removal()
        assert left <= home.namespace.counts()["removal"]
        entries += 1
    assert not home.namespace.pending_removal()
    return entries


def test_a_mount_shows_at_its_path_with_explicit_parents(home: Home) -> None:
    mount = home.apply(AddMount(home.stamp(), "/a/lake/", "s3://b/p", {"endpoint": "e"}, b"sealed", True, True, 5000))
    assert mount == Mount(
        id=1,  # type: ignore[arg-type]
        path="/a/lake",
        uri="s3://b/p",
        options={"endpoint": "e"},
        sealed=b"sealed",
        readonly=True,
        shared=True,
        created_ns=home.clock_ns,
        changed_index=len(home.log),
        sync_interval_ms=5000,
    )
    assert home.inode("/a").flags == Flag.EXPLICIT | Flag.MADE
    assert home.inode("/a/lake").flags == Flag.EXPLICIT | Flag.MOUNT | Flag.MADE
    located = home.namespace.lookup(parse_path("/a/lake/x/y")).located
    assert located is not None
    assert (located.mount, located.key) == (mount, "x/y")
    assert home.namespace.lookup(parse_path("/a")).located is None
    assert home.namespace.mounts_index == len(home.log)


def test_mounts_are_told_deepest_first_and_the_innermost_covers_a_path(home: Home) -> None:
    for path in ("/b", "/", "/b/c/d", "/a"):
        home.mount(path)
    assert [mount.path for _, mount in home.namespace.mounts()] == ["/b/c/d", "/a", "/b", "/"]
    for path, covering, key in (("/x", "/", "x"), ("/b/c", "/b", "c"), ("/b/c/d", "/b/c/d", ""), ("/", "/", "")):
        located = home.namespace.lookup(parse_path(path)).located
        assert located is not None
        assert (located.mount.path, located.key) == (covering, key)


def test_where_a_mount_is_refused(home: Home) -> None:
    home.mount("/lake")
    home.create("/f")
    home.mkdir("/full/sub", parents=True)
    assert refused(home.mount("/lake"), MountExists)
    assert refused(home.mount("/f"), AlreadyExists)
    assert refused(home.mount("/f/x"), NotADirectory)
    assert refused(home.mount("/full"), NotEmpty)
    assert refused(home.mount("/"), NotEmpty)
    assert len(home.namespace.mounts()) == 1


def test_an_empty_directory_or_one_that_only_leads_to_mounts_may_become_a_mount_point(home: Home) -> None:
    home.mkdir("/empty")
    before = home.inode("/empty")
    home.mount("/empty")
    assert home.inode("/empty").id == before.id
    home.mount("/deep/er/m")
    assert isinstance(home.mount("/deep"), Mount)
    home.mkdir("/more/x", parents=True)
    home.mount("/more/m")
    assert refused(home.mount("/more"), NotEmpty)
    home.delete("/more/x")
    assert isinstance(home.mount("/more"), Mount)
    assert isinstance(home.mount("/"), Mount)


def test_the_root_may_be_mounted_and_unmounted_when_nothing_else_is_there(home: Home) -> None:
    home.mount("/")
    home.adopt("/", [file("f"), directory("d")])
    assert home.names("/") == [b"d/", b"f"]
    content = home.inode("/f").content
    assert unmount(home, "/") == []
    assert home.names("/") == []
    assert home.inode("/").flags == Flag.EXPLICIT
    remove_all(home)
    assert home.namespace.feed(0, 10) == [(1, 1, [content])]
    home.mkdir("/fresh")
    assert home.mount("/again").id == 2


def test_mounting_within_a_mount_keeps_the_way_to_it_from_sync(home: Home) -> None:
    home.mount("/m")
    home.adopt("/m", [directory("a"), directory("b")])
    home.adopt("/m/a", [directory("x")])
    home.mount("/m/a/x/inner")
    for path in ("/m/a", "/m/a/x"):
        assert home.inode(path).flags & Flag.EXPLICIT
    home.adopt("/m", [])
    assert home.names("/m") == [b"a/"]
    home.adopt_path("/m/a")
    assert home.exists("/m/a/x/inner")


def test_unmounting_within_a_mount_gives_the_way_to_it_back_to_sync(home: Home) -> None:
    home.mount("/m")
    home.mount("/m/a/x/inner")
    home.mount("/m/a/other")
    unmount(home, "/m/a/x/inner")
    assert not home.inode("/m/a/x").flags & Flag.EXPLICIT
    assert home.inode("/m/a").flags & Flag.EXPLICIT
    home.adopt("/m", [])
    home.adopt("/m/a", [])
    assert home.names("/m/a") == [b"other/"]
    unmount(home, "/m/a/other")
    home.adopt("/m", [])
    assert home.names("/m") == []
    remove_all(home)


def test_a_mounted_directory_counts_as_not_yet_listed(home: Home) -> None:
    home.mount("/m")
    home.adopt("/m", [directory("d")])
    home.adopt("/m/d", [])
    assert home.inode("/m/d").flags & Flag.LOADED
    home.mount("/m/d")
    assert not home.inode("/m/d").flags & Flag.LOADED


def test_updating_a_mount_replaces_its_options_if_nobody_else_did(home: Home) -> None:
    mount = home.mount("/m")
    updated = home.apply(UpdateMount(home.stamp(), "/m", mount.changed_index, {"a": "b"}, b"s", True, -1000))
    assert (updated.id, updated.uri, updated.options, updated.sealed) == (mount.id, mount.uri, {"a": "b"}, b"s")
    assert (updated.readonly, updated.sync_interval_ms) == (True, -1000)
    assert home.covering("/m/x") == updated
    assert home.namespace.mounts_index == updated.changed_index == len(home.log)
    again = home.apply(UpdateMount(home.stamp(), "/m", mount.changed_index, {}, b"", False))
    assert refused(again, ConditionFailed)
    assert refused(home.apply(UpdateMount(home.stamp(), "/n", 1, {}, b"", False)), MountNotFound)
    assert refused(home.apply(UpdateMount(home.stamp(), "n", 1, {}, b"", False)), InvalidPath)


def test_unmounting_detaches_everything_at_once_and_removes_it_in_bounded_steps(home: Home) -> None:
    home.mkdir("/m")
    home.mount("/m")
    home.adopt("/m", [directory("d"), *(file(f"f{n:03}") for n in range(300))])
    home.adopt("/m/d", [directory("e"), file("g")])
    home.adopt("/m/d/e", [file("h")])
    contents = {inode.content for inode in home.tree().values() if inode.content}
    home.flush()
    point = home.inode("/m")
    assert unmount(home, "/m") == []
    assert home.names("/m") == []
    assert home.inode("/m").id != point.id
    assert not home.namespace.lookup(parse_path("/m/f001")).inode
    assert home.findings() == {}
    assert remove_all(home, limit=100) >= 4
    told = [content for _, kind, batch in home.namespace.feed(0, 100) for content in batch if kind == 1]
    assert sorted(told) == sorted(contents)
    assert home.namespace.counts()["inodes"] == 2
    assert home.delete("/m") is None
    assert refused(unmount(home, "/m"), MountNotFound)


def test_directories_that_only_mounting_made_go_with_their_last_mount(home: Home) -> None:
    home.mount("/a/b/one")
    home.mount("/a/b/two")
    home.mount("/a/kept/three")
    home.adopt("/a/b/one", [directory("d"), file("f")])
    home.mkdir("/a/kept/mine")
    assert unmount(home, "/a/b/one") == []
    assert home.names("/a/b") == [b"two/"]
    assert home.findings() == {}
    assert unmount(home, "/a/b/two") == []
    assert home.names("/a") == [b"kept/"]
    assert unmount(home, "/a/kept/three") == []
    assert home.names("/a/kept") == [b"mine/"]
    remove_all(home)
    assert home.namespace.counts()["inodes"] == 4
    again = home.mount("/a/b/one")
    assert isinstance(again, Mount)
    assert home.names("/a/b/one") == []


def test_a_directory_that_was_there_before_its_mount_stays(home: Home) -> None:
    home.mkdir("/mine/too", parents=True)
    home.mount("/mine/too")
    home.mount("/mine/new")
    unmount(home, "/mine/too")
    unmount(home, "/mine/new")
    assert home.names("/mine") == [b"too/"]
    assert home.inode("/mine/too").flags == Flag.EXPLICIT


def test_removal_goes_on_after_a_crash(home: Home) -> None:
    home.mount("/m")
    home.adopt("/m", [file(f"f{n:03}") for n in range(250)])
    unmount(home, "/m")
    home.apply(RemoveBelow(home.stamp(), 100))
    home.flush()
    home.apply(RemoveBelow(home.stamp(), 100))
    home.lose_memory()
    home.open()
    assert home.namespace.counts()["inodes"] == 51
    remove_all(home)


def test_a_listing_of_a_detached_directory_or_of_another_mount_is_refused(home: Home) -> None:
    mount = home.mount("/m")
    home.adopt("/m", [directory("d")])
    point, below = home.inode("/m"), home.inode("/m/d")
    unmount(home, "/m")
    for target in (point, below):
        page = AdoptPage(home.stamp(), target.id, mount.id, len(home.log), b"", None, [file("x")], True)
        assert type(home.apply(page)).__name__ in ("NotFound", "MountNotFound")
    second = home.mount("/m")
    assert second.id == mount.id + 1
    assert refused(home.adopt("/m", [file("x")], mount=mount), MountNotFound)
    assert refused(home.adopt_path("/m/x", file("x"), mount=mount), MountNotFound)
    remove_all(home)


def test_a_mount_with_others_below_stays(home: Home) -> None:
    home.mount("/m")
    home.mount("/m/x")
    still = unmount(home, "/m")
    assert refused(still, MountPoint)
    assert str(still).endswith("unmount them first: /m/x")
    assert refused(unmount(home, "/m/none"), MountNotFound)
    assert unmount(home, "/m/x") == []
    assert unmount(home, "/m") == []
    remove_all(home)


def test_the_number_of_mounts_and_the_work_of_one_entry_are_bounded(home: Home) -> None:
    for number in range(MOUNTS_MAX):
        home.mount(f"/{number}")
    assert refused(home.mount("/more"), Overloaded)
    assert refused(home.apply(RemoveBelow(home.stamp(), 0)), InvalidArgument)
    assert refused(home.apply(RemoveBelow(home.stamp(), 10_001)), InvalidArgument)
    assert home.apply(RemoveBelow(home.stamp(), 10_000)) == 0
