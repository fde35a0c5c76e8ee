"""Calls of the master to its workers: one channel each, made when first needed and again when a worker is at another address.

Which way leads to a worker (a door, or the same process) is decided by whoever builds the node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail

from monofs.master.members import Members
from monofs.model.block import block_of, slot_of
from monofs.model.errors import ConnectionLost, MonofsError, NoWorker, Unreachable
from monofs.model.inode import Inode
from monofs.rpc.api import Message, Method, WorkerInfo

A = TypeVar("A", bound=Message)
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


class Channels:
    """Of one master."""

    def __init__(self, members: Members, dial: Dial | None) -> None:
        self._members, self._dial = members, dial
        self._open: dict[int, tuple[str, Channel]] = {}

    async def ask_owner(
        self, inode: Inode, offset: int, method: Method, request: Message, answer_type: type[A], timeout_s: float
    ) -> A:
        """Ask the workers of the block at ``offset`` of a file's content in order, until one answers. ``NoWorker`` while none lives."""
        owners = self._members.owners(slot_of(inode.content, block_of(offset, inode.layout)))
        error: MonofsError = NoWorker("no worker is registered with this master")
        for worker in owners:
            try:
                return await self.call(worker, method, request, answer_type, timeout_s)
            except SILENT as silent:
                error = silent
        raise error

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
