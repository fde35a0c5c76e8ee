"""Bytes of files for the console: download, pictures, and the first of them as a preview.

Invariants: what a file holds is never a document of this origin: it is sent as an attachment, under a policy that lets nothing run, with the type its first bytes say and no sniffing; of a file one piece of
``PIECE_BYTES`` is in memory at a time; a preview looks at a bounded beginning. Not here: how they are sent (sending.py), what bytes are taken for (preview.py), Parquet (parquet.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from monofs.model.errors import ContentChanged, IsADirectory, NotSupported
from monofs.model.ids import ContentId, format_content_id
from monofs.model.principal import Right
from monofs.web.files_api import PATH
from monofs.web.parquet import preview_parquet
from monofs.web.preview import CHARSETS, LOOKED_AT_BYTES, Preview, picture_type, preview_of
from monofs.web.routes import Parameter, Routes
from monofs.web.sending import Sent
from monofs.web.viewers import Viewer

PIECE_BYTES = 1 << 20
PICTURE_MAX_BYTES = 32 << 20
PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""For who opens a picture's address by itself: nothing in an SVG runs or is fetched."""


class Readable(Protocol):
    """An open file."""

    size: int
    content: int

    def pread(self, offset: int, size: int) -> bytes:
        """Bytes; blocking."""

    def close(self) -> None:
        """Give it back."""


def sent_of(file: Readable, path: str, content_type: str) -> Sent:
    """An open file as an answer."""

    content = file.content

    def pieces(begin: int, end: int) -> Iterator[bytes]:
        while begin < end and (piece := file.pread(begin, min(PIECE_BYTES, end - begin))):
            if file.content != content:  # opened anew by the client, for nothing had been read of it
                raise ContentChanged(f"{path} changed while it was opened", path=path)
            begin += len(piece)
            yield piece

    name = path.rstrip("/").rpartition("/")[2]
    headers = {"content-security-policy": PICTURE_POLICY}
    return Sent(
        name,
        file.size,
        pieces,
        content_type=content_type,
        headers=headers,
        tag=format_content_id(ContentId(content)),
        close=file.close,
    )


def file_download(viewer: Viewer, path: str) -> Sent:
    """A file's bytes, as an attachment; or some of them, as Range asks."""
    return sent_of(_opened(viewer, path), path, "application/octet-stream")


def file_picture(viewer: Viewer, path: str) -> Sent:
    """A file that is a picture (PNG, JPEG, GIF, WebP, SVG), for an img element."""
    file = _opened(viewer, path)
    try:
        kind = picture_type(file.pread(0, 4096))
        if not kind:
            raise NotSupported(f"{path} is no picture a browser shows", path=path)
        if file.size > PICTURE_MAX_BYTES:
            raise NotSupported(f"{path} is over {PICTURE_MAX_BYTES >> 20} MiB: download it to look at it", path=path)
    except BaseException:
        file.close()
        raise
    return sent_of(file, path, kind)


def file_preview(viewer: Viewer, path: str, charset: str) -> Preview:
    """The beginning of a file as people look at it: text, JSON, rows of Parquet, else bytes; or that it is a picture."""
    file = _opened(viewer, path)
    try:
        start = file.pread(0, LOOKED_AT_BYTES)
        if charset == "auto" and file.size > 12 and start[:4] == b"PAR1":
            return preview_parquet(file)
        return preview_of(path, start, file.size, charset, PICTURE_MAX_BYTES)
    finally:
        file.close()


def _opened(viewer: Viewer, path: str) -> Any:
    try:
        return viewer.fs.open(path)
    except IsADirectory as error:
        raise IsADirectory(f"{path} is a directory: only files have bytes", path=path) from error


def add_routes(routes: Routes) -> None:
    """All of the above."""
    charset = Parameter("charset", f"auto, bytes, or {', '.join(CHARSETS)}.", default="auto")
    routes.add("GET", "/files/download", file_download, Right.READ, bytes, PATH, asks="store")
    routes.add("GET", "/files/picture", file_picture, Right.READ, bytes, PATH, asks="store")
    routes.add("GET", "/files/preview", file_preview, Right.READ, Preview, PATH, charset, asks="store")
