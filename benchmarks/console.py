"""Open dashboards: what they cost the node they look at.

    python benchmarks/console.py [--dashboards 200] [--seconds 20] [--rounds 3] [--json]

One node of both roles, with a mount and a steady load of small reads and changes, so that the numbers shown change all the time. Each dashboard is the overview: one WebSocket
with the topics `now` and `overview`. Rounds alternate: without dashboards, with one, with all of them; CPU is the node's process, all threads, from /proc. The ratio that counts is the
share of a core that all dashboards add. Dashboards are read by this process, which shares the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

from machine import cpu_s, machine

from monofs.testing.nodes import ServedNode
from monofs.testing.visitors import Socket, Visitor

TOPICS = ("now", "overview")
LOAD_PAUSE_S = 0.02
FIRST_S = 5.0
"""For what a page is sent when it opens."""


class Load:
    """A few reads and changes a second, always the same."""

    def __init__(self, node: ServedNode, directory: str) -> None:
        self._node, self._directory = node, directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._node.connect() as fs:
            number = 0
            while not self._stop.wait(LOAD_PAUSE_S):
                number += 1
                fs.read(f"/lake/{number % 20}")
                if number % 5 == 0:
                    fs.make_directory(f"/made-{time.time_ns()}")


def watched(base: str, topics: Sequence[str], dashboards: int, seconds: float, pid: int) -> dict[str, float]:
    """So many browsers look at these topics for so long; what it cost, and what came."""
    visitor = Visitor(base).enter()
    pages: list[Socket] = []
    selector = selectors.DefaultSelector()
    try:
        for _ in range(dashboards):
            page = visitor.watch(*topics)
            page.sock.setblocking(False)
            pages.append(page)
            selector.register(page.sock, selectors.EVENT_READ)
        first = settle(selector, FIRST_S)
        began, used = time.monotonic(), cpu_s(pid)
        came = settle(selector, seconds)
        elapsed = time.monotonic() - began
        return {
            "share": (cpu_s(pid) - used) / elapsed,
            "bytes_s_each": came / elapsed / max(dashboards, 1),
            "first_bytes_each": first / max(dashboards, 1),
        }
    finally:
        for page in pages:
            page.close()
        selector.close()


def settle(selector: selectors.BaseSelector, seconds: float) -> int:
    """Read what comes for so long; bytes."""
    until, came = time.monotonic() + seconds, 0
    while (left := until - time.monotonic()) > 0:
        if not selector.get_map():
            time.sleep(left)
            break
        for key, _ in selector.select(left):
            sock: Any = key.fileobj
            came += len(sock.recv(1 << 20))
    return came


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dashboards", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    counts = (0, 1, options.dashboards)
    rounds: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as directory, ServedNode(f"{directory}/home") as node:
        os.mkdir(f"{directory}/lake")
        for number in range(20):
            with open(f"{directory}/lake/{number}", "wb") as file:
                file.write(os.urandom(100_000))
        with node.connect() as fs:
            fs.mount_add("/lake", f"file://{directory}/lake")
        load = Load(node, directory)
        memory = node.memory_bytes()
        for _ in range(options.rounds):
            for count in counts:
                rounds[count].append(watched(node.doors["console"], TOPICS, count, options.seconds, node.doors["pid"]))
        grown = node.memory_bytes() - memory
        load.stop()
    shares = {count: statistics.median(each["share"] for each in found) for count, found in rounds.items()}
    told = {
        "machine": machine(),
        "command": " ".join(["python", *sys.argv]),
        "share_of_a_core": {str(count): round(share, 4) for count, share in shares.items()},
        "added_by_all": round(shares[options.dashboards] - shares[0], 4),
        "bytes_s_each": round(statistics.median(each["bytes_s_each"] for each in rounds[options.dashboards])),
        "memory_grown_bytes": grown,
    }
    if options.json:
        print(json.dumps(told))
        return
    print(f"{told['machine']}\n{told['command']}")
    for count, share in shares.items():
        print(f"{count:5} dashboards: {100 * share:6.2f} % of a core")
    print(
        f"all of them add {100 * told['added_by_all']:.2f} %, {told['bytes_s_each']} bytes/s each, {grown >> 20} MiB of memory over all rounds"
    )  # type: ignore[operator]


if __name__ == "__main__":
    main()
