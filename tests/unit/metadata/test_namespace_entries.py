"""Entries as such: first entry, level, feed, workers, clock, unknown entries, running CRC, recorded bytes."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metadata_home import CLUSTER, Home, directory, file, refused

from monofs.metadata import draft as draft_module
from monofs.metadata.entries import (
    AddToken,
    AssignSlots,
    Create,
    Free,
    Initialize,
    MakeDirectory,
    RegisterWorker,
    RemoveBelow,
    SetLevel,
    Stamp,
    TrimFeed,
)
from monofs.metadata.entry_kinds import BODIES, EntryKind, decode_entry, encode_entry
from monofs.metadata.namespace import fold
from monofs.metadata.ops import OPERATIONS
from monofs.metadata.tables import LEVEL, TOKENS_MAX, FeedKind, Meta, encode_record
from monofs.model.block import SLOTS
from monofs.model.entry import Entry
from monofs.model.errors import ConditionFailed, InvalidArgument, NotReady, UnknownEntry
from monofs.model.ids import incarnation_of
from monofs.model.inode import Flag
from monofs.model.slots import EMPTY, SlotTable
from monofs.rpc import api


def test_the_first_entry_makes_the_cluster_and_its_root(home: Home) -> None:
    namespace = home.namespace
    assert (namespace.cluster, namespace.incarnation, namespace.level, namespace.slots) == (CLUSTER, 1, 1, EMPTY)
    assert (namespace.data_key, namespace.capability_key) == (b"data key", b"capability key")
    assert home.inode("/").flags == Flag.EXPLICIT
    assert namespace.counts()["inodes"] == 1
    assert refused(home.apply(Initialize(home.stamp(), b"x", 2, b"", b"")), ConditionFailed)


@pytest.mark.parametrize(("cluster", "incarnation"), [(b"", 1), (b"c", 0), (b"c", 65536), (b"c", -1)])
def test_a_cluster_needs_an_id_and_an_incarnation(tmp_path: Path, cluster: bytes, incarnation: int) -> None:
    home = Home(tmp_path / "db")
    assert refused(home.apply(Initialize(home.stamp(), cluster, incarnation, b"", b"")), InvalidArgument)
    assert refused(home.create("/f"), NotReady)
    home.initialize(65535)
    home.mount("/m")
    home.adopt("/m", [file("f")])
    assert incarnation_of(home.inode("/m/f").content) == 65535
    assert home.findings() == {}
    home.close()


def test_the_level_rises_only_to_what_is_known(home: Home) -> None:
    assert home.apply(SetLevel(home.stamp(), LEVEL)) is None
    assert refused(home.apply(SetLevel(home.stamp(), LEVEL - 1)), InvalidArgument)
    with pytest.raises(
        UnknownEntry, match=f"up to level {LEVEL}"
    ):  # the other members went on with it: no refusal, a stop
        home.apply(SetLevel(home.stamp(), LEVEL + 1))


def test_every_kind_has_a_body_and_an_operation() -> None:
    assert set(BODIES) == set(OPERATIONS) == set(EntryKind)


@pytest.mark.parametrize(
    "entry",
    [
        Entry(999, 1, b"\x90"),
        Entry(EntryKind.CREATE, 2, b"\x90"),
        Entry(EntryKind.CREATE, 1, b""),
        Entry(EntryKind.CREATE, 1, b"\x90"),
        Entry(EntryKind.CREATE, 1, b"\xc1"),
        Entry(EntryKind.CREATE, 1, b"\x92\x91\x01\xa1x"),
    ],
)
def test_an_entry_this_release_does_not_know_stops_the_node_and_changes_nothing(home: Home, entry: Entry) -> None:
    before = home.namespace.applied_index
    with pytest.raises(UnknownEntry):
        home.namespace.apply(before + 1, 1, entry)
    assert home.namespace.applied_index == before


@given(st.integers(0, 99), st.integers(0, 3), st.binary(max_size=60))
def test_no_bytes_make_the_decoder_raise_anything_else(kind: int, version: int, body: bytes) -> None:
    try:
        decode_entry(Entry(kind, version, body))
    except UnknownEntry:
        pass


def test_a_body_extended_by_a_later_release_is_still_read() -> None:
    import msgspec

    entry = encode_entry(Create(Stamp(1), "/f", 0o644, 0, 0))
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(entry.body), "later"])
    assert decode_entry(Entry(entry.kind, 1, longer)) == Create(Stamp(1), "/f", 0o644, 0, 0)


def test_recorded_entries_decode_to_what_they_meant() -> None:
    vectors = json.loads((Path(__file__).parent / "entry_vectors.json").read_text())
    assert {vector["kind"] for vector in vectors} == {int(kind) for kind in EntryKind}
    for vector in vectors:
        entry = Entry(vector["kind"], 1, bytes.fromhex(vector["body"]))
        change = decode_entry(entry)
        assert repr(change) == vector["means"]
        assert (encode_entry(change) == entry) != vector.get("earlier", False), "an earlier release knew fewer fields"


def test_an_index_applied_before_is_passed_over(home: Home) -> None:
    home.create("/f")
    before = home.tree(), home.namespace.crc
    for index, entry in enumerate(home.log, 1):
        assert home.namespace.apply(index, 1, entry) is None
    assert (home.tree(), home.namespace.crc) == before


def test_the_clock_of_the_state_never_goes_back(home: Home) -> None:
    home.apply(MakeDirectory(Stamp(10**15), "/a", 0o755, 0, 0, False, False))
    assert home.namespace.now_ns == 10**15
    home.apply(MakeDirectory(Stamp(5), "/b", 0o755, 0, 0, False, False))
    assert home.namespace.now_ns == 10**15
    assert home.inode("/b").mtime_ns == 10**15


def test_the_feed_is_told_in_order_and_trimmed(home: Home) -> None:
    assert home.namespace.feed_bounds() == (1, 0)
    for number in range(1, 6):
        assert home.apply(Free(home.stamp(), FeedKind.PIN, [number])) == number
    assert home.namespace.feed(0, 2) == [(1, 4, [1]), (2, 4, [2])]
    assert home.namespace.feed(3, 10) == [(4, 4, [4]), (5, 4, [5])]
    assert home.apply(TrimFeed(home.stamp(), 3)) is None
    assert home.namespace.feed_bounds() == (4, 5)
    assert home.namespace.feed(0, 1) == [(4, 4, [4])]
    home.apply(TrimFeed(home.stamp(), 1))
    home.apply(TrimFeed(home.stamp(), 1000))
    assert home.namespace.feed_bounds() == (6, 5)
    assert home.namespace.feed(0, 10) == []
    assert home.apply(Free(home.stamp(), FeedKind.UNPIN, [1])) == 6


def test_feed_records_are_bounded_and_of_kinds_that_may_be_asked_for(home: Home) -> None:
    assert refused(home.apply(Free(home.stamp(), FeedKind.RETIRED, [1])), InvalidArgument)
    assert refused(home.apply(Free(home.stamp(), 9, [1])), InvalidArgument)
    assert refused(home.apply(Free(home.stamp(), FeedKind.FREE, [])), InvalidArgument)
    assert refused(home.apply(Free(home.stamp(), FeedKind.FREE, [1] * 1001)), InvalidArgument)
    assert home.apply(Free(home.stamp(), FeedKind.FREE_FORCED, [1] * 1000)) == 1


def test_the_oldest_of_a_full_feed_falls_out(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_module, "FEED_RECORDS_MAX", 3)
    for number in range(1, 6):
        home.apply(Free(home.stamp(), FeedKind.FREE, [number]))
    assert home.namespace.feed_bounds() == (3, 5)
    assert [index for index, _, _ in home.namespace.feed(0, 10)] == [3, 4, 5]


def test_what_one_entry_retires_is_told_in_records_of_a_thousand(home: Home) -> None:
    home.mount("/m")
    for start in (0, 1000):
        home.adopt("/m", [file(f"{n:04}") for n in range(start, start + 1000)], after=b"0999" if start else b"")
    home.adopt("/m", [])
    assert [len(contents) for _, _, contents in home.namespace.feed(0, 10)] == [1000, 1000]


def test_feed_kinds_are_those_of_the_wire() -> None:
    assert {kind.name: kind.value for kind in FeedKind} == {kind.name: kind.value for kind in api.FeedKind}


def test_a_worker_keeps_its_id(home: Home) -> None:
    first, second = b"1" * 16, b"2" * 16
    assert home.apply(RegisterWorker(home.stamp(), first)) == 1
    assert home.apply(RegisterWorker(home.stamp(), second)) == 2
    assert home.apply(RegisterWorker(home.stamp(), first)) == 1
    assert home.namespace.workers() == {1: first, 2: second}
    assert refused(home.apply(RegisterWorker(home.stamp(), b"short")), InvalidArgument)
    home.lose_memory()
    home.open()
    assert home.namespace.workers() == {1: first, 2: second}


def test_it_is_remembered_where_a_worker_listened_last(home: Home) -> None:
    first, second = b"1" * 16, b"2" * 16
    for identity, address in ((first, "a:1"), (second, ""), (first, "a:2"), (first, ""), (second, "b:1")):
        home.apply(RegisterWorker(home.stamp(), identity, address))
    for _ in range(2):
        assert [home.namespace.address_of(worker) for worker in (1, 2, 3)] == ["a:2", "b:1", ""]
        assert home.namespace.workers() == {1: first, 2: second}
        home.lose_memory()
        home.open()
    assert home.namespace.worker_of(first) == 1
    assert refused(home.apply(RegisterWorker(home.stamp(), first, "a" * 1000)), InvalidArgument)
    assert home.namespace.meta.last_worker == 2
    assert home.findings() == {}


def assignment(home: Home, base: SlotTable, rows: list[int], replicas: int, shares: list[tuple[int, int, str]]) -> Any:
    """An ASSIGN_SLOTS after which slot s lists ``rows`` from number s on."""
    places = array("H", [rows[(slot + nth) % len(rows)] for slot in range(SLOTS) for nth in range(replicas)])
    delta = base.delta_to(SlotTable(0, replicas, places))
    return AssignSlots(home.stamp(), base.epoch, replicas, shares, delta.slots, delta.rows, delta.digest)


def test_the_slot_table_changes_by_deltas_to_the_table_in_force_and_outlives_a_restart(home: Home) -> None:
    for number in (1, 2, 3):
        home.apply(RegisterWorker(home.stamp(), bytes([number]) * 16))
    shares = [(1, 100, ""), (2, 100, ""), (3, 50, "b")]
    first = home.apply(assignment(home, EMPTY, [1, 2], 2, shares[:2]))
    table = home.namespace.slots
    assert (first, table.epoch, list(table.owners(7))) == (home.namespace.applied_index, first, [2, 1])
    second = home.apply(assignment(home, table, [1, 3], 2, shares))
    assert second > first
    assert list(home.namespace.slots.owners(7)) == [3, 1]
    assert refused(home.apply(assignment(home, table, [1, 2], 2, shares)), ConditionFailed)
    now = home.namespace.slots
    assert refused(home.apply(assignment(home, now, [1, 4], 2, shares)), InvalidArgument)
    assert refused(home.apply(assignment(home, now, [1, 1, 2], 2, shares)), InvalidArgument)
    assert refused(
        home.apply(AssignSlots(home.stamp(), now.epoch, 2, shares, b"\1\0", b"\2\0\1\0", 5)), ConditionFailed
    )
    home.lose_memory()
    home.open()
    assert home.namespace.slots == now
    assert home.namespace.known_slots.shares == shares


def test_the_running_crc_is_as_documented() -> None:
    assert fold(0, (1, 2, 3, 4, 5), []) == 0x31647518
    assert fold(1, (1, 2, 3, 4, 5), [(7, b"name", b"value"), (-4, b"gone", None)]) == 0x38C5CCA3


def test_the_meta_record_is_as_documented() -> None:
    assert (
        encode_record(Meta(applied_index=7, cluster=b"c")).hex()
        == "dc0025010700c400c401630000000000c400c4000000000000000101000000000000000000000000000000ff00"
    )


def test_records_of_the_tree_are_as_documented(tmp_path: Path) -> None:
    home = Home(tmp_path / "db")
    home.initialize()
    home.mount("/m")
    home.adopt("/m", [file("f", "abc", size=10, mtime_ns=10**18)])
    raw = home.namespace.lookup((b"m", b"f")).raw
    assert raw is not None
    assert raw.hex() == "dc00120103cf00010000000000010acf0de0b6b3a7640000cd0bb8cd01a40000001aa5653a6162630312c0c0c0c0"
    home.close()


def test_entries_of_level_3_make_what_they_made_before(tmp_path: Path) -> None:
    """Masters of two releases apply the same entries until the last one is upgraded: every byte they change must be the same. The number is of the release
    before level 4."""
    home = Home(tmp_path / "db")
    home.initialize()
    home.apply(SetLevel(home.stamp(), 3))
    home.mkdir("/a/b", parents=True)
    home.create("/a/f")
    home.mount("/m")
    home.adopt("/m", [directory("d"), file("x"), file("y")])
    home.adopt("/m/d", [file("z")])
    home.adopt("/m", [directory("d"), file("x", "2"), file("y", mtime_ns=2 * 10**18)], complete=False)
    home.write("/m/new/deep/f")
    home.begin_write("/m/parts", size=-1)
    home.keep("/m/k/scratch")
    home.keep("/c/d/e")
    home.end(home.begin_copy("/m/x", "/m/copy"), file("copy", "c"))
    home.end(home.begin_rename("/m/copy", "/m/there"), file("there", "c"))
    home.end(home.begin_delete("/m/y"), None)
    home.end(home.begin_mkdir("/m/q/r", parents=True), directory("r"))
    home.mkdir("/c/d", exist_ok=True)
    home.rename("/c/d/e", "/c/e")
    home.delete("/c/e")
    home.rename_tree("/m/d", "/m/dd")
    home.remove_tree("/m/new")
    for number in range(5):
        home.apply(AddToken(home.stamp(), f"t{number}", 3, 0 if number % 2 else 1, bytes(16)))
    home.clock_ns = 10**10
    home.apply(AddToken(home.stamp(), "t0", 3, 0, bytes(16)))
    for number in range(TOKENS_MAX):
        home.apply(AddToken(home.stamp(), f"u{number}", 1, 0, bytes(16)))
    home.apply(RemoveBelow(home.stamp(), 100))
    assert home.namespace.crc == 0x46B7E1
