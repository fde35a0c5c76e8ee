"""Checking the home of a stopped node: the journal is replayed as a start would, then every invariant is looked at; nothing is served.

A master in a group does not know by itself which of its journal's last entries were committed: its journal is read, its state is checked as its database
holds it, and nothing is written.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable

import msgspec

import monofs
from monofs.config.loader import load_config
from monofs.journal.recovery import Log
from monofs.journal.single import SingleVoter
from monofs.metadata.copying import end_install, is_installed, settle_install
from monofs.metadata.fsck import check_namespace
from monofs.metadata.namespace import Namespace
from monofs.metadata.store import Store
from monofs.model.errors import HomeUnusable
from monofs.model.ids import JournalIndex, Term
from monofs.node.forming import IDENTITY
from monofs.node.home import open_home
from monofs.tiering.cache import Cache
from monofs.tiering.checks import check_cache
from monofs.tiering.directory import IDENTITY_FILE, Known
from monofs.tiering.index import Index
from monofs.tiering.spec import TierSpec

NO_QUOTA_BYTES = 1 << 62


def check_home(directory: str, *, pages: bool = False) -> dict[str, list[str]]:
    """Every named check of the namespace and the cache → findings; ``pages`` reads every cached page too.

    Raises ``HomeInUse`` while a node serves the home, ``HomeUnusable`` when there is none, ``JournalCorrupt``.
    """
    if not os.path.exists(os.path.join(directory, "format")):
        raise HomeUnusable(f"{directory} is not the home of a node")
    home = open_home(directory, software=monofs.__version__, now_ns=time.time_ns())
    waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    found: dict[str, list[str]] = {}
    try:
        home.check_begun()
        if os.path.isdir(home.path("namespace")):
            in_group = os.path.exists(home.path(IDENTITY))
            check = _check_member if in_group else _check_master
            found |= check(home.path("namespace"), home.path("journal"), waiting.put)
        if os.path.isdir(home.path("worker", "index")):
            index = home.path("worker", "index")
            cache = Cache(index, _tiers(index, home.path("worker", "pages")), reserve=0.0, call_soon=waiting.put)
            cache.open()
            try:
                found |= check_cache(cache, pages=pages)
            finally:
                cache.close()
    finally:
        home.close()
    return found


def _tiers(index_directory: str, pages: str) -> list[TierSpec]:
    """The storage directories as the index remembers them, whatever the settings of the node were, and without a quota: a check that
    opened fewer or smaller ones would drop what they hold."""
    index = Index(index_directory)
    index.open()
    try:
        known = msgspec.msgpack.decode(index.meta(b"directories") or b"\x90", type=list[Known])
    finally:
        index.close()
    paths = {entry.path: None for entry in known if not entry.beside or _is_tier(entry.path)}
    if _is_tier(pages):  # the home may have been moved
        paths[pages] = None
    return [TierSpec("checked", path, NO_QUOTA_BYTES) for path in paths]


def _is_tier(path: str) -> bool:
    return os.path.exists(os.path.join(path, IDENTITY_FILE))


def _check_member(
    namespace: str, journal_directory: str, call_soon: Callable[[Callable[[], None]], None]
) -> dict[str, list[str]]:
    store = _open_store(namespace, call_soon, lambda _: None)
    try:
        for _ in Log(journal_directory).frames(store.meta.applied_index, whole=True):  # raises JournalCorrupt
            pass
        return check_namespace(store)
    finally:
        store.close()


def _open_store(
    namespace: str, call_soon: Callable[[Callable[[], None]], None], on_flushed: Callable[[int], None]
) -> Store:
    config = load_config(environ={}).config
    return Store(namespace, config.namespace, call_soon=call_soon, on_flushed=on_flushed, on_failure=_fail)


def _fail(error: BaseException) -> None:
    raise error


def _check_master(
    namespace: str, journal_directory: str, call_soon: Callable[[Callable[[], None]], None]
) -> dict[str, list[str]]:
    noted = settle_install(namespace)
    store = _open_store(namespace, call_soon, lambda index: journal.release(JournalIndex(index)))
    try:
        settings = load_config(environ={}).config.journal
        journal = SingleVoter(
            journal_directory, Namespace(store), settings, call_soon=call_soon, on_failure=_fail, may_discard=False,
            installed_term=Term(store.meta.applied_term) if is_installed(store, noted) else None,
        )  # fmt: skip
        journal.start()
        end_install(namespace)
        try:
            return check_namespace(store)
        finally:
            journal.stop()
    finally:
        store.close()
