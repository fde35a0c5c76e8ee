"""What is kept with files beside their bytes: it comes with a content, follows its name, and goes with it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metadata_home import NOBODY, Home, directory, file, refused

from monofs.metadata import state
from monofs.metadata.entries import RemoveBelow, SetAttributes, SetLevel
from monofs.metadata.entry_kinds import encode_entry
from monofs.metadata.intent_entries import BeginCopy, BeginMakeDirectory, BeginWrite, End
from monofs.metadata.tables import ATTRIBUTES, INTENTS, LEVEL, MARKERS_LEVEL, decode_intent, encode_intent, pack_id
from monofs.model.attributes import (
    Attributes,
    check_attributes,
    decode_attributes,
    encode_attributes,
    etag_of,
    from_store,
    store_headers,
)
from monofs.model.errors import AlreadyExists, ConditionFailed, InvalidArgument, IsADirectory, NotFound
from monofs.model.ids import NO_CONTENT
from monofs.model.inode import Flag

PLAIN = Attributes({"content-type": "text/plain"}, {"who": "ann"})
TAGGED = Attributes({"content-type": "text/plain"}, tags={"stage": "raw"}, checksums={"crc32": "AAAAAA=="})


@pytest.fixture
def lake(home: Home) -> Home:
    """A mount at /m, at the level from which attributes are kept."""
    home.mount("/m")
    home.apply(SetLevel(home.stamp(), LEVEL))
    return home


def write(home: Home, path: str, begun: Attributes | None, *, size: int = 10, kept: bool = False, **end: Any) -> Any:
    """A file written with what its writer says at the beginning and at the end."""
    write_type = "MUST_CACHE" if kept else "CACHE_THROUGH"
    change = BeginWrite(home.stamp(), path, 0o600, True, False, None, size, write_type, 1, NOBODY, begun)
    intent = home.begin(change)
    found = None if kept else file(path.rpartition("/")[2], end.pop("version", "t"), size)
    if found is not None and not found.fingerprint.startswith("e:e"):
        found.fingerprint = f"t:{found.fingerprint}"
    return home.apply(End(home.stamp(), intent.number, found, size, [1] if kept and size else [], **end))


def told(home: Home, path: str) -> Attributes | None:
    return home.namespace.attributes(home.inode(path))


def rows(home: Home) -> int:
    return len(home.store.scan(ATTRIBUTES, b"", 1000))


def test_what_the_end_of_a_write_says_stands_in_the_place_of_what_its_beginning_said(lake: Home) -> None:
    write(lake, "/m/begun", PLAIN)
    write(lake, "/m/ended", PLAIN, attributes=TAGGED, etag="0cc1")
    write(lake, "/m/plain", None)
    assert (told(lake, "/m/begun"), told(lake, "/m/ended"), told(lake, "/m/plain")) == (PLAIN, TAGGED, None)
    assert [lake.inode(f"/m/{name}").etag for name in ("begun", "ended", "plain")] == ["", "0cc1", ""]
    assert rows(lake) == 2
    lake.lose_memory()
    lake.open()
    assert told(lake, "/m/ended") == TAGGED
    assert lake.findings() == {}


def test_they_go_with_the_content_whoever_replaces_or_deletes_it(lake: Home) -> None:
    for name in ("replaced", "deleted", "changed", "gone", "d/below"):
        write(lake, f"/m/{name}", PLAIN, etag="0cc1", version="e1")
    write(lake, "/m/replaced", None)
    intent = lake.begin_delete("/m/deleted")
    lake.end(intent, None)
    lake.adopt("/m", [directory("d"), file("changed", "other"), file("replaced", "t")])
    assert (told(lake, "/m/replaced"), told(lake, "/m/changed")) == (None, None)
    assert lake.inode("/m/changed").flags & Flag.HEADERS_UNKNOWN
    assert rows(lake) == 1
    lake.adopt("/m", [])
    while lake.apply(RemoveBelow(lake.stamp(), 10)):
        pass
    assert rows(lake) == 0
    assert lake.findings() == {}


def test_what_is_remembered_of_them_is_what_is_stored(lake: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ATTRIBUTES_CACHE_MAX", 2)
    kept = {"/m/a": PLAIN, "/m/b": TAGGED, "/m/c": PLAIN}
    for path, attributes in kept.items():
        write(lake, path, attributes)
    for _ in range(2):
        for path, attributes in kept.items():
            assert lake.namespace.remembered_attributes(lake.inode(path)) == encode_attributes(attributes)
    was = lake.inode("/m/a")
    lake.apply(SetAttributes(lake.stamp(), "/m/a", was.content, was.attributes or 0, TAGGED))
    assert lake.namespace.remembered_attributes(lake.inode("/m/a")) == encode_attributes(TAGGED)
    write(lake, "/m/b", None)
    assert lake.namespace.remembered_attributes(lake.inode("/m/b")) is None


def test_a_look_that_finds_the_same_version_leaves_them(lake: Home) -> None:
    write(lake, "/m/f", TAGGED, etag="0cc1", version="1")
    found = file("f", "1", 10, mtime_ns=2 * 10**18)
    found.fingerprint = lake.inode("/m/f").fingerprint
    assert lake.adopt("/m", [found]) == (0, 1, 0)
    after = lake.inode("/m/f")
    assert (told(lake, "/m/f"), after.etag) == (TAGGED, "0cc1")
    lake.apply(
        SetAttributes(lake.stamp(), "/m/f", after.content, after.attributes or 0, PLAIN, after.fingerprint)
    )  # written again with the same bytes, perhaps: its headers are asked for once more, and the rest stays
    joined = Attributes(PLAIN.headers, PLAIN.user, TAGGED.tags, TAGGED.checksums)
    assert (told(lake, "/m/f"), rows(lake)) == (joined, 1)


def test_they_follow_a_renamed_file_and_are_copied_with_a_copied_one(lake: Home) -> None:
    write(lake, "/m/f", TAGGED, etag="0cc1")
    write(lake, "/m/onto", PLAIN)
    renamed = lake.begin_rename("/m/f", "/m/onto")
    found = file("onto")
    found.fingerprint = "t:renamed"
    lake.end(renamed, found)
    assert (told(lake, "/m/onto"), lake.inode("/m/onto").etag, rows(lake)) == (TAGGED, "0cc1", 1)
    copied = lake.begin_copy("/m/onto", "/m/copy")
    lake.end(copied, file("copy", "c"))
    assert told(lake, "/m/copy") == TAGGED
    assert lake.inode("/m/copy").etag == ""  # its store has one of its own
    same = lake.begin_copy("/m/onto", "/m/same")
    local = file("same")
    local.fingerprint = "t:same"
    lake.end(same, local)
    assert (told(lake, "/m/same"), lake.inode("/m/same").etag) == (TAGGED, "0cc1")
    other = lake.begin(BeginCopy(lake.stamp(), "/m/onto", "/m/other", True, False, NOBODY, PLAIN))
    lake.end(other, file("other", "c"))
    assert told(lake, "/m/other") == PLAIN
    assert rows(lake) == 4
    bare = lake.write("/m/bare")
    assert bare
    unknown = lake.begin_copy("/m/bare", "/m/twin")
    lake.end(unknown, file("twin", "c"))
    assert lake.inode("/m/twin").flags & Flag.HEADERS_UNKNOWN
    assert lake.findings() == {}


def test_files_of_no_bytes_and_files_no_store_has_keep_them_too(lake: Home) -> None:
    write(lake, "/m/empty", PLAIN, size=0, etag="0cc1")
    write(lake, "/scratch", TAGGED, kept=True, etag="0cc1")
    write(lake, "/none", PLAIN, size=0, kept=True)
    assert lake.inode("/m/empty").content == NO_CONTENT
    assert (told(lake, "/m/empty"), told(lake, "/scratch"), told(lake, "/none")) == (PLAIN, TAGGED, PLAIN)
    lake.rename("/scratch", "/none")
    assert (told(lake, "/none"), rows(lake)) == (TAGGED, 2)
    lake.delete("/none")
    assert rows(lake) == 1
    assert lake.findings() == {}


def test_they_are_replaced_alone_only_where_nothing_changed_since(lake: Home) -> None:
    write(lake, "/m/f", PLAIN, version="e1")
    lake.mkdir("/d")
    before = lake.inode("/m/f")

    def replace(path: str, content: int, expected: int, attributes: Attributes | None, fingerprint: str = "") -> Any:
        return lake.apply(SetAttributes(lake.stamp(), path, content, expected, attributes, fingerprint))

    assert isinstance(replace("/m/f", before.content, before.attributes or 0, TAGGED), bytes)
    after = lake.inode("/m/f")
    assert (told(lake, "/m/f"), after.content, after.fingerprint) == (TAGGED, before.content, before.fingerprint)
    assert refused(replace("/m/f", before.content, before.attributes or 0, PLAIN), ConditionFailed)
    assert refused(replace("/m/f", 99, after.attributes or 0, PLAIN), ConditionFailed)
    assert refused(replace("/m/none", 99, 0, PLAIN), NotFound)
    assert refused(replace("/d", 0, 0, PLAIN), NotFound)
    assert refused(replace("/", 0, 0, PLAIN), IsADirectory)
    many = Attributes(tags={str(number): "" for number in range(11)})
    assert refused(replace("/m/f", after.content, after.attributes or 0, many), InvalidArgument)
    assert isinstance(replace("/m/f", after.content, after.attributes or 0, None), bytes)
    assert (told(lake, "/m/f"), rows(lake)) == (None, 0)


def test_what_a_store_keeps_is_taken_over_once_for_the_version_it_is_of(lake: Home) -> None:
    lake.adopt("/m", [file("f", "1")])
    inode = lake.inode("/m/f")
    assert inode.flags & Flag.HEADERS_UNKNOWN

    def learn(fingerprint: str, attributes: Attributes | None) -> Any:
        return lake.apply(SetAttributes(lake.stamp(), "/m/f", inode.content, 0, attributes, fingerprint))

    assert refused(learn("e:2", PLAIN), ConditionFailed)
    assert isinstance(learn("e:1", PLAIN), bytes)
    assert not lake.inode("/m/f").flags & Flag.HEADERS_UNKNOWN
    assert isinstance(learn("e:1", TAGGED), bytes)  # somebody was there before
    assert told(lake, "/m/f") == PLAIN


def test_records_without_them_are_those_of_earlier_releases(home: Home) -> None:
    home.mount("/m")
    intent = home.begin_write("/m/f")
    raw = home.store.get(INTENTS, pack_id(intent.number))
    assert raw is not None
    assert raw[:3] == bytes.fromhex("dc001c")
    assert decode_intent(raw) == intent
    told = msgspec.structs.replace(intent, attributes=PLAIN, etag="0cc1")
    assert decode_intent(encode_intent(told)) == told
    home.end(intent, file("f"))
    stored = home.namespace.lookup((b"m", b"f")).raw
    assert stored is not None
    assert stored[:3] == bytes.fromhex("dc0012")


def test_rules_for_other_origins_are_in_no_record_of_what_has_none(home: Home) -> None:
    earlier = bytes.fromhex("9781ac636f6e74656e742d74797065aa746578742f706c61696e81a377686fa3616e6e8080c29090")
    assert encode_attributes(PLAIN) == earlier
    assert decode_attributes(earlier) == PLAIN
    ruled = msgspec.structs.replace(PLAIN, cors="<rules/>")
    assert encode_attributes(ruled) == b"\x98" + earlier[1:] + b"\xa8<rules/>"
    home.mount("/m")
    intent = msgspec.structs.replace(home.begin_write("/m/f"), attributes=PLAIN)
    assert earlier in encode_intent(intent)
    assert encode_attributes(ruled) in encode_intent(msgspec.structs.replace(intent, attributes=ruled))
    assert earlier in encode_entry(SetAttributes(home.stamp(), "/m/f", NO_CONTENT, 0, PLAIN)).body


@pytest.mark.parametrize("level", [MARKERS_LEVEL - 1, MARKERS_LEVEL])
def test_a_directory_that_is_there_is_made_an_object_anew_from_the_level_on_that_knows_them(
    home: Home, level: int
) -> None:
    home.mount("/m")
    home.apply(SetLevel(home.stamp(), level))
    home.adopt("/m", [directory("d")])
    home.adopt("/m/d", [file("f", "t:1")])
    result = home.apply(BeginMakeDirectory(home.stamp(), "/m/d", 0o700, False, False, NOBODY, True))
    assert isinstance(result, AlreadyExists) == (level < MARKERS_LEVEL)


@pytest.mark.parametrize(
    "attributes",
    [
        Attributes({"x-amz-acl": "private"}),
        Attributes({"content-type": "a\r\nx: y"}),
        Attributes(user={"who": "x" * 2048}),
        Attributes(user={"bad name": "x"}),
        Attributes(user={"Upper": "x"}),
        Attributes(user={"monofs-operation": "x"}),
        Attributes(tags={"": "x"}),
        Attributes(tags={"k": "v" * 257}),
        Attributes(part_checksums=[bytes(32)] * 500),
        Attributes(cors="<rules/>"),
        Attributes(owner="me"),
        Attributes(location="here"),
        Attributes(bucket_tags={"k": "v"}),
        Attributes(body=b"x"),
    ],
)
def test_what_cannot_be_kept_is_refused(attributes: Attributes) -> None:
    with pytest.raises(InvalidArgument):
        check_attributes(attributes)


NAMES = st.text("abc-.0", min_size=1, max_size=8)
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20)


@given(st.dictionaries(NAMES, VALUES, max_size=5), VALUES)
def test_what_a_store_is_told_comes_back_from_it(user: dict[str, str], kind: str) -> None:
    said = Attributes({"content-type": kind}, user)
    check_attributes(said)
    assert from_store({**store_headers(said), "x-amz-meta-monofs-operation": "o", "server": "x"}) == said


def test_every_file_has_an_etag_that_stays(lake: Home) -> None:
    write(lake, "/m/written", None, etag="0cc1")
    write(lake, "/m/local", None)
    lake.adopt("/m", [file("object", "abc")], after=b"o", through=b"object")
    write(lake, "/m/empty", None, size=0)
    lake.keep("/kept")
    assert etag_of(lake.inode("/m/written")) == "0cc1"
    assert etag_of(lake.inode("/m/object")) == "abc"
    assert etag_of(lake.inode("/m/empty")) == "d41d8cd98f00b204e9800998ecf8427e"
    made = {etag_of(lake.inode(path)) for path in ("/m/local", "/kept")}
    assert len(made) == 2
    assert all(len(each) == 34 and each.endswith("-1") for each in made)


def test_any_record_of_them_decodes_as_it_was() -> None:
    whole = Attributes(
        {"expires": "x"}, {"a": "b"}, {"t": "v"}, {"crc64nvme": "x="}, True, [(1, 4, 8 << 20), (5, 1, 7)], [b"x" * 4]
    )
    more = {"cors": "<rules/>", "owner": "me", "location": "here", "bucket_tags": {"k": "v"}, "body": b"bytes"}
    for each in (whole, *[msgspec.structs.replace(whole, **{name: value}) for name, value in more.items()]):
        assert decode_attributes(encode_attributes(each)) == each
