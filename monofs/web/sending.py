"""An answer that is a file, of the tree or made for the occasion: its pieces come from a thread, one at a time, as the connection takes them.

Invariants: memory is one piece and the connection's buffer, however slow the reader; one that takes nothing for ``STALLED_S`` is dropped, so that it holds nothing open for ever; the length is announced,
and what breaks in the middle breaks the connection: it is never taken for a whole file; what was opened is closed, however it ends. Not here: where pieces come from.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import Request

from monofs.model.errors import MonofsError
from monofs.observe.logs import logger

log = logger(__name__)

STALLED_S = 120.0
REMEMBERED = 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Sent:
    """A file as an answer. ``pieces(begin, end)`` gives these bytes of it; ``close`` is called once at the end, and both in threads. ``tag`` names the version of its bytes, which may then be asked for in part;
    '': it is sent whole. ``is_listed``: how far it is may be seen by administrators."""

    def __init__(
        self,
        name: str,
        total_bytes: int,
        pieces: Callable[[int, int], Iterator[Any]],
        *,
        content_type: str = "application/octet-stream",
        headers: Mapping[str, str] | None = None,
        tag: str = "",
        close: Callable[[], object] = lambda: None,
        is_listed: bool = False,
    ) -> None:
        self.name, self.total_bytes, self.pieces, self.close = name, total_bytes, pieces, close
        self.tag, self.is_listed = tag, is_listed
        self.headers = {"content-type": content_type, "content-disposition": disposition(name), **(headers or {})}


class Sending:
    """One on its way: the producer of its request."""

    def __init__(self, request: Request, sent: Sent, who: str, run: Callable[..., Deferred[Any]], reactor: Any) -> None:
        self._request: Any = request
        self._sent, self._run, self._reactor = sent, run, reactor
        self.who, self.name, self.total_bytes = who, sent.name, sent.total_bytes
        self.sent_bytes, self.state, self.began_ms = 0, "sending", int(time.time() * 1000)
        self._pieces: Iterator[Any] = iter(())
        self._is_paused = self._is_asking = False
        self._stalled: Any = None

    def begin(self) -> None:
        """Headers, then piece after piece."""
        request, sent = self._request, self._sent
        request.notifyFinish().addErrback(lambda _: self.stopProducing())
        for name, value in sent.headers.items():
            request.setHeader(name.encode(), value.encode())
        begin, end = self._part()
        self.total_bytes = end - begin
        request.setHeader(b"content-length", str(self.total_bytes).encode())
        if request.method == b"HEAD":
            self.total_bytes = 0
        if not self.total_bytes:
            request.write(b"")
            self._finish()
            return
        self._pieces = sent.pieces(begin, end)
        request.registerProducer(self, True)
        self._ask()

    def _part(self) -> tuple[int, int]:
        """What is asked for (RFC 9110, section 14); of several ranges at once, all of it."""
        request, sent = self._request, self._sent
        if not sent.tag:
            return 0, sent.total_bytes
        request.setHeader(b"etag", b'"%b"' % sent.tag.encode())
        request.setHeader(b"accept-ranges", b"bytes")
        wanted, known = request.getHeader(b"range"), request.getHeader(b"if-range")
        is_same = known is None or known == b'"%b"' % sent.tag.encode()
        part = read_range(wanted.decode("latin-1"), sent.total_bytes) if wanted and is_same else None
        if part is None:
            return 0, sent.total_bytes
        begin, end = part
        shown = f"{begin}-{end - 1}" if begin < end else "*"
        request.setResponseCode(206 if begin < end else 416)
        request.setHeader(b"content-range", f"bytes {shown}/{sent.total_bytes}".encode())
        return part

    def pauseProducing(self) -> None:
        """The connection takes no more now."""
        self._is_paused = True
        if self._stalled is None:
            self._stalled = self._reactor.callLater(STALLED_S, self._drop)

    def resumeProducing(self) -> None:
        """It does again."""
        self._is_paused = False
        self._forget_stall()
        self._ask()

    def stopProducing(self) -> None:
        """The reader has gone."""
        if self.state == "sending":
            self._end("given up by its reader")

    def shown(self, offset_s: float = 0.0) -> dict[str, Any]:
        """How far it is. ``offset_s``: of the cluster's clock from this node's."""
        names = ("who", "name", "state", "sent_bytes", "total_bytes")
        return {name: getattr(self, name) for name in names} | {"began_ms": self.began_ms + int(1000 * offset_s)}

    def _ask(self) -> None:
        if self._is_paused or self._is_asking or self.state != "sending":
            return
        self._is_asking = True
        self._run(next, self._pieces, None).addCallbacks(self._came, self._failed)

    def _came(self, piece: Any) -> None:
        self._is_asking = False
        if self.state != "sending":
            self._close()
        elif piece is not None:
            self.sent_bytes += len(piece)
            self._request.write(bytes(piece))
            self._ask()
        elif self.sent_bytes != self.total_bytes:
            self._break("broken: it ended before its length")
        else:
            self._request.unregisterProducer()
            self._finish()

    def _finish(self) -> None:
        self._end("sent")
        self._request.finish()

    def _failed(self, failure: Failure) -> None:
        self._is_asking = False
        error = failure.value
        if not isinstance(error, MonofsError | OSError):
            log.error("a file could not be sent", name=self.name, exception=error)
        if self.state == "sending":
            self._break(f"broken: {error.message if isinstance(error, MonofsError) else 'see the log of this node'}")
        else:
            self._close()

    def _drop(self) -> None:
        self._stalled = None
        if self.state == "sending":
            self._break("dropped: its reader took nothing any more")

    def _break(self, state: str) -> None:
        log.warning("a file was not sent to its end", name=self.name, who=self.who, reason=state)
        self._end(state)
        self._request.unregisterProducer()
        self._request.transport.abortConnection()

    def _end(self, state: str) -> None:
        self.state = state
        self._forget_stall()
        if not self._is_asking:
            self._close()

    def _forget_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _close(self) -> None:
        self._run(self._sent.close).addErrback(lambda _: None)


def read_range(text: str, size: int) -> tuple[int, int] | None:
    """The bytes ``[begin, end)`` that a Range header of one range asks for, within the file; empty when none of them are in it; None: it asks for something else, and is ignored."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    if last and int(last) < int(first):
        return None
    begin = min(int(first), size)
    return begin, min(int(last) + 1, size) if last else size


def disposition(name: str) -> str:
    """``Content-Disposition`` of an attachment of any name (RFC 6266, RFC 8187)."""
    plain = re.sub(r"[^A-Za-z0-9 ._()+-]", "_", name)[:150]
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
