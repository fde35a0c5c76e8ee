"""What a leader tells of members it does not hear, and when it keeps quiet."""

from hypothesis import given
from hypothesis import strategies as st

from monofs.journal.lookout import QUIET_S, Troubles, margin
from monofs.journal.raft.messages import Membership, NodeId, PeerStatus, Role, Status


def leader_of(voters, outgoing=()):
    peers = {peer: PeerStatus("replicate", 9, 10, 0, 0, 0) for peer in {*voters, *outgoing} - {1}}
    membership = Membership(tuple(voters), tuple(outgoing), (), b"")
    return Status(
        NodeId(1), Role.LEADER, 2, NodeId(1), NodeId(1), 9, 9, 9, 1, 9, 0, 0, NodeId(0), membership, 1, 0, peers
    )


def test_three_voters_bear_one_loss_five_two_and_two_none():
    assert [margin(leader_of(range(1, count + 1)), set()).spare for count in (1, 2, 3, 5)] == [0, 0, 1, 2]
    assert margin(leader_of((1, 2, 3)), {3}) == (3, 2, 2)


def test_while_voters_change_the_weaker_group_counts():
    assert margin(leader_of((1, 2, 3, 4), (1, 2, 3)), {2}).spare == 0
    assert margin(leader_of((1, 2, 3), (1, 4, 5)), {4}).spare == 0


@given(st.lists(st.tuples(st.sampled_from(["", "m2", "m3"]), st.booleans(), st.floats(0.1, 2 * QUIET_S)), max_size=60))
def test_each_trouble_is_told_once_at_most_every_few_minutes_and_its_end_once(steps):
    troubles, now_s = Troubles(), 0.0
    wrong: set[str] = set()
    open_, last = set(), {}
    for key, is_wrong, later_s in steps:
        now_s += later_s
        wrong = wrong | {key} if is_wrong else wrong - {key}
        begun, over = troubles.change(dict.fromkeys(wrong, "silent"), now_s)
        for told in begun:
            assert told in wrong - open_
            assert now_s - last.get(told, -QUIET_S) >= QUIET_S
            last[told] = now_s
        assert set(over) == open_ - wrong
        open_ = open_ - set(over) | set(begun)
        assert all(now_s - last[each] < QUIET_S for each in wrong - open_), "it is told in the end"


def test_another_loss_is_another_trouble():
    troubles = Troubles()
    assert troubles.change({"": "m3"}, 0.0) == ({"": "m3"}, [])
    assert troubles.change({"": "m2, m3"}, 1.0) == ({"": "m2, m3"}, [])
    assert troubles.change({"": "m2, m3"}, 2.0) == ({}, [])
    assert troubles.change({}, 3.0) == ({}, [""])
