"""`monofs bench cluster`: one real master, and thousands of workers that are nothing but a connection, a registration and heartbeats.

Each simulated worker shakes hands, registers and beats as a real one does, and follows the slot table: it takes a packed delta's word for what it
leads to instead of applying it, so that the master, not this process, is what is measured.
"""

from __future__ import annotations

import heapq
import json
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from monofs.cli.figures import Report
from monofs.client.filesystem import find_credential
from monofs.model.errors import ConfigError, ConnectionLost, DeadlineExceeded, MonofsError
from monofs.model.slots import unpack_delta
from monofs.observe.totals import TOTALS
from monofs.rpc.api import (
    ClusterAnswer,
    ClusterRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    Message,
    Method,
    RegisterAnswer,
    RegisterRequest,
    SlotsKnown,
    SlotsNews,
)
from monofs.rpc.conversation import Conversation
from monofs.rpc.frames import HEADER_BYTES, Kind, decode_error, pack
from monofs.rpc.handshake import Credential

LIMIT_S = 120.0
FILES_SPARE = 200
ASKED = 50
"""How often a client's question is asked."""
START_S = 60.0
_LENGTH = struct.Struct(">I").unpack_from
_encode = msgspec.msgpack.Encoder().encode
_registered = msgspec.msgpack.Decoder(RegisterAnswer).decode
_beaten = msgspec.msgpack.Decoder(HeartbeatAnswer).decode


def measure_cluster(report: Report, workers: int, interval_s: float, seconds: float) -> None:
    """Add all figures to a report. ``ConfigError`` where so many files cannot be open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if workers + FILES_SPARE > limit:
        raise ConfigError(f"the limit of open files is {limit}: raise it, or simulate fewer workers")
    with tempfile.TemporaryDirectory(prefix="monofs-") as directory, _master(directory) as master:
        empty_bytes = master.private_bytes()
        swarm = Swarm(master, interval_s)
        try:
            _storm(report, swarm, workers)
            _quiet(report, swarm, seconds)
            _publication(report, swarm)
            full_bytes = master.private_bytes()
            note = f"{empty_bytes / 1e6:.0f} MB without workers"
            report.add("memory of the master", full_bytes / 1e6, "MB", note=note)
        finally:
            swarm.close()


def _storm(report: Report, swarm: Swarm, workers: int) -> None:
    begin = time.perf_counter()
    for _ in range(workers):
        swarm.connect()
    report.add("connect and shake hands, one after another", workers / (time.perf_counter() - begin), "workers/s")
    begin, cpu = time.perf_counter(), swarm.master.cpu_s()
    for peer in swarm.peers:
        swarm.register(peer)
    swarm.run(lambda: swarm.live == workers, LIMIT_S)
    waits = sorted(peer.registered_s for peer in swarm.peers)
    report.add(
        "all registered at once, until all live",
        time.perf_counter() - begin,
        "s",
        note=f"p99 {waits[int(0.99 * len(waits))]:.2f} s",
    )
    swarm.run(swarm.is_settled, LIMIT_S)
    report.add(
        "… until all know the table", swarm.learned_s - begin, "s",
        note=f"{len(swarm.epochs)} plans, {swarm.whole_bytes / 1e6:.0f} MB of tables, {swarm.master.cpu_s() - cpu:.1f} s of the master's CPU",
    )  # fmt: skip


def _quiet(report: Report, swarm: Swarm, seconds: float) -> None:
    beats, received, cpu, begin = swarm.beats, swarm.received, swarm.master.cpu_s(), time.perf_counter()
    swarm.run(lambda: False, seconds, is_bound=False)
    took = time.perf_counter() - begin
    swarm.idle_share = (swarm.master.cpu_s() - cpu) / took
    count = swarm.beats - beats
    report.add(
        "heartbeats", count / took, "/s",
        note=f"{100 * swarm.idle_share:.1f} % of a core, {(swarm.received - received) / max(1, count):.0f} B an answer",
    )  # fmt: skip


def _publication(report: Report, swarm: Swarm) -> None:
    """One more worker: a plan, and what it costs to tell everybody."""
    before = swarm.known.epoch
    told, cpu, begin = swarm.delta_bytes, swarm.master.cpu_s(), time.perf_counter()
    swarm.connect()
    swarm.register(swarm.peers[-1])
    swarm.run(lambda: swarm.known.epoch != before and swarm.do_all_know(), LIMIT_S)
    took = time.perf_counter() - begin
    cost = swarm.master.cpu_s() - cpu - swarm.idle_share * took
    report.add(
        "one more worker, until all know the table",
        took,
        "s",
        note=f"{cost:.2f} s of CPU beyond heartbeats, plan included",
    )
    report.add("a delta of the table", (swarm.delta_bytes - told) / len(swarm.peers), "B a worker")
    for what, knows in (("nothing", False), ("all of it", True)):
        size, seconds, cpu = 0, 0.0, swarm.master.cpu_s()
        for _ in range(ASKED):
            request = ClusterRequest(swarm.known if knows else SlotsKnown(), swarm.listed if knows else 0)
            begin = time.perf_counter()
            answer, size = swarm.ask(request)
            seconds += time.perf_counter() - begin
            swarm.listed = answer.listed
        cpu_ms = (swarm.master.cpu_s() - cpu) / ASKED * 1e3
        note = f"{seconds / ASKED * 1e3:.1f} ms with a new connection, {cpu_ms:.1f} ms of the master's CPU"
        report.add(f"CLUSTER for a client that knows {what}", size, "B", note=note)


# ---- the master ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Served:
    """The master's process."""

    pid: int
    address: str
    credential: Credential

    def private_bytes(self) -> int:
        """Anonymous resident memory."""
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))

    def cpu_s(self) -> float:
        """User and system time so far."""
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _master(directory: str) -> Iterator[Served]:
    home, ready = os.path.join(directory, "home"), os.path.join(directory, "ready.json")
    sets = [word for each in ("master.port=0", "console.port=0") for word in ("--set", each)]
    command = [
        sys.executable,
        "-m",
        "monofs",
        "serve",
        "--role",
        "master",
        "--home",
        home,
        "--ready-file",
        ready,
        *sets,
    ]
    with open(os.path.join(directory, "out"), "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)  # noqa: S603 - this very program
    try:
        deadline = time.monotonic() + START_S
        while not os.path.exists(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                with open(os.path.join(directory, "out")) as said:
                    raise MonofsError(f"the master did not start: {said.read()[-500:]}")
            time.sleep(0.02)
        with open(ready) as file:
            doors = json.load(file)
        credential = find_credential(os.path.join(home, "cluster.secret"), None, None)
        yield Served(process.pid, doors["rpc"], credential)
    finally:
        process.terminate()
        process.wait()


# ---- the workers --------------------------------------------------------------------------------------------------------


class _Peer:
    __slots__ = (
        "beat_s",
        "due_s",
        "held",
        "known",
        "last_id",
        "number",
        "outbox",
        "registered_s",
        "sent_s",
        "sock",
        "talk",
        "waits",
        "worker",
    )

    def __init__(self, talk: Conversation, number: int) -> None:
        assert isinstance(talk._sock, socket.socket)  # noqa: S101 - there is no TLS here
        self.talk, self.sock, self.number = talk, talk._sock, number
        self.sock.setblocking(False)
        self.held = self.outbox = b""
        self.last_id = self.worker = 0
        self.registered_s = self.sent_s = 0.0
        self.waits = False
        self.known = SlotsKnown()


def _nowhere(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:29999"


class Swarm:
    """All simulated workers, in one thread."""

    def __init__(
        self, master: Served, interval_s: float, *, address: Callable[[int], str] | None = None, busy: int = 0
    ) -> None:
        """``address(number)``: what a worker says of where it is, by default somewhere nobody is. ``busy``: so many of them tell other totals with every heartbeat."""
        self.master, self.interval_s, self._address, self._busy = master, interval_s, address or _nowhere, busy
        self.peers: list[_Peer] = []
        self.live = self.beats = self.received = self.whole_bytes = self.delta_bytes = self.listed = 0
        self.idle_share = 0.0
        self.known = SlotsKnown()
        """The newest table any of them knows."""
        self.epochs: set[int] = set()
        self.learned_s = 0.0
        """When one of them last came to know a table."""
        self._knowing = 0
        self._named: set[int] = set()
        """Workers that any table lists."""
        self._by_fd: dict[int, _Peer] = {}
        self._due: list[tuple[float, int]] = []
        self._led_to: dict[bytes, tuple[int, int, bool]] = {}
        self._epoll = select.epoll()

    def connect(self) -> None:
        """One more connection, through the whole handshake."""
        peer = _Peer(
            Conversation(self.master.address, self.master.credential, time.monotonic() + LIMIT_S), len(self.peers)
        )
        self.peers.append(peer)
        self._by_fd[peer.sock.fileno()] = peer
        self._epoll.register(peer.sock.fileno(), select.EPOLLIN)

    def register(self, peer: _Peer) -> None:
        """Send a registration."""
        identity = (peer.number + 1).to_bytes(16, "big")
        address = self._address(peer.number)
        self._send(
            peer, Method.REGISTER, RegisterRequest(identity, address, "/run/monofs/worker.sock", "", 1 << 40, 0, 0)
        )

    def is_settled(self) -> bool:
        """Whether all know the newest table, and it lists all of them."""
        return self.do_all_know() and len(self._named) == len(self.peers)

    def do_all_know(self) -> bool:
        """Whether all know the newest table."""
        return self._knowing == len(self.peers)

    def run(self, is_over: Callable[[], bool], limit_s: float, *, is_bound: bool = True) -> None:
        """Let them live until ``is_over``. ``DeadlineExceeded`` when that lasts longer than ``limit_s``, unless that is what is wanted."""
        end = time.perf_counter() + limit_s
        while not is_over():
            now = time.perf_counter()
            if now > end:
                if is_bound:
                    raise DeadlineExceeded(f"the workers were not through within {limit_s:g} s")
                return
            while self._due and self._due[0][0] <= now:
                self._beat(self.peers[heapq.heappop(self._due)[1]])
            wait_s = min(0.05, self._due[0][0] - now) if self._due else 0.05
            for fd, event in self._epoll.poll(max(0.0, wait_s)):
                peer = self._by_fd[fd]
                if event & select.EPOLLOUT:
                    self._flush(peer)
                if event & ~select.EPOLLOUT:
                    self._receive(peer)

    def ask(self, request: ClusterRequest) -> tuple[ClusterAnswer, int]:
        """What a client gets, and how many bytes that are; the workers wait meanwhile."""
        talk = Conversation(self.master.address, self.master.credential, time.monotonic() + LIMIT_S)
        try:
            answer = talk.call(int(Method.CLUSTER), _encode(request), time.monotonic() + LIMIT_S, 0)
        finally:
            talk.close()
        return msgspec.msgpack.decode(answer, type=ClusterAnswer), len(answer)

    def close(self) -> None:
        """Close all connections."""
        self._epoll.close()
        for peer in self.peers:
            peer.talk.close()

    def _beat(self, peer: _Peer) -> None:
        totals = [float(997 * self.beats)] * len(TOTALS) if peer.number < self._busy else []
        self._send(
            peer,
            Method.HEARTBEAT,
            HeartbeatRequest(peer.worker, 0, 1 << 40, 0, 0, self.interval_s, slots=peer.known, totals=totals),
        )

    def _send(self, peer: _Peer, method: Method, request: Message) -> None:
        peer.last_id += 1
        peer.outbox += pack(Kind.REQUEST, int(method), peer.last_id, _encode(request))
        peer.sent_s = time.perf_counter()
        self._flush(peer)

    def _flush(self, peer: _Peer) -> None:
        try:
            peer.outbox = peer.outbox[peer.sock.send(peer.outbox) :]
        except BlockingIOError:
            pass
        if bool(peer.outbox) != peer.waits:
            peer.waits = not peer.waits
            self._epoll.modify(peer.sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if peer.waits else 0))

    def _receive(self, peer: _Peer) -> None:
        data = peer.sock.recv(256 << 10)
        if not data:
            raise ConnectionLost("the master closed a connection of the benchmark")
        self.received += len(data)
        peer.held += data
        while len(peer.held) >= HEADER_BYTES:
            end = 4 + _LENGTH(peer.held, 0)[0]
            if end > len(peer.held):
                return
            kind, body = peer.held[4], peer.held[HEADER_BYTES:end]
            peer.held = peer.held[end:]
            if kind == Kind.ERROR:
                raise decode_error(body)
            if kind == Kind.ANSWER:
                self._take(peer, body)

    def _take(self, peer: _Peer, body: bytes) -> None:
        now = time.perf_counter()
        if not peer.worker:
            peer.worker = _registered(body).worker
            peer.registered_s = now - peer.sent_s
            self.live += 1
            self._beat(peer)
            return
        self.beats += 1
        answer = _beaten(body)
        if answer.slots is not None:
            self._follow(peer, answer.slots)
        heapq.heappush(self._due, (max(now, peer.sent_s + self.interval_s), peer.number))

    def _follow(self, peer: _Peer, news: SlotsNews) -> None:
        epoch, digest = peer.known.epoch, peer.known.digest
        for packed in news.deltas:
            if packed not in self._led_to:
                delta = unpack_delta(packed)
                self._named.update(array("H", delta.rows))
                self._led_to[packed] = delta.epoch, delta.digest, not delta.slots
            epoch, digest, is_whole = self._led_to[packed]
            self.whole_bytes += len(packed) if is_whole else 0
            self.delta_bytes += 0 if is_whole else len(packed)
        was = peer.known.epoch
        peer.known = SlotsKnown(epoch, digest, news.live)
        self.epochs.add(news.epoch)
        if epoch != was:
            self.learned_s = time.perf_counter()
        if epoch > self.known.epoch:
            self.known, self._knowing = peer.known, 0
        self._knowing += epoch == self.known.epoch and was != epoch
