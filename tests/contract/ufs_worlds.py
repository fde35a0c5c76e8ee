"""The stores under contract, each as a world that hands out empty roots and changes them behind the store's back."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from itertools import count
from typing import Protocol
from urllib.parse import quote

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from monofs.model.paths import name_problem
from monofs.ufs.base import UfsEntry, UfsPage, UnderStorage
from monofs.ufs.registry import open_ufs

_roots = count(1)


class Root(Protocol):
    """An empty store, and a way around it."""

    store: UnderStorage

    def put(self, key: bytes, data: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...

    def leftovers(self) -> list[bytes]:
        """What unfinished acts left in the store: uploads, hidden files."""
        ...


class World(Protocol):
    """One kind of store."""

    has_prefixes: bool
    """Keys are flat: ``a`` beside ``a/b`` may exist, directories come and go with their keys."""
    is_atomic: bool
    """Of two conditional acts on one key at a time at most one is done."""

    def root(self) -> Root: ...

    def holds(self, key: bytes) -> bool: ...

    def close(self) -> None: ...


class LocalRoot:
    """A directory in a temporary place."""

    def __init__(self, directory: bytes) -> None:
        self.directory = directory
        self.store = open_ufs("file://" + quote(directory), {})

    def path(self, key: bytes) -> bytes:
        return os.path.join(self.directory, key)

    def put(self, key: bytes, data: bytes) -> None:
        path = self.path(key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        beside = self.directory + b".new"
        with open(beside, "wb") as file:
            file.write(data)
        os.rename(beside, path)

    def delete(self, key: bytes) -> None:
        os.unlink(self.path(key))

    def leftovers(self) -> list[bytes]:
        return [
            os.path.join(directory, name)
            for directory, directories, files in os.walk(self.directory)
            for name in directories + files
            if name.startswith(b".monofs-tmp-")
        ]


class LocalWorld:
    """Directories of this machine."""

    has_prefixes = False
    is_atomic = True

    def __init__(self) -> None:
        self._top = tempfile.mkdtemp(prefix="monofs-ufs-").encode()
        self._count = 0

    def root(self) -> LocalRoot:
        self._count += 1
        directory = os.path.join(self._top, b"r%d" % self._count)
        os.mkdir(directory)
        return LocalRoot(directory)

    def holds(self, key: bytes) -> bool:
        return all(part not in (b"", b".", b"..") and len(part) <= 255 for part in key.split(b"/")) and b"\0" not in key

    def close(self) -> None:
        shutil.rmtree(self._top)


class Refused(Exception):
    """An S3 server answered a request of ours with something else than success: status, method, key, body."""


class S3Root:
    """One prefix of a bucket."""

    def __init__(self, world: S3World, prefix: bytes) -> None:
        self._world, self._prefix = world, prefix
        self.uri = f"s3://{world.bucket}/{prefix.decode()}"
        self.store = open_ufs(self.uri, world.options, timeout_s=10)

    def full(self, key: bytes) -> bytes:
        """The key in the bucket."""
        return self._prefix + b"/" + key

    def put(self, key: bytes, data: bytes, headers: dict[str, str] | None = None) -> None:
        self._world.request("PUT", self.full(key), data, headers=headers)

    def headers(self, key: bytes) -> dict[str, str]:
        return self._world.headers(self.full(key))

    def delete(self, key: bytes) -> None:
        self._world.request("DELETE", self.full(key))

    def leftovers(self) -> list[bytes]:
        found = self._world.request("GET", b"", query="uploads=")
        return [
            key for key in re.findall(rb"<Upload>.*?<Key>([^<]*)</Key>", found) if key.startswith(self._prefix + b"/")
        ]


class S3World:
    """Prefixes of one bucket of an S3 server. Keys are sent byte for byte."""

    has_prefixes = True

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        refuses: Callable[[bytes], bool],
        *,
        is_atomic: bool = False,
    ) -> None:
        self.is_atomic = is_atomic
        self.bucket = "contract"
        self.endpoint = endpoint
        self.options = {"endpoint": endpoint, "access_key": access_key, "secret_key": secret_key}
        self._keys = ReadOnlyCredentials(access_key, secret_key, None)
        self._refuses = refuses
        self._pool = urllib3.PoolManager().connection_from_url(endpoint)
        self.request("PUT", b"")

    def root(self) -> S3Root:
        return S3Root(self, b"r%d" % next(_roots))

    def holds(self, key: bytes) -> bool:
        return not self._refuses(key)

    def request(
        self, method: str, key: bytes, data: bytes = b"", *, query: str = "", headers: dict[str, str] | None = None
    ) -> bytes:
        return self._ask(method, key, data, query, headers).data

    def headers(self, key: bytes) -> dict[str, str]:
        """What a HEAD tells, names in small letters."""
        return {name.lower(): value for name, value in self._ask("HEAD", key, b"", "", None).headers.items()}

    def _ask(
        self, method: str, key: bytes, data: bytes, query: str, headers: dict[str, str] | None
    ) -> urllib3.BaseHTTPResponse:
        target = f"/{self.bucket}" + ("/" + quote(key, safe="/-._~") if key else "") + (f"?{query}" if query else "")
        signed = AWSRequest(method, self.endpoint + target, data=data, headers=headers)
        S3SigV4Auth(self._keys, "s3", "us-east-1").add_auth(signed)
        answer = self._pool.urlopen(method, target, body=data, headers=dict(signed.headers.items()), retries=False)
        if answer.status not in (200, 204):
            raise Refused(answer.status, method, key, answer.data)
        return answer

    def close(self) -> None:
        self._pool.close()


def names(page: UfsPage) -> list[bytes]:
    """Sorting names of a page."""
    return [sorting_name(entry) for entry in page.entries]


def sorting_name(entry: UfsEntry) -> bytes:
    return entry.name + b"/" if entry.is_directory else entry.name


def whole_listing(store: UnderStorage, key: bytes = b"", limit: int = 1000) -> tuple[list[UfsEntry], list[bytes]]:
    """All entries and odd keys of a directory, page by page, with what a page promises checked on the way."""
    entries: list[UfsEntry] = []
    odd: list[bytes] = []
    after = b""
    while True:
        page = store.list(key, after=after, limit=limit)
        shown = names(page)
        assert len(shown) <= limit
        assert len(page.odd) <= 100
        assert shown == sorted(set(shown))
        assert all(name > after for name in shown)
        entries += page.entries
        odd += page.odd
        if page.next is None:
            return entries, odd
        assert page.next > after
        assert all(name <= page.next for name in shown)
        after = page.next


def model_listing(keys: set[bytes], directory: bytes) -> tuple[list[bytes], list[bytes]]:
    """What a listing of ``directory`` must give for these keys: sorting names, and odd keys (sorted)."""
    below = directory + b"/" if directory else b""
    shown: set[bytes] = set()
    odd: set[bytes] = set()
    for key in keys:
        if not key.startswith(below) or key == below:
            continue
        name, slash, _ = key[len(below) :].partition(b"/")
        if name_problem(name):
            odd.add(below + name + slash)
        else:
            shown.add(name + slash)
    return sorted(shown), sorted(odd)


def views(data: bytes, pieces: int = 1) -> list[memoryview]:
    """What an act takes: the bytes in so many views."""
    step = max(1, -(-len(data) // pieces))
    return [memoryview(data)[at : at + step] for at in range(0, len(data), step)]


def scan_all(store: UnderStorage, key: bytes = b"", limit: int = 1000, after: bytes = b"") -> list[bytes]:
    """Names of a whole scan, page by page."""
    found: list[bytes] = []
    while True:
        page = store.scan(key, after=after, limit=limit)
        assert len(page.entries) <= limit
        found += [entry.name for entry in page.entries]
        if page.next is None:
            return found
        assert page.next > after
        after = page.next


def read_all(store: UnderStorage, key: bytes, offset: int, length: int, fingerprint: str) -> bytes:
    return b"".join(store.read(key, offset, length, fingerprint))


def file_of(store: UnderStorage, key: bytes) -> UfsEntry:
    entry, _ = store.status(key)
    assert entry is not None
    return entry
