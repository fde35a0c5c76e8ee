"""What a bucket holds: listings, statuses, and exact bytes of one version.

There are no retries here: the caller sees each failure once.

Invariant: every GET carries ``If-Match`` with the etag asked for, and the answer's etag, range and length are checked before and
after its bytes are handed out.

A status is one LIST, not HEAD + LIST: the same request tells the object and the prefix, its etag and time are those listings
show, and it costs the store no more. Not supported: directory buckets (S3 Express), whose listings are unordered.
Not here: what changes a bucket (``s3``, ``s3_objects``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime

from monofs.model.errors import UfsBadBody, UfsChanged, UfsDenied, UfsNotFound
from monofs.model.paths import name_problem
from monofs.ufs.base import UfsEntry, UfsPage
from monofs.ufs.http_client import Answer
from monofs.ufs.observe import Observer, observed
from monofs.ufs.s3_errors import BeyondEnd
from monofs.ufs.s3_listing import Listed, ListPage, read_list_page, strong_etag
from monofs.ufs.s3_requests import S3Requests
from monofs.ufs.s3_settings import S3Settings

ODD_MAX = 100
STATUS_KEYS = 8
"""Keys a status asks for: names that sort between ``a`` and ``a/`` (``a-1``, ``a.txt``) may stand between the two answers."""
KEY_MAX_BYTES = 1024

_LAST = "\U0010ffff".encode()
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/([0-9]{1,19})")


class S3Reading:
    """The asking half of the store behind ``s3://``; thread-safe."""

    def __init__(self, settings: S3Settings, *, timeout_s: float = 30.0, observe: Observer | None = None) -> None:
        self._settings = settings
        self._prefix = settings.prefix
        self._observe = observe
        self._requests = S3Requests(settings, timeout_s)

    def close(self) -> None:
        """Close idle connections."""
        self._requests.close()

    def check(self) -> bool:
        """List the root, and read one byte of the first object found below it; one that is archived or just gone proves enough."""
        page = self._ask(self._prefix, "", max_keys=10)
        first = next((item for item in page.items if item.size), None)
        if first is None:
            return any(item.key != self._prefix for item in page.items)
        try:
            for _ in self.read(first.key[len(self._prefix) :], 0, 1, entry_of(first.key, first).fingerprint):
                pass
        except (UfsChanged, UfsNotFound):
            return True
        except UfsDenied as error:
            if error.detail.get("store_code") != "InvalidObjectState":
                raise
        return True

    def status(self, key: bytes) -> tuple[UfsEntry | None, UfsEntry | None]:
        """One LIST in nearly all cases; two when more than ``STATUS_KEYS`` names lie between ``key`` and ``key/``."""
        if not key:
            return None, UfsEntry(b"", True)
        full, directory = self._prefix + key, self._prefix + key + b"/"
        page = self._ask(full, "/", max_keys=STATUS_KEYS, kind="head")
        file = next((entry_of(key, item) for item in page.items if item.key == full and item.etag is not None), None)
        found = any(item.key == directory for item in page.items)
        if not found and page.cut and page.items[-1].key < directory:
            found = bool(self._ask(directory, "", max_keys=1, kind="head").items)
        return file, UfsEntry(key, True) if found else None

    def list(self, key: bytes, *, after: bytes = b"", limit: int = 1000) -> UfsPage:
        """A page of the keys below ``key/``; usually one request. A missing directory is an empty page."""
        below = self._prefix + key + b"/" if key else self._prefix
        start = _past(below + after) if after else b""
        marker: tuple[int, str, int] | None = None
        while True:
            # one more than wanted: the directory's own marker, or one already listed, may come again
            asked = min(limit + 1, self._settings.list_page) if self._settings.list_page > 1 else 2
            page = self._ask(below, "/", max_keys=asked, start_after=start)
            if key and not start:
                own = page.items[0] if page.items and page.items[0].key == below else None
                marker = (0, "", 0) if own is None else (own.mtime_ns, entry_of(key, own).fingerprint, own.size)
            shown = replace(self._page(page, below, after, limit), marker=marker)
            if shown.next is None or shown.entries or shown.odd:
                return shown
            last = _past(page.items[-1].key)
            if last <= start:
                raise UfsBadBody(f"the listing of {self._name(key)} does not go on")
            start = last

    def scan(self, key: bytes, *, after: bytes = b"", limit: int = 1000) -> UfsPage:
        """One request a page: the listing of a bucket is flat and in key order anyway. Markers tell all that files do."""
        below = self._prefix + key + b"/" if key else self._prefix
        asked = max(1, min(limit, self._settings.list_page))
        page = self._ask(below, "", max_keys=asked, start_after=below + after)  # not the directory's own marker
        entries: list[UfsEntry] = []
        for item in page.items:
            name = item.key[len(below) :]
            if name > after:
                entry = entry_of(name, item)
                entries.append(replace(entry, is_directory=True) if name.endswith(b"/") else entry)
        return UfsPage(entries, page.items[-1].key[len(below) :] if page.cut else None)

    def read(self, key: bytes, offset: int, length: int, fingerprint: str) -> Iterator[memoryview]:
        """Yield the range in the pieces it arrives in; see ``UnderStorage.read``."""
        if length <= 0:
            return
        name = self._name(key)
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        if fingerprint.startswith("e:"):
            headers["If-Match"] = f'"{fingerprint[2:]}"'
        with observed(self._observe, "get") as request:
            try:
                with self._requests.get(self._prefix + key, {}, headers, name, length) as answer:
                    left = self._check(answer, name, offset, length, fingerprint)
                    for piece in self._requests.body(answer, name, left):
                        request.bytes += len(piece)
                        left -= len(piece)
                        yield piece
                    if left:
                        raise UfsBadBody(f"{name}: the answer ended {left} bytes early")
            except BeyondEnd:
                self._check_beyond(key, offset, fingerprint)

    # ---- listing --------------------------------------------------------------------------------------------------------

    def _ask(
        self,
        prefix: bytes,
        delimiter: str,
        *,
        max_keys: int,
        start_after: bytes = b"",
        kind: str = "list",
    ) -> ListPage:
        query = {"prefix": prefix, "max-keys": str(max_keys).encode()}
        if delimiter:
            query["delimiter"] = delimiter.encode()
        if start_after:
            query["start-after"] = start_after
        what = f"{self._settings.uri} (listing)"
        with observed(self._observe, kind):
            page = read_list_page(self._requests.list(query, what))
            if any(not item.key.startswith(prefix) for item in page.items):
                raise UfsBadBody(f"{what}: the answer has keys of another prefix")
            return page

    def _page(self, page: ListPage, below: bytes, after: bytes, limit: int) -> UfsPage:
        """Sort one answer into names and odd keys; cut where either list is full."""
        entries: list[UfsEntry] = []
        odd: list[bytes] = []
        position = after
        for item in page.items:
            name = item.key[len(below) :]
            if name <= after:
                continue  # the directory's own marker, or a directory already listed
            if len(entries) >= limit or len(odd) >= ODD_MAX:
                return UfsPage(entries, position, odd)
            position = name
            bare = name[:-1] if item.etag is None else name
            if name_problem(bare):
                odd.append(item.key[len(self._prefix) :])
            else:
                entries.append(entry_of(bare, item))
        return UfsPage(entries, position if page.cut else None, odd)

    # ---- reading --------------------------------------------------------------------------------------------------------

    def _check(self, answer: Answer, name: str, offset: int, length: int, fingerprint: str) -> int:
        """The bytes to come, of that version and range. Raises ``UfsChanged`` or ``UfsBadBody``, before the first one."""
        headers = answer.headers
        match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        if answer.status != 206 or match is None:
            raise UfsBadBody(f"{name}: the store ignored the range asked for")
        start, total = int(match[1]), int(match[2])
        etag = strong_etag(headers.get("etag", ""))
        if fingerprint.startswith("e:"):
            same = etag == fingerprint[2:]
        else:
            same = fingerprint == _timed(total, _seconds(headers.get("last-modified")))
        if not same:
            raise UfsChanged(f"{name} changed in the store")
        if start != offset:
            raise UfsBadBody(f"{name}: the store answered with another range than asked for")
        return min(length, total - offset)

    def _name(self, key: bytes) -> str:
        """For messages."""
        return f"{self._settings.uri}/{key.decode('utf-8', 'backslashreplace')}"

    def _check_beyond(self, key: bytes, offset: int, fingerprint: str) -> None:
        """After a 416: raise unless the range lies beyond the end of that very version."""
        file, _ = self.status(key)
        if file is None:
            raise UfsNotFound(f"{self._name(key)} does not exist")
        if file.fingerprint != fingerprint or offset < file.size:
            raise UfsChanged(f"{self._name(key)} changed in the store")


def entry_of(name: bytes, item: Listed) -> UfsEntry:
    """What a listing shows, under ``name``."""
    if item.etag is None:
        return UfsEntry(name, True)
    return UfsEntry(name, False, item.size, item.mtime_ns, fingerprint_of(item.etag, item.size, item.mtime_ns))


def fingerprint_of(etag: str, size: int, mtime_ns: int) -> str:
    """``e:<etag>``, or size and time of an object without a strong etag."""
    return f"e:{etag}" if etag else _timed(size, mtime_ns // 1_000_000_000)


def _past(key: bytes) -> bytes:
    """What to start a listing after: ``key``, and if it is a directory everything inside it, where a key may be that long."""
    return key + _LAST if key.endswith(b"/") and len(key) + len(_LAST) <= KEY_MAX_BYTES else key


def _seconds(date: str | None) -> int:
    """Of a Last-Modified; 0 for what is none."""
    try:
        return int(parsedate_to_datetime(date or "").timestamp())
    except (ValueError, OverflowError):
        return 0


def _timed(size: int, modified_s: int) -> str:
    """Fingerprint of an object without a strong etag: what LIST and GET agree on, whole seconds."""
    return f"t:{size}:{modified_s * 1_000_000_000}:0:0"
