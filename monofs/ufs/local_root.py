"""Which directory a ``file://`` mount names, its options, and whether a file system is mounted there. Not here: what lies below."""

from __future__ import annotations

import os
from urllib.parse import quote_from_bytes, unquote_to_bytes

from monofs.model.errors import UfsOption
from monofs.ufs.options import Option, flag

OPTIONS: tuple[Option, ...] = (
    Option(
        "own_file_system",
        "Whether the directory is where a file system is mounted, without which there is nothing to read; empty: as it is found "
        "when monofs mounts or updates it.",
        read=flag,
    ),
)
_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def root_path(uri: str) -> bytes:
    """The directory a URI names. Raises ``UfsOption``."""
    if uri.startswith("/"):
        raw = os.fsencode(uri)
    else:
        host, slash, path = uri.removeprefix("file://").partition("/")
        if host not in ("", "localhost") or not slash:
            raise UfsOption(f"cannot mount {uri!r}: write a local directory as file:///dir, with three slashes")
        raw = b"/" + unquote_to_bytes(path)
    parts = [part for part in raw.split(b"/") if part]
    if b"\0" in raw or b"." in parts or b".." in parts:
        raise UfsOption(f"cannot mount {uri!r}: the directory must be absolute, without '.', '..' or NUL")
    return b"/" + b"/".join(parts)


def normal_uri(uri: str) -> str:
    """``file:///dir``, percent-encoded, without empty components or a trailing slash (but for the root of the file system)."""
    return "file://" + quote_from_bytes(root_path(uri), safe="/-._~!$&'()*+,;=:@")


def learned_options(uri: str) -> dict[str, str]:
    """Options to keep with a mount of ``uri``, as things are now; blocking."""
    try:
        fd = os.open(root_path(uri), _ROOT)
    except OSError:
        return {}
    try:
        return {"own_file_system": "true"} if is_mounted(fd) else {}
    finally:
        os.close(fd)


def is_mounted(directory: int) -> bool:
    """Whether a file system is mounted at the open directory."""
    return os.fstat(directory).st_dev != os.stat("..", dir_fd=directory).st_dev
