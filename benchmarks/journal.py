"""Durable proposals per second of the journal at 1, 64 and 512 outstanding, beside a bare pwrite + fdatasync loop in the same run.

    python benchmarks/journal.py [--directory DIR] [--rounds 5] [--seconds 2] [--body 150]

The state machine only counts, one voter, one process; the reactor is a plain queue, so this is the journal's own share of a create.
The bare loop writes one 4,096-byte block (what one small proposal needs) or the same bytes per frame as the journal did, zero-filled
ahead, and does nothing else. Ratio: for 1 outstanding the bare loop's median time over the journal's; else the journal's proposals/s
over what the bare loop would carry with that many proposals in each sync.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from typing import Any

from machine import machine

from monofs.config.schema import JournalConfig
from monofs.journal.face import Entry
from monofs.journal.frames import BLOCK_BYTES
from monofs.journal.single import SingleVoter
from monofs.observe.metrics import JOURNAL_BYTES, JOURNAL_FSYNC
from monofs.testing.journal import Turns


class Counter:
    """A state machine that counts."""

    applied_index = 0

    def apply(self, index: int, term: int, entry: Entry) -> int:
        """Count."""
        self.applied_index = index
        return index


def bare(directory: str, size: int, seconds: float) -> list[float]:
    """Times in seconds of single pwrite + fdatasync calls of ``size`` bytes."""
    path = os.path.join(directory, "bare")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, bytes(64 << 20), 0)
        os.fsync(fd)
        data, times, offset, end = os.urandom(size), [], 0, time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            os.pwrite(fd, data, offset)
            os.fdatasync(fd)
            times.append(time.perf_counter() - began)
            offset = (offset + size) % ((64 << 20) - size) // BLOCK_BYTES * BLOCK_BYTES
        return times
    finally:
        os.close(fd)
        os.unlink(path)


def journal(directory: str, outstanding: int, body: bytes, seconds: float) -> dict[str, float]:
    """Keep ``outstanding`` proposals waiting for ``seconds``."""
    turns, machine, latencies, in_flight = Turns(), Counter(), [], 0
    frames, written = sum(JOURNAL_FSYNC().counts), JOURNAL_BYTES().value
    voter = SingleVoter(
        os.path.join(directory, "journal"), machine, JournalConfig(), call_soon=turns.call_soon, on_failure=stop
    )
    voter.start()
    entry, clock, released = Entry(1, 1, body), time.perf_counter, 0
    began = clock()
    end = began + seconds

    def propose() -> None:
        nonlocal in_flight
        in_flight += 1
        asked = clock()

        def done(result: Any) -> None:
            nonlocal in_flight
            in_flight -= 1
            now = clock()
            latencies.append(now - asked)
            if now < end:
                propose()

        voter.propose(entry, done)

    def finished() -> bool:
        nonlocal released
        if machine.applied_index - released >= 20_000:  # as the metadata's flusher does
            released = machine.applied_index
            voter.release(released)
        return not in_flight

    for _ in range(outstanding):
        propose()
    turns.run(finished)
    took = clock() - began
    voter.stop()
    frames = sum(JOURNAL_FSYNC().counts) - frames
    latencies.sort()
    return {
        "rate": len(latencies) / took,
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[len(latencies) * 99 // 100],
        "batch": len(latencies) / frames,
        "frame_bytes": (JOURNAL_BYTES().value - written) / frames,
    }


def stop(error: BaseException) -> None:
    """The journal failed: so does the benchmark."""
    raise error


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", help="on the disk to be measured; default: the directory for temporary files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--body", type=int, default=150, help="bytes of one entry")
    options = parser.parse_args()
    sys.setswitchinterval(0.0005)  # as a node does
    print(f"machine   {machine()}")
    print(f"command   {' '.join(sys.argv)}  (medians of {options.rounds} rounds)")
    print("outstanding  proposals/s   p50 ms   p99 ms  entries/frame  bare syncs/s  bare p50 ms  ratio")
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        for outstanding in (1, 64, 512):
            rounds = []
            for number in range(options.rounds):
                where = os.path.join(directory, f"{outstanding}-{number}")
                os.mkdir(where)
                shown = journal(where, outstanding, bytes(options.body), options.seconds)
                times = bare(where, -(-int(shown["frame_bytes"]) // BLOCK_BYTES) * BLOCK_BYTES, options.seconds / 2)
                shown |= {"bare_rate": len(times) / sum(times), "bare_p50": statistics.median(times)}
                shown["ratio"] = (
                    shown["bare_p50"] / shown["p50"]
                    if outstanding == 1
                    else shown["rate"] / (shown["bare_rate"] * outstanding)
                )
                rounds.append(shown)
            m = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            print(
                f"{outstanding:11d}  {m['rate']:11,.0f}  {m['p50'] * 1e3:7.3f}  {m['p99'] * 1e3:7.3f}  {m['batch']:13.1f}  "
                f"{m['bare_rate']:12,.0f}  {m['bare_p50'] * 1e3:11.3f}  {m['ratio']:5.2f}"
            )


if __name__ == "__main__":
    main()
