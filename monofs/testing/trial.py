"""What a new user does with a cluster, done for real: is every byte right, does anything hang, do quotas hold, are the figures true?

``python -m monofs.testing.trial`` (root: it starts a real S3 server): thousands of files of 1 KB to 200 MB in a bucket; `monofs dev cluster --masters 3
--workers 4`; the bucket is mounted and loaded, and sixteen programs read and compare every byte (readers.py) while a worker and the leader are killed with
kill -9 and started again, a worker is added and another taken away. Every file is read once more. Then the workers begin anew with tiers that are filled ten
times over under quotas of policies, which are looked at all the while; the traces they record are replayed, and every home passes its checks. Exit code 1:
something was wrong, and everything is kept.

Not here: random faults (siege.py, torture.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

import monofs
from monofs.model.errors import MonofsError
from monofs.node.offline import check_home
from monofs.rpc.api import WorkerStatusAnswer
from monofs.testing.buckets import Buckets
from monofs.testing.ceph import Ceph
from monofs.testing.masters import wait_until as wait_until_within
from monofs.testing.processes import begin
from monofs.testing.readers import Seen

HANG_S = 5.0
SLOWEST_BYTES_S = 20_000_000
"""A file that is read whole takes its time: so much is no hang beside all others."""
CALM_S = 8.0
"""Between two events."""
KINDS = "lmss"
"""What readers read."""
TIERS = {"MEM": 24 << 20, "DISK": 40 << 20}
"""Of each worker, in the second part."""
QUOTAS = {"/lake/m": 60 << 20, "/lake/s": 20 << 20}
FILLED = 10
END_S = 600.0
PATIENCE_S = 300.0
"""Of everything that is waited for: other work may go on on the machine."""
SIZES = {"l": (12, 27.6), "m": (17, 22.5), "s": (10, 17)}
"""Directory to the powers of two its files' sizes lie between."""


class Trial:
    """One run. Everything lies in ``directory``."""

    def __init__(self, directory: str, files: int, readers: int) -> None:
        self.directory, self._count, self._readers = Path(directory), files, readers
        self.figures: dict[str, object] = {}
        self.wrongs: list[str] = []
        self._source, self._home = self.directory / "source", self.directory / "cluster"
        self._commands: dict[str, list[str]] = {}
        self._own: dict[str, subprocess.Popen[bytes]] = {}
        """Those that were started by a printed command."""
        self._most: dict[str, float] = {}
        self._story: list[tuple[float, str]] = []

    def run(self) -> None:
        """All of it."""
        names = self._make_files()
        with Ceph(str(self.directory / "ceph")) as server:
            bucket = Buckets(server).make()
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(lambda name: bucket.put(name, (self._source / name).read_bytes()), names))
            with self._cluster() as fs, self._watched(fs):
                fs.mount_add("/lake", bucket.uri, bucket.options)
                self._load(fs)
                with self._reading():
                    self._kill_and_change(fs)
                self._compare(fs, names)
                self._fill(fs, names)
        self._replay()
        for worker in sorted(self._home.glob("w?")):
            for check, findings in check_home(str(worker), pages=True).items():
                if findings:
                    self.wrongs.append(f"{worker}: {check}: {findings[:3]}")

    # ---- the world ------------------------------------------------------------------------------------------------------

    def _make_files(self) -> list[str]:
        drawn, names = random.Random(7), []
        for number in range(self._count):
            kind = "l" if number < 10 else "m" if number % 10 == 0 else "s"
            size = 200_000_000 if number == 0 else int(2 ** drawn.uniform(*SIZES[kind]))
            names.append(f"{kind}/{number}")
            (self._source / kind).mkdir(parents=True, exist_ok=True)
            (self._source / names[-1]).write_bytes(drawn.randbytes(size))
        self.figures["files, GB"] = (len(names), round(sum((self._source / n).stat().st_size for n in names) / 1e9, 2))
        return names

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        """As the page says: one command, and another terminal."""
        words = [
            sys.executable,
            "-m",
            "monofs",
            "dev",
            "cluster",
            "--masters",
            "3",
            "--workers",
            "4",
            "--home",
            str(self._home),
        ]
        with open(self._said, "wb") as out:
            cluster = begin(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            wait_until(lambda: "4 workers" in self._last(), "four workers do not come")
            text = self._said.read_text()
            exported = re.search(r"export MONOFS_MASTERS=(\S+) MONOFS_SECURITY_CLUSTER_SECRET_FILE=(\S+)", text)
            assert exported is not None
            os.environ["MONOFS_MASTERS"], os.environ["MONOFS_SECURITY_CLUSTER_SECRET_FILE"] = exported.groups()
            self._commands = {
                name: shlex.split(words) for name, words in re.findall(r"^  (\w\d): (.*)$", text, re.MULTILINE)
            }
            with monofs.connect() as fs:
                yield fs
        finally:
            for process in self._own.values():
                process.terminate()
            cluster.terminate()
            for process in (*self._own.values(), cluster):
                process.wait(END_S)

    @property
    def _said(self) -> Path:
        return self.directory / "cluster.out"

    def _last(self) -> str:
        return self._said.read_text().rstrip().rpartition("\n")[2]

    def _pid(self, name: str) -> int:
        own = self._own.get(name)
        return own.pid if own is not None else int(re.findall(rf"\b{name} (\d+)", self._said.read_text())[-1])

    def _start(self, name: str, *words: str, like: str = "") -> None:
        command = self._commands[like or name]
        if like:
            command = [
                re.sub(r"(console|s3)\.port=\d+", r"\1.port=0", word.replace(f"/{like}", f"/{name}"))
                for word in command
            ]
            self._commands[name] = command
        with open(self._home / f"{name}.out", "ab") as out:
            self._own[name] = begin([*command, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def _cli(self, *words: str) -> str:
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "monofs", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            self.wrongs.append(f"monofs {shlex.join(words)} ended with {done.returncode}: {done.stderr}")
        self.figures[f"monofs {words[0]} {words[1]}, s"] = round(time.monotonic() - began, 1)
        return done.stdout

    @contextmanager
    def _watched(self, fs: Any) -> Iterator[None]:
        """Memory, descriptors, quotas and tiers, once a second."""
        over = threading.Event()

        def note(what: str, value: float) -> None:
            self._most[what] = max(self._most.get(what, 0.0), value)

        def watch() -> None:
            while not over.wait(1.0):
                with suppress(MonofsError, OSError):  # a master is being killed
                    for policy in fs.policies():
                        note(policy.path, policy.used_bytes / (policy.quota_bytes or 1))
                    for status in fs.worker_status(only_live=True).values():
                        for tier in status.tiers if isinstance(status, WorkerStatusAnswer) else ():
                            note("tier", tier.used_bytes / tier.capacity_bytes)
                for name in [name for name in self._commands if name[0] == "w"]:
                    with suppress(OSError):  # it is gone
                        note("MiB", _memory_mib(self._pid(name)))
                        note("descriptors", len(os.listdir(f"/proc/{self._pid(name)}/fd")))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.figures["most of a worker: memory MiB, descriptors"] = (
                self._most.get("MiB"),
                self._most.get("descriptors"),
            )

    # ---- the first part -------------------------------------------------------------------------------------------------

    def _load(self, fs: Any) -> None:
        began, told = time.monotonic(), list[int]()
        job = fs.load("/lake", progress=lambda now: told.append(now.done) if now.total >= 0 else None)
        self.figures["loaded in s"] = round(time.monotonic() - began, 1)
        self.figures["files loaded, as was told meanwhile"] = told
        if told != sorted(told):
            self.wrongs.append("the progress of the load went back")
        if job.failed or job.done != self._count:
            self.wrongs.append(f"the load did {job.done} of {self._count} files, {job.failed} failed")
        misses = sum(each["totals"]["page_misses"] for each in fs.report()["workers"].values())
        if misses:
            self.wrongs.append(f"{misses} misses after a load that nobody read")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        readers = []
        self._tell("reading began")
        for number in range(self._readers):
            kind = KINDS[number % 4]
            words = [
                sys.executable,
                "-m",
                "monofs.testing.readers",
                "--masters",
                os.environ["MONOFS_MASTERS"],
                "--seed",
                str(number),
            ]
            words += ["--source", str(self._source / kind), "--mount", f"/lake/{kind}", "--threads", "1"]
            words += ["--far"] if number % 3 == 2 else []
            readers.append(begin(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None))
        try:
            for reader in readers:
                assert reader.stdout is not None
                reader.stdout.readline()
            yield
            seen = [msgspec.json.decode(reader.communicate(timeout=END_S)[0], type=Seen) for reader in readers]
        finally:
            for reader in readers:
                reader.kill()
        self.figures["reads compared, GB"] = (
            sum(s.reads for s in seen),
            round(sum(s.read_bytes for s in seen) / 1e9, 2),
        )
        self.figures["longest read, s"] = round(max(s.longest_s for s in seen), 1)
        for number, each in enumerate(seen):
            largest = max(path.stat().st_size for path in (self._source / KINDS[number % 4]).iterdir())
            limit_s = HANG_S + largest / SLOWEST_BYTES_S
            self.wrongs += each.wrongs
            self.wrongs += [f"{took.path} failed: {took.error}" for took in each.long if took.error]
            self.wrongs += [
                f"{took.path} lasted {took.ended_s - took.began_s:.1f} s, begun {self._after(took.began_s)}"
                for took in each.long
                if took.ended_s - took.began_s > limit_s
            ]

    def _tell(self, event: str) -> None:
        self._story.append((time.monotonic(), event))

    def _after(self, at_s: float) -> str:
        """When something was, by what was done last."""
        before = [(when_s, event) for when_s, event in self._story if when_s <= at_s]
        when_s, event = before[-1]
        return f"{at_s - when_s:.1f} s after {event}"

    def _kill_and_change(self, fs: Any) -> None:
        """Always three workers and a majority of masters are left: no read has a reason to fail."""
        time.sleep(CALM_S)
        leader = self._last().partition(" ")[0]
        self._tell("a worker was killed")
        os.kill(self._pid("w3"), signal.SIGKILL)
        time.sleep(CALM_S)
        self._tell("the leader was killed")
        os.kill(self._pid(leader), signal.SIGKILL)
        wait_until(lambda: self._last().partition(" ")[0] not in (leader, "no"), "nobody leads")
        row = fs.report()["workers"]["3"]
        if row["live"] or not row["address"]:
            self.wrongs.append(f"the new leader says of the dead worker: {row}")
        self._tell("both were started again")
        self._start(leader)
        self._start("w3")
        wait_until(lambda: fs.report()["workers"]["3"]["live"], "the worker does not come back")
        time.sleep(CALM_S)
        self._tell("a worker was added")
        self._start("w5", like="w4")
        wait_until(
            lambda: all(row["slots"] for row in self._rows(fs).values()) and "5" in self._rows(fs),
            "no share for the new worker",
        )
        time.sleep(CALM_S)
        self._tell("a worker was told to leave")
        self._cli("admin", "decommission", "2")
        self._tell("a worker left")
        os.kill(self._pid("w2"), signal.SIGTERM)
        time.sleep(CALM_S)

    @staticmethod
    def _rows(fs: Any) -> dict[str, Any]:
        rows: dict[str, Any] = fs.report()["workers"]
        return rows

    def _compare(self, fs: Any, names: list[str]) -> None:
        def is_wrong(name: str) -> bool:
            found = hashlib.sha256(fs.read(f"/lake/{name}")).digest()
            return found != hashlib.sha256((self._source / name).read_bytes()).digest()

        with ThreadPoolExecutor(4) as threads:
            self.wrongs += [
                f"{name} is wrong" for name, wrong in zip(names, threads.map(is_wrong, names), strict=True) if wrong
            ]

    # ---- the second part ------------------------------------------------------------------------------------------------

    def _fill(self, fs: Any, names: list[str]) -> None:
        """Small tiers, ten times over."""
        workers = ("w1", "w3", "w4", "w5")
        for name in workers:
            os.kill(self._pid(name), signal.SIGTERM)
            wait_until(lambda name=name: self._is_gone(name), f"{name} does not stop")  # type: ignore[misc]
            tiers = [
                {"name": tier, "dir": str(self._home / f"{name}-{tier}"), "quota": size} for tier, size in TIERS.items()
            ]
            trace = f"worker.trace={self.directory / name}.trace"
            self._start(name, "--set", f"worker.tiers={json.dumps(tiers)}", "--set", trace)
        wait_until(lambda: self._capacity(fs) == len(workers) * sum(TIERS.values()), "the workers do not come back")
        for path, quota in QUOTAS.items():
            fs.set_policy(path, quota_bytes=quota)
        self._most = {}
        drawn, began = random.Random(11), time.monotonic()
        while (filled := self._filled(fs)) < FILLED:
            self._compare(fs, drawn.sample(names, len(names) // 4) + drawn.choices(names[:10], k=4))
            if time.monotonic() - began > 2 * END_S:
                self.wrongs.append(f"the tiers were filled {filled:.1f} times only in {2 * END_S:g} s")
                break
        self.figures["tiers filled so often, in s"] = (round(filled, 1), round(time.monotonic() - began))
        self.figures["most of a quota, of a tier"] = [round(self._most.get(key, 0), 4) for key in (*QUOTAS, "tier")]
        self.wrongs += [
            f"{what}: {share:.3f} of what it may hold"
            for what, share in self._most.items()
            if share > 1 and what in (*QUOTAS, "tier")
        ]

    def _is_gone(self, name: str) -> bool:
        own = self._own.get(name)
        return own.poll() is not None if own is not None else not _lives(self._pid(name))

    def _capacity(self, fs: Any) -> int:
        return sum(row["capacity_bytes"] or 0 for row in self._rows(fs).values() if row["live"])

    def _filled(self, fs: Any) -> float:
        """What was evicted, over what the tiers hold."""
        rows = [row for row in self._rows(fs).values() if row["live"]]
        return float(sum(row["totals"]["evicted_bytes"] for row in rows) / max(self._capacity(fs), 1))

    def _replay(self) -> None:
        traces = sorted(map(str, self.directory.glob("*.trace*")))
        told = self._cli("cache", "simulate", *traces)
        print(told)
        if "s3-fifo" not in told:
            self.wrongs.append("nothing is told of the trace")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Raises ``AssertionError``."""
    wait_until_within(condition, what, patience_s=PATIENCE_S)


def _memory_mib(pid: int) -> float:
    """Raises ``OSError`` when there is no such process any more; 0 of one that has just ended."""
    found = re.search(r"^RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return round(int(found[1]) / 1024) if found is not None else 0.0


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m monofs.testing.trial", description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=3000, help="[default: 3000]")
    parser.add_argument("--readers", type=int, default=16, help="programs of two threads each [default: 16]")
    options = parser.parse_args()
    directory, began = tempfile.mkdtemp(prefix="monofs-trial-"), time.monotonic()
    trial = Trial(directory, options.files, options.readers)
    trial.run()
    for name, value in {
        **trial.figures,
        "seconds": round(time.monotonic() - began),
        "wrong": len(trial.wrongs),
    }.items():
        print(f"{name:52} {value}")
    for wrong in trial.wrongs:
        print(f"WRONG: {wrong}")
    if trial.wrongs:
        print(f"everything is kept in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
