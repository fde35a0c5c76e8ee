"""Directories that are objects, too: S3's ``dir/``, which stays and goes whatever lies below it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from lakes import ended, rename, steer
from master_house import Held, House, write
from scribe import Scribe

from monofs.metadata.tables import MARKERS_LEVEL
from monofs.model.attributes import OPERATION, TAGS_MAX, Attributes
from monofs.model.errors import (
    AlreadyExists,
    ConditionFailed,
    InvalidArgument,
    NotADirectory,
    NotEmpty,
    NotReady,
    UfsChanged,
    UfsUnreachable,
)
from monofs.model.inode import Flag, Inode, decode_inode
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.testing.buckets import Bucket

KEPT = Attributes({"content-type": "text/own"}, {"a": "1"}, {"t": "1"})


def attributes(house: House, path: str) -> Attributes | None:
    answer = house.ask(Method.STAT, api.StatRequest(path, attributes=True))
    return msgspec.msgpack.decode(answer.attributes, type=Attributes | None)


def mark(house: House, path: str, kept: Attributes = KEPT, *, exist_ok: bool = True) -> Inode:
    request = api.MakeDirectoryRequest(path, parents=True, exist_ok=exist_ok, marker=True, attributes=kept)
    return decode_inode(house.ask(Method.MAKE_DIRECTORY, request).inode)


def unmark(house: House, path: str) -> None:
    house.ask(Method.DELETE, api.DeleteRequest(path, marker=True))


def keys(house: House, path: str = "/lake") -> list[str]:
    return [each.decode() for each in house.ask(Method.LIST_KEYS, api.ListKeysRequest(path)).keys]


def put(bucket: Bucket, key: str, **how: object) -> None:
    bucket._client.put_object(Bucket=bucket.name, Key=key, Body=b"", **how)


@pytest.fixture
def lake(house: House, bucket: Bucket) -> House:
    house.ask(Method.MOUNT_ADD, api.MountAddRequest("/lake", bucket.uri, bucket.options))
    return house


@pytest.fixture
def scribe(house: House) -> Scribe:
    return Scribe(house)


def test_a_marker_of_a_bucket_is_one_here_with_what_it_was_put_with(lake: House, bucket: Bucket) -> None:
    put(bucket, "d/", ContentType="text/own", Metadata={"a": "1"})
    put(bucket, "d/f")
    put(bucket, "e/f")
    assert keys(lake) == ["d/", "d/f", "e/f"]
    assert attributes(lake, "/lake/d") == Attributes(KEPT.headers, KEPT.user)
    assert attributes(lake, "/lake/e") is None
    lake.asked()
    attributes(lake, "/lake/d")
    assert "headers" not in lake.asked()
    lake.restart()
    assert keys(lake) == ["d/", "d/f", "e/f"]
    bucket.delete("d/", "e/f")
    put(bucket, "e/", Metadata={"b": "2"})
    lake.now_s += 61
    assert keys(lake) == ["d/f", "e/"]
    assert attributes(lake, "/lake/d") is None
    assert attributes(lake, "/lake/e") == Attributes(attributes(lake, "/lake/e").headers, {"b": "2"})  # type: ignore[union-attr]


def test_bytes_that_others_put_into_an_object_of_a_directory_are_counted_by_listings(
    lake: House, bucket: Bucket
) -> None:
    def sizes() -> dict[str, int]:
        answer = lake.ask(Method.LIST_KEYS, api.ListKeysRequest("/lake"))
        return {key.decode(): decode_inode(raw).size for key, raw in zip(answer.keys, answer.inodes, strict=True)}

    put(bucket, "empty/")
    for name in ("small", "large", "deep/small"):
        bucket.put(f"{name}/", bytes(5000 if name == "large" else 5))
    bucket.put("small/f", b"123")
    told = {"deep/small/": 5, "empty/": 0, "large/": 5000, "small/": 5, "small/f": 3}
    assert sizes() == told
    for path in ("/lake/small", "/lake/large", "/lake/deep/small"):
        attributes(lake, path)
    assert sizes() == told
    bucket.put("small/", b"another")
    lake.now_s += 61
    assert sizes() == told | {"small/": 7}
    lake.restart()
    assert sizes() == told | {"small/": 7}


def test_a_marker_is_put_into_its_bucket_and_deleted_there_alone(lake: House, scribe: Scribe, bucket: Bucket) -> None:
    scribe.write("/lake/d/f", b"1")
    mark(lake, "/lake/d")
    assert keys(lake) == bucket.keys() == ["d/", "d/f"]
    head = bucket._client.head_object(Bucket=bucket.name, Key="d/")
    assert (head["ContentType"], head["Metadata"]["a"]) == ("text/own", "1")
    tags = bucket._client.get_object_tagging(Bucket=bucket.name, Key="d/")["TagSet"]
    assert tags == [{"Key": "t", "Value": "1"}]
    mark(lake, "/lake/d", Attributes())
    assert "a" not in bucket._client.head_object(Bucket=bucket.name, Key="d/")["Metadata"]
    unmark(lake, "/lake/d")
    assert keys(lake) == bucket.keys() == ["d/f"]
    assert lake.list("/lake/d") == ["f"]
    mark(lake, "/lake/d")
    lake.ask(Method.DELETE, api.DeleteRequest("/lake/d/f", as_key=True))
    assert keys(lake) == bucket.keys() == ["d/"]
    unmark(lake, "/lake/d")
    assert keys(lake) == bucket.keys() == []
    assert lake.list("/lake") == []


def test_names_that_were_never_seen_stay_when_a_marker_goes(lake: House, bucket: Bucket) -> None:
    put(bucket, "d/")
    put(bucket, "d/f")
    lake.stat("/lake/d")
    unmark(lake, "/lake/d")
    assert bucket.keys() == ["d/f"]
    assert lake.list("/lake/d") == ["f"]


def test_a_marker_that_was_made_by_a_master_that_died_is_one(lake: House, scribe: Scribe, bucket: Bucket) -> None:
    scribe.write("/lake/d/f", b"1")
    held = lake.hold_answer("make_directory")
    making = lake.begin(
        Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/lake/d", exist_ok=True, marker=True, attributes=KEPT)
    )
    held.wait_until_there()
    assert bucket.keys() == ["d/", "d/f"]
    lake.watch.error = UfsUnreachable("down")
    held.release()
    lake.watch.error = None
    making()
    assert keys(lake) == ["d/", "d/f"]
    assert attributes(lake, "/lake/d") == KEPT


def test_under_no_mount_a_marker_leaves_no_directories_that_only_led_to_it(house: House) -> None:
    mark(house, "/b/x/y")
    assert keys(house, "/b") == ["x/y/"]
    unmark(house, "/b/x/y")
    assert keys(house, "/") == []
    mark(house, "/b/x/y")
    mark(house, "/b/x")
    assert keys(house, "/b") == ["x/", "x/y/"]
    unmark(house, "/b/x")
    assert (keys(house, "/b"), attributes(house, "/b/x")) == (["x/y/"], None)
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b/x", exist_ok=True))
    unmark(house, "/b/x/y")
    assert keys(house, "/b") == ["x/"]
    house.restart()
    assert keys(house, "/b") == ["x/"]


def test_what_lies_below_a_marker_of_a_mounted_directory_stays_seen_or_not(house: House, data: Path) -> None:
    (data / "d").mkdir()
    write(data / "d" / "f", b"1")
    house.mount("/lake", data)
    mark(house, "/lake/d")
    assert keys(house) == ["d/", "d/f"]
    unmark(house, "/lake/d")
    assert keys(house) == ["d/f"]
    (data / "e").mkdir()
    write(data / "e" / "f", b"1")
    mark(house, "/lake/e")
    unmark(house, "/lake/e")
    assert (data / "e" / "f").read_bytes() == b"1"
    house.now_s += 61
    assert keys(house) == ["d/f", "e/f"]
    mark(house, "/lake/new", Attributes())
    (data / "new" / "f").write_bytes(b"")
    house.now_s += 61
    assert keys(house) == ["d/f", "e/f", "new/", "new/f"]


def test_one_that_may_not_be_there_is_told_as_such(house: House) -> None:
    mark(house, "/b/d", exist_ok=False)
    with pytest.raises(AlreadyExists):
        mark(house, "/b/d", exist_ok=False)
    mark(house, "/b/d/e", exist_ok=False)
    unmark(house, "/b/d")
    mark(house, "/b/d", exist_ok=False)
    with pytest.raises(NotEmpty):
        house.ask(Method.DELETE, api.DeleteRequest("/b/d"))


@pytest.mark.parametrize("path", ["/own", "/lake", "/"])
def test_directories_keep_tags_of_buckets(house: House, data: Path, path: str) -> None:
    house.mount("/lake", data)
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/own"))

    def tag(tags: dict[str, str], where: str = path) -> None:
        number = house.stat(path).attributes or 0
        request = api.SetAttributesRequest(where, 0, number, Attributes(bucket_tags=tags), directory=True)
        house.ask(Method.SET_ATTRIBUTES, request)

    many = {str(number): "x" for number in range(50)}
    tag(many)
    house.restart()
    assert attributes(house, path) == Attributes(bucket_tags=many)
    assert not house.stat(path).flags & Flag.MARKER
    with pytest.raises(InvalidArgument, match="at most 50 tags"):
        tag({**many, "more": "x"})
    write(data / "f", b"1")
    with pytest.raises(NotADirectory):
        tag(many, "/lake/f")


def keep(house: House, path: str, kept: Attributes) -> None:
    number = house.stat(path).attributes or 0
    house.ask(Method.SET_ATTRIBUTES, api.SetAttributesRequest(path, 0, number, kept, directory=True))


MANY = {str(number): "x" for number in range(TAGS_MAX + 1)}
OF_BUCKET = {"cors": "<rules/>", "owner": "somebody", "location": "somewhere", "bucket_tags": MANY}


def test_what_is_kept_with_a_bucket_stays_when_its_directory_is_made_an_object_or_is_none_any_more(
    house: House,
) -> None:
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/b/x", parents=True))
    mark(house, "/b/x/below")
    keep(house, "/b/x", Attributes(**OF_BUCKET))
    mark(house, "/b/x", Attributes({"content-type": "text/own"}, body=b"some"))
    assert attributes(house, "/b/x") == Attributes({"content-type": "text/own"}, body=b"some", **OF_BUCKET)
    mark(house, "/b/x", KEPT)
    assert attributes(house, "/b/x") == Attributes(KEPT.headers, KEPT.user, KEPT.tags, **OF_BUCKET)
    unmark(house, "/b/x")
    assert attributes(house, "/b/x") == Attributes(**OF_BUCKET)
    house.restart()  # which looks for what belongs to nothing


def test_what_is_kept_with_a_bucket_stays_when_its_store_has_an_object_of_its_name(lake: House, bucket: Bucket) -> None:
    put(bucket, "d/f")
    lake.stat("/lake/d")
    keep(lake, "/lake/d", Attributes(**OF_BUCKET))
    put(bucket, "d/", Metadata={"a": "1"})
    lake.now_s += 61
    assert keys(lake) == ["d/", "d/f"]
    found = attributes(lake, "/lake/d")
    assert found == Attributes(found.headers, {"a": "1"}, **OF_BUCKET)  # type: ignore[union-attr]
    bucket.delete("d/")
    lake.now_s += 61
    assert keys(lake) == ["d/f"]
    assert attributes(lake, "/lake/d") == Attributes(**OF_BUCKET)


def test_what_is_kept_with_a_bucket_is_kept_from_its_making_on_and_not_by_objects(house: House) -> None:
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/own", attributes=Attributes(**OF_BUCKET)))
    assert attributes(house, "/own") == Attributes(**OF_BUCKET)
    assert not house.stat("/own").flags & Flag.MARKER
    for kept in ({"cors": "<rules/>"}, {"owner": "me"}, {"location": "here"}, {"bucket_tags": {"a": "1"}}):
        with pytest.raises(InvalidArgument, match="of a bucket"):
            mark(house, "/own/below", Attributes(**kept))


@pytest.mark.parametrize("path", ["/b/d", "/lake/d"])
def test_an_object_that_is_a_directory_has_a_few_bytes(lake: House, bucket: Bucket, path: str) -> None:
    made = mark(lake, path, msgspec.structs.replace(KEPT, body=b"bytes"))
    assert (made.size, made.etag) == (5, hashlib.md5(b"bytes").hexdigest())
    lake.restart()
    assert attributes(lake, path) == msgspec.structs.replace(KEPT, body=b"bytes")
    keep(lake, path, msgspec.structs.replace(KEPT, cors="<rules/>", body=b"other"))
    assert attributes(lake, path).body == b"bytes"  # type: ignore[union-attr]
    if path == "/lake/d":
        assert bucket._client.get_object(Bucket=bucket.name, Key="d/")["Body"].read() == b"bytes"
        lake.now_s += 61
        assert keys(lake) == ["d/"]
        assert attributes(lake, path).body == b"bytes"  # type: ignore[union-attr]
        put(bucket, "d/", Metadata={"a": "2"})  # by others
        lake.now_s += 61
        assert keys(lake) == ["d/"]
        assert (attributes(lake, path).body, lake.stat(path).size) == (b"", 0)  # type: ignore[union-attr]
    mark(lake, path)
    assert (lake.stat(path).size, lake.stat(path).etag) == (0, "")
    with pytest.raises(InvalidArgument, match="4096 bytes"):
        mark(lake, path, Attributes(body=bytes(4097)))
    unmark(lake, path)
    lake.restart()


@pytest.mark.parametrize("path", ["/own", "/lake/own"])
def test_a_directory_that_is_no_object_has_no_bytes(lake: House, path: str) -> None:
    with pytest.raises(InvalidArgument, match="bytes"):
        lake.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest(path, attributes=Attributes(body=b"x")))
    assert (lake.list("/"), lake.list("/lake")) == (["lake/"], [])


def test_an_object_that_is_a_directory_keeps_its_bytes_when_others_change_the_directory(
    house: House, data: Path
) -> None:
    house.mount("/lake", data)
    mark(house, "/lake/d", Attributes(body=b"bytes"))
    write(data / "d" / "f", b"1")
    (data / "d").chmod(0o700)
    house.now_s += 61
    assert keys(house) == ["d/", "d/f"]
    found = house.stat("/lake/d")
    assert (found.mode, found.size, found.etag) == (0o700, 5, hashlib.md5(b"bytes").hexdigest())
    house.restart()


def put_in_parts(bucket: Bucket, key: str, data: bytes) -> None:
    """An object whose fingerprint is another one than that of one put with the same bytes."""
    named = {"Bucket": bucket.name, "Key": key}
    upload = bucket._client.create_multipart_upload(**named)["UploadId"]
    etag = bucket._client.upload_part(**named, UploadId=upload, PartNumber=1, Body=data)["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    bucket._client.complete_multipart_upload(**named, UploadId=upload, MultipartUpload=parts)


def test_bytes_that_others_put_into_an_object_of_a_directory_are_learnt(lake: House, bucket: Bucket) -> None:
    bucket.put("d/", b"theirs")
    bucket.put("large/", bytes(5000))
    mark(lake, "/lake/ours", Attributes(body=b"ours"))
    put_in_parts(bucket, "ours/", b"ours")
    lake.now_s += 61
    assert keys(lake) == ["d/", "large/", "ours/"]

    def told(name: str) -> tuple[bytes, int, str]:
        kept, inode = attributes(lake, f"/lake/{name}"), lake.stat(f"/lake/{name}")
        return kept.body if kept else b"", inode.size, inode.etag

    for _ in range(2):
        for name, body in (("d", b"theirs"), ("ours", b"ours")):
            assert told(name) == (body, len(body), hashlib.md5(body).hexdigest())
        assert told("large") == (b"", 5000, "")
        lake.restart()  # which looks at the tree for what cannot be
    bucket.put("d/", b"theirs again")
    bucket.put("large/", b"small")
    lake.now_s += 61
    keys(lake)
    assert [told(name)[0] for name in ("d", "large")] == [b"theirs again", b"small"]


def test_an_object_of_a_directory_is_put_anew_only_where_its_bytes_are_known(lake: House, bucket: Bucket) -> None:
    for key, size in (("d/", 6), ("unknown/", 6), ("large/", 5000)):
        bucket.put(key, bytes(size))
    keys(lake)
    for name in ("d", "large"):
        attributes(lake, f"/lake/{name}")

    def again(name: str) -> None:
        path = f"/lake/{name}"
        version = lake.stat(path).fingerprint
        assert version
        kept = msgspec.structs.replace(KEPT, body=bytes(6))
        request = api.MakeDirectoryRequest(path, exist_ok=True, marker=True, attributes=kept, replaced=version)
        lake.ask(Method.MAKE_DIRECTORY, request)

    for name in ("unknown", "large"):
        with pytest.raises(ConditionFailed):
            again(name)
    again("d")
    again("d")
    assert kept_with(bucket, "d/") == ("text/own", {"a": "1"}, {"t": "1"}, bytes(6))
    bucket.put("d/", b"theirs")
    with pytest.raises(UfsChanged):
        again("d")
    assert [len(bucket.get(key)) for key in ("d/", "unknown/", "large/")] == [6, 6, 5000]
    assert bucket.get("d/") == b"theirs"


def test_what_is_kept_with_directories_goes_with_them(house: House) -> None:
    for path in ("/a", "/a/b", "/a/b/c", "/d"):
        mark(house, path)
    unmark(house, "/d")
    house.ask(Method.REMOVE_TREE, api.RemoveTreeRequest("/a"))
    house.settle()
    house.restart()  # which looks for what belongs to nothing
    assert house.list("/") == []


@pytest.fixture
def older(lake: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """A master of a release that keeps nothing with directories takes part."""
    monkeypatch.setattr(lake.master._duties, "_voters_level", lambda: MARKERS_LEVEL - 1)
    lake.namespace.store.meta.level = MARKERS_LEVEL - 1
    return lake


def test_before_every_master_knows_markers_a_directory_is_made_as_before(older: House, bucket: Bucket) -> None:
    made = mark(older, "/lake/d", Attributes())
    assert (made.flags & Flag.MARKER, made.attributes, bucket.keys()) == (0, None, ["d/"])
    assert not mark(older, "/own", Attributes()).flags & Flag.MARKER
    assert keys(older) == ["d/"]
    unmark(older, "/lake/d")
    assert bucket.keys() == []
    with pytest.raises(NotReady):
        older.ask(Method.SET_ATTRIBUTES, api.SetAttributesRequest("/own", 0, 0, KEPT, directory=True))


@pytest.mark.parametrize("path", ["/own", "/lake/own"])
def test_before_every_master_knows_markers_no_directory_is_made_without_what_is_to_be_kept_with_it(
    older: House, bucket: Bucket, path: str
) -> None:
    for kept in (KEPT, Attributes(body=b"x")):
        with pytest.raises(NotReady):
            mark(older, path, kept)
    for kept in (Attributes(owner="me"), Attributes(location="here"), Attributes(bucket_tags={"a": "1"})):
        with pytest.raises(NotReady):
            older.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest(path, attributes=kept))
    assert (older.list("/"), older.list("/lake"), bucket.keys()) == (["lake/"], [], [])


# ---- directories that only led to a key, below a mount of a directory -----------------------------------------------------------


def gone(house: House, path: str) -> None:
    house.ask(Method.DELETE, api.DeleteRequest(path, as_key=True))


def test_directories_that_only_led_to_a_key_go_with_it(house: House, scribe: Scribe, data: Path) -> None:
    house.mount("/lake", data)
    scribe.write("/lake/a/b/c/f", b"1")
    scribe.write("/lake/a/g", b"1")
    gone(house, "/lake/a/b/c/f")
    assert [each.name for each in (data / "a").iterdir()] == ["g"]
    assert house.list("/lake/a") == ["g"]
    house.ask(Method.DELETE, api.DeleteRequest("/lake/a/g"))  # as other doors have it
    assert house.list("/lake") == ["a/"]
    mark(house, "/lake/x/y")
    unmark(house, "/lake/x/y")
    assert [each.name for each in data.iterdir()] == ["a"]
    assert house.list("/lake") == ["a/"]


def test_directories_that_somebody_made_or_spoke_of_stay(house: House, scribe: Scribe, data: Path) -> None:
    house.mount("/lake", data)
    for name in ("made", "own", "timed", "pinned", "marked"):
        scribe.write(f"/lake/top/{name}/f", b"1")
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/lake/top/made", exist_ok=True))
    house.ask(Method.SET_TTL, api.SetTtlRequest("/lake/top/timed", 3600.0))
    house.ask(Method.SET_PIN, api.SetPinRequest("/lake/top/pinned", True))
    mark(house, "/lake/top/marked")
    (data / "top" / "own" / "others").write_bytes(b"of another program")
    (data / "found").mkdir()
    scribe.write("/lake/found/f", b"1")
    house.list("/lake")
    for name in ("made", "own", "timed", "pinned", "marked"):
        gone(house, f"/lake/top/{name}/f")
    gone(house, "/lake/found/f")
    left = sorted(each.name for each in (data / "top").iterdir())
    assert left == ["made", "marked", "own", "pinned", "timed"]
    assert (data / "found").is_dir()
    assert (data / "top" / "own" / "others").read_bytes() == b"of another program"
    house.now_s += 61
    assert house.list("/lake/top/own") == ["others"]


def test_a_directory_that_only_led_to_a_key_waits_for_nobody(house: House, scribe: Scribe, data: Path) -> None:
    house.mount("/lake", data)
    scribe.write("/lake/a/f", b"1")
    begun = scribe.begin("/lake/a/g", 1)
    gone(house, "/lake/a/f")
    assert (data / "a").is_dir()
    scribe.end(begun, scribe.put(begun, b"2"), 1)
    assert house.list("/lake/a") == ["g"]


def kept_with(bucket: Bucket, key: str) -> tuple[str, dict[str, str], dict[str, str], bytes]:
    """What a bucket keeps with an object: content type, metadata but for who made it, tags; and its bytes."""
    head = bucket._client.head_object(Bucket=bucket.name, Key=key)
    tags = bucket._client.get_object_tagging(Bucket=bucket.name, Key=key)["TagSet"]
    user = {name: value for name, value in head["Metadata"].items() if name != OPERATION}
    return head["ContentType"], user, {each["Key"]: each["Value"] for each in tags}, bucket.get(key)


@pytest.mark.parametrize("is_known", [True, False])
def test_what_is_kept_with_objects_of_directories_moves_with_them(
    lake: House, bucket: Bucket, *, is_known: bool
) -> None:
    marked = ["old/", "old/d/", "old/d/e/"]
    for key in marked:
        bucket._client.put_object(
            Bucket=bucket.name, Key=key, Body=key.encode() if key == "old/d/" else b"",
            ContentType="text/own", Metadata={"a": key}, Tagging="t=1",
        )  # fmt: skip
    put(bucket, "old/f")
    put(bucket, "old/plain/f")
    if is_known:
        keys(lake)
        attributes(lake, "/lake/old/d")
    lake.stat("/lake/old")
    assert ended(lake, rename(lake, "/lake/old", "/lake/new")).failed == 0
    assert bucket.keys() == ["new/", "new/d/", "new/d/e/", "new/f", "new/plain/f"]
    for key in marked:
        data = key.encode() if key == "old/d/" else b""
        assert kept_with(bucket, key.replace("old/", "new/")) == ("text/own", {"a": key}, {"t": "1"}, data)
    lake.now_s += 61
    assert keys(lake) == bucket.keys()
    for key in marked:
        shown = attributes(lake, f"/lake/{key.replace('old/', 'new/')[:-1]}")
        assert shown is not None
        assert (shown.user, shown.headers["content-type"]) == ({"a": key}, "text/own")
        assert shown.body == (key.encode() if key == "old/d/" else b"")


def test_an_object_put_for_a_directory_while_that_moves_wins(lake: House, bucket: Bucket) -> None:
    put(bucket, "old/", Metadata={"a": "old"})
    put(bucket, "old/d/", Metadata={"a": "old"})
    put(bucket, "old/f")
    keys(lake)
    held = lake.hold("copy")
    number = rename(lake, "/lake/old", "/lake/new")
    held.wait_until_there()
    for key in ("new/", "new/d/"):
        put(bucket, key, Metadata={"a": "new"})
    held.release()
    assert ended(lake, number).failed == 0
    assert bucket.keys() == ["new/", "new/d/", "new/f"]
    assert [kept_with(bucket, key)[1] for key in ("new/", "new/d/")] == [{"a": "new"}] * 2


@pytest.mark.parametrize("written", [["old/d/x", "old/x"], ["old"]])
def test_what_is_written_at_a_former_path_does_not_keep_the_objects_of_directories_there(
    lake: House, scribe: Scribe, bucket: Bucket, written: list[str]
) -> None:
    for key in ("old/", "old/d/"):
        put(bucket, key, Metadata={"a": key})
    put(bucket, "old/d/f")
    keys(lake)
    held = lake.hold("copy")
    number = rename(lake, "/lake/old", "/lake/new")
    held.wait_until_there()
    for key in written:
        scribe.write(f"/lake/{key}", b"new")
    held.release()
    assert ended(lake, number).failed == 0
    lake.now_s += 61
    assert keys(lake) == bucket.keys() == ["new/", "new/d/", "new/d/f", *written]
    for key in ("new/", "new/d/"):
        shown = attributes(lake, f"/lake/{key[:-1]}")
        assert shown is not None
        assert shown.user == kept_with(bucket, key)[1] == {"a": key.replace("new/", "old/")}


def test_objects_of_directories_move_though_others_were_made_at_their_former_paths(lake: House, bucket: Bucket) -> None:
    marked = ["old/", "old/d/"]
    for key in marked:
        put(bucket, key, Metadata={"a": key})
    put(bucket, "old/f")
    keys(lake)
    number = rename(lake, "/lake/old", "/lake/new")
    steer(lake, number, "pause")
    for key in marked:
        lake.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest(f"/lake/{key[:-1]}"))
    steer(lake, number, "resume")
    assert ended(lake, number).failed == 0
    lake.now_s += 61
    assert keys(lake) == bucket.keys() == ["new/", "new/d/", "new/f", *marked]
    for key in marked:
        assert kept_with(bucket, key.replace("old/", "new/"))[1] == {"a": key}


@pytest.mark.parametrize("made_before", [False, True])
def test_an_object_put_for_a_directory_at_a_former_path_comes_after_the_one_there_left_it(
    lake: House, bucket: Bucket, *, made_before: bool
) -> None:
    put(bucket, "old/", Metadata={"a": "old/"})
    bucket._client.put_object(Bucket=bucket.name, Key="old/d/", Body=b"theirs", Metadata={"a": "old/d/"})
    put(bucket, "old/f")
    keys(lake)
    number = rename(lake, "/lake/old", "/lake/new")
    steer(lake, number, "pause")
    for path in ("/lake/old", "/lake/old/d"):
        if made_before:
            lake.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest(path, parents=True, exist_ok=True))
        mark(lake, path)
        mark(lake, path)
    steer(lake, number, "resume")
    assert ended(lake, number).failed == 0
    lake.now_s += 61
    assert keys(lake) == bucket.keys() == ["new/", "new/d/", "new/f", "old/", "old/d/"]
    assert [kept_with(bucket, key)[1] for key in ("new/", "new/d/")] == [{"a": "old/"}, {"a": "old/d/"}]
    assert bucket.get("new/d/") == b"theirs"
    assert attributes(lake, "/lake/old") == attributes(lake, "/lake/old/d") == KEPT
    assert attributes(lake, "/lake/new/d").user == {"a": "old/d/"}  # type: ignore[union-attr]


def test_objects_made_for_new_directories_at_a_former_path_stay_there(
    lake: House, scribe: Scribe, bucket: Bucket
) -> None:
    put(bucket, "old/d/f")
    keys(lake)
    held = lake.hold("copy")
    number = rename(lake, "/lake/old", "/lake/new")
    held.wait_until_there()
    for path in ("/lake/old", "/lake/old/d"):
        mark(lake, path)
    held.release()
    assert ended(lake, number).failed == 0
    lake.now_s += 61
    assert keys(lake) == bucket.keys() == ["new/d/f", "old/", "old/d/"]
    assert attributes(lake, "/lake/old") == attributes(lake, "/lake/old/d") == KEPT


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [0, 1, 2])
def test_objects_of_directories_keep_all_when_the_master_restarts_amid_their_move(
    lake: House, bucket: Bucket, when: str, nth: int
) -> None:
    for key in ("old/", "old/d/", "old/e/"):
        bucket._client.put_object(Bucket=bucket.name, Key=key, Body=b"", Metadata={"a": key}, Tagging="t=1")
    put(bucket, "old/d/f")
    keys(lake)
    held, calls = Held(), iter(range(100))

    def hold() -> None:
        if next(calls) == nth + 1:  # the first one copies the file
            held()

    (lake.watch.before if when == "before" else lake.watch.after)["copy"] = hold
    number = rename(lake, "/lake/old", "/lake/new")
    held.wait_until_there()
    held.release()
    lake.restart()
    ended(lake, number)
    assert bucket.keys() == ["new/", "new/d/", "new/d/f", "new/e/"]
    for key in ("old/", "old/d/", "old/e/"):
        assert kept_with(bucket, key.replace("old/", "new/"))[1:3] == ({"a": key}, {"t": "1"})
