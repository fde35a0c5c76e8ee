"""Every named check finds the damage it is named for, and nothing else is said of a sound namespace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from metadata_home import Home, directory, file

from monofs.metadata.entries import (
    AddToken,
    AssignSlots,
    Free,
    RegisterWorker,
    RemoveBelow,
    SetAttributes,
    SetBucket,
    SetPolicy,
    SetTtl,
)
from monofs.metadata.fsck import CHECKS, FINDINGS_MAX, check_namespace
from monofs.metadata.sessions import ANSWERS_PER_CLIENT_MAX, answer_key, encode_result
from monofs.metadata.snapshot import open_offline
from monofs.metadata.tables import (
    APPLIED,
    ATTRIBUTES,
    BUCKETS,
    EXPIRY,
    GRAVES,
    IDS,
    INTENTS,
    JOBS,
    JOBS_MAX,
    KEYS,
    LOCKS,
    MOUNTS,
    PLACEMENT,
    PLACES,
    POLICIES,
    REMOVAL,
    RETIRED,
    TOMBSTONES,
    TTLS,
    WORKERS,
    Bucket,
    Detached,
    FeedRecord,
    Job,
    Key,
    KeyKind,
    Placement,
    Places,
    Policy,
    Tombstone,
    Ttl,
    encode_record,
    pack_id,
)
from monofs.model.attributes import Attributes, encode_attributes
from monofs.model.block import SLOTS
from monofs.model.inode import Flag, Inode, encode_inode
from monofs.model.slots import table_of

ROOT = 1


@pytest.fixture
def sound(tmp_path: Path) -> Home:
    """A namespace with something in every table."""
    home = Home(tmp_path / "db")
    home.initialize()
    home.mkdir("/a/b", parents=True)
    home.create("/f")
    home.mount("/m")
    home.adopt("/m", [directory("d"), file("x"), file("y")])
    home.adopt("/m/d", [file("z")])
    home.adopt("/m", [file("x")])
    home.apply(Free(home.stamp(), 4, [home.inode("/m/x").content]))
    home.apply(RegisterWorker(home.stamp(), b"w" * 16))
    home.apply(RegisterWorker(home.stamp(b"client", 1), b"v" * 16))
    rows = table_of(0, 1, b"\1\0" * SLOTS)
    home.apply(AssignSlots(home.stamp(), 0, 1, [(1, 100, "")], b"", rows.rows(), rows.digest))
    home.keep("/m/d/scratch")
    home.begin_write("/m/d/new")
    home.begin_write("/m/parts", size=-1)
    home.adopt("/m", [directory("d"), directory("e"), directory("g"), file("x")], complete=False)
    home.adopt("/m/g", [file("moving")])
    home.remove_tree("/m/e")
    home.rename_tree("/m/g", "/m/h")
    home.write("/m/h/new")
    home.apply(SetPolicy(home.stamp(), "/m", ttl_s=5))
    home.apply(SetPolicy(home.stamp(), "/m/d", ttl_s=6))
    home.apply(SetTtl(home.stamp(), "/m/x", 77, "free"))
    home.apply(AddToken(home.stamp(), "ada", 1, 0, bytes(16)))
    home.apply(AddToken(home.stamp(), "bob", 3, 9, bytes(16)))
    for _ in range(2):
        home.apply(AddToken(home.stamp(), "ada", 3, 0, bytes(16), kind=KeyKind.S3, prefix="/m"))
    home.apply(SetBucket(home.stamp(), "raw", "/m/d"))
    home.apply(SetAttributes(home.stamp(), "/m/x", home.inode("/m/x").content, 0, Attributes(user={"a": "b"})))
    return home


def change(home: Home, path: str, **fields: object) -> None:
    """Overwrite fields of a record behind the state's back."""
    *parents, name = path.strip("/").split("/")
    parent = home.inode("/" + "/".join(parents)).id
    inode = home.inode(path)
    key = name.encode() + b"/" * inode.is_directory
    home.store.write([(parent, key, encode_inode(msgspec.structs.replace(inode, **fields)))])


def put(space: int, key: bytes, value: bytes | None) -> Callable[[Home], None]:
    return lambda home: home.store.write([(space, key, value)])


def placement(workers: list[int], *, replicas: int = 1, epoch: int = 1) -> bytes:
    """The record of a slot table in which every slot lists these workers."""
    rows = b"".join(worker.to_bytes(2, "little") for worker in workers) * SLOTS
    return encode_record(Placement(epoch, replicas, [], rows))


def meta(**fields: int | bytes) -> Callable[[Home], None]:
    def damage(home: Home) -> None:
        for name, value in fields.items():
            setattr(home.store.meta, name, value)

    return damage


def intent(home: Home, at: int, **fields: object) -> None:
    """Overwrite fields of an intent."""
    found = home.namespace.intent(at)
    assert found is not None
    put(INTENTS, pack_id(at), encode_record(msgspec.structs.replace(found, **fields)))(home)


def job(home: Home, at: int, **fields: object) -> None:
    """Overwrite fields of a job."""
    found = home.namespace.job(at)
    assert found is not None
    put(JOBS, pack_id(at), encode_record(msgspec.structs.replace(found, **fields)))(home)


def many_jobs(home: Home) -> None:
    home.store.meta.last_job = JOBS_MAX + 2
    for number in range(3, JOBS_MAX + 3):
        put(JOBS, pack_id(number), encode_record(Job(number, 1, 1, "/")))(home)


def nobody_has(home: Home, path: str) -> None:
    put(PLACES, pack_id(home.inode(path).content), encode_record(Places([(0, [])])))(home)


def record(**fields: object) -> bytes:
    return encode_inode(Inode(**{"kind": 1, "id": 1, **fields}))  # type: ignore[arg-type]


DAMAGE: list[tuple[str, Callable[[Home], None]]] = [
    ("record-decodes", put(ROOT, b"f", b"\xc1")),
    ("record-decodes", put(RETIRED, pack_id(1), b"\xc1")),
    ("name-fits-kind", put(ROOT, b"g/", record())),
    ("name-fits-kind", put(ROOT, b"a\0", record())),
    ("name-fits-kind", put(0, b"other/", record(kind=2))),
    ("parent-is-known", put(77, b"lost", record())),
    ("directory-is-in-ids", lambda home: put(IDS, pack_id(home.inode("/a").id), None)(home)),
    ("directory-is-in-ids", lambda home: put(IDS, pack_id(home.inode("/a").id), pack_id(ROOT) + b"b/")(home)),
    ("inode-id-is-given-once", lambda home: change(home, "/f", id=home.inode("/a").id)),
    ("inode-id-is-given-once", meta(last_inode=3)),
    ("inode-id-is-given-once", lambda home: change(home, "/f", id=0)),
    ("content-id-is-given-once", lambda home: change(home, "/f", size=1, content=home.inode("/m/x").content)),
    ("content-id-is-given-once", lambda home: change(home, "/f", size=1, content=2 << 48 | 1)),
    ("content-id-is-given-once", lambda home: change(home, "/f", size=1, content=1 << 48 | 99)),
    ("content-id-is-given-once", lambda home: change(home, "/f", size=1, content=1)),
    ("content-fits-size", lambda home: change(home, "/f", size=1)),
    ("content-fits-size", lambda home: change(home, "/m/x", size=0)),
    ("content-fits-size", lambda home: change(home, "/a", size=5)),
    ("flags-are-sane", lambda home: change(home, "/f", flags=Flag.LOADED)),
    ("flags-are-sane", lambda home: change(home, "/a", flags=Flag.HEADERS_UNKNOWN)),
    ("flags-are-sane", lambda home: change(home, "/m", flags=Flag.MOUNT)),
    ("flags-are-sane", lambda home: change(home, "/f", flags=1 << 30)),
    ("flags-are-sane", lambda home: change(home, "/f", flags=Flag.INTENT)),
    ("flags-are-sane", lambda home: change(home, "/a", flags=Flag.KEPT)),
    ("changed-index-is-past", lambda home: change(home, "/f", changed_index=10**6)),
    ("mounts-have-mount-points", lambda home: change(home, "/m", flags=Flag.EXPLICIT)),
    ("mounts-have-mount-points", lambda home: change(home, "/a", flags=Flag.EXPLICIT | Flag.MOUNT)),
    ("mounts-have-mount-points", meta(last_mount=0)),
    ("mounts-have-mount-points", lambda home: put(MOUNTS, pack_id(1), None)(home)),
    ("meta-is-there", meta(level=0)),
    ("root-is-there", put(0, b"/", None)),
    ("directories-are-reachable", put(IDS, pack_id(3), pack_id(3) + b"b/")),
    ("directories-are-reachable", put(IDS, pack_id(99), pack_id(ROOT) + b"none/")),
    ("inodes-are-counted", meta(inodes=2)),
    ("feed-has-no-gaps", put(RETIRED, pack_id(1), None)),
    ("feed-has-no-gaps", put(RETIRED, pack_id(9), encode_record(FeedRecord(2, [1])))),
    ("feed-has-no-gaps", put(RETIRED, pack_id(1), encode_record(FeedRecord(9, [1])))),
    (
        "retired-content-has-no-name",
        lambda home: put(RETIRED, pack_id(1), encode_record(FeedRecord(1, [home.inode("/m/x").content])))(home),
    ),
    ("removal-has-no-gaps", put(REMOVAL, pack_id(7), encode_record(Detached(99)))),
    ("tombstones-have-graves", put(GRAVES, pack_id(0), None)),
    ("tombstones-have-graves", put(TOMBSTONES, pack_id(9) + b"x", encode_record(Tombstone(3, 99)))),
    ("tombstones-have-graves", meta(buried_index=0)),
    (
        "answers-are-bounded",
        lambda home: home.store.write(
            [
                (APPLIED, answer_key(b"client", number), encode_result(0, 0, None))
                for number in range(ANSWERS_PER_CLIENT_MAX + 1)
            ]
        ),
    ),
    ("workers-are-distinct", put(WORKERS, pack_id(2), b"w" * 16)),
    ("workers-are-distinct", put(WORKERS, pack_id(3), b"u" * 16)),
    ("tokens-are-distinct", put(KEYS, pack_id(2), encode_record(Key(2, "ada", 1, 0, bytes(16))))),
    ("tokens-are-distinct", put(KEYS, pack_id(2), encode_record(Key(1, "bob", 1, 0, bytes(16))))),
    ("tokens-are-distinct", put(KEYS, pack_id(1), encode_record(Key(1, "ada", 9, 0, bytes(16))))),
    ("tokens-are-distinct", put(KEYS, pack_id(1), encode_record(Key(1, "ada", 1, 0, bytes(16), kind=9)))),
    ("tokens-are-distinct", put(KEYS, pack_id(1), encode_record(Key(1, "ada", 4, 0, bytes(16), kind=KeyKind.S3)))),
    ("tokens-are-distinct", meta(last_key=1)),
    ("record-decodes", put(KEYS, pack_id(1), b"\xc1")),
    ("store-paths-lead-to-objects", lambda home: change(home, "/m/x", store_path="elsewhere")),
    ("store-paths-lead-to-objects", lambda home: change(home, "/m/h", store_path="elsewhere")),
    ("store-paths-lead-to-objects", lambda home: change(home, "/m/h/new", store_path="g")),
    ("unpersisted-is-kept", lambda home: change(home, "/m/d", flags=Flag.PERSISTED)),
    ("places-are-of-unpersisted", lambda home: change(home, "/m/d/scratch", flags=Flag.PERSISTED)),
    ("places-are-of-unpersisted", lambda home: put(PLACES, pack_id(home.inode("/m/d/scratch").content), None)(home)),
    ("places-are-of-unpersisted", put(PLACES, pack_id(77), encode_record(Places([(0, [1])])))),
    ("places-are-of-unpersisted", lambda home: nobody_has(home, "/m/d/scratch")),
    ("buckets-are-sane", put(BUCKETS, b"UPPER", encode_record(Bucket("/m", 1)))),
    ("buckets-are-sane", put(BUCKETS, b"raw", encode_record(Bucket("m/../d", 1)))),
    ("attributes-are-of-files", put(ATTRIBUTES, pack_id(1), None)),
    ("attributes-are-of-files", put(ATTRIBUTES, pack_id(2), encode_attributes(Attributes()))),
    ("attributes-are-of-files", put(ATTRIBUTES, pack_id(1), encode_attributes(Attributes({"x": "y"})))),
    ("attributes-are-of-files", lambda home: change(home, "/f", attributes=1)),
    ("attributes-are-of-files", lambda home: change(home, "/a", attributes=1)),
    ("attributes-are-of-files", meta(last_attributes=0)),
    ("slots-are-of-workers", put(PLACEMENT, pack_id(0), placement([9]))),
    ("slots-are-of-workers", put(PLACEMENT, pack_id(0), placement([1, 1], replicas=2))),
    ("slots-are-of-workers", put(PLACEMENT, pack_id(0), placement([1], replicas=2))),
    ("slots-are-of-workers", put(PLACEMENT, pack_id(0), placement([1], epoch=10**6))),
    ("slots-are-of-workers", put(PLACEMENT, pack_id(1), placement([1]))),
    ("locks-follow-intents", put(LOCKS, b"/m/d/new", None)),
    ("locks-follow-intents", put(LOCKS, b"/m/d/new", pack_id(99))),
    ("locks-follow-intents", put(LOCKS, b"/m/other", pack_id(2))),
    ("locks-follow-intents", lambda home: intent(home, 3, acting=True, path="/m/d/new")),
    ("intents-are-sound", meta(intents=1)),
    ("intents-are-sound", meta(last_intent=1)),
    ("intents-are-sound", lambda home: intent(home, 2, number=9)),
    ("intents-are-sound", lambda home: intent(home, 2, kind=9)),
    ("intents-are-sound", lambda home: intent(home, 2, mount=9)),
    ("intents-are-sound", lambda home: intent(home, 2, content=home.inode("/m/x").content)),
    ("intents-are-sound", lambda home: intent(home, 2, content=9 << 48 | 1)),
    ("jobs-are-sound", meta(last_job=1)),
    ("jobs-are-sound", lambda home: job(home, 1, number=2)),
    ("jobs-are-sound", lambda home: job(home, 1, state=9)),
    ("jobs-are-sound", lambda home: job(home, 1, mount=9)),
    ("jobs-are-sound", lambda home: job(home, 1, directory=home.inode("/m/d").id)),
    ("jobs-are-sound", lambda home: job(home, 2, key="elsewhere")),
    ("jobs-are-sound", lambda home: job(home, 2, directory=99)),
    ("jobs-are-sound", many_jobs),
    ("policies-are-distinct", put(POLICIES, b"/m", encode_record(Policy(2, "/m")))),
    ("policies-are-distinct", put(POLICIES, b"/m", encode_record(Policy(1, "/other")))),
    ("policies-are-distinct", meta(last_policy=1)),
    ("expiry-follows-ttls", put(EXPIRY, pack_id(77) + b"/m/x", None)),
    ("expiry-follows-ttls", put(EXPIRY, pack_id(78) + b"/m/x", b"")),
    ("expiry-follows-ttls", put(TTLS, b"/m/x", None)),
    ("expiry-follows-ttls", put(TTLS, b"/m/x", encode_record(Ttl(1, 77, "free", "/m/y")))),
    ("expiry-follows-ttls", meta(ttls=0)),
    ("record-decodes", put(JOBS, pack_id(1), b"\xc1")),
    ("record-decodes", put(INTENTS, pack_id(2), b"\xc1")),
]


def test_a_sound_namespace_passes_online_and_offline(sound: Home) -> None:
    assert check_namespace(sound.store) == {name: [] for name in CHECKS}
    sound.flush()
    snapshot = sound.store.snapshot()
    assert check_namespace(snapshot) == {name: [] for name in CHECKS}
    snapshot.close()
    while sound.apply(RemoveBelow(sound.stamp(), 10)):
        pass
    assert sound.findings() == {}
    sound.close()
    with open_offline(sound.directory) as offline:
        assert check_namespace(offline) == {name: [] for name in CHECKS}


@pytest.mark.parametrize(("name", "damage"), DAMAGE, ids=[f"{name}-{at}" for at, (name, _) in enumerate(DAMAGE)])
def test_damage_is_found_under_its_name(sound: Home, name: str, damage: Callable[[Home], None]) -> None:
    damage(sound)
    online = sound.findings()
    assert name in online
    sound.store.meta.applied_index += 1
    sound.close()
    with open_offline(sound.directory) as offline:
        assert name in {check for check, found in check_namespace(offline).items() if found}


def test_every_check_is_shown_damage() -> None:
    assert {name for name, _ in DAMAGE} == set(CHECKS)


def test_a_database_that_was_never_flushed_says_so(tmp_path: Path) -> None:
    home = Home(tmp_path / "db")
    home.close()
    with open_offline(home.directory) as offline:
        found = {name: what for name, what in check_namespace(offline).items() if what}
    assert list(found) == ["meta-is-there"]


def test_findings_are_bounded(sound: Home) -> None:
    for number in range(FINDINGS_MAX + 50):
        put(77, b"%d" % number, record())(sound)
    assert len(sound.findings()["parent-is-known"]) == FINDINGS_MAX
    sound.close()
