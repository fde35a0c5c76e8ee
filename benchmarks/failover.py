"""How long clients wait when the leader dies: kill -9 of it again and again under one client that writes.

    python benchmarks/failover.py [--kills 100] [--masters 3]

From the kill to the next acknowledged change, as the client (default settings) sees it; and its parts: until another master says that it leads, and
from there until the client is answered. Three processes, a client and who watches share the cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time

from machine import machine

from monofs.model.errors import MonofsError
from monofs.testing.masters import Masters

LOOK_S = 0.005
SETTLE_S = 0.5
TELL_EVERY = 25


class Watch(threading.Thread):
    """Asks one master all the time; ``led`` is when it first said that it leads since :meth:`reset`."""

    def __init__(self, masters: Masters, name: str) -> None:
        super().__init__(daemon=True)
        self.masters, self.name_ = masters, name
        self.led = 0.0
        self.stopping = False

    def reset(self) -> None:
        self.led = 0.0

    def run(self) -> None:
        fs = self.masters.connect(self.name_, timeout_s=2.0)
        while not self.stopping:
            try:
                if not self.led and fs.quorum().role == "leader":
                    self.led = time.perf_counter()
            except (MonofsError, OSError):
                pass
            time.sleep(LOOK_S)
        fs.close()


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--masters", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    print(f"{options.masters} masters on loopback, {options.kills} times kill -9 of the leader")
    whole: list[float] = []
    election: list[float] = []
    client: list[float] = []
    errors = 0
    with (
        tempfile.TemporaryDirectory(prefix="monofs-failover-") as directory,
        Masters(directory, options.masters) as masters,
    ):
        fs = masters.connect()
        fs.make_directory("/f")
        for kill in range(options.kills):
            leader = masters.leader()
            fs.make_directory(f"/f/{kill}-before")
            watches = [Watch(masters, name) for name in masters.nodes if name != leader]
            for watch in watches:
                watch.start()
            time.sleep(SETTLE_S)
            for number in range(5):
                fs.make_directory(f"/f/{kill}-warm-{number}")
            killed = time.perf_counter()
            masters.nodes[leader].kill()
            try:
                fs.make_directory(f"/f/{kill}-after")
            except (MonofsError, OSError) as error:
                errors += 1
                print(f"kill {kill}: {error}", flush=True)
            answered = time.perf_counter()
            deadline = answered + 5
            while not any(watch.led for watch in watches) and time.perf_counter() < deadline:
                time.sleep(LOOK_S)
            led = min((watch.led for watch in watches if watch.led), default=answered)
            for watch in watches:
                watch.stopping = True
            for watch in watches:
                watch.join()
            whole.append(answered - killed)
            election.append(max(led - killed, 0.0))
            client.append(max(answered - led, 0.0))
            masters.nodes[leader].start()
            if (kill + 1) % TELL_EVERY == 0:
                print(f"{kill + 1} kills: p50 {quantile(whole, 0.5):.3f} s, worst {max(whole):.3f} s", flush=True)
        names = {info.name for info in fs.list("/f")}
        lost = [kill for kill in range(options.kills) if f"{kill}-after" not in names]
        fs.close()
    print(f"{'seconds':44} {'p50':>7} {'p99':>7} {'max':>7}")
    for name, values in (
        ("kill -9 to the next acknowledged change", whole),
        ("  until a master says that it leads", election),
        ("  from there until the client has its answer", client),
    ):
        print(f"{name:44} {quantile(values, 0.5):7.3f} {quantile(values, 0.99):7.3f} {max(values):7.3f}")
    print(f"changes lost {len(lost)}, calls that failed {errors}, load {os.getloadavg()[0]:.1f}")
    return 1 if lost or errors else 0


if __name__ == "__main__":
    sys.exit(main())
