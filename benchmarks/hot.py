"""How the requests for one hot block spread over workers, in counts: before it is noticed, while it is hot, and when the heat is gone.

    python benchmarks/hot.py [--workers 4] [--clients 4] [--seconds 6] [--size 262144]

Clients are processes that read one file over TCP as if they were on other machines. Told for each second: READs that each worker answered.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from contextlib import ExitStack
from typing import Any

from machine import machine

import monofs
from monofs.testing.nodes import ServedNode


def far_away(fs: Any) -> None:
    """No worker is on this machine."""
    for link in fs._session().cluster.links():
        link.is_local = False


def hammer(masters: str, stop: Any, pause_s: float) -> None:
    """Read the file again and again."""
    with monofs.connect(masters) as fs:
        reader = fs.reader("/f/hot")
        view = memoryview(bytearray(reader.size))
        far_away(fs)
        while not stop.is_set():
            reader.read_into(0, view)
            time.sleep(pause_s)


def counted(fs: Any, prefix: str) -> dict[str, float]:
    """A counter of each worker."""
    return {
        address: sum(value for name, value in status.counters.items() if name.startswith(prefix))
        for address, status in fs.worker_status().items()
    }


def watch(fs: Any, seconds: int) -> None:
    """A line a second."""
    before = counted(fs, "monofs_rpc_requests{method=READ,")
    for second in range(seconds):
        time.sleep(1.0)
        now = counted(fs, "monofs_rpc_requests{method=READ,")
        print(f"  {second + 1:2} s " + " ".join(f"{now[each] - before[each]:7.0f}" for each in now))
        before = now


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--size", type=int, default=256 << 10)
    options = parser.parse_args()
    print(f"{machine()}; {options.workers} workers")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        os.mkdir(f"{home}/source")
        with open(f"{home}/source/hot", "wb") as file:
            file.write(os.urandom(options.size))
        first = stack.enter_context(ServedNode(f"{home}/first"))
        secret = f"{home}/first/cluster.secret"
        sets = ["node.role=worker", f"worker.masters={first.doors['rpc']}", f"security.cluster_secret_file={secret}"]
        for number in range(1, options.workers):
            stack.enter_context(ServedNode(f"{home}/w{number}", sets=sets))
        fs = stack.enter_context(first.connect())
        fs.mount_add("/f", f"file://{home}/source")
        while sum(bool(each["slots"]) for each in fs.report()["workers"].values()) < options.workers:
            time.sleep(0.1)
        for what, clients, pause_s in (("hot", options.clients, 0.0), ("the heat is gone", 1, 0.02)):
            stop = context.Event()
            processes = [
                context.Process(target=hammer, args=(first.doors["rpc"], stop, pause_s), daemon=True)
                for _ in range(clients)
            ]
            for process in processes:
                process.start()
            print(f"{what}: {clients} clients")
            watch(fs, options.seconds)
            stop.set()
            for process in processes:
                process.join(10)
        gets = counted(fs, "monofs_store_requests{mount=1,kind=get")
        told = counted(fs, "monofs_hot_told")
        print(f"GETs at the store: {sum(gets.values()):.0f}; readers told: {sum(told.values()):.0f}")


if __name__ == "__main__":
    main()
