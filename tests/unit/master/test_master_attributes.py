"""What is kept with files, as clients are told it and change it; what a bucket keeps is asked for once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from master_house import House
from scribe import Asking, Scribe, inode_of

from monofs.metadata.tables import ATTRIBUTES_LEVEL
from monofs.model.attributes import Attributes, decode_attributes
from monofs.model.errors import (
    ConditionFailed,
    InvalidArgument,
    MonofsError,
    NotReady,
    UfsChanged,
    UfsDenied,
    UfsFailed,
    UfsUnknown,
    UfsUnreachable,
)
from monofs.model.inode import Inode, decode_inode
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.testing.buckets import Bucket

TEXT = Attributes({"content-type": "text/plain", "cache-control": "no-cache"}, {"who": "ann"})


def attributes(house: House, path: str) -> Attributes | None:
    answer = house.ask(Method.STAT, api.StatRequest(path, attributes=True))
    return msgspec.msgpack.decode(answer.attributes, type=Attributes | None)


def put(bucket: Bucket, key: str, **headers: Any) -> None:
    bucket._client.put_object(Bucket=bucket.name, Key=key, Body=b"data", **headers)


def shown(bucket: Bucket, key: str) -> dict[str, Any]:
    return dict(bucket._client.head_object(Bucket=bucket.name, Key=key))


@pytest.fixture
def lake(house: House, bucket: Bucket) -> House:
    house.ask(Method.MOUNT_ADD, api.MountAddRequest("/lake", bucket.uri, bucket.options))
    return house


def asked(house: House) -> int:
    return house.asked().count("headers")


def test_what_an_object_came_with_is_asked_for_once_when_it_is_first_wanted(lake: House, bucket: Bucket) -> None:
    put(bucket, "f", ContentType="text/plain", CacheControl="no-cache", Metadata={"who": "ann"})
    put(bucket, "bare")
    lake.stat("/lake/f")
    assert asked(lake) == 0
    waiting = [lake.begin(Method.STAT, api.StatRequest("/lake/f", attributes=True)) for _ in range(10)]
    assert [decode_attributes(wait().attributes) for wait in waiting] == [TEXT] * 10
    assert asked(lake) == 1
    opened = lake.ask(Method.OPEN, api.OpenRequest("/lake/f", attributes=True))
    assert decode_attributes(opened.attributes) == TEXT
    assert lake.ask(Method.OPEN, api.OpenRequest("/lake/f")).attributes == api.NIL
    for _ in range(2):
        attributes(lake, "/lake/bare")
    assert asked(lake) == 1
    lake.restart()
    assert attributes(lake, "/lake/f") == TEXT
    assert asked(lake) == 0
    bucket._client.put_object(Bucket=bucket.name, Key="f", Body=b"other", ContentType="text/html")
    lake.now_s += 61
    assert attributes(lake, "/lake/f") == Attributes({"content-type": "text/html"})


def test_those_of_many_files_come_in_one_batch(lake: House, bucket: Bucket) -> None:
    for number in range(20):
        put(bucket, f"f{number:02d}", ContentType=f"text/{number}")
    paths = [f"/lake/f{number:02d}" for number in range(20)]
    for method, request in (
        (Method.STAT_MANY, api.StatManyRequest([*paths, "/lake/none", "/lake"], attributes=True)),
        (Method.OPEN_MANY, api.OpenManyRequest([*paths, "/lake/none", "/lake"], attributes=True)),
    ):
        answer = lake.ask(method, request)
        told = [decode_attributes(each.attributes).headers["content-type"] for each in answer.answers[:20]]
        assert told == [f"text/{number}" for number in range(20)]
        assert 20 in answer.failures
    assert asked(lake) == 20


def test_a_store_that_does_not_answer_keeps_nobody_from_a_file(lake: House, bucket: Bucket) -> None:
    put(bucket, "f", ContentType="text/plain")
    lake.stat("/lake/f")
    lake.watch.error = UfsUnreachable("down")
    assert attributes(lake, "/lake/f") is None
    lake.watch.error = None
    lake.now_s += 31
    assert attributes(lake, "/lake/f") == Attributes({"content-type": "text/plain"})


def test_local_files_have_none_and_nothing_is_asked_for(house: House, data: Any) -> None:
    (data / "f").write_bytes(b"1")
    house.mount("/lake", data)
    assert attributes(house, "/lake/f") is None
    assert asked(house) == 0


def test_a_copy_has_those_of_its_source_or_its_own_in_the_store_too(lake: House, bucket: Bucket) -> None:
    put(bucket, "f", ContentType="text/plain", CacheControl="no-cache", Metadata={"who": "ann"})
    lake.ask(Method.COPY, api.CopyRequest("/lake/f", "/lake/same"))
    own = Attributes({"content-type": "image/png"}, {"who": "bob"})
    lake.ask(Method.COPY, api.CopyRequest("/lake/f", "/lake/own", attributes=own))
    assert (attributes(lake, "/lake/same"), attributes(lake, "/lake/own")) == (TEXT, own)
    assert shown(bucket, "same")["ContentType"] == "text/plain"
    assert shown(bucket, "own")["ContentType"] == "image/png"
    assert shown(bucket, "own")["Metadata"]["who"] == "bob"


def test_they_are_replaced_where_nobody_was_quicker(lake: House, bucket: Bucket) -> None:
    put(bucket, "f", ContentType="text/plain", CacheControl="no-cache", Metadata={"who": "ann"})
    before = lake.stat("/lake/f")

    def replace(inode: Inode, attributes: Attributes | None) -> Inode:
        asking = Asking().next()
        request = api.SetAttributesRequest("/lake/f", inode.content, inode.attributes or 0, attributes, asking)
        return inode_of(lake.ask(Method.SET_ATTRIBUTES, request))

    tagged = msgspec.structs.replace(TEXT, tags={"stage": "raw"})
    with pytest.raises(ConditionFailed):  # what the store keeps was learnt first
        replace(before, tagged)
    attributes(lake, "/lake/f")
    now = replace(lake.stat("/lake/f"), tagged)
    assert attributes(lake, "/lake/f") == tagged
    with pytest.raises(ConditionFailed):
        replace(before, None)
    with pytest.raises(InvalidArgument):
        replace(now, Attributes({"x-amz-acl": "private"}))
    assert replace(now, None).attributes is None


def tags_in(bucket: Bucket, key: str) -> dict[str, str]:
    tags = bucket._client.get_object_tagging(Bucket=bucket.name, Key=key)["TagSet"]
    return {each["Key"]: each["Value"] for each in tags}


def set_attributes(house: House, path: str, kept: Attributes | None) -> Inode:
    inode = house.stat(path)
    request = api.SetAttributesRequest(path, inode.content, inode.attributes or 0, kept, Asking().next())
    return inode_of(house.ask(Method.SET_ATTRIBUTES, request))


def test_tags_of_an_object_are_asked_for_with_its_headers(lake: House, bucket: Bucket) -> None:
    put(bucket, "f", ContentType="text/plain", Tagging="a=1&b=%C3%BC%20x%26&c=")
    assert attributes(lake, "/lake/f") == Attributes(
        {"content-type": "text/plain"}, {}, {"a": "1", "b": "ü x&", "c": ""}
    )


def test_tags_that_change_are_told_to_the_store_and_nothing_else(lake: House, bucket: Bucket) -> None:
    put(bucket, "f", ContentType="text/plain", CacheControl="no-cache", Metadata={"who": "ann"})
    attributes(lake, "/lake/f")
    before = lake.stat("/lake/f")
    lake.asked()
    for tags in ({"stage": "raw", "ü <&": "x y"}, {}):
        after = set_attributes(lake, "/lake/f", msgspec.structs.replace(TEXT, tags=tags))
        assert (after.content, after.fingerprint, after.mtime_ns) == (
            before.content,
            before.fingerprint,
            before.mtime_ns,
        )
        assert tags_in(bucket, "f") == tags
        assert attributes(lake, "/lake/f") == msgspec.structs.replace(TEXT, tags=tags)
    assert "copy" not in lake.asked()
    assert shown(bucket, "f")["Metadata"]["who"] == "ann"


def test_metadata_that_changes_is_told_to_the_store_and_the_content_stays_warm(lake: House, bucket: Bucket) -> None:
    put(bucket, "f", ContentType="text/plain", Metadata={"who": "ann"}, Tagging="a=1")
    attributes(lake, "/lake/f")
    before, own = lake.stat("/lake/f"), Attributes({"content-type": "image/png"}, {"who": "bob"}, {"b": "2"})
    after = set_attributes(lake, "/lake/f", own)
    assert (after.content, after.id, after.fingerprint) == (before.content, before.id, before.fingerprint)
    assert (shown(bucket, "f")["ContentType"], shown(bucket, "f")["Metadata"]["who"]) == ("image/png", "bob")
    assert tags_in(bucket, "f") == {"b": "2"}
    assert bucket.get("f") == b"data"
    lake.restart()
    lake.now_s += 61
    assert lake.stat("/lake/f").content == before.content
    assert attributes(lake, "/lake/f") == own


@pytest.mark.parametrize("kept", [msgspec.structs.replace(TEXT, tags={"a": "1"}), Attributes(user={"who": "bob"})])
def test_what_is_kept_changes_with_no_version_but_the_one_that_was_meant(
    lake: House, bucket: Bucket, kept: Attributes
) -> None:
    put(bucket, "f", ContentType="text/plain", CacheControl="no-cache", Metadata={"who": "ann"})
    attributes(lake, "/lake/f")
    lake.stat("/lake/f")
    bucket.put("f", b"of somebody else")
    with pytest.raises((ConditionFailed, UfsChanged)):
        set_attributes(lake, "/lake/f", kept)
    assert (tags_in(bucket, "f"), bucket.get("f")) == ({}, b"of somebody else")
    assert lake.stat("/lake/f").size == 16


REFUSED = [
    UfsFailed("501 NotImplemented", not_done=1),
    UfsFailed("400 InvalidRequest", not_done=1),
    UfsDenied("403 AccessDenied", not_done=1),
]


@pytest.mark.parametrize("refusal", REFUSED)
@pytest.mark.parametrize("is_resolved", [False, True])
def test_a_copy_whose_tags_the_store_refuses_ends_all_the_same(
    lake: House, bucket: Bucket, refusal: MonofsError, is_resolved: bool
) -> None:
    put(bucket, "f")
    tagged = api.CopyRequest("/lake/f", "/lake/copy", attributes=Attributes(tags={"stage": "raw"}))

    def refuse() -> None:
        raise refusal

    if is_resolved:
        lake.watch.before = {"tag": lost}
        with pytest.raises(UfsUnknown):
            lake.ask(Method.COPY, tagged)
        lake.watch.before = {"tag": refuse}
        lake.restart()
        lake.resolve()
    else:
        lake.watch.before = {"tag": refuse}
        lake.ask(Method.COPY, tagged)
    assert lake.ask(Method.INTENT_LIST, api.Empty()).intents == []
    assert (bucket.get("copy"), lake.stat("/lake/copy").size) == (b"data", 4)


def test_a_copy_whose_store_is_away_before_its_tags_are_put_gets_them_later(lake: House, bucket: Bucket) -> None:
    put(bucket, "f")

    def away() -> None:
        raise UfsUnreachable("no connection", not_done=1)

    lake.watch.before = {"tag": away}
    with pytest.raises(UfsUnknown):
        lake.ask(Method.COPY, api.CopyRequest("/lake/f", "/lake/copy", attributes=Attributes(tags={"stage": "raw"})))
    bucket._client.delete_object_tagging(Bucket=bucket.name, Key="copy")
    lake.watch.before = {}
    lake.restart()
    lake.resolve()
    assert tags_in(bucket, "copy") == {"stage": "raw"}


def lost() -> None:
    raise UfsUnreachable("the answer is lost")


@pytest.mark.parametrize("method", [Method.COPY, Method.RENAME])
@pytest.mark.parametrize("is_resolved", [False, True])
def test_a_copy_that_was_not_seen_to_its_end_has_the_tags_of_an_object_of_others(
    lake: House, bucket: Bucket, method: Method, is_resolved: bool
) -> None:
    put(bucket, "f", Tagging="stage=raw")

    def lost_untagged() -> None:  # as by a store that takes no tags along
        bucket._client.delete_object_tagging(Bucket=bucket.name, Key="copy")
        raise UfsFailed("the answer is lost")

    lake.watch.after = {"copy": lost_untagged}
    request = {Method.COPY: api.CopyRequest, Method.RENAME: api.RenameRequest}[method]("/lake/f", "/lake/copy")
    if is_resolved:
        lake.watch.before = {"look": lost}
        with pytest.raises(UfsUnknown):
            lake.ask(method, request)
        lake.watch.before, lake.watch.after = {}, {}
        lake.restart()
        lake.resolve()
    else:
        lake.ask(method, request)
    assert tags_in(bucket, "copy") == {"stage": "raw"}
    assert bucket.keys() == (["copy", "f"] if method == Method.COPY else ["copy"])


@pytest.mark.parametrize(
    ("act", "kept"),
    [
        ("tag", msgspec.structs.replace(TEXT, tags={"a": "1"})),
        ("copy", Attributes({"content-type": "a/b"}, {"who": "bob"})),
    ],
)
def test_what_a_store_was_told_whose_answer_was_lost_becomes_known(
    lake: House, bucket: Bucket, act: str, kept: Attributes
) -> None:
    put(bucket, "f", ContentType="text/plain", CacheControl="no-cache", Metadata={"who": "ann"})
    attributes(lake, "/lake/f")
    inode = lake.stat("/lake/f")
    lake.watch.after = {act: lost}
    lake.watch.before = {"look": lost} if act == "copy" else {}
    with pytest.raises(UfsUnknown):
        set_attributes(lake, "/lake/f", kept)
    lake.watch.after, lake.watch.before = {}, {}
    lake.restart()
    lake.resolve()
    assert attributes(lake, "/lake/f") == kept
    assert (tags_in(bucket, "f"), lake.stat("/lake/f").content) == (kept.tags, inode.content)


def test_what_a_writer_says_at_the_beginning_or_the_end_is_kept(house: House) -> None:
    scribe = Scribe(house)
    begun = scribe.begin("/b/f", 1, attributes=TEXT)
    ending = scribe.ending(begun, None, 1)
    ending.etag = "0cc175b9c0f1b6a831c399e269772661"
    made = inode_of(house.ask(Method.END_WRITE, ending))
    assert (made.etag, attributes(house, "/b/f")) == (ending.etag, TEXT)
    begun = scribe.begin("/b/f", 1, attributes=TEXT)
    ending = scribe.ending(begun, None, 1)
    ending.attributes = msgspec.structs.replace(TEXT, checksums={"crc32": "6Le+Qw=="})
    inode_of(house.ask(Method.END_WRITE, ending))
    assert attributes(house, "/b/f") == ending.attributes
    page = house.ask(Method.LIST_KEYS, api.ListKeysRequest("/b"))
    assert decode_inode(page.inodes[0]).attributes is not None
    with pytest.raises(InvalidArgument):
        scribe.begin("/b/f", 1, attributes=Attributes(user={"who": "x" * 3000}))


def test_nothing_is_kept_before_every_master_knows_how(house: House) -> None:
    house.namespace.store.meta.level = ATTRIBUTES_LEVEL - 1
    scribe = Scribe(house)
    with pytest.raises(NotReady, match="every master"):
        scribe.begin("/b/f", 1, attributes=TEXT)
    begun = scribe.begin("/b/f", 1)
    ending = scribe.ending(begun, None, 1)
    ending.etag = "0cc1"
    assert inode_of(house.ask(Method.END_WRITE, ending)).etag == ""
