"""Real workers under readers, writers and faults, by a seed: is a byte ever wrong, does a read ever hang, does the cache come back?

``python -m monofs.testing.siege --minutes N --seed S``: programs read through a master and some workers and compare every byte (readers.py), others write
(scribes.py), the tiers are smaller than what is read, and workers are killed with kill -9, with some of their cached bytes damaged while they are down, paused, killed
while they start, and killed all at once; the master is killed too. Checked: no read gives a wrong byte; none fails or lasts longer than ``--hang`` allows, except for the time in which
there was no worker to serve it or no master to open it; afterwards all files read right, and every worker's home passes its checks. Exit code 1:
something was wrong; homes and words stay.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from monofs.node.offline import check_home
from monofs.testing.nodes import ServedNode
from monofs.testing.processes import begin
from monofs.testing.readers import Seen, Took
from monofs.testing.scribes import Scribe
from monofs.testing.workload import Record

HANG_S = 5.0
GRACE_S = 3.0
"""After somebody is there again: until workers and clients have found each other."""
FILES, LARGE = 120, 3
FILE_BYTES, LARGE_BYTES = 600_000, 90 << 20
QUOTAS = ("16MiB", "40MiB")
"""Of each worker's two tiers: together far less than the files."""
END_S = 60.0
TREE, STORE = "/tree", "/store"


@dataclass
class Report:
    """What a trial came to."""

    faults: Counter[str] = field(default_factory=Counter)
    seen: list[Seen] = field(default_factory=list)
    writes: Counter[str] = field(default_factory=Counter)
    excused: int = 0
    """Reads that failed or were long while nobody could serve them."""
    longest_s: float = 0.0
    """Of the others."""
    wrongs: list[str] = field(default_factory=list)


class Siege:
    """One run of :meth:`run`, in ``directory``."""

    def __init__(self, directory: str, seed: str, *, workers: int, readers: int, hang_s: float = HANG_S) -> None:
        self._directory, self._seed, self._readers, self._hang_s = directory, seed, readers, hang_s
        self._random = random.Random(seed)
        self.report = Report()
        self._source, self._store = Path(directory, "source"), Path(directory, "store")
        self._master = ServedNode(os.path.join(directory, "master"), sets=["node.role=master"])
        self._workers = [ServedNode(os.path.join(directory, f"w{n + 1}")) for n in range(workers)]
        self._alone: list[tuple[float, float]] = []
        """Times in which no worker served, or no master."""

    def run(self, seconds: float) -> Report:
        """All of it."""
        self._make_files()
        try:
            self._begin()
            readers = [self._start_reader(number) for number in range(self._readers)]
            scribes, record = self._start_scribes()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                self._strike()
            for scribe in scribes:
                scribe.stopping.set()
            for scribe in scribes:
                scribe.join(END_S)
            self._take_in([_end_reader(each) for each in readers])
            self._last_look(scribes, record)
        finally:
            for node in (*self._workers, self._master):
                code = node.stop()
                if code != 0:
                    self.report.wrongs.append(f"{node.home} ended with {code} when it was told to stop")
        for worker in self._workers:
            for check, findings in check_home(worker.home, pages=True).items():
                if findings:
                    self.report.wrongs.append(f"{worker.home}: {check}: {findings[:3]}")
        return self.report

    def _make_files(self) -> None:
        self._source.mkdir(parents=True)
        self._store.mkdir()
        for number in range(FILES + LARGE):
            size = 2 + self._random.randrange(FILE_BYTES) if number < FILES else LARGE_BYTES
            (self._source / f"f{number}").write_bytes(self._random.randbytes(size))

    def _begin(self) -> None:
        master = self._master.start()
        secret = os.path.join(master.home, "cluster.secret")
        for number, worker in enumerate(self._workers):
            tiers = [
                {"name": f"T{n}", "dir": os.path.join(self._directory, f"tier{number + 1}-{n}"), "quota": quota}
                for n, quota in enumerate(QUOTAS)
            ]
            worker.sets += [
                "node.role=worker",
                f"worker.masters={master.doors['rpc']}",
                f"security.cluster_secret_file={secret}",
                f"worker.tiers={msgspec.json.encode(tiers).decode()}",
            ]
            worker.launch()
        for worker in self._workers:
            worker.wait_ready()
        with master.connect() as fs:
            fs.mount_add(TREE, f"file://{self._source}")
            fs.mount_add(STORE, f"file://{self._store}")

    # ---- who reads and writes -------------------------------------------------------------------------------------------

    def _start_reader(self, number: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "monofs.testing.readers", "--masters", self._master.doors["rpc"]]
        words += ["--source", str(self._source), "--mount", TREE, "--seed", f"{self._seed}/{number}"]
        words += ["--far"] if number % 2 else []
        reader = begin(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)
        assert reader.stdout is not None
        reader.stdout.readline()
        return reader

    def _start_scribes(self) -> tuple[list[Scribe], Record]:
        record, scribes = Record(), []
        for number in range(2):
            scribe = Scribe(number, self._connect, record, self._seed)
            scribe.home, scribe.store = f"{STORE}/s{number}", self._store / f"s{number}"
            with self._connect() as fs:
                fs.make_directory(scribe.home)
            scribe.start()
            scribes.append(scribe)
        return scribes, record

    def _connect(self) -> Any:
        return self._master.connect()

    # ---- faults ---------------------------------------------------------------------------------------------------------

    def _strike(self) -> None:
        """One fault, undone again, and a while of peace."""
        kinds = {
            self._kill: 6,
            self._kill_while_starting: 1,
            self._pause: 2,
            self._kill_all: 1,
            self._kill_master: 1,
        }
        fault = self._random.choices(list(kinds), list(kinds.values()))[0]
        self.report.faults[fault.__name__.removeprefix("_").replace("_", " ")] += 1
        fault()
        time.sleep(self._random.choice((0.0, 0.5, 2.0)))

    def _kill(self) -> None:
        worker = self._random.choice(self._workers)
        worker.kill()
        time.sleep(self._random.choice((0.0, 0.5, 2.5)))
        if self._random.random() < 0.5:
            self._damage(worker)
        worker.start()

    def _kill_while_starting(self) -> None:
        worker = self._random.choice(self._workers)
        for _ in range(3):
            worker.kill()
            worker.launch()
            time.sleep(self._random.uniform(0.0, 1.0))
        worker.wait_ready()

    def _pause(self) -> None:
        worker = self._random.choice(self._workers)
        assert worker.process is not None
        worker.process.send_signal(signal.SIGSTOP)
        time.sleep(self._random.choice((0.1, 1.0, 3.0)))
        worker.process.send_signal(signal.SIGCONT)

    def _kill_all(self) -> None:
        began_s = time.monotonic()
        for worker in self._workers:
            worker.kill()
        time.sleep(self._random.choice((0.0, 2.0)))
        for worker in self._workers:
            worker.launch()
        for worker in self._workers:
            worker.wait_ready()
        self._alone.append((began_s, time.monotonic() + GRACE_S))

    def _kill_master(self) -> None:
        began_s = time.monotonic()
        self._master.kill()
        time.sleep(self._random.choice((0.0, 2.0)))
        self._master.start()
        self._alone.append((began_s, time.monotonic() + GRACE_S))

    def _damage(self, worker: ServedNode) -> None:
        """Flip bits of cached bytes, as a power cut might leave them: in files put in the place of those which readers may hold open, as they would not survive one."""
        pages = [
            Path(at, name)
            for number in range(len(QUOTAS))
            for at, _, names in os.walk(f"{self._directory}/tier{self._workers.index(worker) + 1}-{number}")
            for name in names
            if os.path.getsize(os.path.join(at, name)) > 1000 and "identity" not in name
        ]
        for path in self._random.sample(pages, min(3, len(pages))):
            self.report.faults["damaged files"] += 1
            data = bytearray(path.read_bytes())
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
            path.with_name("damaged").write_bytes(data)
            path.with_name("damaged").rename(path)

    # ---- the end --------------------------------------------------------------------------------------------------------

    def _take_in(self, seen: list[Seen]) -> None:
        report = self.report
        report.seen = seen
        for each in seen:
            report.wrongs += each.wrongs
            for took in each.long:
                self._judge(took)

    def _judge(self, took: Took) -> None:
        shared_s = sum(max(0.0, min(took.ended_s, end) - max(took.began_s, begin)) for begin, end in self._alone)
        own_s = took.ended_s - took.began_s - shared_s
        if shared_s and (took.error or own_s < took.ended_s - took.began_s - 0.1):
            self.report.excused += 1
        elif took.error:
            self.report.wrongs.append(f"a read of {took.path} failed after {own_s:.1f} s: {took.error}")
        self.report.longest_s = max(self.report.longest_s, own_s)
        if own_s > self._hang_s:
            self.report.wrongs.append(f"a read of {took.path} lasted {own_s:.1f} s")

    def _last_look(self, scribes: list[Scribe], record: Record) -> None:
        report = self.report
        report.writes = record.outcomes
        report.wrongs += record.wrongs
        with self._connect() as fs:
            for name in os.listdir(self._source):
                if fs.read(f"{TREE}/{name}") != (self._source / name).read_bytes():
                    report.wrongs.append(f"{name} is wrong in the end")
            for scribe in scribes:
                report.wrongs += [f"{scribe.name} hangs"] if scribe.is_alive() else scribe.missing(fs)
            fs.verify()  # drops what was damaged and has not been read since; what then is found, was written so


def _end_reader(process: subprocess.Popen[bytes]) -> Seen:
    out, _ = process.communicate(timeout=END_S)
    return msgspec.json.decode(out, type=Seen)


def show(report: Report, seconds: float) -> None:
    """Print the report as a table."""
    errors: Counter[str] = Counter()
    for seen in report.seen:
        errors.update(seen.errors)
    rows: list[tuple[str, object]] = [
        ("seconds", round(seconds)),
        *sorted(report.faults.items()),
        ("reads compared", sum(seen.reads for seen in report.seen)),
        ("GB compared", round(sum(seen.read_bytes for seen in report.seen) / 1e9, 2)),
        *((f"  failed, {name}", count) for name, count in sorted(errors.items())),
        *((f"  {name}", count) for name, count in sorted(report.writes.items())),
        ("longest read or failure while somebody served, s", round(report.longest_s, 2)),
        ("longer or failed while nobody served", report.excused),
        ("wrong", len(report.wrongs)),
    ]
    for name, value in rows:
        print(f"{name:52} {value}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m monofs.testing.siege", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, about [default: 1]")
    parser.add_argument("--seed", default="", help="draws files, faults and reads [default: a new one]")
    parser.add_argument("--workers", type=int, default=3, help="[default: 3]")
    parser.add_argument("--readers", type=int, default=3, help="programs of three threads each [default: 3]")
    parser.add_argument("--hang", type=float, default=HANG_S, help="seconds a read may last [default: 5]")
    parser.add_argument("--directory", default="", help="where all lies [default: a new one, removed if all is well]")
    options = parser.parse_args()
    seed = options.seed or str(random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}", flush=True)
    directory = options.directory or tempfile.mkdtemp(prefix="monofs-siege-")
    began = time.monotonic()
    siege = Siege(directory, seed, workers=options.workers, readers=options.readers, hang_s=options.hang)
    report = siege.run(options.minutes * 60)
    show(report, time.monotonic() - began)
    for wrong in report.wrongs:
        print(f"WRONG: {wrong}")
    if report.wrongs:
        print(f"seed {seed}; everything is kept in {directory}")
        return 1
    if not options.directory:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
