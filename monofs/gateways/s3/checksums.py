"""Checksums of objects and parts: which a request claims, computing them, and joining those of parts. Pure.

Amazon S3 User Guide, "Checking object integrity": values travel as base64 of the big-endian bytes, in a header or a trailer. Of an upload in
parts there are two kinds: *composite*, the checksum of the parts' checksums, written with ``-<number of parts>``; and *full object*, that of all
bytes, which follows from the parts' CRCs and lengths alone. CRCs are anycrc's (docs/decisions/0015-crcs.md): so quick that a piece of a body needs no
thread; hashes are hashlib's, which lets other threads run meanwhile.

Not here: what is done with the answer, and where digests are kept.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import anycrc

from monofs.gateways.s3.errors import S3Error

COMPOSITE = "COMPOSITE"
FULL_OBJECT = "FULL_OBJECT"


class Hash(Protocol):
    """What computes a digest; those of hashlib are."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class Crc:
    """A running CRC with hashlib's face."""

    __slots__ = ("_calculate", "_size", "_value")

    def __init__(self, model: Any, size_bytes: int) -> None:
        self._calculate, self._size, self._value = model.calc, size_bytes, 0

    def update(self, data: bytes | memoryview, /) -> None:
        """Take in the bytes that follow."""
        self._value = self._calculate(data, self._value)

    def digest(self) -> bytes:
        """Big-endian, as S3 writes it."""
        return int(self._value).to_bytes(self._size)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One kind of checksum. ``new`` begins one; ``join`` gives the CRC of two blocks from theirs and the length of the second, None of a hash
    that cannot be joined; ``kinds``: the types an upload in parts may have, the default first."""

    name: str
    size_bytes: int
    new: Callable[[], Hash]
    join: Callable[[int, int, int], int] | None
    kinds: tuple[str, ...]

    @property
    def is_crc(self) -> bool:
        """Whether it is so quick that it needs no thread."""
        return self.join is not None

    @property
    def header(self) -> str:
        """The header or trailer it travels in."""
        return f"x-amz-checksum-{self.name.lower()}"

    @property
    def element(self) -> str:
        """The element it is called in documents."""
        return f"Checksum{self.name}"


def _crc(name: str, model: str, size_bytes: int, kinds: tuple[str, ...]) -> Algorithm:
    made = anycrc.Model(model)
    return Algorithm(name, size_bytes, partial(Crc, made, size_bytes), made.combine, kinds)


_ALL = (
    _crc("CRC32", "CRC32", 4, (COMPOSITE, FULL_OBJECT)),
    _crc("CRC32C", "CRC32C", 4, (COMPOSITE, FULL_OBJECT)),
    _crc("CRC64NVME", "CRC64-NVME", 8, (FULL_OBJECT,)),
    Algorithm("SHA1", 20, partial(hashlib.sha1, usedforsecurity=False), None, (COMPOSITE,)),
    Algorithm("SHA256", 32, hashlib.sha256, None, (COMPOSITE,)),
)
ALGORITHMS: dict[str, Algorithm] = {each.name: each for each in _ALL}
"""By name, as in x-amz-checksum-algorithm."""
BY_HEADER: dict[str, Algorithm] = {each.header: each for each in _ALL}
BY_ELEMENT: dict[str, Algorithm] = {each.element: each for each in _ALL}
DEFAULT = ALGORITHMS["CRC64NVME"]
"""What AWS computes of an object that came without a checksum."""
_COUNT = re.compile(r"-[0-9]{1,5}\Z").sub
_OTHER_HEADERS = frozenset({"x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-checksum-mode"})


class Claim(NamedTuple):
    """The checksum a body is said to have; ``value`` is None until the trailer has come."""

    algorithm: Algorithm
    value: bytes | None


def read_claim(headers: Mapping[str, str]) -> Claim | None:
    """The one checksum these headers claim of the body, or announce as a trailer. Raises ``S3Error``: InvalidRequest, NotImplemented.

    Those of CompleteMultipartUpload are about the object instead: :func:`read_object_claim`.
    """
    claims = [Claim(algorithm, read_value(algorithm, text)) for algorithm, text in _named(headers)]
    claims += [
        Claim(_by_header(name), None) for name in read_trailer_names(headers) if name.startswith("x-amz-checksum-")
    ]
    if len(claims) > 1:
        raise S3Error("InvalidRequest", "A request has at most one checksum.")
    wanted = headers.get("x-amz-sdk-checksum-algorithm")
    if wanted is not None and (not claims or claims[0].algorithm.name != wanted.upper()):
        raise S3Error(
            "InvalidRequest",
            "x-amz-sdk-checksum-algorithm names a checksum that comes neither as a header nor as a trailer.",
        )
    return claims[0] if claims else None


def read_object_claim(headers: Mapping[str, str]) -> Claim | None:
    """The checksum that CompleteMultipartUpload claims of the object. A composite one may end in ``-<parts>`` or not. Raises ``S3Error`` (InvalidRequest)."""
    claims = [Claim(algorithm, read_value(algorithm, _COUNT("", text))) for algorithm, text in _named(headers)]
    if len(claims) > 1:
        raise S3Error("InvalidRequest", "A request has at most one checksum.")
    return claims[0] if claims else None


def read_trailer_names(headers: Mapping[str, str]) -> list[str]:
    """The trailers that x-amz-trailer announces."""
    text = headers.get("x-amz-trailer", "")
    return [name for each in text.split(",") if (name := each.strip().lower())]


def read_algorithm(name: str) -> Algorithm:
    """The algorithm of this name, as in x-amz-checksum-algorithm. Raises ``S3Error`` (InvalidRequest)."""
    found = ALGORITHMS.get(name.upper())
    if found is None:
        raise S3Error(
            "InvalidRequest", f"There is no checksum algorithm of this name; there are {', '.join(ALGORITHMS)}."
        )
    return found


def read_kind(algorithm: Algorithm, text: str | None) -> str:
    """The type of checksum an upload of ``algorithm`` is to have; ``text``: x-amz-checksum-type. Raises ``S3Error`` (InvalidRequest)."""
    kind = algorithm.kinds[0] if text is None else text.upper()
    if kind not in algorithm.kinds:
        raise S3Error(
            "InvalidRequest", f"A checksum of {algorithm.name} of an upload in parts is {' or '.join(algorithm.kinds)}."
        )
    return kind


def read_value(algorithm: Algorithm, text: str) -> bytes:
    """The digest in the base64 of a header, trailer or element. Raises ``S3Error`` (InvalidRequest)."""
    found = _from_base64(text, algorithm.size_bytes)
    if found is None:
        raise S3Error("InvalidRequest", f"{algorithm.header} has to be the base64 of {algorithm.size_bytes} bytes.")
    return found


def read_md5(headers: Mapping[str, str]) -> bytes | None:
    """Content-MD5 (RFC 1864), if there is one. Raises ``S3Error`` (InvalidDigest)."""
    text = headers.get("content-md5")
    if text is None:
        return None
    found = _from_base64(text, 16)
    if found is None:
        raise S3Error("InvalidDigest")
    return found


def show(digest: bytes) -> str:
    """The base64 of headers and elements."""
    return base64.b64encode(digest).decode()


def composite(algorithm: Algorithm, digests: Sequence[bytes]) -> str:
    """The checksum of an upload from those of its parts, in their order: ``<base64>-<parts>``."""
    whole = algorithm.new()
    whole.update(b"".join(digests))
    return f"{show(whole.digest())}-{len(digests)}"


def full_object(algorithm: Algorithm, parts: Iterable[tuple[bytes, int]]) -> bytes:
    """The checksum of all bytes from (digest, length) of the parts, in their order. Only of algorithms that ``join``."""
    if algorithm.join is None:
        raise ValueError(f"checksums of {algorithm.name} cannot be joined")
    value = 0  # the CRC of no bytes
    for digest, length in parts:
        value = algorithm.join(value, int.from_bytes(digest), length)
    return value.to_bytes(algorithm.size_bytes)


def multipart_etag(md5s: Sequence[bytes]) -> str:
    """The ETag, without quotes, of an object completed of parts with these MD5s."""
    return f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"


def _named(headers: Mapping[str, str]) -> list[tuple[Algorithm, str]]:
    """Every checksum that stands in a header of its own."""
    return [
        (_by_header(name), text)
        for name, text in headers.items()
        if name.startswith("x-amz-checksum-") and name not in _OTHER_HEADERS
    ]


def _by_header(name: str) -> Algorithm:
    found = BY_HEADER.get(name)
    if found is None:
        raise S3Error("NotImplemented", f"The checksum {name} is not known here; known are {', '.join(BY_HEADER)}.")
    return found


def _from_base64(text: str, size_bytes: int) -> bytes | None:
    try:
        found = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are
        return None
    return found if len(found) == size_bytes else None
