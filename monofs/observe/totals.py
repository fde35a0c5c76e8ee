"""The few totals of a worker that say what it does for the cluster: told to the master with every heartbeat, summed there, charted by the console.

Invariant: each only grows while the process lives, and the order is the wire's: names are added at the end, never moved. A worker that knows more or fewer than
the master does no harm. Not here: rates (web/recording.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monofs.observe.metrics import (
    DESCRIPTOR_BYTES,
    EVICTED_BYTES,
    PAGE_HITS,
    PAGE_MISSES,
    PEER_BYTES,
    SERVED_BYTES,
    STORE_BYTES,
    STORE_REQUESTS,
    STORE_WRITTEN,
    WRITTEN_BYTES,
    Family,
)


def _sum(family: Family, **labels: str) -> Callable[[], float]:
    """The sum of a family's children that have these labels."""
    wanted = [(family.labels.index(name), value) for name, value in labels.items()]

    def total() -> float:
        return sum(
            float(child.value)
            for values, child in list(family.children.items())
            if all(values[at] == value for at, value in wanted)
        )

    return total


_TOTALS: dict[str, Callable[[], float]] = {
    "page_hits": _sum(PAGE_HITS),
    "page_misses": _sum(PAGE_MISSES),
    "cache_bytes": _sum(SERVED_BYTES, source="cache"),
    "through_bytes": _sum(SERVED_BYTES, source="store"),
    "descriptor_bytes": _sum(DESCRIPTOR_BYTES),
    "peer_bytes": _sum(PEER_BYTES),
    "store_read_bytes": _sum(STORE_BYTES),
    "store_written_bytes": _sum(STORE_WRITTEN),
    "store_gets": _sum(STORE_REQUESTS, kind="get"),
    "store_requests": _sum(STORE_REQUESTS),
    "evicted_bytes": _sum(EVICTED_BYTES),
    "written_bytes": _sum(WRITTEN_BYTES),
}
TOTALS = tuple(_TOTALS)
"""Their names, in order."""


def totals() -> list[float]:
    """This process's, in the order of :data:`TOTALS`."""
    return [total() for total in _TOTALS.values()]


def named(values: Sequence[float]) -> dict[str, float]:
    """What a heartbeat told, by name; 0 for what it did not tell."""
    return dict.fromkeys(TOTALS, 0.0) | dict(zip(TOTALS, values, strict=False))
