"""Schema and first rows of a Parquet file, read by a process of its own.

A file may be made to break who reads it: so a child without our secrets, with bounded memory and time, decodes it; it asks for bytes over its pipe, and gets those of this one file. Invariant: whatever
the file holds, this node's memory grows by no more than ``ANSWER_MAX_BYTES``, and the child is gone at the end. Not here: the child (parquet_child.py).
"""

from __future__ import annotations

import importlib.util
import os
import select
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import msgspec

from monofs.model.errors import Overloaded
from monofs.web.preview import Column, Preview

AT_ONCE = 2
TIMEOUT_S = 30.0
PIECE_MAX_BYTES = 1 << 20
ANSWER_MAX_BYTES = 4 << 20
ASK = struct.Struct("<qq")
"""From the child: (offset, length) it wants; or (-1, length): its answer follows."""
KEPT = ("PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH", "HOME", "VIRTUAL_ENV")
"""What the child sees of the environment."""
_slots = threading.BoundedSemaphore(AT_ONCE)


class Answer(msgspec.Struct):
    """Of the child."""

    columns: list[Column] = []
    rows: list[list[str | None]] = []
    row_count: int = 0
    note: str = ""


class _Broken(Exception):
    """The child gave no answer; says why."""


def preview_parquet(file: Any) -> Preview:
    """Blocking. ``file`` has ``size`` and ``pread``. Raises ``Overloaded``, and what reading raises."""
    size = int(file.size)
    if importlib.util.find_spec("pyarrow") is None:
        return Preview("parquet", size, False, note="Install pyarrow beside monofs on this node to see schema and rows: pip install pyarrow")  # fmt: skip
    if not _slots.acquire(timeout=5.0):
        raise Overloaded("other Parquet files are being looked at: try again shortly")
    try:
        told = _ask_child(file, size)
    except _Broken as error:
        return Preview("parquet", size, False, note=f"This file could not be read as Parquet: {error}")
    finally:
        _slots.release()
    return Preview("parquet", size, len(told.rows) == told.row_count, columns=told.columns, rows=told.rows, row_count=told.row_count, note=told.note)  # fmt: skip


def _ask_child(file: Any, size: int) -> Answer:
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    words = [sys.executable, "-m", "monofs.web.parquet_child", str(size)]
    deadline_s = time.monotonic() + TIMEOUT_S
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, bufsize=0
    ) as child:
        try:
            while True:
                offset, length = ASK.unpack(_take(child.stdout, ASK.size, deadline_s))
                if offset < 0:
                    if length > ANSWER_MAX_BYTES:
                        raise _Broken("its rows are too long")
                    return msgspec.json.decode(_take(child.stdout, length, deadline_s), type=Answer)
                if not 0 <= offset <= offset + length <= size or length > PIECE_MAX_BYTES:
                    raise _Broken("it asks for bytes it does not have")
                _give(child.stdin, file.pread(offset, length))
        except (BrokenPipeError, msgspec.MsgspecError):
            raise _Broken("its reader failed") from None
        finally:
            child.kill()


def _give(stream: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def _take(stream: Any, length: int, deadline_s: float) -> bytes:
    data = bytearray()
    while len(data) < length:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not select.select([stream], [], [], left_s)[0]:
            raise _Broken(f"no answer within {TIMEOUT_S:.0f} s")
        piece = stream.read(min(length - len(data), 1 << 20))
        if not piece:
            raise _Broken("its reader ended, perhaps for want of memory")
        data += piece
    return bytes(data)
