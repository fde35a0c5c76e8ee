"""The file form of a copy of the namespace database: a head, then chunks, each with its CRC (docs/formats/copy.md).

Invariant: a copy is taken whole or not at all: a byte changed, missing or added anywhere is found by the CRC of its chunk, the length or the
SHA-256 of everything. A transfer may break off and go on at any border between chunks. Pure but for :func:`read_copy`; LMDB is not known here.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable

import msgspec

from monofs.model.errors import CopyDamaged, InvalidArgument, NotSupported

COPY_VERSION = 1
CHUNK_BYTES = 1 << 20
HEAD_BYTES = 4096
MEMBERS_MAX_BYTES = 2048
"""Of a membership; the rest of the head is far below what is left."""
_MAGIC = b"monofsDB"
_FRONT = struct.Struct(">8sII")
"""Magic, version, length of the record."""
_CRC = struct.Struct(">I")
_CRC_BYTES = 4
_NUMBER = struct.Struct(">Q").pack


class CopyHead(msgspec.Struct, array_like=True, frozen=True):
    """What a copy is of. An array, only ever extended at its end."""

    index: int
    """Applied index: the copy is exactly the state after this entry."""
    term: int
    members: bytes
    cluster: bytes
    incarnation: int
    format: int
    """Of the namespace."""
    size_bytes: int
    """Of the database file, without heads and CRCs."""
    sha256: bytes
    """Of the database file."""
    crc: int
    """The running CRC of the state at ``index``."""
    inodes: int
    data_key: bytes
    capability_key: bytes
    """Both wrapped: whoever restores finds out with them, before anything is written, whether the cluster secret is the right one."""
    created_ns: int
    software: str

    @property
    def chunks(self) -> int:
        """How many follow the head."""
        return -(-self.size_bytes // CHUNK_BYTES)

    @property
    def total_bytes(self) -> int:
        """Length of the file form."""
        return HEAD_BYTES + self.size_bytes + self.chunks * _CRC_BYTES

    def border(self, offset: int) -> int:
        """The chunk that begins at byte ``offset`` of the file form; -1: the head does. Raises ``InvalidArgument``."""
        if offset == 0:
            return -1
        number, rest = divmod(offset - HEAD_BYTES, CHUNK_BYTES + _CRC_BYTES)
        if offset == self.total_bytes:
            return self.chunks
        if rest or not 0 <= number < self.chunks:
            raise InvalidArgument(f"byte {offset} is no border between chunks of this copy")
        return number

    def chunk_bytes(self, number: int) -> int:
        """Length of a chunk's data."""
        return min(CHUNK_BYTES, self.size_bytes - number * CHUNK_BYTES)


_decode_head = msgspec.msgpack.Decoder(CopyHead).decode


def pack_head(head: CopyHead) -> bytes:
    """The first ``HEAD_BYTES`` of the file form."""
    record = msgspec.msgpack.encode(head)
    front = _FRONT.pack(_MAGIC, COPY_VERSION, len(record)) + record
    if len(head.members) > MEMBERS_MAX_BYTES or len(front) > HEAD_BYTES - _CRC_BYTES:
        raise InvalidArgument(f"a membership of {len(head.members)} bytes does not fit into a copy")
    front = front.ljust(HEAD_BYTES - _CRC_BYTES, b"\0")
    return front + _CRC.pack(zlib.crc32(front))


def unpack_head(data: bytes | bytearray | memoryview, name: str) -> CopyHead:
    """Raises ``CopyDamaged``, ``NotSupported`` for a newer version; ``name`` is the file's, for messages."""
    data = bytes(data)
    magic, version, length = _FRONT.unpack_from(data.ljust(_FRONT.size, b"\0"))
    if magic != _MAGIC:
        raise CopyDamaged(f"{name} is no backup of monofs")
    if len(data) != HEAD_BYTES or _CRC.pack(zlib.crc32(data[:-_CRC_BYTES])) != data[-_CRC_BYTES:]:
        raise CopyDamaged(f"{name} is damaged or cut short within its head")
    if version > COPY_VERSION:
        raise NotSupported(f"{name} has format {version}, this release knows up to {COPY_VERSION}: use a newer monofs")
    try:
        return _decode_head(data[_FRONT.size : _FRONT.size + length])
    except msgspec.MsgspecError:
        raise CopyDamaged(f"the head of {name} cannot be decoded") from None


def pack_chunk(number: int, data: bytearray) -> bytearray:
    """A chunk of the file form; ``data`` has 4 bytes of room before the chunk's own, and is what is returned."""
    _CRC.pack_into(data, 0, zlib.crc32(memoryview(data)[_CRC_BYTES:], zlib.crc32(_NUMBER(number))))
    return data


class Checker:
    """Takes the chunks of one copy in order, and says whether they are what they were. Feed it what is to be kept."""

    def __init__(self, head: CopyHead, name: str) -> None:
        self.head, self._name = head, name
        self._number = 0
        self._sha = hashlib.sha256()

    def take(self, chunk: bytes | bytearray | memoryview) -> memoryview:
        """The data of the next chunk. Raises ``CopyDamaged``."""
        number, view = self._number, memoryview(chunk)
        if number >= self.head.chunks:
            raise CopyDamaged(f"{self._name} goes on after its end")
        if len(view) != self.head.chunk_bytes(number) + _CRC_BYTES:
            raise CopyDamaged(f"{self._name} is cut short in chunk {number} of {self.head.chunks}")
        data = view[_CRC_BYTES:]
        if _CRC.pack(zlib.crc32(data, zlib.crc32(_NUMBER(number)))) != bytes(view[:_CRC_BYTES]):
            raise CopyDamaged(f"{self._name} is damaged in chunk {number} of {self.head.chunks}")
        self._sha.update(data)
        self._number = number + 1
        return data

    @property
    def offset(self) -> int:
        """How much of the file form was taken: where a transfer that broke off goes on."""
        if self._number == self.head.chunks:
            return self.head.total_bytes
        return HEAD_BYTES + self._number * (CHUNK_BYTES + _CRC_BYTES)

    def finish(self) -> None:
        """Everything was taken. Raises ``CopyDamaged``."""
        if self._number != self.head.chunks:
            raise CopyDamaged(f"{self._name} is cut short after chunk {self._number} of {self.head.chunks}")
        if self._sha.digest() != self.head.sha256:
            raise CopyDamaged(f"{self._name} is damaged: its chunks are whole, but not those of one copy")


def read_head(path: str) -> CopyHead:
    """Of a file. Raises ``CopyDamaged``, ``OSError``."""
    with open(path, "rb", buffering=0) as file:
        return unpack_head(file.read(HEAD_BYTES), path)


def read_copy(path: str, take: Callable[[memoryview], object] = len) -> CopyHead:
    """Read a file to its end and compare everything; ``take`` gets each chunk's data once it is proved. Raises ``CopyDamaged``, ``OSError``.

    Memory: one chunk.
    """
    with open(path, "rb", buffering=0) as file:
        head = unpack_head(file.read(HEAD_BYTES), path)
        if os.fstat(file.fileno()).st_size > head.total_bytes:
            raise CopyDamaged(f"{path} goes on after its end")
        checker = Checker(head, path)
        room = memoryview(bytearray(CHUNK_BYTES + _CRC_BYTES))
        for number in range(head.chunks):
            take(checker.take(room[: _read_into(file.fileno(), room[: head.chunk_bytes(number) + _CRC_BYTES])]))
        checker.finish()
    return head


def _read_into(fd: int, view: memoryview) -> int:
    filled = 0
    while filled < len(view) and (got := os.readv(fd, [view[filled:]])):
        filled += got
    return filled
