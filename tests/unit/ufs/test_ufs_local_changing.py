"""A local directory that is changed: whole files or none, durable, never outside the root, and nothing of others is harmed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_roots import everything, in_child, views

from monofs.model.errors import (
    InvariantBroken,
    MonofsError,
    UfsBadBody,
    UfsBucketNotFound,
    UfsChanged,
    UfsDenied,
    UfsFailed,
    UfsFull,
    UfsNotFound,
    UfsUnreachable,
)
from monofs.ufs.base import ANYTHING, Condition, may_be_done
from monofs.ufs.local import LocalStore

ABSENT = Condition(absent=True)


# ---- nothing outside the root -------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.lists(
        st.sampled_from([b"..", b".", b"", b"out", b"a", b"up", b"\0", b"f", b".monofs-tmp-x"]), max_size=5
    ).map(b"/".join),
    act=st.integers(0, 8),
)
def test_no_act_leads_out_of_the_root(tmp_path: Path, key: bytes, act: int) -> None:
    jail = tmp_path / "jail"
    if not jail.exists():
        (jail / "a").mkdir(parents=True)
        (jail / "up").symlink_to("..")
        (tmp_path / "f").write_bytes(b"outside")
        (tmp_path / "out").mkdir()
    outside = sorted(os.listdir(tmp_path))
    store = LocalStore(jail.as_uri())
    acts: list[Callable[[], object]] = [
        lambda: store.put(key, views(b"in"), "op", ANYTHING),
        lambda: store.begin_upload(key, "op"),
        lambda: store.delete(key),
        lambda: store.delete_many([key, key + b"/"]),
        lambda: store.make_directory(key, "op"),
        lambda: store.remove_directory(key),
        lambda: store.rename(b"a", key, ANYTHING, directory=True),
        lambda: store.rename(key, b"b", ANYTHING, directory=True),
        lambda: store.remove_tree(key, "op"),
    ]
    if key or act not in (0, 1, 2, 3, 5, 7, 8):  # the root itself is no file, and is not removed
        with contextlib.suppress(MonofsError):
            acts[act]()
    assert sorted(os.listdir(tmp_path)) == outside
    assert (tmp_path / "f").read_bytes() == b"outside"
    assert (jail / "up").is_symlink()


def test_links_and_devices_are_neither_replaced_nor_deleted_nor_followed(
    root: Path, store: LocalStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    (root / "link").symlink_to(outside / "kept")
    (root / "directory").symlink_to(outside)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(root / "socket"))
        for key in (b"link", b"fifo", b"socket"):
            with pytest.raises(UfsDenied, match="does not replace"):
                store.put(key, views(b"x"), "op", ANYTHING)
            with pytest.raises(UfsChanged):
                store.put(key, views(b"x"), "op", ABSENT)
            store.delete(key)
            store.remove_directory(key)
            assert store.remove_tree(key, "op")
        with pytest.raises(UfsChanged):
            store.put(b"directory/kept", views(b"x"), "op", ANYTHING)
        store.delete(b"directory/kept")
        page = store.scan(b"")
        assert (page.entries, page.odd) == ([], [b"directory", b"fifo", b"link", b"socket"])
    assert everything(root) == ["directory", "fifo", "link", "socket"]
    assert (outside / "kept").read_bytes() == b"kept"


def test_a_key_below_a_file_or_above_its_root_is_refused(root: Path, store: LocalStore) -> None:
    (root / "f").write_bytes(b"x")
    (root / "d").mkdir()
    with pytest.raises(UfsChanged, match="is a file or a link"):
        store.put(b"f/below", views(b"x"), "op", ABSENT)
    with pytest.raises(UfsChanged):
        store.put(b"d", views(b"x"), "op", ANYTHING)
    with pytest.raises(UfsChanged):
        store.make_directory(b"f", "op")
    with pytest.raises(UfsNotFound, match="not a name"):
        store.put(b".monofs-tmp-x", views(b"x"), "op", ABSENT)
    with pytest.raises(InvariantBroken):
        store.put(b"g", views(b"x"), "../op", ABSENT)
    assert everything(root) == ["d", "f"]


def test_a_root_that_is_gone_is_not_made_anew_and_nothing_counts_as_deleted(root: Path, store: LocalStore) -> None:
    fingerprint = store.put(b"f", views(b"x"), "op", ABSENT).fingerprint
    os.rename(root, root.with_name("away"))
    acts: list[Callable[[], object]] = [
        lambda: store.look(b"f"),
        lambda: store.put(b"f", views(b"x"), "op", ABSENT),
        lambda: store.begin_upload(b"f", "op"),
        lambda: store.copy(b"f", fingerprint, b"g", "op", ABSENT),
        lambda: store.delete(b"f"),
        lambda: store.delete_many([b"f"]),
        lambda: store.make_directory(b"d", "op"),
        lambda: store.remove_directory(b"d"),
        lambda: store.rename(b"f", b"g", ABSENT, directory=False),
        lambda: store.scan(b""),
        lambda: store.remove_tree(b"d", "op"),
        lambda: store.sweep("op", b"d"),
        lambda: store.abort_upload(b"f", "op"),
    ]
    for act in acts:
        with pytest.raises(UfsBucketNotFound):
            act()
    assert not root.exists()


def test_a_root_that_is_not_mounted_is_not_changed(root: Path) -> None:
    store = LocalStore(root.as_uri(), own_file_system=True)
    for act in (
        lambda: store.put(b"f", views(b"x"), "op", ABSENT),
        lambda: store.make_directory(b"d", "op"),
        lambda: store.delete(b"f"),
        lambda: store.scan(b""),
    ):
        with pytest.raises(UfsUnreachable, match="not mounted any more"):
            act()
    assert everything(root) == []


# ---- versions -----------------------------------------------------------------------------------------------------------


def test_what_was_just_made_is_read_at_once_and_a_change_of_the_same_size_shows(root: Path, store: LocalStore) -> None:
    for number in range(50):
        key = b"f%d" % number
        made = store.put(key, views(b"ours"), "op", ABSENT)
        assert not made.racy
        with open(os.fsencode(root) + b"/" + key, "r+b") as file:  # in place, within the same tick of the clock
            file.write(b"them")
        found = store.status(key)[0]
        assert found is not None
        assert found.fingerprint != made.fingerprint
    made = store.put(b"read", views(b"ours"), "op", ABSENT)
    assert b"".join(store.read(b"read", 0, 10, made.fingerprint)) == b"ours"


def test_an_operation_is_forgotten_when_others_change_or_copy_the_file(root: Path, store: LocalStore) -> None:
    store.put(b"f", views(b"ours"), "op-1", ABSENT)
    shutil.copy2(root / "f", root / "copied")  # keeps mtime and extended attributes
    os.link(root / "f", root / "linked")

    def operation(key: bytes) -> str:
        found = store.look(key)
        assert found is not None
        return found.operation

    assert (operation(b"f"), operation(b"copied"), operation(b"linked")) == ("op-1", "", "op-1")
    with open(root / "f", "r+b") as file:
        file.write(b"them")
    assert operation(b"f") == ""
    assert store.look(b"missing") is None
    assert store.look(b"missing/deeper") is None


def test_a_new_file_has_the_mode_of_any_and_a_replaced_one_keeps_its_own(root: Path, store: LocalStore) -> None:
    old_mask = os.umask(0o027)
    try:
        made = store.put(b"new/f", views(b"x"), "op-1", ABSENT)
    finally:
        os.umask(old_mask)
    assert made.mode == 0o640
    assert stat.S_IMODE(os.stat(root / "new").st_mode) == 0o750
    os.chmod(root / "new" / "f", 0o604)
    if os.geteuid() == 0:
        os.chown(root / "new" / "f", 12, 34)
    replaced = store.put(b"new/f", views(b"y"), "op-2", ANYTHING)
    assert replaced.mode == 0o604
    if os.geteuid() == 0:
        assert (replaced.uid, replaced.gid) == (12, 34)
    copied = store.copy(b"new/f", replaced.fingerprint, b"copy", "op-3", ABSENT)
    assert copied.mode == 0o604


def test_a_source_that_changes_while_it_is_copied_gives_no_copy(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = store.put(b"source", views(bytes(40 << 20)), "op-1", ABSENT)
    real = os.copy_file_range

    def overtaken(*arguments: int) -> int:
        with open(root / "source", "r+b") as file:
            file.write(b"them")
        return real(*arguments)

    monkeypatch.setattr(os, "copy_file_range", overtaken)
    with pytest.raises(UfsChanged) as caught:
        store.copy(b"source", source.fingerprint, b"target", "op-2", ABSENT)
    assert caught.value.detail["source"] == 1
    assert everything(root) == ["source"]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_cannot_copy_is_copied_by_hand(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", refused)
    data = os.urandom(3 << 20)
    source = store.put(b"source", views(data), "op-1", ABSENT)
    store.copy(b"source", source.fingerprint, b"target", "op-2", ABSENT)
    assert (root / "target").read_bytes() == data


def test_an_upload_that_is_not_whole_is_not_published(root: Path, store: LocalStore) -> None:
    upload = store.begin_upload(b"f", "op")
    first = store.put_part(b"f", upload, 1, 0, views(b"aaaa"))
    third = store.put_part(b"f", upload, 3, 8, views(b"cccc"))
    for parts, size in (([first, third], 12), ([first], 4), ([first, third], 13), ([], 0)):
        with pytest.raises(UfsBadBody) as caught:
            store.complete_upload(b"f", upload, parts, size, "op", ABSENT)
        assert not may_be_done(caught.value)
    second = store.put_part(b"f", upload, 2, 4, views(b"bbbb"))
    assert store.complete_upload(b"f", upload, [first, second, third], 12, "op", ABSENT).size == 12
    with pytest.raises(UfsNotFound):
        store.put_part(b"f", upload, 4, 12, views(b"late"))
    with pytest.raises(UfsNotFound):
        store.complete_upload(b"g", "never", [], 0, "op-2", ABSENT)


# ---- durable, or not there ----------------------------------------------------------------------------------------------


def test_bytes_are_synced_before_the_name_and_the_name_before_the_answer(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    real = os.fsync

    def watched(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        seen.append((os.path.relpath(path, root), (root / "d" / "e" / "f").exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", watched)
    store.put(b"d/e/f", views(b"x"), "op", ABSENT)
    assert seen == [(".", False), ("d", False), ("d/e/.monofs-tmp-op", False), ("d/e", True)]
    seen.clear()
    store.rename(b"d/e/f", b"g", ABSENT, directory=False)
    assert seen == [(".", False), ("d/e", False)]
    seen.clear()
    store.delete_many([b"g", b"d/e/", b"d/"])
    assert seen == [(".", False), ("d", False), (".", False)]


@pytest.mark.parametrize("act", ["put", "parts"])
def test_a_disk_that_cannot_sync_shows_nothing_and_says_that_it_was_not_done(root: Path, act: str) -> None:
    code = {
        "put": "do = lambda: store.put(b'f', views(b'x'), 'op', ANYTHING)",
        "parts": "up = store.begin_upload(b'f', 'op'); one = store.put_part(b'f', up, 1, 0, views(b'x'))\n"
        "do = lambda: store.complete_upload(b'f', up, [one], 1, 'op', ANYTHING)",
    }[act]
    after = """
fail_syscall("fsync", errno.EIO)
try:
    do()
except UfsFailed as error:
    print(may_be_done(error))
"""
    done = in_child(root, code + after)
    assert done.stdout == "False\n", done.stderr
    assert everything(root) == ([] if act == "put" else [".monofs-tmp-op"])


def test_a_rename_that_is_not_known_to_be_durable_may_have_been_done(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fails(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(UfsFailed) as caught:
        store.put(b"f", views(b"x"), "op", ABSENT)
    assert may_be_done(caught.value)
    monkeypatch.undo()
    found = store.look(b"f")
    assert found is not None
    assert found.operation == "op"
    assert store.put(b"f", views(b"x"), "op", ABSENT).fingerprint == found.fingerprint


@pytest.mark.parametrize(("point", "made"), [("local.temp-written", False), ("local.renamed", True)])
@pytest.mark.parametrize("act", ["put", "complete", "copy"])
def test_a_process_killed_between_two_steps_leaves_the_file_or_a_hidden_one_to_sweep(
    root: Path, store: LocalStore, point: str, made: bool, act: str
) -> None:
    source = store.put(b"source", views(b"x"), "op-0", ABSENT)
    code = {
        "put": "store.put(b'd/f', views(b'x'), 'op', ABSENT)",
        "complete": "up = store.begin_upload(b'd/f', 'op')\n"
        "store.complete_upload(b'd/f', up, [store.put_part(b'd/f', up, 1, 0, views(b'x'))], 1, 'op', ABSENT)",
        "copy": f"store.copy(b'source', {source.fingerprint!r}, b'd/f', 'op', ABSENT)",
    }[act]
    killed = in_child(root, "ABSENT = Condition(absent=True)\n" + code, MONOFS_FAILPOINTS=f"{point}=kill")
    assert killed.returncode == -9, killed.stderr
    found = store.look(b"d/f")
    if made:
        assert found is not None
        assert found.operation == "op"
    else:
        assert found is None
        assert everything(root) == ["d", "d/.monofs-tmp-op", "source"]
        assert [entry.name for entry in store.scan(b"").entries] == [b"d/", b"source"]
    store.sweep("another", b"d/f")
    assert (root / "d" / ".monofs-tmp-op").exists() != made
    store.sweep("op", b"d/f")
    assert everything(root) == (["d", "d/f", "source"] if made else ["d", "source"])
    assert store.put(b"d/f", views(b"y"), "op-2", ANYTHING).size == 1


def test_a_full_disk_is_told_as_such_and_shows_nothing(mounted: Path, root: Path, store: LocalStore) -> None:
    kept = store.put(b"mounted/kept", views(b"old"), "op-0", ABSENT)
    data = bytes(2 << 20)
    with pytest.raises(UfsFull, match="no room") as caught:
        store.put(b"mounted/kept", views(data), "op-1", Condition(kept.fingerprint))
    assert not may_be_done(caught.value)
    assert caught.value.errno == errno.ENOSPC
    upload = store.begin_upload(b"mounted/big", "op-2")
    with pytest.raises(UfsFull):
        store.put_part(b"mounted/big", upload, 1, 0, views(data))
    store.abort_upload(b"mounted/big", upload)
    assert os.listdir(mounted) == ["kept"]
    assert (mounted / "kept").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, UfsFull),
        (errno.EDQUOT, UfsFull),
        (errno.EROFS, UfsDenied),
        (errno.EACCES, UfsDenied),
        (errno.EIO, UfsFailed),
        (errno.ESTALE, UfsFailed),
        (errno.ETIMEDOUT, UfsUnreachable),
    ],
)
def test_what_the_system_says_about_an_act_becomes_a_typed_error(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[MonofsError]
) -> None:
    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fails)
    with pytest.raises(error, match="/f") as caught:
        store.put(b"f", views(b"x"), "op", ABSENT)
    assert not may_be_done(caught.value)
    assert everything(root) == []


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="elsewhere every rename is that call")
@pytest.mark.parametrize("links", [True, False])
def test_a_file_system_without_exclusive_renames_is_linked_or_asked(root: Path, links: bool) -> None:
    code = """
fail_syscall("renameat2", errno.EINVAL)
made = store.put(b"f", views(b"one"), "op-1", Condition(absent=True))
try:
    store.put(b"f", views(b"two"), "op-2", Condition(absent=True))
except UfsChanged:
    print("kept")
print(store.status(b"f")[0].fingerprint == made.fingerprint, os.listdir(store._root))
"""
    done = in_child(root, ("" if links else "fail_syscall('linkat', errno.EPERM)\n") + code)
    assert done.stdout == "kept\nTrue [b'f']\n", done.stderr
    assert (root / "f").read_bytes() == b"one"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the user who may not write")
def test_what_its_user_may_not_change_is_denied(root: Path, tmp_path: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "f").write_bytes(b"x")
    for directory in [root, *root.parents]:
        if directory.stat().st_uid == 0 and str(directory).startswith("/tmp/"):
            os.chmod(directory, 0o755)
    code = """
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
for act in (
    lambda: store.put(b"d/new", views(b"x"), "op", ANYTHING),
    lambda: store.put(b"d/f", views(b"x"), "op", ANYTHING),
    lambda: store.delete(b"d/f"),
    lambda: store.make_directory(b"d/e", "op"),
    lambda: store.remove_directory(b"d"),
    lambda: store.rename(b"d/f", b"d/g", ANYTHING, directory=False),
):
    try:
        act()
    except UfsDenied as error:
        print(may_be_done(error), "may not be" in str(error))
print({type(error).__name__ for error in store.delete_many([b"d/f"]).values()}, store.remove_tree(b"d", "op"))
"""
    done = in_child(root, code)
    assert done.stdout == "False True\n" * 6 + "{'UfsDenied'} False\n", done.stderr
    assert everything(root) == ["d", "d/f"]
