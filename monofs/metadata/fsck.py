"""The invariants of the namespace, each a named check: run by tests, by ``monofs admin fsck`` and by whoever wants to be sure.

One pass over ``tree`` feeds the checks of single records; the checks of the whole run on what that pass saw. Works on a
:class:`Store` (memtables included, on its own thread, in one go) and on a :class:`Snapshot` (any thread, or a closed home). Memory: one bit
per inode and content id ever given, so 100 million files need about 40 MB. Nothing is repaired here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from monofs.metadata.fsck_writing import (
    RECORD_CHECKS_OF_WRITING,
    WHOLE_CHECKS_OF_WRITING,
    RecordCheck,
    WholeCheck,
)
from monofs.metadata.sessions import ANSWERS_PER_CLIENT_MAX, split_answer_key
from monofs.metadata.snapshot import Snapshot
from monofs.metadata.state import decode_mount
from monofs.metadata.store import Store
from monofs.metadata.survey import Survey
from monofs.metadata.tables import (
    ABOVE_ROOT,
    APPLIED,
    BUCKETS,
    BUCKETS_MAX,
    FEED_CONTENTS_MAX,
    GRAVES,
    IDENTITY_BYTES,
    IDS,
    KEYS,
    MOUNTS,
    PLACEMENT,
    REMOVAL,
    RETIRED,
    ROOT_KEY,
    TOMBSTONES,
    WORKERS,
    FeedKind,
    KeyKind,
    decode_bucket,
    decode_feed,
    decode_grave,
    decode_key,
    decode_placement,
    decode_tombstone,
    pack_id,
    unpack_id,
)
from monofs.model.attributes import BODY_MAX_BYTES
from monofs.model.bucket import check_bucket_name
from monofs.model.errors import MonofsError
from monofs.model.ids import COUNTER_BITS, NO_CONTENT
from monofs.model.inode import Flag, Inode, Kind, decode_inode
from monofs.model.paths import name_problem, parse_path
from monofs.model.s3_key import S3_RIGHTS
from monofs.model.slots import table_of
from monofs.model.token import GRANTABLE

_KEY_KINDS = frozenset(KeyKind)
FINDINGS_MAX = 100
"""Findings kept of one check."""
_COUNTER = (1 << COUNTER_BITS) - 1
_ALL_FLAGS = sum(map(int, Flag)) - int(Flag.INTENT)
"""INTENT was never set: intents lock paths (table ``locks``)."""
_DIRECTORY_FLAGS = Flag.EXPLICIT | Flag.LOADED | Flag.MOUNT | Flag.MADE | Flag.KEPT | Flag.IMPLIED | Flag.MARKER

# ---- checks of one record -------------------------------------------------------------------------------------------


def _name_fits_kind(_: Survey, parent: int, key: bytes, inode: Inode) -> str | None:
    if (parent == ABOVE_ROOT) != (key == ROOT_KEY):
        return "only the root lies above the root"
    if key.endswith(b"/") != (inode.kind == Kind.DIRECTORY):
        return f"kind {inode.kind} under this form of key"
    return None if key == ROOT_KEY else name_problem(key.removesuffix(b"/"))


def _parent_is_known(survey: Survey, parent: int, _key: bytes, _inode: Inode) -> str | None:
    if parent == ABOVE_ROOT or parent in survey.detached or survey.directory(parent) is not None:
        return None
    return f"directory {parent} has no record in ids"


def _directory_is_in_ids(survey: Survey, parent: int, key: bytes, inode: Inode) -> str | None:
    if inode.kind != Kind.DIRECTORY or survey.directory(inode.id) == (parent, key):
        return None
    return f"ids has {survey.directory(inode.id)} for directory {inode.id}"


def _inode_id_is_given_once(survey: Survey, _parent: int, _key: bytes, inode: Inode) -> str | None:
    if not 0 < inode.id <= survey.meta.last_inode:
        return f"inode id {inode.id} was never given (the counter stands at {survey.meta.last_inode})"
    return f"inode id {inode.id} has two names" if survey.inode_ids.add(inode.id) else None


def _content_id_is_given_once(survey: Survey, _parent: int, _key: bytes, inode: Inode) -> str | None:
    if inode.content == NO_CONTENT:
        return None
    incarnation, counter = inode.content >> COUNTER_BITS, inode.content & _COUNTER
    if not 0 < incarnation <= survey.meta.incarnation:
        return f"content of incarnation {incarnation}, this cluster is in {survey.meta.incarnation}"
    if counter == 0 or (incarnation == survey.meta.incarnation and counter > survey.meta.last_content):
        return f"content counter {counter} was never given (it stands at {survey.meta.last_content})"
    if not inode.flags & Flag.PERSISTED:
        survey.unpersisted.add(inode.content)
    return f"content {inode.content:x} has two names" if survey.contents.add(inode.content) else None


def _content_fits_size(_: Survey, _parent: int, _key: bytes, inode: Inode) -> str | None:
    if inode.kind == Kind.DIRECTORY:
        most = BODY_MAX_BYTES if inode.flags & Flag.MARKER else 0
        is_stored = most and inode.fingerprint  # it may have more bytes in its store
        fits = inode.size >= 0 and (is_stored or inode.size <= most)
        return None if fits and inode.content == NO_CONTENT else f"size {inode.size}"
    if inode.size < 0:
        return f"size {inode.size}"
    if (inode.size > 0) != (inode.content != NO_CONTENT):
        return f"{inode.size} bytes and content id {inode.content}"
    return None


def _flags_are_sane(_: Survey, _parent: int, _key: bytes, inode: Inode) -> str | None:
    flags = inode.flags
    if flags & ~_ALL_FLAGS:
        return f"unknown flags {flags:#x}"
    if inode.kind != Kind.DIRECTORY and flags & _DIRECTORY_FLAGS:
        return f"flags of a directory on kind {inode.kind}: {flags:#x}"
    if inode.kind == Kind.DIRECTORY and flags & Flag.HEADERS_UNKNOWN and not flags & Flag.MARKER:
        return "a directory that is no object has no headers"
    if flags & Flag.KEPT and not flags & Flag.EXPLICIT:
        return "a directory is kept and not explicit"
    return "a mount point is explicit" if flags & Flag.MOUNT and not flags & Flag.EXPLICIT else None


def _changed_index_is_past(survey: Survey, _parent: int, _key: bytes, inode: Inode) -> str | None:
    if inode.changed_index <= survey.meta.applied_index:
        return None
    return f"changed at index {inode.changed_index}, applied is {survey.meta.applied_index}"


def _mount_flag_has_mount(survey: Survey, _parent: int, _key: bytes, inode: Inode) -> str | None:
    survey.mount_points += 1 if inode.flags & Flag.MOUNT else 0
    return None


RECORD_CHECKS: dict[str, RecordCheck] = {
    "name-fits-kind": _name_fits_kind,
    "parent-is-known": _parent_is_known,
    "directory-is-in-ids": _directory_is_in_ids,
    "inode-id-is-given-once": _inode_id_is_given_once,
    "content-id-is-given-once": _content_id_is_given_once,
    "content-fits-size": _content_fits_size,
    "flags-are-sane": _flags_are_sane,
    "changed-index-is-past": _changed_index_is_past,
    "mounts-have-mount-points": _mount_flag_has_mount,
    **RECORD_CHECKS_OF_WRITING,
}

# ---- checks of the whole --------------------------------------------------------------------------------------------


def _meta_is_there(survey: Survey) -> Iterator[str]:
    meta = survey.meta
    if not survey.has_meta:
        yield "the database holds no state: it was never flushed"
    elif not meta.cluster or not meta.incarnation or not meta.level:
        yield "the namespace is not initialised"


def _root_is_there(survey: Survey) -> Iterator[str]:
    root = survey.record(ABOVE_ROOT, ROOT_KEY)
    if survey.meta.cluster and (root is None or root.kind != Kind.DIRECTORY):
        yield "there is no root directory"


def _directories_are_reachable(survey: Survey) -> Iterator[str]:
    """Every record of ids is the directory it names, and climbing from it ends at the root or at a detached directory."""
    for key, raw in survey.all(IDS):
        directory, place = unpack_id(key), (unpack_id(raw), raw[8:])
        inode = survey.record(*place)
        if inode is None or inode.id != directory:
            yield f"ids says directory {directory} lies at {place}, where there is another record or none"
        elif directory in survey.detached:
            yield f"directory {directory} is detached and still has a record in ids"
        elif not _climbs(survey, directory):
            yield f"directory {directory} cannot be reached from the root"


def _climbs(survey: Survey, directory: int) -> bool:
    path: list[int] = []
    seen: set[int] = set()
    while directory != ABOVE_ROOT and directory not in survey.reached and directory not in survey.detached:
        place = survey.directory(directory)
        if place is None or directory in seen:
            return False
        seen.add(directory)
        path.append(directory)
        directory = place[0]
    for passed in path:
        survey.reached.add(passed)
    return True


def _mounts_have_mount_points(survey: Survey) -> Iterator[str]:
    mounts = [(unpack_id(key), decode_mount(raw)) for key, raw in survey.all(MOUNTS)]
    for mount_id, mount in mounts:
        if mount.id != mount_id or not 0 < mount_id <= survey.meta.last_mount:
            yield f"mount id {mount.id} under key {mount_id}, the counter stands at {survey.meta.last_mount}"
        inode = _walk(survey, mount.path)
        if inode is None or not inode.flags & Flag.MOUNT:
            yield f"the mount {mount.path} has no mount point"
    if len({mount.path for _, mount in mounts}) != len(mounts):
        yield "two mounts have the same path"
    if survey.mount_points != len(mounts):
        yield f"{survey.mount_points} directories are marked as mount points, there are {len(mounts)} mounts"


def _walk(survey: Survey, path: str) -> Inode | None:
    try:
        parts = parse_path(path)
    except MonofsError:
        return None
    inode = survey.record(ABOVE_ROOT, ROOT_KEY)
    for name in parts:
        inode = None if inode is None else survey.record(inode.id, name + b"/")
    return inode


def _inodes_are_counted(survey: Survey) -> Iterator[str]:
    if survey.inodes != survey.meta.inodes:
        yield f"{survey.inodes} records in tree, the count says {survey.meta.inodes}"


def _feed_has_no_gaps(survey: Survey) -> Iterator[str]:
    yield from _numbered(survey, RETIRED, survey.meta.feed_tail, survey.meta.feed_head)
    for key, raw in survey.all(RETIRED):
        record = decode_feed(raw)
        if record.kind not in set(FeedKind) or not 0 < len(record.contents) <= FEED_CONTENTS_MAX:
            yield f"feed record {unpack_id(key)} has kind {record.kind} and {len(record.contents)} contents"


def _retired_content_has_no_name(survey: Survey) -> Iterator[str]:
    for key, raw in survey.all(RETIRED):
        record = decode_feed(raw)
        for content in record.contents if record.kind == FeedKind.RETIRED else ():
            if content in survey.contents:
                yield f"content {content:x} is retired by feed record {unpack_id(key)} and still has a name"


def _removal_has_no_gaps(survey: Survey) -> Iterator[str]:
    yield from _numbered(survey, REMOVAL, survey.meta.removal_tail, survey.meta.removal_head)


def _tombstones_have_graves(survey: Survey) -> Iterator[str]:
    yield from _numbered(survey, GRAVES, survey.meta.graves_tail, survey.meta.graves_head)
    for key, raw in survey.all(TOMBSTONES):
        stone = decode_tombstone(raw)
        grave = survey.view.get(GRAVES, pack_id(stone.grave))
        if grave is None or pack_id(decode_grave(grave).parent) + decode_grave(grave).key != key:
            yield f"tombstone {key!r} has no grave {stone.grave}"
        if not 0 < stone.index <= survey.meta.buried_index:
            yield f"tombstone {key!r} has index {stone.index}, the newest was made at {survey.meta.buried_index}"


def _answers_are_bounded(survey: Survey) -> Iterator[str]:
    held: dict[bytes, int] = {}
    for key, _ in survey.all(APPLIED):
        client, _sequence = split_answer_key(key)
        held[client] = held.get(client, 0) + 1
    for client, answers in held.items():
        if answers > ANSWERS_PER_CLIENT_MAX:
            yield f"client {client.hex()} holds {answers} answers"


def _workers_are_distinct(survey: Survey) -> Iterator[str]:
    identities: set[bytes] = set()
    for key, record in survey.all(WORKERS):
        identity = record[:IDENTITY_BYTES]
        if not 0 < unpack_id(key) <= survey.meta.last_worker or identity in identities:
            yield f"worker {unpack_id(key)} was never given an id, or another has its identity"
        identities.add(identity)


def _slots_are_of_workers(survey: Survey) -> Iterator[str]:
    """There is at most one slot table; it lists for every slot the same number of distinct workers, and all of them were registered."""
    workers = {unpack_id(key) for key, _ in survey.all(WORKERS)}
    for number, (_, raw) in enumerate(survey.all(PLACEMENT)):
        placement = decode_placement(raw)
        problem = table_of(placement.epoch, placement.replicas, placement.rows).problem(workers)
        if problem is not None:
            yield problem
        if number or not 0 < placement.epoch <= survey.meta.applied_index:
            yield f"slot table {number} is of epoch {placement.epoch}, applied is {survey.meta.applied_index}"


def _tokens_are_distinct(survey: Survey) -> Iterator[str]:
    names: set[str] = set()
    for at, raw in survey.all(KEYS):
        key = decode_key(raw)
        if key.number != unpack_id(at) or not 0 < key.number <= survey.meta.last_key:
            yield f"token {key.number} lies under {unpack_id(at)}, or was never issued (the counter stands at {survey.meta.last_key})"
        if key.kind not in _KEY_KINDS:
            yield f"token {key.number} has kind {key.kind}"
        is_s3 = key.kind == KeyKind.S3
        if not is_s3 and key.name in names:
            yield f"two tokens are called {key.name}"
        if not key.rights or key.rights & ~int(S3_RIGHTS if is_s3 else GRANTABLE):
            yield f"token {key.number} has rights {key.rights:#x}, which no such token can have"
        if not is_s3:
            names.add(key.name)


def _buckets_are_sane(survey: Survey) -> Iterator[str]:
    count = 0
    for key, raw in survey.all(BUCKETS):
        bucket, count = decode_bucket(raw), count + 1
        try:
            check_bucket_name(key.decode())
            parse_path(bucket.path)
        except MonofsError as problem:
            yield f"bucket {key!r}: {problem.message}"
    if count > BUCKETS_MAX:
        yield f"{count} buckets have a name"


def _numbered(survey: Survey, space: int, tail: int, head: int) -> Iterator[str]:
    """A queue holds exactly the numbers from ``tail`` up to, not including, ``head``."""
    expected = tail
    for key, _ in survey.all(space):
        if unpack_id(key) != expected:
            yield f"number {unpack_id(key)} stands where {expected} should"
            return
        expected += 1
    if expected != head:
        yield f"the last number is {expected - 1}, it should be {head - 1}"


WHOLE_CHECKS: dict[str, WholeCheck] = {
    "meta-is-there": _meta_is_there,
    "root-is-there": _root_is_there,
    "directories-are-reachable": _directories_are_reachable,
    "mounts-have-mount-points": _mounts_have_mount_points,
    "inodes-are-counted": _inodes_are_counted,
    "feed-has-no-gaps": _feed_has_no_gaps,
    "retired-content-has-no-name": _retired_content_has_no_name,
    "removal-has-no-gaps": _removal_has_no_gaps,
    "tombstones-have-graves": _tombstones_have_graves,
    "answers-are-bounded": _answers_are_bounded,
    "workers-are-distinct": _workers_are_distinct,
    "slots-are-of-workers": _slots_are_of_workers,
    "tokens-are-distinct": _tokens_are_distinct,
    "buckets-are-sane": _buckets_are_sane,
    **WHOLE_CHECKS_OF_WRITING,
}
RECORD_DECODES = "record-decodes"
CHECKS: tuple[str, ...] = (RECORD_DECODES, *dict.fromkeys((*RECORD_CHECKS, *WHOLE_CHECKS)))
"""The names of all checks."""


def check_namespace(view: Store | Snapshot, *, stopped: Callable[[], bool] = lambda: False) -> dict[str, list[str]]:
    """Run every check: name to its findings, at most 100 each (an empty list: it holds).

    ``NotReady`` soon after ``stopped()`` turns true, for whoever must close the database while a thread checks it.
    """
    survey = Survey(view, stopped)
    findings: dict[str, list[str]] = {name: [] for name in CHECKS}
    for parent, key, raw in survey.tree():
        survey.inodes += 1
        try:
            inode = decode_inode(raw)
        except msgspec.MsgspecError as problem:
            _add(findings[RECORD_DECODES], f"{parent}/{key!r}: {problem}")
            continue
        for name, check in RECORD_CHECKS.items():
            finding = check(survey, parent, key, inode)
            if finding is not None:
                _add(findings[name], f"{parent}/{key!r}: {finding}")
    for name, whole in WHOLE_CHECKS.items():
        try:
            for finding in whole(survey):
                _add(findings[name], finding)
        except (msgspec.MsgspecError, ValueError, IndexError) as problem:
            _add(findings[RECORD_DECODES], f"{name}: a record cannot be decoded: {problem}")
    return findings


def _add(findings: list[str], finding: str) -> None:
    if len(findings) < FINDINGS_MAX:
        findings.append(finding)
