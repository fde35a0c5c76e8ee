"""The master: its parts wired together, who answers which method, its start and stop.

Start: hear the role, make the cluster when the namespace is empty (one INITIALIZE with fresh wrapped keys), unwrap the keys, begin duties. The
journal was started before and is stopped after; the namespace belongs to the node. Until the start is through, every method answers ``NotReady``.

Invariant: every reading handler runs behind a read barrier, every handler behind a check of rights.

Not here: the methods' requests (methods.py), barriers (barriers.py), what works behind requests (background.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater

from monofs import __version__
from monofs.config.schema import Config
from monofs.journal.face import Journal
from monofs.journal.replicated import Replicated
from monofs.master.acting import Acts
from monofs.master.attributes import Learner
from monofs.master.background import Background
from monofs.master.backups import Backups
from monofs.master.barriers import Barriers
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
from monofs.master.methods import CHANGES, REQUESTS
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
    MonofsError,
    NotReady,
)
from monofs.observe.logs import logger
from monofs.rpc.api import Message, Method, Setting
from monofs.rpc.client import Client
from monofs.rpc.service import Call, Handler, Service
from monofs.ufs.registry import open_ufs

log = logger(__name__)
CLUSTER_ID_BYTES = 16
CLUSTER_POLL_S = 0.05
FIRST_INCARNATION = 1


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
        self._barriers = Barriers(journal, self._proposer)
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
        self._answer_all()
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
            Method.BACKUP: self._barriers.behind(backups.backup),
            Method.TOKEN_ADD: issuing.add,
            Method.TOKEN_LIST: self._barriers.behind(issuing.list),
            Method.TOKEN_REMOVE: issuing.remove,
            Method.KEY_ROTATE: issuing.rotate,
            Method.BUCKET_SET: buckets.set,
            Method.BUCKET_LIST: self._barriers.behind(buckets.list),
            Method.CLUSTER: self._barriers.behind(members.cluster),
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
            self._handlers[method] = self._barriers.as_consistent_as_asked(look)
        for method, handler in (
            (Method.OPEN, reading.open),
            (Method.OPEN_MANY, reading.open_many),
            (Method.RENEW, reading.renew),
        ):
            self._handlers[method] = self._barriers.behind(handler)

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
        self._handlers |= background.handlers(self._barriers.behind)
        explaining = Explaining(namespace, loader, stores, members, reading, intents, clock=self._clock)
        self._handlers |= {
            Method.WHY: self._barriers.behind(explaining.why),
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
            Method.INTENT_LIST: self._barriers.behind(lambda _, __: intents.list()),
        }
        return background, uploads

    def _add_mounts(self, pinning: Pinning, mounts: Mounts) -> None:
        self._handlers |= {
            Method.SET_PIN: pinning.set_pin,
            Method.FREE: pinning.free,
            Method.MOUNT_ADD: mounts.add,
            Method.MOUNT_LIST: self._barriers.behind(mounts.list),
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
        self._answer_none()
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
            service.register(method, request_type, _refuse_now)
        return service

    def _answer_all(self) -> None:
        """Every method has its handler from now on."""
        for method, handler in self._handlers.items():
            answers = partial(self._barriers.as_leader, handler) if method in CHANGES else handler
            self._service.entries[method].handler = answers
        self._ready = True

    def _answer_none(self) -> None:
        self._ready = False
        for entry in self._service.entries.values():
            entry.handler = _refuse_now


def _refuse_now(request: Message, call: Call) -> Any:  # noqa: ARG001 - whatever is asked
    raise NotReady("the master is starting or stopping: try again shortly")
