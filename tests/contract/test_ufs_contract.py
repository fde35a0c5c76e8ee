"""What every under storage does: listings in key order, exact keys, exact bytes of one version, typed errors."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ufs_worlds import Root, World, file_of, model_listing, names, read_all, sorting_name, whole_listing

from monofs.model.errors import UfsChanged, UfsNotFound
from monofs.model.paths import name_problem
from monofs.ufs.base import UnderStorage

ODD_KEYS = [
    *(
        b"a//b",
        b"../x",
        b"..",
        b"./y",
        b"d/../e",
        b"/lead",
        b"d/",
        b"d//",
        b"new\nline",
        b"carriage\rreturn",
        b"\x01control",
    ),
    *(
        b"bad\xffname",
        b"bad\xff/inside",
        b"x" * 256,
        b"sp ace",
        b"plus+plus",
        b"per%25cent",
        b"%2F",
        b"q?u=e&r#y",
        b"tab\there",
    ),
    *(
        "größe/日本語.txt".encode(),
        "emoji 😀".encode(),
        b"a:b|c\"d'e<f>g`h^i{j}k[l]m~n\\o*p;q,r@s$t!u(v)",
        b"trailing ",
        b" leading",
    ),
    *(
        "nfd e\u0301".encode(),
        b"x" * 255,
        b"deep/" * 20 + b"end",
        b"&amp;",
        b"]]>",
        b".hidden",
        b"...",
        b"a.",
        b"-dash",
    ),
]

each_case = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
letters = st.sampled_from(
    [b"a", b"b", b"-", b".", b"/", b"0", b"\xc3\xa4", b" ", b"+", b"%", b"~", b"\n", b"\xf0\x9f\x98\x80"]
)
some_keys = st.sets(st.lists(letters, min_size=1, max_size=6).map(b"".join), min_size=1, max_size=18)


def as_tree(keys: set[bytes]) -> set[bytes]:
    """Those of the keys a directory tree can hold together: no key is a directory of another."""
    return {key for key in keys if not any(other.startswith(key + b"/") for other in keys)}


def assert_lists_as_model(store: UnderStorage, keys: set[bytes], limit: int) -> None:
    """Every directory that paths can reach lists as the model says."""
    waiting = [b""]
    while waiting:
        directory = waiting.pop()
        entries, odd = whole_listing(store, directory, limit)
        shown, expected_odd = model_listing(keys, directory)
        assert [sorting_name(entry) for entry in entries] == shown
        assert sorted(odd) == expected_odd
        waiting += [(directory + b"/" if directory else b"") + entry.name for entry in entries if entry.is_directory]


@each_case
@given(keys=some_keys, limit=st.sampled_from([1, 2, 3, 1000]))
def test_a_listing_of_any_keys_is_what_the_keys_say_in_key_order(world: World, keys: set[bytes], limit: int) -> None:
    held = {key for key in keys if world.holds(key)}
    if not world.has_prefixes:
        held = as_tree(held)
    root = world.root()
    for key in held:
        root.put(key, key)
    assert_lists_as_model(root.store, held, limit)


@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_odd_keys_list_and_read_exactly(world: World, limit: int) -> None:
    root = world.root()
    held = [key for key in ODD_KEYS if world.holds(key)]
    if world.has_prefixes:
        assert {b"a//b", b"../x", b"/lead", b"d/"} <= set(held)
    else:
        assert {b"new\nline", b"bad\xffname"} <= set(held)
    for number, key in enumerate(held):
        root.put(key, b"%d:" % number + key)
    assert_lists_as_model(root.store, set(held), limit)
    for number, key in enumerate(held):
        entry = file_of(root.store, key)
        assert entry.name == key
        assert read_all(root.store, key, 0, 10_000, entry.fingerprint) == b"%d:" % number + key


def test_status_and_listing_give_one_fingerprint_and_size(world: World) -> None:
    root = world.root()
    for key, data in ((b"d/one", b"1"), (b"d/two", b"22"), (b"top", b"")):
        root.put(key, data)
    for directory in (b"", b"d"):
        for entry in root.store.list(directory).entries:
            key = directory + b"/" + entry.name if directory else entry.name
            file, folder = root.store.status(key)
            if entry.is_directory:
                assert (file, folder and folder.is_directory) == (None, True)
            else:
                assert file is not None
                assert (file.fingerprint, file.size) == (entry.fingerprint, entry.size)
                assert entry.fingerprint[:2] in ("e:", "t:")
                assert entry.mtime_ns > 1_600_000_000 * 10**9


def test_status_tells_a_name_from_its_neighbours(world: World) -> None:
    root = world.root()
    for number in range(20):
        root.put(b"a%c%d" % (b" !+,-."[number % 6], number), b"x")
    root.put(b"a/inside", b"y")
    assert root.store.status(b"a")[0] is None
    folder = root.store.status(b"a")[1]
    assert folder is not None
    assert folder.name == b"a"
    assert root.store.status(b"a+") == (None, None)
    assert root.store.status(b"a/insid") == (None, None)
    assert root.store.status(b"nothing") == (None, None)
    top_file, top = root.store.status(b"")
    assert top_file is None
    assert top is not None
    assert top.is_directory


def test_an_object_and_a_prefix_of_one_name_are_both_shown(world: World) -> None:
    if not world.has_prefixes:
        return  # a directory cannot hold them; that it never claims to is in the listing test
    root = world.root()
    root.put(b"a", b"object")
    root.put(b"a/b", b"inside")
    root.put(b"a-x", b"between")
    assert names(root.store.list(b"")) == [b"a", b"a-x", b"a/"]
    file, folder = root.store.status(b"a")
    assert file is not None
    assert folder is not None


def test_a_directory_marker_makes_a_directory_and_is_no_child(world: World) -> None:
    if not world.has_prefixes:
        return
    root = world.root()
    root.put(b"", b"")  # the marker of the mount's own root
    root.put(b"d/", b"")
    root.put(b"e/", b"")
    root.put(b"e/file", b"1")
    for limit in (1, 2, 1000):
        assert [sorting_name(entry) for entry in whole_listing(root.store, b"", limit)[0]] == [b"d/", b"e/"]
        assert whole_listing(root.store, b"d", limit) == ([], [])
        assert [entry.name for entry in whole_listing(root.store, b"e", limit)[0]] == [b"file"]
    assert root.store.status(b"d")[1] is not None


def test_an_empty_store_lists_empty_and_passes_its_check(world: World) -> None:
    root = world.root()
    assert not root.store.check()
    page = root.store.list(b"")
    assert (page.entries, page.next, page.odd) == ([], None, [])


def test_a_store_with_objects_passes_its_check(world: World) -> None:
    root = world.root()
    root.put(b"d/empty", b"")
    root.put(b"d/file", b"x")
    assert root.store.check()


def test_a_missing_directory_is_empty_or_not_found(world: World) -> None:
    root = world.root()
    root.put(b"file", b"x")
    for key in (b"missing", b"missing/deeper"):
        try:
            page = root.store.list(key)
        except UfsNotFound:
            continue
        assert (page.entries, page.next, page.odd) == ([], None, [])


def test_listing_goes_on_after_any_position_even_one_that_is_no_name(world: World) -> None:
    root = world.root()
    for key in (b"a", b"b/x", b"b/y", b"c", b"d"):
        root.put(key, b"")
    assert names(root.store.list(b"", after=b"aa")) == [b"b/", b"c", b"d"]
    assert names(root.store.list(b"", after=b"b")) == [b"b/", b"c", b"d"]
    assert names(root.store.list(b"", after=b"b/")) == [b"c", b"d"]
    assert names(root.store.list(b"", after=b"zz")) == []


def test_more_odd_keys_than_a_page_holds_come_in_several_pages(world: World) -> None:
    root = world.root()
    count = 120
    keys = {b"%03d/" % number + b"/x" for number in range(count)} if world.has_prefixes else set()
    for key in keys:
        root.put(b"odd/" + key.replace(b"/", b"", 1).zfill(300), b"")
    if not world.has_prefixes:
        for number in range(count):
            root.put(b"odd/\xff%03d" % number, b"")
    root.put(b"odd/fine", b"")
    entries, odd = whole_listing(root.store, b"odd")
    assert [entry.name for entry in entries] == [b"fine"]
    assert len(odd) == count


MIB = 1 << 20
SIZES = (0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 1, 5 * MIB + 3)


def edges(size: int) -> list[int]:
    near = {0, 1, size // 2, size - 1, size, size + 1, MIB - 1, MIB, MIB + 1, 2 * MIB}
    return sorted(offset for offset in near if 0 <= offset <= size + 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", [b"plain", b"new  and//odd"])
def test_every_range_gives_exactly_its_bytes(world: World, size: int, key: bytes) -> None:
    if not world.holds(key):
        key = b"new  and odd"
    root = world.root()
    data = os.urandom(size)
    root.put(key, data)
    fingerprint = file_of(root.store, key).fingerprint
    points = edges(size)
    for offset, end in [*pairwise(points), (0, size), (0, size + 100), (size // 3, size)]:
        assert read_all(root.store, key, offset, end - offset, fingerprint) == data[offset:end]
    assert read_all(root.store, key, 0, 0, fingerprint) == b""


def test_views_are_read_only(world: World) -> None:
    root = world.root()
    root.put(b"a", b"abc")
    for view in root.store.read(b"a", 0, 3, file_of(root.store, b"a").fingerprint):
        assert isinstance(view, memoryview)
        assert view.readonly


@pytest.mark.parametrize("key", [b"plain", b"odd//key"])
def test_a_changed_object_gives_no_byte_of_the_new_version(world: World, key: bytes) -> None:
    if not world.holds(key):
        key = b"odd key"
    root = world.root()
    root.put(key, b"old old old")
    fingerprint = file_of(root.store, key).fingerprint
    root.put(key, b"new new new")
    for offset in (0, 5, 11, 50):
        with pytest.raises(UfsChanged):
            read_all(root.store, key, offset, 4, fingerprint)
    assert read_all(root.store, key, 0, 3, file_of(root.store, key).fingerprint) == b"new"


@pytest.mark.parametrize("key", [b"plain", b"odd//key"])
def test_a_deleted_object_is_not_found(world: World, key: bytes) -> None:
    if not world.holds(key):
        key = b"odd key"
    root = world.root()
    root.put(key, b"data")
    fingerprint = file_of(root.store, key).fingerprint
    root.delete(key)
    with pytest.raises(UfsNotFound):
        read_all(root.store, key, 0, 4, fingerprint)
    assert root.store.status(key)[0] is None


def test_one_version_reads_the_same_by_many_threads(world: World) -> None:
    from concurrent.futures import ThreadPoolExecutor

    root = world.root()
    data = os.urandom(3 * MIB + 17)
    root.put(b"shared", data)
    fingerprint = file_of(root.store, b"shared").fingerprint
    ranges = [(offset, min(300_000, len(data) - offset)) for offset in range(0, len(data), 300_000)]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda r: read_all(root.store, b"shared", *r, fingerprint), ranges * 2))
    assert b"".join(parts) == data * 2


def test_names_no_path_can_hold_are_never_entries(world: World) -> None:
    root: Root = world.root()
    for key in ODD_KEYS:
        if world.holds(key):
            root.put(b"below/" + key, b"x")
    entries, odd = whole_listing(root.store, b"below")
    assert not any(name_problem(entry.name) for entry in entries)
    assert all(key.startswith(b"below/") for key in odd)
