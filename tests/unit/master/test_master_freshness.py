"""What was looked at, and when: ranges, absence, bounds; and looks that are shared."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from monofs.master import freshness as fresh
from monofs.master.flights import Flights
from monofs.master.freshness import NEVER, Freshness, Range
from monofs.model.errors import UfsUnreachable
from monofs.model.ids import InodeId

DIRECTORY = InodeId(7)


def test_a_range_speaks_for_names_behind_its_beginning_up_to_its_end() -> None:
    seen = Freshness(10)
    seen.note_range(DIRECTORY, Range(b"b", b"d", 5.0))
    assert [seen.named_at(DIRECTORY, name) for name in (b"a", b"b", b"b/", b"c", b"d", b"d/")] == [
        NEVER,
        NEVER,
        5.0,
        5.0,
        5.0,
        NEVER,
    ]


def test_racy_names_of_a_range_are_not_spoken_for() -> None:
    seen = Freshness(10)
    seen.note_range(DIRECTORY, Range(b"", None, 5.0, frozenset({b"x"})))
    assert seen.named_at(DIRECTORY, b"x") == NEVER
    assert seen.named_at(DIRECTORY, b"y") == 5.0


def test_neighbouring_ranges_join_and_are_as_old_as_the_older() -> None:
    seen = Freshness(10)
    seen.note_range(DIRECTORY, Range(b"", b"m", 5.0))
    assert not seen.completes(DIRECTORY, b"n", None)
    assert seen.completes(DIRECTORY, b"m", None)
    seen.note_range(DIRECTORY, Range(b"m", None, 6.0))
    assert seen.covering(DIRECTORY, b"q", 4.9) == Range(b"", None, 5.0)
    assert seen.covering(DIRECTORY, b"q", 5.0) is None


def test_missing_paths_are_remembered_up_to_the_bound() -> None:
    seen = Freshness(2)
    for name in (b"a", b"b", b"c"):
        seen.note_absent(DIRECTORY, name, 1.0)
    assert [seen.absent_at(DIRECTORY, name) for name in (b"a", b"b", b"c")] == [NEVER, 1.0, 1.0]


def test_a_bound_of_zero_remembers_no_missing_path() -> None:
    seen = Freshness(0)
    seen.note_absent(DIRECTORY, b"a", 1.0)
    assert seen.absent_at(DIRECTORY, b"a") == NEVER


def test_ranges_of_a_directory_are_bounded() -> None:
    seen = Freshness(0)
    for number in range(2 * fresh.RANGES_MAX):
        seen.note_range(DIRECTORY, Range(b"%05d" % (2 * number), b"%05d" % (2 * number + 1), float(number)))
    assert seen.named_at(DIRECTORY, b"00001") == NEVER
    assert seen.named_at(DIRECTORY, b"%05d" % (4 * fresh.RANGES_MAX - 1)) == 2 * fresh.RANGES_MAX - 1


def test_racy_names_are_bounded_in_all_by_forgetting_the_oldest_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "RACY_TOTAL_MAX", 3)
    seen = Freshness(0)
    for number in range(4):
        seen.note_range(InodeId(number), Range(b"", None, 1.0, frozenset({b"x", b"y"})))
    assert [seen.named_at(InodeId(number), b"z") for number in range(4)] == [NEVER, NEVER, NEVER, 1.0]
    seen.note_range(InodeId(3), Range(b"", None, 2.0))
    seen.note_range(InodeId(4), Range(b"", None, 2.0, frozenset({b"x", b"y", b"z"})))
    assert seen.named_at(InodeId(3), b"x") == 2.0
    seen.clear()
    assert seen.counts()["directories"] == 0


names = st.binary(min_size=1, max_size=2)
ranges = st.builds(
    lambda low, high, at: (
        Range(min(low, high), max(low, high), float(at)) if low != high else Range(low, None, float(at))
    ),
    names,
    names,
    st.integers(0, 40),
)


@given(st.lists(ranges, max_size=12), names)
def test_the_last_look_that_spoke_for_a_name_tells_its_age_or_an_older_one_joined_to_it(
    looks: list[Range], name: bytes
) -> None:
    seen = Freshness(0)
    for look in looks:
        seen.note_range(DIRECTORY, look)
    covering = [look.at for look in looks if look.covers(name)]
    at = seen.named_at(DIRECTORY, name)
    if not covering:
        assert at == NEVER
    else:
        assert at <= covering[-1]
        assert at >= min(look.at for look in looks)
    held = seen._listed.get(DIRECTORY, [])
    for left, right in pairwise(held):
        assert left.through is not None
        assert left.through <= right.after


class Sky:
    """Flights whose landing the test decides."""

    def __init__(self) -> None:
        self.now = 0.0
        self.begun: list[Deferred[Any]] = []
        self.flights: Flights[Any] = Flights(lambda: self.now)

    async def fly(self) -> Any:
        landing: Deferred[Any] = Deferred()
        self.begun.append(landing)
        return await landing

    def join(self, since: float) -> list[Any]:
        heard: list[Any] = []
        self.flights.join("key", since, self.fly).addBoth(heard.append)
        return heard


def test_callers_share_a_flight_that_began_late_enough() -> None:
    sky = Sky()
    first, second = sky.join(0.0), sky.join(0.0)
    assert len(sky.begun) == 1
    sky.begun[0].callback("seen")
    assert (first, second) == (["seen"], ["seen"])
    assert len(sky.flights) == 0


def test_a_caller_that_needs_a_later_look_waits_for_the_next_flight_and_shares_that() -> None:
    sky = Sky()
    first = sky.join(0.0)
    sky.now = 1.0
    second, third = sky.join(1.0), sky.join(1.0)
    assert len(sky.begun) == 1
    sky.begun[0].callback("early")
    assert (first, second) == (["early"], [])
    assert len(sky.begun) == 2
    sky.begun[1].callback("late")
    assert (second, third) == (["late"], ["late"])


def test_a_failed_flight_fails_all_who_wait_and_the_next_one_flies() -> None:
    sky = Sky()
    first = sky.join(0.0)
    sky.now = 1.0
    second = sky.join(1.0)
    sky.begun[0].errback(UfsUnreachable("down"))
    with pytest.raises(UfsUnreachable):
        first[0].raiseException()
    sky.begun[1].callback("up")
    assert second == ["up"]
