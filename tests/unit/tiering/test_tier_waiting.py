"""Who writes a page waits for no unlink, as long as the disk has room and not too much waits to be unlinked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tiering_rig import PAGE, Rig

from monofs.tiering.cache import Group

PATIENCE_S = 20.0


@contextmanager
def slow_disk(rig: Rig) -> Iterator[None]:
    """The thread that unlinks hangs in its disk."""
    goes_on = threading.Event()
    rig.cache.directories[0].keeper.submit(lambda: goes_on.wait(2 * PATIENCE_S))
    try:
        yield
    finally:
        goes_on.set()
        rig.pump()


def write_later(rig: Rig, group: Group, mask: int) -> tuple[threading.Thread, list[tuple[int, int]]]:
    """A fetch's thread; what it wrote."""
    wrote: list[tuple[int, int]] = []
    thread = threading.Thread(target=lambda: wrote.extend(rig.write(group, mask)), daemon=True)
    thread.start()
    return thread, wrote


def evict_for(rig: Rig, content: int, pages: int) -> Group:
    """Room for a group, made of others."""
    group = rig.admit(content, pages * PAGE)
    rig.cache.reserve(group, group.pages)
    return group


def test_a_page_is_written_while_what_made_room_for_it_is_unlinked(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=32 * PAGE)
    for content in range(1, 33):
        rig.fill(content)
    with slow_disk(rig):
        group = evict_for(rig, 99, 2)
        assert rig.used() == 32 * PAGE
        thread, wrote = write_later(rig, group, 0b11)
        thread.join(PATIENCE_S)
        assert len(wrote) == 2, "the write waited for the disk to unlink"
        rig.cache.commit(group, wrote)
    rig.check()


def test_files_exceed_the_quota_by_a_sixteenth_and_no_more(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=32 * PAGE)
    for content in range(1, 33):
        rig.fill(content)
    with slow_disk(rig):
        group = evict_for(rig, 99, 3)
        thread, wrote = write_later(rig, group, 0b111)
        thread.join(0.2)
        assert thread.is_alive()
        assert not wrote
    thread.join(PATIENCE_S)
    rig.cache.commit(group, wrote)
    assert len(rig.files()) == 30
    rig.check()


def test_on_a_full_file_system_a_page_waits_for_its_room(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=32 * PAGE)
    for content in range(1, 33):
        rig.fill(content)
    directory = rig.cache.directories[0]
    with slow_disk(rig):
        directory._seen = (0, directory._committed, directory._removed)  # as the last look at it may say
        group = evict_for(rig, 99, 1)
        thread, wrote = write_later(rig, group, 1)
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(PATIENCE_S)
    assert len(wrote) == 1
    rig.cache.commit(group, wrote)
    rig.check()


@pytest.mark.parametrize("watermark", [0.75])
def test_ahead_of_need_pages_find_room_that_nobody_has_to_make(make_rig: Callable[..., Rig], watermark: float) -> None:
    """What `tend` took away is gone from the books at once, whenever the disk gets to it."""
    rig = make_rig(quota=32 * PAGE, watermark=watermark)
    for content in range(1, 25):
        rig.fill(content)
    with slow_disk(rig):
        rig.fill(25)
        rig.cache.tend()
        before = len(list(rig.cache))
        group = rig.admit(26)
        rig.cache.reserve(group, 1)
        assert len(list(rig.cache)) == before + 1, "a read evicted something"
        thread, wrote = write_later(rig, group, 1)
        thread.join(PATIENCE_S)
        assert wrote
        rig.cache.commit(group, wrote)
    rig.check()
