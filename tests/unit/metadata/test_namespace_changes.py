"""Changes of cache-only paths: make, create, delete, rename, pin; every success and every refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metadata_home import Home, directory, file, refused

from monofs.metadata.entries import Create, MakeDirectory, SetPin
from monofs.model.errors import (
    AlreadyExists,
    CrossMount,
    InvalidArgument,
    InvalidPath,
    IsADirectory,
    MountPoint,
    NameTooLong,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotSupported,
    ReadOnly,
)
from monofs.model.inode import Flag, Kind, decode_inode
from monofs.model.paths import parse_path


def test_a_directory_made_is_explicit_and_has_the_mode_and_owner_asked_for(home: Home) -> None:
    made = decode_inode(home.mkdir("/a"))
    assert (made.kind, made.mode, made.uid, made.gid) == (Kind.DIRECTORY, 0o755, 1, 2)
    assert made.flags == Flag.EXPLICIT
    assert made.mtime_ns == made.ctime_ns == home.clock_ns
    assert made.changed_index == len(home.log)
    assert home.inode("/a") == made


def test_a_directory_with_all_its_parents(home: Home) -> None:
    assert refused(home.mkdir("/a/b/c"), NotFound)
    home.mkdir("/a/b/c", parents=True)
    assert set(home.tree()) == {"/", "/a/", "/a/b/", "/a/b/c/"}
    assert home.namespace.counts()["inodes"] == 4


def test_making_what_exists(home: Home) -> None:
    first = home.mkdir("/a")
    home.create("/f")
    assert refused(home.mkdir("/a"), AlreadyExists)
    assert home.mkdir("/a", exist_ok=True) == first
    assert refused(home.mkdir("/f", exist_ok=True), AlreadyExists)
    assert refused(home.mkdir("/"), AlreadyExists)
    assert home.mkdir("/", exist_ok=True, parents=True)
    assert refused(home.mkdir("/f/below", parents=True), NotADirectory)


def test_a_file_created_is_empty_and_has_no_content(home: Home) -> None:
    made = decode_inode(home.create("/f"))
    assert (made.kind, made.size, made.content, made.flags, made.mode) == (Kind.FILE, 0, 0, 0, 0o640)
    assert refused(home.create("/f"), AlreadyExists)
    assert refused(home.create("/"), AlreadyExists)
    assert refused(home.create("/a/f"), NotFound)
    assert refused(home.create("/f/g"), NotADirectory)
    home.mkdir("/d")
    assert refused(home.create("/d"), AlreadyExists)


def test_modes_are_cut_to_permission_bits(home: Home) -> None:
    raw = home.apply(Create(home.stamp(), "/f", 0o107644, 0, 0))
    assert decode_inode(raw).mode == 0o7644
    raw = home.apply(MakeDirectory(home.stamp(), "/d", 0o40755, 0, 0, False, False))
    assert decode_inode(raw).mode == 0o755


@pytest.mark.parametrize(
    ("path", "error"),
    [("a", InvalidPath), ("/a//b", InvalidPath), ("/./a", InvalidPath), ("/" + "n" * 256, NameTooLong)],
)
def test_malformed_paths_are_refused_by_every_change(home: Home, path: str, error: type) -> None:
    for result in (
        home.mkdir(path),
        home.create(path),
        home.delete(path),
        home.rename(path, "/x"),
        home.rename("/", path),
        home.mount(path),
        home.apply(SetPin(home.stamp(), path, True)),
    ):
        assert refused(result, error)
    assert set(home.tree()) == {"/"}


def test_a_change_below_a_directory_moves_its_times(home: Home) -> None:
    home.mkdir("/a/b", parents=True)
    before = home.inode("/a/b")
    home.create("/a/b/f")
    after = home.inode("/a/b")
    assert after.mtime_ns == after.ctime_ns == home.clock_ns > before.mtime_ns
    home.delete("/a/b/f")
    assert home.inode("/a/b").mtime_ns == home.clock_ns
    assert home.inode("/").mtime_ns < home.clock_ns
    home.create("/f")
    assert home.inode("/").mtime_ns == home.clock_ns


def test_deleting(home: Home) -> None:
    home.mkdir("/a/b", parents=True)
    home.create("/a/f")
    assert refused(home.delete("/a"), NotEmpty)
    assert refused(home.delete("/a/x"), NotFound)
    assert refused(home.delete("/a/f/x"), NotADirectory)
    assert refused(home.delete("/"), MountPoint)
    for path in ("/a/f", "/a/b", "/a"):
        assert home.delete(path) is None
        assert not home.exists(path)
    assert home.namespace.counts()["inodes"] == 1


def test_a_directory_emptied_by_a_flushed_deletion_can_be_deleted(home: Home) -> None:
    home.mkdir("/a")
    home.create("/a/f")
    home.flush()
    home.delete("/a/f")
    assert home.delete("/a") is None


def test_renaming_a_directory_moves_one_record_and_all_below_it(home: Home) -> None:
    home.mkdir("/a/b", parents=True)
    home.create("/a/b/f")
    home.mkdir("/x")
    moved = decode_inode(home.rename("/a", "/x/y"))
    assert set(home.tree()) == {"/", "/x/", "/x/y/", "/x/y/b/", "/x/y/b/f"}
    assert home.inode("/x/y").id == moved.id
    assert moved.changed_index == len(home.log)
    assert not home.exists("/a/b/f")


def test_renaming_replaces_a_file_by_a_file_and_an_empty_directory_by_a_directory(home: Home) -> None:
    source = decode_inode(home.create("/f"))
    home.create("/g")
    assert decode_inode(home.rename("/f", "/g")).id == source.id
    home.mkdir("/a/inner", parents=True)
    home.mkdir("/b")
    home.rename("/a", "/b")
    assert set(home.tree()) == {"/", "/g", "/b/", "/b/inner/"}
    assert home.namespace.counts()["inodes"] == 4


def test_renaming_refuses_what_rename_2_refuses(home: Home) -> None:
    home.mkdir("/a/b", parents=True)
    home.mkdir("/full/x", parents=True)
    home.create("/f")
    assert refused(home.rename("/missing", "/x"), NotFound)
    assert refused(home.rename("/f/below", "/x"), NotADirectory)
    assert refused(home.rename("/a", "/a/b/c"), InvalidArgument)
    assert refused(home.rename("/a", "/nowhere/x"), NotFound)
    assert refused(home.rename("/f", "/f/x"), NotADirectory)
    assert refused(home.rename("/a", "/f"), NotADirectory)
    assert refused(home.rename("/f", "/a"), IsADirectory)
    assert refused(home.rename("/a", "/full"), NotEmpty)
    assert refused(home.rename("/a/b", "/a"), NotEmpty)
    assert refused(home.rename("/", "/x"), MountPoint)
    assert refused(home.rename("/a", "/"), MountPoint)


def test_renaming_onto_itself_changes_nothing(home: Home) -> None:
    raw = home.create("/f")
    assert home.rename("/f", "/f") == raw


def test_below_a_mount_changes_are_not_available_and_read_only_ones_say_so(home: Home) -> None:
    home.mount("/m")
    home.mount("/r", readonly=True)
    home.adopt("/m", [file("f"), directory("d")])
    home.adopt("/r", [file("f")])
    home.create("/out")
    for path, error in (("/m", NotSupported), ("/r", ReadOnly)):
        assert refused(home.mkdir(path + "/new"), error)
        assert refused(home.create(path + "/new"), error)
        assert refused(home.delete(path + "/f"), error)
        assert refused(home.rename(path + "/f", path + "/g"), error)
        assert refused(home.rename("/out", path + "/out"), CrossMount)
        assert refused(home.rename(path + "/f", "/f"), CrossMount)
    assert refused(home.rename("/m/f", "/r/g"), CrossMount)
    assert home.mkdir("/m/d", exist_ok=True)
    assert refused(home.mkdir("/m/d"), AlreadyExists)


def test_mount_points_and_what_holds_them_stay_where_they_are(home: Home) -> None:
    home.mount("/a/b/m")
    home.mkdir("/empty")
    assert refused(home.delete("/a/b/m"), MountPoint)
    assert refused(home.rename("/a/b/m", "/x"), MountPoint)
    assert refused(home.rename("/empty", "/a/b/m"), MountPoint)
    assert refused(home.rename("/a", "/x"), MountPoint)
    assert refused(home.delete("/a/b"), NotEmpty)


def test_pins_cover_everything_below_and_setting_them_twice_changes_nothing(home: Home) -> None:
    home.mount("/m")
    home.adopt("/m", [directory("d"), file("f")])
    pinned = home.apply(SetPin(home.stamp(), "/m/d", True))
    assert decode_inode(pinned).flags & Flag.PINNED
    assert home.apply(SetPin(home.stamp(), "/m/d", True)) == pinned
    assert home.namespace.lookup(parse_path("/m/d")).pinned
    assert home.namespace.lookup(parse_path("/m/d/below")).pinned
    assert not home.namespace.lookup(parse_path("/m/f")).pinned
    home.apply(SetPin(home.stamp(), "/m/d", False))
    assert not home.namespace.lookup(parse_path("/m/d/below")).pinned
    home.apply(SetPin(home.stamp(), "/", True))
    assert home.namespace.lookup(parse_path("/m/f")).pinned
    assert refused(home.apply(SetPin(home.stamp(), "/none", True)), NotFound)


def test_lookup_tells_how_far_a_path_exists(home: Home) -> None:
    home.mkdir("/a/b", parents=True)
    home.create("/a/f")
    lookup = home.namespace.lookup
    root = lookup(())
    assert root.inode == home.inode("/")
    assert root.parent is None
    assert root.depth == 0
    found = lookup(parse_path("/a/b"))
    assert (found.depth, found.parent, found.located) == (2, home.inode("/a"), None)
    missing = lookup(parse_path("/a/x/y"))
    assert (missing.inode, missing.raw, missing.depth, missing.parent) == (None, None, 1, home.inode("/a"))
    below_file = lookup(parse_path("/a/f/x"))
    assert (below_file.inode, below_file.depth, below_file.parent) == (None, 2, home.inode("/a/f"))


def test_a_path_a_thousand_directories_deep(home: Home) -> None:
    path = "/d" * 1000
    home.mkdir(path, parents=True)
    home.create(path + "/f")
    assert home.namespace.lookup(parse_path(path + "/f")).depth == 1001
    home.rename("/d/d", "/top")
    assert home.namespace.lookup(parse_path("/top" + "/d" * 998 + "/f")).depth == 1000
    home.lose_memory()
    home.open()
    assert home.exists("/top" + "/d" * 998 + "/f")


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "a\nb", " ", "…", "a b", "\x01", "😀", "a/".rstrip("/")])
def test_unusual_names_are_kept_as_they_are(home: Home, name: str) -> None:
    home.mkdir("/" + name)
    home.create(f"/{name}/{name}")
    home.flush()
    assert home.names("/") == [name.encode() + b"/"]
    assert home.exists(f"/{name}/{name}")


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=4).filter(
    lambda name: name not in (".", "..")
)


@given(st.lists(NAMES, unique=True, max_size=30), st.data())
def test_children_come_in_the_order_of_s3_keys(names: list[str], data: st.DataObject) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as place:
        home = Home(Path(place) / "db")
        home.initialize()
        keys: list[str] = []
        for name in names:
            if data.draw(st.booleans()):
                home.mkdir("/" + name)
                home.create(f"/{name}/x")
                keys.append(f"{name}/x")
            else:
                home.create("/" + name)
                keys.append(name)
            if data.draw(st.integers(0, 9)) == 0:
                home.flush()
        walked = []
        for name in home.names("/"):
            walked += [name + b"x"] if name.endswith(b"/") else [name]
        assert walked == sorted(key.encode() for key in keys)
        home.close()
