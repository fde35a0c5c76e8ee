"""Flat listings read as directories: every page made of a stretch of keys is the page a listing with a delimiter would give."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monofs.model.paths import name_problem
from monofs.ufs.base import UfsEntry, UfsPage
from monofs.ufs.flat import ODD_MAX, Stretch, position_of

LAST = "\U0010ffff".encode()
letters = st.sampled_from([b"a", b"b", b"-", b".", b"0", b"/", "é".encode(), LAST])
keys_of = st.sets(st.lists(letters, min_size=1, max_size=6).map(b"".join).filter(lambda key: key != b"/"), max_size=30)


def entry(key: bytes) -> UfsEntry:
    return UfsEntry(key, key.endswith(b"/"), len(key), 5, f"e:{key.hex()}")


def scan(keys: set[bytes], after: bytes, limit: int) -> Stretch:
    left = sorted(key for key in keys if key > after)
    return Stretch(after, [entry(key) for key in left[:limit]], cut=len(left) > limit)


def names(keys: set[bytes], directory: bytes) -> list[bytes]:
    """What a directory holds, by the definition: directories end in ``/``."""
    below = directory + b"/" if directory else b""
    rests = [key[len(below) :] for key in keys if key.startswith(below) and key != below]
    return sorted({head + slash for head, slash, _ in (rest.partition(b"/") for rest in rests)})


def told(page: UfsPage, directory: bytes) -> list[bytes]:
    below = directory + b"/" if directory else b""
    shown = [each.name + b"/" if each.is_directory else each.name for each in page.entries]
    assert shown == sorted(shown)
    assert not any(name_problem(each.name) for each in page.entries)
    return sorted([*shown, *(key.removeprefix(below) for key in page.odd)])


def directories(keys: set[bytes]) -> set[bytes]:
    return {key[:at] for key in keys for at in range(1, len(key)) if key[at : at + 1] == b"/"} | {b"", b"absent"}


@given(keys=keys_of, start=st.lists(letters, max_size=4).map(b"".join), limit=st.integers(1, 40))
def test_a_stretch_claims_of_a_directory_what_is_there_and_nothing_beyond_its_end(
    keys: set[bytes], start: bytes, limit: int
) -> None:
    stretch = scan(keys, start, limit)
    for directory in directories(keys):
        held = names(keys, directory)
        for after in [b"", *held]:
            page = stretch.page(directory, after)
            if page is None:
                continue
            expected = [name for name in held if name > after and (page.next is None or name <= page.next)]
            assert told(page, directory) == expected
            assert page.next is None or page.next > after
            for each in page.entries:
                full = directory + b"/" + each.name if directory else each.name
                if not each.is_directory:
                    assert (each.size, each.fingerprint) == (len(full), entry(full).fingerprint)
                else:
                    marker = entry(full + b"/")
                    told_of = (marker.size, marker.fingerprint) if full + b"/" in keys else (0, "")
                    assert (each.size, each.fingerprint) == told_of
            if directory and not after:
                own = directory + b"/"
                assert page.marker == ((5, entry(own).fingerprint, entry(own).size) if own in keys else (0, "", 0))
            else:
                assert page.marker is None


@given(keys=keys_of)
def test_a_stretch_of_all_keys_tells_of_all_directories_whole(keys: set[bytes]) -> None:
    stretch = scan(keys, b"", 1000)
    for directory in directories(keys):
        page = stretch.page(directory, b"")
        assert page is not None
        assert page.next is None
        assert told(page, directory) == names(keys, directory)


class Walk:
    """A walk, depth first, that remembers the last stretch alone and asks for the next one where that tells nothing."""

    def __init__(self, keys: set[bytes], limit: int) -> None:
        self.keys, self.limit, self.scans = keys, limit, 0
        self.stretch = Stretch(b"\xff", [], cut=False)

    def pages(self, directory: bytes) -> Iterator[UfsPage]:
        after: bytes | None = b""
        while after is not None:
            page = self.stretch.page(directory, after)
            if page is None:
                self.scans += 1
                self.stretch = scan(self.keys, position_of(directory, after), self.limit)
                page = self.stretch.page(directory, after)
            assert page is not None
            yield page
            after = page.next

    def below(self, directory: bytes) -> Iterator[bytes]:
        below = directory + b"/" if directory else b""
        for page in self.pages(directory):
            if page.marker is not None and page.marker[1]:
                yield below
            for each in page.entries:
                if each.is_directory:
                    yield from self.below(below + each.name)
                else:
                    yield below + each.name


@given(keys=keys_of, limit=st.integers(2, 10))
def test_a_walk_meets_every_key_a_path_can_have_once_and_in_order(keys: set[bytes], limit: int) -> None:
    keys = {key for key in keys if not any(part.startswith(LAST) for part in key.split(b"/"))}
    walk = Walk(keys, limit)
    reachable = [key for key in sorted(keys) if not any(map(name_problem, key.removesuffix(b"/").split(b"/")))]
    assert list(walk.below(b"")) == reachable


def test_below_a_name_that_begins_with_the_last_character_a_stretch_may_tell_nothing() -> None:
    """A stretch begins behind all other names below a directory that is passed: whoever asks lists the directory itself then."""
    keys = {b"p/" + LAST + b"%d" % number for number in range(3)} | {b"q"}
    assert scan(keys, position_of(b"", b"p/"), 2).page(b"", b"p/") is None


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60), limit=st.integers(5, 50))
def test_a_walk_of_small_directories_costs_a_request_for_as_many_keys_as_one_brings(
    sizes: list[int], limit: int
) -> None:
    keys = {b"d%03d/f%d" % (at, number) for at, size in enumerate(sizes) for number in range(size)}
    walk = Walk(keys, limit)
    assert list(walk.below(b"")) == sorted(keys)
    assert walk.scans <= -(-len(keys) // limit)


def test_names_no_path_can_have_are_told_as_many_at_a_time_as_a_listing_may() -> None:
    keys = {b"d/" + bytes([at, 0x80]) + b"/x" for at in range(0x30, 0x30 + 70)} | {b"d/%03d\0" % at for at in range(70)}
    stretch = scan(keys, b"", 1000)
    first = stretch.page(b"d", b"")
    assert first is not None
    assert first.next is not None
    assert len(first.odd) == ODD_MAX
    second = stretch.page(b"d", first.next)
    assert second is not None
    assert second.next is None
    assert told(first, b"d") + told(second, b"d") == names(keys, b"d")


@pytest.mark.parametrize("after", [b"", b"m", b"m/"])
def test_a_stretch_that_begins_where_a_page_is_asked_for_tells_something_of_it(after: bytes) -> None:
    keys = {b"d/", b"d/a", b"d/m", b"d/m/x", b"d/z", b"d.x", b"e"}
    assert scan(keys, position_of(b"d", after), 3).page(b"d", after) is not None
