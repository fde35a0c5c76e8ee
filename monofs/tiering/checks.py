"""The named invariants of a cache, checked from outside: shared by tests, the simulator and ``monofs admin fsck``.

Each check returns findings, at most 100; an empty list means it holds. Called on the owner's thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec

from monofs.tiering.blockfile import base_of, file_groups, first_of, is_busy
from monofs.tiering.cache import Cache
from monofs.tiering.directory import Directory
from monofs.tiering.files import check_pages, file_name
from monofs.tiering.group import Group, mask_bytes
from monofs.tiering.index import ASIDE, GROUPS, KEPT, KEY, PINS, Record
from monofs.tiering.recovery import has_size

FINDINGS_MAX = 100


def check_cache(cache: Cache, *, disk: bool = True, pages: bool = False) -> dict[str, list[str]]:
    """Every invariant by name. ``disk`` False: only what can be told without waiting for a disk. ``pages``: read every page too."""
    checks = dict(_IN_MEMORY)
    if disk:
        cache.settle()
        cache.index.flush()
        checks |= _ON_DISK
    if pages:
        checks["pages-match-their-crc"] = _pages
    return {name: list(islice(check(cache), FINDINGS_MAX)) for name, check in checks.items()}


def _show(group: Group) -> str:
    return f"content {group.content} group {group.number} file {group.file:x}"


def _groups_by_directory(cache: Cache) -> dict[Directory, list[Group]]:
    groups: dict[Directory, list[Group]] = {directory: [] for directory in cache.directories}
    for group in cache.table:
        groups[group.directory].append(group)
    return groups


def _usage(cache: Cache) -> Iterator[str]:
    for directory, groups in _groups_by_directory(cache).items():
        every = [*groups, *directory.lingering]
        numbers = {
            "used": (directory.used, directory.copying + sum(_counted(group) for group in every)),
            "reserved": (directory.reserved, directory.copying + sum(mask_bytes(g.length, g.reserved) for g in every)),
            "pinned": (directory.pinned, sum(group.present_bytes for group in groups if group.pinned)),
            "groups": (directory.groups, len(groups)),
        }
        for name, (kept, counted) in numbers.items():
            if kept != counted:
                yield f"{directory.spec.directory}: {name} is kept as {kept} and counted as {counted}"
    if cache.table.count != sum(1 for _ in cache.table):
        yield f"the table is kept as {cache.table.count} groups"


def _counted(group: Group) -> int:
    return mask_bytes(group.length, group.present | group.reserved)


def _quota(cache: Cache) -> Iterator[str]:
    for directory in cache.directories:
        # what cannot be evicted may exceed a quota that was lowered at this start
        if directory.writable and directory.used > directory.quota and directory.policy.bytes:
            yield f"{directory.spec.directory}: {directory.used} bytes used of {directory.quota}"


def _shares(cache: Cache) -> Iterator[str]:
    counted: dict[int, int] = {}
    for group in cache.table:
        if group.policy:
            counted[group.policy] = counted.get(group.policy, 0) + group.used_bytes
    kept = {policy: share.used for policy, share in cache.shares.held()}
    for policy in sorted(counted.keys() | kept.keys()):
        if counted.get(policy, 0) != kept.get(policy, 0):
            yield f"policy {policy}: used is kept as {kept.get(policy, 0)} and counted as {counted.get(policy, 0)}"


def _group_quota(cache: Cache) -> Iterator[str]:
    loose = {group.policy for group in cache.table if group.listed and not is_busy(group)}
    for policy, share in cache.shares.held():
        room = cache.shares.room(policy)
        if room is not None and room < 0 and policy in loose:
            yield f"policy {policy}: {share.used} bytes used of {share.used + room}"


def _kept(cache: Cache) -> Iterator[str]:
    for group in cache.table:
        if group.kept != (group.content in cache.kept):
            yield f"{_show(group)}: kept is {group.kept}"
        if group.kept and group.directory.attached and not group.directory.durable:
            yield f"{_show(group)} is kept in {group.directory.spec.directory}, which is not durable"
        if group.lost & group.present or (group.lost and not group.kept):
            yield f"{_show(group)}: lost {group.lost:x}, present {group.present:x}, kept {group.kept}"
    for aside in cache.aside.values():
        if aside.group is not None and (aside.group.alive or not aside.group.holds):
            yield f"{_show(aside.group)} is set aside and alive {aside.group.alive}, holds {aside.group.holds}"


def _one_place(cache: Cache) -> Iterator[str]:
    seen: dict[int, Group] = {}
    for group in [*cache.table, *(g for d in cache.directories for g in d.lingering)]:
        other = seen.setdefault(group.file, group)
        first = first_of(group.number, group.layout)
        if other is not group and (group.block is None or group.block is not other.block):
            yield f"{_show(group)} and {_show(other)} share a file"
        if group.block is not None and (
            group not in group.block.groups or first is None or group.base != base_of(group.number, first)
        ):
            yield f"{_show(group)} lies at {group.base} of a file for several"
        if group.alive and cache.table.get(*group.key) is not group:
            yield f"{_show(group)} is alive but not the one found by its key"


def _presence(cache: Cache) -> Iterator[str]:
    for group in cache.table:
        if group.present & group.reserved or (group.present | group.reserved) & ~group.pages:
            yield f"{_show(group)}: present {group.present:x}, reserved {group.reserved:x} of {group.pages:x}"
        if not (group.present or group.reserved or group.holds or group.lost):
            yield f"{_show(group)} is empty and unused"
        if group.holds < 0 or not group.alive:
            yield f"{_show(group)}: holds {group.holds}, alive {group.alive}"
    for directory in cache.directories:
        for group in directory.lingering:
            if group.alive or not (is_busy(group) or any(mate.alive for mate in file_groups(group))):
                yield f"{_show(group)} lingers without reason"


def _order(cache: Cache) -> Iterator[str]:
    for directory, groups in _groups_by_directory(cache).items():
        listed, victim = list(directory.policy), directory.policy.victim()
        ranks = [cache.shares.rank_of(group.policy) for group in listed]
        if ranks != sorted(ranks) or (victim is not None and cache.shares.rank_of(victim.policy) != ranks[0]):
            yield f"{directory.spec.directory}: a group of higher priority goes before one of lower"
        for group in listed:
            if group.pinned or group.kept or group.reserved or not group.present or not group.alive or not group.listed:
                yield f"{_show(group)} is in the order of eviction"
        for group in groups:
            evictable = group.present and not (group.pinned or group.kept or is_busy(group))
            if evictable and not group.listed:
                yield f"{_show(group)} could be evicted but is not in the order"
        if len(listed) != sum(1 for group in groups if group.listed):
            yield f"{directory.spec.directory}: {len(listed)} groups in the order, not those marked so"
        if directory.policy.bytes != sum(group.present_bytes for group in listed):
            yield f"{directory.spec.directory}: the order's bytes are kept as {directory.policy.bytes}"


def _pins(cache: Cache) -> Iterator[str]:
    for group in cache.table:
        if group.pinned != (group.content in cache.pins):
            yield f"{_show(group)}: pinned is {group.pinned}"
    stored = {int.from_bytes(key, "big") for key, _ in cache.index.scan(PINS)}
    if stored != cache.pins:
        yield f"{len(stored ^ cache.pins)} pins differ between memory and index"


def _records(cache: Cache) -> Iterator[str]:
    expected = {KEY.pack(*group.key): group for group in cache.table if group.present or group.lost}
    for key, value in cache.index.scan(GROUPS):
        group = expected.pop(key, None)
        if group is None:
            if key not in cache.absent:
                yield f"record {key.hex()} has no group"
            continue
        record = msgspec.msgpack.decode(value, type=Record)
        present = group.present | group.lost
        stored = (record.directory, record.file, record.base, record.length, record.present, record.crcs, record.layout)
        if stored != (group.directory.number, group.file, group.base, group.length, present, group.crcs, group.layout):
            yield f"{_show(group)} differs from its record"
        if (record.flags, record.cache_group) != (KEPT if group.kept else 0, group.cache_group):
            yield f"{_show(group)}: kept {group.kept}, group {group.cache_group} differ from its record"
    for group in expected.values():
        yield f"{_show(group)} has no record"
    if {key for key, _ in cache.index.scan(ASIDE)} != cache.aside.keys():
        yield "what is set aside differs from its records"


def _files(cache: Cache) -> Iterator[str]:
    for group in cache.table:
        if not group.present or not group.directory.attached:
            continue
        try:
            size = os.stat(file_name(group.file), dir_fd=group.directory.pages_fd).st_size
        except FileNotFoundError:
            yield f"{_show(group)}: no file"
            continue
        if not has_size(group, size):
            yield f"{_show(group)}: the file has {size} bytes, not {group.base + group.length}"


def _orphans(cache: Cache) -> Iterator[str]:
    for directory, groups in _groups_by_directory(cache).items():
        if not directory.attached or not directory.writable or directory.copying:
            continue
        known = {file_name(group.file) for group in (*groups, *directory.lingering)}
        top = os.path.join(directory.spec.directory, "files")
        for path, _, names in os.walk(top):
            for name in names:
                shown = os.path.relpath(os.path.join(path, name), top)
                if shown not in known and shown != "probe":
                    yield f"{directory.spec.directory}: file {shown} belongs to no group"


def _pages(cache: Cache) -> Iterator[str]:
    for group in cache.table:
        bad = check_pages(group, group.present) if group.directory.attached else 0
        if bad:
            yield f"{_show(group)}: bad pages {bad:x}"


_IN_MEMORY: dict[str, Callable[[Cache], Iterator[str]]] = {
    "usage-is-the-sum-of-pages": _usage,
    "quota-is-never-exceeded": _quota,
    "a-policy's-share-is-the-sum-of-its-pages": _shares,
    "a-policy's-quota-is-never-exceeded": _group_quota,
    "kept-pages-are-safe": _kept,
    "a-file-has-the-groups-of-one-block": _one_place,
    "presence-is-consistent": _presence,
    "order-holds-what-may-be-evicted": _order,
}
_ON_DISK: dict[str, Callable[[Cache], Iterator[str]]] = {
    "pins-are-marked": _pins,
    "records-are-the-groups": _records,
    "files-exist-with-their-size": _files,
    "no-file-without-group": _orphans,
}
