"""SET_POLICY: settings of a path and everything below it. The path need not exist."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import SetPolicy
from monofs.metadata.tables import POLICIES_MAX, Policy
from monofs.model.block import is_layout
from monofs.model.errors import InvalidArgument, Overloaded
from monofs.model.options import Priority, WriteType
from monofs.model.paths import format_path, parse_path
from monofs.model.slots import REPLICAS_MAX

_WRITE_TYPES = frozenset(WriteType)
_PRIORITIES = frozenset(Priority)
_NUMBER_MAX = 1 << 62
NEVER_MS = -1000
"""The sync interval that means: never look again."""


def set_policy(draft: Draft, change: SetPolicy) -> int:
    """The policy's id, which it keeps when it is set anew: cache groups are named by it. 0: all None removed it."""
    path = format_path(parse_path(change.path))
    known = draft.state.known_policies.by_path
    before = known.get(path)
    _check(change)
    settings = (change.sync_interval_ms, change.write_type, change.quota_bytes, change.priority, change.ttl_s)
    if all(value is None for value in (*settings, change.layout, change.replicas)):
        if before is not None:
            draft.put_policy(path, None)
        return 0
    if before is None:
        if len(known) >= POLICIES_MAX:
            raise Overloaded(f"{POLICIES_MAX} paths have a policy already")
        draft.meta.last_policy += 1
    number = draft.meta.last_policy if before is None else before.id
    policy = Policy(number, path, *settings, draft.index, change.layout, change.replicas)
    draft.put_policy(path, policy)
    return policy.id


def _check(change: SetPolicy) -> None:
    interval_ms = change.sync_interval_ms
    if interval_ms is not None and interval_ms != NEVER_MS and not 0 <= interval_ms < _NUMBER_MAX:
        raise InvalidArgument("a sync interval is -1 (never), 0 (always) or a time")
    if change.write_type is not None and change.write_type not in _WRITE_TYPES:
        raise InvalidArgument(f"{change.write_type} is no write type: give one of {', '.join(WriteType)}")
    if change.priority is not None and change.priority not in _PRIORITIES:
        raise InvalidArgument(f"{change.priority} is no priority: give one of {', '.join(Priority)}")
    if change.replicas is not None and not 0 < change.replicas <= REPLICAS_MAX:
        raise InvalidArgument(f"a cached block has 1 to {REPLICAS_MAX} replicas")
    if change.layout is not None and not is_layout(change.layout):
        raise InvalidArgument("a layout is `whole`, or blocks of a power of two from 64 MiB to 1 TiB")
    for value in (change.quota_bytes, change.ttl_s):
        if value is not None and not 0 <= value < _NUMBER_MAX:
            raise InvalidArgument("a quota and a time to live are not below 0")
