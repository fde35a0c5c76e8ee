"""Every order of eviction keeps the same contract, and each has the one virtue it is chosen for."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiering_rig import PAGE

from monofs.model.errors import ConfigError
from monofs.model.ids import ContentId, MountId
from monofs.tiering.eviction import Ranked
from monofs.tiering.group import Group
from monofs.tiering.orders import POLICIES, Ghosts, Order, orders_of
from monofs.tiering.simulate import KINDS, footprint_bytes, generate, replay
from monofs.tiering.sketch import Sketch
from monofs.tiering.trace import Access

every_policy = pytest.mark.parametrize("policy", POLICIES)


def new_group(content: int, *, policy: int = 0, read_ns: int = 0) -> Group:
    return Group(ContentId(content), 0, content, PAGE, cast(Any, None), MountId(1), 2 * policy, 0, read_ns)


def drain(order: Order | Ranked) -> list[int]:
    """Contents in the order they go."""
    gone = []
    while (group := order.victim()) is not None:
        order.removed(group)
        order.evicted(group)
        gone.append(group.content)
    return gone


STEPS = st.lists(
    st.tuples(st.sampled_from(("add", "touch", "touch", "out", "back", "victim", "evict")), st.integers(1, 12)),
    max_size=80,
)


@every_policy
@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_an_order_counts_its_bytes_and_gives_every_group_exactly_once(
    policy: str, steps: list[tuple[str, int]]
) -> None:
    order = orders_of(policy)()
    listed: dict[int, tuple[Group, int]] = {}
    out: dict[int, Group] = {}
    for step, number in steps:
        if step == "add" and number not in listed and number not in out:
            listed[number] = new_group(number), 100 * number
            order.admitted(*listed[number])
        elif step == "touch" and number in listed:
            order.touched(listed[number][0])
        elif step == "out" and number in listed:  # pages are being written, say; it stays in the cache
            out[number] = listed.pop(number)[0]
            order.removed(out[number])
        elif step == "back" and number in out:
            listed[number] = out.pop(number), 200 * number
            order.admitted(*listed[number])
        elif step in ("victim", "evict"):
            group = order.victim()
            assert (group is None) == (not listed)
            assert order.victim() is group, "who goes next stays so until something happens"
            if group is not None and step == "evict":
                order.removed(group)
                order.evicted(group)
                del listed[group.content]
        assert order.bytes == sum(size for _, size in listed.values())
        assert len(order) == len(listed)
        assert sorted(group.content for group in order) == sorted(listed)
    assert sorted(drain(order)) == sorted(listed)
    assert (order.bytes, len(order), order.victim()) == (0, 0, None)


@every_policy
def test_groups_that_were_never_read_again_go_in_the_order_they_came(policy: str) -> None:
    order = orders_of(policy)()
    for content in range(1, 9):
        order.admitted(new_group(content), PAGE)
    expected = list(range(1, 9))
    if policy == "w-tinylfu":  # who comes last has to be better, and is not
        assert sorted(drain(order)) == expected
    else:
        assert drain(order) == expected


@every_policy
@settings(max_examples=30, deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=40),
    ranks=st.tuples(*[st.integers(0, 2)] * 4),
)
def test_lower_ranks_go_first_whatever_the_policy(
    policy: str, groups: list[tuple[int, int, int]], ranks: tuple[int, ...]
) -> None:
    ranked = Ranked(ranks.__getitem__, orders_of(policy))
    rank_of = {}
    for content, (share, read_ns, reads) in enumerate(groups):
        group = new_group(content, policy=share, read_ns=read_ns)
        rank_of[content] = ranks[share]
        ranked.admitted(group, PAGE)
        for _ in range(reads):
            ranked.touched(group)
    assert ranked.bytes == len(groups) * PAGE
    assert [ranks[group.policy] for group in ranked] == sorted(rank_of.values())
    gone = drain(ranked)
    assert sorted(gone) == list(range(len(groups)))
    assert [rank_of[content] for content in gone] == sorted(rank_of.values())
    assert ranked.bytes == 0


def test_an_unknown_policy_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"worker\.eviction: 'mru' is not one of lru, "):
        orders_of("mru")


# ---- what each is chosen for --------------------------------------------------------------------------------------------


def hits(policy: str, contents: list[int], room: int) -> int:
    return replay([Access(0, content, 0, 1) for content in contents], policy, room).hits


def test_lru_keeps_what_was_read_last() -> None:
    order = orders_of("lru")()
    groups = [new_group(content) for content in (1, 2, 3)]
    for group in groups:
        order.admitted(group, PAGE)
    order.touched(groups[0])
    assert drain(order) == [2, 3, 1]


def test_lrfu_keeps_what_was_read_often_though_not_last() -> None:
    order = orders_of("lrfu")()
    often, once = new_group(1), new_group(2)
    order.admitted(often, PAGE)
    for _ in range(5):
        order.touched(often)
    order.admitted(once, PAGE)
    assert drain(order) == [2, 1]


def test_lrfu_forgets_what_was_read_often_long_ago() -> None:
    order = orders_of("lrfu")()
    often, lately = new_group(1), new_group(2)
    order.admitted(often, PAGE)
    for _ in range(5):
        order.touched(often)
    order.admitted(lately, PAGE)
    for _ in range(200):
        order.touched(lately)
    order.admitted(new_group(3), PAGE)
    assert drain(order)[0] == 1


@pytest.mark.parametrize("policy", ["s3-fifo", "sieve", "w-tinylfu"])
def test_a_long_scan_does_not_wash_out_what_is_read_again_and_again(policy: str) -> None:
    hot = list(range(20))
    contents = hot * 5 + list(range(1000, 1400)) + hot
    assert hits("lru", contents, 40) == 80
    assert hits(policy, contents, 40) >= 95


def test_s3_fifo_keeps_at_once_what_comes_back_soon_after_it_went() -> None:
    order = orders_of("s3-fifo")()
    for content in range(20):
        order.admitted(new_group(content), PAGE)
    for content in range(3):
        group = order.victim()
        assert group is not None
        assert group.content == content
        order.removed(group)
        order.evicted(group)
    order.admitted(new_group(0), PAGE)
    assert drain(order)[-1] == 0


def test_ghosts_are_no_more_than_what_is_cached() -> None:
    ghosts = Ghosts()
    ghosts.groups = 100
    for content in range(1000):
        ghosts.add(new_group(content))
    known = [content for content in range(1000) if ghosts.take(new_group(content))]
    assert 50 <= len(known) <= 102
    assert known[-1] == 999


def test_w_tinylfu_lets_in_only_what_is_read_more_often_than_what_would_go() -> None:
    contents = [*range(100), *range(100), *range(200, 1000), *range(100)]
    assert hits("w-tinylfu", contents, 100) >= 195


def test_a_sketch_never_counts_too_little_and_forgets_by_halves() -> None:
    sketch = Sketch()
    sketch.groups = 3000  # more than it has columns: it grows
    for number in range(3000):
        for _ in range(number % 4):
            sketch.add(number)
    assert all(sketch.count(number) >= number % 4 for number in range(3000))
    assert sum(sketch.count(number) != number % 4 for number in range(3000)) < 300
    for _ in range(40_000):
        sketch.add(7)
    assert sketch.count(7) >= 7
    assert sum(sketch.count(number) for number in range(3000)) < 3000


# ---- replaying ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_makes_the_same_trace_every_time(kind: str) -> None:
    options = {"objects": 50, "accesses": 300, "alpha": 0.9}
    trace = generate(kind, seed=3, **options)  # type: ignore[arg-type]
    assert trace == generate(kind, seed=3, **options)  # type: ignore[arg-type]
    assert len(trace) == 300
    assert len({(access.content, access.size) for access in trace}) == len({access.content for access in trace})


@every_policy
def test_a_cache_as_large_as_everything_misses_each_group_once(policy: str) -> None:
    trace = generate("zipf", objects=50, accesses=500, alpha=0.9, seed=1)
    result = replay(trace, policy, footprint_bytes(trace))
    assert result.accesses - result.hits == len({access.content for access in trace})
    assert result.bytes - result.hit_bytes == footprint_bytes(trace)


@every_policy
def test_what_is_larger_than_the_cache_evicts_nothing(policy: str) -> None:
    trace = [Access(0, content, 0, size) for content, size in ((1, 10), (2, 1000), (1, 10))]
    assert replay(trace, policy, 100).hits == 1
