"""A program that reads through a cluster without end and compares every byte with the files themselves.

``python -m monofs.testing.readers --masters … --source DIR --mount PATH --seed S``: threads read ranges and whole files, one of them keeps files open for long. It
prints ``ready``, reads until its standard input ends, then prints its :class:`Seen` as JSON. ``--far`` behaves as on another machine: no Unix sockets, no descriptors.
Invariant checked: what is read is what lies in the source. Errors are counted, not judged: whether there was reason for one only the trial knows (siege.py).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

import monofs
import monofs.client.cluster
from monofs.model.errors import MonofsError

LONG_S = 1.0
LARGEST_BYTES = 1 << 20
HELD = 24
"""Files that the one which keeps them open has open."""
TIMEOUT_S = 20.0
WORDS_MAX = 20


class Took(msgspec.Struct):
    """One read that took longer than ``LONG_S``, or failed; times by the machine's monotonic clock."""

    path: str
    began_s: float
    ended_s: float
    error: str = ""


class Seen(msgspec.Struct):
    """What came of all reads of one program."""

    reads: int = 0
    read_bytes: int = 0
    longest_s: float = 0.0
    long: list[Took] = []
    errors: dict[str, int] = {}
    wrongs: list[str] = []


class Reading:
    """The threads of one program; ``seen`` is theirs together."""

    def __init__(self, fs: Any, source: str, mount: str, seed: str) -> None:
        self._fs, self._source, self._mount, self._seed = fs, source, mount, seed
        self._names = sorted(os.listdir(source))
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.seen = Seen()
        self._errors: Counter[str] = Counter()

    def run(self, threads: int) -> Seen:
        """Read until standard input ends."""
        work = [self._read_anything] * threads + [self._read_held]
        running = [threading.Thread(target=self._go_on, args=(each, n)) for n, each in enumerate(work)]
        for each in running:
            each.start()
        sys.stdin.buffer.read()
        self._stopping.set()
        for each in running:
            each.join()
        self.seen.errors = dict(self._errors)
        return self.seen

    def _go_on(self, work: Any, number: int) -> None:
        try:
            work(random.Random(f"{self._seed}/{number}"))
        except Exception as error:  # noqa: BLE001 - a thread that died silently would make the trial easy
            self._wrong(f"a reader failed: {error!r}")

    def _read_anything(self, drawn: random.Random) -> None:
        while not self._stopping.is_set():
            name = drawn.choice(self._names)
            offset, length = (0, None) if drawn.random() < 0.3 else self._range(drawn, name)
            self._compare(
                name, offset, length, functools.partial(self._fs.read, f"{self._mount}/{name}", offset, length)
            )

    def _read_held(self, drawn: random.Random) -> None:
        """A data loader: its files stay open, whatever becomes of masters and workers."""
        held: dict[str, Any] = {}
        for name in itertools.islice(itertools.cycle(drawn.sample(self._names, len(self._names))), 1 << 40):
            if self._stopping.is_set():
                break
            if name not in held:
                try:
                    held[name] = self._fs.open(f"{self._mount}/{name}")
                except (MonofsError, OSError) as error:
                    self._count(Took(name, 0.0, 0.0, type(error).__name__), 0)
                    continue
                if len(held) > HELD:
                    held.pop(next(iter(held))).close()
            for _ in range(drawn.randrange(1, 6)):
                kept = drawn.choice(list(held))
                offset, length = self._range(drawn, kept)
                self._compare(kept, offset, length, functools.partial(_read_at, held[kept], offset, length))
        for file in held.values():
            file.close()

    def _range(self, drawn: random.Random, name: str) -> tuple[int, int]:
        size = os.path.getsize(f"{self._source}/{name}")
        offset = drawn.randrange(1, size)
        return offset, 1 + int(min(size - offset, LARGEST_BYTES) * drawn.random() ** 3)

    def _compare(self, name: str, offset: int, length: int | None, read: Any) -> None:
        began_s = time.monotonic()
        took = Took(name, began_s, began_s)
        data = b""
        try:
            data = read()
        except (MonofsError, OSError) as error:
            took.error = f"{type(error).__name__}: {error}"
        took.ended_s = time.monotonic()
        if not took.error:
            with open(f"{self._source}/{name}", "rb") as file:
                file.seek(offset)
                expected = file.read() if length is None else file.read(length)
            if data != expected:
                self._wrong(_difference(name, offset, data, expected))
        self._count(took, len(data))

    def _count(self, took: Took, count: int) -> None:
        seen, lasted_s = self.seen, took.ended_s - took.began_s
        with self._lock:
            if took.error:
                self._errors[took.error.partition(":")[0]] += 1
            else:
                seen.reads += 1
                seen.read_bytes += count
            seen.longest_s = max(seen.longest_s, lasted_s)
            if lasted_s > LONG_S or took.error:
                seen.long.append(took)

    def _wrong(self, words: str) -> None:
        with self._lock:
            if len(self.seen.wrongs) < WORDS_MAX:
                self.seen.wrongs.append(words)


def _read_at(file: Any, offset: int, length: int) -> bytes:
    file.seek(offset)
    return bytes(file.read(length))


def _difference(name: str, offset: int, data: bytes, expected: bytes) -> str:
    if len(data) != len(expected):
        return f"{name} at {offset}: {len(data)} bytes, not {len(expected)}"
    first = next(at for at, (one, other) in enumerate(zip(data, expected, strict=True)) if one != other)
    return f"{name} at {offset + first}: wrong bytes (of {len(data)} read from {offset} on)"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m monofs.testing.readers", description=__doc__.partition("\n")[0])
    parser.add_argument("--masters", required=True)
    parser.add_argument("--source", required=True, help="the directory that is mounted")
    parser.add_argument("--mount", required=True, help="where")
    parser.add_argument("--seed", required=True)
    parser.add_argument("--threads", type=int, default=2, help="besides the one that keeps files open [default: 2]")
    parser.add_argument("--far", action="store_true", help="read as from another machine")
    options = parser.parse_args()
    if options.far:
        monofs.client.cluster.host_id = lambda: "another machine"  # type: ignore[assignment,attr-defined]
    with monofs.connect(options.masters, timeout_s=TIMEOUT_S) as fs:
        sys.stdout.buffer.write(b"ready\n")
        sys.stdout.buffer.flush()
        seen = Reading(fs, str(Path(options.source)), options.mount, options.seed).run(options.threads)
    sys.stdout.buffer.write(msgspec.json.encode(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
