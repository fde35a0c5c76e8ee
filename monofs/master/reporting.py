"""REPORT, CONF, FSCK and PING: what an operator asks a master."""

from __future__ import annotations

import time
from collections.abc import Callable
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
from monofs.model.mount import Mount
from monofs.model.principal import Right
from monofs.rpc.api import ConfAnswer, Empty, FsckAnswer, Pong, ReportAnswer, Setting
from monofs.rpc.service import Call

ODD_SHOWN = 100


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

    def report(self, _: Empty, call: Call) -> ReportAnswer:
        """The state of the cluster in sections: cluster, journal, namespace, freshness, feed, mounts, workers, odd names."""
        check_access(call.principal, Right.READ)
        namespace = self._namespace
        oldest, newest = namespace.feed_bounds()
        sections: dict[str, dict[str, Any]] = {
            "cluster": {
                "id": namespace.cluster.hex(),
                "incarnation": namespace.incarnation,
                "version": __version__,
                "leads": self._proposer.leads,
                "term": self._proposer.term,
                "epoch": self._members.epoch,
                "level": namespace.level,
                "uptime_s": round(time.monotonic() - self._began, 1),
            },
            "journal": self._journal.status(),
            "namespace": dict(namespace.counts()),
            "freshness": dict(self._loader.freshness.counts()),
            "feed": {"oldest": oldest, "newest": newest},
            "mounts": {
                mount.path: self._mount(mount) for _, mount in sorted(namespace.mounts(), key=lambda pair: pair[0])
            },
            "workers": self._workers(),
            "odd_names": {
                "seen": self._loader.merger.odd_seen,
                "shown": [f"{path}: {name!r}" for path, name in list(self._loader.merger.odd)[:ODD_SHOWN]],
            },
        }
        return ReportAnswer(sections)

    def _mount(self, mount: Mount) -> dict[str, Any]:
        error = self._stores.error_of(mount)
        return {"id": mount.id, "uri": mount.uri, "readonly": mount.readonly, "state": error or "ok"}

    def _workers(self) -> dict[str, Any]:
        """Those this master has heard, and those with slots, or told to leave, that it has not: since it began to lead, or for an hour."""
        owned = self._namespace.slots.counts()
        shares = {worker: (weight, zone) for worker, weight, zone in self._namespace.known_slots.shares}
        rows = {}
        for worker in sorted({*self._members.members, *(shares if self._proposer.leads else ())}):
            weight, zone = shares.get(worker, (0, ""))
            member = self._members.members.get(worker)
            rows[str(worker)] = {
                "address": member.info.address if member else "",
                "unix": member.info.unix if member else "",
                "live": member is not None and member.live,
                "leaving": weight == LEAVING,
                "weight": member.weight if member else max(weight, 0),
                "zone": member.zone if member else zone,
                "slots": owned.get(worker, 0),
                "capacity_bytes": member.info.capacity_bytes if member else None,
                "used_bytes": member.info.used_bytes if member else None,
                "cursor": member.cursor if member else None,
            }
        return rows

    def conf(self, _: Empty, call: Call) -> ConfAnswer:
        """The effective settings; secrets are left out by the loader."""
        check_access(call.principal, Right.READ)
        return ConfAnswer(self._settings())

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
