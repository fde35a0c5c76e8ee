"""Files that come in from browsers, piece by piece, each piece one bounded request.

Invariant: nothing is visible under the path before the upload ends, and then all of it (client/writer.py); a piece counts once however often it is sent; whoever began an upload alone continues it; one that is not continued for
``IDLE_S`` is given up; at most ``EACH_MAX`` of a viewer and ``ALL_MAX`` in all are under way. Not here: HTTP.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from monofs.model.errors import ConditionFailed, InvalidArgument, NotFound, Overloaded
from monofs.model.principal import Right
from monofs.web.cluster_api import Done
from monofs.web.files_api import Entry, entry_of
from monofs.web.routes import Parameter, Routes
from monofs.web.viewers import Viewer

EACH_MAX, ALL_MAX = 4, 32
IDLE_S = 120.0
PIECE_MAX_BYTES = 1 << 20


class UploadBegin(msgspec.Struct, forbid_unknown_fields=True):
    """``replace``: a file that has the path goes once the new one is whole."""

    path: str
    replace: bool = False


class Upload(msgspec.Struct):
    """``received``: bytes so far; the next piece begins there."""

    id: str
    path: str
    received: int = 0
    piece_max_bytes: int = PIECE_MAX_BYTES


@dataclass(slots=True)
class _Coming:
    viewer: str
    told: Upload
    writer: Any
    touched_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class Uploads:
    """All that are under way. Every method may block, but :meth:`has_idle` and :meth:`path_of`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._coming: dict[str, _Coming] = {}

    def upload_begin(self, viewer: Viewer, body: UploadBegin) -> Upload:
        """Begin an upload: send pieces in order with PUT, then POST its end."""
        with self._lock:
            if sum(each.viewer == viewer.id for each in self._coming.values()) >= EACH_MAX:
                raise Overloaded(f"{EACH_MAX} uploads of yours are under way: wait for one to end")
            if len(self._coming) >= ALL_MAX:
                raise Overloaded("too many uploads are under way: try again shortly")
            told = Upload(secrets.token_urlsafe(16), body.path)
            coming = _Coming(viewer.id, told, None, self._clock())
            self._coming[told.id] = coming
        try:
            coming.writer = viewer.fs.writer(body.path, exclusive=not body.replace)
        except BaseException:
            self._forget(told.id)
            raise
        return told

    def upload_take(self, viewer: Viewer, id: str, offset: int, body: bytes) -> Upload:
        """Send a piece of at most 1 MiB, which begins at this offset; one that was received already counts once."""
        coming = self._of(viewer, id)
        with coming.lock:
            told = coming.told
            if offset + len(body) <= told.received:
                return told
            if offset != told.received:
                raise ConditionFailed(f"this upload has {told.received} bytes: go on from there, not from {offset}")
            if not body:
                raise InvalidArgument("a piece has at least one byte")
            try:
                coming.writer.write(body)
            except BaseException:
                self._forget(id)
                raise
            told.received += len(body)
            coming.touched_s = self._clock()
            return told

    def upload_end(self, viewer: Viewer, id: str, size: int) -> Entry:
        """End an upload: the file is there, whole, if it has this size; else it stays under way."""
        coming = self._of(viewer, id)
        with coming.lock:
            if coming.told.received != size:
                raise ConditionFailed(f"this upload has {coming.told.received} bytes, not {size}: send the rest")
            self._forget(id)
            return entry_of(coming.writer.close())

    def upload_abort(self, viewer: Viewer, id: str) -> Done:
        """Give an upload up; the path stays as it was."""
        coming = self._of(viewer, id)
        self._forget(id)
        with coming.lock:
            coming.writer.abort()
        return Done()

    def path_of(self, id: str) -> str:
        """Where an upload goes; '': there is no such upload."""
        coming = self._coming.get(id)
        return coming.told.path if coming is not None else ""

    def has_idle(self) -> bool:
        """Whether :meth:`sweep` has something to do."""
        return any(self._is_idle(each) for each in list(self._coming.values()))

    def sweep(self) -> None:
        """Give up those nobody continues."""
        for id, coming in list(self._coming.items()):
            if self._is_idle(coming) and coming.lock.acquire(blocking=False):
                try:
                    self._forget(id)
                    coming.writer.abort()
                finally:
                    coming.lock.release()

    def close(self) -> None:
        """Give all up."""
        for id, coming in list(self._coming.items()):
            self._forget(id)
            if coming.writer is not None:
                coming.writer.abort()

    def _is_idle(self, coming: _Coming) -> bool:
        return coming.writer is not None and self._clock() - coming.touched_s > IDLE_S

    def _of(self, viewer: Viewer, id: str) -> _Coming:
        coming = self._coming.get(id)
        if coming is None or coming.viewer != viewer.id or coming.writer is None:
            raise NotFound("there is no such upload (any more): begin anew")
        return coming

    def _forget(self, id: str) -> None:
        with self._lock:
            self._coming.pop(id, None)

    def add_routes(self, routes: Routes) -> None:
        """All of the above."""
        id, write = Parameter("id", "Of the upload."), Right.WRITE
        offset = Parameter("offset", "Where the piece begins.", "integer")
        size = Parameter("size", "Bytes of the whole.", "integer")
        routes.add("POST", "/uploads", self.upload_begin, write, Upload, body=UploadBegin, asks="store")
        routes.add("PUT", "/uploads/{id}", self.upload_take, write, Upload, id, offset, body=bytes, asks="store")
        routes.add("POST", "/uploads/{id}/end", self.upload_end, write, Entry, id, size, asks="store")
        routes.add("DELETE", "/uploads/{id}", self.upload_abort, write, Done, id, asks="store")
