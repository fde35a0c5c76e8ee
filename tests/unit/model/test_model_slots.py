"""The slot table: who serves a slot, and that deltas lead to the same table everywhere or are refused."""

from __future__ import annotations

import zlib
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monofs.model.block import SLOTS
from monofs.model.errors import ConditionFailed, InvalidArgument
from monofs.model.slots import DELTA_BYTES_MAX, EMPTY, SlotDelta, SlotTable, pack_delta, table_of, unpack_delta


def table(epoch: int, replicas: int, changed: dict[int, int] | None = None) -> SlotTable:
    """Slot s lists s % 7 + 1, s % 7 + 2, …; ``changed`` gives other owners."""
    rows = array("H", [slot % 7 + 1 + nth for slot in range(SLOTS) for nth in range(replicas)])
    for slot, worker in (changed or {}).items():
        rows[slot * replicas] = worker
    return SlotTable(epoch, replicas, rows)


changes = st.dictionaries(st.integers(0, SLOTS - 1), st.integers(20, 65_535), max_size=50)


@given(changes, st.integers(1, 3))
def test_a_delta_leads_to_the_same_table_and_is_small(changed: dict[int, int], replicas: int) -> None:
    before, after = table(5, replicas), table(9, replicas, changed)
    packed = pack_delta(before.delta_to(after))
    assert before.apply(unpack_delta(packed)) == after
    assert len(packed) < 100 + 8 * replicas * len(changed)


@given(changes, st.sampled_from([EMPTY, table(1, 1), table(5, 2)]))
def test_a_whole_table_replaces_any(changed: dict[int, int], before: SlotTable) -> None:
    after = table(9, 2, changed)
    assert before.apply(unpack_delta(pack_delta(after.whole()))) == after
    assert table_of(9, 2, after.rows()) == after


def test_other_replicas_make_a_whole_delta() -> None:
    assert table(1, 1).delta_to(table(2, 2)) == table(2, 2).whole()
    assert EMPTY.delta_to(table(2, 2)) == table(2, 2).whole()
    assert table(3, 2).apply(EMPTY.whole()) == EMPTY


def test_a_delta_to_another_table_is_refused() -> None:
    delta = table(5, 2).delta_to(table(9, 2, {3: 40}))
    with pytest.raises(ConditionFailed, match="epoch 5 met the one of 6"):
        table(6, 2).apply(delta)
    with pytest.raises(ConditionFailed, match="as a whole"):
        table(5, 2, {70: 41}).apply(delta)  # the same epoch, as after a home was restored


@given(st.binary(max_size=64))
def test_damaged_deltas_are_refused(noise: bytes) -> None:
    for packed in (noise, zlib.compress(noise), pack_delta(table(5, 2).whole())[: len(noise)]):
        with pytest.raises(InvalidArgument):
            unpack_delta(packed)
    with pytest.raises(InvalidArgument):
        table(5, 2).apply(SlotDelta(5, 6, 2, b"\0\0", noise + b"\0\0\0\0\0", 0))


def test_a_delta_cannot_unpack_to_more_than_a_table() -> None:
    with pytest.raises(InvalidArgument, match="longer than any"):
        unpack_delta(zlib.compress(bytes(DELTA_BYTES_MAX + 1)))


@given(st.integers(0, SLOTS - 1), st.lists(st.integers(1, 12), unique=True).map(sorted))
def test_a_slot_is_served_by_the_first_of_its_list_that_lives_else_by_one_that_all_agree_on(
    slot: int, live: list[int]
) -> None:
    listed = [slot % 7 + 1, slot % 7 + 2, slot % 7 + 3]
    serving = list(table(5, 3).serving(slot, live))
    alive = [worker for worker in listed if worker in live]
    assert serving == (alive or ([live[slot % len(live)]] if live else []))
    assert list(EMPTY.serving(slot, live)) == ([live[slot % len(live)]] if live else [])


@given(changes, st.integers(1, 3))
def test_the_spans_of_all_owners_are_those_of_each(changed: dict[int, int], replicas: int) -> None:
    changed_table = table(5, replicas, changed)
    spans = changed_table.spans()
    assert {worker: changed_table.span(worker) for worker in list(spans)[:9]} == dict(list(spans.items())[:9])
    assert [end for _, end in spans.values()] == [*(begin for begin, _ in list(spans.values())[1:]), SLOTS]
