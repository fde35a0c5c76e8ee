"""Opening a cache: from the durable index and the files on disk to the tables in memory.

Order, which is law: attach directories; read the index; claim the run (unclean mark, generation, file numbers) durably; only then may anything be
written. Invariants afterwards: every group in memory has a record and a file; every file in an attached, writable directory
belongs to a group, kept ones set aside included; ``used`` is exact. After an unclean stop every group on a disk is unverified, and a file shorter than its
group is dropped with it, unless it is kept. Memory beyond the groups themselves: one dict of file numbers per directory.
"""

from __future__ import annotations

import os
import re
import secrets
import struct
import sys
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

from monofs.model.block import GROUP_SIZE_BYTES, page_count
from monofs.model.errors import HomeUnusable, TierUnusable
from monofs.model.ids import ContentId, MountId
from monofs.observe.logs import logger
from monofs.tiering.blockfile import BlockFile, first_of
from monofs.tiering.directory import Directory, Known
from monofs.tiering.group import Group, GroupTable, mask_bytes
from monofs.tiering.index import ASIDE, CURSOR, GROUPS, KEPT, KEY, META, NEXT_FILE, ORDER, PINS, Index, Record

FORMAT = 1
FORMAT_ASIDE = 2
"""Something is set aside: a release that does not know of that must not sweep its files."""
FORMAT_BLOCKS = 3
"""A file may hold several groups (or something is set aside): a release that does not know of that would unlink it with the first."""
FILE_CLAIM = 1 << 20
"""File numbers are claimed durably in runs of this many; a number is never used twice."""
SWEEPERS = 32
"""Subdirectories looked at at a time where one may take half a second."""
ORDER_CHUNK = 8192
"""Pairs (file number, last read) in one value of the order table."""

_decode_record = msgspec.msgpack.Decoder(Record).decode
_decode_known = msgspec.msgpack.Decoder(list[Known]).decode
_encode = msgspec.msgpack.encode
_SUBDIRECTORY = re.compile("[0-9a-f]{2}")

log = logger(__name__)


class Run(msgspec.Struct):
    """What one run of a cache knows of itself."""

    cache: str
    """Hex id of the cache."""
    generation: int
    trusted_from: int
    """Pages known to be good in this generation or later need no check."""
    was_clean: bool
    next_file: int
    cluster: bytes
    incarnation: int
    cursor: int
    format: int = FORMAT


def raise_format(index: Index, run: Run, to: int) -> None:
    """What is stored from now on needs a release that knows this format."""
    if to > run.format:
        run.format = to
        index.put(META, b"format", to.to_bytes(8, "big"))


def read_run(index: Index) -> Run:
    """Read the meta table. Raises ``HomeUnusable`` for a newer format."""

    def number(name: bytes) -> int:
        return int.from_bytes(index.meta(name) or b"", "big")

    found = index.meta(b"format")
    if found is not None and int.from_bytes(found, "big") not in (FORMAT, FORMAT_ASIDE, FORMAT_BLOCKS):
        raise HomeUnusable(f"the cache index {index.directory} is of a newer format; run the monofs that wrote it")
    is_clean = found is None or index.meta(b"clean") == b"1"
    generation = number(b"generation") + 1
    return Run(
        cache=(index.meta(b"cache") or secrets.token_bytes(16)).hex(),
        generation=generation,
        trusted_from=max(number(b"trusted_from"), 1) if is_clean else generation,
        was_clean=is_clean,
        next_file=max(number(NEXT_FILE), 1),
        cluster=index.meta(b"cluster") or b"",
        incarnation=number(b"incarnation"),
        cursor=number(CURSOR),
    )


def attach_directories(index: Index, run: Run, directories: list[Directory]) -> None:
    """Attach each directory; one that cannot be used says why in its ``error`` and the others go on."""
    known = _decode_known(index.meta(b"directories") or b"\x90")
    by_path = {entry.path: entry for entry in known}
    for directory in directories:
        try:
            directory.attach(run.cache, by_path.get(directory.spec.directory), index.directory)
        except (OSError, TierUnusable) as error:
            directory.detach()
            directory.error = str(error)
            log.error("storage directory is unusable", directory=directory.spec.directory, error=directory.error)
    by_identity = {entry.identity: entry.number for entry in known}
    taken: set[int] = set()
    top = max((entry.number for entry in known), default=-1)
    for directory in sorted(directories, key=lambda directory: not directory.attached):
        entry = by_path.get(directory.spec.directory)
        directory.number = by_identity.get(directory.identity, -1)
        if not directory.attached and entry is not None and entry.number not in taken:
            directory.number, directory.identity, directory.beside = entry.number, entry.identity, entry.beside
        if directory.number < 0:
            top += 1
            directory.number = top
        taken.add(directory.number)


def claim_run(index: Index, run: Run, directories: list[Directory], missed: set[int]) -> None:
    """Make durable that this run has begun. ``missed``: directories, configured or not, that must be known again when they return.

    Raises ``TierUnusable``.
    """
    known = [Known(d.number, d.identity, d.spec.directory, d.beside) for d in directories if d.identity]
    numbers = {entry.number for entry in known}
    before = _decode_known(index.meta(b"directories") or b"\x90")
    known.extend(entry for entry in before if entry.number in missed - numbers)
    for entry in before:
        if entry not in known and entry.path not in {directory.spec.directory for directory in directories}:
            log.warning(
                "a storage directory is used no more: the cached pages in it may be removed", directory=entry.path
            )
    meta = {
        b"format": run.format.to_bytes(8, "big"),
        b"cache": bytes.fromhex(run.cache),
        b"clean": b"0",
        b"generation": run.generation.to_bytes(8, "big"),
        b"trusted_from": run.trusted_from.to_bytes(8, "big"),
        b"directories": _encode(known),
        NEXT_FILE: (run.next_file + FILE_CLAIM).to_bytes(8, "big"),
    }
    for name, value in meta.items():
        index.put(META, name, value)
    index.start()
    index.flush()


def load_pins(index: Index) -> set[int]:
    """Ids of pinned contents."""
    return {int.from_bytes(key, "big") for key, _ in index.scan(PINS)}


def load_groups(
    index: Index, run: Run, directories: list[Directory], pins: set[int], table: GroupTable
) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Fill the table from the index; returns the keys of records that are of no use any more (of directories that are no longer
    configured, or damaged: what they name can be fetched again), and the records of kept groups among those, which are not dropped.

    Raises ``HomeUnusable`` for a record that only a newer version understands.
    """
    by_number = {directory.number: directory for directory in directories}
    useless: list[bytes] = []
    absent: dict[bytes, bytes] = {}
    for key, value in index.scan(GROUPS):
        try:
            record = _decode_record(value)
            content, number = KEY.unpack(key)
        except (msgspec.MsgspecError, struct.error) as error:
            log.warning("damaged record dropped", key=key.hex(), error=str(error))
            useless.append(key)
            continue
        if record.flags & ~KEPT:
            raise HomeUnusable(f"the cache index {index.directory} was written by a newer monofs; run that one")
        directory = by_number.get(record.directory)
        if directory is None or not is_sound(record, run):
            if record.flags & KEPT:
                log.error("bytes that no store has lie in a directory that is not configured", key=key.hex())
                absent[key] = value
            else:
                useless.append(key)
            continue
        group = _group_of(record, ContentId(content), number, directory, run)
        group.pinned = content in pins
        table.add(group)
    return useless, absent


def load_aside(index: Index, run: Run, directories: list[Directory]) -> dict[bytes, tuple[Group | None, bytes]]:
    """What is set aside, by its key: a group that is held for good, or None where its directory is not configured; and the record."""
    by_number = {directory.number: directory for directory in directories}
    found: dict[bytes, tuple[Group | None, bytes]] = {}
    for key, value in index.scan(ASIDE):
        record = _decode_record(value)
        content, number = KEY.unpack(key[24:])
        group, directory = None, by_number.get(record.directory)
        if directory is not None:
            group = _group_of(record, ContentId(content), number, directory, run)
            group.alive, group.holds = False, 1
        found[key] = group, value
    return found


def directories_of(values: list[bytes]) -> set[int]:
    """Numbers of the directories that records name."""
    return {_decode_record(value).directory for value in values}


def _group_of(record: Record, content: ContentId, number: int, directory: Directory, run: Run) -> Group:
    verified = directory.in_memory or record.generation >= run.trusted_from
    return Group(
        content, number, record.file, record.length, directory, MountId(record.mount), record.cache_group, record.admitted_ns,
        record.admitted_ns, record.present, record.crcs, base=record.base, verified=verified, suspect=not verified,
        kept=bool(record.flags & KEPT), layout=record.layout,
    )  # fmt: skip


def is_sound(record: Record, run: Run) -> bool:
    """Whether a record's numbers can be true together."""
    pages = page_count(record.length)
    return (
        0 < record.length <= GROUP_SIZE_BYTES
        and 0 < record.present < 1 << pages
        and len(record.crcs) == 4 * pages
        and 0 < record.file < run.next_file
        and record.base >= 0
    )


def sweep(run: Run, directory: Directory, groups: dict[int, list[Group]]) -> list[Group]:
    """Compare the files of an attached directory with its groups (by file number): unlinks files that belong to none and returns
    groups whose file is missing or, after an unclean stop, has not the right size."""
    found: set[int] = set()
    lost: list[Group] = []
    # else left over from a probe, or not ours
    subdirectories = [name for name in os.listdir(directory.pages_fd) if _SUBDIRECTORY.fullmatch(name)]
    for subdirectory, files in _list_all(directory, subdirectories, with_sizes=not run.was_clean):
        if files is None:
            if directory.writable:
                _remove(subdirectory, directory.pages_fd)  # it stands where files will want to be
            continue
        for name, size in files:
            file = _file_number(name, int(subdirectory, 16))
            there = groups.get(file)
            if there is None:
                if directory.writable:
                    _remove(f"{subdirectory}/{name}", directory.pages_fd)
                continue
            found.add(file)
            if not run.was_clean:
                lost.extend(group for group in there if not has_size(group, size))
    lost.extend(group for file, there in groups.items() if file not in found for group in there)
    return lost


def _list_all(
    directory: Directory, subdirectories: list[str], *, with_sizes: bool
) -> Iterator[tuple[str, list[tuple[str, int]] | None]]:
    """Each subdirectory and its files; of a disk that may be slow to answer many at a time."""
    look = partial(_list_files, directory.pages_fd, with_sizes=with_sizes)
    if directory.is_local:
        yield from zip(subdirectories, map(look, subdirectories), strict=True)
        return
    with ThreadPoolExecutor(SWEEPERS, "monofs-sweep") as threads:
        yield from zip(subdirectories, threads.map(look, subdirectories), strict=True)


def _list_files(below: int, subdirectory: str, *, with_sizes: bool) -> list[tuple[str, int]] | None:
    """Names of a directory's files, with their sizes if those are wanted; None: it is no directory."""
    try:
        fd = os.open(subdirectory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=below)
    except NotADirectoryError:
        return None
    try:
        if not with_sizes:
            return [(name, 0) for name in os.listdir(fd)]
        return [(name, os.stat(name, dir_fd=fd, follow_symlinks=False).st_size) for name in os.listdir(fd)]
    finally:
        os.close(fd)


def has_size(group: Group, size: int) -> bool:
    """Whether its file may have ``size`` bytes."""
    end = group.base + group.length
    return size == end if group.block is None else size >= end


def find_blocks(groups: dict[int, list[Group]]) -> list[BlockFile]:
    """Groups of larger blocks that lie in one file, by file number, find each other again; the files of those that others may join."""
    blocks = []
    for there in groups.values():
        first = first_of(there[0].number, there[0].layout)
        if first is None:
            continue
        block = BlockFile()
        for group in there:
            block.join(group)
        if any(group.alive for group in there):
            blocks.append(block)
    return blocks


def _file_number(name: str, subdirectory: int) -> int:
    """The number ``name`` stands for; -1 for a name that the cache did not make."""
    try:
        file = int(name, 16)
    except ValueError:
        return -1
    return file if f"{file:x}" == name and file & 255 == subdirectory else -1


def _remove(name: str, fd: int) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except OSError as error:
        log.warning("an orphan file cannot be removed", file=name, error=str(error))


def in_order(index: Index, directory: Directory, groups: dict[int, list[Group]]) -> Iterator[Group]:
    """All groups, those that go first before the others: the order of the last clean stop, then what came later by file number."""
    seen: set[int] = set()
    prefix = directory.number.to_bytes(2, "big")
    for key, value in index.scan(ORDER):
        if not key.startswith(prefix):
            continue
        pairs = array("Q")
        pairs.frombytes(value)
        if sys.byteorder == "big":
            pairs.byteswap()
        for file, read_ns in zip(pairs[::2], pairs[1::2], strict=True):
            if file in seen or file not in groups:
                continue
            seen.add(file)
            for group in groups[file]:
                group.read_ns = read_ns
                yield group
    for file in sorted(groups.keys() - seen):
        yield from groups[file]


def store_order(index: Index, directory: Directory, groups: Iterator[Group]) -> None:
    """Queue the order table of a directory, in place of the one before."""
    prefix = directory.number.to_bytes(2, "big")
    for key, _ in index.scan(ORDER):
        if key.startswith(prefix):
            index.put(ORDER, key, None)
    chunk, pairs = 0, array("Q")
    for group in groups:
        pairs.append(group.file)
        pairs.append(group.read_ns)
        if len(pairs) == 2 * ORDER_CHUNK:
            index.put(ORDER, prefix + chunk.to_bytes(4, "big"), _little(pairs))
            chunk, pairs = chunk + 1, array("Q")
    if pairs:
        index.put(ORDER, prefix + chunk.to_bytes(4, "big"), _little(pairs))


def _little(pairs: array[int]) -> bytes:
    if sys.byteorder == "big":
        pairs.byteswap()
    return pairs.tobytes()


def count_usage(directory: Directory, groups: Iterator[Group]) -> None:
    """Set the directory's numbers from its groups, those set aside (not alive) counting as used only."""
    for group in groups:
        size = mask_bytes(group.length, group.present)
        directory.used += size
        if not group.alive:
            continue
        directory.groups += 1
        if group.pinned:
            directory.pinned += size
