"""The acts of intents: what each kind asks of its store, and how it is found out what became of an act that did not tell.

An act is done once. When its end is unclear the store is *looked* at: what this operation made is there, so it is done; else it is done
again, a bounded number of times. :meth:`Acts.finish` is for intents that nobody remembers having acted on: it looks first, and does what
is left of what was begun, but begins nothing.

Invariant: nothing is deleted or replaced but the version the intent recorded; another one there is ``UfsChanged``, and nothing was done.
Not here: whether an intent may be begun (apply), what becomes of it (intents.py), writes that workers do (worker/writing.py).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from monofs.master.comparing import found_of
from monofs.master.proposing import Proposer
from monofs.master.stores import UNAVAILABLE, MountedStore, Stores, Unclear
from monofs.metadata.entries import Found
from monofs.metadata.intent_entries import RecordUpload
from monofs.metadata.namespace import Namespace
from monofs.metadata.tables import Intent, IntentKind
from monofs.model.attributes import Attributes, from_store, store_headers
from monofs.model.errors import (
    Internal,
    MonofsError,
    MountNotFound,
    NotReady,
    UfsChanged,
    UfsFailed,
    UfsNotEmpty,
    UfsNotFound,
)
from monofs.model.mount import Mount
from monofs.model.paths import parse_path
from monofs.observe.failpoints import failpoint
from monofs.observe.logs import logger
from monofs.ufs.base import ANYTHING, UfsEntry, UnderStorage, replacing

log = logger(__name__)

T = TypeVar("T")
TRIES = 3
PAUSE_S = 0.1
"""How long a thread waits for the id of its upload to be journaled."""
TOLD = (UfsChanged, UfsNotFound, UfsNotEmpty)
"""By these a store tells that it has something else than the intent recorded; after any other error it may not have been asked at all."""


class NotDone(Exception):
    """What an intent was to do was not done, and is not begun any more."""


def step(name: str) -> None:
    """A failpoint between two steps: a failure there leaves it unclear how far things went."""
    try:
        failpoint(name)
    except UfsFailed as error:
        raise Unclear(error) from error


class Acts:
    """Of one master. Every method raises ``Unclear`` when the store did not tell what happened, and otherwise errors that say that it
    was not done."""

    def __init__(self, namespace: Namespace, stores: Stores, proposer: Proposer, *, reactor: Any) -> None:
        self._namespace, self._stores, self._proposer, self._reactor = namespace, stores, proposer, reactor

    async def do(self, intent: Intent) -> Found | None:
        """Do the act of an intent that just began; what END tells."""
        store = self.store_of(intent)
        match intent.kind:
            case IntentKind.DELETE if intent.marker:
                return await self._delete_marker(store, intent)
            case IntentKind.DELETE:
                await self._delete(store, intent)
                return None
            case IntentKind.MAKE_DIRECTORY:
                entry = await self._until(lambda: self._there(store, intent), lambda: self._make(store, intent))
            case IntentKind.RENAME if is_unstored(intent):
                await self._delete(store, intent)
                return None
            case IntentKind.RENAME if store.renames:
                entry = await self._until(lambda: self._moved(store, intent), lambda: self._move(store, intent))
            case IntentKind.COPY if intent.tags_only:
                entry = await self._until(_never, lambda: self._tag(store, intent))
            case IntentKind.RENAME | IntentKind.COPY:
                entry = await self._until(lambda: self._copied(store, intent), lambda: self._copy(store, intent))
                if intent.kind == IntentKind.RENAME:
                    await self._delete_copied(store, intent)
                else:
                    await self._tag_copy(store, intent)
            case _:
                entry = await self._until(lambda: self._made(store, intent), lambda: self._put_empty(store, intent))
        return _found(intent, entry)

    async def begin_upload(self, intent: Intent) -> str:
        """Have the store begin an upload; its id, to be journaled."""
        store, key = self.store_of(intent), intent.key.encode()
        headers = store_headers(intent.attributes or Attributes())
        return await store.act("upload", intent.key, lambda ufs: ufs.begin_upload(key, intent.name, headers))

    async def complete(self, intent: Intent, parts: Sequence[str]) -> Found:
        """Make the file of an upload that acts visible, of these parts."""
        store, key, condition = self.store_of(intent), intent.key.encode(), replacing(intent.replaced)
        entry = await self._until(
            lambda: self._made(store, intent),
            lambda: store.act(
                "complete",
                intent.key,
                lambda ufs: ufs.complete_upload(key, intent.upload, parts, intent.size, intent.name, condition),
                size=intent.size,
            ),
        )
        return _found(intent, entry)

    async def finish(self, intent: Intent) -> Found | None:
        """What became of an intent's act, with what was left of it done; what END tells. ``NotDone``: it has had no effect."""
        store = self.store_of(intent)
        match intent.kind:
            case IntentKind.DELETE if intent.marker:
                return await self._delete_marker(store, intent)
            case IntentKind.DELETE:
                if intent.directory or not await self._gone(store, intent):
                    await self._delete(store, intent)
                return None
            case IntentKind.MAKE_DIRECTORY:
                entry = await self._there(store, intent)
            case IntentKind.RENAME if is_unstored(intent):
                await self._delete(store, intent)
                return None
            case IntentKind.RENAME if store.renames:
                entry = await self._moved(store, intent)
            case IntentKind.COPY if intent.tags_only:
                entry = await self._tag(store, intent)
            case IntentKind.RENAME | IntentKind.COPY:
                entry = await self._copied(store, intent)
            case _:
                entry = await self._made(store, intent)
        step("resolve.looked")
        if entry is None:
            await self.clean(store, intent)
            raise NotDone
        if intent.kind == IntentKind.RENAME and not store.renames and not await self._is_replaced(store, intent):
            await self._delete_copied(store, intent)
        elif intent.kind == IntentKind.COPY and not intent.tags_only:
            await self._tag_copy(store, intent)
        return _found(intent, entry)

    async def clean(self, store: MountedStore, intent: Intent) -> None:
        """Drop what an act left unfinished in its store: the upload it recorded, and temporary files of its name."""
        key, upload = made_key(intent).encode(), intent.upload
        if upload:
            await store.act("abort", made_key(intent), lambda ufs: ufs.abort_upload(key, upload))
        await store.act("sweep", made_key(intent), lambda ufs: ufs.sweep(intent.name, key))
        step("resolve.aborted")

    def store_of(self, intent: Intent) -> MountedStore:
        """The store an intent is about. ``MountNotFound`` once it was unmounted."""
        return self._stores.of(self._mount(intent.mount))

    def _mount(self, number: int) -> Mount:
        for _, mount in self._namespace.mounts():
            if mount.id == number:
                return mount
        raise MountNotFound("the mount this change was for is gone")

    # ---- looking ------------------------------------------------------------------------------------------------------

    async def look(self, store: MountedStore, key: str) -> UfsEntry | None:
        """The file at a key, and who made it."""
        raw = key.encode()
        return await store.call("head", key, lambda ufs: ufs.look(raw))

    async def _made(self, store: MountedStore, intent: Intent) -> UfsEntry | None:
        """The file this operation made; None: it made none, or it was replaced since."""
        entry = await self.look(store, made_key(intent))
        return entry if entry is not None and entry.operation == intent.name else None

    async def _copied(self, store: MountedStore, intent: Intent) -> UfsEntry | None:
        """The copy this operation made. Who made it may not have come to the tags; those that are known here are put by :meth:`_tag_copy`."""
        entry = await self._made(store, intent)
        if entry is not None and intent.attributes is None and store.object_store:
            source, target = intent.key.encode(), intent.target_key.encode()
            await self._put_tags(store, intent, lambda ufs: _pass_tags(ufs, source, intent.replaced, target))
        return entry

    async def _there(self, store: MountedStore, intent: Intent) -> UfsEntry | None:
        key = intent.key.encode()
        if store.object_store and intent.key:
            entry = await self.look(store, intent.key + "/")
            if entry is None or (intent.marker and entry.operation != intent.name):
                return None
            return UfsEntry(key, True, 0, entry.mtime_ns, entry.fingerprint)
        return (await store.call("head", intent.key, lambda ufs: ufs.status(key)))[1]

    async def _gone(self, store: MountedStore, intent: Intent) -> UfsEntry | bool | None:
        """Whether what is to be deleted is gone."""
        entry = await self.look(store, intent.key)
        if entry is not None and intent.replaced and entry.fingerprint != intent.replaced:
            raise UfsChanged(f"{intent.path} was replaced in its store: it is not deleted", path=intent.path)
        return True if entry is None else None

    async def _moved(self, store: MountedStore, intent: Intent) -> UfsEntry | None:
        """By a store that renames in one step, and keeps nothing with a file that tells who did: what came is what went."""
        source, target = intent.key.encode(), intent.target_key.encode()
        here, there = await store.call("head", intent.target_key, lambda ufs: (ufs.status(source), ufs.status(target)))
        entry = there[intent.directory]
        if here[intent.directory] is not None:
            return None
        if entry is None:
            raise UfsNotFound(f"{intent.path} is gone from its store: it was not renamed", path=intent.path)
        return entry

    async def _is_replaced(self, store: MountedStore, intent: Intent) -> bool:
        """Whether another version came to the source of a rename since."""
        entry = await self.look(store, intent.key)
        return entry is not None and entry.fingerprint != intent.replaced

    # ---- acting -------------------------------------------------------------------------------------------------------

    async def _delete(self, store: MountedStore, intent: Intent) -> None:
        key = intent.key.encode()
        if intent.directory:  # only an empty one goes, and a missing one is no error: asking again is harmless
            await self._until(
                _never,
                lambda: store.act("delete", intent.key, lambda ufs: ufs.remove_directory(key, implied=intent.implied)),
            )
        else:  # of a file that no store has an older version may lie there
            await self._until(
                lambda: self._gone(store, intent), lambda: store.act("delete", intent.key, lambda ufs: ufs.delete(key))
            )

    async def _delete_marker(self, store: MountedStore, intent: Intent) -> Found | None:
        """Delete the object ``dir/``, whatever lies below; the directory, if the store shows it still. A store of files has nothing but directories."""
        key = intent.key.encode()
        if store.object_store:
            await self._until(_never, lambda: store.act("delete", intent.key, lambda ufs: ufs.delete(key + b"/")))
        else:
            with contextlib.suppress(UfsNotEmpty):
                await self._delete(store, intent)
        try:
            entry = (await store.call("head", intent.key, lambda ufs: ufs.status(key)))[1]
        except MonofsError as error:
            raise Unclear(error) from error
        return None if entry is None else _found(intent, entry)

    async def _delete_copied(self, store: MountedStore, intent: Intent) -> None:
        """The second half of a rename. What was written to the source from outside after it was copied stays, under its name."""
        step("rename.copied")
        try:
            await self._delete(store, intent)
        except UfsChanged:
            return
        except (*UNAVAILABLE, NotReady) as error:
            raise Unclear(error) from error
        step("rename.deleted")

    def _make(self, store: MountedStore, intent: Intent) -> Deferred[UfsEntry]:
        key = intent.key.encode()
        kept = intent.attributes or Attributes()
        headers, replaced = store_headers(kept) if intent.marker else None, intent.replaced
        return store.act(
            "mkdir", intent.key, lambda ufs: ufs.make_directory(key, intent.name, headers, kept.body, replaced)
        )

    def _put_empty(self, store: MountedStore, intent: Intent) -> Deferred[UfsEntry]:
        key, condition = intent.key.encode(), replacing(intent.replaced)
        return store.act("put", intent.key, lambda ufs: ufs.put(key, [], intent.name, condition))

    def _move(self, store: MountedStore, intent: Intent) -> Deferred[UfsEntry]:
        source, target, directory = intent.key.encode(), intent.target_key.encode(), intent.directory
        condition = ANYTHING if directory else replacing(intent.target_replaced)
        return store.act(
            "rename", intent.target_key, lambda ufs: ufs.rename(source, target, condition, directory=directory)
        )

    async def _copy(self, store: MountedStore, intent: Intent) -> UfsEntry:
        source, target = intent.key.encode(), intent.target_key.encode()
        condition = replacing(intent.target_replaced)
        headers = None if intent.attributes is None else store_headers(intent.attributes)
        begun = self._namespace.intent(intent.number)
        if begun is not None and begun.upload:  # of a try before this one
            await self.clean(store, begun)
        return await store.act(
            "copy",
            intent.target_key,
            lambda ufs: ufs.copy(
                source,
                intent.replaced,
                target,
                intent.name,
                condition,
                begun=lambda upload: self._record(intent, upload),
                headers=headers,
            ),
            size=max(0, intent.size),
        )

    async def _tag(self, store: MountedStore, intent: Intent) -> UfsEntry:
        """Replace the tags of the version that was meant; doing it again is harmless."""
        key, tags = intent.key.encode(), (intent.attributes or Attributes()).tags
        entry = await self.look(store, intent.key)
        if entry is None or entry.fingerprint != intent.replaced:
            raise UfsChanged(f"{intent.path} was replaced in its store: it is not tagged", path=intent.path)
        await store.act("tag", intent.key, lambda ufs: ufs.tag(key, tags))
        return entry

    async def _tag_copy(self, store: MountedStore, intent: Intent) -> None:
        """Not every store takes tags along with a copy that replaces headers (radosgw drops them), so they are put after it. A store that
        refuses them would ever again: the copy stands without."""
        tags = intent.attributes.tags if intent.attributes is not None and store.object_store else {}
        if tags:
            await self._put_tags(store, intent, lambda ufs: ufs.tag(made_key(intent).encode(), tags))

    async def _put_tags(self, store: MountedStore, intent: Intent, put: Callable[[UnderStorage], None]) -> None:
        try:
            await store.act("tag", made_key(intent), put)
        except MonofsError as error:
            is_refusal = isinstance(error, UfsFailed)  # else it came as ``Unclear``
            if isinstance(error, (*UNAVAILABLE, NotReady)) and not is_refusal:
                raise Unclear(error) from error
            log.warning("a store refuses the tags of a copy", path=intent.target, code=error.code, error=error.message)

    def _record(self, intent: Intent, upload: str) -> None:
        """On the thread that copies: go on once the id of its upload is journaled."""
        self._proposer.insist_from_thread(
            lambda: RecordUpload(self._proposer.stamp(), intent.number, upload), "the id of an upload"
        )

    # ---- until it is known --------------------------------------------------------------------------------------------

    async def _until(self, look: Callable[[], Awaitable[T | None]], act: Callable[[], Awaitable[Any]]) -> Any:
        """Act until it is known to be done: what the act gave, or what ``look`` found that it made."""
        unclear: Unclear | None = None
        for tried in range(TRIES):
            try:
                return await act()
            except Unclear as error:
                unclear = error
            except MonofsError as error:
                if unclear is None:
                    raise
                if not isinstance(error, TOLD):
                    raise unclear from error  # the earlier try may have been done
            await deferLater(self._reactor, PAUSE_S * 4**tried * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                found = await look()
            except TOLD:
                raise
            except MonofsError as error:
                raise unclear from error
            if found is not None:
                return found
        raise unclear or Internal("an act neither ended nor failed")


def is_unstored(intent: Intent) -> bool:
    """Whether a file is renamed that only workers hold: all there can be in the store is an older version."""
    return not intent.directory and not intent.replaced


def made_key(intent: Intent) -> str:
    """The key at which an intent makes something."""
    return intent.target_key if intent.target else intent.key


def _pass_tags(ufs: UnderStorage, source: bytes, version: str, target: bytes) -> None:
    """A copy has none: it gets those of its source, if that is the version still."""
    try:
        fingerprint, kept = ufs.headers(source)
    except UfsNotFound:
        return
    tags = from_store(kept).tags
    if fingerprint == version and tags and not from_store(ufs.headers(target)[1]).tags:
        ufs.tag(target, tags)


async def _never() -> None:
    return None


def _found(intent: Intent, entry: UfsEntry) -> Found:
    return found_of(entry, parse_path(intent.target or intent.path)[-1])
