"""Names, depths, counts and sizes at their bounds, through a whole node: SDK and command line, local directories and a bucket."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monofs.model.block import GROUP_SIZE_BYTES, PAGE_SIZE_BYTES
from monofs.model.errors import InvalidPath, MonofsError, NameTooLong, NotADirectory, NotFound
from monofs.testing.buckets import Bucket
from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system
MIB = 1 << 20
NAMES = [
    "plain", "two words", " leading and trailing ", "tab\there", "new\nline", "\x1b[31mred", "per%20cent", "plus+and&amp;=?#", "-rf", "--help", "*", "?[a]",
    "quote'\"`$(reboot)", "back\\slash", "...", "..hidden", ".hidden", "~", "é", "e\u0301", "日本語", "🙂👩\u200d🚀", "שלום", "\u202ertl", "\ufeffbom", "ß", "ﬁ",
    "x" * 255, "é" * 127, "日" * 85, "C:", "a:b", "con", "\u007f", "\u0085", "\u2028",
]  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    with ServedNode(str(tmp_path_factory.mktemp("limits") / "home")) as served:
        yield served
        assert "Traceback" not in served.output()
        with open(os.path.join(served.home, "monofs.log"), encoding="utf-8") as stream:
            assert not [line for line in stream if '"level": "error"' in line or '"exception"' in line]


@pytest.fixture(scope="module")
def fs(node: ServedNode) -> Iterator[Any]:
    with node.connect() as connected:
        yield connected


@pytest.fixture
def mount(fs: Any, tmp_path: Path) -> Iterator[Callable[[], tuple[Path, str]]]:
    """Mounts a fresh directory: (the directory, where it is mounted)."""
    directory = tmp_path / "store"

    def make() -> tuple[Path, str]:
        directory.mkdir()
        path = f"/{tmp_path.name}"
        fs.mount_add(path, f"file://{directory}", {})
        return directory, path

    yield make
    # not left to pytest, whose cleaning up recurses a level a directory and fails on deep ones
    subprocess.run(["rm", "-rf", str(directory)], check=True)


def rows(node: ServedNode, *words: str) -> list[dict[str, Any]]:
    """The JSON lines of a command."""
    done = node.cli(*words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.split("\n") if line]


# ---- names ------------------------------------------------------------------------------------------------------------


def check_names(node: ServedNode, fs: Any, path: str) -> None:
    """Each name lists in byte order, is found, and reads; nothing else is there."""
    expected = sorted(NAMES, key=str.encode)
    assert [info.name for info in fs.list(path)] == expected
    for name, info in zip(expected, fs.stat_many([f"{path}/{name}" for name in expected]), strict=True):
        assert info.size == len(name.encode())
    assert fs.read_many([(f"{path}/{name}", 0, None) for name in expected]) == [name.encode() for name in expected]
    assert [row["path"] for row in rows(node, "fs", "ls", "--json", path)] == [f"{path}/{name}" for name in expected]
    assert {row["path"] for row in rows(node, "fs", "find", "--json", path)} == {f"{path}/{name}" for name in expected}
    shown = node.cli("fs", "ls", path)
    assert len(shown.stdout.split("\n")) == len(expected) + 1, "one line a name, whatever is in it"
    assert "\x1b" not in shown.stdout
    for name in ("new\nline", "-rf", "*", "🙂👩\u200d🚀", "quote'\"`$(reboot)"):
        done = node.cli("fs", "cat", f"{path}/{name}")
        assert (done.returncode, done.stdout) == (0, name), done.stderr


def test_strange_names_of_a_directory_list_and_read(
    node: ServedNode, fs: Any, mount: Callable[[], tuple[Path, str]]
) -> None:
    directory, path = mount()
    for name in NAMES:
        (directory / name).write_bytes(name.encode())
    check_names(node, fs, path)


@pytest.mark.ceph
def test_strange_names_of_a_bucket_list_and_read(node: ServedNode, fs: Any, bucket: Bucket) -> None:
    bucket.put_all({f"p/{name}": name.encode() for name in NAMES})
    fs.mount_add("/strange", bucket.uri, bucket.options)
    check_names(node, fs, "/strange/p")


def test_strange_names_of_the_namespace_itself(fs: Any) -> None:
    fs.make_directory("/own")
    for name in NAMES:
        fs.create(f"/own/{name}")
        fs.make_directory(f"/own/{name[:80]}~")
    assert [name for name in fs.names("/own") if not name.endswith("/")] == sorted(NAMES, key=str.encode)
    for name in NAMES:
        fs.rename(f"/own/{name}", f"/own/{name[:80]}~/{name}")
        assert fs.stat(f"/own/{name[:80]}~/{name}").is_file


@pytest.mark.ceph
def test_keys_no_path_can_name_are_told_and_break_nothing(node: ServedNode, fs: Any, bucket: Bucket) -> None:
    odd = ["o/" + "x" * 256, "o/" + "é" * 200, "o//empty", "o/./dot", "o/../up", "o/dir/" + "y" * 600]
    even = ["o/ok", "o/" + "x" * 255, "o/zdir/file"]
    bucket.put_all({key: key.encode() for key in odd + even})
    fs.mount_add("/odd", bucket.uri, bucket.options)
    assert sorted(info.path for info in fs.walk("/odd/o") if info.is_file) == sorted(f"/odd/{key}" for key in even)
    assert {row["path"] for row in rows(node, "fs", "find", "--type", "f", "--json", "/odd")} == {
        f"/odd/{key}" for key in even
    }
    report = fs.report()["odd_names"]
    shown = " ".join(report["shown"])
    assert report["seen"] >= len(odd) - 1
    for piece in ("x" * 256, "//", "./", "../", "y" * 600):
        assert piece in shown, piece
    assert "x" * 256 in node.cli("admin", "report").stdout
    for path, error in (
        ("/odd/o/" + "x" * 256, NameTooLong),
        ("/odd/o//empty", InvalidPath),
        ("/odd/o/../up", InvalidPath),
        ("/odd/o/.", InvalidPath),
        ("/" + "a/" * 2048, NameTooLong),
        ("/odd/\0", InvalidPath),
        ("odd", InvalidPath),
    ):
        for ask in (fs.stat, fs.open, fs.read, lambda path: next(fs.list(path))):
            with pytest.raises(error):
                ask(path)
    assert node.cli("fs", "stat", "/odd/o/" + "x" * 256).returncode == 2


@pytest.mark.ceph
def test_an_object_beside_a_directory_of_the_same_name(node: ServedNode, fs: Any, bucket: Bucket) -> None:
    """POSIX doors show the directory; everything else is whole."""
    objects = {"a": b"file", "a/b": b"below", "a-": b"before", "a0": b"after", "m/": b"", "m/x": b"x", "e/": b""}
    bucket.put_all(objects)
    fs.mount_add("/both", bucket.uri, bucket.options)
    names = list(fs.names("/both"))
    assert names == sorted(names, key=str.encode)
    assert set(names) >= {"a/", "a-", "a0", "m/", "e/"}
    assert fs.stat("/both/a").is_dir
    assert fs.read("/both/a/b") == b"below"
    assert fs.read("/both/a-") == b"before"
    assert list(fs.names("/both/m")) == ["x"]
    assert list(fs.names("/both/e")) == []
    for path in ("/both/a-/x", "/both/a0/b"):
        with pytest.raises(NotADirectory):
            fs.stat(path)
    assert node.cli("admin", "fsck").returncode == 0
    assert (
        b"".join(sorted(fs.read(info.path) for info in fs.walk("/both") if info.is_file and info.name != "a"))
        == b"afterbeforebelowx"
    )


def test_what_is_no_file_in_a_directory_neither_blocks_nor_leads_out(
    node: ServedNode, fs: Any, mount: Callable[[], tuple[Path, str]], tmp_path: Path
) -> None:
    directory, path = mount()
    (tmp_path / "secret").write_text("secret")
    (directory / "real").mkdir()
    (directory / "real" / "file").write_text("real")
    os.symlink("../secret", directory / "link")
    os.symlink(tmp_path, directory / "out")
    os.symlink("real", directory / "inside")
    os.symlink("loop", directory / "loop")
    os.mkfifo(directory / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(directory)
        listener.bind("socket")
        os.chdir(here)
    try:
        os.mknod(directory / "null", 0o20666, os.makedev(1, 3))
    except PermissionError:
        print("devices cannot be made here: left out")
    invalid = [b"bad\xff", b"\xc3", b"lat\xe9n", b"\xed\xa0\x80"]
    for name in invalid:
        with open(os.fsencode(directory) + b"/" + name, "wb"):
            pass
    (directory / ".monofs-tmp-1").write_text("unfinished")
    assert list(fs.names(path)) == ["real/"]
    below = [info.path for info in fs.walk(path) if info.path != path]
    assert below == [f"{path}/real", f"{path}/real/file"]
    for name in (
        "link",
        "out/secret",
        "inside/file",
        "loop",
        "fifo",
        "socket",
        "null",
        ".monofs-tmp-1",
        "link/x",
        "fifo/x",
    ):
        with pytest.raises((NotFound, NotADirectory)):
            fs.read(f"{path}/{name}")
    with pytest.raises(MonofsError):
        fs.stat(f"{path}/bad\udcff")
    shown = " ".join(fs.report()["odd_names"]["shown"])
    for name in ("link", "fifo", "socket", "bad\\xff"):
        assert name in shown
    # a file that becomes a link between listing and reading
    target = directory / "real" / "file"
    target.unlink()
    os.symlink(tmp_path / "secret", target)
    with pytest.raises(MonofsError):
        fs.read(f"{path}/real/file")
    assert node.cli("fs", "cat", f"{path}/real/file").stdout == ""


# ---- depth and breadth ------------------------------------------------------------------------------------------------

DEPTH = 1000


def test_a_thousand_directories_deep(node: ServedNode, fs: Any, mount: Callable[[], tuple[Path, str]]) -> None:
    directory, path = mount()
    deep = "/".join(["d"] * DEPTH)
    place = os.open(directory, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    (directory / deep / "file").write_bytes(b"deep down")
    assert fs.read(f"{path}/{deep}/file") == b"deep down"
    assert fs.stat(f"{path}/{deep}").is_dir
    assert [info.name for info in fs.list(f"{path}/{deep}")] == ["file"]
    assert sum(1 for _ in fs.walk(path)) in (DEPTH + 1, DEPTH + 2)
    found = rows(node, "fs", "find", "--name", "file", "--json", path)
    assert [row["path"] for row in found] == [f"{path}/{deep}/file"]
    assert node.cli("fs", "ls", f"{path}/{deep}").stdout == "file\n"
    assert node.cli("fs", "cat", f"{path}/{deep}/file").stdout == "deep down"
    assert node.cli("fs", "ls", "-R", path).stdout.count("\n") == DEPTH + 1
    assert node.cli("fs", "du", path).returncode == 0
    assert node.cli("fs", "load", path).returncode == 0
    own = "/deep/" + deep
    fs.make_directory(own, parents=True)
    assert fs.stat(own).is_dir
    fs.rename("/deep/d", "/deep/e")
    assert fs.stat("/deep/e" + own[7:]).is_dir
    assert node.cli("admin", "fsck").returncode == 0
    fs.mount_remove(path)


@pytest.mark.ceph
def test_a_key_of_many_components_in_a_bucket(fs: Any, bucket: Bucket) -> None:
    key = "/".join(["k"] * 120)
    bucket.put(key, b"deep")
    fs.mount_add("/deepbucket", bucket.uri, bucket.options)
    assert fs.read(f"/deepbucket/{key}") == b"deep"


BROAD = 100_000


def test_a_hundred_thousand_files_in_one_directory(
    node: ServedNode, fs: Any, mount: Callable[[], tuple[Path, str]]
) -> None:
    directory, path = mount()
    place = os.open(directory, os.O_RDONLY)
    for number in range(BROAD):
        os.mknod(f"f{number:06}", 0o100644, dir_fd=place)
    os.close(place)
    (directory / "f099999").write_bytes(b"last")
    before = node.memory_bytes()
    fs.mount_update(path, sync_interval_s=3600)
    assert fs.read(f"{path}/f099999") == b"last"
    assert fs.stat(f"{path}/f050000").size == 0
    with pytest.raises(NotFound):
        fs.stat(f"{path}/f100000")
    known = fs.report()["namespace"]["inodes"]
    assert known < BROAD, "one file is found without listing the others"
    expected = [f"f{number:06}" for number in range(BROAD)]
    assert list(fs.names(path)) == expected
    assert list(fs.names(path)) == expected, "from the tree as from the store"
    assert node.memory_bytes() - before < 400 * MIB
    counted = node.cli("fs", "ls", path).stdout
    assert counted.count("\n") == BROAD
    # page while it changes: what is there all the while is shown once, in order
    fs.mount_update(path, sync_interval_s=0)
    seen: list[str] = []
    gone = {"f099990", "f000010"}
    for position, name in enumerate(fs.names(path)):
        seen.append(name)
        if position == BROAD * 2 // 3:
            for new in ("a", "z"):
                (directory / new).write_bytes(b"")
            for old in gone:
                os.unlink(directory / old)
    assert seen == sorted(seen)
    assert len(seen) == len(set(seen))
    assert set(expected) - gone <= set(seen) <= set(expected) | {"z"}
    assert list(fs.names(path)) == ["a", *(name for name in expected if name not in gone), "z"]
    assert node.cli("admin", "fsck").returncode == 0
    fs.mount_remove(path)


# ---- sizes ------------------------------------------------------------------------------------------------------------

EDGES = [0, 1, PAGE_SIZE_BYTES - 1, PAGE_SIZE_BYTES, PAGE_SIZE_BYTES + 1, 2 * PAGE_SIZE_BYTES,
         GROUP_SIZE_BYTES - 1, GROUP_SIZE_BYTES, GROUP_SIZE_BYTES + 1]  # fmt: skip


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "past the cache"])
def test_sizes_at_the_edges_of_pages_and_groups(
    fs: Any, node: ServedNode, mount: Callable[[], tuple[Path, str]], cached: bool
) -> None:
    directory, path = mount()
    run = random.Random(7).randbytes(1 << 20)
    data = {size: (run * (size // len(run) + 1))[:size] for size in EDGES}
    for size, content in data.items():
        (directory / str(size)).write_bytes(content)
    read_type = "CACHE" if cached else "NO_CACHE"
    with node.connect(read_type=read_type) as mine:
        for size, content in data.items():
            with mine.open(f"{path}/{size}") as stream:
                assert stream.read() == content
                for at in (0, size - 1, size, size + 1, size // 2, PAGE_SIZE_BYTES - 1, GROUP_SIZE_BYTES - 1):
                    if at >= 0:
                        stream.seek(at)
                        assert stream.read(3) == content[at : at + 3], (size, at)
                stream.seek(-1 if size else 0, 2)
                assert stream.read() == content[-1:]
            assert mine.read(f"{path}/{size}", -5) == content[-5:]
            pieces = [(f"{path}/{size}", at, 5) for at in (0, PAGE_SIZE_BYTES - 2, size - 3) if 0 <= at <= size]
            assert mine.read_many(pieces) == [content[at : at + 5] for _, at, _ in pieces]
        if cached:
            assert fs.read(f"{path}/0") == b""
            assert node.cli("fs", "tail", "-c", "4", f"{path}/{GROUP_SIZE_BYTES + 1}").returncode == 0
            assert sum(
                group.bytes for group in fs.cached([f"{path}/{GROUP_SIZE_BYTES + 1}"])[f"{path}/{GROUP_SIZE_BYTES + 1}"]
            ) == (GROUP_SIZE_BYTES + 1)
    fs.free(path, recursive=True)
    fs.mount_remove(path)


def test_a_sparse_file_of_five_gigabytes_is_read_where_it_is_read(
    node: ServedNode, fs: Any, mount: Callable[[], tuple[Path, str]]
) -> None:
    directory, path = mount()
    size = 5 * 1000**3
    chance = random.Random(5)
    marks = {
        at: chance.randbytes(100)
        for at in (0, (1 << 32) - 50, size - 100, *(chance.randrange(size - 100) for _ in range(20)))
    }
    with open(directory / "big", "wb") as stream:
        stream.truncate(size)
        for at, mark in marks.items():
            stream.seek(at)
            stream.write(mark)
    before = tier_bytes(fs)
    assert fs.stat(f"{path}/big").size == size
    with fs.open(f"{path}/big") as stream:
        for at, mark in marks.items():
            stream.seek(at)
            assert stream.read(100) == mark
        stream.seek(-50, 2)
        assert stream.read() == marks[size - 100][50:]
        stream.seek(size + 10)
        assert stream.read() == b""
    pieces = [(f"{path}/big", at, 100) for at in marks]
    assert fs.read_many(pieces) == [*marks.values()]
    touched = {page for at in marks for page in (at // PAGE_SIZE_BYTES, (at + 99) // PAGE_SIZE_BYTES)}
    cached = {
        group.group * 64 + page
        for group in fs.cached([f"{path}/big"])[f"{path}/big"]
        for page in range(64)
        if group.pages >> page & 1
    }
    assert touched <= cached
    assert len(cached) <= 3 * len(touched), "random readers are not read ahead for"
    assert 0 < tier_bytes(fs) - before <= len(cached) * PAGE_SIZE_BYTES
    pages = os.path.join(node.home, "worker", "pages")
    taken = sum(os.lstat(os.path.join(top, name)).st_blocks * 512 for top, _, names in os.walk(pages) for name in names)
    assert taken < 3 * tier_bytes(fs) + 10 * MIB, "files of the tier are sparse"
    tail = node.cli("fs", "tail", "-c", "20", f"{path}/big")
    assert tail.returncode == 0
    fs.mount_remove(path)


def tier_bytes(fs: Any) -> int:
    (status,) = fs.worker_status().values()
    return int(sum(tier.used_bytes for tier in status.tiers))
