"""POLICY_SET and POLICY_LIST, and what workers are told of policies.

A policy says something of a path and everything below; per field the deepest that says something wins (``namespace.policy_for``). What it
says takes effect where it is asked for: the sync interval in loading.py, the write type in writing.py, quota, priority and life of pages
in the workers, replicas there, in loads and in clients, the layout when a content begins (metadata/ops). The interval governs access, as a mount's does: nothing is synced by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from monofs.master.access import check_access
from monofs.master.auditing import audited
from monofs.master.proposing import Proposer
from monofs.metadata.entries import SetPolicy
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import LAYOUT_LEVEL, REPLICAS_LEVEL, Policy
from monofs.model.errors import InvalidArgument, NotReady
from monofs.model.options import Priority, sync_interval_ms
from monofs.model.paths import format_path, parse_path
from monofs.model.principal import Right
from monofs.rpc.api import Empty, GroupSpec, PolicyInfo, PolicyListAnswer, PolicySetRequest
from monofs.rpc.service import Call


def group_specs(namespace: Namespace) -> list[GroupSpec]:
    """The cache groups as workers keep them: one for each policy, merged with those above it."""
    specs = []
    for policy in namespace.policies():
        merged = namespace.policy_for(parse_path(policy.path))
        specs.append(
            GroupSpec(
                policy.id,
                merged.quota_bytes or 0,
                merged.priority or Priority.MEDIUM,
                merged.ttl_s or 0,
                merged.replicas or 1,
            )
        )
    return specs


class Policies:
    """Handlers of one master; ``used_bytes`` tells what live workers have cached, by policy id; ``replicas`` is how many workers a slot lists at most."""

    def __init__(
        self, namespace: Namespace, proposer: Proposer, used_bytes: Callable[[], dict[int, int]], replicas: int
    ) -> None:
        self._namespace, self._proposer, self._used_bytes = namespace, proposer, used_bytes
        self._replicas = replicas

    def set(self, request: PolicySetRequest, call: Call) -> Deferred[PolicyInfo]:
        """Replace a path's policy, or remove it when nothing is said."""
        return audited(call, "policy set", request.policy.path, "").around(self._set(request, call))

    async def _set(self, request: PolicySetRequest, call: Call) -> PolicyInfo:
        check_access(call.principal, Right.ADMIN)
        wanted = request.policy
        path = format_path(parse_path(wanted.path))
        if wanted.replicas is not None and self._namespace.level < REPLICAS_LEVEL:
            raise NotReady("replicas can be set once every master runs this release: start it on the others")
        if wanted.layout is not None and self._namespace.level < LAYOUT_LEVEL:
            raise NotReady("layouts can be set once every master runs this release: start it on the others")
        self._check_replicas(path, wanted.replicas or 1)
        change: Any = SetPolicy(
            self._proposer.stamp(request.request),
            path,
            sync_interval_ms(wanted.sync_interval_s),
            wanted.write_type,
            wanted.quota_bytes,
            wanted.priority,
            wanted.ttl_s,
            wanted.layout,
            wanted.replicas,
        )
        await self._proposer.propose(change)
        used = self._used_bytes()
        return next(
            (self._info(each, used) for each in self._namespace.policies() if each.path == path), PolicyInfo(path)
        )

    def _check_replicas(self, path: str, replicas: int) -> None:
        """What was set before, when more were possible, may stay."""
        before = next((each.replicas for each in self._namespace.policies() if each.path == path), None)
        if replicas > self._replicas and replicas != before:
            raise InvalidArgument(
                f"{replicas} copies cannot be kept: each slot lists {self._replicas} workers at most. Set namespace.replicas to {replicas} on every master"
                f" and restart them, or ask for {self._replicas}"
            )

    def list(self, _: Empty, call: Call) -> PolicyListAnswer:
        """All policies, as they were set."""
        check_access(call.principal, Right.READ)
        used = self._used_bytes()
        return PolicyListAnswer([self._info(policy, used) for policy in self._namespace.policies()])

    @staticmethod
    def _info(policy: Policy, used: dict[int, int]) -> PolicyInfo:
        interval_ms = policy.sync_interval_ms
        return PolicyInfo(
            policy.path,
            None if interval_ms is None else interval_ms / 1000,
            policy.write_type,
            policy.quota_bytes,
            policy.priority,
            policy.ttl_s,
            policy.id,
            used.get(policy.id, 0),
            policy.layout,
            policy.replicas,
        )
