"""Status records as JSON: what the client told, field by field, as `--json` of the CLI shows it.

Invariant: console, API and CLI show the same records of the same names; nothing is computed here that they could disagree about. Times are nanoseconds (``_ns``) or seconds (``_s``), sizes bytes;
a number that is not finite is null. Not here: where they come from (topics.py, api.py).
"""

from __future__ import annotations

import json
import math
import types
import typing
from functools import cache
from typing import Any

import msgspec

from monofs.model.errors import MonofsError


def record(value: Any) -> Any:
    """A struct and all it holds as dicts and lists; bytes as hex."""
    if isinstance(value, msgspec.Struct):
        return {name: record(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): record(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [record(each) for each in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def encode_json(value: Any) -> bytes:
    """JSON; names of files that are not UTF-8 keep their bytes as escaped lone surrogates, as in Python."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def error_record(error: MonofsError) -> dict[str, Any]:
    """``{"error", "code", "message", "hint", "retry"}``."""
    return {
        "error": type(error).__name__,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "retry": bool(error.retry),
    }


@cache
def shape(kind: Any) -> Any:
    """The type of what :func:`record` makes of a value of this type, for its JSON Schema."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        fields = [(name, shape(hints[name])) for name in kind.__struct_fields__]
        return msgspec.defstruct(kind.__name__, fields, namespace={"__doc__": kind.__doc__})
    if kind is bytes:
        return str
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is None:
        return kind | None if kind is float else kind
    if origin in (types.UnionType, typing.Union):
        return typing.Union[tuple(shape(each) for each in inner)]  # noqa: UP007 - made of a tuple
    if origin is dict:
        return dict[str, shape(inner[1])]  # type: ignore[misc]
    if origin in (list, tuple):
        return list[shape(inner[0])] if len(set(inner)) == 1 or origin is list else list[Any]  # type: ignore[misc]
    return kind
