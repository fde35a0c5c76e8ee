"""SET_TTL, and what the leader does once a second with paths whose time has passed.

``free`` drops cached pages, pinned ones excepted: of a directory by a FREE job. ``delete_cache_metadata`` forgets what is known of a path that its
store has. ``delete`` deletes it here and in the store the way any client would, audited as the principal ``ttl``. When that is done the
time to live is removed, if it is still the one that passed; what fails is tried again, 1 s … 60 s apart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred

from monofs.master.access import W_OK, check_access
from monofs.master.auditing import audited
from monofs.master.job_run import Backoff
from monofs.master.proposing import Proposer
from monofs.master.reading import Reading
from monofs.metadata.entries import AddJob, Forget, Free, SetTtl
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import JobKind, Ttl
from monofs.model.errors import Busy, InvalidArgument, MonofsError, NotFound, ReadOnly
from monofs.model.ids import NO_CONTENT
from monofs.model.inode import Inode, decode_inode
from monofs.model.options import TtlAction
from monofs.model.paths import UPLOADS, format_path, parse_path
from monofs.model.principal import Principal, Right
from monofs.observe.audit import audit
from monofs.observe.logs import logger
from monofs.rpc.api import DeleteRequest, Empty, FeedKind, Method, RemoveTreeAnswer, RemoveTreeRequest, SetTtlRequest
from monofs.rpc.direct import DirectClient
from monofs.rpc.service import Call

log = logger(__name__)
TTL = Principal("ttl", rights=Right.READ | Right.WRITE)
SLICE = 1000
"""Paths acted on in one turn."""
POSTPONED_MAX = 10_000
DELETE_TIMEOUT_S = 60.0
DURATION_MAX_S = 100 * 365 * 86400.0
UPLOAD_S = 7 * 86400.0
"""After so long without a change an upload in parts is removed that has no time to live."""


class Expiring:
    """Of one master; ``client`` speaks to its own service as the principal :data:`TTL`."""

    def __init__(
        self,
        namespace: Namespace,
        proposer: Proposer,
        reading: Reading,
        client: DirectClient,
        *,
        permissions: bool,
        now_ns: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._namespace, self._proposer, self._reading, self._client = namespace, proposer, reading, client
        self._permissions, self._now_ns, self._clock = permissions, now_ns, clock
        self._postponed: OrderedDict[str, tuple[float, Backoff]] = OrderedDict()

    # ---- handler ------------------------------------------------------------------------------------------------------

    def set_ttl(self, request: SetTtlRequest, call: Call) -> Deferred[Empty]:
        """Set or remove the time to live of a path and everything below."""
        return audited(call, "set ttl", request.path, "").around(self._set_ttl(request, call))

    async def _set_ttl(self, request: SetTtlRequest, call: Call) -> Empty:
        parts = parse_path(request.path)
        check_access(call.principal, Right.WRITE, self._reading.chain(parts), W_OK if self._permissions else 0)
        expires_ns = 0
        if request.duration_s is not None:
            if not 0 <= request.duration_s <= DURATION_MAX_S:
                raise InvalidArgument(f"a time to live is a number of seconds from now, not {request.duration_s:g}")
            found = await self._reading.known(parts)
            if found.inode is None:
                raise NotFound(f"{format_path(parts)}: no such file or directory", path=format_path(parts))
            located = found.located
            if request.action == TtlAction.DELETE and located is not None and located.mount.readonly:
                raise ReadOnly(
                    f"{format_path(parts)} lies below the read-only mount {located.mount.path}: it cannot be deleted in time"
                )
            expires_ns = self._now_ns() + round(request.duration_s * 1e9)
        stamp = self._proposer.stamp(request.request)
        await self._proposer.propose(SetTtl(stamp, request.path, expires_ns, request.action))
        self._postponed.pop(format_path(parts), None)
        return Empty()

    # ---- duty ---------------------------------------------------------------------------------------------------------

    async def act(self) -> None:
        """Act on what has expired, the longest passed first."""
        now = self._clock()
        for ttl in self._namespace.expired(self._now_ns(), SLICE + len(self._postponed)):
            due_s, backoff = self._postponed.get(ttl.path, (now, None))
            if due_s > now:
                continue
            if not self._proposer.leads:
                return
            try:
                await self._act_on(ttl)
            except MonofsError as error:
                self._postpone(ttl.path, backoff or Backoff(), error)
            else:
                self._postponed.pop(ttl.path, None)

    async def end_uploads(self) -> None:
        """See that uploads in parts expire whose node died after it wrote their record, before it set their time to live."""
        room, after = self._namespace.lookup((UPLOADS,)).inode, b""
        limit_ns = self._now_ns() - int(UPLOAD_S * 1e9)
        while room is not None and self._proposer.leads:
            records = self._namespace.children(room.id, after, SLICE)
            for name, raw in records:
                path = format_path((UPLOADS, name.rstrip(b"/")))
                if decode_inode(raw).mtime_ns < limit_ns and self._namespace.ttl_of(path) is None:
                    await self._insist(SetTtl(self._proposer.stamp(), path, self._now_ns(), TtlAction.DELETE))
            if len(records) < SLICE:
                return
            after = records[-1][0]

    def _postpone(self, path: str, backoff: Backoff, error: MonofsError) -> None:
        pause_s = backoff.next_s()
        log.warning("expired path waits", path=path, error=str(error), again_s=round(pause_s, 1))
        self._postponed.pop(path, None)
        self._postponed[path] = self._clock() + pause_s, backoff
        if len(self._postponed) > POSTPONED_MAX:
            self._postponed.popitem(last=False)

    async def _act_on(self, ttl: Ttl) -> None:
        parts = parse_path(ttl.path)
        inode = self._namespace.lookup(parts).inode
        if inode is not None and inode.id != ttl.inode:
            inode = self._namespace.lookup_key(parts).inode  # a directory came beside the file
        if inode is not None and inode.id == ttl.inode:
            match ttl.action:
                case TtlAction.FREE:
                    await self._audited("free", ttl.path, self._free(ttl.path, inode))
                case TtlAction.DELETE_CACHE_METADATA:
                    change = Forget(self._proposer.stamp(), ttl.path)
                    await self._audited("forget", ttl.path, self._insist(change))
                case TtlAction.DELETE:
                    self._check_read(ttl.path)
                    await self._delete(ttl.path, inode)
        await self._proposer.insist(SetTtl(self._proposer.stamp(), ttl.path, 0, "", ttl.expires_ns))

    def _check_read(self, path: str) -> None:
        for job in self._namespace.known_jobs.open.values():
            if job.arguments.get("index") == path:
                raise Busy(f"job {job.number} reads this list")

    async def _free(self, path: str, inode: Inode) -> None:
        if inode.is_directory:
            await self._insist(AddJob(self._proposer.stamp(), JobKind.FREE, path, {}, TTL.name))
        elif inode.content != NO_CONTENT and not self._namespace.lookup(parse_path(path)).pinned:
            await self._insist(Free(self._proposer.stamp(), FeedKind.FREE, [int(inode.content)]))

    async def _delete(self, path: str, inode: Inode) -> None:
        """Through this master's own door: every rule and the audit of a deletion are there."""
        if inode.is_directory:
            await self._client.call(
                Method.REMOVE_TREE, RemoveTreeRequest(path), RemoveTreeAnswer, timeout_s=DELETE_TIMEOUT_S
            )
        else:
            there = self._namespace.lookup(parse_path(path)).inode
            request = DeleteRequest(path, as_key=there is not None and there.is_directory)
            await self._client.call(Method.DELETE, request, Empty, timeout_s=DELETE_TIMEOUT_S)

    async def _insist(self, change: Any) -> None:
        await self._proposer.insist(change)

    @staticmethod
    async def _audited(command: str, path: str, work: Coroutine[Deferred[Any], Any, None]) -> None:
        code = 0
        try:
            await work
        except MonofsError as error:
            code = error.code
            raise
        finally:
            audit(
                principal=TTL.name,
                peer="",
                command=command,
                source=path,
                target="",
                allowed=True,
                succeeded=not code,
                error=code,
                trace=0,
            )
