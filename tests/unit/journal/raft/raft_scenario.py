"""Runs a scenario: blocks of commands, `----`, and the output they must have.

    cluster 3 [lease] [setting=value ...]   nodes 1..3, all voters, started; `voters=1,2` and `learners=3` to differ
    node 4 voters=1,2,3 log=1,1,4 term=4 vote=2 applied=1   one node with such a disk, started (log: the terms of its entries)
    tick 1,2|all [times]       (node n waits n ticks longer than the shortest patience of 12)
    elect 1     (ticks it until it asks for votes)        lead 1      (the others lose patience, it is elected, all is settled, not shown)
    propose 1 a b c            read 1 TOKEN        transfer 1 2       change 1 voters=1,2,3 learners=4
    deliver [1->2] [Kind] [first] [times]   those in flight now, one after the other, shown        settle   all, until nothing is in flight, not shown
    drop/dup/reverse/net [1->2] [Kind]      the same choice, lost / doubled / put in reverse order / shown
    cut 1 2|1->2    isolate 1    heal    crash 1    restart 1
    disk 1 slow|quick    flush 1    install 1 slow|quick    installed 1    compact 1 INDEX    sleep 1 MILLISECONDS (its clock, not its ticks)
    step Kind sender target term ...        a hostile message (fields as Python)
    snapshot_again 1 2 INDEX    (1 sends 2 a snapshot, wanted or not)
    status [1,2]    log [1,2]    progress 1

`silently` before a command hides what it says. The world checks every invariant after every event.
"""

from __future__ import annotations

import ast
import re
from random import Random
from typing import Any

from raft_world import World, show_entry, show_membership, show_position

from monofs.journal.raft import messages as vocabulary
from monofs.journal.raft.messages import (
    EntryType,
    HardState,
    LogEntry,
    Membership,
    NodeId,
    Position,
    Refused,
    Role,
    Settings,
)

MESSAGES_AT_MOST = 10_000


class Patient(Random):
    """Node n waits for n ticks more than the shortest patience."""

    def __new__(cls, node: int, seed: int) -> Patient:
        return super().__new__(cls, seed)

    def __init__(self, node: int, seed: int) -> None:
        super().__init__(seed)
        self.node = node

    def randrange(self, low: int, high: int) -> int:  # type: ignore[override]
        return min(low + self.node, high - 1)


class ScenarioWorld(World):
    def random_of(self, node: NodeId) -> Random:
        return Patient(node, self.random.getrandbits(64))


class Scenario:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.world = ScenarioWorld(random=Random(7), settings=Settings(), say=self.lines.append)

    def run(self, command: str) -> None:
        words = command.split()
        if words[0] == "silently":
            count = len(self.lines)
            self.run(" ".join(words[1:]))
            del self.lines[count:]
            return
        try:
            getattr(self, "do_" + words[0])(*words[1:])
        except Refused as error:
            self.lines.append(f"refused: {error.reason}, leader {error.leader or '-'}")

    # --- nodes ----------------------------------------------------------------------------------------------------------------------

    def do_cluster(self, count: str, *options: str) -> None:
        voters, learners, settings = tuple(range(1, int(count) + 1)), (), {}
        for option in options:
            name, _, value = option.partition("=")
            if name == "voters":
                voters = ids(value)
            elif name == "learners":
                learners = ids(value)
            elif name == "lease":
                settings["lease"] = True
            else:
                settings[name] = ast.literal_eval(value)
        self.world.settings = Settings(**settings)
        membership = Membership(voters, (), learners)
        for node in range(1, int(count) + 1):
            self.world.add(node, membership)
        for node in range(1, int(count) + 1):
            self.world.start(node)

    def do_node(self, node: str, *options: str) -> None:
        given = dict(option.split("=") for option in options)
        membership = Membership(ids(given.get("voters", "")), (), ids(given.get("learners", "")))
        disk = self.world.add(int(node), membership).disk
        terms = ids(given.get("log", ""))
        disk.entries = [
            LogEntry(term, index, EntryType.NORMAL, f"{index}of{term}", 10) for index, term in enumerate(terms, 1)
        ]
        disk.state = [(entry.term, entry.data) for entry in disk.entries[: int(given.get("applied", "0"))]]
        term = int(given.get("term", max(terms, default=0)))
        disk.hard_state = HardState(term, NodeId(int(given.get("vote", "0"))))
        self.world.start(int(node))

    def do_tick(self, nodes: str, times: str = "1") -> None:
        for _ in range(int(times)):
            for node in self.nodes(nodes):
                self.world.tick(node)

    def do_elect(self, node: str) -> None:
        raft = self.world.raft(int(node))
        for _ in range(2 * self.world.settings.election_ticks):
            self.world.tick(int(node))
            if raft.role is not Role.FOLLOWER and raft.elapsed == 0:
                return

    def do_lead(self, node: str) -> None:
        others = [member.id for member in self.world.alive() if member.id != int(node)]
        self.run(f"silently tick {','.join(map(str, others))} 12")
        for _ in range(3):  # a first try may only teach it the term
            if self.world.raft(int(node)).role is not Role.LEADER:
                self.run(f"silently elect {node}")
                self.run("silently settle")
        assert self.world.raft(int(node)).role is Role.LEADER

    def do_crash(self, node: str) -> None:
        self.world.crash(int(node))

    def do_restart(self, node: str) -> None:
        self.world.crash(int(node))
        self.world.start(int(node), restarted=True)

    def do_sleep(self, node: str, milliseconds: str) -> None:
        self.world.members[NodeId(int(node))].now_ns += int(milliseconds) * 1_000_000

    # --- what is asked of a node ----------------------------------------------------------------------------------------------------

    def do_propose(self, node: str, *data: str) -> None:
        self.world.act(int(node), lambda raft: raft.propose([(word, 10) for word in data]))

    def do_read(self, node: str, token: str) -> None:
        self.world.read(int(node), token)

    def do_transfer(self, node: str, target: str) -> None:
        self.world.act(int(node), lambda raft: raft.transfer(NodeId(int(target))))

    def do_change(self, node: str, *options: str) -> None:
        given = dict(option.split("=") for option in options)
        target = Membership(ids(given["voters"]), (), ids(given.get("learners", "")))
        self.world.act(int(node), lambda raft: raft.propose_membership(target))

    def do_compact(self, node: str, index: str) -> None:
        self.world.compact(int(node), int(index))

    def do_unreachable(self, node: str, peer: str) -> None:
        self.world.act(int(node), lambda raft: raft.unreachable(NodeId(int(peer))))

    # --- the network ----------------------------------------------------------------------------------------------------------------

    def take(self, words: tuple[str, ...]) -> list[Any]:
        chosen = [message for message in self.world.net if is_chosen(message, words)]
        if "first" in words:
            del chosen[1:]
        self.world.net[:] = [message for message in self.world.net if not any(message is other for other in chosen)]
        return chosen

    def do_deliver(self, *words: str) -> None:
        times = int(words[-1]) if words and words[-1].isdigit() else 1
        for _ in range(times):
            for message in self.take(words):
                self.lines.append(show_message(message))
                self.world.deliver(message)

    def do_settle(self) -> None:
        for _ in range(MESSAGES_AT_MOST):
            if not self.world.net:
                return
            self.world.deliver(self.world.net.pop(0))
        raise AssertionError("the messages do not end")

    def do_drop(self, *words: str) -> None:
        for message in self.take(words):
            self.lines.append("lost: " + show_message(message))
            self.world.lose(message)

    def do_dup(self, *words: str) -> None:
        self.world.net.extend([message for message in self.world.net if is_chosen(message, words)])

    def do_reverse(self, *words: str) -> None:
        self.world.net.extend(reversed(self.take(words)))

    def do_net(self, *words: str) -> None:
        self.lines.extend(show_message(message) for message in self.world.net if is_chosen(message, words))

    def do_step(self, kind: str, *fields: str) -> None:
        values = [ast.literal_eval(value) for value in fields]
        values = [Position(*value) if isinstance(value, tuple) and len(value) == 2 else value for value in values]
        if kind == "Append":
            values[4] = tuple(LogEntry(*entry[:2], EntryType(entry[2]), *entry[3:]) for entry in values[4])
        if kind == "InstallSnapshot":
            values[4] = Membership(*values[4])
        message = getattr(vocabulary, kind)(*values)
        raft = self.world.raft(message.target)
        before = raft.ignored
        self.world.act(message.target, lambda raft: raft.step(message, raft.now_ns))
        if raft.ignored > before:
            self.lines.append("ignored")

    def do_cut(self, first: str, second: str = "") -> None:
        if "->" in first:
            self.world.cuts.add(pair(first))
        else:
            self.world.cuts |= {(int(first), int(second)), (int(second), int(first))}  # type: ignore[arg-type]

    def do_isolate(self, node: str) -> None:
        for other in self.world.members:
            self.do_cut(node, str(other))

    def do_heal(self) -> None:
        self.world.cuts.clear()

    # --- disks ----------------------------------------------------------------------------------------------------------------------

    def do_disk(self, node: str, speed: str) -> None:
        member = self.world.members[NodeId(int(node))]
        member.is_slow = speed == "slow"
        if not member.is_slow and member.writing:
            self.world.flush(int(node))

    def do_flush(self, node: str) -> None:
        self.world.flush(int(node))

    def do_install(self, node: str, speed: str) -> None:
        self.world.members[NodeId(int(node))].is_installing_slowly = speed == "slow"

    def do_installed(self, node: str) -> None:
        self.world.finish_install(int(node))

    def do_snapshot_again(self, node: str, peer: str, index: str) -> None:
        member = self.world.members[NodeId(int(node))]
        position = Position(int(index), member.disk.state[int(index) - 1][0])
        self.world.snapshots[position] = member.disk.state[: int(index)]
        self.world.net.append(self.world.raft(int(node)).install_message(NodeId(int(peer)), position))

    # --- looking --------------------------------------------------------------------------------------------------------------------

    def do_status(self, nodes: str = "all") -> None:
        for node in self.nodes(nodes):
            s = self.world.raft(node).status()
            self.lines.append(
                f"{node}: {s.role.value} term {s.term} vote {s.vote or '-'} leader {s.leader or '-'} commit {s.commit}"
                f" last {s.last} persisted {s.persisted} members {show_membership(s.membership)}"
            )

    def do_log(self, nodes: str = "all") -> None:
        for node in self.nodes(nodes):
            log = self.world.raft(node).log
            entries = log.between(max(log.first_in_window, log.floor + 1), log.last_index)
            start = f"[{show_position(Position(log.floor, log.term(log.floor) or 0))}] " if log.floor else ""
            self.lines.append(f"{node}: {start}{' '.join(map(show_entry, entries))}")

    def do_progress(self, node: str) -> None:
        for peer, p in self.world.raft(int(node)).status().peers.items():
            self.lines.append(f"{peer}: {p.state} match {p.match} next {p.next} unanswered {p.inflight_appends}")

    def nodes(self, words: str) -> list[int]:
        return [member.id for member in self.world.alive()] if words == "all" else list(ids(words))


def ids(text: str) -> tuple[Any, ...]:
    return tuple(int(word) for word in text.split(",") if word)


def pair(text: str) -> tuple[NodeId, NodeId]:
    first, _, second = text.partition("->")
    return NodeId(int(first)), NodeId(int(second))


def is_chosen(message: Any, words: tuple[str, ...]) -> bool:
    for word in words:
        if "->" in word:
            first, _, second = word.partition("->")
            if (first and int(first) != message.sender) or (second and int(second) != message.target):
                return False
        elif word != "first" and not word.isdigit() and word != type(message).__name__:
            return False
    return True


def show_message(message: Any) -> str:
    parts = []
    for name, value in zip(message._fields[3:], message[3:], strict=True):
        if isinstance(value, bool):
            parts += [name if value else f"not {name}"] if value or name in ("granted", "accepted") else []
        elif isinstance(value, Position):
            parts += [f"{name} {show_position(value)}"] if value != (0, 0) or name != "conflict" else []
        elif isinstance(value, Membership):
            parts.append(show_membership(value))
        elif isinstance(value, tuple):
            parts.append(f"[{' '.join(map(show_entry, value))}]")
        elif name != "context":
            parts.append(f"{name} {value}")
    kind = re.sub(r"(?<!^)(?=[A-Z])", " ", type(message).__name__)
    return f"{message.sender}->{message.target} {kind} term {message.term} {' '.join(parts)}".rstrip()


def run_file(text: str) -> str:
    """The scenario with the output it has now."""
    scenario = Scenario()
    result: list[str] = []
    blocks = re.split(r"\n{2,}", text.strip())
    for block in blocks:
        commands = block.split("\n----", maxsplit=1)[0].split("\n")
        result.extend(commands)
        steps = [line for line in commands if line and not line.startswith("#")]
        for step in steps:
            try:
                scenario.run(step)
            except BaseException as error:
                error.add_note("\n".join([*result, f"at {step!r}:", *scenario.lines]))
                raise
        if steps:
            result.append("----")
            result.extend(scenario.lines)
            scenario.lines.clear()
        result.append("")
    return "\n".join(result)
