"""Everything the leader works on behind requests, wired together: jobs and their kinds, policies, times to live, events of stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from monofs.master.access import R_OK, check_access
from monofs.master.channels import Channels, Connect, Dial
from monofs.master.consistency import Consistency
from monofs.master.events import Events
from monofs.master.expiring import TTL, Expiring
from monofs.master.issuing import Issuer
from monofs.master.job_delete import Deleting
from monofs.master.job_free import Freeing
from monofs.master.job_load import Loading
from monofs.master.job_move import Moving
from monofs.master.job_sync import Syncing
from monofs.master.jobs import Jobs
from monofs.master.loading import Loader
from monofs.master.locks import Locks
from monofs.master.members import Members
from monofs.master.moving import Mover
from monofs.master.policies import Policies
from monofs.master.proposing import Proposer
from monofs.master.reading import Reading
from monofs.master.stores import Stores
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import JobKind
from monofs.model.paths import parse_path
from monofs.model.principal import Right
from monofs.rpc.api import Empty, Method, NeedsSyncRequest
from monofs.rpc.direct import DirectClient
from monofs.rpc.service import Call, Handler, Service


class Background:
    """Of one master. ``dial`` opens channels to workers; None: there are none to be had. ``service`` is the master's own."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        stores: Stores,
        locks: Locks,
        loader: Loader,
        reading: Reading,
        issuer: Issuer,
        members: Members,
        *,
        service: Service,
        dial: Dial | None,
        connect: Connect | None,
        permissions: bool,
        requests: int,
        patience_s: float,
        replicas: int,
        reactor: Any,
        clock: Callable[[], float],
        now_ns: Callable[[], int],
    ) -> None:
        self._loader, self._reading, self._permissions = loader, reading, permissions
        self.channels = Channels(namespace, members, dial, connect, reactor)
        self._namespace = namespace
        self.mover = mover = Mover(namespace, proposer, stores, locks, loader, reactor=reactor)
        self._deleting = deleting = Deleting(namespace, stores, locks, reactor=reactor)
        syncing = Syncing(namespace, loader)
        self.jobs = Jobs(
            namespace,
            proposer,
            reading,
            {
                JobKind.LOAD: Loading(namespace, loader, syncing, issuer, self.channels, clock).work,
                JobKind.FREE: Freeing(namespace, proposer, members).work,
                JobKind.DELETE: deleting.work,
                JobKind.MOVE: Moving(namespace, proposer, mover, syncing).work,
                JobKind.SYNC: syncing.work,
            },
            permissions=permissions,
            requests=requests,
            patience_s=patience_s,
            reactor=reactor,
            clock=clock,
        )
        self.expiring = Expiring(
            namespace,
            proposer,
            reading,
            DirectClient(service, TTL),
            permissions=permissions,
            now_ns=now_ns,
            clock=clock,
        )
        self.events = Events(namespace, proposer, loader, reactor=reactor)
        self._policies = Policies(namespace, proposer, members.group_bytes, replicas)
        self._consistency = Consistency(namespace, loader.merger, stores, reading, permissions=permissions)

    def handlers(self, behind_barrier: Callable[[Handler], Handler]) -> dict[Method, Handler]:
        """The methods answered here."""
        return {
            Method.JOB_ADD: self.jobs.add,
            Method.JOB_LIST: behind_barrier(self.jobs.list),
            Method.JOB_STEER: self.jobs.steer,
            Method.POLICY_SET: self._policies.set,
            Method.POLICY_LIST: behind_barrier(self._policies.list),
            Method.SET_TTL: self.expiring.set_ttl,
            Method.COMPARE: behind_barrier(self._consistency.compare),
            Method.NEEDS_SYNC: self.needs_sync,
        }

    def needs_sync(self, request: NeedsSyncRequest, call: Call) -> Empty:
        """NEEDS_SYNC: what was seen of a path and everything below is not trusted any more."""
        parts = parse_path(request.path)
        check_access(call.principal, Right.READ, self._reading.chain(parts), R_OK if self._permissions else 0)
        self._loader.distrust(parts)
        return Empty()

    def make_room(self, job: int, key: str) -> Deferred[None]:
        """Fires once no object that a tree job is to move or delete lies at a natural key any more; or when another change of that key is
        in the way, for which the asker waits."""
        record = self._namespace.job(job)
        if record is None:
            return succeed(None)
        maker = self.mover if record.kind == JobKind.MOVE else self._deleting
        return Deferred.fromCoroutine(maker.make_room(record, key))

    async def stop(self) -> None:
        """End everything at its present step."""
        self.events.stop()
        await self.jobs.stop()
        self.channels.close()
