"""What every under storage does when it is changed: conditions hold or nothing happens, files appear whole, and who made them can be told."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_ufs_contract import ODD_KEYS, as_tree, each_case, letters, some_keys
from ufs_worlds import Root, World, file_of, names, read_all, scan_all, views

from monofs.model.errors import NotSupported, UfsChanged, UfsNotEmpty, UfsNotFound
from monofs.ufs.base import ANYTHING, Condition, UfsEntry, UnderStorage

MIB = 1 << 20
ABSENT = Condition(absent=True)
_operations = itertools.count(1)

Make = Callable[[UnderStorage, bytes, bytes, str, Condition], UfsEntry]


def new() -> str:
    """The name of an operation nobody had before."""
    return f"test-{next(_operations)}"


def contents(store: UnderStorage, key: bytes) -> bytes:
    entry = file_of(store, key)
    return read_all(store, key, 0, entry.size + 1, entry.fingerprint)


def by_put(store: UnderStorage, key: bytes, data: bytes, operation: str, condition: Condition) -> UfsEntry:
    return store.put(key, views(data), operation, condition)


def by_parts(store: UnderStorage, key: bytes, data: bytes, operation: str, condition: Condition) -> UfsEntry:
    upload = store.begin_upload(key, operation)
    parts = [store.put_part(key, upload, 1, 0, views(data))]
    try:
        return store.complete_upload(key, upload, parts, len(data), operation, condition)
    except UfsChanged:
        store.abort_upload(key, upload)
        raise


def by_copy(store: UnderStorage, key: bytes, data: bytes, operation: str, condition: Condition) -> UfsEntry:
    source = store.put(b"source-of-copies", views(data), new(), ANYTHING)
    return store.copy(b"source-of-copies", source.fingerprint, key, operation, condition)


WAYS: list[Make] = [by_put, by_parts, by_copy]
way = pytest.mark.parametrize("make", WAYS, ids=lambda make: make.__name__)


@way
def test_what_was_made_is_what_looks_listings_and_readers_find(world: World, make: Make) -> None:
    store = world.root().store
    operation = new()
    made = make(store, b"d/e/file", b"some bytes", operation, ABSENT)
    looked = store.look(b"d/e/file")
    assert looked is not None
    assert (looked.fingerprint, looked.operation) == (made.fingerprint, operation)
    listed = store.list(b"d/e").entries[0]
    assert (listed.name, made.name) == (b"file", b"d/e/file")
    for entry in (file_of(store, b"d/e/file"), looked, listed):
        assert (entry.size, entry.fingerprint) == (10, made.fingerprint)
        assert abs(entry.mtime_ns - made.mtime_ns) <= 10**9
    assert not made.racy
    assert read_all(store, b"d/e/file", 0, 100, made.fingerprint) == b"some bytes"


@way
@pytest.mark.parametrize("there", ["nothing", "the version", "another version"])
@pytest.mark.parametrize("wanted", ["anything", "nothing", "the version"])
def test_an_act_is_done_exactly_when_its_condition_holds(world: World, make: Make, there: str, wanted: str) -> None:
    root = world.root()
    store = root.store
    fingerprint = store.put(b"k", views(b"the version"), new(), ANYTHING).fingerprint
    if there == "nothing":
        root.delete(b"k")
    elif there == "another version":
        root.put(b"k", b"not theirs.")
    before = store.look(b"k")
    condition = {"anything": ANYTHING, "nothing": ABSENT, "the version": Condition(fingerprint)}[wanted]
    for _ in range(2):  # the second time a store may know what its server honours
        operation = new()
        if wanted in ("anything", there):
            made = make(store, b"k", b"the new one", operation, condition)
            assert contents(store, b"k") == b"the new one"
            found = store.look(b"k")
            assert found is not None
            assert (found.operation, found.fingerprint) == (operation, made.fingerprint)
            return
        with pytest.raises(UfsChanged):
            make(store, b"k", b"the new one", operation, condition)
        assert store.look(b"k") == before
    assert not root.leftovers()


@way
def test_an_act_asked_for_again_is_done_once_and_told_as_done(world: World, make: Make) -> None:
    root = world.root()
    store, operation = root.store, new()
    first = make(store, b"k", b"bytes", operation, ABSENT)
    again = make(store, b"k", b"bytes", operation, ABSENT)
    assert again.fingerprint == first.fingerprint
    with pytest.raises(UfsChanged):
        make(store, b"k", b"bytes", new(), ABSENT)
    second = make(store, b"k", b"other", operation + "-b", Condition(first.fingerprint))
    assert make(store, b"k", b"other", operation + "-b", Condition(first.fingerprint)).fingerprint == second.fingerprint


def test_of_a_hundred_who_create_one_file_exactly_one_succeeds(world: World) -> None:
    if not world.is_atomic:
        return  # a server that looks and then writes cannot promise this
    root = world.root()
    root.store.put(b"warm", views(b"x"), new(), ABSENT)

    def create(number: int) -> int | None:
        try:
            root.store.put(b"d/contested", views(b"%03d" % number), f"racer-{number}", ABSENT)
        except UfsChanged:
            return None
        return number

    with ThreadPoolExecutor(100) as pool:
        winners = [number for number in pool.map(create, range(100)) if number is not None]
    assert len(winners) == 1
    assert contents(root.store, b"d/contested") == b"%03d" % winners[0]
    looked = root.store.look(b"d/contested")
    assert looked is not None
    assert looked.operation == f"racer-{winners[0]}"
    assert not root.leftovers()


@pytest.mark.parametrize("size", [0, 1, MIB + 1, 8 * MIB])
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("key", [b"plain", b"new  and//odd"])
def test_bytes_of_any_size_in_any_number_of_views_arrive(world: World, size: int, pieces: int, key: bytes) -> None:
    if not world.holds(key):
        key = b"new  and odd"
    store, data = world.root().store, os.urandom(size)
    made = store.put(key, views(data, pieces), new(), ABSENT)
    assert made.size == size
    assert contents(store, key) == data


def test_any_key_can_be_made_looked_at_copied_and_deleted(world: World) -> None:
    root = world.root()
    store = root.store
    held = [key for key in [*ODD_KEYS, b"k" * 250, b"/".join([b"k" * 165] * 5)] if world.holds(key)]
    for number, key in enumerate(held):
        data = b"%d" % number
        store.put(key, views(data), new(), ABSENT)
        by_parts(store, b"parts/" + key, data, new(), ABSENT)
        source = file_of(store, key)
        copied = b"copy/" + held[-1 - number]
        store.copy(key, source.fingerprint, copied, operation := new(), ABSENT)
        looked = store.look(copied)
        assert looked is not None
        assert looked.operation == operation
        assert contents(store, key) == contents(store, b"parts/" + key) == contents(store, copied) == data
    everything = [prefix + key for key in held for prefix in (b"", b"parts/", b"copy/")]
    half = len(everything) // 2
    assert store.delete_many(everything[:half]) == {}
    for key in everything[half:]:
        store.delete(key)
    assert [name for name in scan_all(store) if not name.endswith(b"/") or world.has_prefixes] == []


def test_parts_may_come_in_any_order_and_more_than_once(world: World) -> None:
    root = world.root()
    store, size = root.store, 5 * MIB
    data = os.urandom(2 * size + 77)
    upload = store.begin_upload(b"big", operation := new())
    pieces = {1: data[:size], 2: data[size : 2 * size], 3: data[2 * size :]}
    parts: dict[int, str] = {}
    store.put_part(b"big", upload, 2, size, views(os.urandom(size)))  # a try whose answer was lost, of other bytes even
    for number in (3, 1, 2, 1):
        parts[number] = store.put_part(b"big", upload, number, (number - 1) * size, views(pieces[number], 2))
    assert store.status(b"big") == (None, None)
    assert b"big" not in names(store.list(b""))
    made = store.complete_upload(b"big", upload, [parts[3], parts[1], parts[2]], len(data), operation, ABSENT)
    assert made.size == len(data)
    assert contents(store, b"big") == data
    assert not root.leftovers()


def test_parts_sent_by_several_threads_make_one_file(world: World) -> None:
    store, size = world.root().store, 5 * MIB
    data = os.urandom(6 * size)
    upload = store.begin_upload(b"big", operation := new())
    with ThreadPoolExecutor(3) as pool:
        parts = list(
            pool.map(
                lambda at: store.put_part(b"big", upload, at // size + 1, at, views(data[at : at + size])),
                range(0, len(data), size),
            )
        )
    store.complete_upload(b"big", upload, parts, len(data), operation, ABSENT)
    assert contents(store, b"big") == data


def test_an_upload_that_was_aborted_leaves_nothing_and_may_be_aborted_again(world: World) -> None:
    root = world.root()
    store = root.store
    upload = store.begin_upload(b"d/big", new())
    store.put_part(b"d/big", upload, 1, 0, views(b"part"))
    assert root.leftovers()
    for _ in range(2):
        store.abort_upload(b"d/big", upload)
    assert not root.leftovers()
    assert store.look(b"d/big") is None


def test_aborting_an_upload_after_it_was_completed_keeps_the_file(world: World) -> None:
    store, operation = world.root().store, new()
    upload = store.begin_upload(b"big", operation)
    parts = [store.put_part(b"big", upload, 1, 0, views(b"bytes"))]
    store.complete_upload(b"big", upload, parts, 5, operation, ABSENT)
    store.abort_upload(b"big", upload)
    assert contents(store, b"big") == b"bytes"


def test_a_copy_is_of_the_version_asked_for_or_not_made(world: World) -> None:
    root = world.root()
    store = root.store
    old = store.put(b"source", views(b"old"), new(), ABSENT)
    root.put(b"source", b"new")
    with pytest.raises(UfsChanged) as changed:
        store.copy(b"source", old.fingerprint, b"target", new(), ABSENT)
    assert changed.value.detail["source"] == 1
    root.delete(b"source")
    with pytest.raises(UfsNotFound) as missing:
        store.copy(b"source", old.fingerprint, b"target", new(), ABSENT)
    assert missing.value.detail["source"] == 1
    assert store.look(b"target") is None
    assert not root.leftovers()


@pytest.mark.parametrize(
    "said",
    [
        {"content-type": "text/plain", "cache-control": "no-cache", "x-amz-meta-who": "ann"},
        {"content-type": "text/plain", "expires": "0", "x-amz-meta-content-type": "mine"},
        {"x-amz-meta-name": "größe"},
    ],
)
def test_headers_said_with_a_file_are_kept_with_it_and_with_its_copies_where_the_store_keeps_any(
    world: World, said: dict[str, str]
) -> None:
    store = world.root().store
    made = store.put(b"put", views(b"bytes"), new(), ABSENT, said)
    upload = store.begin_upload(b"joined", operation := new(), said)
    part = store.put_part(b"joined", upload, 1, 0, views(b"bytes"))
    store.complete_upload(b"joined", upload, [part], 5, operation, ABSENT)
    store.copy(b"put", made.fingerprint, b"copied", new(), ABSENT)
    other = {"content-type": "image/png", "x-amz-meta-who": "bob"}
    store.copy(b"put", made.fingerprint, b"other", new(), ABSENT, headers=other)
    for key, wanted in ((b"put", said), (b"joined", said), (b"copied", said), (b"other", other)):
        fingerprint, kept = store.headers(key)
        if world.has_prefixes:
            assert kept.pop("x-amz-meta-monofs-operation")
            assert fingerprint == file_of(store, key).fingerprint
            assert wanted.items() <= kept.items()
            assert not {name for name in kept if name.startswith("x-amz-meta-")} - wanted.keys()
        else:
            assert (fingerprint, kept) == ("", {})


def test_copies_have_the_tags_of_what_was_copied_or_those_that_are_told_where_the_store_keeps_any(world: World) -> None:
    store = world.root().store
    made = store.put(b"put", views(b"bytes"), new(), ABSENT, {"x-amz-tagging": "a=1&b=x%20y"})
    store.copy(b"put", made.fingerprint, b"copied", new(), ABSENT)
    store.copy(b"put", made.fingerprint, b"told", new(), ABSENT, headers={"x-amz-tagging": "c=2"})
    store.copy(b"put", made.fingerprint, b"bare", new(), ABSENT, headers={"x-amz-meta-who": "bob"})
    tags = [store.headers(key)[1].get("x-amz-tagging") for key in (b"put", b"copied", b"told", b"bare")]
    assert tags == (["a=1&b=x%20y"] * 2 + ["c=2", None] if world.has_prefixes else [None] * 4)


def test_deleting_what_is_not_there_is_no_error(world: World) -> None:
    root = world.root()
    store = root.store
    root.put(b"d/file", b"x")
    for key in (b"d/file", b"d/file", b"missing", b"missing/deeper", b"d/file/below"):
        store.delete(key)
    assert store.look(b"d/file") is None


def test_a_thousand_are_deleted_though_some_are_missing_and_others_stay(world: World) -> None:
    root = world.root()
    keys = [b"d%d/%04d" % (number % 7, number) for number in range(1000)]
    for key in keys[::3]:
        root.put(key, b"")
    root.put(b"d1/stays", b"")
    assert root.store.delete_many(keys) == {}
    assert [name for name in scan_all(root.store) if not name.endswith(b"/")] == [b"d1/stays"]


def test_directories_come_into_being_once_and_go_when_they_are_empty(world: World) -> None:
    root = world.root()
    store = root.store
    for _ in range(2):
        made = store.make_directory(b"d/e", new())
        assert (made.name, made.is_directory) == (b"d/e", True)
    assert store.status(b"d/e")[1] is not None
    assert names(store.list(b"d")) == [b"e/"]
    assert names(store.list(b"d/e")) == []
    root.put(b"d/e/file", b"x")
    with pytest.raises(UfsNotEmpty):
        store.remove_directory(b"d/e")
    store.delete(b"d/e/file")
    for _ in range(2):
        store.remove_directory(b"d/e")
    assert store.status(b"d/e") == (None, None)
    store.make_directory(b"f/g", new())
    assert store.delete_many([b"f/g/", b"f/", b"missing/"]) == {}
    assert store.status(b"f") == (None, None)


def test_a_directory_made_where_one_is_keeps_what_lies_in_it(world: World) -> None:
    root = world.root()
    root.put(b"d/file", b"x")
    root.store.make_directory(b"d", new())
    assert contents(root.store, b"d/file") == b"x"


def all_names(world: World, keys: set[bytes]) -> list[bytes]:
    """What a scan must name: the keys; of a tree its directories too."""
    if world.has_prefixes:
        return sorted(keys)
    above = {key[: at + 1] for key in keys for at, letter in enumerate(key) if letter == ord("/")}
    return sorted(keys | above)


@each_case
@given(keys=some_keys, limit=st.sampled_from([1, 2, 3, 1000]), after=st.lists(letters, max_size=4).map(b"".join))
def test_a_scan_names_all_that_lies_below_in_key_order_from_anywhere(
    world: World, keys: set[bytes], limit: int, after: bytes
) -> None:
    held = {key for key in keys if world.holds(b"top/" + key)}
    if not world.has_prefixes:
        held = as_tree(held)
    root = world.root()
    for key in held:
        root.put(b"top/" + key, key)
    root.put(b"top-other", b"")
    expected = all_names(world, held)
    assert scan_all(root.store, b"top", limit) == expected
    positions = {key[:cut] for key in expected for cut in range(1, len(key) + 1)}
    for position in [after, *sorted(positions)[:: max(1, len(positions) // 12)]]:
        if not world.has_prefixes or world.holds(position):  # a server may not understand the bytes of half a letter
            assert scan_all(root.store, b"top", limit, position) == [name for name in expected if name > position]


def test_a_scan_tells_files_as_a_listing_does_and_a_missing_directory_is_empty(world: World) -> None:
    root = world.root()
    root.put(b"d/e/file", b"abc")
    root.store.make_directory(b"d/f", new())
    found = {entry.name: entry for entry in root.store.scan(b"d").entries}
    assert found[b"e/file"].fingerprint == file_of(root.store, b"d/e/file").fingerprint
    assert (found[b"e/file"].size, found[b"e/file"].is_directory) == (3, False)
    assert found[b"f/"].is_directory
    assert found[b"f/"].mtime_ns > 1_600_000_000 * 10**9
    page = root.store.scan(b"missing/deeper")
    assert (page.entries, page.next, page.odd) == ([], None, [])


def test_files_and_directories_move_in_one_step_where_the_store_can(world: World) -> None:
    root = world.root()
    store = root.store
    made = store.put(b"a", views(b"moved"), new(), ABSENT)
    if not store.renames:
        with pytest.raises(NotSupported):
            store.rename(b"a", b"b", ABSENT, directory=False)
        assert contents(store, b"a") == b"moved"
        return
    there = store.put(b"d/b", views(b"there"), new(), ABSENT)
    for condition in (ABSENT, Condition(made.fingerprint)):
        with pytest.raises(UfsChanged):
            store.rename(b"a", b"d/b", condition, directory=False)
    with pytest.raises(UfsNotFound):
        store.rename(b"a", b"x", ABSENT, directory=True)
    moved = store.rename(b"a", b"d/b", Condition(there.fingerprint), directory=False)
    assert moved.fingerprint == file_of(store, b"d/b").fingerprint
    assert contents(store, b"d/b") == b"moved"
    assert store.status(b"a") == (None, None)
    store.make_directory(b"empty", new())
    store.make_directory(b"full/x", new())
    with pytest.raises(UfsNotEmpty):
        store.rename(b"d", b"full", ANYTHING, directory=True)
    with pytest.raises(UfsChanged):
        store.rename(b"d", b"empty", ABSENT, directory=True)
    store.rename(b"d", b"empty", ANYTHING, directory=True)
    store.rename(b"empty", b"new/place", ABSENT, directory=True)
    assert contents(store, b"new/place/b") == b"moved"
    with pytest.raises(UfsNotFound):
        store.rename(b"d", b"anywhere", ABSENT, directory=True)


def test_a_tree_taken_out_of_sight_is_gone_at_once_and_swept_later(world: World) -> None:
    root: Root = world.root()
    store = root.store
    for number in range(30):
        root.put(b"d/" + b"/".join(b"%d" % each for each in range(number)) + b"/f", b"x")
    root.put(b"other", b"x")
    if not store.remove_tree(b"d", "gone"):
        assert len(scan_all(store, b"d")) == 30
        return
    assert store.status(b"d") == (None, None)
    root.put(b"d/anew", b"x")
    assert store.remove_tree(b"d", "gone")  # asked again: what came meanwhile is not the operation's
    assert contents(store, b"d/anew") == b"x"
    assert root.leftovers()
    store.sweep("other", b"d")
    assert root.leftovers()
    for _ in range(2):
        store.sweep("gone", b"d")
    assert not root.leftovers()
    assert [name for name in scan_all(store) if not name.endswith(b"/")] == [b"d/anew", b"other"]
    assert store.remove_tree(b"missing/tree", "gone")
