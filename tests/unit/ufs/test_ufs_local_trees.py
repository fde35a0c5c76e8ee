"""Whole trees of a local directory: scanned in order, moved out of sight, deleted however deep they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from local_roots import everything, in_child, views

from monofs.model.errors import UfsChanged, UfsDenied, UfsFailed
from monofs.ufs.base import Condition
from monofs.ufs.local import LocalStore

ABSENT = Condition(absent=True)


def test_a_tree_that_holds_links_is_removed_without_following_them(
    root: Path, store: LocalStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "link").symlink_to(outside)
    (root / "d" / "e" / "link").symlink_to(outside / "kept")
    os.mkfifo(root / "d" / "e" / "fifo")
    assert store.remove_tree(b"d", "op")
    store.sweep("op", b"d")
    assert everything(root) == []
    assert (outside / "kept").read_bytes() == b"kept"


def test_a_tree_deeper_than_the_stack_and_the_descriptors_is_scanned_and_removed(root: Path) -> None:
    code = """
import resource, sys
depth = 1100
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
fd = os.open(store._root, os.O_RDONLY)
for number in range(depth):
    os.mkdir(b"d", dir_fd=fd)
    below = os.open(b"d", os.O_RDONLY, dir_fd=fd)
    os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=below))
    os.close(fd)
    fd = below
os.close(fd)
names = [entry.name for entry in store.scan(b"", limit=10_000).entries]
assert names == sorted(names) and len(names) == 2 * depth, len(names)
assert store.remove_tree(b"d", "op")
store.sweep("op", b"d")
print(os.listdir(store._root))
"""
    done = in_child(root, code)
    assert done.stdout == "[]\n", done.stderr


def test_what_cannot_be_deleted_of_a_tree_is_told_and_all_the_rest_goes(
    mounted: Path, root: Path, store: LocalStore
) -> None:
    (mounted / "busy").mkdir()
    for number in range(5):
        (root / "d" / f"e{number}").mkdir(parents=True)
        (root / "d" / f"e{number}" / "f").write_bytes(b"x")
    os.rename(root / "d", root / ".monofs-tmp-op")
    there = root / ".monofs-tmp-op" / "e2" / "mount"
    there.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", there], check=True)
    try:
        with pytest.raises(UfsFailed, match="busy"):
            store.sweep("op", b"d")
    finally:
        subprocess.run(["umount", there], check=True)
    assert [path for path in everything(root) if path.endswith("f")] == []
    store.sweep("op", b"d")
    assert everything(root) == ["mounted", "mounted/busy"]


def test_a_tree_on_another_file_system_is_left_to_be_deleted_key_by_key(
    mounted: Path, root: Path, store: LocalStore
) -> None:
    (mounted / "d" / "e").mkdir(parents=True)
    (mounted / "d" / "e" / "f").write_bytes(b"x")
    assert not store.remove_tree(b"mounted/d", "op")
    keys = [b"mounted/d/" + entry.name for entry in store.scan(b"mounted/d").entries]
    assert keys == [b"mounted/d/e/", b"mounted/d/e/f"]
    assert store.delete_many([*keys, b"mounted/d/"]) == {}
    assert everything(root) == ["mounted"]
    (root / "f").write_bytes(b"x")
    with pytest.raises(UfsDenied, match=r"[Cc]ross-device"):
        store.rename(b"f", b"mounted/f", ABSENT, directory=False)


def test_a_scan_holds_its_place_while_the_tree_changes(root: Path, store: LocalStore) -> None:
    for name in ("a", "b", "c"):
        (root / name).mkdir()
        for number in range(3):
            (root / name / f"f{number}").write_bytes(b"")
    first = store.scan(b"", limit=6)
    assert [entry.name for entry in first.entries] == [b"a/", b"a/f0", b"a/f1", b"a/f2", b"b/", b"b/f0"]
    shutil.rmtree(root / "b")
    (root / "aa").write_bytes(b"behind")
    (root / "bb").write_bytes(b"ahead")
    rest = store.scan(b"", after=first.next or b"", limit=100)
    assert [entry.name for entry in rest.entries] == [b"bb", b"c/", b"c/f0", b"c/f1", b"c/f2"]


def test_a_large_directory_is_scanned_in_pages_without_reading_it_anew_for_each(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        (root / f"{number:04d}").write_bytes(b"")
    later = time.time_ns() + 10 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)  # the directory did not change just now
    found: list[bytes] = []
    after: bytes | None = b""
    while after is not None:
        page = store.scan(b"", after=after, limit=7)
        found += [entry.name for entry in page.entries]
        after = page.next
    assert found == [b"%04d" % number for number in range(300)]


def test_acts_are_told_to_the_observer(root: Path) -> None:
    told: list[tuple[str, str, int]] = []
    store = LocalStore(root.as_uri(), observe=lambda kind, outcome, _, size: told.append((kind, outcome, size)))
    store.put(b"f", views(b"abc"), "op", ABSENT)
    with pytest.raises(UfsChanged):
        store.put(b"f", views(b"abc"), "op-2", ABSENT)
    store.delete(b"f")
    assert told == [("put", "ok", 3), ("look", "ok", 0), ("put", "UfsChanged", 3), ("delete", "ok", 0)]
