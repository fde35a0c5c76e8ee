"""ListObjects, ListObjectsV2 and ListObjectVersions over the master's LIST_KEYS, and ListBuckets.

Invariant: pages of one listing tell each key that is there throughout exactly once, in S3's order, whatever comes and goes meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

from monofs.gateways.s3 import documents, keys
from monofs.gateways.s3.asking import Asked
from monofs.gateways.s3.errors import S3Error
from monofs.model.attributes import EMPTY_ETAG, etag_of
from monofs.model.inode import decode_inode
from monofs.model.paths import format_path
from monofs.model.principal import Right
from monofs.rpc.api import ListAnswer, ListKeysAnswer, ListKeysRequest, ListRequest, Method
from monofs.rpc.s3_keys import S3Keys

MOST = 1000
BUCKETS_MOST = 10_000
PAGES_MAX = 100
"""Pages of the master's in one of ours: a listing that meets very many empty directories ends early, and goes on with the next."""
BEYOND = "\U0010ffff"
"""Behind every other character: a common prefix and this is the position behind all that begins with it."""


class Listings:
    """The listings of one door."""

    def __init__(self, keys: S3Keys, anonymous: Sequence[str]) -> None:
        self._keys, self._anonymous = keys, {each.rstrip("/") for each in anonymous}

    async def objects(self, asked: Asked) -> None:
        """ListObjects."""
        marker = asked.request.query.get("marker", "")
        listing = await self._list(asked, marker)
        asked.answer(200, {}, documents.objects_document(listing, marker=marker))

    async def objects_v2(self, asked: Asked) -> None:
        """ListObjectsV2."""
        query = asked.request.query
        start, token = query.get("start-after", ""), query.get("continuation-token")
        listing = await self._list(asked, keys.read_token(token) if token else start)
        listing.next = keys.format_token(listing.next) if listing.next else ""
        fetches = query.get("fetch-owner", "").lower() == "true"
        body = documents.objects_v2_document(listing, start_after=start, token=token, fetch_owner=fetches)
        asked.answer(200, {}, body)

    async def versions(self, asked: Asked) -> None:
        """ListObjectVersions."""
        query = asked.request.query
        marker, version = query.get("key-marker", ""), query.get("version-id-marker", "")
        if version and not marker:
            raise S3Error(
                "InvalidArgument", "A version-id-marker needs a key-marker.", ArgumentName="version-id-marker"
            )
        listing = await self._list(asked, marker)
        asked.answer(200, {}, documents.versions_document(listing, key_marker=marker, version_marker=version))

    async def _list(self, asked: Asked, after: str) -> documents.Listing:
        asked.check_right(Right.READ)
        request = asked.request
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        asked.check_reach_below(prefix)
        most = request.number("max-keys", MOST, MOST)
        listing = documents.Listing(request.bucket, prefix, delimiter, most, request.url_encoded, asked.owner)
        if delimiter and after.startswith(prefix) and after.endswith(delimiter, len(prefix)):
            after += BEYOND  # a prefix that was told: all that begins with it was
        position: bytes | None = after.encode()
        entries: list[documents.Entry] = []
        prefixes: list[str] = []
        last = after
        is_root = not asked.bucket
        for _ in range(PAGES_MAX):
            wanted = most - len(entries) - len(prefixes)
            if position is None or not wanted:
                break
            page: ListKeysAnswer = await asked.ask(
                Method.LIST_KEYS,
                ListKeysRequest(format_path(asked.bucket), prefix.encode(), delimiter.encode(), position, wanted),
                ListKeysAnswer,
                60.0,
            )
            shown = (each for each in zip(page.keys, page.inodes, strict=True) if not (is_root and _is_own(each[0])))
            entries += [_entry(*each) for each in shown]
            prefixes += [each.decode() for each in page.prefixes if not (is_root and _is_own(each))]
            position = page.next
            if position is not None:
                last = _text(position)
        listing.entries, listing.prefixes = entries, prefixes
        if position is not None and most:
            told = [entries[-1].key] if entries else []
            told += prefixes[-1:]
            listing.next = max(told, key=str.encode) if told and len(entries) + len(prefixes) >= most else last
        return listing

    async def buckets(self, asked: Asked) -> None:
        """ListBuckets: the directories below the root, and aliases; to who signs nothing those that anybody may read."""
        asked.check_right(Right.READ)
        query = asked.request.query
        prefix, token = query.get("prefix", ""), query.get("continuation-token", "")
        most = asked.request.number("max-buckets", BUCKETS_MOST, BUCKETS_MOST)
        after = keys.read_token(token) if token else ""
        found: dict[str, int] = {}
        position: bytes | None = b"" if asked.signed or self._anonymous else None
        while position is not None:
            page: ListAnswer = await asked.ask(Method.LIST, ListRequest("/", position), ListAnswer)
            for name, raw in zip(page.names, page.inodes, strict=True):
                if name.endswith(b"/") and not name.startswith(b"."):
                    found[name[:-1].decode()] = decode_inode(raw).mtime_ns // 1_000_000_000
            position = page.next
        found |= {name: each.created_ns // 1_000_000_000 for name, each in self._keys.buckets.items()}
        names = [name for name in sorted(found, key=str.encode) if name.startswith(prefix) and name > after]
        names = [name for name in names if (asked.of(name, "").is_near() if asked.signed else name in self._anonymous)]
        more = keys.format_token(names[most - 1]) if len(names) > most > 0 else ""
        shown = [(name, found[name]) for name in names[:most]]
        asked.answer(200, {}, documents.buckets_document(asked.owner, shown, prefix=prefix, token=more))


def _entry(key: bytes, raw: bytes) -> documents.Entry:
    inode = decode_inode(raw)
    etag = inode.etag or EMPTY_ETAG if inode.is_directory else etag_of(inode)
    return documents.Entry(key.decode(), inode.size, etag, inode.mtime_ns // 1_000_000_000)


def _is_own(key: bytes) -> bool:
    return key.startswith(keys.UPLOADS + b"/")


def _text(position: bytes) -> str:
    """A position of the master's as one that a client can hold."""
    if position.endswith(b"\xff"):
        return position[:-1].decode() + BEYOND
    return position.decode()
