"""How long a new master takes to get the whole state of a large namespace, and what that costs those who create files meanwhile.

    python benchmarks/joining.py [--files 10000000] [--rate 1000] [--second /dev/shm]

A master fills its namespace by looking at a made-up bucket (sink.py), gets a home for several, and takes in a second one with an empty home, which
must get the state and all that happens meanwhile. Clients create files at a steady rate, for as long as that takes, and as long without, in the same
run. Both masters, the clients and who watches share the machine's cores; with ``--second``, the directory of the new one's home, not its disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from itertools import count
from typing import Any

from machine import machine
from sink import sink

from monofs.model.errors import MonofsError
from monofs.testing.masters import Masters, wait_until

FILES_A_DIRECTORY = 1000
CLIENTS = 8
BASELINE_S = 20.0


class Creator(threading.Thread):
    """Creates empty files at a steady rate; how long each took from the time it was due."""

    def __init__(self, masters: Masters, number: int, rate: float, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._masters, self._number, self._pause_s, self._over = masters, number, 1 / rate, over
        self.took: list[float] = []

    def run(self) -> None:
        with self._masters.connect("m1") as fs:
            due = time.perf_counter()
            for n in count():
                due += self._pause_s
                if self._over.wait(max(0.0, due - time.perf_counter())):
                    return
                fs.make_directory(f"/new/{self._number}-{time.time_ns()}-{n}")
                self.took.append(time.perf_counter() - due)


class Creators:
    """``CLIENTS`` of them, as long as the block lasts."""

    def __init__(self, masters: Masters, rate: int) -> None:
        self._over = threading.Event()
        self._threads = [Creator(masters, n, rate / CLIENTS, self._over) for n in range(CLIENTS)]

    def __enter__(self) -> Creators:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def show(self, name: str, seconds: float) -> None:
        took = sorted(each for thread in self._threads for each in thread.took)
        at = [took[min(int(len(took) * share), len(took) - 1)] * 1e3 for share in (0.5, 0.99, 1.0)]
        print(
            f"{name:34} {len(took) / seconds:8,.0f} creates/s   p50 {at[0]:7.2f} ms   p99 {at[1]:7.2f} ms   most {at[2]:7.2f} ms",
            flush=True,
        )


def fill(masters: Masters, endpoint: str, files: int) -> float:
    """Seconds to take over a bucket of so many files."""
    options = {"endpoint": endpoint, "access_key": "a", "secret_key": "s"}
    with masters.connect("m1", timeout_s=3600) as fs:
        fs.mount_add("/bench", "s3://bench", options, sync_interval_s=-1)
        began = time.perf_counter()
        job = fs.sync(f"/bench/tree-{files // FILES_A_DIRECTORY}x{FILES_A_DIRECTORY}", recursive=True)
        if job.state in ("running", "paused"):
            job = fs.wait_job(job.number)
        if job.state != "done" or job.failed:
            raise RuntimeError(f"{job}")
        fs.make_directory("/new")
    return time.perf_counter() - began


def behind(fs: Any, name: str) -> int:
    """How many entries a member has to get; the whole state while it has none."""
    answer = fs.quorum(of_leader=True)
    match = next((each.match for each in answer.members if each.name == name), 0)
    return answer.last_index - match if match > 0 else 1 << 62


def added(fs: Any, name: str, address: str) -> bool:
    try:
        fs.change_quorum("add", name, address)
    except (MonofsError, OSError) as error:
        return "already" in str(error)
    return True


def main() -> None:
    """Fill, join, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000_000)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--second", default="", help="where the new member's home lies, if not beside the first's")
    options = parser.parse_args()
    print(machine())
    with (
        tempfile.TemporaryDirectory(prefix="monofs-joining-") as directory,
        tempfile.TemporaryDirectory(prefix="monofs-joining-", dir=options.second or None) as second,
    ):
        masters = Masters(directory, 1)
        first = masters.nodes["m1"]
        flags, first.flags = first.flags, ["--role", "master", "--cluster-secret-file", masters.secret]
        with sink() as endpoint, first:
            print(f"{options.files:,} files taken over in {fill(masters, endpoint, options.files):.0f} s", flush=True)
        first.flags = flags
        began = time.perf_counter()
        with masters:
            print(f"started again on them, as one of a group, in {time.perf_counter() - began:.1f} s", flush=True)
            with Creators(masters, options.rate) as alone:
                time.sleep(BASELINE_S)
            alone.show("without", BASELINE_S)
            with masters.connect("m1") as fs, Creators(masters, options.rate) as beside:
                node = masters.add("m2", f"{second}/m2")
                node.launch()
                began = time.perf_counter()
                wait_until(lambda: added(fs, "m2", masters.journal("m2")), "m2 cannot be added", patience_s=60)
                wait_until(lambda: behind(fs, "m2") < 2 * options.rate, "m2 does not catch up", patience_s=3600)
                seconds = time.perf_counter() - began
            beside.show("while the other gets the state", seconds)
            size = _database_bytes(node.home)
            print(
                f"state of {size / 1e6:,.0f} MB there and caught up in {seconds:.1f} s: {size / seconds / 1e6:.0f} MB/s"
            )
            with masters.connect("m1") as fs:
                fs.promote_when_ready("m2")
            node.wait_ready()


def _database_bytes(home: str) -> int:
    """Bytes on disk of the namespace database."""
    found = [os.path.join(top, name) for top, _, names in os.walk(home) for name in names if name == "data.mdb"]
    return max(os.stat(path).st_blocks * 512 for path in found)


if __name__ == "__main__":
    main()
