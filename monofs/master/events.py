"""What stores tell by events, turned into looks: the paths a key has are looked at soon, and once however often they were named.

Invariant: an event only ever causes a look, which goes the way of every look; so a lost, late, doubled or forged one can cost a request, never a
wrong tree. At most ``WAITING_MAX`` paths wait; beyond, the mount they lie in is distrusted as a whole: everything below is
looked at when it is asked for. Not here: receiving events (web/events.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred

from monofs.master.loading import Loader
from monofs.master.proposing import Proposer
from monofs.metadata.namespace import Namespace
from monofs.model.errors import MonofsError
from monofs.model.mount import Mount
from monofs.model.paths import Parts, format_path, name_problem
from monofs.observe.logs import logger
from monofs.observe.metrics import EVENTS
from monofs.rpc.api import ReadOptions

log = logger(__name__)
WAITING_MAX = 10_000
LOOKS_MAX = 8
"""Looks in flight."""
LOCKED_PAUSE_S = 1.0
"""A path that is being changed by monofs is looked at after this."""
_NOW = ReadOptions(0.0, "ALWAYS")


class Events:
    """Of one master."""

    def __init__(self, namespace: Namespace, proposer: Proposer, loader: Loader, *, reactor: Any) -> None:
        self._namespace, self._proposer, self._loader, self._reactor = namespace, proposer, loader, reactor
        self._waiting: OrderedDict[Parts, int] = OrderedDict()
        """Path → events that named it."""
        self._looking: set[Deferred[None]] = set()
        self._roots: dict[str, list[tuple[str, Parts, Mount]]] = {}
        self._roots_index = -1
        self._stopped = False

    def take(self, events: Iterable[tuple[str, str, str]]) -> bool:
        """Take (bucket, key, etag of what was made or '' for a removal); False: this master does not lead, tell another one."""
        if not self._proposer.leads or self._stopped:
            return False
        for bucket, key, etag in events:
            paths = self._paths(bucket, key, etag)
            if not paths:
                EVENTS("ignored").value += 1
            for root, parts in paths:
                self._wait_for(root, parts)
        self._look_on()
        return True

    def stop(self) -> None:
        """No more looks begin."""
        self._stopped = True
        self._waiting.clear()
        for looking in list(self._looking):
            looking.cancel()

    # ---- which paths --------------------------------------------------------------------------------------------------

    def _paths(self, bucket: str, key: str, etag: str) -> list[tuple[Parts, Parts]]:
        """(mount point, path) wherever a key shows in the tree and may have changed it."""
        found = []
        for prefix, root, _ in self._mounts(bucket):
            if not key.startswith(prefix):
                continue
            names = tuple(name.encode() for name in key[len(prefix) :].removesuffix("/").split("/"))
            if any(name_problem(name) for name in names):
                continue
            parts = (*root, *names)
            if not self._loader.merger.is_covered(parts) and not self._is_known(parts, key, etag):
                found.append((root, parts))
        return found

    def _is_known(self, parts: Parts, key: str, etag: str) -> bool:
        """Whether the tree says already what the event tells: most often it was monofs itself who made or deleted the object."""
        inode = self._namespace.lookup(parts).inode
        if not etag or key.endswith("/"):
            return False
        return inode is not None and not inode.is_directory and inode.fingerprint == f"e:{etag}"

    def _mounts(self, bucket: str) -> list[tuple[str, Parts, Mount]]:
        """(key prefix, mount point, mount) of the mounts of a bucket."""
        if self._roots_index != self._namespace.mounts_index:
            self._roots_index, self._roots = self._namespace.mounts_index, {}
            for root, mount in self._namespace.mounts():
                url = urlsplit(mount.uri)
                if url.scheme != "file":
                    prefix = url.path.strip("/")
                    entry = (prefix + "/" if prefix else "", root, mount)
                    self._roots.setdefault(url.netloc, []).append(entry)
        return self._roots.get(bucket, [])

    # ---- looking ------------------------------------------------------------------------------------------------------

    def _wait_for(self, root: Parts, parts: Parts) -> None:
        if parts in self._waiting:
            self._waiting[parts] += 1
        elif len(self._waiting) < WAITING_MAX:
            self._waiting[parts] = 1
        else:
            EVENTS("distrusted").value += 1
            self._loader.distrust(root)

    def _look_on(self) -> None:
        while self._waiting and len(self._looking) < LOOKS_MAX and not self._stopped:
            parts, count = self._waiting.popitem(last=False)
            if self._namespace.lock_at(parts):
                self._reactor.callLater(LOCKED_PAUSE_S, self._again, parts, count)
                continue
            looking = Deferred.fromCoroutine(self._look(parts, count))
            self._looking.add(looking)
            looking.addBoth(partial(self._looked, looking))

    def _again(self, parts: Parts, count: int) -> None:
        if not self._stopped:
            self._waiting[parts] = self._waiting.get(parts, 0) + count
            self._look_on()

    async def _look(self, parts: Parts, count: int) -> None:
        found = self._namespace.lookup(parts)
        try:
            if found.located is not None and found.located.key:
                await self._loader.refreshed(parts, found, _NOW)
        except CancelledError:
            return
        except MonofsError as error:
            self._loader.distrust(parts)
            log.info("a path named by an event could not be looked at", path=format_path(parts), error=str(error))
            EVENTS("failed").value += count
        else:
            EVENTS("looked").value += count

    def _looked(self, looking: Deferred[None], _: Any) -> None:
        self._looking.discard(looking)
        self._look_on()
