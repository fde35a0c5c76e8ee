"""Reading one opened content: from the page cache of this machine through a descriptor, or from a worker over a socket.

The path of a read: slot of the block -> worker -> (same machine) DESCRIPTOR, then ``preadv`` of pages whose presence
bit is set, FETCH for those missing; (else) READ straight into the caller's buffer.

Invariant (design.md, law 1): all bytes this reader ever delivered are of one content id. A content that changed in the store while
being read is opened again by itself only while nothing of it was told to the caller: no byte, and no size that differs.
A page is never read from a descriptor unless its presence was told for that very file.

Not here: positions and Python's file interface (file.py).
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import msgspec

from monofs.client.cluster import SILENT_S, WorkerLink
from monofs.client.descriptors import GROUP_SHIFT, Descriptor, Hot, key_of, process_table
from monofs.client.fallback import StoreFile
from monofs.client.info import Opened
from monofs.client.session import Session
from monofs.client.spreading import spread
from monofs.model.block import (
    GROUP_SIZE_BYTES,
    LAYOUT_WHOLE,
    PAGE_SIZE_BYTES,
    block_count,
    block_of,
    page_count,
    pages_mask,
)
from monofs.model.capability import LIFE_S
from monofs.model.errors import (
    CapabilityExpired,
    ConnectionLost,
    ContentChanged,
    DeadlineExceeded,
    IsADirectory,
    MonofsError,
    MountNotFound,
    NotCached,
    NotSupported,
    NoWorker,
    Overloaded,
    PageCorrupt,
    TierFull,
    TierUnusable,
)
from monofs.model.inode import Kind
from monofs.model.options import ReadType
from monofs.rpc.api import (
    DescriptorAnswer,
    DescriptorRequest,
    FetchAnswer,
    FetchRequest,
    Method,
    OpenRequest,
    ReadOptions,
    ReadRequest,
    RenewAnswer,
    RenewRequest,
)

GROUP_MASK = GROUP_SIZE_BYTES - 1
GROUP_PAGE_SHIFT = PAGE_SIZE_BYTES.bit_length() - 1
RENEW_BEFORE_S = 60.0
RENEW_PATIENCE_S = 1.0
"""How long a read waits for a master before it goes on with the capability it has."""
WINDOW_PAGES = 8
"""Pages fetched in one go: the worker's range of one store request."""
AHEAD_PAGES = 32
SEQUENTIAL_RUN = 2
"""Reads that each begin where the one before ended, before a reader counts as sequential (a Parquet footer is two)."""
READ_BYTES_MAX = 16 << 20
"""Most bytes of one READ: what a connection that breaks costs at most."""
SPREAD_BYTES = 8 << 20
"""Ranges from here on are read block by block at the same time, where they lie in several blocks."""
BUFFER_BYTES = 1 << 20
"""What a sequential reader of small pieces takes over a socket at once."""
BUFFERED_BELOW_BYTES = 128 << 10
SMALL_FILE_BYTES = 64 << 10
"""Files up to this size are taken whole with one READ: a descriptor costs twice that, and is not worth keeping for them."""
CORRUPT_TRIES = 3
REFUSED_S = 1.0
"""How long a worker that refused a descriptor is not asked for one."""

T = TypeVar("T")

_FROM_CACHE = (ReadType.CACHE, ReadType.NO_CACHE)
_NO_DESCRIPTOR = (Overloaded, TierFull, TierUnusable, NotCached, NotSupported)


class Reader:
    """One open file. Thread-safe; usable after a fork.

    ``hot`` has the descriptors that hold whole groups: file.py reads from those by itself.
    """

    def __init__(
        self,
        session: Callable[[], Session],
        path: str,
        opened: Opened,
        options: ReadOptions,
        read_type: str,
        *,
        may_reopen: bool = True,
    ) -> None:
        self.path = path
        self.opened = opened
        self.hot = Hot()
        self._session = session
        self._options = options
        self._read_type = read_type
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._delivered = not may_reopen  # what can only be this content, threads may read from the start
        self._size_told = False
        self._reopened = not may_reopen
        self._next = -1
        self._run = 0
        self._buffered: tuple[int, bytes] = (0, b"")
        self._renew_at_s = 0.0
        self._take(opened)
        _readers.add(self)

    @property
    def size(self) -> int:
        """Bytes of the content; once told it does not change under the caller."""
        self._size_told = True
        return self.opened.inode.size

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill ``view`` with the bytes from ``offset`` on, as far as the file goes; returns how many.

        Raises ``ContentChanged``, ``NoWorker`` and what the store answered.
        """
        if self._delivered:
            return self._fill(offset, view)
        with self._lock:  # until the first bytes are out, no two threads may see different contents
            try:
                count = self._fill(offset, view)
            except ContentChanged:
                if self._delivered or not self._reopen():
                    raise
                count = self._fill(offset, view)
            self._delivered = True
            return count

    def settle(self) -> None:
        """From now on no other content is opened, as if its first bytes were out."""
        with self._lock:
            self._delivered = True

    def beside(self) -> Reader:
        """A reader of the same content for another thread, which reads on from places of its own."""
        self.settle()
        return Reader(self._session, self.path, self.opened, self._options, self._read_type, may_reopen=False)

    def fetch_all(self) -> None:
        """Have workers bring the whole content into the cache; where the file changed and nothing was told of it, what it is now.

        Raises ``TierFull`` when a worker has no room for it, and what the store answered.
        """
        try:
            self._fetch_every()
        except ContentChanged:
            with self._lock:
                if self._delivered or not self._reopen():
                    raise
            self._fetch_every()

    def _fetch_every(self) -> None:
        size, session = self.opened.inode.size, self._session()
        for start in range(0, size, WINDOW_PAGES * PAGE_SIZE_BYTES):
            length = min(WINDOW_PAGES * PAGE_SIZE_BYTES, size - start)
            group, first = start >> GROUP_SHIFT, (start & GROUP_MASK) >> GROUP_PAGE_SHIFT
            pages = pages_mask(first, first + page_count(length) - 1)
            ahead = min(AHEAD_PAGES, page_count(size) - page_count(start + length))

            def fetch(link: WorkerLink, group: int = group, pages: int = pages, ahead: int = ahead) -> FetchAnswer:
                request = FetchRequest(self.opened.capability, group, pages, ahead, keep=True)
                return link.pool().call(Method.FETCH, request, FetchAnswer, timeout_s=session.options.timeout_s)

            answer = self._on_worker(start, fetch)
            if not answer.cached:
                raise TierFull(f"no room in the cache for all of {self.path}: free or unpin something", path=self.path)

    def whole_descriptor(self, *, fetch: bool) -> Descriptor | None:
        """The descriptor of the one block that is the whole file, complete and on this machine; None where that is not so.

        ``fetch``: bring in first what is missing.
        """
        if not self.size > 0 or block_count(self.size, self.opened.inode.layout) != 1:
            return None
        byte, session = memoryview(bytearray(1)), self._session()
        self.read_into(0, byte)

        def hold(link: WorkerLink) -> bool:
            starts = range(0, self.size, GROUP_SIZE_BYTES)
            return all(self._read_local(link, session, start, byte) for start in starts) if link.is_local else False

        self._on_worker(0, hold)
        if self.hot.at(0) is None:
            if fetch:
                self.fetch_all()
            process_table().drop_content(self.opened.inode.content)  # its presence may be old
            self._on_worker(0, hold)
        return self.hot.at(0)

    def forget(self) -> None:
        """At the end: hold no bytes and no references; another read starts from the worker again."""
        self.hot.clear()
        self._buffered = (0, b"")

    def after_fork(self) -> None:
        """In the child: own locks, and nothing of the parent's."""
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self.hot.clear()

    # ---- one call, cut where groups and blocks end ----

    def _fill(self, offset: int, view: memoryview) -> int:
        end = min(offset + len(view), self.opened.inode.size)
        self._run = self._run + 1 if offset == self._next else 0
        if end - offset >= SPREAD_BYTES and self._boundary(offset) < end:
            spread(self._parts(offset, end, view))
        else:
            self._fill_part(offset, end, view)
        self._next = max(offset, end)
        return self._next - offset

    def _fill_part(self, position: int, end: int, view: memoryview) -> None:
        offset = position
        while position < end:
            stop = min(end, self._boundary(position))
            position += self._piece(position, view[position - offset : stop - offset])

    def _parts(self, offset: int, end: int, view: memoryview) -> Iterator[Callable[[], None]]:
        """The blocks of a large range, each as a task: their workers send at the same time."""
        begin = offset
        while begin < end:
            stop = min(end, self._boundary(begin))
            yield partial(self._fill_part, begin, stop, view[begin - offset : stop - offset])
            begin = stop

    def _boundary(self, position: int) -> int:
        layout = self.opened.inode.layout
        group_end = (position | GROUP_MASK) + 1
        return group_end if layout == LAYOUT_WHOLE else min(group_end, ((position >> layout) + 1) << layout)

    def _piece(self, offset: int, view: memoryview) -> int:
        """At least one byte of a piece within one group and block; again while capabilities expire and connections break."""
        start, data = self._buffered
        if start <= offset < start + len(data):
            part = data[offset - start : offset - start + len(view)]
            view[: len(part)] = part
            return len(part)
        session = self._session()

        def attempt(link: WorkerLink) -> int:
            return self._read_from(link, session, offset, view)

        store = session.fallback.find(self.path, self.opened.capability) if session.fallback is not None else None
        if store is None:
            return self._on_worker(offset, attempt)
        if time.monotonic() >= session.workers_gone_until_s:
            try:
                return self._on_worker(offset, attempt, patient=False)
            except NoWorker:
                session.workers_gone_until_s = time.monotonic() + SILENT_S
        return self._read_store(store, offset, view)

    def _read_store(self, store: StoreFile, offset: int, view: memoryview) -> int:
        """As over a socket, from the store itself."""
        size = len(view[:READ_BYTES_MAX])
        if size < BUFFERED_BELOW_BYTES and (self._run >= SEQUENTIAL_RUN or self.opened.inode.size <= BUFFER_BYTES):
            size = min(BUFFER_BYTES, self._boundary(offset) - offset, self.opened.inode.size - offset)
            buffer = bytearray(size)
            store.read_into(offset, memoryview(buffer))
            self._buffered = (offset, bytes(buffer))
            view[: min(size, len(view))] = buffer[: len(view)]
            return min(size, len(view))
        store.read_into(offset, view[:size])
        return size

    def _on_worker(self, offset: int, attempt: Callable[[WorkerLink], T], *, patient: bool = True) -> T:
        """Run ``attempt`` with a worker for the block at ``offset``; again while capabilities expire and pages prove bad."""
        session = self._session()
        renewed = corrupt = 0
        while True:
            if time.monotonic() >= self._renew_at_s:
                self._renew(session, required=False)
            inode = self.opened.inode
            try:
                block, opened = block_of(offset, inode.layout), self.opened
                return session.on_worker(
                    inode.content, block, opened.epoch, attempt, opened.workers, opened.replicas, patient=patient
                )
            except CapabilityExpired as error:
                renewed += 1
                if renewed > 2 or not self._renew(session, required=True):
                    raise ContentChanged(f"{self.path} changed while it was read", path=self.path) from error
            except PageCorrupt:
                corrupt += 1  # the worker dropped the page, and takes it from the store when asked again
                if corrupt >= CORRUPT_TRIES:
                    raise
            except (DeadlineExceeded, MountNotFound) as error:  # a worker knows no paths
                raise type(error)(f"{self.path}: {error.message}", **{"path": self.path, **error.detail}) from None

    def _read_from(self, link: WorkerLink, session: Session, offset: int, view: memoryview) -> int:
        if self.opened.inode.size <= SMALL_FILE_BYTES and not self.hot.groups:
            return self._read_buffered(link, session, offset, view, begin=0)
        if link.is_local and self._read_type in (ReadType.CACHE, ReadType.CACHE_PROMOTE):
            count = self._read_local(link, session, offset, view)
            if count:
                return count
        return self._read_socket(link, session, offset, view)

    # ---- this machine ----

    def _read_local(self, link: WorkerLink, session: Session, offset: int, view: memoryview) -> int:
        """Bytes read through a descriptor; 0: there is none to be had, read over the socket."""
        group, start = offset >> GROUP_SHIFT, offset & GROUP_MASK
        key = key_of(link, self.opened.inode, group)
        first, last = start >> GROUP_PAGE_SHIFT, (start + len(view) - 1) >> GROUP_PAGE_SHIFT
        table = process_table()
        try:
            descriptor = table.get(key) or self._ask_descriptor(link, session, group)
            needed = pages_mask(first, last)
            if descriptor is None or needed & ~descriptor.present(group):
                window = min(last, first + WINDOW_PAGES - 1)
                view = view[: ((window + 1) << GROUP_PAGE_SHIFT) - start]
                needed = pages_mask(first, window)
                descriptor = self._make_present(link, session, group, descriptor, needed, last - window)
        except _NO_DESCRIPTOR:
            return 0
        if descriptor is None:
            return 0
        if descriptor.whole and self.hot.at(offset) is not descriptor:
            table.lend(key, descriptor, self.hot)
        descriptor.used = True
        count = os.preadv(descriptor.fd, [view], offset + descriptor.shift)
        if count < len(view):  # shorter than promised: not what we were told it is
            table.drop(key)
            return 0
        return count

    def _ask_descriptor(self, link: WorkerLink, session: Session, group: int) -> Descriptor | None:
        """A descriptor from the worker; None: no page of the group is there yet. Raises ``Overloaded`` at the bound."""
        table = process_table()
        if not table.has_room():
            raise Overloaded("this process holds as many descriptors as it may")
        if time.monotonic() < link.lends_from_s:
            raise Overloaded("the worker lends no descriptors at present")
        link.give_back()
        try:
            answer, fd = link.pool().call_with_descriptor(
                Method.DESCRIPTOR,
                DescriptorRequest(self.opened.capability, group, self._read_type),
                DescriptorAnswer,
                timeout_s=session.options.timeout_s,
            )
        except (Overloaded, TierFull):
            link.lends_from_s = time.monotonic() + REFUSED_S
            raise
        if fd is None:
            return None
        descriptor = Descriptor(fd, self.opened.inode, group, answer, link.leases)
        table.add(key_of(link, self.opened.inode, group), descriptor)
        return descriptor

    def _make_present(
        self, link: WorkerLink, session: Session, group: int, descriptor: Descriptor | None, needed: int, more: int
    ) -> Descriptor | None:
        """Have missing pages fetched until a descriptor holds all of ``needed``; None: there is no room for them."""
        for _ in range(3):
            missing = needed if descriptor is None else needed & ~descriptor.present(group)
            if descriptor is not None and not missing:
                return descriptor
            request = FetchRequest(self.opened.capability, group, missing, max(more, self._ahead()), self._read_type)
            answer = link.pool().call(Method.FETCH, request, FetchAnswer, timeout_s=session.options.timeout_s)
            if not answer.cached:
                return None
            if descriptor is not None and answer.file and answer.file == descriptor.file:
                descriptor.add_pages(group, answer.present)
            else:
                descriptor = self._ask_descriptor(link, session, group)
        return None  # evicted as fast as it comes: a tier too small for this file

    def _ahead(self) -> int:
        """Pages to fetch ahead: none until the reader is sequential, then twice as many each time."""
        return min(AHEAD_PAGES, 1 << min(self._run, 8)) if self._run >= SEQUENTIAL_RUN else 0

    # ---- over a socket ----

    def _read_socket(self, link: WorkerLink, session: Session, offset: int, view: memoryview) -> int:
        sequential = self._run >= SEQUENTIAL_RUN
        if sequential and len(view) < BUFFERED_BELOW_BYTES:
            return self._read_buffered(link, session, offset, view, begin=offset)
        view = view[:READ_BYTES_MAX]
        return self._receive(link, session, offset, view, sequential=sequential or len(view) == READ_BYTES_MAX)

    def _read_buffered(self, link: WorkerLink, session: Session, offset: int, view: memoryview, *, begin: int) -> int:
        """Take more than was asked for, from ``begin`` on, and keep it for the reads that follow."""
        buffer = bytearray(min(BUFFER_BYTES, self._boundary(begin) - begin, self.opened.inode.size - begin))
        count = self._receive(link, session, begin, memoryview(buffer), sequential=begin > 0)
        if begin + count <= offset:
            raise ConnectionLost(f"the worker sent {count} of {len(buffer)} bytes of {self.path}")
        self._buffered = (begin, bytes(memoryview(buffer)[:count]))
        part = memoryview(buffer)[offset - begin : min(offset - begin + len(view), count)]
        view[: len(part)] = part
        return len(part)

    def _receive(self, link: WorkerLink, session: Session, offset: int, view: memoryview, *, sequential: bool) -> int:
        """How many bytes came, at least one: of a worker that is lost in the middle those before, and the rest comes from where it is asked next."""
        cluster, inode = session.cluster, self.opened.inode
        block = block_of(offset, inode.layout)
        spread = bool(cluster.hot) and cluster.is_spread(inode.content, block, link)
        past_owner = cluster.is_past_owner(inode.content, block, link)
        request = ReadRequest(
            self.opened.capability, offset, len(view), self._read_type, sequential, 0, spread, past_owner
        )
        count = session.read_into(link, request, view, lambda: self.workers(session, offset))
        if not count:
            raise ConnectionLost(f"the worker sent nothing of {self.path}")
        return count

    def workers(self, session: Session, offset: int) -> list[WorkerLink]:
        """Whom to ask for the block at ``offset``, best first, as far as is known."""
        opened, inode = self.opened, self.opened.inode
        return session.cluster.known(inode.content, block_of(offset, inode.layout), opened.workers, opened.replicas)

    # ---- the content ----

    def _take(self, opened: Opened) -> None:
        """A small file's bytes may have come along."""
        self.opened = msgspec.structs.replace(opened, data=b"") if opened.data else opened
        self._buffered = (0, opened.data)
        self.hot.clear()
        self._renew_at_s = _renew_time(opened.expires_s)

    def _renew(self, session: Session, *, required: bool) -> bool:
        """Get a new capability; False: the content is retired. While masters are silent the old one serves on, unless ``required``."""
        before = self.opened
        with self._renewing:
            if self.opened is not before:
                return True
            try:
                timeout_s = None if required else RENEW_PATIENCE_S
                answer = session.ask(Method.RENEW, RenewRequest([before.capability]), RenewAnswer, timeout_s=timeout_s)
            except MonofsError:
                if required:
                    raise
                self._renew_at_s = time.monotonic() + RENEW_BEFORE_S / 4
                return True
            if not answer.capabilities or not answer.capabilities[0]:
                self._renew_at_s = float("inf")  # pages still cached can be read until the capability ends
                return False
            self.opened = msgspec.structs.replace(before, capability=answer.capabilities[0])
            self._renew_at_s = _renew_time(answer.expires_s)
            return True

    def _reopen(self) -> bool:
        """Once, before anything was told: take the content the path has now."""
        if self._reopened:
            return False
        self._reopened = True
        fresh = ReadOptions(sync_interval_s=0.0, load=self._options.load)
        opened = self._session().ask(Method.OPEN, OpenRequest(self.path, fresh, bytes_along(self._read_type)), Opened)
        check_readable(self.path, opened)
        if self._size_told and opened.inode.size != self.opened.inode.size:
            return False
        self._take(opened)
        return True


def bytes_along(read_type: str) -> int:
    """Up to what size a file that is cached may come with OPEN's answer, for a reader of this type."""
    return SMALL_FILE_BYTES if read_type in _FROM_CACHE else 0


def check_readable(path: str, opened: Opened) -> None:
    """Raise ``IsADirectory`` for one."""
    if opened.inode.kind == Kind.DIRECTORY:
        raise IsADirectory(f"{path} is a directory", path=path)


def _renew_time(expires_s: int) -> float:
    """When to renew what was issued just now. ``expires_s`` is by the master's clock: where ours differs, only its life counts."""
    left_s = expires_s - time.time()
    return time.monotonic() + (left_s if 0 < left_s <= LIFE_S else LIFE_S) - RENEW_BEFORE_S


_readers: weakref.WeakSet[Reader] = weakref.WeakSet()


def _after_fork() -> None:
    for reader in list(_readers):
        reader.after_fork()


os.register_at_fork(after_in_child=_after_fork)
