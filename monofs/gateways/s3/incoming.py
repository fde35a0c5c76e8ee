"""A body on its way in: how long it is, what of it is data, and whether it is the one that was signed and claimed. Pure.

The head announces all of it: Content-Length or x-amz-decoded-content-length, the SHA-256 that was signed or the chain of chunk signatures, Content-MD5, a
checksum in a header or a trailer. Invariant: :meth:`Incoming.finish` returns only when every one of them holds, so what is published after it is what the
client sent. CRCs are taken while decoding, at 12 GB/s; hashes are apart from it, and from each other, for each may run in a thread of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from monofs.gateways.s3 import checksums
from monofs.gateways.s3.checksums import Claim, Hash
from monofs.gateways.s3.chunked import ChunkedDecoder
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.signing import STREAMED, Signed
from monofs.model.sigv4 import UNSIGNED

LENGTH_DIGITS_MAX = 19
Update = Callable[[memoryview], None]
"""Takes the next bytes of a body into a digest. Raises ``S3Error`` where it sees that they are not those that were announced."""


class Received(NamedTuple):
    """A body that is what it was said to be. ``checksum``: of the claim's algorithm, or of the default one when there was no claim."""

    length: int
    md5: bytes
    checksum: Claim


class Incoming:
    """One body of PutObject or UploadPart. ``length``: bytes of data it has; ``claim``: the checksum that is claimed for it."""

    def __init__(
        self, headers: Mapping[str, str], signed: Signed, most_bytes: int, *, least_bytes: int | None = None
    ) -> None:
        """``least_bytes``: nobody said how long it is, but from here to ``most_bytes`` it may be. Raises ``S3Error``: MissingContentLength, EntityTooLarge,
        and what ``checksums`` raises of claims that make no sense."""
        payload = signed.payload
        is_chunked = payload in STREAMED
        self._least = least_bytes
        self.length = (
            _read_length(headers, "x-amz-decoded-content-length" if is_chunked else "content-length", most_bytes)
            if least_bytes is None
            else most_bytes
        )
        self._decoder = None
        if is_chunked:
            self._decoder = ChunkedDecoder(self.length, signed.chain, checksums.read_trailer_names(headers))
        claim = self.claim = checksums.read_claim(headers)
        if claim is not None and claim.value is None and not is_chunked:
            raise S3Error("InvalidRequest", "A checksum as a trailer needs a body in aws-chunked form.")
        self._claim = claim or Claim(checksums.DEFAULT, None)
        self._md5_claimed = checksums.read_md5(headers)
        self._sha256_claimed = "" if is_chunked or payload == UNSIGNED else payload.lower()
        self._seen = 0
        self._md5: Hash = hashlib.md5(usedforsecurity=False)
        self._checksum: Hash = self._claim.algorithm.new()
        self._sha256: Hash | None = None
        if self._sha256_claimed:
            self._sha256 = self._checksum if self._claim.algorithm.name == "SHA256" else hashlib.sha256()
        self.hashes: Sequence[Update] = self._list_hashes()
        """What each piece has to be given to before :meth:`finish`; each takes all pieces, in their order."""

    def _list_hashes(self) -> list[Update]:
        hashes: list[Update] = [self._md5.update]
        if not self._claim.algorithm.is_crc:
            hashes.append(self._checksum.update)
        if self._sha256 is not None and self._sha256 is not self._checksum:
            hashes.append(self._sha256.update)
        if self._decoder is not None and self._decoder.large is not None:
            hashes.append(self._decoder.large.update)
        return hashes

    @property
    def plain_bytes(self) -> int:
        """So many of the bytes to come are data, and nothing else."""
        return self.length - self._seen if self._decoder is None else self._decoder.plain_bytes

    def decode(self, data: bytes | memoryview) -> list[memoryview]:
        """The pieces of data in what came next. Raises ``S3Error`` when this cannot be the body that was announced."""
        pieces = [memoryview(data)] if self._decoder is None else self._decoder.feed(data)
        self._seen += sum(map(len, pieces))
        if self._seen > self.length:
            if self._least is not None:
                raise S3Error("EntityTooLarge", MaxSizeAllowed=self.length)
            raise S3Error("IncompleteBody", "The body has more bytes than its head says.")
        if self._claim.algorithm.is_crc:
            for piece in pieces:
                self._checksum.update(piece)
        return pieces

    def finish(self) -> Received:
        """The end has come, and :attr:`hashes` have all pieces. Raises ``S3Error``: IncompleteBody, BadDigest, XAmzContentSHA256Mismatch, MalformedTrailerError."""
        if self._decoder is not None:
            self._decoder.finish()
        if self._least is not None:
            if self._seen < self._least:
                raise S3Error(
                    "EntityTooSmall",
                    "The body is smaller than an upload has to be.",
                    ProposedSize=self._seen,
                    MinSizeAllowed=self._least,
                )
            self.length = self._seen
        if self._seen != self.length:
            raise S3Error("IncompleteBody", NumberBytesExpected=self.length, NumberBytesProvided=self._seen)
        if self._sha256 is not None and self._sha256.digest().hex() != self._sha256_claimed:
            raise S3Error("XAmzContentSHA256Mismatch", ClientComputedContentSHA256=self._sha256_claimed)
        md5 = self._md5.digest()
        if self._md5_claimed not in (None, md5):
            raise S3Error(
                "BadDigest", "The body does not have the MD5 of Content-MD5.", CalculatedDigest=checksums.show(md5)
            )
        algorithm, digest = self._claim.algorithm, self._checksum.digest()
        if self.claim is not None and digest != self._claimed_value():
            raise S3Error(
                "BadDigest",
                f"The body does not have the checksum of {algorithm.header}.",
                CalculatedDigest=checksums.show(digest),
            )
        return Received(self.length, md5, Claim(algorithm, digest))

    def _claimed_value(self) -> bytes:
        algorithm, value = self._claim
        if value is not None or self._decoder is None:
            return value or b""
        return checksums.read_value(algorithm, self._decoder.trailers.get(algorithm.header, ""))


def _read_length(headers: Mapping[str, str], name: str, most_bytes: int) -> int:
    text = headers.get(name)
    if text is None:
        raise S3Error("MissingContentLength", f"The request needs the header {name}.")
    if not text.isascii() or not text.isdigit() or len(text) > LENGTH_DIGITS_MAX:
        raise S3Error("InvalidArgument", f"{name} has to be a number of bytes.", ArgumentName=name, ArgumentValue=text)
    if int(text) > most_bytes:
        raise S3Error("EntityTooLarge", ProposedSize=int(text), MaxSizeAllowed=most_bytes)
    return int(text)
