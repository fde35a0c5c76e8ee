"""The process that decodes one Parquet file for a preview: ``python -m monofs.web.parquet_child SIZE``. See parquet.py, which starts it and feeds it.

Bounded by the kernel: memory, processor time, no files. Not imported by the node.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import sys
from typing import Any

ROWS_MAX, COLUMNS_MAX, VALUE_MAX = 50, 60, 200
MEMORY_BYTES, PROCESSOR_S = 1 << 30, 20
PIECE_BYTES, BUFFER_BYTES = 1 << 20, 1 << 20
ASK = struct.Struct("<qq")


class Asked(io.RawIOBase):
    """The file at the other end of the pipes."""

    def __init__(self, size: int, source: Any, sink: Any) -> None:
        super().__init__()
        self._size, self._source, self._sink, self._position = size, source, sink, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._position

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """As of any file."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """From the position on."""
        left = max(0, self._size - self._position)
        if size is not None and size >= 0:
            left = min(left, size)
        pieces = []
        while left:
            length = min(left, PIECE_BYTES)
            self._sink.write(ASK.pack(self._position, length))
            self._sink.flush()
            piece = self._source.read(length)
            if len(piece) != length:
                raise EOFError
            pieces.append(piece)
            self._position += length
            left -= length
        return b"".join(pieces)


def look(file: Asked) -> dict[str, Any]:
    """Schema and first rows."""
    import pyarrow as pa
    from pyarrow import parquet

    pa.set_cpu_count(1)
    opened = parquet.ParquetFile(pa.PythonFile(file, mode="r"), buffer_size=BUFFER_BYTES)
    schema = opened.schema_arrow
    names = schema.names[:COLUMNS_MAX]
    told: dict[str, Any] = {
        "columns": [{"name": each.name[:VALUE_MAX], "type": str(each.type)[:VALUE_MAX]} for each in schema][:1000],
        "row_count": opened.metadata.num_rows,
        "rows": [],
        "note": f"The first {COLUMNS_MAX} of {len(schema.names)} columns." if len(schema.names) > COLUMNS_MAX else "",
    }
    for batch in opened.iter_batches(batch_size=ROWS_MAX, columns=names, use_threads=False):
        for at in range(batch.num_rows):
            told["rows"].append([_shown(column[at].as_py()) for column in batch.columns])
        if len(told["rows"]) >= ROWS_MAX:
            break
    told["rows"] = told["rows"][:ROWS_MAX]
    return told


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else repr(value) if isinstance(value, bytes) else str(value)
    return text if len(text) <= VALUE_MAX else text[: VALUE_MAX - 1] + "…"


def main() -> None:
    """Read, answer, end."""
    import msgspec

    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    os.environ["OMP_NUM_THREADS"] = "1"
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sink = sys.stdout.buffer
    try:
        told = look(Asked(int(sys.argv[1]), sys.stdin.buffer, sink))
    except Exception as error:  # noqa: BLE001 - whatever decoding raises is what there is to tell
        told = {"note": f"This file could not be read as Parquet: {str(error)[:300]}"}
    answer = msgspec.json.encode(told)
    sink.write(ASK.pack(-1, len(answer)) + answer)
    sink.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
