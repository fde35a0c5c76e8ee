"""Policies, kept decoded in memory and merged: the deepest that says something wins, per field.

Invariant: equal to the table ``policies``.
"""

from __future__ import annotations

from monofs.metadata.store import Store
from monofs.metadata.tables import POLICIES, Policy, decode_policy
from monofs.model.block import DEFAULT_LAYOUT
from monofs.model.paths import Parts, parse_path

NO_POLICY = Policy(0, "/")
"""Of paths for which nothing was set."""
_PAGE = 1000


class KnownPolicies:
    """All policies by path."""

    def __init__(self, store: Store) -> None:
        self.by_path: dict[str, Policy] = {}
        self._merged: dict[Parts, Policy] | None = None
        after = b""
        while page := store.scan(POLICIES, after, _PAGE):
            for _, raw in page:
                policy = decode_policy(raw)
                self.by_path[policy.path] = policy
            after = page[-1][0]

    def take(self, path: str, policy: Policy | None) -> None:
        """Take over a path's policy; None: it has none."""
        if policy is None:
            self.by_path.pop(path, None)
        else:
            self.by_path[path] = policy
        self._merged = None

    def of(self, parts: Parts) -> Policy:
        """What holds for a path: ``id`` and ``path`` are those of the deepest policy over it, its fields merged with those above."""
        if not self.by_path:
            return NO_POLICY
        merged = self._merged
        if merged is None:
            merged = self._merged = self._merge()
        for depth in range(len(parts), -1, -1):
            found = merged.get(parts[:depth])
            if found is not None:
                return found
        return NO_POLICY

    def layout_of(self, parts: Parts) -> int:
        """The layout of a content that begins at a path now; it keeps it, whatever policies say later."""
        layout = self.of(parts).layout
        return DEFAULT_LAYOUT if layout is None else layout

    @property
    def say_layouts(self) -> bool:
        """Whether any policy says one; if not, all have the default."""
        return any(policy.layout is not None for policy in self.by_path.values())

    def _merge(self) -> dict[Parts, Policy]:
        merged: dict[Parts, Policy] = {}
        for parts, policy in sorted((parse_path(path), policy) for path, policy in self.by_path.items()):
            above = next((merged[parts[:d]] for d in range(len(parts) - 1, -1, -1) if parts[:d] in merged), NO_POLICY)
            merged[parts] = Policy(
                policy.id,
                policy.path,
                above.sync_interval_ms if policy.sync_interval_ms is None else policy.sync_interval_ms,
                above.write_type if policy.write_type is None else policy.write_type,
                above.quota_bytes if policy.quota_bytes is None else policy.quota_bytes,
                above.priority if policy.priority is None else policy.priority,
                above.ttl_s if policy.ttl_s is None else policy.ttl_s,
                max(above.changed_index, policy.changed_index),
                above.layout if policy.layout is None else policy.layout,
                above.replicas if policy.replicas is None else policy.replicas,
            )
        return merged
