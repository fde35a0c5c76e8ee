"""The policy of an HTML form: what its signer allows whoever fills it in. Pure: the time is an argument.

API Reference, "POST policy" ("Browser-Based Uploads Using POST"): base64 of a JSON document with an expiration and conditions on fields and on the length of
the file. Invariant: a form is allowed only where every condition holds and every field that could change what is stored has one.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from monofs.gateways.s3.errors import S3Error

FREE = frozenset({"awsaccesskeyid", "policy", "signature", "x-amz-signature"})
"""Fields that need no condition; neither do those that begin with ``FREE_PREFIX``."""
FREE_PREFIX = "x-ignore-"

_ESCAPE = re.compile(r"\\(.)").sub


class Condition(NamedTuple):
    """What a field has to be, or, of a ``prefix``, how to begin. ``shown``: as the document has it."""

    field: str
    value: str
    prefix: bool
    shown: str


class Policy(NamedTuple):
    """``least`` and ``most``: bytes of the file."""

    expires_s: float
    conditions: tuple[Condition, ...]
    least: int
    most: int

    def check(self, fields: Mapping[str, str], now_s: float) -> None:
        """Raise ``S3Error`` (AccessDenied) unless a form with these fields, by lower-case name, the ``bucket`` among them, is allowed now."""
        if now_s >= self.expires_s:
            raise S3Error("AccessDenied", "Invalid according to Policy: Policy expired.")
        for each in self.conditions:
            found = fields.get(each.field, "")
            if not (found.startswith(each.value) if each.prefix else found == each.value):
                raise S3Error("AccessDenied", f"Invalid according to Policy: Policy Condition failed: {each.shown}")
        known = FREE.union(each.field for each in self.conditions)
        more = [name for name in fields if name not in known and not name.startswith(FREE_PREFIX)]
        if more:
            raise S3Error("AccessDenied", f"Invalid according to Policy: Extra input fields: {', '.join(more)}")


def read_policy(text: str, most_bytes: int) -> Policy:
    """The policy of the field ``policy``; ``most_bytes``: of a file, whatever it says. Raises ``S3Error`` (InvalidPolicyDocument)."""
    try:
        document = binascii.a2b_base64(text.encode("ascii")).decode()
        found = json.loads(_ESCAPE(lambda escape: "$" if escape[1] == "$" else escape[0], document))
    except (ValueError, RecursionError):
        raise _invalid("it has to be the base64 of a JSON document") from None
    if not isinstance(found, dict) or not isinstance(found.get("conditions"), list):
        raise _invalid("it needs an expiration and a list of conditions")
    expires_s = _read_time(found.get("expiration"))
    conditions, least, most = [], 0, most_bytes
    for each in found["conditions"]:
        if isinstance(each, list) and each and str(each[0]).lower() == "content-length-range":
            low, high = _read_range(each)
            least, most = max(least, low), min(most, high)
        else:
            conditions.append(_read_condition(each))
    return Policy(expires_s, tuple(conditions), least, most)


def _read_condition(each: Any) -> Condition:
    shown = json.dumps(each)[:1024]
    if isinstance(each, dict):
        if len(each) != 1:
            raise _invalid(f"a condition has exactly one field: {shown}")
        ((field, value),) = each.items()
        if isinstance(value, str):
            return Condition(field.lower(), value, prefix=False, shown=shown)
    elif isinstance(each, list) and len(each) == 3 and all(isinstance(part, str) for part in each):
        operator, field, value = each
        if operator.lower() in ("eq", "starts-with") and field.startswith("$"):
            return Condition(field[1:].lower(), value, prefix=operator.lower() != "eq", shown=shown)
    raise _invalid(f"a condition is not understood: {shown}")


def _read_range(each: list[Any]) -> tuple[int, int]:
    bounds = [str(part) for part in each[1:]]
    if len(bounds) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in bounds):
        raise _invalid("content-length-range needs two numbers from 0")
    return int(bounds[0]), int(bounds[1])


def _read_time(text: Any) -> float:
    """Seconds since 1970 of a time in ISO 8601, in UTC unless it says otherwise."""
    try:
        found = datetime.fromisoformat(text)
        if text[10] != "T":  # Python reads more than one form
            raise ValueError(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        raise _invalid("its expiration has to be a time like 2030-01-31T12:00:00Z") from None


def _invalid(why: str) -> S3Error:
    return S3Error("InvalidPolicyDocument", f"The policy of the form is not valid: {why}.")
