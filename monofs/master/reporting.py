"""REPORT, CONF, FSCK and PING: what an operator asks a master."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice, zip_longest
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from monofs import __version__
from monofs.journal.face import Journal
from monofs.master.access import check_access
from monofs.master.flushing import flush_through
from monofs.master.loading import Loader
from monofs.master.members import Members
from monofs.master.planning import LEAVING
from monofs.master.proposing import Proposer
from monofs.master.stores import Stores
from monofs.metadata.fsck import check_namespace
from monofs.metadata.namespace import Namespace
from monofs.model.errors import Busy
from monofs.model.paths import format_path
from monofs.model.principal import Right
from monofs.observe.totals import named
from monofs.rpc.api import (
    ConfAnswer,
    ConnectionListAnswer,
    Empty,
    FsckAnswer,
    Pong,
    ReportAnswer,
    ReportRequest,
    Setting,
)
from monofs.rpc.service import Call

ODD_SHOWN = 100
CONNECTIONS_SHOWN = 2000


class Reporting:
    """Handlers of one master; ``settings`` tells the effective configuration."""

    def __init__(
        self,
        namespace: Namespace,
        journal: Journal,
        proposer: Proposer,
        loader: Loader,
        stores: Stores,
        members: Members,
        *,
        settings: Callable[[], list[Setting]],
        now_ns: Callable[[], int],
        reactor: Any,
    ) -> None:
        self._namespace, self._journal, self._proposer = namespace, journal, proposer
        self._loader, self._stores, self._members = loader, stores, members
        self._settings, self._now_ns, self._reactor = settings, now_ns, reactor
        self._began = time.monotonic()
        self._checking: Deferred[FsckAnswer] | None = None
        self._stopping = False

    def ping(self, _: Empty, __: Call) -> Pong:
        """Alive."""
        return Pong(__version__, "master", self._now_ns())

    def report(self, request: ReportRequest, call: Call) -> ReportAnswer:
        """The state of the cluster in sections."""
        check_access(call.principal, Right.READ)
        made: dict[str, Callable[[], dict[str, Any]]] = {
            "cluster": self._cluster,
            "journal": self._journal.status,
            "namespace": lambda: dict(self._namespace.counts()),
            "freshness": lambda: dict(self._loader.freshness.counts()),
            "feed": lambda: dict(zip(("oldest", "newest"), self._namespace.feed_bounds(), strict=True)),
            "mounts": self._mounts,
            "workers": lambda: self._workers(request.worker),
            "all_workers": self._all_workers,
            "odd_names": self._odd_names,
            "beside_directories": self._beside_directories,
        }
        return ReportAnswer({name: make() for name, make in made.items() if name in (request.sections or made)})

    def _cluster(self) -> dict[str, Any]:
        return {
            "id": self._namespace.cluster.hex(),
            "incarnation": self._namespace.incarnation,
            "version": __version__,
            "leads": self._proposer.leads,
            "term": self._proposer.term,
            "epoch": self._members.epoch,
            "level": self._namespace.level,
            "uptime_s": round(time.monotonic() - self._began, 1),
            "now_ms": self._now_ns() // 10**6,
        }

    def _odd_names(self) -> dict[str, Any]:
        merger = self._loader.merger
        return {
            "seen": merger.odd_seen,
            "shown": [f"{path}: {name!r}" for path, name in islice(merger.odd, ODD_SHOWN)],
        }

    def _beside_directories(self) -> dict[str, Any]:
        return {"shown": [format_path(parts) for parts in self._loader.merger.beside_directories()[:ODD_SHOWN]]}

    def _mounts(self) -> dict[str, Any]:
        return {
            mount.path: {
                "id": mount.id,
                "uri": mount.uri,
                "readonly": mount.readonly,
                "state": self._stores.trouble_of(mount) or "ok",
            }
            for _, mount in sorted(self._namespace.mounts(), key=lambda pair: pair[0])
        }

    def _known_workers(self) -> dict[int, tuple[int, str]]:
        """Weight and zone of those this master has heard, and those with slots, or told to leave, that it has not: since it began to lead, or for an hour."""
        shares = {worker: (weight, zone) for worker, weight, zone in self._namespace.known_slots.shares}
        heard = {worker: shares.get(worker, (0, "")) for worker in self._members.members}
        return heard | shares if self._proposer.leads else heard

    def _workers(self, only: int) -> dict[str, Any]:
        owned = self._namespace.slots.counts()
        rows = {}
        for worker, (weight, zone) in sorted(self._known_workers().items()):
            if only not in (0, worker):
                continue
            member = self._members.members.get(worker)
            rows[str(worker)] = {
                "address": member.info.address if member else self._namespace.address_of(worker),
                "unix": member.info.unix if member else "",
                "live": member is not None and member.live,
                "leaving": weight == LEAVING,
                "weight": member.weight if member else max(weight, 0),
                "zone": member.zone if member else zone,
                "slots": owned.get(worker, 0),
                "capacity_bytes": member.info.capacity_bytes if member else None,
                "used_bytes": member.info.used_bytes if member else None,
                "cursor": member.cursor if member else None,
                "heard_s": self._members.silent_s(worker),
                "console": member.console if member else "",
                "totals": named(member.totals) if member and member.totals else {},
            }
        return rows

    def _all_workers(self) -> dict[str, Any]:
        """Those that live, summed up, and how many do not. ``totals``: what those that live did since they began."""
        known = self._known_workers()
        live = {worker: member for worker, member in self._members.members.items() if member.live}
        totals = [sum(column) for column in zip_longest(*(each.totals for each in live.values()), fillvalue=0.0)]
        return {
            "live": len(live),
            "silent": len(known) - len(live),
            "leaving": sum(known[worker][0] == LEAVING for worker in live),
            "used_bytes": sum(member.info.used_bytes for member in live.values()),
            "capacity_bytes": sum(member.info.capacity_bytes for member in live.values()),
            "totals": named(totals) if totals else {},
        }

    def conf(self, _: Empty, call: Call) -> ConfAnswer:
        """The effective settings; secrets are left out by the loader."""
        check_access(call.principal, Right.READ)
        return ConfAnswer(self._settings())

    def connections(self, _: Empty, call: Call) -> ConnectionListAnswer:
        """Who is connected to this master, and how."""
        check_access(call.principal, Right.ADMIN)
        found = call.connection.service.open
        shown = [connection.told() for connection in islice(found, CONNECTIONS_SHOWN)]
        shown.sort(key=lambda connection: connection.since_ns)
        return ConnectionListAnswer(shown, len(found), self._namespace.counts()["clients"])

    def fsck(self, _: Empty, call: Call) -> Deferred[FsckAnswer]:
        """Every named invariant of the namespace as it is now, flushed first, checked by a thread on a snapshot of the database."""
        check_access(call.principal, Right.ADMIN)
        if self._checking is not None:
            raise Busy("the namespace is being checked already: try again shortly")
        checking = self._checking = Deferred.fromCoroutine(self._fsck())

        def over(outcome: FsckAnswer | Failure) -> FsckAnswer | Failure:
            self._checking = None
            return outcome

        return checking.addBoth(over)

    async def _fsck(self) -> FsckAnswer:
        began, store = time.monotonic(), self._namespace.store
        await flush_through(store, self._namespace.applied_index, self._reactor)
        snapshot = store.snapshot()

        def check() -> dict[str, list[str]]:
            try:
                return check_namespace(snapshot, stopped=lambda: self._stopping)
            finally:
                snapshot.close()

        inodes = self._namespace.counts()["inodes"]
        checks = await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), check)
        return FsckAnswer(checks, inodes, time.monotonic() - began)

    async def stop(self) -> None:
        """Cut a check short and wait for its thread: the database is closed next."""
        self._stopping = True
        checking = self._checking
        if checking is not None:
            ended: Deferred[None] = Deferred()

            def end(_: Any) -> None:
                ended.callback(None)

            checking.addBoth(end)
            await ended
