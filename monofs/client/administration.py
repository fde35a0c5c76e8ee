"""Mounts, steering the cache, and administration: the part of the file system object that operators use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from monofs.client.connected import Connected
from monofs.client.errors import public, public_iterator
from monofs.model.errors import MonofsError, OutcomeUnknown, QuorumRefused, Unreachable
from monofs.rpc.api import (
    BucketInfo,
    BucketListAnswer,
    BucketSetRequest,
    ClusterAnswer,
    ClusterRequest,
    ConfAnswer,
    ConnectionListAnswer,
    DecommissionAnswer,
    DecommissionRequest,
    Empty,
    FreeAnswer,
    FreeRequest,
    FsckAnswer,
    HotAnswer,
    HotRequest,
    KeyRotateRequest,
    Message,
    Method,
    MountAddRequest,
    MountInfo,
    MountListAnswer,
    MountRemoveAnswer,
    MountRemoveRequest,
    MountTestRequest,
    MountUpdateRequest,
    Pong,
    QuorumAnswer,
    QuorumChangeRequest,
    ReportAnswer,
    ReportRequest,
    RequestId,
    SetPinRequest,
    Setting,
    TokenAddAnswer,
    TokenAddRequest,
    TokenInfo,
    TokenListAnswer,
    TokenRemoveRequest,
    VerifyAnswer,
    WorkerStatusAnswer,
)

if TYPE_CHECKING:
    from monofs.metadata.copyfile import CopyHead

CATCH_UP_PAUSE_S = 0.5
LEADER_S = 3.0
"""How long the leader is waited for, where what another knows is better than nothing."""
LONG_TIMEOUT_S = 600.0
"""For FSCK, FREE and VERIFY, which look at everything."""

A = TypeVar("A", bound=Message)
_EMPTY = Empty()
_SILENT = "the masters do not hear it (`monofs admin report` says since when), so it was not asked"


class Administration(Connected):
    """Base of FileSystem."""

    # ---- mounts ----

    @public
    def mount_add(
        self,
        path: str,
        uri: str,
        options: dict[str, str] | None = None,
        *,
        readonly: bool = False,
        shared: bool = False,
        dry_run: bool = False,
        sync_interval_s: float | None = None,
        ufs_mode: str = "readWrite",
    ) -> MountInfo:
        """Mount the store ``uri`` at ``path``; it is reached first, and nothing is mounted when it does not answer.

        ``ufs_mode``: readWrite, readOnly or noAccess: what may be done with the store for now.

        Raises ``MountExists``, ``UfsDenied``, ``UfsBucketNotFound``, ``UfsUnreachable``, ``UfsOption``.
        """
        return self._change(
            Method.MOUNT_ADD,
            lambda id: MountAddRequest(
                path, uri, options or {}, readonly, shared, dry_run, sync_interval_s, id, ufs_mode
            ),
            MountInfo,
        )

    @public
    def mount_list(self) -> list[MountInfo]:
        """All mounts, by path."""
        return self._session().ask(Method.MOUNT_LIST, Empty(), MountListAnswer).mounts

    @public
    def mount_update(
        self,
        path: str,
        options: dict[str, str] | None = None,
        *,
        replace: bool = False,
        readonly: bool | None = None,
        sync_interval_s: float | None = None,
        dry_run: bool = False,
        ufs_mode: str | None = None,
    ) -> MountInfo:
        """Merge ``options`` into a mount's (an empty value removes one), or replace them all; others stay when None."""
        return self._change(
            Method.MOUNT_UPDATE,
            lambda number: MountUpdateRequest(
                path, options or {}, replace, readonly, sync_interval_s, dry_run, number, ufs_mode
            ),
            MountInfo,
        )

    @public
    def mount_remove(self, path: str, *, discard: bool = False) -> MountRemoveAnswer:
        """Unmount: forget metadata and cache below ``path``; the store is not touched. Returns what went for good.

        Raises ``MountNotFound``, ``MountPoint`` while other mounts lie below, ``Busy`` while changes are under way in the store, and
        ``WouldLose``, naming them, when files below are in no store, uploads in parts are not complete, or changes are not done in a store
        whose mode is noAccess; ``discard`` gives these up, and aborts the uploads.
        """
        return self._change(
            Method.MOUNT_REMOVE, lambda number: MountRemoveRequest(path, number, discard), MountRemoveAnswer
        )

    @public
    def mount_test(self, path: str) -> MountInfo:
        """Reach the store of a mount; raises its error."""
        return self._session().ask(Method.MOUNT_TEST, MountTestRequest(path), MountInfo)

    # ---- the cache ----

    @public
    def free(self, path: str, *, recursive: bool = False, force: bool = False) -> FreeAnswer:
        """Drop cached pages of a file, or of all below a directory with ``recursive``; pinned ones too with ``force``."""
        request = FreeRequest(path, recursive, force)
        return self._session().ask(Method.FREE, request, FreeAnswer, timeout_s=self._long_s())

    @public
    def set_pin(self, path: str, pinned: bool = True) -> None:
        """Keep a file, or all below a directory, in the cache once it is there; or no longer."""
        self._change(Method.SET_PIN, lambda number: SetPinRequest(path, pinned, number), Empty)

    @public
    def worker_status(
        self, worker: int = 0, *, only_live: bool = False, timeout_s: float | None = None
    ) -> dict[str, WorkerStatusAnswer | MonofsError]:
        """Tiers and counters of every worker (that lives), or of one, by address; an error stands for a worker that does not answer within ``timeout_s``, was not
        asked within it (sixteen are asked at a time), or at all, because the masters do not hear it."""
        wait_s = self._options.timeout_s if timeout_s is None else timeout_s
        return self._ask_workers(Method.WORKER_STATUS, WorkerStatusAnswer, wait_s, only=worker, only_live=only_live)

    @public
    def hot(self, most: int = 100, *, timeout_s: float = 5.0) -> dict[str, HotAnswer | MonofsError]:
        """What live workers say is read most lately, and what left their caches last and why, at most ``most`` of each; by address, errors of those that do
        not answer in time. Names are what clients told of contents lately: the path may have other content by now."""
        return self._ask_workers(Method.HOT, HotAnswer, timeout_s, HotRequest(most), only_live=True)

    @public
    def decommission(self, worker: int, *, stay: bool = False) -> int:
        """A worker gets no slots any more and hands over what it has (or, ``stay``, gets its share again); the epoch of the table that says so.

        Its progress is in :meth:`worker_status`. Raises ``NotFound``, and ``WouldLose`` for the only worker that owns slots.
        """
        request = DecommissionRequest(worker, stay)
        return self._session().ask(Method.DECOMMISSION, request, DecommissionAnswer).epoch

    @public
    def verify(self) -> dict[str, VerifyAnswer | MonofsError]:
        """Have every worker compare all its cached pages with their checksums; by address, errors as above."""
        return self._ask_workers(Method.VERIFY, VerifyAnswer, self._long_s())

    def _ask_workers(
        self,
        method: Method,
        answer_type: type[A],
        timeout_s: float,
        request: Message = _EMPTY,
        *,
        only: int = 0,
        only_live: bool = False,
    ) -> dict[str, A | MonofsError]:
        session = self._session()
        session.cluster.refresh()
        links = [link for link in session.cluster.links() if only in (0, link.info.id)]
        answers = session.ask_each([link for link in links if link.is_live], method, request, answer_type, timeout_s)
        if not only_live:  # a machine that is gone takes its time not to answer
            answers |= {link.info.address: Unreachable(_SILENT) for link in links if not link.is_live}
        return answers

    # ---- tokens ----

    @public
    def token_add(
        self,
        name: str,
        rights: str,
        *,
        expires_s: float | None = None,
        uid: int = 0,
        groups: Sequence[int] = (),
    ) -> TokenAddAnswer:
        """Issue a token: ``rights`` as ``"read,write"``, ``expires_s`` from now (None: never). Its text is told this once.

        Raises ``AlreadyExists``, ``PermissionDenied`` without the right ``admin``.
        """
        return self._change(
            Method.TOKEN_ADD,
            lambda number: TokenAddRequest(name, rights, expires_s, uid, list(groups), number),
            TokenAddAnswer,
        )

    @public
    def s3_key_add(
        self,
        user: str,
        *,
        read_only: bool = False,
        prefix: str = "",
        expires_s: float | None = None,
        uid: int = 0,
        groups: Sequence[int] = (),
    ) -> TokenAddAnswer:
        """Issue an S3 key for a user, bound to the path ``prefix`` if one is given: ``info.shown`` is its access key id, ``token`` the secret, told this
        once."""
        rights = "read" if read_only else "read,write"
        return self._change(
            Method.TOKEN_ADD,
            lambda number: TokenAddRequest(user, rights, expires_s, uid, list(groups), number, True, prefix),
            TokenAddAnswer,
        )

    @public
    def s3_key_rotate(self, key: str, *, ends_in_s: float = 0.0) -> TokenAddAnswer:
        """A new S3 key of the same user, rights, path and end as the one of this access key id or number, which ends in ``ends_in_s``. ``NotFound``."""
        return self._change(Method.KEY_ROTATE, lambda number: KeyRotateRequest(key, ends_in_s, number), TokenAddAnswer)

    @public
    def bucket_add(self, name: str, path: str) -> None:
        """Have S3 doors show the directory ``path`` as the bucket ``name``. ``AlreadyExists``, ``NotFound``, ``NotADirectory``."""
        self._change(Method.BUCKET_SET, lambda number: BucketSetRequest(name, path, number), Empty)

    @public
    def bucket_list(self) -> list[BucketInfo]:
        """The buckets that have a name of their own, by name."""
        return self._session().ask(Method.BUCKET_LIST, Empty(), BucketListAnswer).buckets

    @public
    def bucket_remove(self, name: str) -> None:
        """Take a bucket's name back; the directory stays. ``NotFound``."""
        self._change(Method.BUCKET_SET, lambda number: BucketSetRequest(name, "", number), Empty)

    @public
    def token_list(self) -> list[TokenInfo]:
        """The tokens issued and not removed, oldest first; nothing of their secrets."""
        return self._session().ask(Method.TOKEN_LIST, Empty(), TokenListAnswer).tokens

    @public
    def token_remove(self, token: str) -> None:
        """Honour a token no longer, by name or number, and close what came in by it. Raises ``NotFound``."""
        self._change(Method.TOKEN_REMOVE, lambda number: TokenRemoveRequest(token, number), Empty)

    # ---- the cluster ----

    @public
    def ping(self) -> Pong:
        """Ask a master for its version, role and clock."""
        return self._session().ask(Method.PING, Empty(), Pong)

    @public
    def cluster(self) -> ClusterAnswer:
        """Cluster id, workers and slots, as the master says now."""
        return self._session().ask(Method.CLUSTER, ClusterRequest(), ClusterAnswer)

    @public
    def report(self, *sections: str, worker: int = 0) -> dict[str, dict[str, Any]]:
        """State of the cluster: sections of named values, of the master that leads, if one is known; another knows of no workers. ``sections``: only
        these. ``worker``: of ``workers`` this one only."""
        return self._of_leader(Method.REPORT, ReportRequest(list(sections), worker), ReportAnswer).sections

    @public
    def conf(self) -> list[Setting]:
        """Every setting, with its value and where it came from, of the master that leads, if one is known, else of the one that answers."""
        return self._of_leader(Method.CONF, _EMPTY, ConfAnswer).settings

    @public
    def connections(self) -> ConnectionListAnswer:
        """Who is connected to the master that leads, if one is known, else to the one that answers. Needs the right admin."""
        return self._of_leader(Method.CONNECTION_LIST, _EMPTY, ConnectionListAnswer)

    @public
    def fsck(self) -> FsckAnswer:
        """Check every named invariant of the namespace."""
        return self._session().ask(Method.FSCK, Empty(), FsckAnswer, timeout_s=self._long_s())

    @public
    def backup(
        self, path: str, *, overwrite: bool = False, progress: Callable[[int, int], None] = lambda _, __: None
    ) -> CopyHead:
        """Copy the namespace into the local file ``path``, as of one moment, while it is in use; says which. Needs the right admin.

        Restoring needs the cluster secret too, which is not in it. ``progress`` hears bytes come since the last call, and bytes in all.
        Raises ``AlreadyExists``, ``Busy`` (another one is being made), ``DiskFull`` (no room beside the master's database), ``CopyDamaged``.
        """
        from monofs.client.backing_up import receive_backup

        return receive_backup(self._session(), path, overwrite=overwrite, advance=progress)

    @public_iterator
    def backup_pieces(self, told: Callable[[int], None] = lambda _: None) -> Iterator[bytes | bytearray]:
        """The same as pieces of a file: memory for two, and the last one comes only when all are proved whole. ``told`` hears the length of all before the first."""
        from monofs.client.backing_up import Transfer

        transfer = Transfer(self._session())
        pieces = transfer.pieces()
        first = next(pieces)
        told(transfer.total_bytes)
        yield first
        yield from pieces

    @public
    def quorum(self, *, of_leader: bool = False) -> QuorumAnswer:
        """The group of masters as the one that answers sees it; ``of_leader``: as the leader does, who alone knows how far the others are, if one is
        known."""
        session = self._session()
        answer = session.ask(Method.QUORUM, _EMPTY, QuorumAnswer)
        if not of_leader:
            return answer
        for address in self._options.masters:
            if answer.leader:
                break  # else it was taken out, perhaps, or waits to be let in
            other = session.at(address, Method.QUORUM, _EMPTY, QuorumAnswer, LEADER_S)
            answer = other if other is not None and other.leader else answer
        rpc = "" if answer.leader == answer.me else _leader_of(answer)
        return (session.at(rpc, Method.QUORUM, _EMPTY, QuorumAnswer, LEADER_S) if rpc else None) or answer

    def _of_leader(self, method: Method, request: Message, answer_type: type[A]) -> A:
        """What the master that leads answers; where none is known, or it does not answer, what another does: that is better than nothing."""
        session = self._session()
        group = session.ask(Method.QUORUM, _EMPTY, QuorumAnswer)
        rpc = _leader_of(group) if len(group.members) > 1 else ""
        answer = session.at(rpc, method, request, answer_type, LEADER_S) if rpc else None
        return answer or session.ask(method, request, answer_type)

    @public
    def change_quorum(self, action: str, name: str, address: str = "") -> None:
        """``add`` (a learner, at its journal door's ``address``), ``promote``, ``remove`` or ``transfer`` leadership to a master by name.

        Raises ``QuorumRefused`` for what would endanger the group.
        """
        self._session().ask(Method.QUORUM_CHANGE, QuorumChangeRequest(action, name, address), Empty)

    @public
    def promote_when_ready(
        self, name: str, *, timeout_s: float = LONG_TIMEOUT_S, progress: Callable[[QuorumAnswer], None] = lambda _: None
    ) -> None:
        """Let a learner vote as soon as it has caught up. ``progress`` hears the group as the leader sees it, about twice a second.

        Raises ``QuorumRefused`` when it came no nearer for ``timeout_s``, ``NotFound`` when it is not in the group (any more).
        """
        deadline, reached = time.monotonic() + timeout_s, (-1, -1.0)
        while True:
            try:
                self.change_quorum("promote", name)
                return
            except (QuorumRefused, OutcomeUnknown):
                group = self.quorum(of_leader=True)
                member = next((each for each in group.members if each.name == name), None)
                if member is not None:
                    if member.voter and not group.changing:  # an earlier try was done, and its answer lost
                        return
                    if (member.match, member.copied) != reached:
                        deadline, reached = time.monotonic() + timeout_s, (member.match, member.copied)
                if time.monotonic() >= deadline:
                    raise
            progress(group)
            time.sleep(CATCH_UP_PAUSE_S)

    def _long_s(self) -> float:
        return max(LONG_TIMEOUT_S, self._options.timeout_s)

    def _change(self, method: Method, make: Callable[[RequestId], Message], answer_type: type[A]) -> A:
        return self._session().change(method, make, answer_type)


def _leader_of(group: QuorumAnswer) -> str:
    """Where clients reach the master that leads; '': that is not known."""
    return next((each.rpc for each in group.members if each.id == group.leader), "")
