"""An HTTP/1.1 proxy before an S3 server that counts requests by kind and key and breaks answers by rule, at run time.

Clients take the proxy's endpoint as theirs; ``Host`` and all signed headers go through unchanged, so signatures stay valid at a
server that verifies them. One thread a connection, one upstream connection each; everything on loopback.

Invariant: a request is in the log before its answer's first byte leaves the proxy, so a client that has its answer finds it there.

Not here: TLS, pipelining, proxying by CONNECT, speed: it is for counting and breaking, not for measuring.
"""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

HEAD_BYTES_MAX = 64 << 10
BLOCK_BYTES = 64 << 10


@dataclass(eq=False)
class Fault:
    """One rule. A request it matches gets, in this order: ``delay_s``; ``status`` without asking the store; replaced ``headers``;
    and when ``after_bytes`` of the body went out, ``call`` and ``cut``.

    ``cut``: ``close`` (the body ends early under its full Content-Length), ``reset`` (RST), ``hang`` (silence until ``clear`` or
    ``stop``). With ``after_bytes`` -1 even the head is not sent: the request landed, its answer is lost. With ``early`` it never lands.
    A delay longer than its client's patience lets a request land after its client gave up. ``used`` counts the requests it was applied to.
    """

    kind: str = ""
    """Only requests of this kind: list, get, head, put, delete, post; empty: any."""
    key: bytes = b""
    """Only requests of this key; empty: any."""
    query: str = ""
    """Only requests with this in their query: ``uploads=``, ``partNumber=``, ``uploadId=``, ``delete=``; empty: any."""
    times: int = 0
    """Only so many requests; 0: all."""
    delay_s: float = 0.0
    status: int = 0
    code: str = "SlowDown"
    body: bytes = b""
    """With ``status``: this body; empty: an S3 error document with ``code``."""
    lands: bool = False
    """With ``status``: the store is asked all the same, and its answer dropped."""
    early: bool = False
    """``call`` and ``cut`` strike before the store is asked."""
    twice: bool = False
    """The store gets the request twice; the client gets the second answer."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Replaces headers of the store's answer; an empty value removes one."""
    cut: str = ""
    after_bytes: int = 0
    call: Callable[[], None] | None = None
    used: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: ``kind`` as in ``Fault``; ``key`` decoded, empty for the bucket; ``range`` as sent."""

    kind: str
    method: str
    bucket: str
    key: bytes
    range: str
    query: str


@dataclass(slots=True)
class _Message:
    """A parsed head: its first line split in three, and header lines in the order sent."""

    line: tuple[str, str, str]
    headers: list[tuple[str, str]] = field(default_factory=list)

    def get(self, name: str) -> str:
        return next((value for given, value in self.headers if given.lower() == name), "")

    def replace(self, name: str, value: str) -> None:
        self.headers = [(given, kept) for given, kept in self.headers if given.lower() != name.lower()]
        if value:
            self.headers.append((name, value))

    def encode(self) -> bytes:
        lines = [" ".join(self.line), *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class _Broken(Exception):
    """The connection ends here: a fault wants it, or the peer went away."""


class StoreProxy:
    """One running proxy. Use as a context manager, or call ``start`` and ``stop``.

    ``latency_s`` is added to every request; rules come from :meth:`add` and go with :meth:`clear`.
    """

    def __init__(self, upstream: str, *, latency_s: float = 0.0) -> None:
        url = urlsplit(upstream)
        self._upstream = (url.hostname or "127.0.0.1", url.port or 80)
        self.latency_s = latency_s
        self.port = 0
        self._lock = threading.Lock()
        self._seen: list[Seen] = []
        self._faults: list[Fault] = []
        self._released = threading.Event()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    @property
    def endpoint(self) -> str:
        """URL to give to clients."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> StoreProxy:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on ``port`` (0: any free one; the same again after a stop)."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        """Stop listening and drop all connections: the store becomes unreachable. Safe to call twice."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        self.clear()
        with self._lock:
            threads, self._threads = self._threads, []
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def add(self, fault: Fault) -> Fault:
        """Put a rule before the older ones; the first that matches a request applies."""
        with self._lock:
            self._faults.insert(0, fault)
        return fault

    def clear(self) -> None:
        """Drop all rules and let hanging answers end."""
        with self._lock:
            self._faults.clear()
            self._released.set()
            self._released = threading.Event()

    def seen(self, kind: str = "", key: bytes = b"") -> list[Seen]:
        """Requests so far, oldest first; only of ``kind`` and ``key`` where given."""
        with self._lock:
            return [one for one in self._seen if kind in ("", one.kind) and key in (b"", one.key)]

    def count(self, kind: str = "", key: bytes = b"") -> int:
        """How many requests so far."""
        return len(self.seen(kind, key))

    def forget(self) -> None:
        """Empty the log."""
        with self._lock:
            self._seen.clear()

    # ---- connections ----------------------------------------------------------------------------------------------------

    def _spawn(self, target: Callable[[socket.socket], None], connection: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(connection,), name="storeproxy", daemon=True)
        with self._lock:
            self._threads = [kept for kept in self._threads if kept.is_alive()]
            thread.start()
            self._threads.append(thread)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        store: socket.socket | None = None
        with self._lock:
            self._open.add(client)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            store = socket.create_connection(self._upstream)
            store.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(store)
            with client.makefile("rb") as from_client, store.makefile("rb") as from_store:
                while self._exchange(client, store, from_client, from_store):
                    pass
        except (OSError, _Broken, ValueError):
            pass  # either side went away, or a fault ended it: the client sees the connection end
        finally:
            with self._lock:
                self._open.discard(client)
                self._open.discard(store or client)
            client.close()
            if store is not None:
                store.close()

    def _exchange(
        self, client: socket.socket, store: socket.socket, from_client: io.BufferedIOBase, from_store: io.BufferedIOBase
    ) -> bool:
        """One request and its answer; False when the connection ends after it."""
        request = _read_head(from_client)
        if request is None:
            return False
        if request.get("expect"):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.replace("Expect", "")
        fault, released = self._note(request)
        if self.latency_s:
            time.sleep(self.latency_s)
        if fault and fault.delay_s:
            released.wait(fault.delay_s)
        sink = _Sink(client, fault, released)
        if fault and ((fault.status and not fault.lands) or fault.early):
            _copy_body(request, from_client, _drop)
            if fault.early:
                sink.end()
            client.sendall(_refusal(fault, request))
            return True
        if fault and fault.twice:
            body = bytearray()
            _copy_body(request, from_client, body.extend)
            self._deliver(request, body)
            store.sendall(request.encode() + body)
        else:
            store.sendall(request.encode())
            _copy_body(request, from_client, store.sendall)
        answer = _read_answer(from_store)
        has_body = request.line[0] != "HEAD" and answer.line[1] not in ("204", "304")
        whole = bytearray()
        if has_body and fault and (fault.lands or fault.after_bytes < 0):
            with contextlib.suppress(_Broken):  # a body without a length ends with the connection
                _copy_body(
                    answer, from_store, whole.extend, until_end=True
                )  # a store may begin its answer before it acts
        if fault and fault.status:
            client.sendall(_refusal(fault, request, last=True))
            return False
        for name, value in fault.headers.items() if fault else ():
            answer.replace(name, value)
        sink.head(answer.encode())
        if whole:
            sink.body(bytes(whole))
        elif has_body:
            _copy_body(answer, from_store, sink.body, until_end=True)
        sink.end()
        return "close" not in (request.get("connection").lower(), answer.get("connection").lower())

    def _deliver(self, request: _Message, body: bytes | bytearray) -> None:
        """Send a request to the store on a connection of its own, and read its answer."""
        with socket.create_connection(self._upstream) as store, store.makefile("rb") as from_store:
            store.sendall(request.encode() + body)
            answer = _read_answer(from_store)
            if request.line[0] != "HEAD" and answer.line[1] not in ("204", "304"):
                with contextlib.suppress(_Broken):  # a body without a length ends with the connection
                    _copy_body(answer, from_store, _drop, until_end=True)

    def _note(self, request: _Message) -> tuple[Fault | None, threading.Event]:
        """Log the request and find its rule."""
        method, target, _ = request.line
        path, _, query = target.partition("?")
        bucket, _, raw_key = path.lstrip("/").partition("/") if path.startswith("/") else ("", "", "")
        key = unquote_to_bytes(raw_key)
        listing = method == "GET" and (not key or "list-type" in parse_qs(query))
        kind = "list" if listing else method.lower()
        with self._lock:
            self._seen.append(Seen(kind, method, bucket, key, request.get("range"), query))
            for fault in self._faults:
                wanted = fault.kind in ("", kind) and fault.key in (b"", key) and fault.query in query
                if wanted and not 0 < fault.times <= fault.used:
                    fault.used += 1
                    return fault, self._released
            return None, self._released


class _Sink:
    """The way to the client, with the fault in it."""

    def __init__(self, client: socket.socket, fault: Fault | None, released: threading.Event) -> None:
        self._client, self._released = client, released
        self._fault = fault if fault and (fault.cut or fault.call) else None
        self._sent = 0

    def head(self, data: bytes) -> None:
        if self._fault and self._fault.after_bytes < 0:
            self._strike(self._fault)
        self._client.sendall(data)

    def body(self, data: bytes) -> None:
        fault = self._fault
        if fault is not None and self._sent + len(data) > fault.after_bytes:
            before = fault.after_bytes - self._sent
            self._client.sendall(data[:before])
            self._strike(fault)
            data = data[before:]
        self._client.sendall(data)
        self._sent += len(data)

    def end(self) -> None:
        """A rule whose ``after_bytes`` lies at or beyond the end of the body strikes here."""
        if self._fault is not None:
            self._strike(self._fault)

    def _strike(self, fault: Fault) -> None:
        self._fault = None
        if fault.call is not None:
            fault.call()
        if fault.cut == "hang":
            self._released.wait()
        if fault.cut == "reset":
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault.cut:
            raise _Broken


def _read_head(source: io.BufferedIOBase) -> _Message | None:
    """The next head, or None when the peer ended the connection before it."""
    first = source.readline(HEAD_BYTES_MAX)
    if not first:
        return None
    parts = first.decode("latin-1").rstrip("\r\n").split(" ", 2)
    if len(parts) < 2:
        raise _Broken
    message = _Message((parts[0], parts[1], parts[2] if len(parts) > 2 else ""))
    while True:
        line = source.readline(HEAD_BYTES_MAX).decode("latin-1").rstrip("\r\n")
        if not line:
            return message
        name, _, value = line.partition(":")
        message.headers.append((name.strip(), value.strip()))


def _read_answer(source: io.BufferedIOBase) -> _Message:
    """The head of the final answer."""
    answer = _read_head(source)
    while answer is not None and answer.line[1] == "100":
        answer = _read_head(source)
    if answer is None:
        raise _Broken
    return answer


def _drop(data: bytes) -> None:
    """Where bytes go that nobody wants."""


def _copy_body(
    message: _Message, source: io.BufferedIOBase, sink: Callable[[bytes], None], *, until_end: bool = False
) -> None:
    """Pass a body on as it comes: chunked, counted, or (answers only) until the peer ends."""
    if "chunked" in message.get("transfer-encoding").lower():
        while True:
            size_line = source.readline(HEAD_BYTES_MAX)
            sink(size_line)
            size = int(size_line.split(b";")[0], 16)
            _copy(source, size + 2 if size else 0, sink)
            if not size:
                break
        while (trailer := source.readline(HEAD_BYTES_MAX)) not in (b"\r\n", b""):
            sink(trailer)
        sink(b"\r\n")
    elif message.get("content-length"):
        _copy(source, int(message.get("content-length")), sink)
    elif until_end:
        while block := source.read1(BLOCK_BYTES):
            sink(block)
        raise _Broken


def _copy(source: io.BufferedIOBase, count: int, sink: Callable[[bytes], None]) -> None:
    while count > 0:
        block = source.read1(min(BLOCK_BYTES, count))
        if not block:
            raise _Broken
        count -= len(block)
        sink(block)


def _refusal(fault: Fault, request: _Message, *, last: bool = False) -> bytes:
    body = fault.body or f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
    answer = _Message(("HTTP/1.1", str(fault.status), "Injected"), [("Content-Length", str(len(body)))])
    answer.headers.append(("Content-Type", "application/xml"))
    if last:
        answer.headers.append(("Connection", "close"))
    for name, value in fault.headers.items():
        answer.replace(name, value)
    return answer.encode() + (body if request.line[0] != "HEAD" else b"")
