"""Reading many pieces of many files in few requests.

One OPEN_MANY a thousand files, one READ_MANY a thousand small pieces and worker; large pieces, and files with several pieces on this
machine, go through descriptors. A batch that fails is taken apart: each piece then succeeds or fails by itself.

Invariant: all pieces of one path in one call are of one content; a path that changes underneath is read again from its
first piece, once. Not here: retries and renewals (reader.py).
"""

from __future__ import annotations

import functools
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar, cast

from monofs.client.ahead import Promised
from monofs.client.cluster import WorkerLink
from monofs.client.descriptors import GROUP_SHIFT, key_of, process_table
from monofs.client.file import MonofsFile
from monofs.client.info import Found, FoundMany, Opened, OpenedMany
from monofs.client.reader import Reader, check_readable
from monofs.client.session import Session
from monofs.model.block import block_of
from monofs.model.errors import (
    ConnectionLost,
    ContentChanged,
    DeadlineExceeded,
    InvalidArgument,
    MonofsError,
    NotReady,
    NoWorker,
    Unreachable,
    from_code,
)
from monofs.model.ids import ContentId
from monofs.rpc.api import Failure, Method, OpenManyRequest, ReadManyRequest, ReadOptions, StatManyRequest

PATHS_MAX = 1000
PIECES_MAX = 1024
BATCH_BYTES_MAX = 16 << 20
SMALL_BYTES = 256 << 10
"""Larger pieces travel alone: straight into their own memory, or by descriptor."""
OTHERS_LOOKED_AT = 64
"""Pieces of a batch that tell whom else to ask for it."""
DESCRIPTOR_PIECES = 4
"""So many pieces of one file are worth a descriptor."""
THREADS_MAX = 8

Piece = tuple[str | MonofsFile, int, int | None]
"""Path or open file, offset (negative: from the end), length (None: to the end)."""

A = TypeVar("A", Found, Opened)


@dataclass(slots=True)
class _Job:
    """One piece with its place in the answer, cut to the file's size."""

    index: int
    reader: Reader
    offset: int
    length: int


def stat_many(session: Session, paths: Sequence[str], options: ReadOptions) -> list[Found | MonofsError]:
    """What STAT says of each path, in order."""
    found: list[Found | MonofsError] = []
    for start in range(0, len(paths), PATHS_MAX):
        batch = list(paths[start : start + PATHS_MAX])
        answer = session.look(Method.STAT_MANY, StatManyRequest(batch, options), FoundMany, options)
        found.extend(_merge(answer.answers, answer.failures))
    return found


def open_many(session: Session, paths: Sequence[str], options: ReadOptions) -> list[Opened | MonofsError]:
    """What OPEN says of each path, in order; a directory is an error."""
    found: list[Opened | MonofsError] = []
    for start in range(0, len(paths), PATHS_MAX):
        batch = list(paths[start : start + PATHS_MAX])

        def ask(timeout_s: float | None, batch: list[str] = batch) -> list[Opened | MonofsError]:
            request = OpenManyRequest(batch, options)
            answer = session.ask(Method.OPEN_MANY, request, OpenedMany, timeout_s=timeout_s)
            return _merge(answer.answers, answer.failures)

        for path, opened in zip(batch, session.open_by(ask, batch), strict=True):
            try:
                if isinstance(opened, Opened):
                    check_readable(path, opened)
                found.append(opened)
            except MonofsError as error:
                found.append(error)
    return found


def read_many(
    get_session: Callable[[], Session], pieces: Iterable[Piece], options: ReadOptions, read_type: str
) -> list[bytes | MonofsError]:
    """The bytes of each piece, cut off at the end of its file, or its error; in order."""
    wanted = list(pieces)
    results: list[bytes | MonofsError] = [b""] * len(wanted)
    _read_all(get_session, wanted, results, options, read_type)
    return results


def submit_many(
    get_session: Callable[[], Session], pieces: Iterable[Piece], options: ReadOptions, read_type: str
) -> list[Future[bytes]]:
    """A future for each piece, at once; see :mod:`monofs.client.ahead` for when they end. Raises ``Overloaded``."""
    wanted = list(pieces)
    results = Promised([piece[0] for piece in wanted])

    def read() -> None:
        _read_all(get_session, wanted, results, options, read_type)

    get_session().ahead.submit(read).add_done_callback(lambda call: results.finish(call.exception()))
    return results.futures


def _read_all(
    get_session: Callable[[], Session],
    wanted: list[Piece],
    results: list[bytes | MonofsError],
    options: ReadOptions,
    read_type: str,
) -> None:
    every = range(len(wanted))
    _read_pass(get_session, wanted, every, results, options, read_type)
    changed = {wanted[i][0] for i in every if isinstance(results[i], ContentChanged)}
    changed = {source for source in changed if isinstance(source, str)}  # an open file stays what it is
    if changed:
        again = [i for i in every if wanted[i][0] in changed]
        fresh = ReadOptions(sync_interval_s=0.0, load=options.load)
        _read_pass(get_session, wanted, again, results, fresh, read_type)


def _read_pass(
    get_session: Callable[[], Session],
    wanted: list[Piece],
    indexes: Iterable[int],
    results: list[bytes | MonofsError],
    options: ReadOptions,
    read_type: str,
) -> None:
    session = get_session()
    indexes = list(indexes)
    counts = Counter(wanted[i][0] for i in indexes)
    paths = [source for source in counts if isinstance(source, str)]
    opened = dict(zip(paths, open_many(session, paths, options), strict=True))
    readers: dict[str | MonofsFile, Reader] = {}
    batches: dict[WorkerLink, list[_Job]] = {}
    alone: dict[str | MonofsFile, list[_Job]] = {}
    for i in indexes:
        source, offset, length = wanted[i]
        try:
            reader = readers.get(source)
            if reader is None and isinstance(source, str):
                answer = opened[source]
                if isinstance(answer, MonofsError):
                    raise answer
                reader = Reader(get_session, source, answer, options, read_type, may_reopen=False)
            elif reader is None:
                reader = cast(MonofsFile, source).settled()
            readers[source] = reader
            start, count = clip(reader.opened.inode.size, offset, length)
            if count == 0:
                results[i] = b""
                continue
            job = _Job(i, reader, start, count)
            link = _batch_link(session, job, counts[source])
            if link is None:
                alone.setdefault(source, []).append(job)
            else:
                batches.setdefault(link, []).append(job)
        except MonofsError as error:
            results[i] = error
    tasks: list[Callable[[], None]] = [
        lambda link=link, jobs=jobs: _read_batches(link, session, jobs, results, read_type)  # type: ignore[misc]
        for link, jobs in batches.items()
    ]
    shares = [share for jobs in alone.values() for share in _shares(jobs)]
    tasks.extend(lambda jobs=jobs: _read_alone(session, jobs, results) for jobs in shares)  # type: ignore[misc]
    _run(tasks)


def clip(size: int, offset: int, length: int | None) -> tuple[int, int]:
    """(offset, length) within a file of ``size`` bytes."""
    if length is not None and length < 0:
        raise InvalidArgument(f"length {length} is negative")
    start = min(size, offset if offset >= 0 else max(0, size + offset))
    return start, size - start if length is None else min(length, size - start)


def _batch_link(session: Session, job: _Job, pieces: int) -> WorkerLink | None:
    """The worker whose batch a piece joins; None: read it by itself."""
    inode = job.reader.opened.inode
    last = job.offset + job.length - 1
    if job.length > SMALL_BYTES or job.offset >> GROUP_SHIFT != last >> GROUP_SHIFT:
        return None
    block = block_of(job.offset, inode.layout)
    if block != block_of(last, inode.layout):
        return None
    opened = job.reader.opened
    try:
        links = session.cluster.candidates(inode.content, block, opened.epoch, opened.workers, opened.replicas)
    except (NotReady, NoWorker):  # read by itself, it waits for one to come, or does without
        return None
    link = links[0]
    if link.is_local and (
        pieces >= DESCRIPTOR_PIECES or process_table().get(key_of(link, inode, job.offset >> GROUP_SHIFT))
    ):
        return None
    return link


def _shares(jobs: list[_Job]) -> Iterable[list[_Job]]:
    """The pieces of one file for several threads, when they are large: else those that are missing would come one by one from their store."""
    total = sum(job.length for job in jobs)
    size = max(SMALL_BYTES, -(-total // THREADS_MAX))
    share, length = [], 0
    for job in jobs:
        share.append(job)
        length += job.length
        if length >= size:
            yield share
            share, length = [], 0
    if share:
        yield share


def _block(job: _Job) -> tuple[ContentId, int]:
    inode = job.reader.opened.inode
    return inode.content, block_of(job.offset, inode.layout)


def _others(session: Session, jobs: list[_Job], link: WorkerLink) -> list[WorkerLink]:
    """Whom else to ask for a batch: who comes next for most of its pieces goes first."""
    now_s, counts = time.monotonic(), Counter[WorkerLink]()
    for job in jobs[:OTHERS_LOOKED_AT]:
        workers = job.reader.workers(session, job.offset)
        counts.update([each for each in workers if each is not link and each.is_well(now_s)][:1])
    return [each for each, _ in counts.most_common()]


def _cut(jobs: list[_Job]) -> Iterable[list[_Job]]:
    batch: list[_Job] = []
    total = 0
    for job in jobs:
        if len(batch) == PIECES_MAX or total + job.length > BATCH_BYTES_MAX:
            yield batch
            batch, total = [], 0
        batch.append(job)
        total += job.length
    if batch:
        yield batch


def _read_batches(
    link: WorkerLink, session: Session, jobs: list[_Job], results: list[bytes | MonofsError], read_type: str
) -> None:
    """One after another: two of one worker at a time contend for this interpreter and fresh memory, and take longer."""
    for batch in _cut(jobs):
        _read_batch(link, session, batch, results, read_type)


def _read_elsewhere(session: Session, jobs: list[_Job], results: list[bytes | MonofsError], read_type: str) -> None:
    """The pieces of a worker that does not answer, once more in batches: piece by piece each would wait for what the others find out about it."""
    batches: dict[WorkerLink | None, list[_Job]] = {}
    for job in jobs:
        batches.setdefault(_batch_link(session, job, 1), []).append(job)

    def read(link: WorkerLink | None, mine: list[_Job]) -> None:
        if link is None:
            _read_alone(session, mine, results)
        else:
            for batch in _cut(mine):
                _read_batch(link, session, batch, results, read_type, is_again=True)

    _run([functools.partial(read, link, mine) for link, mine in batches.items()])


def _read_batch(
    link: WorkerLink,
    session: Session,
    jobs: list[_Job],
    results: list[bytes | MonofsError],
    read_type: str,
    *,
    is_again: bool = False,
) -> None:
    numbers: dict[bytes, int] = {}
    pieces = []
    for job in jobs:
        number = numbers.setdefault(job.reader.opened.capability, len(numbers))
        pieces.append((number, job.offset, job.length))
    buffer = bytearray(sum(job.length for job in jobs))
    cluster = session.cluster
    spread = bool(cluster.hot) and any(cluster.is_spread(*_block(job), link) for job in jobs)
    past_owner = time.monotonic() < cluster.silent_until_s and any(
        cluster.is_past_owner(*_block(job), link) for job in jobs
    )
    request = ReadManyRequest(list(numbers), pieces, read_type, spread, past_owner)
    try:
        count = session.read_into(link, request, memoryview(buffer), lambda: _others(session, jobs, link))
        if count != len(buffer):
            raise ConnectionLost(f"the worker sent {count} of {len(buffer)} bytes")
    except MonofsError as error:
        session.check_open()
        if isinstance(error, ConnectionLost | Unreachable) and not is_again:
            session.cluster.failed(link, error)
            _read_elsewhere(session, jobs, results, read_type)
        else:
            _read_alone(session, jobs, results)
        return
    position = 0
    view = memoryview(buffer)
    for job in jobs:
        results[job.index] = bytes(view[position : position + job.length])
        position += job.length


def _read_alone(session: Session, jobs: list[_Job], results: list[bytes | MonofsError]) -> None:
    """Piece by piece. Once they have failed for as long as one operation may take, the rest is not tried."""
    deadline_s = time.monotonic() + session.options.timeout_s
    failed: MonofsError | None = None
    for job in jobs:
        try:
            if failed is not None and time.monotonic() >= deadline_s:
                raise DeadlineExceeded(f"{job.reader.path}: no time was left after another piece failed: {failed}")
            results[job.index] = read_bytes(job.reader, job.offset, job.length)
        except DeadlineExceeded as error:
            failed = failed or error
            results[job.index] = error
        except MonofsError as error:
            failed = error
            results[job.index] = error


def read_bytes(reader: Reader, offset: int, length: int) -> bytes:
    """Exactly ``length`` bytes that lie within the file, in one copy."""
    descriptor = reader.hot.at(offset)
    if descriptor is not None and offset + length <= descriptor.end:
        descriptor.used = True
        return os.pread(descriptor.fd, length, offset + descriptor.shift)
    whole = io.BytesIO(bytes(length))  # filled in place: BytesIO shares what it alone refers to
    with whole.getbuffer() as view:
        count = reader.read_into(offset, view)
    data = whole.getvalue()
    return data if count == length else data[:count]


def _run(tasks: list[Callable[[], None]]) -> None:
    if len(tasks) < 2:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(min(THREADS_MAX, len(tasks)), "monofs-read") as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()


def _merge(answers: list[A | None], failures: dict[int, Failure]) -> list[A | MonofsError]:
    merged: list[A | MonofsError] = []
    for position, answer in enumerate(answers):
        if answer is not None:
            merged.append(answer)
            continue
        failure = failures.get(position)
        if failure is None:
            merged.append(MonofsError("the master sent neither an answer nor an error for a path"))
        else:
            merged.append(from_code(failure.code, failure.message, failure.detail))
    return merged
