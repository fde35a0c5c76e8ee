"""Lists of paths that jobs work through: files of the namespace, one path a line, read piece by piece from whoever has them cached.

A list may be of any length: memory is that of one piece, of one slice of paths, and of one line. A restart goes on at a byte of the very content it
began with; a list that changed meanwhile ends the job.
"""

from __future__ import annotations

from typing import NamedTuple

from monofs.master.channels import SILENT, Channels
from monofs.master.issuing import Issuer
from monofs.master.job_run import Run
from monofs.master.loading import Loader, missing
from monofs.master.stores import UNAVAILABLE
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.model.errors import ConditionFailed, InvalidArgument, IsADirectory, MonofsError
from monofs.model.ids import ContentId
from monofs.model.paths import Parts, format_path, is_prefix, parse_path
from monofs.rpc.api import ReadOptions

PIECE_BYTES = 256 << 10
"""Read at a time."""
LINE_MAX_BYTES = 8192
"""No path is longer; a longer line is told as a failure and passed over."""
SLICE_PATHS = 1000
SHOWN = 80
"""Characters shown of a line that is no path."""


class Lines:
    """Bytes that come in pieces, cut at ``separator``. Pure."""

    def __init__(self, separator: bytes, offset: int = 0) -> None:
        self._separator, self._offset = separator, offset
        self._rest = b""
        self._is_too_long = False

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The lines that are complete now, each with the offset behind it; of one that is too long its beginning. Empty ones are left out."""
        *complete, rest = (self._rest + data).split(self._separator)
        lines = [self._line(text, len(text) + 1) for text in complete]
        self._rest = rest
        if len(rest) > LINE_MAX_BYTES:  # the beginning will do to name it
            self._is_too_long = True
            self._offset += len(rest) - LINE_MAX_BYTES
            self._rest = rest[:LINE_MAX_BYTES]
        return [(end, text) for end, text in lines if text]

    def finish(self) -> list[tuple[int, bytes]]:
        """The last line, which nothing needs to end."""
        return [self._line(self._rest, len(self._rest))] if self._rest else []

    def _line(self, text: bytes, size: int) -> tuple[int, bytes]:
        self._offset += size
        is_too_long, self._is_too_long = self._is_too_long or len(text) > LINE_MAX_BYTES, False
        return self._offset, text[:LINE_MAX_BYTES].ljust(LINE_MAX_BYTES + 1, b"\0") if is_too_long else text


class Item(NamedTuple):
    """A file to work on: where the walk stands when it is done, its path; or a name for it and why it is none."""

    position: bytes
    parts: Parts
    name: str = ""
    error: MonofsError | None = None


class PathList:
    """The list at ``path``, whose paths lie at or below ``top``; relative ones are meant below it."""

    def __init__(
        self,
        namespace: Namespace,
        loader: Loader,
        issuer: Issuer,
        channels: Channels,
        run: Run,
        path: str,
        top: Parts,
        *,
        position: bytes = b"",
        separator: bytes = b"\n",
    ) -> None:
        """``position``: what the last item done said. Raises ``ConditionFailed`` when the list is another one by now."""
        self._namespace, self._loader, self._issuer, self._channels = namespace, loader, issuer, channels
        self._run, self._path, self._top, self._separator = run, path, top, separator
        self._content = ContentId(int.from_bytes(position[:8], "big"))
        self._at = self._done = int.from_bytes(position[8:], "big")
        self._lines = Lines(separator, self._at)
        self._waiting: list[tuple[int, bytes]] = []
        self.ended = False

    @property
    def position(self) -> bytes:
        """Where it begins now."""
        return self._position(self._done)

    async def count(self) -> int:
        """How many paths it lists."""
        count = 0
        while lines := await self._next():
            count += len(lines)
        return count

    async def slice(self) -> list[Item]:
        """The next items; none at the end. What is not known of them, or too old, was looked at in the stores."""
        lines = await self._next()
        self.ended = not lines
        items = [self._item(end, text) for end, text in lines]
        failures = await self._looked_at(items)
        return [self._checked(item, failures) for item in items]

    async def _next(self) -> list[tuple[int, bytes]]:
        while len(self._waiting) < SLICE_PATHS:
            data = await self._read()
            self._waiting += self._lines.feed(data) if data else self._lines.finish()
            if not data:
                self._lines = Lines(self._separator, self._at)
                break
        lines, self._waiting = self._waiting[:SLICE_PATHS], self._waiting[SLICE_PATHS:]
        if lines:
            self._done = lines[-1][0]
        return lines

    async def _read(self) -> bytes:
        """The next piece; empty at the end."""
        parts = parse_path(self._path)
        found = self._namespace.lookup(parts)
        inode = found.inode
        if inode is None or inode.is_directory:
            raise missing(parts, found) if inode is None else IsADirectory(f"{self._path} is a directory, and no list")
        if self._content not in (0, inode.content):
            raise ConditionFailed(f"{self._path}, the list of what to load, was changed meanwhile: begin another job")
        self._content = inode.content
        length = min(PIECE_BYTES, inode.size - self._at)
        if length <= 0:
            return b""
        token, _ = self._issuer.issue(parts, inode, found.located, pinned=found.pinned)
        data = await self._run.persist(lambda: self._channels.read(inode, token, self._at, length), also=SILENT)
        self._at += len(data)
        return data

    def _position(self, offset: int) -> bytes:
        return int(self._content).to_bytes(8, "big") + offset.to_bytes(8, "big")

    def _item(self, end: int, text: bytes) -> Item:
        top = format_path(self._top)
        try:
            if len(text) > LINE_MAX_BYTES:
                raise InvalidArgument(f"a line of more than {LINE_MAX_BYTES} bytes is no path")
            path = text.decode().removeprefix("./")
            parts = parse_path(path if path.startswith("/") else f"{top.rstrip('/')}/{path}")
            if not is_prefix(self._top, parts):
                raise InvalidArgument(f"it lies outside of {top}, which this job is about")
        except UnicodeDecodeError:
            return Item(self._position(end), (), _shown(text), InvalidArgument("it is not UTF-8"))
        except MonofsError as problem:
            return Item(self._position(end), (), _shown(text), problem)
        return Item(self._position(end), parts, format_path(parts))

    async def _looked_at(self, items: list[Item]) -> dict[Parts, MonofsError]:
        options = ReadOptions()

        def stale() -> list[tuple[Parts, Lookup]]:
            found = ((item.parts, self._namespace.lookup(item.parts)) for item in items if item.error is None)
            return [each for each in found if not self._loader.is_fresh(*each, options)]

        async def look() -> dict[Parts, MonofsError]:
            failures = await self._loader.look_at_many(stale(), options)
            for parts, error in failures.items():
                if isinstance(error, UNAVAILABLE) and self._namespace.lookup(parts).inode is None:
                    raise error
            return failures

        return await self._run.persist(look)

    def _checked(self, item: Item, failures: dict[Parts, MonofsError]) -> Item:
        if item.error is not None:
            return item
        found = self._namespace.lookup(item.parts)
        error = None
        if found.inode is None:
            error = failures.get(item.parts) or missing(item.parts, found)
        elif found.inode.is_directory:
            error = IsADirectory(f"{item.name} is a directory: a list names files; load a directory by itself")
        return item if error is None else item._replace(error=error)


def _shown(text: bytes) -> str:
    return text[:SHOWN].decode(errors="replace").replace("\0", "")
