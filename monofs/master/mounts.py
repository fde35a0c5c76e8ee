"""MOUNT_ADD, MOUNT_LIST, MOUNT_REMOVE, MOUNT_UPDATE and MOUNT_TEST.

A mount exists only after its store proved that it answers: options are checked, the store is asked to check itself within
``master.store_timeout_s``, secrets are sealed, and one entry makes the mount; whatever fails before leaves nothing behind. The same store root
(URI and endpoint) is refused at a second path, because two trees over one store would each cache it; ``shared`` allows it.
Nested mounts are allowed both in the tree and in the store.

Invariant: secret options are never in a message but MOUNT_ADD's and MOUNT_UPDATE's requests, and never in an entry but sealed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from monofs.master.access import check_access
from monofs.master.auditing import audited
from monofs.master.proposing import Proposer
from monofs.master.secrets import Vault
from monofs.master.stores import Stores
from monofs.master.uploads import Uploads
from monofs.master.walking import UNPERSISTED_MAX, find_unpersisted
from monofs.metadata.entries import AddMount, RemoveMount, UpdateMount
from monofs.metadata.namespace import Namespace
from monofs.metadata.ops.remove_mount import TOLD_MAX, check_removable
from monofs.metadata.tables import Intent
from monofs.model.errors import (
    ConnectionLost,
    HomeUnusable,
    InvalidArgument,
    MonofsError,
    MountExists,
    MountNotFound,
    WouldLose,
)
from monofs.model.ids import MountId
from monofs.model.mount import Mount
from monofs.model.options import UfsMode, sync_interval_ms
from monofs.model.paths import Parts, format_path, parse_path
from monofs.model.principal import Right
from monofs.observe.logs import logger
from monofs.observe.metrics import store_asked
from monofs.rpc.api import (
    Empty,
    MountAddRequest,
    MountInfo,
    MountListAnswer,
    MountRemoveAnswer,
    MountRemoveRequest,
    MountTestRequest,
    MountUpdateRequest,
)
from monofs.rpc.service import Call
from monofs.ufs.registry import SECRET_OPTIONS, check_options, normal_uri

log = logger(__name__)
SEARCHES_MAX = 3
"""Times a mount is searched for files that no store has, when such are made meanwhile."""
NAMED_MAX = 5
"""Files, or uploads, named in a refusal."""


class Mounts:
    """Handlers of one master."""

    def __init__(
        self, namespace: Namespace, proposer: Proposer, stores: Stores, vault: Vault, uploads: Uploads, *, reactor: Any
    ) -> None:
        self._namespace, self._proposer, self._stores, self._vault = namespace, proposer, stores, vault
        self._uploads, self._reactor = uploads, reactor

    def add(self, request: MountAddRequest, call: Call) -> Deferred[Any]:
        """Answers MountInfo (id 0 for a dry run). ``UfsOption``, ``UfsDenied``, ``UfsBucketNotFound``, ``UfsUnreachable``,
        ``MountExists`` and what ``apply`` refuses."""
        command = "mount add, tried only" if request.dry_run else "mount add"
        return audited(call, command, request.path, request.uri).around(self._add(request, call))

    async def _add(self, request: MountAddRequest, call: Call) -> MountInfo:
        check_access(call.principal, Right.ADMIN)
        path = format_path(parse_path(request.path))
        options = {name: value for name, value in request.options.items() if value}
        check_options(request.uri, options)
        uri = normal_uri(request.uri)
        interval_ms = sync_interval_ms(request.sync_interval_s)
        _check_mode(request.ufs_mode)
        self._check_free(path, uri, options, shared=request.shared, numbered=bool(request.request.client))
        call.waits_for = f"the store {uri} to answer"
        probed = await self._stores.probe(uri, options)
        note = "" if probed.holds_something else f"nothing was found below {uri}"
        options = probed.learned | options
        call.waits_for = ""
        shown, secrets = _split(options)
        if request.dry_run:
            mount = Mount(
                MountId(0), path, uri, shown, b"", request.readonly, request.shared,
                sync_interval_ms=interval_ms, ufs_mode=request.ufs_mode,
            )  # fmt: skip
            return _info(mount, sorted(secrets), "", note)
        sealed = self._vault.seal(path, uri, secrets)
        stamp = self._proposer.stamp(request.request)
        mount = await self._proposer.propose(
            AddMount(stamp, path, uri, shown, sealed, request.readonly, request.shared, interval_ms, request.ufs_mode)
        )
        log.info("mounted", path=path, uri=uri, mount=mount.id, readonly=mount.readonly)
        return self._shown(mount, note)

    def list(self, _: Empty, call: Call) -> MountListAnswer:
        """All mounts by path, without secrets."""
        check_access(call.principal, Right.READ)
        mounts = sorted((mount for _, mount in self._namespace.mounts()), key=lambda mount: mount.path)
        return MountListAnswer([self._shown(mount) for mount in mounts])

    def remove(self, request: MountRemoveRequest, call: Call) -> Deferred[Any]:
        """Answers once the mount is gone from the tree; what was known below is forgotten in the background. ``WouldLose`` names what no
        store has."""
        return audited(call, "mount rm", request.path, "").around(self._remove(request, call))

    async def _remove(self, request: MountRemoveRequest, call: Call) -> MountRemoveAnswer:
        check_access(call.principal, Right.ADMIN)
        parts = parse_path(request.path)
        path = format_path(parts)
        for _ in range(SEARCHES_MAX):
            searched = self._namespace.applied_index
            lost = await find_unpersisted(self._namespace, parts, self._reactor)
            if self._namespace.meta.kept_index <= searched:
                break  # if not: a refusal of apply would be the answer to this request for good
        if lost and not request.discard:
            raise WouldLose(
                f"{_lost_words(path, lost)}: copy them elsewhere, or give them up with --discard", path=path
            )
        aborted = await self._end_uploads(parts, request, searched, call)
        if call.closed:
            raise ConnectionLost(f"whoever asked to unmount {path} waits no more: it stays")
        stamp = self._proposer.stamp(request.request)
        given_up = [*aborted, *await self._proposer.propose(RemoveMount(stamp, path, request.discard, searched))]
        log.info("unmounted", path=path)
        if lost or given_up:
            log.warning(
                "unmounting lost what no store has",
                path=path,
                files=len(lost),
                first=lost[:NAMED_MAX],
                given_up=given_up,
            )
        return MountRemoveAnswer(lost, given_up[:TOLD_MAX])

    async def _end_uploads(self, parts: Parts, request: MountRemoveRequest, searched: int, call: Call) -> Sequence[str]:
        """Abort what clients began to upload in parts and did not complete: nobody could any more. What it was; ``WouldLose`` unless they are given up,
        and what ``apply`` would refuse the removal with, before any is."""
        mount = next((mount for at, mount in self._namespace.mounts() if at == parts), None)
        if mount is None or mount.ufs_mode == UfsMode.NO_ACCESS:
            return []
        waiting = self._uploads.waiting(mount.id)
        check_removable(self._namespace, mount, searched, spared={each.number for each in waiting})
        if waiting and not request.discard:
            raise WouldLose(
                f"{_upload_words(mount.path, waiting)}: have them completed or aborted (AbortMultipartUpload), or abort them with --discard",
                path=mount.path,
            )
        return [
            f"{path}, which was being uploaded in parts" for path in await self._uploads.give_up(mount, waiting, call)
        ]

    def update(self, request: MountUpdateRequest, call: Call) -> Deferred[Any]:
        """Answers MountInfo as it is, or for a dry run as it would be. The store must accept the new options first."""
        command = "mount update, tried only" if request.dry_run else "mount update"
        return audited(call, command, request.path, "").around(self._update(request, call))

    async def _update(self, request: MountUpdateRequest, call: Call) -> MountInfo:
        check_access(call.principal, Right.ADMIN)
        mount = self._at(request.path)
        old = {} if request.replace else mount.options | self._secrets(mount)
        options = {name: value for name, value in (old | request.options).items() if value}
        check_options(mount.uri, options)
        mode = mount.ufs_mode if request.ufs_mode is None else request.ufs_mode
        _check_mode(mode)
        if mode != UfsMode.NO_ACCESS:  # a store that is serviced is not asked
            call.waits_for = f"the store {mount.uri} to answer"
            options = (await self._stores.probe(mount.uri, options)).learned | options
            call.waits_for = ""
        shown, secrets = _split(options)
        readonly = mount.readonly if request.readonly is None else request.readonly
        interval_ms = mount.sync_interval_ms
        if request.sync_interval_s is not None:
            interval_ms = sync_interval_ms(request.sync_interval_s)
        if request.dry_run:
            would_be = Mount(
                mount.id, mount.path, mount.uri, shown, b"", readonly, mount.shared, mount.created_ns,
                mount.changed_index, interval_ms, mode,
            )  # fmt: skip
            return _info(would_be, sorted(secrets), "")
        sealed = self._vault.seal(mount.path, mount.uri, secrets)
        stamp = self._proposer.stamp(request.request)
        updated = await self._proposer.propose(
            UpdateMount(stamp, mount.path, mount.changed_index, shown, sealed, readonly, interval_ms, mode)
        )
        log.info("mount updated", path=mount.path, mount=mount.id)
        return self._shown(updated)

    def test(self, request: MountTestRequest, call: Call) -> Deferred[Any]:
        """Answers MountInfo when the store of a mount answers, else fails with its error."""
        return Deferred.fromCoroutine(self._test(request, call))

    async def _test(self, request: MountTestRequest, call: Call) -> MountInfo:
        check_access(call.principal, Right.READ)
        mount = self._at(request.path)
        store = self._stores.of(mount)
        call.waits_for = f"the store {mount.uri} to answer"
        try:
            await self._stores.probe(mount.uri, mount.options | self._vault.open(mount))
        except MonofsError as error:
            store.note(error)
            raise
        store.note(None)  # so that reads need not wait for the breaker's pause to end
        return self._shown(mount)

    def _at(self, text: str) -> Mount:
        parts = parse_path(text)
        for prefix, mount in self._namespace.mounts():
            if prefix == parts:
                return mount
        raise MountNotFound(f"nothing is mounted at {format_path(parts)}", path=text)

    def _check_free(self, path: str, uri: str, options: dict[str, str], *, shared: bool, numbered: bool) -> None:
        """Saves asking the store; that a path is mounted once is decided again in ``apply``.

        A numbered request that finds its own mount may be a retry: it goes on to ``apply``, which has its answer.
        """
        endpoint = options.get("endpoint", "").rstrip("/")
        for _, mount in self._namespace.mounts():
            if mount.path == path:
                if not (numbered and mount.uri == uri):
                    shown = f"{mount.uri} is mounted at {path} already: unmount it or choose another path"
                    raise MountExists(shown, path=path)
            elif mount.uri == uri and mount.options.get("endpoint", "").rstrip("/") == endpoint and not shared:
                shown = f"{uri} is mounted at {mount.path} already: give --shared to mount it at a second path"
                raise MountExists(shown, path=mount.path)

    def _shown(self, mount: Mount, note: str = "") -> MountInfo:
        shown = _info(mount, sorted(self._secrets(mount)), self._stores.trouble_of(mount), note)
        shown.asked = store_asked(mount.id)
        return shown

    def _secrets(self, mount: Mount) -> dict[str, str]:
        """Its secret options; none when they cannot be opened: they are lost, and an update sets them anew."""
        try:
            return self._vault.open(mount)
        except HomeUnusable:
            return {}


def _split(options: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(options that may be shown, secret ones)."""
    shown = {name: value for name, value in options.items() if name not in SECRET_OPTIONS}
    return shown, {name: value for name, value in options.items() if name in SECRET_OPTIONS}


def _info(mount: Mount, secrets: list[str], error: str, note: str = "") -> MountInfo:
    interval_ms = mount.sync_interval_ms
    return MountInfo(
        mount.id,
        mount.path,
        mount.uri,
        mount.options,
        secrets,
        mount.readonly,
        mount.shared,
        None if interval_ms is None else interval_ms / 1000,
        "unavailable" if error else "ok",
        error,
        note,
        mount.ufs_mode,
    )


def _check_mode(mode: str) -> None:
    if mode not in set(UfsMode):
        raise InvalidArgument(f"a store's mode is one of {', '.join(UfsMode)}, not {mode!r}")


def _upload_words(path: str, waiting: list[Intent]) -> str:
    """How many uploads are open below a mount, and the oldest of them."""
    more = ", …" if len(waiting) > NAMED_MAX else ""
    are = "upload in parts below {} is" if len(waiting) == 1 else "uploads in parts below {} are"
    shown = ", ".join(each.path for each in waiting[:NAMED_MAX])
    return f"{len(waiting)} {are.format(path)} not complete: {shown}{more}"


def _lost_words(path: str, lost: list[str]) -> str:
    """How many files below a mount are in no store, and the first of them."""
    count = f"{len(lost)} or more" if len(lost) == UNPERSISTED_MAX else str(len(lost))
    more = ", …" if len(lost) > NAMED_MAX else ""
    are = "file below {} is" if len(lost) == 1 else "files below {} are"
    return f"{count} {are.format(path)} in no store (MUST_CACHE) and would be lost: {', '.join(lost[:NAMED_MAX])}{more}"
