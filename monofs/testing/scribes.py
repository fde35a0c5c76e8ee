"""Clients that write small files' bytes through workers into a store, read them back, and compare.

Each has a directory of its own, so it knows what every file may hold: the bytes that were acknowledged last; of a write whose outcome was not learnt, the
old ones or the new, and such a file is not written again. Invariant checked: what was acknowledged is what is read, at any moment through the cache
and at the end in the store itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monofs.model.errors import AlreadyExists, MonofsError, NotFound
from monofs.testing.workload import Client, Record

LARGEST_BYTES = 64 << 10
PATIENCE_S, AGAIN_S = 30.0, 0.2
AGAIN = 0.3
"""How often a write replaces a file."""


class Scribe(Client):
    """``home``: its directory in the tree; ``store``: where a file of it is on the local disk, which is the store."""

    home = ""
    store = Path()

    def __init__(self, number: int, connect: Callable[[], Any], record: Record, seed: str) -> None:
        super().__init__(number, connect, record, seed)
        self._seed = f"{seed}/{number}"
        self._last = 0
        self.may_hold: dict[str, set[int]] = {}
        """Name → numbers of the contents it may have; 0: there is no such file."""

    def step(self) -> None:
        """One write or read."""
        if not self.may_hold or self.random.random() < 0.5:
            self._write()
        else:
            name = self.random.choice(list(self.may_hold))
            try:
                problem = self._problem(self._fs, name)
            except (MonofsError, OSError) as error:
                self.record.outcomes["file read unknown"] += 1
                self.record.errors[f"file read: {type(error).__name__}"] += 1
                return
            self.record.outcomes["file read ok"] += 1
            self.record.wrongs += problem

    def _write(self) -> None:
        self._last += 1
        sure = [name for name, numbers in self.may_hold.items() if len(numbers) == 1]
        name = self.random.choice(sure) if sure and self.random.random() < AGAIN else f"f{self._last}"
        before, data = self.may_hold.get(name, {0}), self._content(self._last)
        outcome = self.change("file write", lambda: self._fs.write(f"{self.home}/{name}", data), AlreadyExists)
        self.may_hold[name] = {self._last} if outcome == "ok" else before | {self._last}

    def _content(self, number: int) -> bytes:
        """The bytes of one write: no two are alike."""
        drawn = random.Random(f"{self._seed}/{number}")
        return f"{self._seed}/{number}\n".encode() + drawn.randbytes(drawn.randrange(LARGEST_BYTES))

    def _is_right(self, name: str, data: bytes | None) -> bool:
        return any(data == (self._content(number) if number else None) for number in self.may_hold[name])

    def _problem(self, fs: Any, name: str) -> list[str]:
        """What is wrong with what is read, in words. Raises what reading does."""
        path = f"{self.home}/{name}"
        try:
            data: bytes | None = fs.read(path)
        except NotFound:
            data = None
        return [] if self._is_right(name, data) else [f"{path} reads as {_shown(data)}, not as what was written"]

    def missing(self, fs: Any) -> list[str]:
        """What was acknowledged and is not so, in words: as it is read, and in the store. Workers have a while to find the leader."""
        wrongs: list[str] = []
        deadline_s = time.monotonic() + PATIENCE_S
        for name in self.may_hold:
            while True:
                try:
                    wrongs += self._problem(fs, name)
                except (MonofsError, OSError) as error:
                    if time.monotonic() < deadline_s:
                        time.sleep(AGAIN_S)
                        continue
                    wrongs.append(f"{self.home}/{name} cannot be read: {error!r}")
                break
            file = self.store / name
            data = file.read_bytes() if file.exists() else None
            if not self._is_right(name, data):
                wrongs.append(f"{self.home}/{name} is {_shown(data)} in the store, not what was written")
        return wrongs


def _shown(data: bytes | None) -> str:
    return "nothing" if data is None else f"{len(data)} bytes ({data[:40]!r}…)"
