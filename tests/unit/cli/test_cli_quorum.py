"""What operators are told of the group of masters."""

from monofs.cli.output import exit_code
from monofs.cli.quorum import progress_of, summary
from monofs.model.errors import QuorumRefused
from monofs.rpc.api import QuorumAnswer, QuorumMember


def answer(*heard_s: float, leader: int = 1, me: int = 1) -> QuorumAnswer:
    members = [
        QuorumMember(number, f"m{number}", "a:1", "", True, "", 9, heard, "self" if number == me else "replicate")
        for number, heard in enumerate(heard_s, 1)
    ]
    return QuorumAnswer(me, "leader" if leader == me else "follower", 3, leader, 9, 9, 9, False, members)


def test_what_the_group_bears_counts_those_that_are_lost_already() -> None:
    assert summary(answer(0, 0.1, 0.1)).endswith("; the group bears the loss of 1 of 3 voters")
    assert summary(answer(0, 0.1, 60)).endswith("; m3 not heard; the group bears the loss of 0 more of 3 voters")
    assert summary(answer(0, 0.1, 0.1, -1, 0.1)).endswith(
        "; m4 not heard; the group bears the loss of 1 more of 5 voters"
    )


def test_a_group_without_a_leader_bears_nothing() -> None:
    told = summary(answer(0, -1, -1, leader=0))
    assert "no master leads" in told
    assert "before 2 of the 3 voters run" in told
    assert "bears" not in told


def test_only_a_leader_says_who_is_lost() -> None:
    assert "bears" not in summary(answer(0, -1, -1, leader=2))


def test_who_waits_for_a_learner_reads_how_far_it_is() -> None:
    group = answer(0, 0.1, 0.1)
    group.last_index = 12_009
    assert progress_of(group, "m3") == ("behind", "m3 is 12000 entries behind")
    group.members[2].match = -1
    assert progress_of(group, "m3") == ("behind", "it is not known yet how far m3 is")
    group.members[2].copied = 0.25
    assert progress_of(group, "m3") == ("copied", "m3 gets the whole state: 25%")
    group.members[2].heard_s = 90.0
    assert progress_of(group, "m3")[1].startswith("m3 is not heard for 1 min 30 s: does it run")
    group.members[2].heard_s = -1.0
    assert progress_of(group, "m3")[1].startswith("m3 is not heard: does it run")
    assert progress_of(answer(0, -1, -1, leader=0), "m3") == ("leaderless", "no master leads")


def test_a_change_the_group_refuses_is_no_wrong_usage() -> None:
    assert exit_code(QuorumRefused("too few would remain")) == 4
