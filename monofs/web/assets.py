"""Templates and static files: of the wheel when there are any in it, else of the checkout. Read once, at start.

Invariant: what is served is one of these files, found by its exact name in a table; no path of a request reaches the disk. Their addresses carry a digest of all of them, so browsers keep
them for ever and never mix two releases.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import os
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monofs.model.errors import ConfigError

HERE = Path(__file__).parent
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_TEXT = ("text/", "image/svg", "application/json")
GZIP_FROM_BYTES = 512


@dataclass(frozen=True, slots=True)
class Asset:
    """One static file."""

    data: bytes
    packed: bytes | None
    """Gzip of it, where that is smaller."""
    content_type: str


class Assets:
    """All of them; ``release`` is the digest in their addresses."""

    def __init__(self) -> None:
        root = _find("static")
        self.files = {
            path.relative_to(root).as_posix(): _read(path)
            for path in sorted(root.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }
        digest = hashlib.sha256()
        for name, asset in self.files.items():
            digest.update(name.encode() + b"\0" + asset.data)
        self.release = digest.hexdigest()[:12]
        loader = FileSystemLoader(_find("templates"))
        self.templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, auto_reload=False)


def _find(name: str) -> Path:
    """The packaged directory, else the checkout's. Raises ``ConfigError`` when there is neither."""
    for path in (HERE / name, HERE.parent.parent / name):
        if path.is_dir() and os.listdir(path):
            return path
    raise ConfigError(f"the console's {name} are not installed: install the wheel, or run from a checkout")


def _read(path: Path) -> Asset:
    data = path.read_bytes()
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    packed = None
    if kind.startswith(_TEXT):
        kind += "; charset=utf-8"
        if len(data) >= GZIP_FROM_BYTES:
            packed = gzip.compress(data, 9, mtime=0)
    return Asset(data, packed, kind)
