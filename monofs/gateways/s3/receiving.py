"""The body of a request as an action takes it: page by page, hashed in threads meanwhile, the last one only once all that was said of it is true.

Bytes are read from the socket to their place in a page, which is hashed and written from there. Invariant: who publishes with the last page publishes what
the client sent; what waits here is bounded, of one body (``HELD_BYTES``) and of all together (``ALL_BYTES``), then clients wait. Not here: what the
claims are (``incoming``), the threads (``hashing``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakSet

from twisted.internet.defer import Deferred

from monofs.gateways.s3.asking import Asked
from monofs.gateways.s3.checksums import Claim, show
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.hashing import Hashing
from monofs.gateways.s3.incoming import Incoming, Received, Update

PIECE_BYTES = 1 << 20
HELD_BYTES = 4 << 20
LEAST_HELD_BYTES = 64 << 10
ALL_BYTES = 256 << 20
"""Of all bodies of this process: the more there are, the less each may hold."""
INLINE_BYTES = 32 << 10
"""A body up to this size is hashed at once: that costs less than a thread's wake-up."""
USED_PAGES = 24
"""Whole pages that are kept for the next body."""
UNHASHED = 4
"""Pages an action may have that are not hashed yet."""
PLAIN_BYTES = 64 << 10
"""Where at least so much of nothing but data comes next, or all the rest is, it is read to its place in a page."""
BODY_MAX_BYTES = 5 << 30
"""Of one PUT or part (API Reference, PutObject)."""


_under_way: WeakSet[Receiving] = WeakSet()
_used_pages: deque[bytearray] = deque()
_NO_PAGE = memoryview(b"")


class Decoding(Protocol):
    """What :class:`Incoming` is of a body."""

    @property
    def length(self) -> int: ...

    @property
    def claim(self) -> Claim | None: ...

    @property
    def plain_bytes(self) -> int: ...

    @property
    def hashes(self) -> Sequence[Update]: ...

    def decode(self, data: bytes | memoryview) -> list[memoryview]: ...

    def finish(self) -> Received: ...


class Receiving:
    """One body. Reactor thread only."""

    def __init__(
        self,
        asked: Asked,
        reactor: Any,
        *,
        most_bytes: int = BODY_MAX_BYTES,
        headers: Mapping[str, str] | None = None,
        incoming: Decoding | None = None,
    ) -> None:
        """``headers``: of the request, those that speak of its body; ``incoming``: what it is, where they do not tell. Raises ``S3Error`` for what they
        claim of it."""
        if incoming is None:
            if asked.signed is None:
                raise S3Error("AccessDenied", "This request is not signed.")
            incoming = Incoming(asked.headers if headers is None else headers, asked.signed, most_bytes)
        self._incoming = incoming
        self._exchange, self._reactor = asked.exchange, reactor
        self._page = _NO_PAGE
        self._filled = 0
        self._pages: deque[memoryview] = deque()
        """Those before it that nobody took yet."""
        self._held = self._taken = 0
        """Bytes here, and bytes that were taken."""
        self._ended = False
        self._error: Exception | None = None
        self._waiting: Deferred[None] | None = None
        self._hashing: Hashing | None = None
        """Once there is something to hash."""
        self._received: Received | None = None

    @property
    def size(self) -> int:
        """Bytes of it, as announced."""
        return self._incoming.length

    @property
    def claim(self) -> Claim | None:
        """The checksum that is claimed for it, its value perhaps not known yet."""
        return self._incoming.claim

    @property
    def etag(self) -> str:
        """The MD5 of the body, once the last piece was handed out."""
        return "" if self._received is None else self._received.md5.hex()

    @property
    def checksum(self) -> tuple[str, str] | None:
        """Name of the algorithm and value of the checksum that was claimed, once it was found right."""
        if self._received is None or self._incoming.claim is None:
            return None
        algorithm, value = self._received.checksum
        return algorithm.name, show(value or b"")

    def begin(self) -> None:
        """Have the client send. One that is gone already is told of by :meth:`read`."""
        if self._exchange.closed:
            self._gone()
        _under_way.add(self)
        self._exchange.on_gone(self._gone)
        self._exchange.receive(self._take, self._end, self._plain_space)

    async def read(self) -> tuple[memoryview, bool]:
        """The next bytes, a MiB but at the end and where very many bodies come, and whether they are the last. Raises ``S3Error`` when the body is not
        what it was said to be."""
        while self._error is None and not (self._ended or self._is_more_to_come()):
            await self._news()
        while self._error is None and self._unhashed > len(self._pages) + UNHASHED:
            await self._news()
        if self._error is None and self._ended and self._filled:
            self._turn_page()  # the body is too short
        page = self._pages.popleft() if self._pages else memoryview(b"")
        self._held -= len(page)
        self._taken += len(page)
        if self._held <= self._room // 2:
            self._exchange.resume()
        if self._error is None and self._ended and not self._held:
            while self._error is None and self._unhashed:
                await self._news()
            if self._error is None:
                self._received = self._incoming.finish()
        if self._error is not None:
            raise self._error
        return page, self._received is not None

    def _is_more_to_come(self) -> bool:
        """Whether there is a page that is not the last one."""
        return bool(self._pages) and self._taken + len(self._pages[0]) < self.size

    @property
    def _unhashed(self) -> int:
        """Pages, those that were taken included."""
        return 0 if self._hashing is None else self._hashing.behind

    async def _news(self) -> None:
        self._waiting = Deferred()
        await self._waiting

    @property
    def _room(self) -> int:
        """What this body may hold now."""
        return max(LEAST_HELD_BYTES, min(HELD_BYTES, ALL_BYTES // max(1, len(_under_way))))

    def stop(self) -> None:
        """Nothing more is wanted of it."""
        self._fail(S3Error("RequestTimeout"))
        self._pages.clear()
        if self._hashing is not None:
            self._hashing.stop()
        self._page, self._filled = _NO_PAGE, 0
        _under_way.discard(self)

    # ---- what comes ----

    def _take(self, data: memoryview) -> None:
        if self._error is not None:
            return
        try:
            for piece in self._incoming.decode(data):
                self._put(piece)
            if self._held > self._room and self._taken + self._held < self.size:
                self._exchange.pause()
                if self._filled:  # so that all there is can be taken, however small a part of a page it is
                    self._turn_page()
        except S3Error as error:
            self._fail(error)
        if self._pages:
            self._wake()

    def _plain_space(self) -> memoryview | None:
        """Where the next bytes are to be read to, if they are nothing but data."""
        plain = self._incoming.plain_bytes
        is_much = plain >= min(PLAIN_BYTES, self.size - self._taken - self._held)
        return self._space()[:plain] if plain and is_much else None

    def _space(self) -> memoryview:
        """Where the next bytes go."""
        if not self._page:
            size = min(PIECE_BYTES, self._room // 4, self.size - self._taken - self._held)
            self._page = memoryview(_new_page() if size == PIECE_BYTES else bytearray(size))
        return self._page[self._filled :]

    def _put(self, piece: memoryview) -> None:
        is_there, end = piece.obj is self._page.obj, self._filled + len(piece)
        if end < len(self._page) and not is_there:  # how very many tiny pieces come
            self._page[self._filled : end] = piece
            self._filled = end
            self._held += len(piece)
            return
        while piece:
            space = self._space()
            part = piece[: len(space)]
            if not is_there:
                space[: len(part)] = part
            self._filled += len(part)
            self._held += len(part)
            piece = piece[len(part) :]
            if self._filled == len(self._page):
                self._turn_page()

    def _turn_page(self) -> None:
        """It is full, or there is a use for what is in it. Raises ``S3Error`` of what is hashed at once."""
        page = self._page[: self._filled]
        self._page, self._filled = _NO_PAGE, 0
        self._pages.append(page)
        if self.size <= INLINE_BYTES:
            for update in self._incoming.hashes:
                update(page)
            return
        if self._hashing is None:
            self._hashing = Hashing(self._incoming.hashes, self._reactor, self._has_hashed, self._fail)
        self._hashing.take(page)

    def _has_hashed(self) -> None:
        """ANY thread."""
        if self._waiting is not None:
            self._reactor.callFromThread(self._wake)

    async def pieces(self) -> AsyncIterator[tuple[memoryview, bool]]:
        """All of it, each piece with whether it is the last."""
        is_last = False
        while not is_last:
            piece, is_last = await self.read()
            yield piece, is_last

    def _end(self) -> None:
        self._ended = True
        self._wake()

    def _gone(self) -> None:
        self._fail(S3Error("IncompleteBody", "The client is gone."))

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)


def _new_page() -> bytearray:
    """One of ``PIECE_BYTES``, used before if there is one that nobody looks at any more: fresh memory costs more than what is written to it."""
    for _ in range(len(_used_pages)):
        page = _used_pages.popleft()
        _used_pages.append(page)
        try:
            page.append(0)  # refused while there is a view of it, wherever that is
        except BufferError:
            continue
        page.pop()
        return page
    page = bytearray(PIECE_BYTES)
    if len(_used_pages) < USED_PAGES:
        _used_pages.append(page)
    return page


async def whole(asked: Asked, reactor: Any, most_bytes: int, *, headers: Mapping[str, str] | None = None) -> bytes:
    """A small body, a document, verified; empty where a request may do without. Raises ``S3Error``: EntityTooLarge, or as :class:`Receiving`."""
    if not asked.exchange.length and asked.exchange.length is not None:
        return b""
    receiving = Receiving(asked, reactor, most_bytes=most_bytes, headers=headers)
    receiving.begin()
    gathered = bytearray()
    last = False
    while not last:
        piece, last = await receiving.read()
        gathered += piece
    return bytes(gathered)
