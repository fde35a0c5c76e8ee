"""What each policy's cache group may hold and holds: quota, priority, time to live. Pure: time is an argument.

A *share* is the pages of one policy id in all directories together. Invariant: ``used`` is the sum of the bytes present or promised in
its groups that are in the cache. Pages of policy 0 belong to no share. Not here: making room (`holdings`), the order of eviction
(`eviction`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from monofs.model.options import Priority
from monofs.tiering.group import Group

_RANKS: dict[str, int] = {Priority.LOW: 0, Priority.MEDIUM: 1, Priority.HIGH: 2}
_MEDIUM = _RANKS[Priority.MEDIUM]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a policy says about its pages here. Quota None: none; ttl 0: none."""

    quota_bytes: int | None = None
    priority: str = Priority.MEDIUM
    ttl_s: int = 0


NO_RULE = Rule()


class Share:
    """The pages of one policy."""

    __slots__ = ("_ages", "_overdue", "groups", "rule", "used")

    def __init__(self) -> None:
        self.rule = NO_RULE
        self.used = 0
        self.groups: set[Group] = set()
        self._ages: list[tuple[int, int, Group]] | None = None
        """Heap of (admitted, id of the object, group) while there is a time to live; may name groups that have left. Groups of one file may be of one age."""
        self._overdue: list[tuple[int, int, Group]] = []
        """Expired, but in use when looked at."""

    def set_rule(self, rule: Rule) -> None:
        """Take over another rule."""
        self.rule = rule
        if not rule.ttl_s:
            self._ages, self._overdue = None, []
        elif self._ages is None:
            self._ages = [(group.admitted_ns, id(group), group) for group in self.groups]
            heapq.heapify(self._ages)

    def add(self, group: Group) -> None:
        """A group came."""
        self.groups.add(group)
        self.used += group.used_bytes
        if self._ages is not None:
            heapq.heappush(self._ages, (group.admitted_ns, id(group), group))

    def aged(self, group: Group) -> None:
        """A group is older than it was when it came."""
        if self._ages is not None:
            heapq.heappush(self._ages, (group.admitted_ns, id(group), group))

    def remove(self, group: Group) -> None:
        """A group left."""
        self.groups.discard(group)
        self.used -= group.used_bytes

    def expired(self, now_ns: int, most: int) -> Iterator[Group]:
        """Groups older than the time to live that can be dropped now, at most ``most`` looked at. Others are named again later."""
        if self._ages is None:
            return
        if not self._overdue:
            while self._ages and len(self._overdue) < most and self._ages[0][0] + self.rule.ttl_s * 10**9 <= now_ns:
                self._overdue.append(heapq.heappop(self._ages))
        looked, self._overdue = self._overdue[:most], self._overdue[most:]
        for entry in looked:
            group = entry[2]
            if group not in self.groups:
                continue
            if group.listed and not group.holds:
                yield group
            else:
                heapq.heappush(self._ages, (now_ns - self.rule.ttl_s * 10**9 + RETRY_NS, entry[1], group))


RETRY_NS = 10 * 10**9
"""An expired group that was in use is looked at again after so long."""


class Shares:
    """All shares of a cache."""

    def __init__(self) -> None:
        self._shares: dict[int, Share] = {}
        self._rules: dict[int, Rule] = {}

    def rank_of(self, policy: int) -> int:
        """The rank of a policy's pages in the order of eviction: lower ones go first."""
        rule = self._rules.get(policy)
        return _RANKS.get(rule.priority, _MEDIUM) if rule is not None else _MEDIUM

    def room(self, policy: int) -> int | None:
        """Bytes of a policy that fit below its quota, negative above it; None: no quota."""
        rule = self._rules.get(policy)
        if rule is None or rule.quota_bytes is None:
            return None
        share = self._shares.get(policy)
        return rule.quota_bytes - (share.used if share is not None else 0)

    def add(self, group: Group) -> None:
        """A group came into the cache."""
        policy = group.policy
        if not policy:
            return
        share = self._shares.get(policy)
        if share is None:
            share = self._shares[policy] = Share()
            share.set_rule(self._rules.get(policy, NO_RULE))
        share.add(group)

    def remove(self, group: Group) -> None:
        """A group left the cache."""
        share = self._shares.get(group.policy)
        if share is not None:
            share.remove(group)
            if not share.groups:
                del self._shares[group.policy]

    def aged(self, group: Group) -> None:
        """A group is older than it was when it came."""
        share = self._shares.get(group.policy)
        if share is not None:
            share.aged(group)

    def charge(self, group: Group, size: int) -> None:
        """``size`` more (or fewer) bytes of a group in the cache are present or promised."""
        share = self._shares.get(group.policy)
        if share is not None:
            share.used += size

    def set_rules(self, rules: dict[int, Rule]) -> bool:
        """Take over the rules as they are now; a policy that is not named has none. Whether any changed."""
        if rules == self._rules:
            return False
        self._rules = dict(rules)
        for policy, share in self._shares.items():
            rule = rules.get(policy, NO_RULE)
            if rule != share.rule:
                share.set_rule(rule)
        return True

    def held(self) -> list[tuple[int, Share]]:
        """Shares that hold something, with their policy ids."""
        return list(self._shares.items())

    def clear(self) -> None:
        """Forget all pages; the rules stay."""
        self._shares.clear()
