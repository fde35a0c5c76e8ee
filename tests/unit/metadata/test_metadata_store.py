"""The ordered store: layers, scans, flushes, failures, refusals."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata_home import Home, refused

from monofs.config.schema import NamespaceConfig
from monofs.metadata.flusher import SLICE, slices
from monofs.metadata.fsck import CHECKS, check_namespace
from monofs.metadata.memtable import Memtable
from monofs.metadata.snapshot import open_offline
from monofs.metadata.store import HOLD_BACK_FLUSHES, Store
from monofs.metadata.tables import IDS, META_KEY, TABLE_NAMES, Meta, Table, encode_record, pack_id
from monofs.model.errors import DiskFull, HomeUnusable, NotFound


class Box:
    """A bare store, with indexes given by hand."""

    def __init__(self, directory: Path, **config: Any) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.flushed: list[int] = []
        self.failures: list[BaseException] = []
        self.store = Store(
            str(directory),
            NamespaceConfig(**config),
            call_soon=self.calls.put,
            on_flushed=self.flushed.append,
            on_failure=self.failures.append,
        )

    def write(self, *changes: tuple[int, bytes, bytes | None]) -> None:
        self.store.write(list(changes))
        self.store.meta.applied_index += 1

    def flush(self) -> None:
        assert self.store.flush()
        self.calls.get(timeout=30)()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "db")
    yield made
    made.store.close()


def test_the_newest_of_active_frozen_and_database_wins(box: Box) -> None:
    box.write((5, b"a", b"1"), (5, b"b", b"1"), (5, b"c", b"1"))
    box.flush()
    box.write((5, b"b", b"2"), (5, b"c", b"2"))
    assert box.store.flush()
    box.write((5, b"c", b"3"))
    assert [box.store.get(5, key) for key in (b"a", b"b", b"c")] == [b"1", b"2", b"3"]
    assert box.store.scan(5, b"", 10) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]


def test_a_deletion_hides_what_lies_below_it(box: Box) -> None:
    box.write(*((5, b"%03d" % n, b"x") for n in range(500)))
    box.flush()
    box.write(*((5, b"%03d" % n, None) for n in range(499)))
    assert box.store.get(5, b"000") is None
    assert box.store.scan(5, b"", 1) == [(b"499", b"x")]
    assert box.store.scan(5, b"499", 1) == []


def test_directories_do_not_see_each_others_names(box: Box) -> None:
    box.write((5, b"a", b"5"), (6, b"a", b"6"), (IDS, pack_id(5), b"ids"))
    box.flush()
    assert box.store.scan(5, b"", 10) == [(b"a", b"5")]
    assert box.store.scan(4, b"", 10) == []
    assert box.store.scan(IDS, b"", 10) == [(pack_id(5), b"ids")]
    assert box.store.parents(0, 10) == [5, 6]
    assert box.store.parents(5, 10) == [6]


def test_a_directory_of_100_000_new_names_is_listed_in_pages_while_names_are_added(box: Box) -> None:
    names = [b"%06d" % (n * 7919 % 100_000) for n in range(100_000)]
    box.write(*((9, name, name) for name in names))
    seen: list[bytes] = []
    while page := box.store.scan(9, seen[-1] if seen else b"", 1000):
        seen += [name for name, _ in page]
        if len(page) == 1000:
            box.write((9, seen[-1] + b"x", b"new"))
    assert [name for name in seen if not name.endswith(b"x")] == sorted(names)
    assert seen == sorted(seen)
    assert sum(name.endswith(b"x") for name in seen) == 100
    assert len(set(seen)) == len(seen)


def test_a_database_that_was_closed_holds_everything(tmp_path: Path) -> None:
    box = Box(tmp_path / "db")
    box.write((5, b"a", b"1"))
    assert box.store.flush()
    box.write((5, b"b", b"2"))
    box.store.close()
    box.store.close()
    again = Box(tmp_path / "db")
    assert again.store.scan(5, b"", 10) == [(b"a", b"1"), (b"b", b"2")]
    assert again.store.meta.applied_index == 2
    again.store.close()


def test_a_flush_is_due_after_its_interval_or_its_count_and_never_when_nothing_was_applied(tmp_path: Path) -> None:
    box = Box(tmp_path / "db", flush_interval_s=10.0, flush_changes=3)
    start = box.store._flush_began
    assert not box.store.maybe_flush(start + 100)
    box.write((5, b"a", b"1"))
    assert not box.store.maybe_flush(start + 9)
    assert box.store.maybe_flush(start + 10)
    box.calls.get(timeout=30)()
    box.write((5, b"a", b"1"), (5, b"b", b"1"), (5, b"c", b"1"))
    assert box.store.maybe_flush(start + 11)
    box.calls.get(timeout=30)()
    assert box.flushed == [1, 2]
    assert box.store.flushed_index == 2
    assert not box.store.maybe_flush()
    assert box.store.memtable_entries == 0
    box.store.close()


def test_without_a_time_given_the_machine_s_clock_tells_whether_a_flush_is_due(tmp_path: Path) -> None:
    box = Box(tmp_path / "db", flush_interval_s=0.0)
    box.write((5, b"a", b"1"))
    assert box.store.maybe_flush()
    box.store.close()


def test_an_entry_without_changes_is_flushed_too_so_that_the_journal_can_be_released(box: Box) -> None:
    box.write()
    box.flush()
    assert box.flushed == [1]


def test_writers_are_held_back_while_a_flush_is_behind_and_freed_when_it_is_through(tmp_path: Path) -> None:
    box = Box(tmp_path / "db", flush_changes=10)
    box.write((5, b"first", b""))
    assert box.store.flush()
    box.write(*((5, b"%d" % n, b"") for n in range(10 * HOLD_BACK_FLUSHES - 1)))
    assert not box.store.held_back
    assert not box.store.maybe_flush(1e12)
    box.write((5, b"last", b""))
    assert box.store.held_back
    box.calls.get(timeout=30)()
    assert not box.store.held_back
    box.calls.get(timeout=30)()
    assert box.flushed == [1, 3]
    box.store.close()


def test_a_flush_that_fails_stops_the_node_and_nothing_is_written_after_it(tmp_path: Path) -> None:
    box = Box(tmp_path / "db", map_size_bytes=1 << 18)
    box.write((5, b"kept", b"1"))
    box.flush()
    box.write(*((5, b"%d" % n, bytes(4000)) for n in range(100)))
    box.flush()
    assert [type(problem) for problem in box.failures] == [DiskFull]
    assert "map_size_bytes" in str(box.failures[0])
    assert not box.store.flush()
    assert box.store.get(5, b"7") == bytes(4000)
    box.store.close()
    again = Box(tmp_path / "db")
    assert again.store.scan(5, b"", 10) == [(b"kept", b"1")]
    assert again.store.meta.applied_index == 1
    again.store.close()


def test_closing_raises_what_the_last_flush_met(tmp_path: Path) -> None:
    box = Box(tmp_path / "db", map_size_bytes=1 << 18)
    box.write(*((5, b"%d" % n, bytes(4000)) for n in range(100)))
    with pytest.raises(DiskFull):
        box.store.close()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    box = Box(tmp_path / "db")
    box.store.meta.format = 2
    box.write()
    box.store.close()
    with pytest.raises(HomeUnusable, match="format 2"):
        Box(tmp_path / "db")
    with open_offline(str(tmp_path / "db")) as snapshot, pytest.raises(HomeUnusable, match="newer release"):
        snapshot.meta()


@pytest.mark.parametrize("raw", [b"", b"\x93", b"\x91\xa1x"])
def test_a_meta_record_that_cannot_be_decoded_is_refused(tmp_path: Path, raw: bytes) -> None:
    Box(tmp_path / "db").store.close()
    with lmdb.open(str(tmp_path / "db"), max_dbs=32) as environment:
        table = environment.open_db(b"meta")
        with environment.begin(write=True) as transaction:
            transaction.put(META_KEY, raw, db=table)
    with pytest.raises(HomeUnusable, match="meta record"):
        Box(tmp_path / "db")


def test_later_releases_may_extend_the_meta_record(tmp_path: Path) -> None:
    import msgspec

    box = Box(tmp_path / "db")
    values = msgspec.msgpack.decode(encode_record(Meta(applied_index=7)))
    box.store.close()
    with lmdb.open(str(tmp_path / "db"), max_dbs=32) as environment:
        table = environment.open_db(b"meta")
        with environment.begin(write=True) as transaction:
            transaction.put(META_KEY, msgspec.msgpack.encode([*values, "new"]), db=table)
    again = Box(tmp_path / "db")
    assert again.store.meta.applied_index == 7
    again.store.close()


def test_a_damaged_or_unwritable_database_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(HomeUnusable, match="cannot be opened"):
        Box(tmp_path / "db")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HomeUnusable, match="cannot be opened"):
        Box(tmp_path / "file" / "db")
    with pytest.raises(HomeUnusable, match="holds no namespace"), open_offline(str(tmp_path / "nothing")):
        pass
    with pytest.raises(HomeUnusable, match="cannot be opened"), open_offline(str(tmp_path / "db")):
        pass


def test_a_copy_made_while_in_use_is_the_state_of_the_last_flush(home: Home, tmp_path: Path) -> None:
    home.mkdir("/before")
    home.flush()
    home.mkdir("/after")
    (tmp_path / "copy").mkdir()
    with open(tmp_path / "copy" / "data.mdb", "wb") as file:
        home.store.copy_into(file.fileno())
    copy = Home(tmp_path / "copy")
    assert set(copy.tree()) == {"/", "/before/"}
    assert copy.namespace.applied_index == 2
    assert copy.findings() == {}
    copy.close()
    assert refused(home.delete("/copy"), NotFound)


def test_an_offline_snapshot_shows_a_closed_home(tmp_path: Path) -> None:
    home = Home(tmp_path / "db")
    home.initialize()
    home.mkdir("/a")
    home.close()
    with open_offline(str(tmp_path / "db")) as snapshot:
        meta = snapshot.meta()
        assert meta is not None
        assert meta.applied_index == 2
        assert [key for key, _ in snapshot.scan(1, b"", 10)] == [b"a/"]


@given(st.dictionaries(st.integers(-3, 4000).filter(lambda space: space != 0), st.integers(1, 9), max_size=300))
def test_slices_hold_every_key_once_sorted_and_bounded(sizes: dict[int, int]) -> None:
    memtable = Memtable()
    for space, size in sizes.items():
        memtable.apply([(space, b"%d" % n, None if n == 3 else b"v") for n in range(size * 300 if size == 9 else size)])
    seen: set[tuple[int, bytes]] = set()
    for table, puts, deletes in slices(memtable):
        assert 0 < len(puts) + len(deletes) <= SLICE
        assert puts == sorted(puts)
        assert deletes == sorted(deletes)
        keys = {(table, key) for key in [*deletes, *(key for key, _ in puts)]}
        assert not keys & seen
        seen |= keys
    assert len(seen) == sum(len(keys) for keys in memtable.spaces.values())
    memtable.release()
    assert not memtable.spaces


SPACES = st.sampled_from([1, 2, 300, IDS])
KEYS = st.binary(min_size=1, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.tuples(SPACES, KEYS, st.none() | st.binary(min_size=1, max_size=4)))),
        st.tuples(st.just("flush"), st.booleans()),
        st.tuples(st.just("scan"), SPACES, st.binary(max_size=2), st.integers(1, 300)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_the_store_is_a_sorted_dict_whatever_is_flushed_when(tmp_path_factory: Any, steps: list[Any]) -> None:
    box = Box(tmp_path_factory.mktemp("box") / "db")
    model: dict[tuple[int, bytes], bytes] = {}
    for step in steps:
        if step[0] == "write":
            box.write(*step[1])
            for space, key, value in step[1]:
                if value is None:
                    model.pop((space, key), None)
                else:
                    model[space, key] = value
        elif step[0] == "flush":
            if box.store.flush() and step[1]:
                box.calls.get(timeout=30)()
        else:
            _, space, after, limit = step
            wanted = sorted((key, value) for (where, key), value in model.items() if where == space and key > after)
            assert box.store.scan(space, after, limit) == wanted[:limit]
        while not box.calls.empty():
            box.calls.get()()
    for (space, key), value in model.items():
        assert box.store.get(space, key) == value
    box.store.close()


def test_a_home_of_a_release_without_the_tables_of_writing_is_checked_and_opened(tmp_path: Path) -> None:
    home = Home(tmp_path / "db")
    home.initialize()
    home.mkdir("/d")
    home.close()
    environment = lmdb.open(home.directory, max_dbs=32)
    for table in Table:
        if table > Table.META:
            handle = environment.open_db(TABLE_NAMES[table])
            with environment.begin(write=True) as transaction:
                transaction.drop(handle)
    environment.close()
    with open_offline(home.directory) as offline:
        assert offline.scan(-Table.INTENTS, b"", 10) == []
        assert offline.get(-Table.PLACES, b"x") is None
        assert check_namespace(offline) == {name: [] for name in CHECKS}
    home.open()
    home.keep("/d/f")
    home.begin_write("/d/g", write_type="MUST_CACHE")
    home.close()
    home.open()
    assert home.namespace.places(home.inode("/d/f").content) is not None
    assert len(home.namespace.intents(0, 10)) == 1
    home.close()
