"""The fewest places that must move from one slot table to the next: by a flow of least cost, so without the planner's own ideas."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

Rows = Sequence[Sequence[int]]
_MANY = 1 << 40


class Flow:
    """Edges with room and cost between numbered nodes."""

    def __init__(self) -> None:
        self._out: list[list[int]] = []
        self._to: list[int] = []
        self._room: list[int] = []
        self._cost: list[int] = []

    def node(self) -> int:
        self._out.append([])
        return len(self._out) - 1

    def edge(self, start: int, end: int, room: int = _MANY, cost: int = 0) -> None:
        for at, to, most, price in ((start, end, room, cost), (end, start, 0, -cost)):
            self._out[at].append(len(self._to))
            self._to.append(to)
            self._room.append(most)
            self._cost.append(price)

    def cost(self, source: int, sink: int, amount: int) -> int:
        """The least it costs to send so much, along cheapest paths one after the other."""
        total = 0
        while amount:
            distance, by = self._cheapest(source)
            path, at = [], sink
            while at != source:
                path.append(by[at])
                at = self._to[by[at] ^ 1]
            sent = min(amount, *(self._room[edge] for edge in path))
            for edge in path:
                self._room[edge] -= sent
                self._room[edge ^ 1] += sent
            amount, total = amount - sent, total + sent * distance[sink]
        return total

    def _cheapest(self, source: int) -> tuple[dict[int, int], dict[int, int]]:
        distance, by, queue = {source: 0}, {}, deque([source])
        while queue:
            at = queue.popleft()
            for edge in self._out[at]:
                to, cost = self._to[edge], distance[at] + self._cost[edge]
                if self._room[edge] and cost < distance.get(to, _MANY):
                    distance[to], by[to] = cost, edge
                    (queue.append if self._cost[edge] > 0 else queue.appendleft)(to)
        return distance, by


def least_places(before: Rows, listed: Mapping[int, int], group: Mapping[int, str]) -> int:
    """Places on workers that were not listed for the slot: of all tables that list workers so often, and no two of a group in one slot, the fewest."""
    flow, slots = Flow(), Counter(tuple(sorted(row)) for row in before)
    source, sink = flow.node(), flow.node()
    workers = {worker: flow.node() for worker in listed}
    groups = {name: flow.node() for name in set(group.values())}
    for worker, count in listed.items():
        flow.edge(workers[worker], sink, count)
        flow.edge(groups[group[worker]], workers[worker])
    width = sum(listed.values()) // len(before)
    for row, count in slots.items():
        alike = flow.node()
        flow.edge(source, alike, width * count)
        for name, of_group in groups.items():
            one = flow.node()
            flow.edge(alike, one, count)
            flow.edge(one, of_group, cost=1)
            for worker in row:
                if group.get(worker) == name:
                    flow.edge(one, workers[worker], count)
    return flow.cost(source, sink, width * len(before))
