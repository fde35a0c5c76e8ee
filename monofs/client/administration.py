"""Mounts, steering the cache, and administration: the part of the file system object that operators use."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from monofs.client.connected import Connected
from monofs.client.errors import public, python_error
from monofs.model.errors import MonofsError, OutcomeUnknown, QuorumRefused
from monofs.rpc.api import (
    ClusterAnswer,
    ClusterRequest,
    ConfAnswer,
    DecommissionAnswer,
    DecommissionRequest,
    Empty,
    FreeAnswer,
    FreeRequest,
    FsckAnswer,
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
LONG_TIMEOUT_S = 600.0
"""For FSCK, FREE and VERIFY, which look at everything."""

A = TypeVar("A", bound=Message)


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
        ``WouldLose``, naming them, when files below are in no store, or changes are not done in a store whose mode is noAccess;
        ``discard`` gives these up.
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
    def worker_status(self, worker: int = 0) -> dict[str, WorkerStatusAnswer | MonofsError]:
        """Tiers and counters of every worker, or of one, by address; an error stands for a worker that does not answer."""
        return self._ask_workers(Method.WORKER_STATUS, WorkerStatusAnswer, self._options.timeout_s, only=worker)

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
        self, method: Method, answer_type: type[A], timeout_s: float, *, only: int = 0
    ) -> dict[str, A | MonofsError]:
        answers: dict[str, A | MonofsError] = {}
        cluster = self._session().cluster
        cluster.refresh()
        for link in cluster.links():
            if only and link.info.id != only:
                continue
            try:
                answers[link.info.address] = link.pool().call(method, Empty(), answer_type, timeout_s)
            except MonofsError as error:
                answers[link.info.address] = python_error(error)
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
    def report(self) -> dict[str, dict[str, Any]]:
        """State of the cluster: sections of named values, of the master that leads, if one is known; another knows of no workers."""
        answer = self._session().ask(Method.REPORT, Empty(), ReportAnswer)
        if not answer.sections.get("cluster", {}).get("leads", True):
            answer = self._of_leader(Method.REPORT, ReportAnswer, self.quorum(), answer)
        return answer.sections

    @public
    def conf(self) -> list[Setting]:
        """Every setting of the master with its value and where it came from."""
        return self._session().ask(Method.CONF, Empty(), ConfAnswer).settings

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

    @public
    def quorum(self, *, of_leader: bool = False) -> QuorumAnswer:
        """The group of masters as the one that answers sees it; ``of_leader``: as the leader does, who alone knows how far the others are, if one is
        known."""
        answer = self._session().ask(Method.QUORUM, Empty(), QuorumAnswer)
        if not of_leader:
            return answer
        for address in (
            self._options.masters if not answer.leader else ()
        ):  # one that was taken out, perhaps, or waits to be let in
            other = self._at(address, Method.QUORUM, QuorumAnswer, answer)
            if other.leader:
                answer = other
                break
        return self._of_leader(Method.QUORUM, QuorumAnswer, answer, answer)

    def _of_leader(self, method: Method, answer_type: type[A], group: QuorumAnswer, known: A) -> A:
        """What the leader answers; ``known``, the answer of the one asked, when it leads itself, or knows of none that answers."""
        rpc = next((each.rpc for each in group.members if each.id == group.leader), "")
        if group.leader == group.me or not rpc:
            return known
        return self._at(rpc, method, answer_type, known)

    def _at(self, address: str, method: Method, answer_type: type[A], known: A) -> A:
        pool = self._session().connect(address)
        try:
            return pool.call(method, Empty(), answer_type, self._options.timeout_s)
        except MonofsError:  # it is gone: what is known already is better than nothing
            return known
        finally:
            pool.close()

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
