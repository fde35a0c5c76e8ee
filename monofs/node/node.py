"""A node: services built from a configuration, opened and closed in the one order that is safe.

Opening: home lock → logs → secret → database → journal (replay) → cache → doors → ready. Closing is the reverse. Blocking work is done in
:meth:`Node.open` before the reactor runs and in :meth:`Node.close` after it; nothing listens before what it serves is there, and the
ready file is written last.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.task import LoopingCall

import monofs
from monofs.config.loader import Loaded, setting_fields
from monofs.gateways.http import Door
from monofs.journal.book import parse_peers
from monofs.journal.replicated import Replicated
from monofs.journal.single import SingleVoter
from monofs.master.service import Master
from monofs.metadata.copying import end_install, is_installed, settle_install
from monofs.metadata.namespace import Namespace
from monofs.metadata.store import Store
from monofs.metadata.tables import LEVEL
from monofs.model.errors import ConfigError, HomeUnusable
from monofs.model.ids import JournalIndex, Term
from monofs.model.principal import NODE, Principal
from monofs.node.console import listen_console, make_console
from monofs.node.forming import IDENTITY
from monofs.node.group import Group, install_received, tell
from monofs.node.home import Home, load_secret, open_home, write_durably
from monofs.node.s3 import Channels, open_s3
from monofs.node.tls import find_client_tls, find_server_tls
from monofs.observe.bridge import bridge_logs
from monofs.observe.logs import close_logs, logger, set_up_logs
from monofs.observe.recent import Recent
from monofs.observe.totals import totals
from monofs.rpc import api
from monofs.rpc.addresses import format_address, is_wildcard
from monofs.rpc.client import Client
from monofs.rpc.direct import DirectClient
from monofs.rpc.handshake import Credential
from monofs.rpc.s3_keys import S3Keys
from monofs.rpc.server import Limits, Listener, Security, listen_tcp, listen_unix
from monofs.rpc.sync import Pool
from monofs.rpc.tls import ClientTls
from monofs.tiering.cache import Cache
from monofs.tiering.spec import parse_tiers
from monofs.web.recording import Standing
from monofs.worker.service import Worker

log = logger(__name__)
FLUSH_TICK_S = 0.1
WORKER_PATIENCE_S = 0.5
"""After so long without a connection the next worker of a slot is asked."""
S3_DRAIN_S = 10.0
"""How long a node that stops waits for requests at its S3 door to end."""
PEER_SILENCE_S = 1.5
"""Of a worker that says nothing for so long, and did not prove meanwhile that it lives, the bytes are taken from the store."""


class Node:
    """What `monofs serve` runs. ``doors`` maps the names of the ready file to addresses once ready."""

    def __init__(
        self,
        loaded: Loaded,
        reactor: Any,
        *,
        on_fatal: Callable[[BaseException], None],
        skip: frozenset[int] = frozenset(),
    ) -> None:
        self._skip = skip
        self.loaded, self.config, self.reactor, self.on_fatal = loaded, loaded.config, reactor, on_fatal
        self.doors: dict[str, Any] = {}
        self._stack = ExitStack()
        self._listeners: list[Listener] = []
        self._console: Any = None
        self._s3: tuple[Door, Channels] | None = None
        self._recent, self._recent_audit = Recent(), Recent()
        self._ready = self._stopping = False
        self.home: Home
        self._namespace: Namespace
        self.master: Master | None = None
        self.worker: Worker | None = None
        self._worker_address = ""
        self._cache: Cache
        self._security = Security()
        self._tls: ClientTls | None = None
        self._group: Group | None = None
        """The masters this one is one of; None: it is alone."""

    # ---- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Everything that blocks: lock, replay, recovery. Raises ``MonofsError``; what was opened is closed again."""
        with ExitStack() as stack:
            self.home = open_home(self.config.node.home, software=monofs.__version__, now_ns=time.time_ns())
            stack.callback(self.home.close)
            self._open_logs(stack)
            security = self.config.security
            cache = self._make_cache() if self.config.node.role in ("all", "worker") else None
            self._check_shared_secret()
            self._secret = load_secret(self.home, security.cluster_secret_file)
            self.s3_keys = S3Keys(self._secret)
            self._tls = find_client_tls(security)
            self._security = Security(
                secret=self._secret,
                authentication=security.authentication,
                insecure=security.insecure,
                tls=find_server_tls(security),
            )
            if self.config.node.role in ("all", "master"):
                self._open_master(stack)
            if cache is not None:
                self._open_worker(cache, stack)
            self._stack = stack.pop_all()

    def _check_shared_secret(self) -> None:
        """Raise ``ConfigError`` where this node would draw a secret of its own, with which no other ever answers it."""
        others = len(parse_peers(self.config.journal.peers)) > 1 or self.config.node.role == "worker"
        file, own = self.config.security.cluster_secret_file, self.home.path("cluster.secret")
        if others and not file and not os.path.exists(own):
            raise ConfigError(
                f"all nodes of a cluster share one secret: name its file with --cluster-secret-file, or copy it to {own}"
            )

    def _open_logs(self, stack: ExitStack) -> None:
        settings = self.config.log
        file = settings.file or self.home.path("monofs.log")
        audit = settings.audit_file or self.home.path("audit.log")
        try:
            handler = set_up_logs(settings.level, file, settings.max_bytes, recent=self._recent)
            stack.callback(close_logs, handler)
            stack.callback(bridge_logs(handler))
            stack.callback(
                close_logs,
                set_up_logs("info", audit, settings.max_bytes, name="monofs.audit", recent=self._recent_audit),
                name="monofs.audit",
            )
        except OSError as error:
            raise ConfigError(f"cannot write the log {error.filename}: {error.strerror}") from None
        log.info("starting", version=monofs.__version__, role=self.config.node.role, home=self.home.directory)

    def _open_master(self, stack: ExitStack) -> None:
        directory = self.home.path("namespace")
        self.home.check_begun()
        self._check_name()
        if os.path.exists(self.home.path(IDENTITY)) and not self.config.journal.peers:
            raise HomeUnusable(
                f"home {self.home.directory} is that of a master among several: start it with --id and --peers, as before"
            )
        install_received(self.home)
        noted = settle_install(directory)
        journal: SingleVoter | Replicated
        store = Store(
            directory,
            self.config.namespace,
            call_soon=self.reactor.callFromThread,
            on_flushed=lambda index: journal.release(JournalIndex(index)),
            on_failure=self.on_fatal,
        )
        stack.callback(store.close)
        namespace = self._namespace = Namespace(store)
        journal = self._open_journal(namespace, stack, installed=is_installed(store, noted))
        self._ticker = LoopingCall(store.maybe_flush)
        self._ticker.clock = self.reactor
        self.master = Master(
            self.config,
            journal,
            namespace,
            reactor=self.reactor,
            secret=self._secret,
            home=self.home.directory,
            settings=self.settings,
            dial=self._dial,
            connect=self._connect_worker,
            dial_journal=self._group.dial if self._group is not None else None,
            voters_level=self._group.voters_level if self._group is not None else lambda: LEVEL,
        )
        self.master.service().on_fatal = self.on_fatal

    def _check_name(self) -> None:
        """Raise ``ConfigError`` unless this master is alone, or one of those that are listed."""
        name, peers = self.config.journal.id, parse_peers(self.config.journal.peers)
        if name and not peers:
            raise ConfigError(f"--id {name} names a master among several: list them all with --peers")
        if peers and not name:
            raise ConfigError("journal.peers names several masters: say which one this is, with --id")
        if name and name not in peers:
            raise ConfigError(
                f"journal.peers names {', '.join(peers)}, and not this master, {name}: add it, or correct --id"
            )

    def _open_journal(self, namespace: Namespace, stack: ExitStack, *, installed: bool) -> SingleVoter | Replicated:
        """Alone: replayed and leading when this returns. In a group: read back in :meth:`start`, when the group is known."""
        if self.config.journal.peers:
            group = self._group = Group(
                self.home,
                self.config,
                namespace,
                credential=Credential(self._secret),
                security=self._security,
                tls=self._tls,
                installed=installed,
                reactor=self.reactor,
                on_failure=self.on_fatal,
                rpc=lambda: self.master.address if self.master is not None else "",
                skip=self._skip,
            )
            stack.callback(group.journal.stop)
            return group.journal
        journal = SingleVoter(
            self.home.path("journal"),
            namespace,
            self.config.journal,
            call_soon=self.reactor.callFromThread,
            on_failure=self.on_fatal,
            skip=self._skip,
            may_discard=False,
            installed_term=Term(namespace.applied_term) if installed else None,
        )
        journal.start()
        stack.callback(journal.stop)
        end_install(self.home.path("namespace"))
        self.home.check_cluster(namespace.cluster)
        return journal

    def _dial(self, info: api.WorkerInfo) -> Client | DirectClient:
        """The master's channel to a worker."""
        if self.worker is not None and info.address == self._worker_address:
            return DirectClient(self.worker.service(), NODE)
        return Client(self.reactor, info.address, Credential(self._secret), tls=self._tls, patience_s=WORKER_PATIENCE_S)

    def _make_cache(self) -> Cache:
        """The worker's cache, not open yet: before anything else is, so that settings that cannot work end the start. Raises ``ConfigError``."""
        config = self.config.worker
        return Cache(
            self.home.path("worker", "index"),
            parse_tiers(config.tiers, self.home.directory, config.quota),
            reserve=config.reserve,
            call_soon=lambda work: self.reactor.callFromThread(work),
            eviction=config.eviction,
            allocation=config.allocation,
            watermark=config.watermark,
            trace=config.trace,
            writers=max(config.fetch_threads // 2, 1),
        )

    def _open_worker(self, cache: Cache, stack: ExitStack) -> None:
        config = self.config.worker
        cache.open()
        self._cache = cache
        stack.callback(cache.close)
        master: Client | DirectClient
        if self.master is not None and self._group is None:
            master = DirectClient(self.master.service(), NODE)
        elif addresses := config.masters or self._own_door():
            master = Client(self.reactor, addresses, Credential(self._secret), tls=self._tls)
        else:
            raise ConfigError("a worker needs masters: --set worker.masters=host:port,...")
        self._to_master = master
        self.worker = Worker(
            config,
            cache,
            master,
            reactor=self.reactor,
            home=self.home.directory,
            connect=self._connect_worker,
            tell=tell,
            s3_keys=self.s3_keys,
        )
        self.worker.service().on_fatal = self.on_fatal
        if self.master is not None:
            self.master.at_hand = self.worker.reading.at_hand

    def _connect_worker(self, address: str) -> Pool:
        return Pool(address, Credential(self._secret), silence_s=PEER_SILENCE_S, tls=self._tls)

    def _own_door(self) -> str:
        """Where the worker of a master in a group begins to look for the leader."""
        settings = self.config.master
        return f"{settings.host}:{settings.port}" if self.master is not None and settings.port else ""

    # ---- serving ------------------------------------------------------------------------------------------------------

    @inlineCallbacks
    def start(self) -> Any:
        """Open the doors, then say so: the console first, which tells what is waited for. Fails with ``MonofsError``."""
        self._open_console()
        if self._group is not None:
            self.doors["journal"] = yield Deferred.fromCoroutine(self._group.start())
        if self.master is not None:
            self._ticker.start(FLUSH_TICK_S)
            yield self.master.start()
            self.home.check_cluster(self._namespace.cluster)
            self.home.note_cluster(self._namespace.cluster)
            settings = self.config.master
            self.master.address = self._listen(
                "rpc", self.master.service(), settings.host, settings.port, settings.max_connections
            )
        if self.worker is not None:
            worker = self.config.worker
            unix = worker.unix or self.home.path("worker.sock")
            limits = Limits(connections=worker.max_connections)
            self._listeners.append(
                listen_unix(self.reactor, self.worker.service(), unix, security=self._security, limits=limits)
            )
            address = self._listen("worker", self.worker.service(), worker.host, worker.port, worker.max_connections)
            self._worker_address = address
            yield self.worker.start(address, unix, self._console_address())
            self._open_s3(self.worker)
        self.doors["pid"] = os.getpid()
        self._ready = True
        self._announce()

    def _listen(self, name: str, service: Any, host: str, port: int, connections: int) -> str:
        section = "master" if name == "rpc" else "worker"
        try:
            listener = listen_tcp(
                self.reactor, service, host, port, security=self._security, limits=Limits(connections=connections)
            )
        except ConfigError as error:
            raise ConfigError(f"{error}; see {section}.host and {section}.port") from None
        self._listeners.append(listener)
        self.doors[name] = listener.address
        return self._advertised(host, listener.address)

    def _advertised(self, host: str, address: str) -> str:
        """What others are told of a door that listens on ``host``."""
        name = self.config.node.advertise
        if not name and is_wildcard(host):
            own = parse_peers(self.config.journal.peers).get(self.config.journal.id, "")
            name = own.rpartition(":")[0].strip("[]") or socket.gethostname()
        return format_address(name, int(address.rpartition(":")[2])) if name else address

    def _open_s3(self, worker: Worker) -> None:
        if self.config.s3.port < 0:
            return
        credential, masters = Credential(self._secret), self.config.worker.masters or self._own_door()

        def dial(address: str) -> Client:
            return Client(self.reactor, address, credential, tls=self._tls, patience_s=WORKER_PATIENCE_S)

        def dial_for(principal: Principal) -> Client | DirectClient:
            if self.master is not None and self._group is None:
                return DirectClient(self.master.service(), principal)
            return Client(self.reactor, masters, credential.for_principal(principal), tls=self._tls)

        tls, channels = self._security.tls, Channels(worker, self._to_master, dial, dial_for)
        try:
            door = open_s3(
                self.reactor, self.config.s3, worker, channels, self.s3_keys, tls=tls, on_fatal=self.on_fatal
            )
        except ConfigError as error:
            raise ConfigError(f"{error}; see s3.host and s3.port") from None
        self._s3 = door, channels
        self.doors["s3"] = f"{'http' if tls is None else 'https'}://{door.address}"

    async def _close_s3(self) -> None:
        if self._s3 is not None:
            door, channels = self._s3
            await door.stop(S3_DRAIN_S)
            channels.close()

    def _open_console(self) -> None:
        if self.config.console.port < 0:
            return
        self._console = make_console(
            self.reactor,
            self.loaded,
            self._security,
            credential=Credential(self._secret),
            client_tls=self._tls,
            masters=self._masters,
            take_events=self.master.take_events if self.master is not None else None,
            health=self.health,
            standing=self._stands,
            settings=self.settings,
            history=self.home.path("console.history"),
            logs={"logs": self._recent, "audit": self._recent_audit},
        )
        self.doors["console"] = listen_console(self._console, self.loaded, self._security)

    def _console_address(self) -> str:
        """What others are told of where this node's console is; '': it has none."""
        scheme, mark, address = str(self.doors.get("console", "")).partition("://")
        return f"{scheme}://{self._advertised(self.config.console.host, address)}" if mark else ""

    def _masters(self) -> str:
        """Where the console's clients find masters."""
        return str(self.doors.get("rpc") or self.config.worker.masters or self._own_door())

    def _stands(self) -> Standing:
        """What is charted: of the cluster where this master leads, else of this node's own worker."""
        if self.master is not None and self.master.members is not None:
            members = self.master.members.members
            live = {str(number): member for number, member in members.items() if member.live}
            return Standing(
                {number: member.totals for number, member in live.items()},
                sum(member.info.used_bytes for member in live.values()),
                sum(member.info.capacity_bytes for member in live.values()),
                len(live),
                self._namespace.meta.intents,
            )
        if self.worker is not None:
            return Standing({"own": totals()}, self._cache.used_bytes, self._cache.capacity_bytes, 1)
        return Standing()

    def _announce(self) -> None:
        lines = [f"monofs {monofs.__version__} is ready, home {self.home.directory}"]
        lines += [f"  {name:8} {address}" for name, address in self.doors.items() if name != "pid"]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        if self.config.node.ready_file:
            path = os.path.expanduser(self.config.node.ready_file)
            try:
                write_durably(path, json.dumps(self.doors).encode() + b"\n")
            except OSError as error:
                raise ConfigError(f"cannot write {path}: {error.strerror}; see node.ready_file") from None
        log.info("ready", **self.doors)

    def health(self) -> dict[str, object]:
        """What `/health` says: whether clients should come here, and if not, why."""
        reason = "" if self._ready else "starting"
        if self._stopping:
            reason = "stopping"
        elif self._group is not None:
            reason = self._group.trouble() or reason
        told: dict[str, object] = {"ready": not reason, "role": self.config.node.role, "version": monofs.__version__}
        return told | ({"reason": reason} if reason else {})

    def settings(self) -> list[api.Setting]:
        """Every effective setting with its source."""
        return [
            api.Setting(
                name=field.name,
                value="***" if field.secret else str(getattr(getattr(self.config, field.section), field.key)),
                default=str(field.default),
                source=self.loaded.sources.get(field.name, "default"),
                unit=field.unit,
                doc=field.doc,
            )
            for field in setting_fields()
        ]

    # ---- closing ------------------------------------------------------------------------------------------------------

    @inlineCallbacks
    def stop(self) -> Any:
        """Close the doors, finish what is in flight. Never fails: what cannot be stopped is logged."""
        self._ready, self._stopping = False, True
        log.info("stopping")
        steps: list[Callable[[], Deferred[Any]]] = []
        if self._console is not None:
            steps.append(self._close_console)
        steps.append(lambda: Deferred.fromCoroutine(self._close_s3()))
        steps += [listener.stop for listener in self._listeners]
        if self.worker is not None:
            steps.append(self.worker.stop)
        if self.master is not None:
            steps.append(self.master.stop)
        if self._group is not None:
            group = self._group
            steps.append(lambda: Deferred.fromCoroutine(group.stop()))
        for step in steps:
            try:
                yield step()
            except Exception as error:  # noqa: BLE001 - stopping goes on whatever one service says
                log.error("a service did not stop cleanly", exception=error)
        if self.master is not None and self._ticker.running:
            self._ticker.stop()

    def _close_console(self) -> Deferred[Any]:
        return maybeDeferred(self._console.stop)

    def close(self) -> None:
        """What blocks at the end: cache, journal, database, logs, lock."""
        ready_file = self.config.node.ready_file
        if ready_file and self.doors and os.path.exists(os.path.expanduser(ready_file)):
            os.unlink(os.path.expanduser(ready_file))
        log.info("stopped")
        self._stack.close()
