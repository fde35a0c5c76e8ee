"""kill -9 of a process that writes the journal, again and again on one directory: everything acknowledged is there, in order."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monofs.config.schema import JournalConfig
from monofs.journal.face import Entry
from monofs.journal.single import SingleVoter
from monofs.testing.journal import ListMachine, Turns

CYCLES = 120
SEGMENT = 256 << 10

WRITER = """
import os, sys, queue, random
from monofs.config.schema import JournalConfig
from monofs.journal.face import Entry
from monofs.journal.single import SingleVoter
from monofs.testing.journal import Turns

directory, cycle, durable = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(cycle)

class Machine:
    applied_index = durable
    def apply(self, index, term, entry):
        assert index == self.applied_index + 1
        self.applied_index = index
        return index

turns, machine, n = Turns(), Machine(), 0
voter = SingleVoter(directory, machine, JournalConfig(segment_bytes=256 << 10), call_soon=turns.call_soon, on_failure=print)
voter.start()

def propose():
    global n
    n += 1
    body = b"%d.%d." % (cycle, n) + b"x" * dice.choice((0, 10, 300, 9000))
    def done(index):
        os.write(1, b"%d %s\\n" % (index, body.split(b"x")[0]))
        propose()
    voter.propose(Entry(1, 1, body), done)

for _ in range(dice.choice((1, 8, 64))):
    propose()
released = durable
def never():
    global released
    if machine.applied_index > released + 50:
        released = machine.applied_index - 20
        voter.release(released)
    return False
turns.run(never)
"""


def run_until_killed(directory: str, cycle: int, durable: int, dice: random.Random) -> list[tuple[int, bytes]]:
    """Start a writer; kill it after some acknowledgements, or at a moment of its start-up or soon after; returns what it gave."""
    moment_s = dice.choice((None, dice.uniform(0.02, 0.3)))
    life = dice.choice((0, 0, 50, 500, 5000))
    command = [sys.executable, "-c", WRITER, directory, str(cycle), str(durable)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        got = b""
        end = time.monotonic() + (moment_s or 60)
        while moment_s or len(got) <= life:
            if not select.select([process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                assert moment_s, "the writer fell silent"
                break
            more = os.read(process.stdout.fileno(), 4096)
            assert more, process.stderr.read().decode()
            got += more
        process.send_signal(signal.SIGKILL)
        got += process.stdout.read()
    lines = got.splitlines()
    return [(int(index), body) for index, body in (line.split() for line in lines)]


@pytest.mark.system
def test_everything_acknowledged_survives_kill_minus_nine(tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    dice, directory = random.Random(seed), f"{tmp_path}/journal"
    durable, term, known = 0, 0, {}
    for cycle in range(CYCLES):
        acknowledged = run_until_killed(directory, cycle, durable, dice)
        assert [index for index, _ in acknowledged] == sorted({index for index, _ in acknowledged})
        last = acknowledged[-1][0] if acknowledged else durable
        machine, turns = ListMachine(max(durable, last - dice.choice((5, 20)))), Turns()
        start = machine.applied_index
        voter = SingleVoter(
            directory, machine, JournalConfig(segment_bytes=SEGMENT), call_soon=turns.call_soon, on_failure=print
        )
        voter.start()
        assert voter.status()["term"] >= term + 1, "every start raises the term"
        term = voter.status()["term"]
        found = {index: entry.body.split(b"x")[0] for index, _, entry in machine.applied}
        assert list(found) == list(range(start + 1, start + 1 + len(found)))
        for index, body in acknowledged:
            assert index <= start or found[index] == body, f"cycle {cycle}: entry {index} was acknowledged"
        for index, body in found.items():
            assert known.setdefault(index, body) == body, f"cycle {cycle}: entry {index} changed"
        results: list[int] = []
        voter.propose(Entry(1, 1, b"between"), results.append)
        turns.run(lambda results=results: bool(results))
        known[results[0]] = b"between"
        voter.stop()
        durable = dice.randint(start, machine.applied_index)
    assert known
