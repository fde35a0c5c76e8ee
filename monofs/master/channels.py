"""Calls of the master to its workers: one channel each, made when first needed and again when a worker is at another address.

Which way leads to a worker (a door, or the same process) is decided by whoever builds the node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool

from monofs.master.members import Members
from monofs.metadata.namespace import Namespace
from monofs.model.block import block_of, slot_of
from monofs.model.errors import ConnectionLost, MonofsError, NoWorker, Unreachable
from monofs.model.inode import Flag, Inode
from monofs.rpc.api import Message, Method, ReadRequest, WorkerInfo
from monofs.rpc.sync import Pool

A = TypeVar("A", bound=Message)
READ_TIMEOUT_S = 30.0
SILENT = (NoWorker, ConnectionLost, Unreachable)
"""A worker did not answer: another may."""


class Channel(Protocol):
    """As ``rpc.client.Client`` and ``rpc.direct.DirectClient``."""

    def call(
        self, method: Method, request: Message, answer_type: type[A], timeout_s: float = 30.0, *, trace: int = 0
    ) -> Deferred[A]:
        """Ask; fails with ``MonofsError``."""

    def close(self) -> Any:
        """No more calls."""


Dial = Callable[[WorkerInfo], Channel]
Connect = Callable[[str], Pool]
"""Opens connections for threads to a worker's address."""


class Channels:
    """Of one master."""

    def __init__(
        self, namespace: Namespace, members: Members, dial: Dial | None, connect: Connect | None, reactor: Any
    ) -> None:
        self._namespace, self._members, self._dial = namespace, members, dial
        self._connect, self._reactor = connect, reactor
        self._open: dict[int, tuple[str, Channel]] = {}

    def owners(self, inode: Inode, offset: int) -> list[int]:
        """The live workers of the block at ``offset`` of a file's content, in order."""
        return self._members.owners(slot_of(inode.content, block_of(offset, inode.layout)))

    async def ask_owner(
        self, inode: Inode, offset: int, method: Method, request: Message, answer_type: type[A], timeout_s: float
    ) -> A:
        """Ask the workers of the block at ``offset`` of a file's content in order, until one answers. ``NoWorker`` while none lives."""
        error: MonofsError = NoWorker("no worker lives: `monofs admin report` lists those that are known")
        for worker in self.owners(inode, offset):
            try:
                return await self.call(worker, method, request, answer_type, timeout_s)
            except SILENT as silent:
                error = silent
        raise error

    async def read(self, inode: Inode, token: bytes, offset: int, length: int) -> bytes:
        """Bytes of a file, from the first that has them or can get them; for small ones only. ``NoWorker`` while none lives."""
        error: MonofsError = NoWorker("no worker lives: `monofs admin report` lists those that are known")
        for worker in self._holders(inode, offset):
            member = self._members.members.get(worker)
            if member is None or self._connect is None:
                continue
            request, address = ReadRequest(token, offset, length), member.info.address
            try:
                return await deferToThreadPool(
                    self._reactor, self._reactor.getThreadPool(), self._read, self._connect, address, request
                )
            except SILENT as silent:
                error = silent
        raise error

    def _holders(self, inode: Inode, offset: int) -> list[int]:
        places = None if inode.flags & Flag.PERSISTED else self._namespace.places(inode.content)
        if places is None:
            return self.owners(inode, offset)
        return list(dict.fromkeys(worker for _, chain in places.chains for worker in chain))

    @staticmethod
    def _read(connect: Connect, address: str, request: ReadRequest) -> bytes:
        buffer = bytearray(request.length)
        with connect(address) as pool:
            count = pool.read_into(Method.READ, request, buffer, READ_TIMEOUT_S)
        if count != request.length:
            raise ConnectionLost(f"{address} sent {count} of {request.length} bytes")
        return bytes(buffer)

    def call(
        self, worker: int, method: Method, request: Message, answer_type: type[A], timeout_s: float
    ) -> Deferred[A]:
        """Ask a worker. ``NoWorker`` when it is not known here."""
        member = self._members.members.get(worker)
        if member is None or self._dial is None:
            return fail(NoWorker(f"worker {worker} is not registered with this master"))
        address, channel = self._open.get(worker, ("", None))
        if channel is None or address != member.info.address:
            if channel is not None:
                channel.close()
            channel = self._dial(member.info)
            self._open[worker] = member.info.address, channel
        return channel.call(method, request, answer_type, timeout_s)

    def close(self) -> None:
        """Close all."""
        channels, self._open = self._open, {}
        for _, channel in channels.values():
            channel.close()
