"""What policies say of cached pages: quota, priority, time to live; and why pages are gone."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from tiering_rig import PAGE, Rig

from monofs.model.errors import QuotaExceeded, TierFull
from monofs.model.ids import ContentId
from monofs.model.options import Priority
from monofs.tiering.cache import Rule, TierSpec, Why

S = 10**9


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


def test_a_policy_over_its_quota_loses_its_own_pages_first(rig: Rig) -> None:
    rig.cache.set_groups({3: Rule(quota_bytes=2 * PAGE)})
    rig.fill(1)
    for content in (2, 3, 4):
        rig.fill(content, policy=3)
    assert rig.cached() == {1, 3, 4}
    assert rig.cache.group_bytes() == {3: 2 * PAGE}
    rig.check()


def test_pages_of_a_policy_in_use_are_not_evicted_for_its_quota(rig: Rig) -> None:
    rig.cache.set_groups({3: Rule(quota_bytes=2 * PAGE)})
    held, pinned = rig.fill(1, policy=3), rig.fill(2, policy=3)
    rig.cache.hold(held)
    rig.cache.pin([pinned.content])
    with pytest.raises(QuotaExceeded, match="policy 3"):
        rig.fill(3, policy=3)
    assert rig.used() == 2 * PAGE
    rig.cache.release(held)
    rig.fill(4, policy=3)
    assert rig.cached() == {2, 4}
    rig.check()


def test_a_page_larger_than_the_quota_evicts_nothing(rig: Rig) -> None:
    rig.cache.set_groups({3: Rule(quota_bytes=PAGE // 2)})
    rig.fill(1, 1000, policy=3)
    with pytest.raises(QuotaExceeded):
        rig.fill(2, policy=3)
    assert rig.cached() == {1}
    rig.check()


def test_a_quota_counts_the_pages_in_all_directories(make_rig: Callable[..., Rig], tmp_path: object) -> None:
    rig = make_rig(tiers=[TierSpec("D", f"{tmp_path}/a", 4 * PAGE), TierSpec("D", f"{tmp_path}/b", 4 * PAGE)])
    rig.cache.set_groups({3: Rule(quota_bytes=2 * PAGE)})
    for content in range(1, 5):
        rig.fill(content, policy=3)
    assert rig.cached() == {3, 4}
    assert {group.directory.spec.directory[-1] for group in rig.cache} <= {"a", "b"}
    rig.check()


def test_a_quota_that_is_lowered_holds_at_once_and_for_what_was_held_when_it_is_released(rig: Rig) -> None:
    groups = [rig.fill(content, policy=3) for content in (1, 2, 3, 4)]
    rig.cache.hold(groups[3])
    rig.cache.hold(groups[0])
    rig.cache.set_groups({3: Rule(quota_bytes=PAGE)})
    assert rig.cached() == {1, 4}
    rig.check(disk=False)
    rig.cache.release(groups[0])
    assert rig.cached() == {4}
    rig.check(disk=False)
    rig.cache.release(groups[3])
    rig.check()


def test_quota_victims_are_not_evicted_when_the_directory_has_no_room_anyway(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=2 * PAGE)
    rig.cache.set_groups({3: Rule(quota_bytes=PAGE)})
    rig.fill(1, PAGE // 2, policy=3)
    pinned = rig.fill(2)
    rig.cache.pin([pinned.content])
    held = rig.fill(4, PAGE // 2)
    rig.cache.hold(held)
    with pytest.raises(TierFull):
        rig.fill(3, policy=3)
    assert rig.cached() == {1, 2, 4}
    rig.cache.release(held)
    rig.check()


def test_lower_priorities_go_before_higher_ones_however_lately_read(rig: Rig) -> None:
    rig.cache.set_groups({1: Rule(priority=Priority.HIGH), 2: Rule(priority=Priority.LOW)})
    rig.fill(10, policy=1)
    rig.fill(20)
    rig.fill(30, policy=2)
    rig.fill(31, policy=2)
    rig.cache.touch(rig.cache.groups(ContentId(30))[0])
    order = [group.content for group in rig.cache.directories[0].policy]
    assert order == [31, 30, 20, 10]
    for content in range(40, 47):
        rig.fill(content)
    assert 10 in rig.cached()
    assert not {20, 30, 31} & rig.cached()
    rig.check()


def test_policies_of_one_priority_share_one_order(rig: Rig) -> None:
    for content in range(1, 7):
        rig.fill(content, policy=content % 3)
    rig.cache.touch(rig.cache.groups(ContentId(1))[0])
    assert [group.content for group in rig.cache.directories[0].policy] == [2, 3, 4, 5, 6, 1]
    rig.check()


def test_a_priority_that_changes_holds_at_once(rig: Rig) -> None:
    rig.fill(1, policy=1)
    rig.fill(2, policy=2)
    rig.cache.set_groups({1: Rule(priority=Priority.HIGH)})
    assert [group.content for group in rig.cache.directories[0].policy] == [2, 1]
    rig.cache.set_groups({1: Rule(priority=Priority.LOW)})
    assert [group.content for group in rig.cache.directories[0].policy] == [1, 2]
    rig.check()


def test_a_new_group_goes_where_the_lowest_priority_is_evicted(make_rig: Callable[..., Rig], tmp_path: object) -> None:
    rig = make_rig(tiers=[TierSpec("D", f"{tmp_path}/a", PAGE), TierSpec("D", f"{tmp_path}/b", PAGE)])
    rig.cache.set_groups({1: Rule(priority=Priority.HIGH)})
    rig.fill(1, policy=1)
    rig.fill(2)
    rig.fill(3)
    assert rig.cached() == {1, 3}


def test_a_content_is_charged_to_the_policy_shown_last_and_restarts_keep_that(rig: Rig) -> None:
    rig.fill(1, policy=1)
    rig.cache.pin([ContentId(1)])
    rig.fill(1, 3 * PAGE, number=1, mask=5, policy=1)
    rig.cache.regroup(ContentId(1), 5)
    assert rig.cache.group_bytes() == {2: 3 * PAGE}
    rig.check()
    rig.reopen()
    assert rig.cache.group_bytes() == {2: 3 * PAGE}
    assert all(group.pinned for group in rig.cache)
    rig.cache.regroup(ContentId(1), 0)
    assert rig.cache.group_bytes() == {}
    rig.check()


def test_a_content_that_comes_to_a_full_policy_makes_room_there(rig: Rig) -> None:
    rig.cache.set_groups({1: Rule(quota_bytes=2 * PAGE)})
    for content in (1, 2):
        rig.fill(content, policy=1)
    rig.fill(3)
    rig.cache.regroup(ContentId(3), 2)
    assert rig.cached() == {2, 3}
    rig.check()


def test_pages_leave_when_their_time_is_over_unless_in_use(rig: Rig) -> None:
    rig.cache.set_groups({1: Rule(ttl_s=60)})
    rig.clock = itertools.repeat(100 * S)  # type: ignore[assignment]
    rig.cache._clock_ns = lambda: 100 * S
    old, pinned, held = (rig.fill(content, policy=1) for content in (1, 2, 3))
    rig.fill(4)
    rig.cache.pin([pinned.content])
    rig.cache.hold(held)
    rig.cache._clock_ns = lambda: 159 * S
    assert rig.cache.expire(100) == 0
    rig.cache._clock_ns = lambda: 160 * S
    assert rig.cache.expire(100) == 1
    assert not old.alive
    assert rig.cached() == {2, 3, 4}
    rig.cache.release(held)
    assert rig.cache.expire(100) == 0, "what was in use is looked at again a little later"
    rig.cache._clock_ns = lambda: 171 * S
    assert rig.cache.expire(100) == 1
    assert rig.cached() == {2, 4}
    assert rig.cache.gone[ContentId(1), 0] == (Why.EXPIRED, 160 * S)
    rig.check()


def test_a_time_to_live_set_later_holds_for_what_is_cached(rig: Rig) -> None:
    rig.cache._clock_ns = lambda: 100 * S
    for content in range(1, 6):
        rig.fill(content, policy=1)
    rig.cache._clock_ns = lambda: 1000 * S
    rig.cache.set_groups({1: Rule(ttl_s=60)})
    assert rig.cache.expire(2) == 2
    rig.cache.set_groups({})
    assert rig.cache.expire(2) == 0
    rig.cache.set_groups({1: Rule(ttl_s=60)})
    assert (rig.cache.expire(2), rig.cache.expire(2)) == (2, 1)
    assert not rig.cached()
    rig.check()


def test_the_cache_remembers_why_pages_are_gone(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(quota=2 * PAGE)
    rig.fill(1)
    rig.fill(2)
    rig.fill(3)
    rig.cache.free([ContentId(2)], force=False)
    rig.cache.drop(ContentId(3))
    bad = rig.fill(4)
    rig.cache.drop_pages(bad, 1)
    rig.fill(5)
    rig.cache.drop_clean()
    why = {content: why for (content, _), (why, _) in rig.cache.gone.items()}
    assert why == {1: Why.EVICTED, 2: Why.FREED, 3: Why.RETIRED, 4: Why.DAMAGED, 5: Why.DROPPED}


def test_only_the_groups_that_left_last_are_remembered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monofs.tiering.holdings.GONE_KEPT", 3)
    for content in range(1, 6):
        rig.fill(content, 100)
        rig.cache.drop(ContentId(content))
    assert [content for content, _ in rig.cache.gone] == [3, 4, 5]
