"""Doors with a few plain methods on a real reactor."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from monofs.model.errors import InvariantBroken, NotFound, NotLeader
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.frames import Kind, pack
from monofs.rpc.server import Listener, listen_tcp, listen_unix
from monofs.rpc.service import Call, Service
from monofs.testing.reactors import Loop

SECRET = b"a cluster secret of enough bytes"


class House:
    """A service with handlers for every way of answering, and what they noted."""

    def __init__(self, loop: Loop, directory: str) -> None:
        self.loop = loop
        self.directory = directory
        self.fatal: list[BaseException] = []
        self.held: list[Call] = []
        self.closed: list[str] = []
        self.arrived: queue.Queue[Call] = queue.Queue()
        self.written: list[api.WriteRequest] = []
        self.service = Service("worker", loop.reactor, cluster=lambda: b"cluster-0123456!", on_fatal=self.fatal.append)
        register = self.service.register
        register(Method.PING, api.Empty, lambda request, call: api.Pong("1", "worker", len(call.principal.name)))
        register(Method.STAT, api.StatRequest, self.on_stat)
        register(Method.READ, api.ReadRequest, self.on_read)
        register(Method.LIST, api.ListRequest, self.on_list)
        register(Method.WRITE, api.WriteRequest, self.on_write)
        register(Method.DESCRIPTOR, api.DescriptorRequest, self.on_descriptor)
        self.listeners: list[Listener] = []

    def on_stat(self, request: api.StatRequest, call: Call) -> Any:
        match request.path:
            case "/missing":
                raise NotFound("no such file: /missing", path="/missing")
            case "/bug":
                raise ZeroDivisionError("a secret inside")
            case "/broken":
                raise InvariantBroken("broken")
            case "/later":
                waiting: Deferred[Any] = Deferred()
                self.loop.reactor.callLater(0.01, waiting.callback, answer_to("/later"))
                return waiting
            case "/later-missing":
                failing: Deferred[Any] = Deferred()
                self.loop.reactor.callLater(0.01, failing.errback, NotFound("gone", path="/later-missing"))
                return failing
            case "/coroutine":
                return self.coroutine()
            case "/hold":
                self.held.append(call)
                call.on_end(lambda: self.closed.append("end"))
                call.connection.on_close(lambda: self.closed.append("close"))
                self.arrived.put(call)
                return None
            case "/deaf":
                # only the asker's own deadline is left: the server would tell of its one at about the same time
                self.loop.reactor.callLater(0, self.service.deadlines.discard, call)
                call.on_end(lambda: self.closed.append("end"))
                return None
            case "/follower":
                raise NotLeader("ask the leader", leader=None)
            case "/huge":
                return api.StatAnswer(api.msgspec.Raw(api.msgspec.msgpack.encode(bytes(17 << 20))))
        return answer_to(request.path)

    def on_write(self, request: api.WriteRequest, _call: Call) -> Any:
        self.written.append(request)
        return api.WriteAnswer(request.offset + len(request.data))

    async def coroutine(self) -> api.StatAnswer:
        waiting: Deferred[None] = Deferred()
        self.loop.reactor.callLater(0, waiting.callback, None)
        await waiting
        return answer_to("/coroutine")

    def on_read(self, request: api.ReadRequest, call: Call) -> None:
        """capability `data:N` streams N pattern bytes per frame, `last:N` too, the last ones with the answer, `file:PATH` from a file; until
        ``length`` are sent."""
        kind, _, what = request.capability.decode().partition(":")
        left, offset = request.length, request.offset
        fd = os.open(what, os.O_RDONLY) if kind == "file" else -1

        def go() -> None:
            nonlocal left, offset
            while left and not call.closed:
                if not call.writable:
                    call.when_writable(go)
                    return
                if fd >= 0:
                    size = min(left, 4 << 20)
                    call.send_file(fd, offset, size)
                else:
                    size = min(left, int(what))
                    if kind == "last" and size == left:
                        call.finish(pattern(offset, size), api.Empty())
                        return
                    call.data(pattern(offset, size))
                left, offset = left - size, offset + size
            if fd >= 0:
                os.close(fd)
            call.answer(api.Empty())

        go()

    def on_list(self, request: api.ListRequest, call: Call) -> None:
        for number in range(request.limit):
            call.item(api.Pong(request.path, "", number))
        call.answer(api.Empty())

    def on_descriptor(self, request: api.DescriptorRequest, call: Call) -> api.DescriptorAnswer:
        for number in range(request.group):
            path = os.path.join(self.directory, f"lent-{number}")
            with open(path, "w") as file:
                file.write(f"file {number}")
            fd = os.open(path, os.O_RDONLY)
            call.attach(fd)
            self.loop.reactor.callLater(0, os.close, fd)
        return api.DescriptorAnswer(request.group, 0, 0, 1)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        self.loop.wait_until(condition)

    def tcp(self, **named: Any) -> Listener:
        listener: Listener = self.loop.do(listen_tcp, self.loop.reactor, self.service, "127.0.0.1", 0, **named)
        self.listeners.append(listener)
        return listener

    def unix(self, **named: Any) -> Listener:
        path = os.path.join(self.directory, f"door-{len(self.listeners)}.sock")
        listener: Listener = self.loop.do(listen_unix, self.loop.reactor, self.service, path, **named)
        self.listeners.append(listener)
        return listener

    def stop(self) -> None:
        for listener in self.listeners:
            self.loop.do(listener.stop)


def answer_to(path: str) -> api.StatAnswer:
    return api.StatAnswer(api.msgspec.Raw(api.msgspec.msgpack.encode(path)))


def pattern(offset: int, size: int) -> bytes:
    """Bytes that tell their own position: position modulo 251."""
    start = offset % 251
    return (bytes(range(251)) * (size // 251 + 2))[start : start + size]


def ping(request_id: int) -> bytes:
    """A request whole."""
    return pack(Kind.REQUEST, Method.PING, request_id, b"\x90")
