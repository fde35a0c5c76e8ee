"""`/api/v1/files`: the tree by pages, what is known of one path, and changes of it; and what the live topic `file:PATH` shows.

Paths are parameters or stand in bodies, never in the address's own path: a name may hold anything but `/`. Invariant: every question and every change is the viewer's own, asked through the viewer's
file system object; answers are bounded: a page of a directory, a map of at most ``CELLS_MAX`` cells a worker. Not here: bytes of files (contents.py), uploads (uploads.py), loads and frees, which are jobs (cluster_api.py).
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from monofs.client.info import FileInfo, describe
from monofs.model.block import GROUP_PAGES, page_count
from monofs.model.errors import AlreadyExists, InvalidArgument, MonofsError, NotADirectory, NotFound
from monofs.model.paths import NAME_MAX_BYTES
from monofs.model.principal import Right
from monofs.rpc.api import CachedAnswer, CachedGroup
from monofs.web.cluster_api import Done, PathOnly
from monofs.web.records import record
from monofs.web.routes import Parameter, Routes
from monofs.web.viewers import Viewer

PAGE = 1000
"""Entries of one page, and those of a directory that are live."""
COMPLETIONS_MAX = 20
CELLS_MAX = 512
"""Cells of a file's map for each worker: pages, or of a larger file as many pages each as it takes, a power of two."""
GONE_MAX = 20
LIST_EVERY_S = 5.0
LIST_SHARE = 50.0
"""A directory that is looked at is listed again after so many times as long as listing it took, and after ``LIST_EVERY_S`` at the latest."""


class Entry(msgspec.Struct):
    """A file or directory, as `monofs fs ls --json` shows it."""

    path: str
    name: str
    type: str
    size: int
    mtime_ns: int
    mode: str
    uid: int
    gid: int
    content: str | None
    fingerprint: str | None
    pinned: bool
    mount_id: int | None
    persistence: str | None
    store_path: str | None
    is_mount: bool


class Page(msgspec.Struct):
    """Children in key order. ``next``: give it as ``after``; null: these were the last."""

    path: str
    entries: list[Entry]
    next: str | None


class Completions(msgspec.Struct):
    """Paths that begin so; directories end in ``/``."""

    paths: list[str]


class Cell(msgspec.Struct):
    """How many of a cell's pages one worker has; ``tier``: where they lie."""

    tier: str
    pages: int
    pinned: bool


class OnWorker(msgspec.Struct):
    """Cells by number. ``error``: it does not answer; ``silent_s``: nor has the master heard it for so long."""

    cells: dict[str, Cell]
    pages: int = 0
    error: str = ""
    silent_s: float = 0.0


class CacheMap(msgspec.Struct):
    """Which pages are where, by worker address, in ``cells`` of ``pages_per_cell``. ``gone``: groups of 64 pages that left a cache lately, newest first."""

    pages: int
    cells: int
    pages_per_cell: int
    workers: dict[str, OnWorker]
    gone: list[dict[str, Any]]


class Known(msgspec.Struct):
    """All that is known of a path: what it is, facts as `monofs fs why --json` tells them, and of a file which pages are cached where."""

    entry: Entry
    why: dict[str, Any]
    map: CacheMap | None = None


class Rename(msgspec.Struct, forbid_unknown_fields=True):
    """``replace``: a file, or an empty directory, that has the new name goes."""

    source: str
    target: str
    replace: bool = False


class Copy(msgspec.Struct, forbid_unknown_fields=True):
    """``replace``: a file that has the name of the copy goes."""

    source: str
    target: str
    replace: bool = False


class Pin(msgspec.Struct, forbid_unknown_fields=True):
    """``pinned`` false: no longer."""

    path: str
    pinned: bool = True


class TimeToLive(msgspec.Struct, forbid_unknown_fields=True):
    """``action``: free, delete_cache_metadata or delete, after ``duration_s``; null takes the TTL back."""

    path: str
    duration_s: float | None = None
    action: str = "free"


class Begun(msgspec.Struct):
    """It is so. ``job``: the number of the job that does the rest in the store; 0: nothing is left to do."""

    job: int = 0


def entry_of(info: FileInfo) -> Entry:
    """An entry."""
    return Entry(name=info.name, is_mount=info.is_mount, **describe(info))


def files(viewer: Viewer, path: str, after: str, limit: int) -> Page:
    """A page of a directory."""
    found, following = viewer.fs.list_page(path, unquote_to_bytes(after), limit)
    return Page(path, [entry_of(each) for each in found], None if following is None else quote_from_bytes(following))


def known(viewer: Viewer, path: str) -> Known:
    """All that is known of a path."""
    info = viewer.fs.stat(path)
    told = Known(entry_of(info), viewer.fs.why(path))
    if info.is_file:
        told.map = cache_map(info.size, viewer.fs.cached_on(path), told.why.get("silent", {}))
    return told


class LookedAt:
    """The value of the topic `file:PATH`, as a record: :func:`known`, and of a directory its first page, by name. The page is asked for when the directory's own record changed, and now and
    then: a delete below a mount does not change it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._state: tuple[Any, ...] = ()
        self._next_s = 0.0
        self._first: dict[str, Any] = {}

    def __call__(self, viewer: Viewer) -> dict[str, Any]:
        """Blocking: as it is now."""
        told: dict[str, Any] = record(known(viewer, self._path))
        if told["entry"]["type"] == "directory":
            state = (told["entry"]["mtime_ns"], told["why"].get("changed_index"))
            began_s = time.monotonic()
            if state != self._state or began_s >= self._next_s:
                page = record(files(viewer, self._path, "", PAGE))
                entries = {each["name"] + "/" * (each["type"] == "directory"): each for each in page["entries"]}
                self._first = {"entries": entries, "next": page["next"]}
                now_s = time.monotonic()
                self._state, self._next_s = state, now_s + min(LIST_EVERY_S, LIST_SHARE * (now_s - began_s))
            told |= self._first
        return told


def cache_map(size: int, answers: dict[str, CachedAnswer | MonofsError], silent: dict[str, float]) -> CacheMap:
    """Pure: the map of a file of ``size`` bytes. ``silent``: seconds since the master heard a worker whose heartbeat is late."""
    pages = page_count(size)
    per = 1
    while pages > CELLS_MAX * per:
        per *= 2
    told = CacheMap(pages, -(-pages // per), per, {}, [])
    for address, answer in answers.items():
        if isinstance(answer, MonofsError):
            told.workers[address] = OnWorker({}, error=answer.message, silent_s=silent.get(address, 0.0))
            continue
        here = told.workers[address] = OnWorker({})
        for group in answer.groups:
            for first, count in _counts(group, per):
                if first < pages:  # what lies behind is of a version that was longer
                    cell = here.cells.setdefault(str(first // per), Cell(group.tier, 0, False))
                    cell.pages += count
                    cell.pinned |= group.pinned
                    here.pages += count
        present = {group.group for group in answer.groups}
        told.gone += [
            {"worker": address, "group": each.group, "why": each.why, "at_ns": each.at_ns}
            for each in answer.gone
            if each.group not in present
        ]
    told.gone = sorted(told.gone, key=lambda each: -each["at_ns"])[:GONE_MAX]
    return told


def _counts(group: CachedGroup, per: int) -> list[tuple[int, int]]:
    """(first page, how many are cached) of each cell, or of the group as a whole where a cell holds all of it."""
    first = group.group * GROUP_PAGES
    if per >= GROUP_PAGES:
        return [(first, group.pages.bit_count())]
    counts = ((first + bit, (group.pages >> bit & (1 << per) - 1).bit_count()) for bit in range(0, GROUP_PAGES, per))
    return [each for each in counts if each[1]]


def completions(viewer: Viewer, path: str) -> Completions:
    """Paths that begin so: what a path bar offers."""
    parent, _, begun = path.rpartition("/")
    if not path.startswith("/"):
        raise InvalidArgument(f"a path begins with /, not {path[:100]!r}")
    wanted = begun.encode()
    try:
        found, _ = viewer.fs.list_page(parent or "/", _before(begun), COMPLETIONS_MAX + 1)
    except (NotFound, NotADirectory):
        return Completions([])
    shown = [each.path + ("/" if each.is_dir else "") for each in found if each.name.encode().startswith(wanted)]
    return Completions(shown[:COMPLETIONS_MAX])


def _before(begun: str) -> bytes:
    """A key that stands before all names that begin so, with few between."""
    if not begun:
        return b""
    last = ord(begun[-1]) - 1
    if not last or len(begun.encode()) > NAME_MAX_BYTES - 3:
        return begun[:-1].encode()[:NAME_MAX_BYTES]
    return (begun[:-1] + chr(0xD7FF if 0xD800 <= last <= 0xDFFF else last) + "\U0010ffff").encode()


def directory_make(viewer: Viewer, body: PathOnly) -> Entry:
    """Make a directory."""
    return entry_of(viewer.fs.make_directory(body.path))


def file_rename(viewer: Viewer, body: Rename) -> Begun:
    """Rename a file or directory; a job moves what lies below a directory in the store."""
    if not body.replace and viewer.fs.exists(body.target):
        raise AlreadyExists(f"{body.target} exists already", path=body.target)
    return Begun(viewer.fs.rename(body.source, body.target))


def file_copy(viewer: Viewer, body: Copy) -> Entry:
    """Copy one file; within a mount the store does it."""
    return entry_of(viewer.fs.copy_file(body.source, body.target, overwrite=body.replace))


def file_delete(viewer: Viewer, path: str, recursive: bool) -> Begun:
    """Delete a file or an empty directory, in the store too; recursive: a directory with all below, whose objects a job deletes."""
    if recursive:
        try:
            return Begun(viewer.fs.remove_tree(path))
        except NotADirectory:
            pass  # a file, perhaps: deleting it tells
    viewer.fs.delete(path)
    return Begun()


def file_pin(viewer: Viewer, body: Pin) -> Done:
    """Keep a file, or all below a directory, in the cache once it is there; or no longer."""
    viewer.fs.set_pin(body.path, body.pinned)
    return Done()


def file_ttl(viewer: Viewer, body: TimeToLive) -> Done:
    """Set a time to live, or take it back."""
    viewer.fs.set_ttl(body.path, body.duration_s, body.action)
    return Done()


PATH = Parameter("path", "A path, from the root on.")


def add_routes(routes: Routes) -> None:
    """All of the above."""
    read, write = Right.READ, Right.WRITE
    after = Parameter("after", "What `next` of the page before was.", default="")
    limit = Parameter("limit", "Entries of the page.", "integer", default=PAGE, least=1, most=PAGE)
    recursive = Parameter("recursive", "A directory with all below.", "boolean", default=False)
    routes.add("GET", "/files", files, read, Page, PATH, after, limit, asks="store")
    routes.add("DELETE", "/files", file_delete, write, Begun, PATH, recursive, asks="store")
    routes.add("GET", "/files/known", known, read, Known, PATH, asks="store")
    routes.add("GET", "/files/completions", completions, read, Completions, PATH, asks="store")
    routes.add("POST", "/files/directory", directory_make, write, Entry, body=PathOnly, asks="store")
    routes.add("POST", "/files/rename", file_rename, write, Begun, body=Rename, asks="store")
    routes.add("POST", "/files/copy", file_copy, write, Entry, body=Copy, asks="store")
    routes.add("POST", "/files/pin", file_pin, write, Done, body=Pin, asks="store")
    routes.add("POST", "/files/ttl", file_ttl, write, Done, body=TimeToLive, asks="store")
