"""What masters say of cache groups, as a worker keeps it: quotas, times to live, pins; and what it tells of pages that are gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from worker_world import MIB, PATIENCE_S, World, make_bytes

from monofs.model.errors import QuotaExceeded
from monofs.model.options import Priority, WriteType
from monofs.rpc.api import CachedAnswer, CachedRequest, GroupSpec, HeartbeatRequest, Method, MountGrant
from monofs.tiering.cache import Why


def set_policies(world: World, *specs: GroupSpec) -> None:
    world.master.groups = list(specs)
    world.master.policies_index += 1
    world.on_beat()


def test_a_file_over_the_quota_of_its_policy_is_read_past_the_cache(world: World) -> None:
    set_policies(world, GroupSpec(3, 2 * MIB, Priority.MEDIUM, 0))
    for counter in (1, 2, 3):
        world.put(make_bytes(counter, 2 * MIB))
    tokens = [world.capability(n, 2 * MIB, f"object-{n}", f"e:{n}", group=6) for n in (1, 2)]
    assert world.read(tokens[0], 0, 2 * MIB) == make_bytes(1, 2 * MIB)
    held = world.run(lambda: world.cache.lookup(world.content(1), 0))
    world.run(lambda: world.cache.hold(held))
    assert world.read(tokens[1], 0, 2 * MIB) == make_bytes(2, 2 * MIB)
    assert (world.present(1), world.present(2)) == (3, 0)
    assert not world.fetch(tokens[1], 0, 3).cached
    world.run(lambda: world.cache.release(held))
    assert world.read(tokens[1], 0, 2 * MIB) == make_bytes(2, 2 * MIB)
    assert (world.present(1), world.present(2)) == (0, 3)


def test_pages_follow_the_policy_of_the_capability_shown_last_and_the_master_hears_their_bytes(world: World) -> None:
    token, data = world.put(make_bytes(1, 3 * MIB))
    world.read(token, 0, len(data))
    world.read(world.capability(1, len(data), "object-1", "e:1", group=8), 0, 100)
    world.on_beat()
    beats = [request for request in world.master.requests if isinstance(request, HeartbeatRequest)]
    assert beats[-1].group_bytes == {4: 3 * MIB}


def test_pages_older_than_their_policy_allows_are_dropped_and_told_of(world: World) -> None:
    _, data = world.put(make_bytes(1, MIB))
    set_policies(world, GroupSpec(4, 0, Priority.MEDIUM, 1))
    world.read(world.capability(1, MIB, "object-1", "e:1", group=8), 0, len(data))
    assert world.present(1) == 1
    world.on_reactor_until(lambda: not world.cache.groups(world.content(1)))
    answer = world.tcp.call(Method.CACHED, CachedRequest([world.content(1)]), CachedAnswer, PATIENCE_S)
    assert not answer.groups
    assert [(gone.content, gone.group, gone.why) for gone in answer.gone] == [(world.content(1), 0, Why.EXPIRED)]
    assert answer.gone[0].at_ns > 0
    assert not world.tcp.call(Method.CACHED, CachedRequest([world.content(2)]), CachedAnswer, PATIENCE_S).gone


def test_a_pinned_policy_pins(world: World) -> None:
    _, data = world.put(make_bytes(1, MIB))
    world.read(world.capability(1, MIB, "object-1", "e:1", group=9), 0, len(data))
    assert world.run(lambda: world.cache.pins) == {world.content(1)}
    assert world.run(world.cache.group_bytes) == {4: MIB}


@pytest.mark.parametrize("write_type", [WriteType.CACHE_THROUGH, WriteType.MUST_CACHE])
def test_a_write_keeps_within_its_policys_quota(
    make_world: Callable[..., World], tmp_path_factory: pytest.TempPathFactory, write_type: str
) -> None:
    store = tmp_path_factory.mktemp("store")
    world = make_world(opens_real_stores=True)
    world.master.mounts, world.master.mounts_index = [MountGrant(1, f"file://{store}", {}, 2)], 2
    set_policies(world, GroupSpec(4, 2 * MIB, Priority.MEDIUM, 0))
    first, second = make_bytes(1, 2 * MIB), make_bytes(2, 3 * MIB)
    world.write(world.write_capability(1, len(first), "a", write_type=write_type, group=9), first)
    token = world.write_capability(2, len(second), "b", write_type=write_type, group=8)
    assert world.run(lambda: world.cache.pins) == {world.content(1)}
    if write_type == WriteType.MUST_CACHE:
        with pytest.raises(QuotaExceeded):
            world.write(token, second)
        assert world.master.abandoned[0].error.code == QuotaExceeded.code
    else:
        world.write(token, second)
        assert (store / "b").read_bytes() == second
    assert (world.present(1), world.present(2)) == (3, 0)
    assert world.run(world.cache.group_bytes) == {4: 2 * MIB}
