"""What the suites of writing share: stores that are looked at and changed behind monofs' back, and when a node is at rest.

A :class:`Place` is one empty part of a real store. ``converged`` waits until a node owes its stores nothing more; ``disagreements``
compares tree and store by name and bytes.

Not here: what a tree should hold (tree_model.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from monofs.model.errors import Busy
from monofs.testing.buckets import Bucket

PATIENCE_S = 60.0
"""Far over what resolving an intent with its pauses takes, far under hanging."""


class Place(Protocol):
    """An empty part of a store. Names are relative to it, without a leading slash."""

    flat: bool
    """Directories are prefixes: they come and go with what lies below, unless a marker holds them."""
    uri: str

    @property
    def options(self) -> dict[str, str]: ...

    def put(self, name: str, data: bytes) -> None: ...

    def delete(self, name: str) -> None: ...

    def files(self) -> dict[str, bytes]:
        """All files with their bytes."""

    def directories(self) -> set[str]:
        """Directories; of flat stores, the markers."""

    def leftovers(self) -> list[str]:
        """What no finished operation may leave: temporary files, uploads that have parts."""


class Directory:
    """A directory of this machine."""

    flat = False

    def __init__(self, path: str) -> None:
        self.path = path
        os.makedirs(path)
        self.uri = f"file://{path}"
        self.options: dict[str, str] = {}

    def put(self, name: str, data: bytes) -> None:
        path = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(data)

    def delete(self, name: str) -> None:
        os.unlink(os.path.join(self.path, name))

    def files(self) -> dict[str, bytes]:
        found = {}
        for directory, _, names in os.walk(self.path):
            for name in names:
                path = os.path.join(directory, name)
                with open(path, "rb") as stream:
                    found[os.path.relpath(path, self.path)] = stream.read()
        return found

    def directories(self) -> set[str]:
        return {
            os.path.relpath(os.path.join(directory, name), self.path)
            for directory, names, _ in os.walk(self.path)
            for name in names
        }

    def leftovers(self) -> list[str]:
        found = [os.path.join(top, name) for top, *both in os.walk(self.path) for names in both for name in names]
        return [path for path in found if ".monofs-" in path]


class Prefix:
    """A prefix of a bucket."""

    flat = True

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix + "/"
        self.uri = f"{bucket.uri}/{prefix}"

    @property
    def options(self) -> dict[str, str]:
        return self._bucket.options

    def put(self, name: str, data: bytes) -> None:
        self._bucket.put(self._prefix + name, data)

    def delete(self, name: str) -> None:
        self._bucket.delete(self._prefix + name)

    def keys(self) -> list[str]:
        return [key.removeprefix(self._prefix) for key in self._bucket.keys(self._prefix)]

    def files(self) -> dict[str, bytes]:
        return {name: self._bucket.get(self._prefix + name) for name in self.keys() if name and name[-1] != "/"}

    def directories(self) -> set[str]:
        return {name[:-1] for name in self.keys() if name[-1:] == "/"}

    def leftovers(self) -> list[str]:
        return [name for name, parts in self._bucket.uploads(self._prefix).items() if parts]


def until(condition: Callable[[], object], what: Callable[[], object] | str, timeout_s: float = PATIENCE_S) -> None:
    """Ask again until it is so; ``what`` (said, or asked at the end) tells what was waited for."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.005
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s: {what if isinstance(what, str) else what()}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)


def owed(fs: Any, at: str = "/") -> list[Any]:
    """Intents and jobs at or below ``at`` that are not finished."""
    is_open = [*fs.intents(), *(job for job in fs.jobs() if job.state in ("running", "paused"))]
    return [each for each in is_open if f"{each.path}/".startswith(f"{at.rstrip('/')}/")]


def converged(fs: Any, at: str = "/", timeout_s: float = PATIENCE_S) -> None:
    """Wait until no intent and no job at or below ``at`` is open."""
    until(lambda: not owed(fs, at), lambda: f"still open: {owed(fs, at)}", timeout_s)


def synced(fs: Any, path: str) -> None:
    """Look at everything below ``path`` in its store now."""
    number = fs.sync(path, recursive=True).number
    until(lambda: fs.job(number).state != "running", lambda: f"{fs.job(number)}")
    job = fs.job(number)
    assert job.state == "done", job
    assert not job.failed, job


def tree_of(fs: Any, path: str) -> tuple[dict[str, bytes], set[str], set[str]]:
    """Everything below ``path``: files with their bytes, directories, and which of the files no store has."""
    infos = [info for info in fs.walk(path) if info.path != path]
    files = [info for info in infos if info.is_file]
    datas = fs.read_many([(info.path, 0, None) for info in files])
    relative = {info.path: info.path[len(path) + 1 :] for info in infos}
    return (
        {relative[info.path]: data for info, data in zip(files, datas, strict=True)},
        {relative[info.path] for info in infos if info.is_dir},
        {relative[info.path] for info in files if not info.is_persisted},
    )


def disagreements(fs: Any, path: str, place: Place) -> list[str]:
    """Where tree and store do not agree on names or bytes of files that the store should have; what was left behind.

    Where only the cache has a file, the store may have what was there before."""
    files, directories, unpersisted = tree_of(fs, path)
    expected = {name: data for name, data in files.items() if name not in unpersisted}
    there = place.files()
    found = [f"not in the store: {name}" for name in sorted(expected.keys() - there.keys())]
    found += [f"not in the tree: {name}" for name in sorted(there.keys() - files.keys())]
    found += [f"other bytes: {name}" for name in sorted(expected) if there.get(name, expected[name]) != expected[name]]
    found += [f"a directory the tree does not have: {name}" for name in sorted(place.directories() - directories)]
    return found + [f"left behind: {name}" for name in place.leftovers()]


def broken(fs: Any) -> dict[str, list[str]]:
    """Invariants of the namespace that do not hold. One check runs at a time: others wait for theirs."""
    found: list[dict[str, list[str]]] = []

    def checked() -> bool:
        try:
            found.append(fs.fsck().checks)
        except Busy:
            return False
        return True

    until(checked, "another check to end")
    return {name: findings for name, findings in found[0].items() if findings}
