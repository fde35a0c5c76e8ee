"""The planner of the slot table: processor time, movement, and how evenly losses are spread, from nothing and after one worker joined or left.

    python benchmarks/placement.py [--workers 3,10,100,1000,3000] [--replicas 2] [--zones 3]

"Moved" is slots that changed owners, and places on workers that were not listed for the slot, beside how many of each the new or lost worker's
share makes necessary. "Shared" is how many slots any two workers have in common: least, mean, most.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from itertools import combinations

from machine import machine

from monofs.master.placement import Share, plan_slots
from monofs.model.block import SLOTS
from monofs.model.slots import EMPTY, SlotTable, pack_delta


def planned(workers: list[int], replicas: int, zones: int, before: SlotTable) -> tuple[SlotTable, float]:
    """The table and the seconds of processor it took."""
    begin = time.process_time()
    plan = plan_slots([Share(worker, 100, str(worker % zones)) for worker in workers], replicas, before)
    return SlotTable(before.epoch + 1, *plan), time.process_time() - begin


def moved(before: SlotTable, after: SlotTable) -> tuple[int, int]:
    """Owners that changed, and places that are new."""
    pairs = [(before.owners(slot), after.owners(slot)) for slot in range(SLOTS)]
    return sum(old[0] != new[0] for old, new in pairs), sum(len(set(new).difference(old)) for old, new in pairs)


def shared(table: SlotTable, workers: int) -> str:
    """Slots that two workers have in common."""
    pairs = Counter(pair for slot in range(SLOTS) for pair in combinations(sorted(table.owners(slot)), 2))
    every = workers * (workers - 1) // 2
    least = min(pairs.values()) if len(pairs) == every else 0
    return f"{least} / {pairs.total() / every:.4g} / {max(pairs.values())}"


def main() -> None:
    """Print a line for each number of workers and each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="3,10,100,1000,3000")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--zones", type=int, default=1)
    options = parser.parse_args()
    print(f"{machine()}; {options.replicas} replicas, {options.zones} zones")
    for count in map(int, options.workers.split(",")):
        workers = list(range(1, count + 1))
        table, took_s = planned(workers, options.replicas, options.zones, EMPTY)
        size = len(pack_delta(table.whole()))
        print(f"{count:5} from nothing {took_s:5.2f} s, {size:,} bytes packed; shared {shared(table, count)}")
        lost = workers[count // 2]
        for what, after in (("joined", [*workers, count + 1]), ("left", [each for each in workers if each != lost])):
            new, took_s = planned(after, options.replicas, options.zones, table)
            who = new if what == "joined" else table
            share = who.counts()[count + 1 if what == "joined" else lost]
            owners, places = moved(table, new)
            size = len(pack_delta(table.delta_to(new)))
            print(
                f"      one {what:7}  {took_s:5.2f} s, {size:,} bytes packed; shared {shared(new, len(after))}; "
                f"moved {owners:,} owners (share {share:,}), {places:,} places"
            )


if __name__ == "__main__":
    main()
