"""`/api/v1` about what the cache holds: what is read most, what left it and why, and how full its tiers are, of all live workers together.

Invariant: a name is shown for a content only if the masters know that very content at that path now: what clients told workers may be old. Not here: policies (cluster_api.py), the working set
over time (node_api.py: the history).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from monofs.model.errors import MonofsError
from monofs.model.ids import ContentId, format_content_id
from monofs.model.principal import Right
from monofs.web.routes import Routes
from monofs.web.viewers import Viewer

ANSWER_S = 2.5
"""How long a worker may take to tell; all of them together, twice as long."""
SHOWN_MAX = 100
"""Of what is hot, and of what left."""
TOLD_MAX, TOLD_LEAST = 20_000, 10
"""Of either, by all workers together, and by each: of thousands of workers, each tells the hottest of its own only."""
MISSING_SHOWN = 20


class HotTold(msgspec.Struct):
    """``path`` '': no path is known to have this content now. ``reads``: lately, each worth half after ten minutes. ``read_ns``: the last one."""

    content: str
    path: str
    reads: float
    read_ns: int
    cached_bytes: int
    size: int | None
    tiers: list[str]
    pinned: bool
    workers: int


class LeftTold(msgspec.Struct):
    """A group (64 MiB of a content at most) that left the cache of a worker. ``why``: evicted, freed, retired, expired or damaged."""

    content: str
    path: str
    group: int
    why: str
    at_ns: int
    worker: int


class TierTold(msgspec.Struct):
    """All storage directories of one tier. ``evicted_bytes`` by reason: ahead (of need), room (a page waited for theirs), quota (of a policy), count (too many groups)."""

    capacity_bytes: int = 0
    used_bytes: int = 0
    pinned_bytes: int = 0
    groups: int = 0
    directories: int = 0
    unusable: int = 0
    evicted_bytes: dict[str, float] = {}
    moved_bytes: dict[str, float] = {}


class CacheTold(msgspec.Struct):
    """``not_admitted``: reads that were served without caching, by reason: full, quota, unusable, no_cache. ``missing``: the first of the workers that did not answer, of which there are ``unanswered``. Counters grow since each worker began."""

    hot: list[HotTold]
    left: list[LeftTold]
    tiers: dict[str, TierTold]
    not_admitted: dict[str, float]
    kept_bytes: float
    workers: int
    missing: list[str]
    unanswered: int = 0


@dataclass(slots=True)
class _Sum:
    """One content on all workers."""

    place: tuple[int, str] = (-1, "")
    reads: float = 0.0
    read_ns: int = 0
    cached_bytes: int = 0
    tiers: set[str] = field(default_factory=set)
    pinned: bool = False
    workers: int = 0


def cache(viewer: Viewer) -> CacheTold:
    """What is hot, what left and why, and the tiers of all workers."""
    told = CacheTold([], [], {}, {}, 0.0, 0, [])
    sums, left = _asked(viewer, told)
    first = sorted(sums.items(), key=lambda pair: -pair[1].reads)[:SHOWN_MAX]
    left.sort(key=lambda pair: -pair[1].at_ns)
    del left[SHOWN_MAX:]
    places = {content: each.place for content, each in first}
    for worker_group in left:
        places.setdefault(*worker_group[0])
    paths = _paths(viewer, places)
    for content, each in first:
        path, size = paths.get(content, ("", None))
        told.hot.append(
            HotTold(
                format_content_id(ContentId(content)),
                path,
                each.reads,
                each.read_ns,
                each.cached_bytes,
                size,
                sorted(each.tiers),
                each.pinned,
                each.workers,
            )
        )
    for (content, _), gone in left:
        gone.path = paths.get(content, ("", None))[0]
        told.left.append(gone)
    _add_tiers(viewer, told)
    told.unanswered = len(told.missing)
    del told.missing[MISSING_SHOWN:]
    return told


def _asked(
    viewer: Viewer, told: CacheTold
) -> tuple[dict[int, _Sum], list[tuple[tuple[int, tuple[int, str]], LeftTold]]]:
    """Sums by content; what left, with its content and where that lies in its store."""
    sums: dict[int, _Sum] = {}
    left: list[tuple[tuple[int, tuple[int, str]], LeftTold]] = []
    live = viewer.fs.report("all_workers").get("all_workers", {}).get("live", 0)
    most = min(max(TOLD_MAX // max(live, 1), TOLD_LEAST), SHOWN_MAX)
    for address, answer in viewer.fs.hot(most, timeout_s=ANSWER_S).items():
        if isinstance(answer, MonofsError):
            told.missing.append(address)
            continue
        for each in answer.hot:
            known = sums.setdefault(each.content, _Sum())
            known.place = (each.mount, each.key) if each.mount >= 0 else known.place
            known.reads += each.reads
            known.read_ns = max(known.read_ns, each.read_ns)
            known.cached_bytes += each.cached_bytes
            known.tiers |= set(each.tiers)
            known.pinned |= each.pinned
            known.workers += 1
        for gone in answer.left:
            shown = LeftTold(
                format_content_id(ContentId(gone.content)), "", gone.group, gone.why, gone.at_ns, answer.worker
            )
            left.append(((gone.content, (gone.mount, gone.key)), shown))
    return sums, left


def _paths(viewer: Viewer, places: dict[int, tuple[int, str]]) -> dict[int, tuple[str, int]]:
    """Path and size of the contents that the masters know to lie where their keys say."""
    mounts = {mount.id: mount.path.rstrip("/") for mount in viewer.fs.mount_list()}
    wanted = {content: f"{mounts[mount]}/{key}" for content, (mount, key) in places.items() if key and mount in mounts}
    found: list[Any] = viewer.fs.stat_many(list(wanted.values()), only_known=True) if wanted else []
    return {
        content: (path, info.size)
        for (content, path), info in zip(wanted.items(), found, strict=True)
        if not isinstance(info, MonofsError) and info.content == content
    }


def _add_tiers(viewer: Viewer, told: CacheTold) -> None:
    missing = dict.fromkeys(told.missing)
    for address, answer in viewer.fs.worker_status(only_live=True, timeout_s=ANSWER_S).items():
        if isinstance(answer, MonofsError):
            missing[address] = None
            continue
        told.workers += 1
        told.kept_bytes += answer.counters.get("monofs_kept_bytes", 0.0)
        for each in answer.tiers:
            tier = told.tiers.setdefault(each.tier, TierTold(evicted_bytes={}, moved_bytes={}))
            tier.capacity_bytes += each.capacity_bytes
            tier.used_bytes += each.used_bytes
            tier.pinned_bytes += each.pinned_bytes
            tier.groups += each.groups
            tier.directories += 1
            tier.unusable += each.state != "ok"
        for key, value in answer.counters.items():
            name, _, inner = key.rstrip("}").partition("{")
            if name not in _COUNTED:
                continue
            labels = dict(pair.split("=", 1) for pair in inner.split(",") if "=" in pair)
            if name == "monofs_not_admitted":
                _grow(told.not_admitted, labels["reason"], value)
            elif name == "monofs_evicted_bytes" and labels["tier"] in told.tiers:
                _grow(told.tiers[labels["tier"]].evicted_bytes, labels["reason"], value)
            elif name == "monofs_moved_bytes" and labels["tier"] in told.tiers:
                _grow(told.tiers[labels["tier"]].moved_bytes, labels["direction"], value)
    told.missing = list(missing)


_COUNTED = frozenset({"monofs_not_admitted", "monofs_evicted_bytes", "monofs_moved_bytes"})


def _grow(sums: dict[str, float], name: str, value: float) -> None:
    sums[name] = sums.get(name, 0.0) + value


def add_routes(routes: Routes) -> None:
    """All of these."""
    routes.add("GET", "/cache", cache, Right.READ, CacheTold, asks="workers")
