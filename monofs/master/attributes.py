"""What stores keep with objects beside their bytes, learnt when somebody first wants it.

No listing tells it: it takes one request, whose answer is journaled, so that it is not asked for again for that version. A store that does not answer
keeps nobody from the bytes: then no attributes are told. The few bytes of an object ``dir/`` are learnt with them: they lie here alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore

from monofs.master.flights import Flights
from monofs.master.proposing import Proposer
from monofs.master.stores import Stores
from monofs.metadata.entries import SetAttributes
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.metadata.tables import ATTRIBUTES_LEVEL
from monofs.model.attributes import BODY_MAX_BYTES, EMPTY_ETAG, Attributes, from_store
from monofs.model.errors import ConditionFailed, MonofsError, NotReady, UfsChanged
from monofs.model.inode import Flag
from monofs.model.paths import Parts, format_path
from monofs.observe.logs import logger

log = logger(__name__)
ASKED_AT_ONCE = 16
"""Of one batch."""
_UNKNOWN = int(Flag.HEADERS_UNKNOWN)
_NOTHING = Attributes()


class Learner:
    """Of one master."""

    def __init__(self, namespace: Namespace, proposer: Proposer, stores: Stores, *, clock: Callable[[], float]) -> None:
        self._namespace, self._proposer, self._stores = namespace, proposer, stores
        self._flights: Flights[None] = Flights(clock)

    def is_unknown(self, found: Lookup) -> bool:
        """Whether what is kept with a file has still to be asked for."""
        inode, located = found.inode, found.located
        if inode is None or located is None or not inode.flags & _UNKNOWN:
            return False
        return self._namespace.level >= ATTRIBUTES_LEVEL and self._stores.of(located.mount).object_store

    def learn(self, parts: Parts, *, directory: bool = False) -> Deferred[None]:
        """Fires once it is known, or fails with the store's error. ``directory``: of the object ``dir/``."""
        found = self._find(parts, directory=directory)
        key = 0 if found.inode is None else int(found.inode.content), format_path(parts), directory
        return self._flights.join(key, float("-inf"), lambda: self._learn(parts, directory=directory))

    def _find(self, parts: Parts, *, directory: bool) -> Lookup:
        return self._namespace.lookup(parts) if directory else self._namespace.lookup_key(parts)

    def learn_many(self, paths: Iterable[Parts]) -> Deferred[None]:
        """The same for all of them; fires when each was answered or has failed."""
        permits = DeferredSemaphore(ASKED_AT_ONCE)
        return DeferredList([permits.run(self._try, parts) for parts in paths]).addCallback(lambda _: None)

    def learn_directory(self, parts: Parts) -> Deferred[None]:
        """The same for the object ``dir/``."""
        return self._try(parts, directory=True)

    def _try(self, parts: Parts, *, directory: bool = False) -> Deferred[None]:
        def failed(failure: object) -> None:
            error = getattr(failure, "value", None)
            if not isinstance(error, MonofsError):
                log.error("what is kept with a file was not learnt", path=format_path(parts), exception=error)
                return
            log.info("what is kept with a file is not known", path=format_path(parts), error=str(error))

        return self.learn(parts, directory=directory).addErrback(failed)

    async def _learn(self, parts: Parts, *, directory: bool) -> None:
        found = self._find(parts, directory=directory)
        inode, located = found.inode, found.located
        if inode is None or located is None or not self.is_unknown(found):
            return
        key = located.key.encode() + (b"/" if directory else b"")
        fingerprint, headers, body, size = await self._stores.of(located.mount).call(
            "head", located.key, lambda ufs: _ask(ufs, key, with_body=directory)
        )
        if fingerprint != inode.fingerprint:  # another version by now: the next look at the path adopts it
            raise ConditionFailed(f"{format_path(parts)} changed in its store", path=format_path(parts))
        kept = msgspec.structs.replace(from_store(headers), body=body)
        change = SetAttributes(
            self._proposer.stamp(),
            format_path(parts),
            inode.content,
            inode.attributes or 0,
            None if kept == _NOTHING else kept,
            fingerprint,
            directory,
            0 if body else size,
        )
        await self._proposer.insist(change)


def _ask(ufs: Any, key: bytes, *, with_body: bool) -> tuple[str, dict[str, str], bytes, int]:
    """(fingerprint, headers, bytes, how many) of one version of an object; no bytes where they are not wanted, or too many to be kept."""
    fingerprint, headers = ufs.headers(key)
    if not with_body or fingerprint == f"e:{EMPTY_ETAG}":
        return fingerprint, headers, b"", 0
    body = b"".join(ufs.read(key, 0, BODY_MAX_BYTES + 1, fingerprint))
    if len(body) <= BODY_MAX_BYTES:
        return fingerprint, headers, body, len(body)
    entry = ufs.look(key)
    if entry is None or entry.fingerprint != fingerprint:
        raise UfsChanged(f"{key!r} changed in the store")
    return fingerprint, headers, b"", entry.size


def check_level(namespace: Namespace, level: int = ATTRIBUTES_LEVEL) -> None:
    """Raise ``NotReady`` while a master takes part that keeps no attributes, of directories from a later ``level`` on."""
    if namespace.level < level:
        raise NotReady(
            "headers, metadata and tags are kept once every master runs this release: start it on the others"
        )
