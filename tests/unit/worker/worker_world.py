"""A worker with everything real but the store and the master: real cache directories, real reactor, real sockets.

The reactor runs in a thread of its own; tests stand outside and ask through sockets, or step onto the reactor with
:meth:`World.run` where the order of events matters (a direct channel's requests arrive in the order they are made).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater

from monofs.config.schema import WorkerConfig
from monofs.model.block import DEFAULT_LAYOUT, GROUP_SIZE_BYTES
from monofs.model.capability import LIFE_S, CacheGroup, Capability, Rights, seal_capability
from monofs.model.errors import (
    MonofsError,
    UfsBadBody,
    UfsChanged,
    UfsNotFound,
    UfsThrottled,
    Unreachable,
)
from monofs.model.ids import NO_CONTENT, ContentId, MountId, make_content_id
from monofs.model.options import WriteType
from monofs.rpc.api import (
    AbandonWriteAnswer,
    AbandonWriteRequest,
    ClusterAnswer,
    Empty,
    EndWriteRequest,
    FeedItem,
    FetchAnswer,
    FetchRequest,
    GroupSpec,
    HeartbeatAnswer,
    InodeAnswer,
    Message,
    Method,
    MountGrant,
    PartsNews,
    PublishAnswer,
    PublishRequest,
    ReadManyRequest,
    ReadRequest,
    RecordUploadRequest,
    RegisterAnswer,
    SlotsNews,
    TokenGrant,
    WorkerInfo,
    WriteAnswer,
    WriteRequest,
)
from monofs.rpc.direct import DirectClient
from monofs.rpc.server import Security, listen_tcp, listen_unix
from monofs.rpc.sync import Pool
from monofs.testing.reactors import Loop
from monofs.tiering.cache import Cache, TierSpec
from monofs.ufs.base import UfsEntry, UfsPage
from monofs.worker.service import Worker

CLUSTER, KEY = b"c" * 16, b"k" * 32
MIB = 1 << 20
PATIENCE_S = 20.0
"""How long a test waits for something that must happen; only a failing test ever waits so long."""


def make_bytes(seed: int, size: int) -> bytes:
    """Bytes that differ from page to page: a random run whose length divides no page."""
    run = random.Random(seed).randbytes(65_521)
    return (run * (size // len(run) + 1))[:size]


class ScriptedStore:
    """A store in memory that counts its GETs and fails as told; ``closed_gate`` holds answers back until opened."""

    scheme = "scripted"

    def __init__(self) -> None:
        self.files: dict[bytes, tuple[bytes, str]] = {}
        self.gets: list[tuple[bytes, int, int]] = []
        self.script: deque[Callable[[bytes], Iterator[memoryview]]] = deque()
        self.asked = threading.Semaphore(0)
        """Released once for every GET that arrived."""
        self.chunk = 300_000
        self.closed = 0
        self._gate = threading.Event()
        self._gate.set()
        self._lock = threading.Lock()

    @contextmanager
    def closed_gate(self) -> Iterator[None]:
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def wait_asked(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.asked.acquire(timeout=PATIENCE_S), "the store was not asked"

    def check(self) -> bool:
        return True

    def status(self, key: bytes) -> tuple[UfsEntry | None, UfsEntry | None]:
        raise NotImplementedError("a worker never asks for status")

    def list(self, key: bytes, *, after: bytes = b"", limit: int = 1000) -> UfsPage:
        raise NotImplementedError("a worker never lists")

    def read(self, key: bytes, offset: int, length: int, fingerprint: str) -> Iterator[memoryview]:
        with self._lock:
            self.gets.append((key, offset, length))
            fault = self.script.popleft() if self.script else None
        self.asked.release()
        assert self._gate.wait(PATIENCE_S)
        if key not in self.files:
            raise UfsNotFound(f"{key!r} is gone")
        data, now = self.files[key]
        if now != fingerprint:
            raise UfsChanged(f"{key!r} is {now}, not {fingerprint}")
        body = data[offset : offset + length]
        if fault is not None:
            yield from fault(body)
        else:
            yield from self.pieces(body)

    def pieces(self, body: bytes) -> Iterator[memoryview]:
        for begin in range(0, len(body), self.chunk):
            assert self._gate.wait(PATIENCE_S)
            yield memoryview(body)[begin : begin + self.chunk]

    def close(self) -> None:
        self.closed += 1

    # ---- faults, to be put into ``script`` ----

    def throttle(self, _body: bytes) -> Iterator[memoryview]:
        raise UfsThrottled("SlowDown")
        yield

    def changed_after(self, size: int) -> Callable[[bytes], Iterator[memoryview]]:
        def fault(body: bytes) -> Iterator[memoryview]:
            yield from self.pieces(body[:size])
            raise UfsChanged("the object was replaced while it was read")

        return fault

    def truncated_after(self, size: int) -> Callable[[bytes], Iterator[memoryview]]:
        def fault(body: bytes) -> Iterator[memoryview]:
            yield from self.pieces(body[:size])
            raise UfsBadBody("the body ended early")

        return fault

    def lying_after(self, size: int) -> Callable[[bytes], Iterator[memoryview]]:
        """Ends early and says nothing."""
        return lambda body: self.pieces(body[:size])

    def too_long(self, body: bytes) -> Iterator[memoryview]:
        return self.pieces(body + b"x")


class ScriptedMaster:
    """A master as far as workers see one. ``silent``: it does not answer."""

    def __init__(self) -> None:
        self.cluster, self.incarnation = CLUSTER, 1
        self.keys = {1: KEY}
        self.mounts = [MountGrant(1, "scripted://bucket", {"endpoint": "http://user:pw@store:1"}, 1)]
        self.mounts_index = 1
        self.feed: list[FeedItem] = []
        self.feed_head, self.feed_tail = 0, 0
        self.silent = False
        self.addresses: dict[int, str] = {}
        """Where workers listen."""
        self.now_ns = 0
        self.requests: list[Message] = []
        self.groups: list[GroupSpec] = []
        self.policies_index = 0
        self.tokens, self.tokens_index = TokenGrant({}, 0), 0
        self.slots: SlotsNews | None = None
        self.listed: bool | None = None
        self.begun = 0
        self.parts: PartsNews | None = None
        self.ended: list[EndWriteRequest] = []
        self.abandoned: list[AbandonWriteRequest] = []
        self.uploads: list[RecordUploadRequest] = []
        self.published: list[PublishRequest] = []
        self.replaced, self.publish_key = "", "file"
        """What PUBLISH answers; the key of every write under test."""
        self.refusals: deque[tuple[Method, MonofsError]] = deque()
        """Errors for the next requests of these methods, in order."""
        self.locking: Deferred[Any] = succeed(None)
        """What the next PUBLISH waits for."""
        self._waiting: list[tuple[Any, Deferred[Any]]] = []

    def call(self, method: Method, request: Any, answer_type: type[Any], timeout_s: float = 30.0) -> Deferred[Any]:
        self.requests.append(request)
        now_ns = self.now_ns or time.time_ns()
        if self.silent:
            return fail(Unreachable("the master is away"))
        if method is Method.REGISTER:
            return succeed(
                RegisterAnswer(
                    7,
                    self.cluster,
                    self.incarnation,
                    1,
                    self.keys,
                    self.mounts,
                    10.0,
                    now_ns,
                    self.feed_head,
                    self.feed_tail,
                    self.groups,
                    self.tokens,
                    self.tokens_index,
                    self.listed,
                    self.begun,
                )
            )
        if method is Method.CLUSTER:
            infos = [WorkerInfo(number, address, "", "", True) for number, address in self.addresses.items()]
            return succeed(ClusterAnswer(self.cluster, self.incarnation, 1, infos, [], listed=len(infos)))
        if method is not Method.HEARTBEAT:
            return self._hear(method, request)
        assert method is Method.HEARTBEAT
        deferred: Deferred[Any] = Deferred(lambda d: self._waiting.clear())
        self._waiting.append((request, deferred))
        news = any(item.index > request.cursor for item in self.feed)
        if news or (request.mounts_index, request.policies_index) != (self.mounts_index, self.policies_index):
            self.answer()
        return deferred

    def _hear(self, method: Method, request: Any) -> Deferred[Any]:
        """What a worker tells of its writes."""
        if self.refusals and self.refusals[0][0] is method:
            return fail(self.refusals.popleft()[1])
        if method is Method.RECORD_UPLOAD:
            self.uploads.append(request)
            return succeed(Empty())
        if method is Method.PUBLISH:
            self.published.append(request)
            locking, self.locking = self.locking, succeed(None)
            return locking.addCallback(lambda _: PublishAnswer(self.replaced, False, self.publish_key))
        if method is Method.ABANDON_WRITE:
            self.abandoned.append(request)
            return succeed(AbandonWriteAnswer(request.error))
        assert method is Method.END_WRITE
        self.ended.append(request)
        return succeed(InodeAnswer(msgspec.Raw(msgspec.msgpack.encode(request.size))))

    def answer(self) -> None:
        """Answer the heartbeat that waits, as when something happened."""
        waiting, self._waiting = self._waiting, []
        for request, deferred in waiting:
            news = [item for item in self.feed if item.index > request.cursor]
            cursor = max([request.cursor, self.feed_head, *(item.index for item in news)])
            same = request.mounts_index == self.mounts_index
            deferred.callback(
                HeartbeatAnswer(
                    news,
                    cursor,
                    1,
                    self.now_ns or time.time_ns(),
                    self.keys,
                    None if same else self.mounts,
                    self.mounts_index,
                    None if request.policies_index == self.policies_index else self.groups,
                    self.policies_index,
                    None if request.tokens_index == self.tokens_index else self.tokens,
                    self.tokens_index,
                    self.slots,
                    self.parts,
                )
            )

    def break_off(self) -> None:
        """Fail the heartbeat that waits."""
        waiting, self._waiting = self._waiting, []
        for _, deferred in waiting:
            deferred.errback(Unreachable("the connection broke"))

    @property
    def is_waited_on(self) -> bool:
        return bool(self._waiting)


class World:
    """One worker and its surroundings below one directory."""

    def __init__(
        self,
        thread: Loop,
        home: str,
        *,
        quota: int = 1 << 40,
        opens_real_stores: bool = False,
        pages: str = "",
        tiers: list[TierSpec] | None = None,
        security: Security | None = None,
        store: ScriptedStore | None = None,
        **settings: Any,
    ) -> None:
        self.thread, self.home = thread, home
        self.run = thread.do
        self.store = store or ScriptedStore()
        self.master = ScriptedMaster()
        self.tiers = tiers or [TierSpec("DISK", pages or f"{home}/pages", quota)]
        settings = {"heartbeat_interval_s": 0.0, "store_timeout_s": 5.0, **settings}
        self.config = WorkerConfig(**settings)
        self.opened: list[tuple[str, dict[str, str]]] = []
        self.told: list[str] = []
        """What who started the worker is shown."""
        self.open_store: Callable[[str, dict[str, str]], Any] | None = None if opens_real_stores else self._open_store
        self._contents = 0
        self.security = security
        """Of its doors."""

    def _open_store(self, uri: str, options: dict[str, str]) -> Any:
        self.opened.append((uri, options))
        return self.store

    def start(self) -> World:
        os.makedirs(self.home, exist_ok=True)
        self.run(self._start)
        self.tcp = Pool(self.address)
        self.unix = Pool(f"{self.home}/w.sock")
        return self

    def _start(self) -> Deferred[None]:
        reactor = self.thread.reactor
        self.cache = Cache(f"{self.home}/index", self.tiers, reserve=0.0, call_soon=reactor.callFromThread)
        self.cache.open()
        self.worker = Worker(
            self.config,
            self.cache,
            self.master,
            reactor=reactor,
            home=self.home,
            open_store=self.open_store,
            tell=self.told.append,
        )
        service = self.worker.service()
        self.listeners = [
            listen_tcp(reactor, service, "127.0.0.1", 0, security=self.security),
            listen_unix(reactor, service, f"{self.home}/w.sock", security=self.security),
        ]
        self.address = self.listeners[0].address
        self.direct = DirectClient(service)
        return self.worker.start(self.address, f"{self.home}/w.sock")

    def stop(self) -> None:
        """A clean stop; again: nothing."""
        self.tcp.close()
        self.unix.close()
        for listener in self.listeners:
            self.run(listener.stop)
        self.listeners = []
        self.run(self.worker.stop)

    def crash(self) -> None:
        """End without closing the cache, as kill -9 would: what the index had not written is lost."""
        self.tcp.close()
        self.unix.close()
        for listener in self.listeners:
            self.run(listener.stop)

        def abandon() -> None:
            self.cache.index.flush(PATIENCE_S)
            self.cache.close = lambda: None  # type: ignore[method-assign]

        self.run(abandon)
        self.run(self.worker.stop)
        self.run(self.cache._abandon)

    # ---- contents -----------------------------------------------------------------------------------------------------

    def put(self, data: bytes, key: str = "", *, layout: int = DEFAULT_LAYOUT) -> tuple[bytes, bytes]:
        """An object in the store, as a new content: (capability, data)."""
        self._contents += 1
        key = key or f"object-{self._contents}"
        fingerprint = f"e:{self._contents}"
        self.store.files[key.encode()] = (data, fingerprint)
        return self.capability(self._contents, len(data), key, fingerprint, layout=layout), data

    def capability(
        self,
        counter: int,
        size: int,
        key: str,
        fingerprint: str,
        *,
        mount: int = 1,
        life_s: int = LIFE_S,
        secret: bytes = KEY,
        cluster: bytes = CLUSTER,
        group: int = CacheGroup.DEFAULT,
        age_s: int = 0,
        layout: int = DEFAULT_LAYOUT,
    ) -> bytes:
        now = int(time.time()) - age_s
        content = make_content_id(1, counter)
        capability = Capability(
            1, cluster, content, size, layout, MountId(mount), key, fingerprint, group, Rights.READ, now, now + life_s
        )
        return seal_capability(capability, secret)

    def write_capability(
        self,
        counter: int,
        size: int,
        key: str = "file",
        *,
        write_type: str = WriteType.CACHE_THROUGH,
        replaced: str = "",
        replaced_content: ContentId = NO_CONTENT,
        replaced_size: int = 0,
        mount: int = 1,
        group: int = CacheGroup.DEFAULT,
        life_s: int = LIFE_S,
        operation: int = 0,
        layout: int = DEFAULT_LAYOUT,
    ) -> bytes:
        """A token to write content ``counter`` as operation ``counter``."""
        now, operation = int(time.time()), operation or counter
        capability = Capability(
            1, CLUSTER, make_content_id(1, counter), size, layout, MountId(mount), key, replaced, group, Rights.WRITE, now,
            now + life_s, operation, f"c-1-{operation:x}", write_type, replaced_content, replaced_size,
        )  # fmt: skip
        return seal_capability(capability, KEY)

    def write(
        self, capability: bytes, data: bytes, *, piece: int = MIB, begin: int = 0, last: bool = True
    ) -> WriteAnswer:
        """Send bytes from offset ``begin`` on, in pieces, one after the other; the last answer."""
        offsets = range(0, len(data), piece) or [0]
        for offset in offsets:
            is_last = last and offset == offsets[-1]
            request = WriteRequest(capability, begin + offset, memoryview(data)[offset : offset + piece], is_last)
            answer = self.tcp.call(Method.WRITE, request, WriteAnswer, PATIENCE_S)
        return answer

    @staticmethod
    def content(counter: int = 1) -> ContentId:
        return make_content_id(1, counter)

    def present(self, counter: int = 1, group: int = 0) -> int:
        def look() -> int:
            found = self.cache.lookup(self.content(counter), group)
            return found.present if found is not None else 0

        return int(self.run(look))

    def path_of(self, counter: int = 1, group: int = 0) -> str:
        def look() -> str:
            found = self.cache.lookup(self.content(counter), group)
            assert found is not None
            fd = self.cache.open_reader(found)
            try:
                return os.readlink(f"/proc/self/fd/{fd}")
            finally:
                os.close(fd)

        return str(self.run(look))

    # ---- asking -------------------------------------------------------------------------------------------------------

    def read(self, capability: bytes, offset: int, length: int, *, pool: Pool | None = None, **options: Any) -> bytes:
        """READ over a socket."""
        timeout_s = options.pop("timeout_s", PATIENCE_S)
        buffer = bytearray(max(length, 1))
        request = ReadRequest(capability, offset, length, **options)
        count = (pool or self.tcp).read_into(Method.READ, request, buffer, timeout_s)
        return bytes(buffer[:count])

    def read_many(self, capabilities: list[bytes], pieces: list[tuple[int, int, int]], **options: Any) -> bytes:
        buffer = bytearray(max(sum(length for _, _, length in pieces), 1))
        request = ReadManyRequest(capabilities, pieces, **options)
        count = self.tcp.read_into(Method.READ_MANY, request, buffer, PATIENCE_S)
        return bytes(buffer[:count])

    def fetch(self, capability: bytes, group: int, pages: int, **options: Any) -> FetchAnswer:
        return self.tcp.call(Method.FETCH, FetchRequest(capability, group, pages, **options), FetchAnswer, PATIENCE_S)

    def ask(self, requests: list[ReadRequest]) -> list[Asked]:
        """Begin READs in this order, on the reactor, and return without waiting for them."""
        return self.run(lambda: [Asked(self.direct, request) for request in requests])  # type: ignore[no-any-return]

    def on_reactor_until(self, condition: Callable[[], bool]) -> None:
        """Let the reactor turn until the condition holds; fails after ``PATIENCE_S``."""

        async def turn() -> None:
            deadline = time.monotonic() + PATIENCE_S
            while not condition():
                assert time.monotonic() < deadline, "it never came to be"
                await deferLater(self.thread.reactor, 0.001)

        self.run(lambda: Deferred.fromCoroutine(turn()))

    def on_beat(self, answers: int = 2) -> None:
        """Let the worker hear from the master and act on all of it."""
        self.run(self._beat, answers)

    def _beat(self, answers: int) -> Deferred[None]:
        """Two answers: what the first brought is acted on before the second is asked for."""

        async def beat() -> None:
            for _ in range(answers):
                while not self.master.is_waited_on:
                    await deferLater(self.thread.reactor, 0)
                self.master.answer()
            while not self.master.is_waited_on:
                await deferLater(self.thread.reactor, 0)

        return Deferred.fromCoroutine(beat())


class Asked:
    """One READ in flight on the direct channel."""

    def __init__(self, client: DirectClient, request: ReadRequest) -> None:
        self.data = bytearray()
        self.error: MonofsError | None = None
        self.done = threading.Event()
        self.deferred = client.stream(Method.READ, request, self.data.extend, Empty, PATIENCE_S)
        self.deferred.addCallbacks(lambda _: self.done.set(), self._failed)

    def _failed(self, failure: Any) -> None:
        self.error = failure.value
        self.done.set()

    def wait(self) -> bytes:
        """All bytes, once the answer is here; raises its error."""
        assert self.done.wait(PATIENCE_S), "no answer came"
        if self.error is not None:
            raise self.error
        return bytes(self.data)


def group_span(size: int) -> int:
    """How many groups ``size`` bytes have."""
    return -(-size // GROUP_SIZE_BYTES)
