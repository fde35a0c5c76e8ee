"""A local directory as a store: nothing outside the root is ever opened, and no listing or read trusts a stale look."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monofs.model.errors import (
    UfsBucketNotFound,
    UfsChanged,
    UfsDenied,
    UfsFailed,
    UfsNotFound,
    UfsOption,
    UfsUnreachable,
)
from monofs.ufs.base import UfsEntry
from monofs.ufs.local import LocalStore
from monofs.ufs.local_reading import TICK_NS
from monofs.ufs.local_root import learned_options
from monofs.ufs.registry import normal_uri, open_ufs

HOUR_NS = 3600 * 10**9


def age(path: Path | bytes, ns: int = HOUR_NS) -> None:
    """Give a file or directory an old mtime (its ctime stays of now)."""
    found = os.stat(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - ns))


def file_of(store: LocalStore, key: bytes) -> UfsEntry:
    entry = store.status(key)[0]
    assert entry is not None
    return entry


def all_names(store: LocalStore, key: bytes, limit: int) -> list[bytes]:
    found, after = [], b""
    while True:
        page = store.list(key, after=after, limit=limit)
        found += [entry.name for entry in page.entries]
        if page.next is None:
            return found
        after = page.next


def test_no_symbolic_link_is_followed_and_all_are_reported(root: Path, store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "inside").write_bytes(b"inside")
    (root / "to-file").symlink_to(outside / "secret")
    (root / "to-directory").symlink_to(outside)
    (root / "to-inside").symlink_to("inside")
    (root / "dangling").symlink_to("nowhere")
    page = store.list(b"")
    assert [entry.name for entry in page.entries] == [b"inside"]
    assert page.odd == [b"dangling", b"to-directory", b"to-file", b"to-inside"]
    fingerprint = file_of(store, b"inside").fingerprint
    for key in (b"to-file", b"to-directory/secret", b"to-directory", b"to-inside", b"dangling"):
        assert store.status(key) == (None, None)
        with pytest.raises(UfsNotFound):
            list(store.read(key, 0, 10, fingerprint))
    with pytest.raises(UfsNotFound):
        store.list(b"to-directory")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.lists(st.sampled_from([b"..", b".", b"", b"out", b"a", b"up", b"\0", b"f"]), max_size=5).map(b"/".join))
def test_no_key_leads_out_of_the_root(tmp_path: Path, key: bytes) -> None:
    root = tmp_path / "jail"
    if not root.exists():
        (root / "a").mkdir(parents=True)
        (root / "f").write_bytes(b"in")
        (root / "a" / "f").write_bytes(b"in")
        (root / "up").symlink_to("..")
        (tmp_path / "f").write_bytes(b"outside")
        (tmp_path / "out").write_bytes(b"outside")
    store = LocalStore(root.as_uri())
    file, _ = store.status(key)
    if file is not None:
        assert b"".join(store.read(key, 0, 100, file.fingerprint)) == b"in"


def test_the_root_itself_may_be_a_symbolic_link(root: Path, tmp_path: Path) -> None:
    (root / "f").write_bytes(b"x")
    (tmp_path / "link").symlink_to(root)
    assert [entry.name for entry in LocalStore((tmp_path / "link").as_uri()).list(b"").entries] == [b"f"]


def test_a_fifo_a_socket_and_a_device_are_reported_and_never_opened(root: Path, store: LocalStore) -> None:
    os.mkfifo(root / "fifo")  # opening it would wait for a writer for ever
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(root / "socket"))
        expected = [b"fifo", b"socket"]
        if os.geteuid() == 0:
            os.mknod(root / "device", 0o600 | 0o020000, os.makedev(1, 3))
            expected.insert(0, b"device")
        page = store.list(b"")
        assert (page.entries, page.odd) == ([], expected)
        for key in expected:
            with pytest.raises(UfsNotFound, match="not a regular file"):
                list(store.read(key, 0, 1, "t:0:0:0:0"))


def test_our_own_unfinished_files_do_not_exist(root: Path, store: LocalStore) -> None:
    (root / ".monofs-tmp-17").write_bytes(b"half")
    (root / ".monofs-tmp-dir").mkdir()
    (root / ".monofs").write_bytes(b"")
    page = store.list(b"")
    assert ([entry.name for entry in page.entries], page.odd) == ([b".monofs"], [])
    assert store.status(b".monofs-tmp-17") == (None, None)
    with pytest.raises(UfsNotFound):
        list(store.read(b".monofs-tmp-17", 0, 4, "t:4:0:0:0"))
    with pytest.raises(UfsNotFound):
        store.list(b".monofs-tmp-dir")


def test_entries_carry_owner_mode_and_a_fingerprint_of_size_times_and_inode(root: Path, store: LocalStore) -> None:
    (root / "f").write_bytes(b"abc")
    os.chmod(root / "f", 0o640)
    found = os.stat(root / "f")
    entry = file_of(store, b"f")
    assert (entry.mode, entry.uid, entry.gid, entry.size) == (0o640, found.st_uid, found.st_gid, 3)
    assert entry.fingerprint == f"t:3:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"
    assert store.list(b"").entries == [entry]


def test_a_file_that_just_changed_is_racy_whatever_its_mtime_says(root: Path, store: LocalStore) -> None:
    (root / "f").write_bytes(b"abc")
    assert file_of(store, b"f").racy
    age(root / "f")  # sets mtime back; ctime tells the truth
    assert file_of(store, b"f").racy


def test_a_file_changed_between_two_pieces_ends_the_read_with_the_old_bytes_only(root: Path, store: LocalStore) -> None:
    (root / "f").write_bytes(b"o" * (3 << 20))
    reader = store.read(b"f", 0, 3 << 20, file_of(store, b"f").fingerprint)
    got = bytes(next(reader))
    with open(root / "f", "r+b") as file:
        file.write(b"n" * (3 << 20))
    with pytest.raises(UfsChanged):
        for view in reader:
            got += view
    assert set(got) == {ord("o")}


def test_a_file_replaced_by_another_of_the_same_size_and_mtime_is_another_version(
    root: Path, store: LocalStore
) -> None:
    (root / "f").write_bytes(b"old")
    entry = file_of(store, b"f")
    (root / "g").write_bytes(b"new")
    os.utime(root / "g", ns=(entry.mtime_ns, entry.mtime_ns))
    os.rename(root / "g", root / "f")
    with pytest.raises(UfsChanged):
        list(store.read(b"f", 0, 3, entry.fingerprint))


def test_a_sparse_file_beyond_5_gb_reads_at_any_offset(root: Path, store: LocalStore) -> None:
    size = 6_000_000_123
    with open(root / "big", "wb") as file:
        file.truncate(size)
        for offset in (0, (1 << 32) - 2, 5_500_000_000, size - 4):
            file.seek(offset)
            file.write(b"mark")
    entry = file_of(store, b"big")
    assert entry.size == size
    for offset in (0, (1 << 32) - 2, 5_500_000_000, size - 4):
        assert b"".join(store.read(b"big", offset, 4, entry.fingerprint)) == b"mark"
    assert b"".join(store.read(b"big", size - 2, 100, entry.fingerprint)) == b"rk"


def test_a_tree_a_thousand_deep_lists_and_reads(root: Path, store: LocalStore) -> None:
    fd = os.open(root, os.O_PATH)
    for _ in range(1000):
        os.mkdir("d" * 20, dir_fd=fd)
        below = os.open("d" * 20, os.O_PATH | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    leaf = os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.write(leaf, b"deep")
    os.close(leaf)
    os.close(fd)
    key = b"/".join([b"d" * 20] * 1000)
    assert [entry.name for entry in store.list(key).entries] == [b"leaf"]
    fingerprint = file_of(store, key + b"/leaf").fingerprint
    assert b"".join(store.read(key + b"/leaf", 0, 10, fingerprint)) == b"deep"
    subprocess.run(["rm", "-rf", root / ("d" * 20)], check=True)  # pytest's own cleaning recurses a level a directory


def make_many(root: Path, count: int) -> None:
    fd = os.open(root, os.O_DIRECTORY)
    for number in range(count):
        os.mknod(b"f%06d" % number, dir_fd=fd)
    os.close(fd)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Descriptors of the directories read so far."""
    seen: list[int] = []
    scandir = os.scandir

    def counting(fd: int) -> object:
        seen.append(fd)
        return scandir(fd)

    monkeypatch.setattr(os, "scandir", counting)
    return seen


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the wall clock stand that much later: what was just written is then old."""
    import time

    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + int(seconds * 1e9))


def test_a_hundred_thousand_files_are_paged_with_one_scan(
    root: Path, store: LocalStore, scans: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_many(root, 100_000)
    later(monkeypatch, 10)
    assert all_names(store, b"", 1000) == [b"f%06d" % number for number in range(100_000)]
    assert len(scans) == 1
    assert not store._snapshots


def test_a_directory_that_changed_is_scanned_again_for_the_next_page(
    root: Path, store: LocalStore, scans: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_many(root, 10)
    later(monkeypatch, 10)
    first = store.list(b"", limit=5)
    (root / "f000007x").write_bytes(b"")
    os.unlink(root / "f000008")
    rest = store.list(b"", after=first.next or b"", limit=50)
    assert [entry.name for entry in rest.entries] == [b"f000005", b"f000006", b"f000007", b"f000007x", b"f000009"]
    assert len(scans) == 2


def test_a_directory_that_just_changed_is_never_remembered(root: Path, store: LocalStore, scans: list[int]) -> None:
    make_many(root, 10)
    assert len(all_names(store, b"", 5)) == 10
    assert len(scans) == 2  # a change within one tick of its clock would not show in its mtime


def test_names_beyond_the_bound_are_paged_without_being_kept(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.ufs.local_reading.NAMES_MAX", 50)
    monkeypatch.setattr("monofs.ufs.local_reading.ODD_MAX", 3)
    make_many(root, 200)
    later(monkeypatch, 10)
    for limit in (1, 7, 500):
        assert all_names(store, b"", limit) == [b"f%06d" % number for number in range(200)]
    assert not store._snapshots


def test_snapshots_of_unfinished_listings_are_few(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (root / f"d{number:02d}").mkdir()
        make_many(root / f"d{number:02d}", 4)
    later(monkeypatch, 10)
    for number in range(20):
        store.list(b"d%02d" % number, limit=2)
    assert len(store._snapshots) == 8
    store.close()
    assert not store._snapshots


def test_a_vanished_root_is_told_and_a_root_that_returns_works(root: Path, store: LocalStore) -> None:
    (root / "f").write_bytes(b"x")
    fingerprint = file_of(store, b"f").fingerprint
    os.rename(root, root.with_name("away"))
    calls: list[Callable[[], object]] = [
        store.check,
        lambda: store.list(b""),
        lambda: store.status(b""),
        lambda: list(store.read(b"f", 0, 1, fingerprint)),
    ]
    for call in calls:
        with pytest.raises(UfsBucketNotFound):
            call()
    os.rename(root.with_name("away"), root)
    store.check()


def test_a_vanished_root_never_looks_like_missing_files(root: Path, store: LocalStore) -> None:
    os.rmdir(root)
    with pytest.raises(UfsBucketNotFound):
        store.status(b"some/file")


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UfsBucketNotFound, match="not a directory"):
        LocalStore((tmp_path / "file").as_uri()).check()


@pytest.mark.parametrize(
    ("number", "error"),
    [(5, UfsFailed), (116, UfsFailed), (13, UfsDenied), (1, UfsDenied), (110, UfsUnreachable), (112, UfsUnreachable)],
    ids=["EIO", "ESTALE", "EACCES", "EPERM", "ETIMEDOUT", "EHOSTDOWN"],
)
def test_what_the_system_says_becomes_a_typed_error(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    (root / "f").write_bytes(b"x")
    fingerprint = file_of(store, b"f").fingerprint

    def fails(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(error, match="/f"):
        list(store.read(b"f", 0, 1, fingerprint))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the user who may not read")
def test_what_its_user_may_not_read_is_denied(root: Path, store: LocalStore, tmp_path: Path) -> None:
    (root / "f").write_bytes(b"x")
    (root / "d").mkdir()
    (root / "d" / "g").write_bytes(b"x")
    os.chmod(root / "f", 0o600)
    os.chmod(root / "d", 0o700)
    fingerprint = file_of(store, b"f").fingerprint
    for directory in [root, *root.parents]:
        if directory.stat().st_uid == 0 and str(directory).startswith("/tmp/"):
            os.chmod(directory, 0o755)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            for call in (
                lambda: list(store.read(b"f", 0, 1, fingerprint)),
                lambda: store.list(b"d"),
                lambda: store.status(b"d/g"),
            ):
                with pytest.raises(UfsDenied, match="may not be read"):
                    call()
            store.check()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("/data", "file:///data"),
        ("/data//x/", "file:///data/x"),
        ("/a b%20", "file:///a%20b%2520"),
        ("file:///a%20b/", "file:///a%20b"),
        ("file://localhost/x", "file:///x"),
        ("file:///", "file:///"),
        ("file:///%FF", "file:///%FF"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a%20b/c/", "s3://bucket/a%20b/c"),
        ("s3://bucket/a//b//", "s3://bucket/a//b"),
        ("s3://my.bucket-1/../x", "s3://my.bucket-1/../x"),
    ],
)
def test_a_uri_has_one_normal_form(given: str, normal: str) -> None:
    assert normal_uri(given) == normal
    assert normal_uri(normal) == normal


@pytest.mark.parametrize(
    "uri",
    [
        "file://host/x",
        "file:x",
        "file:///a/../b",
        "file:///a%00b",
        "gs://b",
        "s3://",
        "s3:///x",
        "s3://b@d/x",
        "data",
        "",
    ],
)
def test_a_uri_that_names_no_root_is_refused_with_advice(uri: str) -> None:
    with pytest.raises(UfsOption, match="cannot mount"):
        normal_uri(uri)


def test_a_file_is_read_only_once_a_later_change_must_show_in_its_times(root: Path, store: LocalStore) -> None:
    (root / "f").write_bytes(b"new")
    entry = file_of(store, b"f")
    changed_ns = os.stat(root / "f").st_ctime_ns
    chunks = store.read(b"f", 0, 3, entry.fingerprint)
    assert bytes(next(chunks)) == b"new"
    assert time.time_ns() - changed_ns >= TICK_NS


def test_an_unmounted_root_is_unreachable_and_not_empty(root: Path, store: LocalStore) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "none", root], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs more rights than these tests have")
    try:
        (root / "f").write_bytes(b"there")
        assert all_names(store, b"", 10) == [b"f"]
    finally:
        subprocess.run(["umount", root], check=True)
    for ask in (lambda: store.list(b""), lambda: store.status(b"f"), store.check):
        with pytest.raises(UfsUnreachable, match="not mounted any more"):
            ask()
    assert all_names(LocalStore(root.as_uri()), b"", 10) == []
    assert all_names(LocalStore(root.as_uri(), own_file_system=False), b"", 10) == []


def test_a_root_that_must_be_a_mount_point_is_unreachable_while_it_is_none(root: Path) -> None:
    (root / "f").write_bytes(b"below")
    assert learned_options(root.as_uri()) == {}
    store = open_ufs(root.as_uri(), {"own_file_system": "true"})
    for ask in (lambda: store.list(b""), lambda: store.status(b"f"), store.check):
        with pytest.raises(UfsUnreachable, match="own_file_system=false"):
            ask()
    assert all_names(open_ufs(root.as_uri(), {"own_file_system": "false"}), b"", 10) == [b"f"]
    with pytest.raises(UfsOption, match="own_file_system"):
        open_ufs(root.as_uri(), {"own_file_system": "perhaps"})
