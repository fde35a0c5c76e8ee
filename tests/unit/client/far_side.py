"""A master and a worker in one door, that do what a test tells them: loses connections, forgets writes, refuses, answers late.

Real sockets and real frames; files are what arrived, by path.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec

from monofs.model.errors import AlreadyExists, MonofsError, WriteLost
from monofs.model.inode import Inode, Kind
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.server import listen_tcp
from monofs.rpc.service import Call, Service
from monofs.testing.reactors import Loop


class FarSide:
    """``files``: published bytes by path. ``on_write``: called with (request, call) before each WRITE; it may raise, or return True when it
    took the call over. ``begun``: every BEGIN_WRITE as it came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fingerprints: dict[str, str] = {}
        self.begun: list[api.BeginWriteRequest] = []
        self.writes: list[tuple[int, int, bool]] = []
        self.asked: list[api.MayWriteRequest] = []
        self.aborted: list[int] = []
        self.renewed = 0
        self.silent: list[api.WorkerInfo] = []
        """Workers nobody hears."""
        self._operations = itertools.count(1)
        self.on_write: Callable[[api.WriteRequest, Call], bool] = lambda request, call: False
        self._open: dict[bytes, tuple[int, str, bytearray]] = {}
        self._ended: dict[bytes, api.WriteAnswer] = {}
        self._loop = Loop()
        self.reactor = self._loop.reactor
        self._loop.do(self._listen)

    def _listen(self) -> None:
        service = Service("all", self.reactor, cluster=lambda: b"cluster-0123456!", on_fatal=lambda error: None)
        register = service.register
        register(Method.PING, api.Empty, lambda request, call: api.Pong("1", "all", 0))
        register(Method.CLUSTER, api.ClusterRequest, self._cluster)
        register(Method.MAY_WRITE, api.MayWriteRequest, self._may_write)
        register(Method.BEGIN_WRITE, api.BeginWriteRequest, self._begin)
        register(Method.WRITE, api.WriteRequest, self._write)
        register(Method.ABORT_WRITE, api.AbortWriteRequest, self._abort)
        register(Method.RENEW, api.RenewRequest, self._renew)
        self.listener = listen_tcp(self.reactor, service, "127.0.0.1", 0)
        self.address = self.listener.address

    def stop(self) -> None:
        self.reactor.callFromThread(self.listener.stop)
        self._loop.stop()

    def forget(self) -> None:
        """As a worker that restarted: what was written so far is lost."""
        self._open.clear()
        self._ended.clear()

    def _cluster(self, request: api.ClusterRequest, call: Call) -> api.ClusterAnswer:
        worker = api.WorkerInfo(7, self.address)
        return api.ClusterAnswer(b"cluster-0123456!", 1, 1, [worker, *self.silent], [])

    def _may_write(self, request: api.MayWriteRequest, call: Call) -> api.Empty:
        self.asked.append(request)
        if request.exclusive and request.path in self.files:
            raise AlreadyExists(f"{request.path} exists", path=request.path)
        return api.Empty()

    def _begin(self, request: api.BeginWriteRequest, call: Call) -> api.BeginWriteAnswer:
        self.begun.append(request)
        if request.exclusive and request.path in self.files:
            raise AlreadyExists(f"{request.path} exists", path=request.path)
        operation = next(self._operations)
        capability = b"write %d" % operation
        self._open[capability] = (operation, request.path, bytearray())
        return api.BeginWriteAnswer(capability, operation, 7, request.write_type or "CACHE_THROUGH", 1)

    def _write(self, request: api.WriteRequest, call: Call) -> Any:
        if self.on_write(request, call):
            return None
        return self.take(request)

    def take(self, request: api.WriteRequest) -> api.WriteAnswer:
        """What a worker does with a WRITE."""
        capability = request.capability.removesuffix(b" again")
        if capability in self._ended:
            return self._ended[capability]
        if capability not in self._open:
            raise WriteLost("not known here")
        operation, path, data = self._open[capability]
        assert request.offset <= len(data), "a hole"
        self.writes.append((operation, request.offset, request.last))
        data += request.data[len(data) - request.offset :]
        if not request.last:
            return api.WriteAnswer(len(data))
        self.files[path] = bytes(data)
        del self._open[capability]
        raw = msgspec.Raw(msgspec.msgpack.encode(Inode(Kind.FILE, 9, content=operation, size=len(data))))
        answer = self._ended[capability] = api.WriteAnswer(len(data), raw)
        return answer

    def _abort(self, request: api.AbortWriteRequest, call: Call) -> api.Empty:
        found = self._open.pop(request.capability, None)
        if found is not None:
            self.aborted.append(found[0])
        return api.Empty()

    def _renew(self, request: api.RenewRequest, call: Call) -> api.RenewAnswer:
        self.renewed += 1
        return api.RenewAnswer([token + b" again" for token in request.capabilities], 300)


def once(
    fault: Callable[[api.WriteRequest, Call], bool], when: Callable[[api.WriteRequest], bool]
) -> Callable[..., bool]:
    """A fault the first time ``when`` holds."""
    return times(1, fault, when)


def times(count: int, fault: Callable[..., bool], when: Callable[[api.WriteRequest], bool]) -> Callable[..., bool]:
    left = count

    def on_write(request: api.WriteRequest, call: Call) -> bool:
        nonlocal left
        if left and when(request):
            left -= 1
            return fault(request, call)
        return False

    return on_write


def refuse(error: MonofsError) -> Callable[..., bool]:
    def fault(request: api.WriteRequest, call: Call) -> bool:
        raise error

    return fault


def hang_up(request: api.WriteRequest, call: Call) -> bool:
    """The connection breaks before the request is looked at."""
    call.connection.abort(None)  # type: ignore[attr-defined]
    return True
