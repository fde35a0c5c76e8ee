"""Which bytes of an object a request asks for. Pure.

RFC 9110, section 14, as S3 keeps it (API Reference, GetObject, "Range"): one range is answered with 206; several, a malformed one, or one of
another unit with the whole object; one that begins behind the end, or a suffix of nothing, with 416.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from monofs.gateways.s3.errors import S3Error

_RANGE = re.compile(r"[ \t]*bytes[ \t]*=[ \t]*([0-9]*)[ \t]*-[ \t]*([0-9]*)[ \t]*\Z", re.IGNORECASE).match
_COPIED = re.compile(r"bytes=([0-9]{1,19})-([0-9]{1,19})\Z").match
_DIGITS_MAX = 19
"""Digits of 2**63; longer numbers are as good as endless."""


class Span(NamedTuple):
    """The bytes from ``first`` to ``last``, both included; never empty."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """How many there are."""
        return self.last - self.first + 1

    def content_range(self, size: int) -> str:
        """The Content-Range of an answer with them, of ``size`` in all."""
        return f"bytes {self.first}-{self.last}/{size}"


def read_range(text: str | None, size: int) -> Span | None:
    """The span of an object of ``size`` bytes that a Range header asks for; None: all of it, answered with 200.

    Raises ``S3Error`` (InvalidRange) with the headers of a 416.
    """
    if text is None:
        return None
    found = _RANGE(text)
    if found is None:
        return None
    begin, end = found.groups()
    if begin:
        first, last = _number(begin), _number(end) if end else size - 1
        if end and last < first:
            return None  # malformed, not unsatisfiable: section 14.1.1
    elif end:
        length = _number(end)
        first, last = max(0, size - length), size - 1
        if length == 0:
            first = size
    else:
        return None
    if first >= size:
        raise S3Error(
            "InvalidRange",
            headers={"Content-Range": f"bytes */{size}"},
            RangeRequested=text,
            ActualObjectSize=size,
        )
    return Span(first, min(last, size - 1))


def read_copied_range(text: str, size: int) -> Span:
    """The span of a source of ``size`` bytes that x-amz-copy-source-range names: only ``bytes=first-last``, and all of it has to be there.

    Raises ``S3Error``: InvalidArgument, or InvalidRange where the source has no such bytes.
    """
    found = _COPIED(text)
    if found is None or int(found[2]) < int(found[1]):
        raise S3Error(
            "InvalidArgument",
            "x-amz-copy-source-range has to be of the form bytes=first-last.",
            ArgumentName="x-amz-copy-source-range",
            ArgumentValue=text,
        )
    span = Span(int(found[1]), int(found[2]))
    if span.last >= size:
        raise S3Error(
            "InvalidRange",
            f"The range reaches beyond the end of the source, which has {size} bytes.",
            RangeRequested=text,
            ActualObjectSize=size,
        )
    return span


def part_span(number: int, sizes: Sequence[int], size: int) -> Span | None:
    """The span of part ``number`` of an object of ``size`` bytes in parts of ``sizes`` (none: it was put whole, as its only part).

    None: the part is empty. Raises ``S3Error`` (InvalidPartNumber) when there is no such part.
    """
    sizes = sizes or (size,)
    if not 1 <= number <= len(sizes):
        raise S3Error("InvalidPartNumber", PartNumberRequested=number, ActualPartCount=len(sizes))
    first = sum(sizes[: number - 1])
    return Span(first, first + sizes[number - 1] - 1) if sizes[number - 1] else None


def _number(digits: str) -> int:
    """Without the quadratic cost, and the refusal, of thousands of digits."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _DIGITS_MAX else 10**_DIGITS_MAX
