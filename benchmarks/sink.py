"""An S3 server that keeps no bytes: it answers changes, remembers the names of what was put, and lists trees it makes up, as fast as one
process can.

    python benchmarks/sink.py [DELAY_MS]        # prints its endpoint, runs until its standard input ends

For benchmarks, so that what is measured is not the store. Bodies are read and dropped; conditions are kept, as AWS does. Below ``tree-<directories>x<files>/`` lie that many
directories of so many files each, which are there again after they were deleted. Every answer waits ``DELAY_MS`` after its request.
``sink()`` starts it as a process of its own.

Not here: signatures, errors; nothing that was written can be read back, and only single keys of it are listed.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import selectors
import socket
import subprocess
import sys
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

PAGE = 1000
_TREE = re.compile(r"(.*?)tree-(\d+)x(\d+)/(?:d(\d+)/)?(.*)$")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CONDITION = re.compile(rb"\r\nif-(none-)?match: *([^\r]*)", re.IGNORECASE)
_WHEN = "2026-01-02T03:04:05.678Z"
_WHEN_HTTP = "Fri, 02 Jan 2026 03:04:05 GMT"
_later: deque[tuple[float, Connection, bytes]] = deque()
"""Answers that wait for their time, the earliest first."""
_numbers = itertools.count(1)
_parts: dict[str, int] = {}
"""Bytes sent in parts so far, by key: one upload of a key at a time."""
_kept: dict[str, tuple[str, int]] = {}
"""ETag and size of each key that was put or completed, and not deleted one by one."""


@contextlib.contextmanager
def sink(delay_ms: float = 0) -> Iterator[str]:
    """Run it; yields its endpoint."""
    command = [sys.executable, __file__, str(delay_ms)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


class Connection:
    """One client's: requests one after another."""

    def __init__(self, channel: socket.socket, delay_s: float) -> None:
        self.channel = channel
        self.delay_s = delay_s
        self.head = b""
        self.left = 0
        """Bytes of the body still to come."""
        self.answer = b""
        self.body: list[bytes] | None = None

    def readable(self, scratch: memoryview) -> bool:
        """Take what came; False when the client is gone."""
        if self.left:
            count = self.channel.recv_into(scratch, min(self.left, len(scratch)))
            if self.body is not None:
                self.body.append(bytes(scratch[:count]))
            self.left -= count
            if count and not self.left:
                self._reply()
            return count > 0
        data = self.channel.recv(65536)
        self.head += data
        while (end := self.head.find(b"\r\n\r\n")) >= 0 and not self.left:
            head, rest = self.head[:end], self.head[end + 4 :]
            found = _LENGTH.search(head)
            length = int(found[1]) if found else 0
            self._begin(head, length)
            self.left = max(0, length - len(rest))
            if self.body is not None:
                self.body.append(rest[:length])
            self.head = rest[length:]
            if not self.left:
                self._reply()
        return bool(data)

    def _begin(self, head: bytes, length: int) -> None:
        line = head.split(b"\r\n", 1)[0].decode("latin-1")
        method, target, _ = line.split(" ", 2)
        path, _, query = target.partition("?")
        if length and b"100-continue" in head.lower():
            self.channel.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.body = [] if method == "POST" else None
        self.answer = answer(method, path, query, head, length)

    def _reply(self) -> None:
        if self.delay_s:
            _later.append((time.monotonic() + self.delay_s, self, self.answer))
        else:
            self.send(self.answer)

    def send(self, data: bytes) -> None:
        self.channel.setblocking(True)
        self.channel.sendall(data)
        self.channel.setblocking(False)


def answer(method: str, path: str, query: str, head: bytes, length: int) -> bytes:
    """What is said to a request."""
    words = parse_qs(query, keep_blank_values=True)
    key = unquote(path).lstrip("/").partition("/")[2]
    condition = _CONDITION.search(head)
    if (
        condition
        and method in ("PUT", "POST")
        and (key in _kept if condition[1] else not _is_version(key, condition[2]))
    ):
        return b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n"
    etag = f'"{next(_numbers):032x}"'
    if method == "PUT" and "uploadId" not in words:
        _kept[key] = (etag, length)
    if method == "PUT" and b"x-amz-copy-source" in head.lower():
        kind = "CopyPartResult" if "uploadId" in words else "CopyObjectResult"
        return reply(f"<{kind}><LastModified>{_WHEN}</LastModified><ETag>{etag}</ETag></{kind}>")
    if method == "PUT":
        if "uploadId" in words:
            _parts[key] = _parts.get(key, 0) + length
        return f"HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: 0\r\n\r\n".encode()
    if method == "POST" and "uploads" in words:
        return reply(
            f"<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>{escape(key)}</Key>"
            "<UploadId>upload</UploadId></InitiateMultipartUploadResult>"
        )
    if method == "POST" and "uploadId" in words:
        _kept[key] = (etag, _parts.pop(key, 0))
        return reply(
            f"<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>{escape(key)}</Key>"
            f"<ETag>{etag}</ETag></CompleteMultipartUploadResult>"
        )
    if method == "POST":
        return reply('<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></DeleteResult>')
    if method == "DELETE":
        _kept.pop(key, None)
        return b"HTTP/1.1 204 No Content\r\n\r\n"
    if method == "GET" and not key:
        return reply(listing(words))
    if method == "HEAD" and key in _kept:
        etag, size = _kept[key]
        return (
            f"HTTP/1.1 200 OK\r\nETag: {etag}\r\nLast-Modified: {_WHEN_HTTP}\r\nContent-Length: {size}\r\n\r\n"
        ).encode()
    return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def _is_version(key: str, asked: bytes) -> bool:
    return key in _kept and _kept[key][0].strip('"') == asked.decode("latin-1").strip().strip('"')


def reply(document: str) -> bytes:
    body = f'<?xml version="1.0" encoding="UTF-8"?>{document}'.encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def listing(words: dict[str, list[str]]) -> str:
    """One page of the tree that the prefix names; an empty one for any other."""

    def word(name: str) -> str:
        return words.get(name, [""])[0]

    prefix, delimiter = word("prefix"), word("delimiter")
    after = max(word("start-after"), word("continuation-token"))
    limit = min(PAGE, int(word("max-keys") or PAGE))
    found = _TREE.match(prefix)
    if not found and prefix in _kept:
        etag, size = _kept[prefix]
        return _page(prefix, limit, [_shown(prefix, etag, size)], [], "")
    keys: list[str] = []
    prefixes: list[str] = []
    more = False
    if found:
        base, directories, files, directory, rest = found.groups()
        top = f"{base}tree-{directories}x{files}/"
        if directory is None and delimiter:
            names = [f"{top}d{n:06d}/" for n in range(int(directories))]
            start = bisect_right(names, after)
            prefixes = [name for name in names[start : start + limit] if name.startswith(top + rest)]
            more = start + limit < len(names)
        else:
            total = int(files) if directory else int(directories) * int(files)
            offset = int(directory or 0) * int(files)
            start = _position(top, int(files), after) - offset if after > prefix else 0
            stop = min(total, start + limit)
            keys = [_key(top, int(files), offset + n) for n in range(max(0, start), stop)]
            more = stop < total
    elif delimiter and _TREE.match(prefix + "/"):
        prefixes = [prefix + "/"]
    last = (prefixes or keys or [""])[-1] if more else ""
    shown = [_shown(key, f'"{number:032x}"', 1000) for number, key in enumerate(keys)]
    return _page(prefix, limit, shown, prefixes, last)


def _page(prefix: str, limit: int, shown: list[str], prefixes: list[str], last: str) -> str:
    token = f"<NextContinuationToken>{last}</NextContinuationToken>" if last else ""
    return (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
        f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(shown) + len(prefixes)}</KeyCount><MaxKeys>{limit}</MaxKeys>"
        f"<EncodingType>url</EncodingType><IsTruncated>{'true' if last else 'false'}</IsTruncated>{token}"
        + "".join(shown)
        + "".join(f"<CommonPrefixes><Prefix>{each}</Prefix></CommonPrefixes>" for each in prefixes)
        + "</ListBucketResult>"
    )


def _shown(key: str, etag: str, size: int) -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>{_WHEN}</LastModified><ETag>{escape(etag, {chr(34): '&quot;'})}</ETag>"
        f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def _key(top: str, files: int, number: int) -> str:
    return f"{top}d{number // files:06d}/f{number % files:06d}"


def _position(top: str, files: int, after: str) -> int:
    """How many keys of the tree do not sort after ``after``."""
    found = re.match(r"d(\d{6})(?:/(?:f(\d{6})(.*))?)?", after.removeprefix(top))
    if not found:
        return 0
    directory, file, _ = found.groups()
    return int(directory) * files + (int(file) + 1 if file else 0)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    scratch = memoryview(bytearray(1 << 20))
    delay_s = float(sys.argv[1]) / 1e3 if len(sys.argv) > 1 else 0.0
    while True:
        while _later and _later[0][0] <= time.monotonic():
            _, connection, data = _later.popleft()
            with contextlib.suppress(OSError):  # the client is gone
                connection.send(data)
        for key, _ in selector.select(max(0.0, _later[0][0] - time.monotonic()) if _later else None):
            if key.fileobj is sys.stdin:
                return
            if key.data is None:
                channel, _ = listener.accept()
                channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(channel, selectors.EVENT_READ, Connection(channel, delay_s))
                continue
            try:
                alive = key.data.readable(scratch)
            except OSError:
                alive = False
            if not alive:
                selector.unregister(key.fileobj)
                key.data.channel.close()


if __name__ == "__main__":
    main()
