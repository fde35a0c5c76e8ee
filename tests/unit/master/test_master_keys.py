"""Flat listings of keys: those of sorted(), of any prefix and delimiter, from anywhere on; and what is shown of directories."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from master_house import House, write
from scribe import Scribe
from twisted.internet.defer import Deferred

from monofs.config.schema import Config, SecurityConfig
from monofs.metadata.entries import AdoptPage, AdoptPath, Found
from monofs.model.errors import (
    InvalidArgument,
    IsADirectory,
    MountPoint,
    NotADirectory,
    NotFound,
    PermissionDenied,
    UfsUnreachable,
)
from monofs.model.inode import decode_inode
from monofs.model.paths import parse_path
from monofs.model.principal import Principal
from monofs.rpc import api
from monofs.rpc.api import Method, ReadOptions
from monofs.testing.buckets import Bucket

Listed = tuple[list[str], list[str]]


def page(house: House, path: str, principal: Principal | None = None, **how: object) -> api.ListKeysAnswer:
    given = {name: value.encode() if isinstance(value, str) else value for name, value in how.items()}
    answer = house.ask(Method.LIST_KEYS, api.ListKeysRequest(path, **given), principal)
    assert isinstance(answer, api.ListKeysAnswer)
    return answer


def listed(house: House, path: str, after: bytes = b"", limit: int = 1000, **how: object) -> Listed:
    """Keys and common prefixes of all pages."""
    keys: list[bytes] = []
    prefixes: list[bytes] = []
    position: bytes | None = after
    while position is not None:
        answer = page(house, path, after=position, limit=limit, **how)
        assert len(answer.keys) + len(answer.prefixes) <= limit
        assert len(answer.inodes) == len(answer.keys)
        keys += answer.keys
        prefixes += answer.prefixes
        assert answer.next is None or answer.next > position
        position = answer.next
    assert keys == sorted(set(keys))
    assert prefixes == sorted(set(prefixes))
    return [key.decode() for key in keys], [each.decode() for each in prefixes]


def expected(keys: set[str], prefix: str, delimiter: str, after: str) -> Listed:
    """What S3 tells of keys."""
    plain: list[str] = []
    common: list[str] = []
    for key in sorted(keys, key=str.encode):
        if not key.startswith(prefix) or key.encode() <= after.encode():
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        if at < 0:
            plain.append(key)
        elif not common or common[-1] != key[: at + len(delimiter)]:
            common.append(key[: at + len(delimiter)])
    return plain, common


class Grown:
    """Trees that hold any set of keys, an object beside a prefix of its name too, below a mount that is never looked at."""

    def __init__(self, house: House, data: Path) -> None:
        house.mount("/lake", data, sync_interval_s=-1.0)
        self.house, self._numbers = house, count()
        self._mount = house.namespace.mounts()[0][1].id

    def grow(self, keys: set[str]) -> str:
        """The directory whose keys these are."""
        top = f"/lake/t{next(self._numbers)}"
        below: dict[str, dict[bytes, Found]] = {top: {}}
        for key in keys:
            *names, last = key.split("/")
            path = top
            for name in names:
                below[path][name.encode() + b"/"] = Found(name.encode(), True)
                path += "/" + name
                below.setdefault(path, {})
            if last:
                below[path][last.encode()] = Found(last.encode(), False, 1, fingerprint="e:x")
        made = Found(top.rpartition("/")[2].encode(), True)
        self._propose(lambda stamp, at: AdoptPath(stamp, top, self._mount, at, None, made))
        markers = {f"{top}/{key[:-1]}" for key in keys if key.endswith("/")}
        for path, found in below.items():
            marker = (1, "e:m" if path in markers else "")
            inode = self.house.namespace.lookup(parse_path(path)).inode
            assert inode is not None
            entries = [found[key] for key in sorted(found)]
            self._propose(
                lambda stamp, at, id=inode.id, entries=entries, marker=marker: AdoptPage(
                    stamp, id, self._mount, at, b"", None, entries, True, None, marker
                )
            )
        return top

    def _propose(self, make: Callable[..., object]) -> None:
        proposer, namespace = self.house.master._proposer, self.house.namespace
        self.house.loop.do(
            lambda: Deferred.fromCoroutine(proposer.insist(make(proposer.stamp(), namespace.applied_index)))
        )


KEYS = st.sets(
    st.lists(st.text("ab-.0é", min_size=1, max_size=3), min_size=1, max_size=4)
    .filter(lambda names: not {".", ".."} & set(names))
    .map("/".join)
    .flatmap(lambda key: st.sampled_from([key, key, key, key + "/"])),
    max_size=14,
)


def test_any_keys_are_listed_as_sorted_does_from_every_one_on(house: House, data: Path) -> None:
    grown = Grown(house, data)

    @settings(max_examples=60, deadline=None)
    @given(KEYS, st.data())
    def tried(keys: set[str], chosen: st.DataObject) -> None:
        top = grown.grow(keys)
        some = sorted(keys)
        prefixes = ["", "a", "/", *{key[: len(key) // 2] for key in some}, *some]
        for delimiter in ("", "/", "-", "b/", "é"):
            prefix = chosen.draw(st.sampled_from(prefixes))
            wanted = expected(keys, prefix, delimiter, "")
            assert listed(house, top, prefix=prefix, delimiter=delimiter) == wanted
            limit = chosen.draw(st.integers(1, 3))
            assert listed(house, top, limit=limit, prefix=prefix, delimiter=delimiter) == wanted
            for after in (*some, "a/", "a//b", "b\x00", "zz/y", "a" * 300):
                wanted = expected(keys, prefix, delimiter, after)
                assert listed(house, top, after.encode(), prefix=prefix, delimiter=delimiter) == wanted

    tried()


def test_a_full_page_that_is_the_last_says_so(house: House, data: Path) -> None:
    top = Grown(house, data).grow({"a", "b/c", "b/d", "e"})
    assert page(house, top, limit=4).next is None
    assert page(house, top, limit=3).next == b"b/d"
    whole = page(house, top, limit=3, delimiter="/")
    assert (whole.keys, whole.prefixes, whole.next) == ([b"a", b"e"], [b"b/"], None)
    cut = page(house, top, limit=2, delimiter="/")
    assert cut.next is not None
    assert page(house, top, after=cut.next, delimiter="/").keys == [b"e"]


def test_a_page_that_meets_much_and_shows_little_ends_early_and_goes_on(
    house: House, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.master.key_listing.WORK_MAX", 200)
    keys = {f"d{number:02d}/e/f" for number in range(40)}
    top = Grown(house, data).grow(keys)
    first = page(house, top)
    assert 0 < len(first.keys) < 40
    assert first.next is not None
    assert listed(house, top) == (sorted(keys), [])


def test_records_come_with_the_keys(house: House, data: Path) -> None:
    top = Grown(house, data).grow({"a", "d/"})
    answer = page(house, top)
    inodes = [decode_inode(raw) for raw in answer.inodes]
    assert answer.keys == [b"a", b"d/"]
    assert [inode.size for inode in inodes] == [1, 0]
    assert [inode.is_directory for inode in inodes] == [False, True]


# ---- directories -------------------------------------------------------------------------------------------------------


@pytest.fixture
def scribe(house: House) -> Scribe:
    return Scribe(house)


def test_directories_made_on_the_way_to_a_file_go_from_sight_with_it_and_those_asked_for_stay(
    house: House, scribe: Scribe
) -> None:
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b"))
    assert listed(house, "/b") == ([], [])
    scribe.write("/b/way/to/f", b"1")
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b/wanted/kept", parents=True))
    assert listed(house, "/b") == (["wanted/kept/", "way/to/f"], [])
    assert listed(house, "/b", delimiter="/") == ([], ["wanted/", "way/"])
    house.ask(Method.DELETE, api.DeleteRequest("/b/way/to/f"))
    assert listed(house, "/b") == (["wanted/kept/"], [])
    assert listed(house, "/b", delimiter="/") == ([], ["wanted/"])
    assert house.list("/b") == ["wanted/", "way/"]
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b/way", exist_ok=True))
    assert listed(house, "/b", delimiter="/") == ([], ["wanted/", "way/"])
    assert listed(house, "/b", prefix="way/") == (["way/"], [])
    house.restart()
    assert listed(house, "/b") == (["wanted/kept/", "way/"], [])


def test_a_bucket_below_a_mount_of_a_bucket_is_listed_as_the_store_lists_it(
    house: House, scribe: Scribe, bucket: Bucket
) -> None:
    house.ask(Method.MOUNT_ADD, api.MountAddRequest("/s3", bucket.uri, bucket.options))
    for key in ("a", "a/b", "a/c/d", "a.txt", "marker/", "x-y/1", "x-z/2", "deep/er/e"):
        bucket.put(key, b"" if key.endswith("/") else b"1")
    stored = bucket.keys()
    assert listed(house, "/s3")[0] == stored
    assert listed(house, "/s3", delimiter="/") == (["a", "a.txt"], ["a/", "deep/", "marker/", "x-y/", "x-z/"])
    assert listed(house, "/s3", prefix="x-", delimiter="-") == (["x-y/1", "x-z/2"], [])
    assert listed(house, "/s3", delimiter="-") == (
        ["a", "a.txt", "a/b", "a/c/d", "deep/er/e", "marker/"],
        ["x-"],
    )
    scribe.write("/s3/new/w", b"1")
    assert listed(house, "/s3")[0] == bucket.keys()
    for path in ("/s3/new/w", "/s3/deep/er/e", "/s3/a/c/d"):
        house.ask(Method.DELETE, api.DeleteRequest(path))
    assert listed(house, "/s3")[0] == bucket.keys()
    assert listed(house, "/s3", delimiter="/") == (["a", "a.txt"], ["a/", "marker/", "x-y/", "x-z/"])
    bucket.put("late/f", b"1")
    house.now_s += 61
    assert listed(house, "/s3")[0] == bucket.keys()


def test_a_common_prefix_that_stands_for_keys_again_has_the_store_asked_no_more_than_others(
    house: House, scribe: Scribe, bucket: Bucket
) -> None:
    house.ask(Method.MOUNT_ADD, api.MountAddRequest("/s3", bucket.uri, bucket.options))
    for path in ("/s3/top/d/e/f", "/s3/top/last"):
        scribe.write(path, b"1")
    house.ask(Method.DELETE, api.DeleteRequest("/s3/top/d/e/f"))
    scribe.write("/s3/top/d/e/g", b"1")
    for _ in range(2):
        house.now_s += 61
        house.asked()
        assert listed(house, "/s3/top", delimiter="/") == (["last"], ["d/"])
    assert house.asked() == ["head", "list"], "about the directory that is listed"


def test_a_marker_is_put_beside_what_lies_below_it_when_one_is_asked_for(
    house: House, scribe: Scribe, bucket: Bucket
) -> None:
    house.ask(Method.MOUNT_ADD, api.MountAddRequest("/s3", bucket.uri, bucket.options))
    scribe.write("/s3/d/f", b"1")
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/s3/d", exist_ok=True))
    assert bucket.keys() == ["d/f"]
    for _ in range(2):
        house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/s3/d", exist_ok=True, marker=True))
        assert bucket.keys() == ["d/", "d/f"]
    assert listed(house, "/s3") == (["d/", "d/f"], [])
    house.ask(Method.DELETE, api.DeleteRequest("/s3/d/f"))
    assert listed(house, "/s3")[0] == bucket.keys() == ["d/"]


def test_a_key_that_is_a_mount_point_changes_nothing_in_either_store(
    house: House, scribe: Scribe, bucket: Bucket
) -> None:
    bucket.put_all({"x": b"outer", "x/deep": b"hidden", "in/": b"", "in/ner": b"inner", "y": b"y"})
    house.ask(Method.MOUNT_ADD, api.MountAddRequest("/s3", bucket.uri, bucket.options))
    house.ask(Method.MOUNT_ADD, api.MountAddRequest("/s3/x", f"{bucket.uri}/in", bucket.options))
    house.list("/s3")
    house.list("/s3/x")
    before = bucket.keys()
    with pytest.raises(MountPoint):
        house.ask(Method.DELETE, api.DeleteRequest("/s3/x", as_key=True))
    with pytest.raises(IsADirectory):
        house.ask(Method.BEGIN_WRITE, api.BeginWriteRequest("/s3/x", size=1, as_key=True))
    with pytest.raises(IsADirectory):
        house.ask(Method.COPY, api.CopyRequest("/s3/y", "/s3/x", as_key=True))
    assert bucket.keys() == before


def test_directories_never_seen_are_looked_at_ahead_of_the_walk(house: House, data: Path) -> None:
    for number in range(30):
        (data / f"d{number:02d}").mkdir()
        write(data / f"d{number:02d}" / "f", b"1")
    house.mount("/lake", data)
    house.list("/lake")
    house.asked()
    gate = house.watch.gate = threading.Event()
    waiting = house.begin(Method.LIST_KEYS, api.ListKeysRequest("/lake"))
    house.loop.do(lambda: None)
    gate.set()
    assert len(waiting().keys) == 30
    assert house.asked() == ["list"] * 30
    house.watch.error = UfsUnreachable("down")
    assert len(page(house, "/lake").keys) == 30
    house.now_s += 61
    assert len(page(house, "/lake").keys) == 30  # what is known is served, as by LIST
    with pytest.raises(UfsUnreachable):
        page(house, "/lake", options=ReadOptions(0.0))


def test_a_directory_that_goes_while_it_is_listed_shows_nothing(house: House, data: Path) -> None:
    for name in ("a", "b", "c"):
        (data / name).mkdir()
        write(data / name / "f", b"1")
    house.mount("/lake", data)
    assert listed(house, "/lake") == (["a/f", "b/f", "c/f"], [])
    (data / "b" / "f").unlink()
    (data / "b").rmdir()
    house.now_s += 61
    assert listed(house, "/lake") == (["a/f", "c/f"], [])


def test_what_may_not_be_read_is_left_out(make_house: Callable[..., House]) -> None:
    house = make_house(Config(security=SecurityConfig(permissions=True)))
    root, guest = Principal("root"), Principal("guest", uid=7)
    for path, mode in (("/b", 0o755), ("/b/open", 0o755), ("/b/shut", 0o700)):
        house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest(path, mode), root)
        house.ask(Method.CREATE, api.CreateRequest(f"{path}/f"), root)
    assert page(house, "/b", root).keys == [b"f", b"open/f", b"shut/f"]
    assert page(house, "/b", guest).keys == [b"f", b"open/f"]
    assert page(house, "/b", guest, prefix="shut/").keys == []
    with pytest.raises(PermissionDenied):
        page(house, "/b/shut", guest)


def test_what_cannot_be_listed_says_so(house: House) -> None:
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b"))
    house.ask(Method.CREATE, api.CreateRequest("/b/f"))
    with pytest.raises(NotFound):
        page(house, "/none")
    with pytest.raises(NotADirectory):
        page(house, "/b/f")
    for limit in (0, 1001):
        with pytest.raises(InvalidArgument, match="limit"):
            page(house, "/b", limit=limit)
    with pytest.raises(InvalidArgument, match="4096 bytes"):
        page(house, "/b", prefix="x" * 5000)
    assert page(house, "/b", after=b"\xff\xfe/\xff").keys == []
