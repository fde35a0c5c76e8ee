"""The invariants of writing, each a named check like those of fsck.py, which runs them: intents and their locks, jobs, policies, times to
live, bytes that no store has, and objects that lie elsewhere than their path says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from monofs.metadata.known_jobs import TREE_KINDS, is_open
from monofs.metadata.open_intents import lock_paths
from monofs.metadata.survey import Survey, join
from monofs.metadata.tables import (
    ATTRIBUTES,
    EXPIRY,
    INTENTS,
    JOBS,
    JOBS_MAX,
    LOCKS,
    MOUNTS,
    PLACES,
    POLICIES,
    TTLS,
    IntentKind,
    Job,
    JobKind,
    JobState,
    decode_intent,
    decode_job,
    decode_places,
    decode_policy,
    decode_ttl,
    pack_id,
    path_key,
    unpack_id,
)
from monofs.model.attributes import check_attributes, decode_attributes
from monofs.model.errors import InvalidArgument
from monofs.model.ids import COUNTER_BITS, NO_CONTENT
from monofs.model.inode import Flag, Inode, Kind

RecordCheck = Callable[[Survey, int, bytes, Inode], str | None]
WholeCheck = Callable[[Survey], Iterator[str]]
_INTENT_KINDS = frozenset(IntentKind)
_JOB_KINDS = frozenset(JobKind)
_JOB_STATES = frozenset(JobState)

# ---- checks of one record -------------------------------------------------------------------------------------------


def _store_paths_lead_to_objects(survey: Survey, parent: int, key: bytes, inode: Inode) -> str | None:
    """``store_path`` is the natural key, or that of an object which an open MOVE job has still to move."""
    if inode.store_path is None:
        return None
    home = survey.home(parent)
    own = inode.store_path.encode()
    if home.key is None or join(home.key, key.removesuffix(b"/")) == own:
        return None
    for job in survey.jobs:
        if job.kind == JobKind.MOVE and is_open(job):
            moved = job.key.encode()
            if own.startswith(moved + b"/") or (own == moved and inode.id == job.directory):
                return None
    return f"its object lies at {inode.store_path}, which is not its path and which no job moves"


def _unpersisted_is_kept(survey: Survey, parent: int, _key: bytes, inode: Inode) -> str | None:
    """No listing can take away what no store has: all directories above it are EXPLICIT."""
    if inode.kind != Kind.FILE or inode.flags & Flag.PERSISTED or survey.home(parent).is_explicit:
        return None
    return "no store has it, and a directory above it is not explicit"


def _unpersisted_has_places(survey: Survey, _parent: int, _key: bytes, inode: Inode) -> str | None:
    if inode.flags & Flag.PERSISTED or inode.content == NO_CONTENT:
        return None
    return None if survey.view.get(PLACES, pack_id(inode.content)) else "no store has it, and it is not told who has"


def _attributes_are_of_files(survey: Survey, _parent: int, _key: bytes, inode: Inode) -> str | None:
    number = inode.attributes
    if number is None:
        return None
    if inode.kind not in (Kind.FILE, Kind.DIRECTORY) or not 0 < number <= survey.meta.last_attributes:
        return f"kind {inode.kind} with attributes {number} (the counter stands at {survey.meta.last_attributes})"
    if survey.attributes.add(number):
        return f"attributes {number} are another file's, too"
    return None if survey.view.get(ATTRIBUTES, pack_id(number)) else f"attributes {number} are not there"


RECORD_CHECKS_OF_WRITING: dict[str, RecordCheck] = {
    "store-paths-lead-to-objects": _store_paths_lead_to_objects,
    "unpersisted-is-kept": _unpersisted_is_kept,
    "places-are-of-unpersisted": _unpersisted_has_places,
    "attributes-are-of-files": _attributes_are_of_files,
}

# ---- checks of the whole --------------------------------------------------------------------------------------------


def _locks_follow_intents(survey: Survey) -> Iterator[str]:
    wanted: dict[bytes, int] = {}
    for _, raw in survey.all(INTENTS):
        intent = decode_intent(raw)
        for path in lock_paths(intent):
            if path_key(path) in wanted:
                yield f"intents {wanted[path_key(path)]} and {intent.number} both lock {path}"
            wanted[path_key(path)] = intent.number
    held = {key: unpack_id(raw) for key, raw in survey.all(LOCKS)}
    for key in sorted(wanted.keys() | held.keys()):
        if wanted.get(key) != held.get(key):
            yield f"{key!r} is locked by {held.get(key)}, it should be by {wanted.get(key)}"


def _intents_are_sound(survey: Survey) -> Iterator[str]:
    """Counted, of mounts that exist, each with a content that was given and has no name yet."""
    meta, count = survey.meta, 0
    for key, raw in survey.all(INTENTS):
        intent, count = decode_intent(raw), count + 1
        if intent.number != unpack_id(key) or not 0 < intent.number <= meta.last_intent:
            yield f"intent {intent.number} under key {unpack_id(key)}, the counter stands at {meta.last_intent}"
        if intent.kind not in _INTENT_KINDS:
            yield f"intent {intent.number} has kind {intent.kind}"
        if intent.mount and survey.view.get(MOUNTS, pack_id(intent.mount)) is None:
            yield f"intent {intent.number} is about mount {intent.mount}, which is not there"
        if intent.content in survey.contents:
            yield f"content {intent.content:x} of intent {intent.number} has a name already"
        if intent.content >> COUNTER_BITS > meta.incarnation:
            yield f"content {intent.content:x} of intent {intent.number} was never given"
    if count != meta.intents:
        yield f"{count} intents are open, the count says {meta.intents}"


def _jobs_are_sound(survey: Survey) -> Iterator[str]:
    count = 0
    for key, raw in survey.all(JOBS):
        job, count = decode_job(raw), count + 1
        if job.number != unpack_id(key) or not 0 < job.number <= survey.meta.last_job:
            yield f"job {job.number} under key {unpack_id(key)}, the counter stands at {survey.meta.last_job}"
        if job.kind not in _JOB_KINDS or job.state not in _JOB_STATES:
            yield f"job {job.number} has kind {job.kind} and state {job.state}"
        elif job.kind in TREE_KINDS and is_open(job):
            yield from _tree_job_is_sound(survey, job)
    if count > JOBS_MAX:
        yield f"{count} jobs are remembered"


def _tree_job_is_sound(survey: Survey, job: Job) -> Iterator[str]:
    if survey.view.get(MOUNTS, pack_id(job.mount)) is None:
        yield f"job {job.number} is about mount {job.mount}, which is not there"
    place = survey.directory(job.directory)
    if job.kind == JobKind.DELETE:
        if place is not None:
            yield f"job {job.number} deletes directory {job.directory}, which has a name"
        return
    inode = None if place is None else survey.record(*place)
    if inode is None or inode.store_path != job.key:
        yield f"job {job.number} moves directory {job.directory}, whose objects do not lie at {job.key}"


def _policies_are_distinct(survey: Survey) -> Iterator[str]:
    given: set[int] = set()
    for key, raw in survey.all(POLICIES):
        policy = decode_policy(raw)
        if path_key(policy.path) != key:
            yield f"the policy of {policy.path} lies under {key!r}"
        if policy.id in given or not 0 < policy.id <= survey.meta.last_policy:
            yield f"policy id {policy.id} of {policy.path} is another's, or was never given"
        given.add(policy.id)


def _expiry_follows_ttls(survey: Survey) -> Iterator[str]:
    count = 0
    for key, raw in survey.all(TTLS):
        ttl, count = decode_ttl(raw), count + 1
        if path_key(ttl.path) != key:
            yield f"the time to live of {ttl.path} lies under {key!r}"
        if survey.view.get(EXPIRY, pack_id(ttl.expires_ns) + key) is None:
            yield f"{ttl.path} has a time to live and never expires"
    for key, _ in survey.all(EXPIRY):
        found = survey.view.get(TTLS, key[8:])
        if found is None or decode_ttl(found).expires_ns != unpack_id(key):
            yield f"{key[8:]!r} expires without a time to live"
    if count != survey.meta.ttls:
        yield f"{count} paths have a time to live, the count says {survey.meta.ttls}"


def _places_are_of_unpersisted(survey: Survey) -> Iterator[str]:
    for key, raw in survey.all(PLACES):
        if not any(workers for _, workers in decode_places(raw).chains):
            yield f"nobody has content {unpack_id(key):x}"
        if unpack_id(key) not in survey.unpersisted:
            yield f"it is told who has content {unpack_id(key):x}, which is no file's that no store has"


def _attributes_have_files(survey: Survey) -> Iterator[str]:
    for key, raw in survey.all(ATTRIBUTES):
        if unpack_id(key) not in survey.attributes:
            yield f"attributes {unpack_id(key)} are no file's"
        try:
            check_attributes(decode_attributes(raw), directory=True, marker=True)
        except InvalidArgument as problem:
            yield f"attributes {unpack_id(key)}: {problem.message}"


WHOLE_CHECKS_OF_WRITING: dict[str, WholeCheck] = {
    "locks-follow-intents": _locks_follow_intents,
    "intents-are-sound": _intents_are_sound,
    "jobs-are-sound": _jobs_are_sound,
    "policies-are-distinct": _policies_are_distinct,
    "expiry-follows-ttls": _expiry_follows_ttls,
    "places-are-of-unpersisted": _places_are_of_unpersisted,
    "attributes-are-of-files": _attributes_have_files,
}
