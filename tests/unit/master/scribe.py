"""A worker's side of writes, played by the test: it takes the bytes itself, does the act on the real store and tells the master."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec
from master_house import House

from monofs.model.capability import Capability, open_capability
from monofs.model.errors import MonofsError
from monofs.model.inode import Inode
from monofs.rpc import api
from monofs.rpc.api import Method, RequestId
from monofs.ufs.base import UfsEntry, UnderStorage, replacing
from monofs.ufs.registry import open_ufs


class Scribe:
    """One worker registered with a house."""

    def __init__(self, house: House, *, life: int = 1) -> None:
        self.house, self.life = house, life
        self.identity = os.urandom(16)
        self.register()

    def register(self, operations: tuple[int, ...] = ()) -> None:
        house = self.house
        answer = house.ask(
            Method.REGISTER,
            api.RegisterRequest(
                self.identity, "127.0.0.1:1", "", "", 1 << 30, 0, 0, operations=[*operations], life=self.life
            ),
        )
        self.number, self.keys = answer.worker, answer.keys
        self.grants = {grant.id: grant for grant in answer.mounts}

    def heartbeat(self, operations: list[int] | None) -> None:
        self.house.ask(
            Method.HEARTBEAT,
            api.HeartbeatRequest(self.number, 10**9, 1 << 30, 0, 10**9, 0.0, operations=operations),
        )

    def store(self, mount: int) -> UnderStorage:
        grant = self.grants.get(mount)
        if grant is None:
            shown = self.house.ask(Method.INTENT_LIST, api.Empty()).intents
            self.register(tuple(one.number for one in shown if one.worker == self.number))
            grant = self.grants[mount]
        return open_ufs(grant.uri, grant.options, timeout_s=10.0)

    # ---- steps

    def begin(self, path: str, size: int, **how: Any) -> api.BeginWriteAnswer:
        return self.begin_later(path, size, **how)()

    def begin_later(self, path: str, size: int, **how: Any) -> Callable[[], api.BeginWriteAnswer]:
        return self.house.begin(Method.BEGIN_WRITE, api.BeginWriteRequest(path, size=size, **how))

    def opened(self, begun: api.BeginWriteAnswer) -> Capability:
        return open_capability(begun.capability, self.keys, self.house.namespace.cluster, 0)

    def put(self, begun: api.BeginWriteAnswer, data: bytes) -> UfsEntry:
        """The act of a small write."""
        held = self.opened(begun)
        condition = replacing(held.fingerprint)
        store = self.store(held.mount)
        try:
            return store.put(held.key.encode(), [memoryview(data)], held.operation_name, condition)
        finally:
            store.close()

    def end(self, begun: api.BeginWriteAnswer, entry: UfsEntry | None, size: int) -> Inode:
        return inode_of(self.house.ask(Method.END_WRITE, self.ending(begun, entry, size)))

    def ending(self, begun: api.BeginWriteAnswer, entry: UfsEntry | None, size: int) -> api.EndWriteRequest:
        if entry is None:
            return api.EndWriteRequest(
                begun.operation, size, persisted=False, worker=self.number, capability=begun.capability
            )
        return api.EndWriteRequest(
            begun.operation,
            size,
            entry.mtime_ns,
            entry.fingerprint,
            mode=-1 if entry.mode is None else entry.mode,
            uid=entry.uid or 0,
            gid=entry.gid or 0,
            worker=self.number,
            capability=begun.capability,
        )

    def abandon(self, begun: api.BeginWriteAnswer, error: MonofsError, *, unknown: bool = False) -> api.Failure:
        request = api.AbandonWriteRequest(begun.operation, api.Failure(error.code, error.message), unknown, self.number)
        answer: api.AbandonWriteAnswer = self.house.ask(Method.ABANDON_WRITE, request)
        return answer.error

    # ---- whole

    def write(self, path: str, data: bytes, **how: Any) -> Inode:
        """A small write from its beginning to its end."""
        begun = self.begin(path, len(data), **how)
        held = self.opened(begun)
        entry = self.put(begun, data) if held.mount and begun.write_type != "MUST_CACHE" else None
        return self.end(begun, entry, len(data))


def inode_of(answer: api.InodeAnswer | api.RenameAnswer) -> Inode:
    return msgspec.msgpack.decode(answer.inode, type=Inode)


class Asking:
    """Numbers requests as a client does."""

    def __init__(self) -> None:
        self.client = os.urandom(16)
        self.last = 0

    def next(self) -> RequestId:
        self.last += 1
        return RequestId(self.client, self.last, self.last)
