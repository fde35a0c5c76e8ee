"""What goes on in the cluster by itself: jobs, policies, times to live, looking at stores again: a part of the file system object.

Not here: how any of it is done (the master and its workers).
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterator
from typing import Any

from monofs.client.administration import Administration
from monofs.client.errors import public, public_iterator
from monofs.client.info import FileInfo
from monofs.client.reading import Reading, clean
from monofs.client.transfer import checksum
from monofs.model.errors import STORE_AWAY, ContentChanged, NotFound
from monofs.model.options import ReadType
from monofs.rpc.api import (
    CompareAnswer,
    CompareRequest,
    Difference,
    Empty,
    IntentInfo,
    IntentListAnswer,
    JobAddRequest,
    JobInfo,
    JobListAnswer,
    JobListRequest,
    JobSteerRequest,
    Message,
    Method,
    NeedsSyncRequest,
    PolicyInfo,
    PolicyListAnswer,
    PolicySetRequest,
    SetTtlRequest,
)

POLL_FIRST_S = 0.05
POLL_LONGEST_S = 1.0
OTHER_BYTES = "other bytes cached"
"""Difference.problem of a file whose cached bytes are not the store's."""
_AT_WORK = ("running", "paused")


class Steering(Reading, Administration):
    """Base of FileSystem."""

    # ---- jobs ----

    @public
    def start_job(self, kind: str, path: str, **arguments: Any) -> JobInfo:
        """Begin a job: ``load``, ``free`` or ``sync`` of all at and below ``path``; arguments as the kind knows them: of a free ``force``, of a load
        ``metadata_only``, ``replicas``, ``bandwidth`` (bytes a second), ``verify`` (``after``, ``only``), ``index`` (a list of paths in the namespace), ``nul``."""
        texts = {name: _text(value) for name, value in arguments.items() if value is not None}
        return self._job(Method.JOB_ADD, lambda number: JobAddRequest(kind, path, texts, number))

    @public
    def load(
        self,
        path: str,
        *,
        metadata_only: bool = False,
        replicas: int | None = None,
        bandwidth_bytes_s: int | None = None,
        verify: str | None = None,
        index: str | None = None,
        progress: Callable[[JobInfo], None] | None = None,
    ) -> JobInfo:
        """Bring a file, or all files below a directory, into the cache, by a job; returns it when it has ended, failures included.

        ``metadata_only``: take over the store's listings only. ``replicas``: on how many workers of each block. ``bandwidth_bytes_s``: most that all
        workers together move for it. ``verify``: compare with checksums ``after``, or ``only``. ``index``: a file in the namespace that lists what to
        load, one path a line. While the store is away the job waits. Whoever stops waiting leaves the job at work. Raises ``NotFound``.
        """
        try:
            self.stat(path)
        except STORE_AWAY as error:  # the job waits for it, and finds out
            if not error.retry:
                raise
        begun = self.start_job(
            "load",
            path,
            metadata_only=metadata_only or None,
            replicas=replicas,
            bandwidth=bandwidth_bytes_s,
            verify=verify,
            index=index,
        )
        return self.wait_job(begun.number, progress)

    @public
    def jobs(self, ended: int | None = None) -> builtins.list[JobInfo]:
        """All jobs that are remembered, newest first; or, with ``ended``, those that are open and so many that ended last, 500 at
        most. :meth:`job` tells what failed, too."""
        if ended is not None:
            jobs = self._ask_jobs(JobListRequest(limit=ended, is_now=True))
            return (
                jobs if ended else [each for each in jobs if each.state in _AT_WORK]
            )  # a master before this release tells all
        found = page = self.jobs_before(0)
        while page:
            found += (page := self.jobs_before(page[-1].number))
        return found

    @public
    def jobs_before(self, number: int, limit: int = 0) -> builtins.list[JobInfo]:
        """Jobs with a lower number, newest first, 500 at most; of 0: the newest."""
        jobs = self._ask_jobs(JobListRequest(before=number, limit=limit))
        return [each for each in jobs if not number or each.number < number]  # a master before this release tells all

    def _ask_jobs(self, request: JobListRequest) -> builtins.list[JobInfo]:
        return self._session().ask(Method.JOB_LIST, request, JobListAnswer).jobs

    @public
    def job(self, number: int) -> JobInfo:
        """One job. Raises ``NotFound``."""
        if number < 1:
            raise NotFound(f"there is no job {number}: jobs are numbered from 1")
        return self._session().ask(Method.JOB_LIST, JobListRequest(number), JobListAnswer).jobs[0]

    @public
    def steer_job(self, number: int, action: str) -> JobInfo:
        """``pause``, ``resume`` or ``stop``. Jobs that owe a store something (delete, move) cannot be stopped."""
        return self._job(Method.JOB_STEER, lambda id: JobSteerRequest(number, action, id))

    @public
    def wait_job(
        self, number: int, progress: Callable[[JobInfo], None] | None = None, *, timeout_s: float | None = None
    ) -> JobInfo:
        """Wait until a job has ended, however it ended; ``progress`` gets each state seen. Raises TimeoutError after ``timeout_s``."""
        end_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        pause_s = POLL_FIRST_S
        while True:
            now = self.job(number)
            if progress is not None:
                progress(now)
            if now.state not in _AT_WORK:
                return now
            if time.monotonic() + pause_s > end_s:
                raise TimeoutError(f"job {number} is {now.state} after {timeout_s:g} s; it goes on")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, POLL_LONGEST_S)

    def _job(self, method: Method, make: Callable[[Any], Message]) -> JobInfo:
        return self._session().change(method, make, JobListAnswer).jobs[0]

    # ---- policies ----

    @public
    def policies(self) -> builtins.list[PolicyInfo]:
        """All policies, by path."""
        return self._session().ask(Method.POLICY_LIST, Empty(), PolicyListAnswer).policies

    @public
    def set_policy(
        self,
        path: str,
        *,
        sync_interval_s: float | None = None,
        write_type: str | None = None,
        quota_bytes: int | None = None,
        priority: str | None = None,
        ttl_s: int | None = None,
        layout: int | None = None,
        replicas: int | None = None,
    ) -> PolicyInfo:
        """Replace the policy of ``path`` and all below; None: as above it, field by field. ``layout``: the exponent of a block's size from 26
        (64 MiB) to 40, or 255: files are one block; of files that are new, or change. ``replicas``: on so many workers
        what is cached is kept."""
        policy = PolicyInfo(
            clean(path), sync_interval_s, write_type, quota_bytes, priority, ttl_s, layout=layout, replicas=replicas
        )
        return self._session().change(Method.POLICY_SET, lambda number: PolicySetRequest(policy, number), PolicyInfo)

    @public
    def remove_policy(self, path: str) -> None:
        """Let what is set above ``path`` hold for it. Raises ``NotFound`` where there is no policy."""
        self._session().change(
            Method.POLICY_SET, lambda number: PolicySetRequest(PolicyInfo(clean(path)), number), PolicyInfo
        )

    @public
    def set_ttl(self, path: str, duration_s: float | None, action: str = "free") -> None:
        """``free``, ``delete_cache_metadata`` or ``delete`` path and all below after ``duration_s``; None takes the TTL back."""
        self._session().change(Method.SET_TTL, lambda number: SetTtlRequest(path, duration_s, action, number), Empty)

    @public
    def intents(self) -> builtins.list[IntentInfo]:
        """Changes of stores that are under way, oldest first."""
        return self._session().ask(Method.INTENT_LIST, Empty(), IntentListAnswer).intents

    # ---- the store's side ----

    @public
    def needs_sync(self, path: str) -> None:
        """Trust nothing that was seen of ``path`` and below: the next access looks at the store."""
        self._session().change(Method.NEEDS_SYNC, lambda _: NeedsSyncRequest(path), Empty)

    @public
    def sync(self, path: str, *, recursive: bool = False) -> JobInfo | None:
        """Look at the store now: at ``path`` and its children at once, or by a job at everything below, which is returned."""
        if recursive:
            return self.start_job("sync", path)
        if self.stat(path, sync_interval_s=0.0).is_dir:
            for _ in self.list(path, sync_interval_s=0.0):
                pass
        return None

    @public_iterator
    def check_consistency(
        self, path: str, *, recursive: bool = True, checksum: bool = False, repair: bool = False
    ) -> Iterator[Difference]:
        """Where tree and store do not agree about ``path``, its children, or (``recursive``) everything below; changes nothing.

        ``checksum`` also reads every file with cached pages from the store and from the cache and compares the bytes.
        ``repair``: where they differ the tree takes over what the store has, and wrong pages are dropped.
        Raises what the store answers.
        """
        directories = [clean(path)]
        while directories:
            directory = directories.pop()
            for page in self._compare(directory):
                for difference in page.differences:
                    yield difference
                    if repair:
                        self._take_over(difference.path)
                if recursive:
                    directories.extend(page.directories)
            if checksum:
                for difference in self._compare_bytes(directory):
                    yield difference
                    if repair:
                        self.free(difference.path, force=True)

    def _compare(self, path: str) -> Iterator[CompareAnswer]:
        after = b""
        while True:
            page = self._session().ask(Method.COMPARE, CompareRequest(path, after), CompareAnswer)
            yield page
            if page.next is None:
                return
            after = page.next

    def _take_over(self, path: str) -> None:
        self.needs_sync(path)
        try:
            self.stat(path, sync_interval_s=0.0)
        except NotFound:
            pass  # that is what the store has

    def _compare_bytes(self, path: str) -> Iterator[Difference]:
        top = self._maybe_stat(path)
        if top is None:
            return
        files = [top] if top.is_file else (info for info in self.list(path) if info.is_file)
        batch: builtins.list[FileInfo] = []
        for info in files:
            if info.is_persisted and info.size:
                batch.append(info)
            if len(batch) == 100:
                yield from self._compare_cached(batch)
                batch = []
        yield from self._compare_cached(batch)

    def _compare_cached(self, batch: builtins.list[FileInfo]) -> Iterator[Difference]:
        try:
            cached = self.cached([info.path for info in batch]) if batch else {}
        except NotFound:
            return  # deleted meanwhile
        for path, groups in cached.items():
            if not groups:
                continue
            try:
                here, store = checksum(self, path), checksum(self, path, ReadType.STORE)
            except (ContentChanged, NotFound):
                continue  # another version by now, which comparing fingerprints tells
            if here != store:
                yield Difference(path, OTHER_BYTES, f"crc32 {here:08x}", f"crc32 {store:08x}")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
