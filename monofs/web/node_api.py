"""`/api/v1` about the node that serves it: its history, its metrics, who is looking.

Not here: the cluster (cluster_api.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from monofs.model.principal import Right
from monofs.observe import metrics
from monofs.rpc.api import Setting
from monofs.web.history import MINUTES, History
from monofs.web.routes import Parameter, Routes
from monofs.web.viewers import Viewer


class Past(msgspec.Struct):
    """Values by series; ``times_s``: of each, seconds since 1970 UTC. A value that was not there is null."""

    times_s: list[int]
    series: dict[str, list[float | None]]


class Me(msgspec.Struct):
    """Who looks."""

    name: str
    rights: list[str]


class Measure(msgspec.Struct):
    """A metric family; values by labels as ``name=value,…``."""

    kind: str
    doc: str
    labels: list[str]
    values: dict[str, float]
    quantiles: dict[str, list[float]] = {}
    """Of a histogram, by labels: what half and 99 % of all took at most, in seconds, estimated within their buckets; and their mean."""


def me(viewer: Viewer) -> Me:
    """Who is asking, and what they may."""
    return Me(viewer.principal.name, [str(right.name).lower() for right in viewer.principal.rights])


def measures(_: Viewer) -> dict[str, Measure]:
    """Counters and gauges of this node, by name, and of each histogram the count and quantiles."""
    shown = {}
    for family in metrics.FAMILIES:
        values: dict[str, float] = {}
        quantiles: dict[str, list[float]] = {}
        read: Any = family.read() if family.read else dict(family.children)
        for labels, child in read.items():
            key = ",".join(f"{name}={text}" for name, text in zip(family.labels, labels, strict=True))
            if family.kind == "histogram":
                count = values[key] = sum(child.counts)
                quantiles[key] = [child.quantile(0.5), child.quantile(0.99), child.sum / count if count else 0.0]
            else:
                values[key] = getattr(child, "value", child)
        shown[family.shown_name] = Measure(family.kind, family.doc, list(family.labels), values, quantiles)
    return shown


def add_routes(
    routes: Routes,
    history: History,
    settings: Callable[[], list[Setting]] = list,
    now_s: Callable[[], float] = time.time,
) -> None:
    """All of these. ``settings``: of this node, without its secrets. ``now_s``: by which the history was put."""

    def past(_: Viewer, span_s: int) -> Past:
        """What was measured in the last seconds: by the second up to an hour, then by the minute up to a week."""
        times, series = history.get(now_s(), span_s)
        return Past(times, {name: list(values) for name, values in series.items()})

    def own_configuration(_: Viewer) -> list[Setting]:
        """Every setting of this node, with its source."""
        return settings()

    span = Parameter("span_s", "How far back, in seconds.", "integer", default=300, least=1, most=MINUTES * 60)
    routes.add("GET", "/configuration/node", own_configuration, Right.READ, list[Setting])
    routes.add("GET", "/me", me, Right.READ, Me)
    routes.add("GET", "/measures", measures, Right.READ, dict[str, Measure])
    routes.add("GET", "/history", past, Right.READ, Past, span)
