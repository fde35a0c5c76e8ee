"""Measuring a node, or the cluster as its master hears of it, once a second: totals become rates, which go into the history.

Invariant: a rate is never negative and never includes what a source had counted before it was first seen: a worker that restarts begins from 0, one that is new adds nothing in its
first second. Not here: where rates are kept (history.py), who shows them (topics.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from monofs.observe.metrics import LATENCY_BUCKETS_S, RPC_REQUESTS, RPC_TIME, quantile
from monofs.observe.totals import TOTALS

RATES = tuple(f"{name}_s" for name in TOTALS)
GAUGES = (
    "hit_ratio",
    "operations_s",
    "latency_p50_s",
    "latency_p99_s",
    "used_bytes",
    "capacity_bytes",
    "workers",
    "intents",
)
SERIES = (*RATES, *GAUGES)
METADATA = frozenset(
    {"STAT", "STAT_MANY", "LIST", "OPEN", "OPEN_MANY", "COMPARE", "MAKE_DIRECTORY", "CREATE", "DELETE", "RENAME", "SET_PIN", "BEGIN_WRITE", "COPY", "REMOVE_TREE", "TOUCH"}
)  # fmt: skip
"""What clients ask of the namespace: not what nodes ask of each other, nor what a console asks."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a node knows at one moment. ``sources``: totals by who told them."""

    sources: Mapping[str, Sequence[float]] = field(default_factory=dict)
    used_bytes: float = 0
    capacity_bytes: float = 0
    workers: float = 0
    intents: float = 0


class Recording:
    """Turns moments into rows of :data:`SERIES`."""

    def __init__(self) -> None:
        self._before: dict[str, Sequence[float]] = {}
        self._operations = -1.0
        self._times: list[int] = []
        self._at_s = 0.0

    def row(self, standing: Standing, at_s: float) -> list[float]:
        """The values of this moment; ``at_s`` is monotonic."""
        elapsed_s = max(at_s - self._at_s, 0.001) if self._at_s else 1.0
        self._at_s = at_s
        more = [0.0] * len(TOTALS)
        for source, values in standing.sources.items():
            before = self._before.get(source, values)
            if values != before:  # of thousands of workers most are quiet
                for at, value, old in zip(range(len(more)), values, before, strict=False):
                    more[at] += value - old if value >= old else value
        self._before = {source: values for source, values in standing.sources.items() if values}
        grown = dict(zip(TOTALS, more, strict=True))
        asked = grown["page_hits"] + grown["page_misses"]
        gauges = {
            "hit_ratio": grown["page_hits"] / asked if asked else float("nan"),
            **self._calls(elapsed_s),
            "used_bytes": standing.used_bytes,
            "capacity_bytes": standing.capacity_bytes,
            "workers": standing.workers,
            "intents": standing.intents,
        }
        return [grown[name] / elapsed_s for name in TOTALS] + [gauges[name] for name in GAUGES]

    def _calls(self, elapsed_s: float) -> dict[str, float]:
        """Requests about the namespace that this node answered, and how long they took."""
        total = sum(child.value for (method, _), child in list(RPC_REQUESTS.children.items()) if method in METADATA)
        grown = max(total - self._operations, 0.0) if self._operations >= 0 else 0.0
        self._operations = total
        counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
        for (method,), timer in list(RPC_TIME.children.items()):
            if method in METADATA:
                counts = [have + more for have, more in zip(counts, timer.counts, strict=True)]
        fresh = [now - before for now, before in zip(counts, self._times or counts, strict=True)]
        self._times = counts
        return {
            "operations_s": grown / elapsed_s,
            "latency_p50_s": quantile(fresh, 0.5),
            "latency_p99_s": quantile(fresh, 0.99),
        }
