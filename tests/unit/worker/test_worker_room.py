"""Room for unfinished writes: bounded, and nobody who may wait is stuck for good, in whatever order things happen."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from monofs.worker.room import HARD_BYTES, Room

MIB = 1 << 20
PART = 4 * MIB
MOST = 8 * MIB


@dataclass
class Writer:
    """A file of some pieces; it sends the next when the last was answered, unless it has fallen asleep."""

    operation: int
    left: int
    asleep: bool = False
    may_send: bool = True
    filled: int = 0
    flying: list[int] = field(default_factory=list)

    def send(self, room: Room) -> None:
        self.may_send = False
        self.left -= 1
        room.take(self.operation, MIB)
        self.filled += MIB
        if self.filled == PART or not self.left:
            room.send(self.filled)
            self.flying.append(self.filled)
            self.filled = 0
        if self.left:
            room.wait(self.operation, self.answered)

    def answered(self) -> None:
        self.may_send = True


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    sleepers=st.sets(st.integers(0, 11)),
    choices=st.lists(st.integers(0, 1000), max_size=400),
)
def test_all_writers_that_go_on_get_through(sizes: list[int], sleepers: set[int], choices: list[int]) -> None:
    room = Room(MOST)
    writers = [Writer(number + 1, size, asleep=number in sleepers and size > 2) for number, size in enumerate(sizes)]
    choices = [*choices, *[0] * 1000]
    for choice in choices:
        acts = [writer.send for writer in writers if writer.may_send and writer.left > (2 if writer.asleep else 0)]
        lands = [writer for writer in writers if writer.flying]
        if not acts and not lands:
            before = room.waiting
            room.tick()
            room.tick()
            if room.waiting == before:
                break
            continue
        which = choice % (len(acts) + len(lands))
        if which < len(acts):
            acts[which](room)
        else:
            writer = lands[which - len(acts)]
            room.sent(writer.operation, writer.flying.pop())
        sleeping = sum(writer.asleep for writer in writers)
        assert room.used <= MOST + PART * (1 + sleeping) + len(writers) * MIB
    for writer in writers:
        assert writer.left <= (2 if writer.asleep else 0), writer
    assert room.used == sum(writer.filled + sum(writer.flying) for writer in writers)


def test_one_who_waits_is_answered_when_its_turn_comes() -> None:
    room, told = Room(2 * MIB), []
    room.take(1, 2 * MIB)
    room.send(2 * MIB)
    for operation in (3, 2, 4):
        room.wait(operation, lambda operation=operation: told.append(operation))  # type: ignore[misc]
    assert not told
    room.sent(1, MIB)
    assert told == [3]
    room.sent(1, MIB)
    assert told == [3, 2]
    room.tick()
    assert told == [3, 2, 4]


def test_when_all_wait_and_nothing_leaves_the_first_write_goes_on() -> None:
    room, told = Room(MIB), []
    for operation in (1, 9, 2):
        room.take(operation, MIB)
    room.send(MIB)
    room.wait(9, lambda: told.append(9))
    room.wait(2, lambda: told.append(2))
    assert not told, "something is on its way"
    room.sent(1, MIB)
    assert told == [2]
    room.take(2, MIB)
    room.wait(2, lambda: told.append(2))
    assert told == [2, 2], "alone, until its part leaves"
    room.tick()
    room.tick()
    assert told == [2, 2, 9], "or sends no more"


def test_far_above_the_bound_those_that_began_last_are_refused() -> None:
    room = Room(MIB)
    room.take(1, MIB)
    room.take(2, HARD_BYTES - MIB)
    assert not room.is_over(2)
    room.take(2, MIB)
    assert room.is_over(2)
    assert room.is_over(3)
    assert not room.is_over(1)
    room.give(1, MIB)
    assert not room.is_over(2)


def test_answers_of_a_write_that_ended_are_not_given() -> None:
    room, told = Room(MIB), []
    room.take(1, MIB)
    room.send(MIB)
    room.wait(2, lambda: told.append(2))
    room.wait(3, lambda: told.append(3))
    room.forget(2)
    room.sent(1, MIB)
    assert told == [3]
