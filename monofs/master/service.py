"""The master: its parts wired together, its method table, its start and stop.

Start: hear the role, make the cluster when the namespace is empty (one INITIALIZE with fresh wrapped keys), unwrap the keys, begin duties. The
journal was started before and is stopped after; the namespace belongs to the node. Until the start is through, every method answers ``NotReady``.

Invariant: every reading handler runs behind a read barrier, every handler behind a check of rights.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from monofs import __version__
from monofs.config.schema import Config
from monofs.journal.face import Consistency, Journal
from monofs.journal.replicated import Replicated
from monofs.master.access import check_access
from monofs.master.acting import Acts
from monofs.master.attributes import Learner
from monofs.master.background import Background
from monofs.master.backups import Backups
from monofs.master.buckets import Buckets
from monofs.master.changing import Changing
from monofs.master.channels import Connect, Dial
from monofs.master.duties import Duties
from monofs.master.explaining import Explaining
from monofs.master.intents import Intents
from monofs.master.issuing import Issuer
from monofs.master.key_listing import KeyListing
from monofs.master.listing import Listing
from monofs.master.loading import Loader
from monofs.master.locks import Locks
from monofs.master.members import Members
from monofs.master.mounts import Mounts
from monofs.master.pinning import Pinning
from monofs.master.planning import Planning
from monofs.master.preparing import Preparing
from monofs.master.proposing import Proposer
from monofs.master.quorum import Quorum
from monofs.master.reading import AtHand, Reading
from monofs.master.reporting import Reporting
from monofs.master.resolving import Resolver
from monofs.master.secrets import Vault, WrappedKeys, make_keys, unwrap_keys
from monofs.master.stores import OpenStore, Stores
from monofs.master.tokens import Issuing, follow_tokens
from monofs.master.uploads import Uploads
from monofs.master.writing import Writing
from monofs.metadata.entries import Initialize
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import LEVEL
from monofs.model.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MonofsError,
    NotLeader,
    NotReady,
    OutcomeUnknown,
    Overloaded,
)
from monofs.model.principal import Right
from monofs.observe.logs import logger
from monofs.rpc import api
from monofs.rpc.api import Message, Method, Setting
from monofs.rpc.client import Client
from monofs.rpc.service import Call, Handler, Service
from monofs.ufs.registry import open_ufs

log = logger(__name__)
CLUSTER_ID_BYTES = 16
CLUSTER_POLL_S = 0.05
FIRST_INCARNATION = 1
_READ = Right.READ.value
_LINEARIZABLE = Consistency.LINEARIZABLE.value
_SAYS_NOTHING = (NotLeader, NotReady, OutcomeUnknown, Overloaded, DeadlineExceeded)
"""Refusals that tell nothing of the state."""


class _Barrier:
    """Hears the read barrier, at once or later."""

    __slots__ = ("error", "passed", "waiter")

    def __init__(self) -> None:
        self.passed = False
        self.error: MonofsError | None = None
        self.waiter: Deferred[None] | None = None

    def __call__(self, error: MonofsError | None) -> None:
        self.passed, self.error = True, error
        if self.waiter is not None:
            if error is None:
                self.waiter.callback(None)
            else:
                self.waiter.errback(error)

    def then(self, answer: Callable[[], Any]) -> Any:
        """``answer()``, now when it has passed."""
        if self.passed:
            if self.error is not None:
                raise self.error
            return answer()
        self.waiter = Deferred()
        return self.waiter.addCallback(lambda _: answer())


class Master:
    """One master. ``secret`` is the cluster secret; ``home`` names the node in messages only; ``settings`` gives CONF's answer; ``dial`` opens
    channels to workers, ``connect`` connections for threads, ``dial_journal`` channels to journal doors of other masters; ``voters_level`` tells the highest entry level that all voters know; ``clock`` tells monotonic seconds for freshness and leases, ``now_ns`` wall time for stamps and capabilities."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        namespace: Namespace,
        *,
        reactor: Any,
        secret: bytes,
        home: str,
        settings: Callable[[], list[Setting]],
        open_store: OpenStore = open_ufs,
        dial: Dial | None = None,
        connect: Connect | None = None,
        dial_journal: Callable[[str], Client] | None = None,
        voters_level: Callable[[], int] = lambda: LEVEL,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config, self._journal, self._namespace = config, journal, namespace
        self._reactor, self._secret, self._home, self._settings = reactor, secret, home, settings
        self._open_store, self._clock, self._now_ns, self._dial = open_store, clock, now_ns, dial
        self._connect = connect
        self._proposer = Proposer(journal, reactor=reactor, now_ns=now_ns, held_back=lambda: namespace.store.held_back)
        self._quorum = Quorum(
            journal if isinstance(journal, Replicated) else None,
            dial=dial_journal,
            reactor=reactor,
        )
        self._voters_level = voters_level
        self._handlers: dict[Method, Handler] = {}
        self._ready = False
        self._duties: Duties | None = None
        self.members: Members | None = None
        """After start."""
        self.address = ""
        """Where clients reach this master (``host:port``): whoever opens its door sets it."""
        self.at_hand: AtHand | None = None
        """The worker of this process, to be set before start: small files come with OPEN."""
        self._stores: Stores | None = None
        self._reporting: Reporting | None = None
        self._resolver: Resolver | None = None
        self._background: Background | None = None
        self._backups: Backups | None = None
        self._watch: LoopingCall | None = None
        self._service = self._make_service()

    # ---- start and stop -----------------------------------------------------------------------------------------------

    def start(self) -> Deferred[None]:
        """Fires when every method answers. Fails with ``HomeUnusable`` when the cluster secret is not this home's."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._proposer.start()
        namespace = self._namespace
        while not namespace.cluster:
            if self._proposer.leads:
                await self._initialize()
            else:  # another master makes the cluster, or this one leads soon
                await deferLater(self._reactor, CLUSTER_POLL_S)
        wrapped = WrappedKeys(namespace.data_key, namespace.capability_key)
        keys = unwrap_keys(self._secret, namespace.cluster, wrapped)
        self._wire(Vault(keys.data), keys.capability)
        self._ready = True
        log.info("master ready", cluster=namespace.cluster.hex(), index=namespace.applied_index)

    async def _initialize(self) -> None:
        """The first entry of a new home."""
        cluster = os.urandom(CLUSTER_ID_BYTES)
        wrapped = make_keys(self._secret, cluster)
        stamp = self._proposer.stamp()
        try:
            await self._proposer.insist(Initialize(stamp, cluster, FIRST_INCARNATION, wrapped.data, wrapped.capability))
        except MonofsError:
            if not self._namespace.cluster and self._proposer.leads:
                raise

    def _wire(self, vault: Vault, keys: dict[int, bytes]) -> None:
        config, namespace, proposer, reactor = self._config, self._namespace, self._proposer, self._reactor
        permissions = config.security.permissions
        stores = self._stores = Stores(config.master, self._open_store, vault, reactor=reactor, clock=self._clock)
        members = self.members = Members(
            namespace,
            proposer,
            vault,
            keys,
            reactor=reactor,
            clock=self._clock,
            now_ns=self._now_ns,
            version=__version__,
            address=lambda: self.address,
        )
        stores.told_by_workers = members.trouble
        loader = Loader(
            namespace,
            proposer,
            stores,
            default_interval_s=config.namespace.sync_interval_s,
            patience_s=config.namespace.store_patience_s,
            absent_entries=config.namespace.absent_entries,
            clock=self._clock,
        )
        issuer = Issuer(namespace, keys, self._now_ns)
        learner = Learner(namespace, proposer, stores, clock=self._clock)
        reading = Reading(
            namespace,
            loader,
            stores,
            issuer,
            members,
            learner,
            permissions=permissions,
            clock=self._clock,
            at_hand=self.at_hand,
        )
        listing = Listing(namespace, loader, reading)
        self._add_reading(reading, listing, KeyListing(namespace, loader, listing, reading, stores))
        background, uploads = self._add_changing(loader, reading, issuer, stores, members, learner)
        self._add_mounts(
            Pinning(namespace, proposer, reading, members, permissions=permissions, reactor=reactor),
            Mounts(namespace, proposer, stores, vault, uploads, reactor=reactor),
        )
        planning = Planning(
            namespace,
            proposer,
            members,
            replicas=config.namespace.replicas,
            replan_after_s=config.namespace.replan_after_s,
            clock=self._clock,
            reactor=reactor,
        )
        self._duties = Duties(
            namespace,
            proposer,
            members,
            planning,
            background.expiring,
            voters_level=self._voters_level,
            reactor=reactor,
        )
        reporting = self._reporting = Reporting(
            namespace,
            self._journal,
            proposer,
            loader,
            stores,
            members,
            settings=self._settings,
            now_ns=self._now_ns,
            reactor=reactor,
        )
        backups = self._backups = Backups(namespace, reactor=reactor, now_ns=self._now_ns)
        buckets = Buckets(namespace, proposer, reading)
        issuing = Issuing(namespace, proposer, self._secret, self._now_ns)
        self._service.tokens.now_s = lambda: self._now_ns() / 1e9
        self._watch = follow_tokens(namespace, proposer, self._service.tokens, reactor=reactor)
        self._handlers |= {
            Method.BACKUP: self._behind_barrier(backups.backup),
            Method.TOKEN_ADD: issuing.add,
            Method.TOKEN_LIST: self._behind_barrier(issuing.list),
            Method.TOKEN_REMOVE: issuing.remove,
            Method.KEY_ROTATE: issuing.rotate,
            Method.BUCKET_SET: buckets.set,
            Method.BUCKET_LIST: self._behind_barrier(buckets.list),
            Method.CLUSTER: self._behind_barrier(members.cluster),
            Method.REGISTER: members.register,
            Method.HEARTBEAT: members.heartbeat,
            Method.DECOMMISSION: planning.decommission,
            Method.QUORUM: self._quorum.info,
            Method.QUORUM_CHANGE: self._quorum.change,
            Method.REPORT: reporting.report,
            Method.CONF: reporting.conf,
            Method.CONNECTION_LIST: reporting.connections,
            Method.FSCK: reporting.fsck,
            Method.PING: reporting.ping,
        }

    def _add_reading(self, reading: Reading, listing: Listing, key_listing: KeyListing) -> None:
        looking: list[tuple[Method, Callable[[Any, Call], Any]]] = [
            (Method.STAT, reading.stat),
            (Method.STAT_MANY, reading.stat_many),
            (Method.LIST, listing.list),
            (Method.LIST_KEYS, key_listing.list),
        ]
        for method, look in looking:
            self._handlers[method] = self._as_consistent_as_asked(look)
        for method, handler in (
            (Method.OPEN, reading.open),
            (Method.OPEN_MANY, reading.open_many),
            (Method.RENEW, reading.renew),
        ):
            self._handlers[method] = self._behind_barrier(handler)

    def _add_changing(
        self, loader: Loader, reading: Reading, issuer: Issuer, stores: Stores, members: Members, learner: Learner
    ) -> tuple[Background, Uploads]:
        namespace, proposer, reactor = self._namespace, self._proposer, self._reactor
        permissions = self._config.security.permissions
        locks = Locks(namespace, proposer, busy_wait_s=self._config.master.busy_wait_s, reactor=reactor)
        intents = Intents(namespace, proposer, locks)
        acts = Acts(namespace, stores, proposer, reactor=reactor)
        preparing = Preparing(namespace, loader, reading, permissions=permissions)
        resolver = self._resolver = members.resolver = Resolver(
            namespace,
            proposer,
            intents,
            acts,
            preparing,
            heard_s=members.heard_s,
            clock=self._clock,
            reactor=reactor,
        )
        changing = Changing(namespace, proposer, preparing, locks, intents, acts, resolver, stores, members, learner)
        writing = Writing(namespace, proposer, preparing, intents, resolver, members, issuer)
        background = self._background = Background(
            namespace,
            proposer,
            stores,
            locks,
            loader,
            reading,
            issuer,
            members,
            service=self._service,
            dial=self._dial,
            connect=self._connect,
            permissions=permissions,
            requests=self._config.master.job_requests,
            patience_s=self._config.master.job_patience_s,
            replicas=self._config.namespace.replicas,
            reactor=reactor,
            clock=self._clock,
            now_ns=self._now_ns,
        )
        preparing.room_maker = background
        uploads = Uploads(
            namespace,
            proposer,
            preparing,
            intents,
            acts,
            resolver,
            members,
            issuer,
            background.channels,
            busy_wait_s=self._config.master.busy_wait_s,
            reactor=self._reactor,
        )
        self._handlers |= background.handlers(self._behind_barrier)
        explaining = Explaining(namespace, loader, stores, members, reading, intents, clock=self._clock)
        self._handlers |= {
            Method.WHY: self._behind_barrier(explaining.why),
            Method.MAKE_DIRECTORY: changing.make_directory,
            Method.CREATE: changing.create,
            Method.DELETE: changing.delete,
            Method.RENAME: changing.rename,
            Method.COPY: changing.copy,
            Method.TOUCH: changing.touch,
            Method.SET_ATTRIBUTES: changing.set_attributes,
            Method.REMOVE_TREE: changing.remove_tree,
            Method.MAY_WRITE: writing.may_write,
            Method.BEGIN_WRITE: writing.begin_write,
            Method.RECORD_UPLOAD: writing.record_upload,
            Method.PUBLISH: writing.publish,
            Method.END_WRITE: writing.end_write,
            Method.ABANDON_WRITE: writing.abandon_write,
            Method.BEGIN_UPLOAD: uploads.begin,
            Method.OPEN_PART: uploads.open_part,
            Method.COMPLETE_UPLOAD: uploads.complete,
            Method.ABORT_UPLOAD: uploads.abort,
            Method.INTENT_LIST: self._behind_barrier(lambda _, __: intents.list()),
        }
        return background, uploads

    def _add_mounts(self, pinning: Pinning, mounts: Mounts) -> None:
        self._handlers |= {
            Method.SET_PIN: pinning.set_pin,
            Method.FREE: pinning.free,
            Method.MOUNT_ADD: mounts.add,
            Method.MOUNT_LIST: self._behind_barrier(mounts.list),
            Method.MOUNT_REMOVE: mounts.remove,
            Method.MOUNT_UPDATE: mounts.update,
            Method.MOUNT_TEST: mounts.test,
        }

    def take_events(self, events: Sequence[tuple[str, str, str]]) -> bool:
        """Take what stores tell: (bucket, key, etag). False: not now, or not here."""
        return self._ready and self._background is not None and self._background.events.take(events)

    def stop(self) -> Deferred[None]:
        """Take no more requests, end duties and polls, release the stores. The journal and namespace stay open."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._ready = False
        if self._watch is not None and self._watch.running:
            self._watch.stop()
        if self._duties is not None:
            await self._duties.stop()
        if self._resolver is not None:
            self._resolver.stop()
        if self._background is not None:
            await self._background.stop()
        if self.members is not None:
            self.members.stop()
        if self._reporting is not None:
            await self._reporting.stop()
        if self._backups is not None:
            await self._backups.stop()
        if self._stores is not None:
            self._stores.close()

    # ---- the method table ---------------------------------------------------------------------------------------------

    def service(self) -> Service:
        """All methods of a master; always the same object."""
        return self._service

    def _make_service(self) -> Service:
        service = Service("master", self._reactor, cluster=lambda: self._namespace.cluster)
        for method, request_type in REQUESTS.items():
            service.register(method, request_type, partial(self._handle, method))
        return service

    def _handle(self, method: Method, request: Message, call: Call) -> Any:
        if not self._ready:
            raise NotReady("the master is starting or stopping: try again shortly")
        handler = self._handlers[method]
        return self._as_leader(handler, request, call) if method in CHANGES else handler(request, call)

    def _as_leader(self, handler: Handler, request: Message, call: Call) -> Any:
        """Changes are for the leader. A refusal is a read: what it was decided by may be old, unless this master leads after it, too."""
        if not self._proposer.leads:
            return _behind(self._journal.read_barrier, Consistency.LINEARIZABLE, 0.0, lambda: handler(request, call))
        try:
            answer = handler(request, call)
        except MonofsError as refusal:
            return self._refuse(refusal)
        return answer.addErrback(self._refused) if isinstance(answer, Deferred) else answer

    def _refused(self, failure: Failure) -> Any:
        if not isinstance(failure.value, MonofsError):
            return failure
        return self._refuse(failure.value)

    def _refuse(self, refusal: MonofsError) -> Any:
        def refuse() -> Any:
            raise refusal

        if isinstance(refusal, _SAYS_NOTHING):
            raise refusal
        return _behind(self._journal.read_barrier, Consistency.LINEARIZABLE, 0.0, refuse)

    def _as_consistent_as_asked(self, handler: Callable[[Any, Call], Any]) -> Handler:
        """Behind the barrier that the request's options name."""
        linearizable = self._behind_barrier(handler)
        read_barrier = self._journal.read_barrier

        def handle(request: Any, call: Call) -> Any:
            options = request.options
            if options.consistency == _LINEARIZABLE:
                return linearizable(request, call)
            try:
                consistency = Consistency(options.consistency)
            except ValueError:
                raise InvalidArgument(
                    f"consistency {options.consistency!r} is none of {', '.join(Consistency)}"
                ) from None
            check_access(call.principal, Right.READ)
            return _behind(read_barrier, consistency, options.bound_s, lambda: handler(request, call))

        return handle

    def _behind_barrier(self, handler: Callable[[Any, Call], Any]) -> Handler:
        """Rights and the read barrier; a plain call when the barrier passes at once, as it does for one voter."""
        read_barrier = self._journal.read_barrier

        def handle(request: Any, call: Call) -> Any:
            principal = call.principal
            if not int(principal.rights) & _READ:
                check_access(principal, Right.READ)
            barrier = _Barrier()
            read_barrier(Consistency.LINEARIZABLE, barrier, 0.0)
            if barrier.passed and barrier.error is None:
                return handler(request, call)
            return barrier.then(lambda: handler(request, call))

        return handle


def _behind(
    read_barrier: Callable[..., None], consistency: Consistency, bound_s: float, answer: Callable[[], Any]
) -> Any:
    """``answer()``, now when the barrier passes at once."""
    barrier = _Barrier()
    read_barrier(consistency, barrier, bound_s)
    return barrier.then(answer)


CHANGES = frozenset(
    {
        Method.MAKE_DIRECTORY,
        Method.CREATE,
        Method.DELETE,
        Method.RENAME,
        Method.COPY,
        Method.TOUCH,
        Method.SET_ATTRIBUTES,
        Method.REMOVE_TREE,
        Method.MAY_WRITE,
        Method.BEGIN_WRITE,
        Method.RECORD_UPLOAD,
        Method.PUBLISH,
        Method.END_WRITE,
        Method.ABANDON_WRITE,
        Method.BEGIN_UPLOAD,
        Method.OPEN_PART,
        Method.COMPLETE_UPLOAD,
        Method.ABORT_UPLOAD,
        Method.SET_PIN,
        Method.FREE,
        Method.MOUNT_ADD,
        Method.MOUNT_REMOVE,
        Method.MOUNT_UPDATE,
        Method.MOUNT_TEST,
        Method.JOB_ADD,
        Method.JOB_STEER,
        Method.POLICY_SET,
        Method.SET_TTL,
        Method.NEEDS_SYNC,
        Method.COMPARE,
        Method.TOKEN_ADD,
        Method.TOKEN_REMOVE,
        Method.KEY_ROTATE,
        Method.BUCKET_SET,
    }
)
"""What only a leader may refuse."""
REQUESTS: dict[Method, type[Message]] = {
    Method.PING: api.Empty,
    Method.STAT: api.StatRequest,
    Method.STAT_MANY: api.StatManyRequest,
    Method.LIST: api.ListRequest,
    Method.LIST_KEYS: api.ListKeysRequest,
    Method.OPEN: api.OpenRequest,
    Method.OPEN_MANY: api.OpenManyRequest,
    Method.RENEW: api.RenewRequest,
    Method.WHY: api.StatRequest,
    Method.CLUSTER: api.ClusterRequest,
    Method.MAKE_DIRECTORY: api.MakeDirectoryRequest,
    Method.CREATE: api.CreateRequest,
    Method.DELETE: api.DeleteRequest,
    Method.RENAME: api.RenameRequest,
    Method.COPY: api.CopyRequest,
    Method.TOUCH: api.TouchRequest,
    Method.SET_ATTRIBUTES: api.SetAttributesRequest,
    Method.REMOVE_TREE: api.RemoveTreeRequest,
    Method.MAY_WRITE: api.MayWriteRequest,
    Method.BEGIN_WRITE: api.BeginWriteRequest,
    Method.RECORD_UPLOAD: api.RecordUploadRequest,
    Method.PUBLISH: api.PublishRequest,
    Method.END_WRITE: api.EndWriteRequest,
    Method.ABANDON_WRITE: api.AbandonWriteRequest,
    Method.BEGIN_UPLOAD: api.BeginUploadRequest,
    Method.OPEN_PART: api.OpenPartRequest,
    Method.COMPLETE_UPLOAD: api.CompleteUploadRequest,
    Method.ABORT_UPLOAD: api.AbortUploadRequest,
    Method.INTENT_LIST: api.Empty,
    Method.JOB_ADD: api.JobAddRequest,
    Method.JOB_LIST: api.JobListRequest,
    Method.JOB_STEER: api.JobSteerRequest,
    Method.POLICY_SET: api.PolicySetRequest,
    Method.POLICY_LIST: api.Empty,
    Method.SET_TTL: api.SetTtlRequest,
    Method.COMPARE: api.CompareRequest,
    Method.NEEDS_SYNC: api.NeedsSyncRequest,
    Method.SET_PIN: api.SetPinRequest,
    Method.FREE: api.FreeRequest,
    Method.MOUNT_ADD: api.MountAddRequest,
    Method.MOUNT_LIST: api.Empty,
    Method.MOUNT_REMOVE: api.MountRemoveRequest,
    Method.MOUNT_UPDATE: api.MountUpdateRequest,
    Method.MOUNT_TEST: api.MountTestRequest,
    Method.TOKEN_ADD: api.TokenAddRequest,
    Method.TOKEN_LIST: api.Empty,
    Method.TOKEN_REMOVE: api.TokenRemoveRequest,
    Method.KEY_ROTATE: api.KeyRotateRequest,
    Method.BUCKET_SET: api.BucketSetRequest,
    Method.BUCKET_LIST: api.Empty,
    Method.QUORUM: api.Empty,
    Method.QUORUM_CHANGE: api.QuorumChangeRequest,
    Method.REPORT: api.ReportRequest,
    Method.CONF: api.Empty,
    Method.CONNECTION_LIST: api.Empty,
    Method.FSCK: api.Empty,
    Method.BACKUP: api.BackupRequest,
    Method.REGISTER: api.RegisterRequest,
    Method.HEARTBEAT: api.HeartbeatRequest,
    Method.DECOMMISSION: api.DecommissionRequest,
}
"""Method to the type of its request."""
