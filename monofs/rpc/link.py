"""A non-blocking stream socket on a reactor, with a queue of what waits to be sent: bytes, pieces of files, descriptors.

Own code instead of Twisted's transport, because answers of one read leave in one direct ``send`` (9 µs a request against
14.5), files go out by kernel copies and frames with descriptors keep their place. Invariants: what is written leaves in
order; nothing but the link closes its socket; ``lost`` is called exactly once.

Not here: frames (server.py, client.py).
"""

from __future__ import annotations

import array
import contextlib
import errno
import mmap
import os
import socket
from collections.abc import Sequence
from typing import Any

from monofs.model.errors import ConnectionLost, MonofsError
from monofs.rpc.tls import TlsMachine

READ_BYTES = 256 << 10
"""Most bytes of one read, but for the rest of a frame that is known to be longer."""
TURN_BYTES = 1 << 20
"""Most bytes one connection sends in one turn of the reactor, so that a fast reader does not keep others waiting."""
BUFFERS_MAX = 64
"""Buffers gathered in one sendmsg."""
COPY_BYTES = 64 << 10
"""Pieces of files up to this size are read and sent together with their frame: cheaper than two more system calls."""
MAP_BYTES = 256 << 10
"""The same where the choice is between copying and mapping: the page faults of a small mapping cost more than its copy."""
CROWD = 64
"""Links of one door that have more to send than the kernel takes at once: from here on each keeps little in it. Narrow for all would cost a lone quick reader a fifth more
of this side's processor time."""
NARROW_BYTES = 128 << 10
"""What such a link lets the kernel hold unsent; by itself it takes up to 4 MiB, which for a thousand readers is more memory than all TCP may have,
and then the kernel holds every reader back, the quick ones too."""
LINGER_S = 2.0
LINGER_BYTES = 4 << 20
"""A closing side reads and drops this much, this long, so that its last frame is not destroyed by a reset."""
_BUSY = (errno.EAGAIN, errno.ENOBUFS, errno.EINTR)


class _File:
    """A piece of a file that waits; owns its descriptor."""

    __slots__ = ("fd", "left", "offset")

    def __init__(self, fd: int, offset: int, left: int) -> None:
        self.fd, self.offset, self.left = fd, offset, left


class _Passed:
    """A frame with the descriptors it owns."""

    __slots__ = ("data", "fds")

    def __init__(self, data: bytes, fds: list[int]) -> None:
        self.data, self.fds = data, fds


class Flusher:
    """What the links of one door share: sends what handlers wrote outside of a read, once a turn of the reactor; and where bytes arrive.

    A read into ``space`` and a copy of what came cost 3 µs, whatever the size of the space; ``recv`` of so much 20 µs, most of it to map
    memory and give it back."""

    __slots__ = ("_links", "_reactor", "space", "waiting")

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._links: list[Link] = []
        self.waiting = 0
        """Links with a queue or with streams that wait for their next turn, each once."""
        self.space = memoryview(bytearray(READ_BYTES))

    def add(self, link: Link) -> None:
        """Flush ``link`` before the reactor waits again."""
        if not self._links:
            self._reactor.callLater(0, self._run)
        self._links.append(link)

    def _run(self) -> None:
        links, self._links = self._links, []
        for link in links:
            link.dirty = False
            link.flush()


class Link:
    """One connected socket. Subclasses say what to do with bytes in ``received``, ``drained`` and ``lost``.

    ``out`` gathers small frames: append, then :meth:`soon`. ``map_files``: send pieces of files from mapped memory (faster
    on loopback TCP) instead of sendfile. ``tls``: everything leaves encrypted, so nothing leaves uncopied; the queue then holds
    ciphertext, and what is written before TLS stands waits in ``out``.
    """

    # thousands of idle connections: a list is 56 bytes where a deque is 760
    __slots__ = (
        "__weakref__",
        "_closing",
        "_fd",
        "_flusher",
        "_full",
        "_linger",
        "_lingered",
        "_low_bytes",
        "_map_files",
        "_narrow",
        "_queue",
        "_reading",
        "_waits",
        "closed",
        "dirty",
        "into",
        "memory_bytes",
        "missing_bytes",
        "out",
        "queued_bytes",
        "reactor",
        "sock",
        "tls",
        "turn_bytes",
    )

    def __init__(
        self,
        reactor: Any,
        flusher: Flusher,
        sock: socket.socket,
        *,
        map_files: bool,
        low_bytes: int,
        tls: TlsMachine | None = None,
    ) -> None:
        sock.setblocking(False)
        self.reactor = reactor
        self.sock = sock
        self.tls = tls
        self.out = bytearray()
        self.queued_bytes = 0
        """Bytes that did not fit into the socket's buffer; ``out`` not included."""
        self.memory_bytes = 0
        """Those of them that are in memory, not in files."""
        self.turn_bytes = 0
        """Bytes streams sent directly in this turn of the reactor."""
        self.missing_bytes = 0
        """What a frame that has begun still lacks: so much may be read at once."""
        self.into: memoryview | None = None
        """Where the next read goes; ``received`` then gets a view of it. For one read."""
        self.dirty = False
        self.closed = False
        self._closing = False
        self._linger = True
        self._reading = False
        self._full = self._narrow = False
        self._waits = 0
        self._flusher = flusher
        self._fd = sock.fileno()
        self._queue: list[memoryview | _File | _Passed] = []
        self._map_files = map_files
        self._low_bytes = low_bytes
        self._lingered = 0

    # ---- what subclasses answer ----

    def received(self, data: bytes) -> None:
        """Bytes came."""
        raise NotImplementedError

    def drained(self) -> None:
        """The queue has room again."""

    def reached_end(self) -> None:
        """The other side says no more; whether it still listens depends on the protocol."""
        self.abort(None)

    def memory_changed(self) -> None:
        """``memory_bytes`` changed; closing this link here is allowed."""

    def tls_failed(self, error: MonofsError, data: bytes) -> None:  # noqa: ARG002 - for who looks at the bytes that came
        """The other side's ``data`` is not TLS as this side speaks it."""
        self._send_encrypted()
        self.abort(error)

    def lost(self, error: MonofsError | None) -> None:
        """The socket is closed; ``error`` None: by this side, or orderly by the other."""

    # ---- sending ----

    def soon(self) -> None:
        """Flush ``out`` before the reactor waits again: now if this is a read, which flushes at its end."""
        if not self.dirty:
            self.dirty = True
            self._flusher.add(self)

    def flush(self) -> bool:
        """Send ``out`` now, or queue what does not fit. False: the link is closed."""
        out = self.out
        if not out or self.closed:
            return not self.closed
        if self.tls is not None:
            return self._encrypt([]) if self.tls.is_open else True
        sent = 0
        if not self._queue:
            try:
                sent = self.sock.send(out)
            except OSError as error:
                if error.errno not in _BUSY:
                    self.abort(ConnectionLost(f"the connection broke: {error.strerror}"))
                    return False
            if sent == len(out):
                del out[:]
                return True
        self.out = bytearray()
        self._enqueue(memoryview(out)[sent:])
        return not self.closed

    def send_buffers(self, buffers: list[bytes | memoryview]) -> None:
        """Send without copying; the buffers may not change any more."""
        self._fit_crowd()
        if self.tls is not None:
            self._encrypt(buffers)
            return
        if not self.flush():
            return
        sent = 0
        if not self._queue:
            try:
                sent = self.sock.sendmsg(buffers)
                self.turn_bytes += sent
            except OSError as error:
                if error.errno not in _BUSY:
                    self.abort(ConnectionLost(f"the connection broke: {error.strerror}"))
                    return
        for buffer in buffers:
            size = len(buffer)
            if sent < size:
                self._enqueue(memoryview(buffer)[sent:])
            sent = max(0, sent - size)

    def queue_buffers(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Send behind ``out`` in a later turn without copying, where there is no TLS; the buffers may not change any more."""
        if self.tls is not None:
            self.out += b"".join(buffers)
            self.soon()
            return
        out, self.out = self.out, bytearray()
        for buffer in (out, *buffers):
            if buffer:
                self._enqueue(memoryview(buffer))

    def send_piece(self, header: bytes, fd: int, offset: int, length: int) -> None:
        """Send a frame whose body is a piece of a file."""
        try:
            if self.tls is not None or length <= (MAP_BYTES if self._map_files else COPY_BYTES):
                piece = os.pread(fd, length, offset)
                if len(piece) != length:
                    raise OSError(errno.EIO, "the file is shorter than it was")
                self.send_buffers([header, piece])
                return
            if self._map_files:
                start = offset - offset % mmap.ALLOCATIONGRANULARITY
                mapped = mmap.mmap(fd, length + offset - start, mmap.MAP_SHARED, mmap.PROT_READ, offset=start)
                self.send_buffers([header, memoryview(mapped)[offset - start :]])
                return
        except (OSError, ValueError) as error:
            self.abort(ConnectionLost(f"a cached file could not be sent: {error}"))
            return
        self._send_by_kernel(header, fd, offset, length)

    def _send_by_kernel(self, header: bytes, fd: int, offset: int, length: int) -> None:
        """sendfile, at once as far as the socket takes it, the rest from a duplicate of the descriptor."""
        self._fit_crowd()
        if not self.flush():
            return
        sent = 0
        try:
            if header and not self._queue:
                sent = self.sock.send(header, socket.MSG_MORE)
            if sent == len(header) and not self._queue:
                done = os.sendfile(self._fd, fd, offset, min(length, TURN_BYTES))
                offset, length = offset + done, length - done
                self.turn_bytes += done
        except OSError as error:
            if error.errno not in _BUSY:
                self.abort(ConnectionLost(f"a cached file could not be sent: {error.strerror}"))
                return
        if sent < len(header):
            self._enqueue(memoryview(header)[sent:])
        if length and not self.closed:
            self.queued_bytes += length
            self._queue.append(_File(os.dup(fd), offset, length))
            self._await_room()

    # ---- under TLS

    def begin_tls(self) -> None:
        """The client's side: say the first word."""
        if self.tls is not None:
            self.tls.begin()
            self._send_encrypted()

    def _encrypt(self, buffers: list[bytes | memoryview]) -> bool:
        """Send ``out`` and then ``buffers``. False: the link is closed."""
        tls = self.tls
        if tls is None or self.closed:
            return not self.closed
        out, self.out = self.out, bytearray()
        try:
            for buffer in (out, *buffers):
                tls.encrypt(buffer)
        except MonofsError as error:
            self.abort(error)
            return False
        self.turn_bytes += sum(map(len, buffers))
        return self._send_encrypted()

    def _send_encrypted(self) -> bool:
        """Send what TLS has for the other side. False: the link is closed."""
        data = b"" if self.tls is None or self.closed else self.tls.to_send()
        if not data:
            return not self.closed
        sent = 0
        if not self._queue:
            try:
                sent = self.sock.send(data)
            except OSError as error:
                if error.errno not in _BUSY:
                    self.abort(ConnectionLost(f"the connection broke: {error.strerror}"))
                    return False
        if sent < len(data):
            self._enqueue(memoryview(data)[sent:])
        return not self.closed

    def _decrypt(self, tls: TlsMachine, data: bytes) -> bytes:
        """What was said; empty when nothing was, or the link is closed."""
        pieces: list[bytes] = []
        try:
            was_open = tls.is_open
            tls.feed(data)
            while tls.is_open and (piece := tls.read(READ_BYTES)):
                pieces.append(piece)
        except MonofsError as error:
            self.tls_failed(error, data)
            return b""
        if self._send_encrypted() and tls.is_open and not was_open:
            self.flush()
        return b"".join(pieces)

    def send_descriptors(self, data: bytes, fds: list[int]) -> None:
        """Send a frame that owns descriptors: with one sendmsg of its own, only when nothing waits before it."""
        if not self.flush():
            return
        if not self._queue:
            passed = self._pass(data, fds)
            if passed is None:
                return
            if passed:
                if passed < len(data):
                    self._enqueue(memoryview(data)[passed:])
                return
        self.queued_bytes += len(data)
        self.memory_bytes += len(data)
        self._queue.append(_Passed(data, [os.dup(fd) for fd in fds]))
        self._await_room()
        self.memory_changed()

    def _pass(self, data: bytes, fds: list[int]) -> int | None:
        """Bytes sent, 0 when the socket is full; None: the link was aborted. Descriptors leave with the first byte."""
        try:
            return self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        except OSError as error:
            if error.errno in _BUSY:
                return 0
            self.abort(ConnectionLost(f"the connection broke: {error.strerror}"))
            return None

    def _enqueue(self, view: memoryview) -> None:
        if self.closed:
            return
        self.queued_bytes += len(view)
        self._queue.append(view)
        self._await_room()
        if type(view.obj) is not mmap.mmap:
            self.memory_bytes += len(view)
            self.memory_changed()

    def _await_room(self) -> None:
        """Something waits: send it when the socket takes more."""
        if self._full:
            return
        self._full = True
        self._begin_wait()
        self.reactor.addWriter(self)

    def _fit_crowd(self) -> None:
        """Before much is sent: let the kernel hold little of it while many readers are slow, as much as it likes otherwise."""
        narrow = self._flusher.waiting >= CROWD
        if narrow != self._narrow:
            self._narrow = narrow
            with contextlib.suppress(OSError):  # a Unix socket holds no copies
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NARROW_BYTES if narrow else 0)

    def _await_nothing(self) -> None:
        self.reactor.removeWriter(self)
        if self._full:
            self._full = False
            self._end_wait()

    def _begin_wait(self) -> None:
        """For the queue, and for each stream that waits for its next turn: however many, this link counts once."""
        self._waits += 1
        if self._waits == 1:
            self._flusher.waiting += 1

    def _end_wait(self) -> None:
        self._waits -= 1
        if not self._waits:
            self._flusher.waiting -= 1

    # ---- the reactor's side ----

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self._fd

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        """For Twisted's log."""
        return "monofs.rpc"

    def start_reading(self) -> None:
        """Take bytes as they come."""
        if not self._reading and not self.closed:
            self._reading = True
            self.reactor.addReader(self)

    def stop_reading(self) -> None:
        """Leave further bytes to the kernel: the other side's sends will block."""
        if self._reading:
            self._reading = False
            self.reactor.removeReader(self)

    def doRead(self) -> None:  # noqa: N802 - Twisted's name
        """The socket has bytes or was closed by the other side."""
        try:
            data: Any  # a view of `into` only for who set it
            if self.into is not None:
                into, self.into = self.into, None
                data = into[: self.sock.recv_into(into)]
            elif self.missing_bytes > READ_BYTES:
                data = self.sock.recv(self.missing_bytes)
            else:
                space = self._flusher.space
                data = bytes(space[: self.sock.recv_into(space)])
        except OSError as error:
            if error.errno not in _BUSY:
                self.abort(ConnectionLost(f"the connection broke: {error.strerror}"))
            return
        if not data:
            self.reached_end()
        elif self._closing:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.abort(None)
        else:
            if self.tls is not None:
                data = self._decrypt(self.tls, data)
                if not data or self.closed:
                    return
            # frames written meanwhile wait for the one send below
            self.dirty = True
            try:
                self.received(data)
            finally:
                self.dirty = False
            self.flush()

    def doWrite(self) -> None:  # noqa: N802 - Twisted's name
        """The socket takes bytes."""
        self.turn_bytes = 0
        budget = TURN_BYTES
        try:
            while self._queue and budget > 0:
                sent = self._send_first(budget)
                if not sent:
                    break
                budget -= sent
        except OSError as error:
            if error.errno not in _BUSY:
                self.abort(ConnectionLost(f"the connection broke: {error.strerror}"))
                return
        if self.closed:
            return
        self.memory_changed()
        if not self._queue:
            self._await_nothing()
            self.flush()
            if self._closing and not self._queue:
                self._half_close()
        if self.queued_bytes <= self._low_bytes and not self._closing and not self.closed:
            self.drained()

    def _send_first(self, budget: int) -> int:
        """Send from the head of the queue; returns the bytes that left."""
        first = self._queue[0]
        if type(first) is _File:
            sent = os.sendfile(self._fd, first.fd, first.offset, min(first.left, budget))
            if not sent:
                raise OSError(errno.EIO, "a cached file is shorter than it was")
            first.offset, first.left = first.offset + sent, first.left - sent
            if not first.left:
                os.close(first.fd)
                del self._queue[0]
        elif type(first) is _Passed:
            sent = self._pass(first.data, first.fds) or 0
            if sent:
                for fd in first.fds:
                    os.close(fd)
                self._queue[:1] = [memoryview(first.data)[sent:]] if sent < len(first.data) else []
                self.memory_bytes -= sent
        else:
            sent = self._send_views(budget)
        self.queued_bytes -= sent
        return sent

    def _send_views(self, budget: int) -> int:
        views: list[memoryview] = []
        size = 0
        for view in self._queue:
            if type(view) is not memoryview or size >= budget or len(views) == BUFFERS_MAX:
                break
            views.append(view)
            size += len(view)
        last = views[-1]
        sent = left = self.sock.sendmsg([*views[:-1], last[: len(last) - max(0, size - budget)]])
        gone = 0
        for view in views:
            taken = min(left, len(view))
            if type(view.obj) is not mmap.mmap:
                self.memory_bytes -= taken
            if taken < len(view):
                self._queue[gone] = view[taken:]
                break
            left -= taken
            gone += 1
        del self._queue[:gone]
        return sent

    # ---- the end ----

    def close(self, *, linger: bool = True, patient: bool = False) -> None:
        """Send what is queued, then close; at most 2 s, or ``patient``: as long as the other side takes bytes, which the caller watches.

        ``linger``: tell the other side first and drop what it still says, so that it certainly gets the last frame.
        """
        if self.closed or self._closing or not self.flush():
            return
        self._closing, self._linger = True, linger
        if not patient:
            self.reactor.callLater(LINGER_S, self.abort, None)
        if linger:
            self.start_reading()
        else:
            self.stop_reading()
        if not self._queue:
            self._half_close()

    def _half_close(self) -> None:
        if not self._linger:
            self.abort(None)
            return
        self.reactor.callLater(LINGER_S, self.abort, None)
        self.start_reading()
        with contextlib.suppress(OSError):  # the other side may be gone already
            if self.tls is not None:
                self.tls.say_goodbye()
                self.sock.send(self.tls.to_send())
            self.sock.shutdown(socket.SHUT_WR)

    def connectionLost(self, reason: Any) -> None:  # noqa: ARG002, N802 - Twisted's name and argument
        """The reactor found the socket dead."""
        self.abort(ConnectionLost("the connection broke"))

    def abort(self, error: MonofsError | None) -> None:
        """Close at once and drop what is queued."""
        if self.closed:
            return
        self.closed = True
        self.reactor.removeReader(self)
        self._await_nothing()
        self._fd = -1
        self.sock.close()
        for waiting in self._queue:
            for fd in [waiting.fd] if type(waiting) is _File else waiting.fds if type(waiting) is _Passed else ():
                os.close(fd)
        self._queue.clear()
        self.queued_bytes = self.memory_bytes = 0
        self.memory_changed()
        self.lost(error)
