"""Paths of the namespace: absolute, UTF-8, at most 255 bytes a name and 4,096 a path.

Inside the program a path is a tuple of byte names, compared as bytes, case-sensitive, never normalised.
At the edges it is a ``str``. ``.``, ``..``, NUL and empty components are refused, not resolved; one trailing slash is allowed.
"""

from __future__ import annotations

from monofs.model.errors import InvalidPath, NameTooLong

NAME_MAX_BYTES = 255
PATH_MAX_BYTES = 4096
UPLOADS = b".monofs-uploads"
"""The directory below the root in which the S3 door keeps uploads in parts, each in a directory of its own that has a time to live."""

Parts = tuple[bytes, ...]
"""The names of a path from the root down; ``()`` is the root."""


def parse_path(path: str) -> Parts:
    """Split an absolute path into its names.

    Raises ``InvalidPath`` or ``NameTooLong`` naming the offending component.
    """
    if not path.startswith("/"):
        raise InvalidPath(f"path {path!r} must start with '/'", path=path)
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidPath(f"path {path!r} is not valid UTF-8") from None
    if len(raw) > PATH_MAX_BYTES:
        raise NameTooLong(f"path of {len(raw)} bytes is over {PATH_MAX_BYTES}")
    body = raw[1:-1] if raw.endswith(b"/") and len(raw) > 1 else raw[1:]
    if not body:
        if raw == b"//":
            raise InvalidPath("path '//' has an empty component", path=path)
        return ()
    parts = tuple(body.split(b"/"))
    if (
        b"" in parts
        or b"." in parts
        or b".." in parts
        or b"\0" in raw
        or (len(raw) > NAME_MAX_BYTES and max(map(len, parts)) > NAME_MAX_BYTES)
    ):  # one pass in C over all names; only a path that fails it is looked at name by name, for the message
        for name in parts:
            check_name(name, path)
    return parts


def check_name(name: bytes, path: str = "") -> None:
    """Raise unless ``name`` may be one directory entry; ``path``, where it stands in, is shown with the problem."""
    problem = name_problem(name)
    if problem is None:
        return
    if len(name) > NAME_MAX_BYTES:
        raise NameTooLong(problem)
    raise InvalidPath(f"path {path!r}: {problem}" if path else problem, path=path)


def name_problem(name: bytes) -> str | None:
    """Why ``name`` cannot be a directory entry, or None. Stores may hold such names; `admin report` shows them."""
    if not name:
        return "empty path component"
    if name in (b".", b".."):
        return f"path component {name.decode()!r} is not allowed"
    if len(name) > NAME_MAX_BYTES:
        return f"name of {len(name)} bytes is over {NAME_MAX_BYTES}"
    if b"\0" in name or b"/" in name:
        return "path component contains NUL or '/'"
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return f"name {name!r} is not valid UTF-8"
    return None


def format_path(parts: Parts) -> str:
    """The ``str`` form of parsed names."""
    return "/" + b"/".join(parts).decode("utf-8")


def is_prefix(prefix: Parts, parts: Parts) -> bool:
    """Whether ``prefix`` is ``parts`` or one of its ancestors."""
    return parts[: len(prefix)] == prefix
