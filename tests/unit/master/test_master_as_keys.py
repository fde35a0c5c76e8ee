"""Paths as keys of object stores: a file beside a directory of its name, directories below a file's name, and conditions on contents."""

from __future__ import annotations

from pathlib import Path

import pytest
from master_house import House, write
from scribe import Scribe

from monofs.metadata.fsck import check_namespace
from monofs.metadata.tables import ATTRIBUTES_LEVEL
from monofs.model.attributes import Attributes, decode_attributes
from monofs.model.errors import (
    AlreadyExists,
    ConditionFailed,
    IsADirectory,
    NotADirectory,
    NotFound,
    NotReady,
)
from monofs.model.inode import Inode, decode_inode
from monofs.rpc import api
from monofs.rpc.api import Method, ReadOptions
from monofs.testing.buckets import Bucket

KINDS = pytest.mark.parametrize("kind", ["none", "bucket"])


@pytest.fixture
def top(house: House, kind: str, request: pytest.FixtureRequest) -> str:
    """A directory under no mount, or a bucket."""
    if kind == "none":
        house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b"))
    else:
        bucket = request.getfixturevalue("bucket")
        house.ask(Method.MOUNT_ADD, api.MountAddRequest("/b", bucket.uri, bucket.options))
    return "/b"


def stat(house: House, path: str, interval_s: float | None = None) -> Inode:
    request = api.StatRequest(path, ReadOptions(interval_s), as_key=True)
    return decode_inode(house.ask(Method.STAT, request).inode)


def keys(house: House, path: str) -> list[str]:
    return [key.decode() for key in house.ask(Method.LIST_KEYS, api.ListKeysRequest(path)).keys]


def delete(house: House, path: str) -> None:
    house.ask(Method.DELETE, api.DeleteRequest(path, as_key=True))


def is_sound(house: House) -> bool:
    return not any(house.loop.do(check_namespace, house.store).values())


@KINDS
def test_a_key_and_those_below_it_live_side_by_side_whichever_came_first(house: House, top: str) -> None:
    scribe = Scribe(house)
    scribe.write(f"{top}/a", b"file", as_key=True)
    scribe.write(f"{top}/a/b", b"below it", as_key=True)
    scribe.write(f"{top}/c/d", b"below", as_key=True)
    scribe.write(f"{top}/c", b"a file then", as_key=True)
    assert keys(house, top) == ["a", "a/b", "c", "c/d"]
    assert [stat(house, f"{top}/{key}").size for key in keys(house, top)] == [4, 8, 11, 5]
    assert house.stat(f"{top}/a").is_directory  # what other doors see
    opened = house.ask(Method.OPEN, api.OpenRequest(f"{top}/a", as_key=True))
    assert decode_inode(opened.inode).size == 4
    many = house.ask(Method.OPEN_MANY, api.OpenManyRequest([f"{top}/a", f"{top}/c"], as_key=True))
    assert [decode_inode(each.inode).size for each in many.answers] == [4, 11]
    with pytest.raises(IsADirectory):
        house.ask(Method.OPEN, api.OpenRequest(f"{top}/a"))
    scribe.write(f"{top}/a", b"another", as_key=True)
    assert stat(house, f"{top}/a").size == 7
    delete(house, f"{top}/a")
    assert keys(house, top) == ["a/b", "c", "c/d"]
    with pytest.raises(NotFound):
        stat(house, f"{top}/a")
    with pytest.raises(NotFound):
        delete(house, f"{top}/a")
    delete(house, f"{top}/c/d")
    assert keys(house, top) == ["a/b", "c"]
    assert is_sound(house)
    house.restart()
    assert keys(house, top) == ["a/b", "c"]


def test_a_deleted_key_takes_along_the_directories_that_only_led_to_it(house: House) -> None:
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b/asked/for", parents=True))
    scribe = Scribe(house)
    for key in ("way/to/f", "way/g", "asked/for/it/f", "pin/ned/f", "timed/f"):
        scribe.write(f"/b/{key}", b"1", as_key=True)
    house.ask(Method.SET_PIN, api.SetPinRequest("/b/pin/ned", True))
    house.ask(Method.SET_TTL, api.SetTtlRequest("/b/timed", 3600.0))
    for key in ("way/to/f", "asked/for/it/f", "pin/ned/f", "timed/f"):
        delete(house, f"/b/{key}")
    assert house.list("/b") == ["asked/", "pin/", "timed/", "way/"]
    assert house.list("/b/way") == ["g"]
    assert house.list("/b/asked/for") == []
    assert house.list("/b/pin") == ["ned/"]
    assert keys(house, "/b") == ["asked/for/", "way/g"]
    delete(house, "/b/way/g")
    assert house.list("/b") == ["asked/", "pin/", "timed/"]
    scribe.write("/b/way/to/f", b"1", as_key=True)
    house.ask(Method.DELETE, api.DeleteRequest("/b/way/to/f"))  # other doors leave directories as they are
    assert house.list("/b/way") == ["to/"]
    assert is_sound(house)


@KINDS
def test_a_prefix_is_no_key(house: House, top: str) -> None:
    scribe = Scribe(house)
    scribe.write(f"{top}/a/b", b"1", as_key=True)
    with pytest.raises(NotFound):
        stat(house, f"{top}/a")
    with pytest.raises(NotFound):
        stat(house, f"{top}/a/b/c")
    scribe.write(f"{top}/a", b"1", as_key=True, exclusive=True)
    with pytest.raises(AlreadyExists):
        scribe.begin(f"{top}/a", 1, as_key=True, exclusive=True)


@pytest.mark.parametrize("kind", ["bucket"])
def test_what_a_bucket_has_side_by_side_is_read_and_copied_as_keys(house: House, top: str, bucket: Bucket) -> None:
    bucket._client.put_object(Bucket=bucket.name, Key="a", Body=b"file", ContentType="text/plain")
    bucket.put("a/b", b"below it")
    answer = house.ask(Method.STAT, api.StatRequest("/b/a", attributes=True, as_key=True))
    assert decode_inode(answer.inode).size == 4
    assert decode_attributes(answer.attributes) == Attributes({"content-type": "text/plain"})
    house.asked()
    assert stat(house, "/b/a").size == 4
    assert house.asked() == []
    house.ask(Method.COPY, api.CopyRequest("/b/a", "/b/a/b/c", as_key=True))
    assert bucket.get("a/b/c") == b"file"
    assert keys(house, "/b") == bucket.keys() == ["a", "a/b", "a/b/c"]


def test_directories_of_files_cannot_hold_both_and_say_so(house: House, data: Path) -> None:
    (data / "d").mkdir()
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.stat("/lake/f")
    scribe = Scribe(house)
    with pytest.raises(IsADirectory):
        scribe.begin("/lake/d", 1, as_key=True)
    with pytest.raises(NotADirectory):
        scribe.begin("/lake/f/g", 1, as_key=True)


@pytest.mark.parametrize("size", [1, -1])
def test_a_content_is_replaced_only_while_it_is_there(house: House, size: int) -> None:
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b"))
    scribe = Scribe(house)
    first = scribe.write("/b/f", b"1")
    racing = [scribe.begin("/b/f", -1, if_content=first.content) for _ in range(2)]
    for begun in racing[:1]:
        house.ask(Method.PUBLISH, api.PublishRequest(begun.operation, 1, scribe.number))
        scribe.end(begun, None, 1)
    with pytest.raises(ConditionFailed):
        house.ask(Method.PUBLISH, api.PublishRequest(racing[1].operation, 1, scribe.number))
    with pytest.raises(ConditionFailed):
        scribe.begin("/b/f", size, if_content=first.content)
    with pytest.raises(ConditionFailed):
        scribe.begin("/b/none", size, if_content=first.content)


def test_a_content_is_deleted_and_copied_only_while_it_is_there(house: House, data: Path) -> None:
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b"))
    write(data / "f", b"1")
    house.mount("/lake", data)
    Scribe(house).write("/b/f", b"1")
    for path in ("/b/f", "/lake/f"):
        there = int(stat(house, path).content)
        with pytest.raises(ConditionFailed):
            house.ask(Method.DELETE, api.DeleteRequest(path, as_key=True, if_content=there + 1))
        if path == "/lake/f":
            with pytest.raises(ConditionFailed):
                house.ask(Method.COPY, api.CopyRequest(path, "/lake/copy", if_content=there + 1))
            house.ask(Method.COPY, api.CopyRequest(path, "/lake/copy", if_content=there))
            assert stat(house, "/lake/copy").size == 1
        house.ask(Method.DELETE, api.DeleteRequest(path, as_key=True, if_content=there))
        with pytest.raises(NotFound):
            stat(house, path)


def test_no_path_is_a_key_before_every_master_knows_how(house: House) -> None:
    house.namespace.store.meta.level = ATTRIBUTES_LEVEL - 1
    scribe = Scribe(house)
    with pytest.raises(NotReady):
        scribe.begin("/b/f", 1, as_key=True)
    with pytest.raises(NotReady):
        delete(house, "/b/f")


def test_a_deletion_of_one_version_leaves_another_that_came_from_outside_since_the_store_was_looked_at(
    house: House, data: Path
) -> None:
    write(data / "f", b"old")
    house.mount("/lake", data)
    known = stat(house, "/lake/f")
    write(data / "f", b"from outside")
    with pytest.raises(ConditionFailed):
        house.ask(Method.DELETE, api.DeleteRequest("/lake/f", as_key=True, if_content=int(known.content)))
    assert (data / "f").read_bytes() == b"from outside"
    house.ask(Method.DELETE, api.DeleteRequest("/lake/f", as_key=True, if_content=int(stat(house, "/lake/f").content)))
    assert not (data / "f").exists()
