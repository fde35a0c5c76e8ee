"""A store below /lake, changed and looked at behind the master's back, and what tests of jobs wait for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from master_house import House, write
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.testing.buckets import Bucket

OPEN = ("running", "paused")


class Lake:
    """Files of a directory, or objects of a bucket, by key."""

    def __init__(self, directory: Path | None, bucket: Bucket | None) -> None:
        self.directory, self.bucket = directory, bucket

    def put(self, key: str, data: bytes = b"data") -> None:
        if self.bucket is not None:
            self.bucket.put(key, data)
            return
        assert self.directory is not None
        path = self.directory / key
        if key.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, data)

    def get(self, key: str) -> bytes:
        if self.bucket is not None:
            return self.bucket.get(key)
        assert self.directory is not None
        return (self.directory / key).read_bytes()

    def listed(self) -> list[str]:
        """Files and markers; of a directory also what directories are empty."""
        if self.bucket is not None:
            return self.bucket.keys()
        assert self.directory is not None
        found = [path for path in self.directory.rglob("*") if path.is_file() or not any(path.iterdir())]
        return sorted(str(path.relative_to(self.directory)) + ("/" if path.is_dir() else "") for path in found)

    def mount(self, house: House, path: str = "/lake") -> None:
        if self.bucket is not None:
            house.ask(Method.MOUNT_ADD, api.MountAddRequest(path, self.bucket.uri, self.bucket.options))
        else:
            assert self.directory is not None
            house.mount(path, self.directory)


def directory_lake(tmp_path: Path) -> Lake:
    """An empty one."""
    directory = tmp_path / "lake"
    directory.mkdir()
    return Lake(directory, None)


def job(house: House, number: int) -> api.JobInfo:
    """How a job stands."""
    shown: api.JobInfo = house.ask(Method.JOB_LIST, api.JobListRequest(number)).jobs[0]
    return shown


def ended(house: House, number: int) -> api.JobInfo:
    """A job once it has ended."""
    wait_until_ended(house, number)
    return job(house, number)


def wait_until_ended(house: House, number: int) -> None:
    """Look at the state itself, which no journal can refuse."""

    async def wait() -> None:
        until = time.monotonic() + 60
        while (one := house.namespace.job(number)) is not None and not one.ended_ns:
            assert time.monotonic() < until, f"job {number} does not end: {one}"
            await deferLater(reactor, 0.01)

    reactor: Any = house.loop.reactor
    house.loop.do(lambda: Deferred.fromCoroutine(wait()))


def start(house: House, kind: str, path: str, **arguments: str) -> int:
    """Add a job; its number."""
    number: int = house.ask(Method.JOB_ADD, api.JobAddRequest(kind, path, arguments)).jobs[0].number
    return number


def remove_tree(house: House, path: str) -> int:
    number: int = house.ask(Method.REMOVE_TREE, api.RemoveTreeRequest(path)).job
    return number


def rename(house: House, source: str, target: str) -> int:
    number: int = house.ask(Method.RENAME, api.RenameRequest(source, target)).job
    return number


def steer(house: House, number: int, action: str) -> api.JobInfo:
    shown: api.JobInfo = house.ask(Method.JOB_STEER, api.JobSteerRequest(number, action)).jobs[0]
    return shown


def tree(house: House, path: str, interval_s: float | None = None, load: str = "ONCE") -> list[str]:
    """All paths below, as LIST shows them."""
    found = []
    for name in house.list(path, interval_s, load=load):
        found.append(f"{path}/{name}")
        if name.endswith("/"):
            found += tree(house, f"{path}/{name[:-1]}", interval_s, load)
    return found
