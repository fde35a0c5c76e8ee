"""Mounts: proved before they exist, whole or not at all, and their secrets nowhere in clear."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from master_house import House, write
from scribe import Scribe

from monofs.master import mounts as mounting
from monofs.master import walking
from monofs.model.errors import (
    Busy,
    HomeUnusable,
    InvalidArgument,
    MonofsError,
    MountExists,
    MountNotFound,
    NotFound,
    PermissionDenied,
    UfsBucketNotFound,
    UfsDenied,
    UfsOption,
    UfsUnreachable,
    WouldLose,
)
from monofs.model.principal import Principal, Right
from monofs.observe.audit import AUDIT_LOGGER
from monofs.observe.logs import JsonFormatter
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.ufs.base import UfsEntry, UfsPage

SECRET_KEY = "wJalrXUtnFEMI-this-must-never-be-seen"
S3 = {"access_key": "AKIDEXAMPLE", "secret_key": SECRET_KEY, "endpoint": "http://127.0.0.1:1"}


class Bucket:
    """An object store that answers at once, as the master sees one: it is empty but for what its ``entries`` say."""

    scheme = "s3"

    def __init__(self, error: MonofsError | None = None) -> None:
        self.error = error
        self.entries: list[UfsEntry] = []
        self.asked: list[str] = []
        self.gate: threading.Event | None = None

    def check(self) -> bool:
        if self.error is not None:
            raise self.error
        return bool(self.entries)

    def status(self, key: bytes) -> tuple[UfsEntry | None, UfsEntry | None]:
        self._seen("head")
        names = {entry.name: entry for entry in self.entries}
        return names.get(key), None

    def list(self, key: bytes, *, after: bytes = b"", limit: int = 1000) -> UfsPage:
        self._seen("list")
        beyond = [entry for entry in self.entries if entry.name > after]
        page = beyond[:limit]
        return UfsPage(page, page[-1].name if len(beyond) > limit else None)

    def close(self) -> None:
        pass

    def _seen(self, kind: str) -> None:
        self.asked.append(kind)
        if self.gate is not None:
            assert self.gate.wait(30)


def with_bucket(house: House, bucket: Bucket, opened: list[dict[str, str]] | None = None) -> None:
    """Let ``s3://`` mounts of a house go to ``bucket``, and note the options it was opened with."""
    files = house.watch.open_store

    def open_store(uri: str, options: dict[str, str], **how: Any) -> Any:
        if not uri.startswith("s3:"):
            return files(uri, options, **how)
        if opened is not None:
            opened.append(dict(options))
        return bucket

    house.master._stores._open_store = open_store


def mount_s3(house: House, path: str = "/s3", uri: str = "s3://bucket/lake", **given: Any) -> api.MountInfo:
    given.setdefault("options", S3)
    answer = house.ask(Method.MOUNT_ADD, api.MountAddRequest(path, uri, **given))
    assert isinstance(answer, api.MountInfo)
    return answer


def mounts(house: House) -> list[api.MountInfo]:
    return list(house.ask(Method.MOUNT_LIST, api.Empty()).mounts)


@pytest.mark.parametrize(
    "error",
    [
        UfsDenied("the access key is not known there"),
        UfsBucketNotFound("there is no bucket 'bucket'"),
        UfsUnreachable("connection refused"),
    ],
)
def test_a_store_that_does_not_answer_is_not_mounted_and_its_reason_is_told(house: House, error: MonofsError) -> None:
    with_bucket(house, Bucket(error))
    before = house.namespace.applied_index
    with pytest.raises(type(error), match=str(error)):
        mount_s3(house)
    assert mounts(house) == []
    assert house.namespace.applied_index == before
    with pytest.raises(NotFound):
        house.stat("/s3")


def test_mounting_a_store_that_holds_nothing_says_so(house: House, data: Path) -> None:
    assert house.mount("/empty", data).note == f"nothing was found below file://{data}"
    assert house.mount("/again", data, shared=True, dry_run=True).note
    write(data / "f", b"1")
    assert house.mount("/full", data, shared=True).note == ""
    assert [info.note for info in mounts(house)] == ["", ""]


def test_malformed_mounts_are_refused_before_any_store_is_asked(house: House, data: Path) -> None:
    for given in (
        {"uri": "ftp://host/dir"},
        {"uri": "relative"},
        {"options": {"nonsense": "1"}},
    ):
        with pytest.raises(UfsOption):
            house.mount("/lake", data, **given)
    with pytest.raises(UfsBucketNotFound, match="not a directory"):
        house.mount("/lake", data / "none")
    with pytest.raises(InvalidArgument, match="sync interval"):
        house.mount("/lake", data, sync_interval_s=-2.0)
    with pytest.raises(MonofsError, match="must start with"):
        house.mount("lake", data)
    assert mounts(house) == []


def test_a_path_is_mounted_once_and_a_root_once_unless_shared(house: House, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    house.mount("/lake", data)
    with pytest.raises(MountExists, match="mounted at /lake already"):
        house.mount("/lake", other)
    with pytest.raises(MountExists, match="give --shared"):
        house.mount("/again", data)
    with pytest.raises(MountExists, match="give --shared"):
        house.mount("/again", data, uri=f"file://localhost{data}/")
    house.mount("/again", data, shared=True)
    house.mount("/lake/inner", other)
    assert [mount.path for mount in mounts(house)] == ["/again", "/lake", "/lake/inner"]


def test_a_dry_run_proves_everything_and_changes_nothing(house: House, data: Path) -> None:
    before = house.namespace.applied_index
    info = house.mount("/lake", data, dry_run=True, readonly=True)
    assert (info.id, info.path, info.readonly) == (0, "/lake", True)
    with pytest.raises(UfsBucketNotFound):
        house.mount("/lake", data / "none", dry_run=True)
    assert house.namespace.applied_index == before


def test_unmounting_forgets_what_was_known_and_leaves_the_store_alone(house: House, data: Path) -> None:
    for number in range(50):
        (data / f"d{number}").mkdir()
        write(data / f"d{number}" / "f", b"1")
    house.mount("/lake", data)
    for number in range(50):
        house.list(f"/lake/d{number}")
    house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))
    assert mounts(house) == []
    with pytest.raises(NotFound):
        house.list("/lake")
    assert house.list("/") == []
    while house.loop.do(house.namespace.pending_removal):
        house.ask(Method.PING, api.Empty())
    assert house.namespace.counts()["inodes"] == 1
    retired = [content for _, _, contents in house.namespace.feed(0, 100) for content in contents]
    assert len(retired) == 50
    assert (data / "d7" / "f").read_bytes() == b"1"
    with pytest.raises(MountNotFound):
        house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))


def test_unmounting_refuses_to_lose_files_that_no_store_has_and_names_them(house: House, data: Path) -> None:
    house.mount("/lake", data)
    scribe = Scribe(house)
    scribe.write("/lake/stored", b"1")
    for number in range(7):
        scribe.write(f"/lake/d/kept{number}", b"", write_type="MUST_CACHE")
    with pytest.raises(
        WouldLose, match=r"^7 files below /lake are in no store .*: /lake/d/kept0, .*kept4, …: .*--discard"
    ):
        house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))
    assert house.list("/lake") == ["d/", "stored"]
    gone = house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake", discard=True))
    assert (gone.lost, gone.given_up) == ([f"/lake/d/kept{number}" for number in range(7)], [])
    assert mounts(house) == []
    house.mount("/lake", data)
    scribe.write("/lake/kept", b"12", write_type="MUST_CACHE")
    house.ask(Method.DELETE, api.DeleteRequest("/lake/kept"))
    house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))


def test_many_files_that_no_store_has_are_counted_up_to_a_bound(
    house: House, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "UNPERSISTED_MAX", 3)
    monkeypatch.setattr(mounting, "UNPERSISTED_MAX", 3)
    house.mount("/lake", data)
    scribe = Scribe(house)
    for number in range(5):
        scribe.write(f"/lake/d{number}/kept", b"1", write_type="MUST_CACHE")
    with pytest.raises(WouldLose, match=r"^3 or more files"):
        house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))


def test_unmounting_while_the_store_may_not_be_asked_gives_changes_up_only_when_told_to(
    house: House, data: Path
) -> None:
    house.mount("/lake", data)
    Scribe(house).begin("/lake/f", 1)
    with pytest.raises(Busy, match="noAccess and unmount with --discard"):
        house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake", discard=True))
    house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/lake", ufs_mode="noAccess"))
    with pytest.raises(WouldLose, match="/lake/f, which is being written: set another mode"):
        house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))
    gone = house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake", discard=True))
    assert gone.given_up == ["/lake/f, which is being written"]
    assert house.ask(Method.INTENT_LIST, api.Empty()).intents == []


def test_what_was_left_of_an_unmounted_tree_is_removed_after_a_restart(house: House, data: Path) -> None:
    for number in range(20):
        (data / f"d{number}").mkdir()
        write(data / f"d{number}" / "f", b"1")
    house.mount("/lake", data)
    for number in range(20):
        house.list(f"/lake/d{number}")
    house.loop.do(house.master._duties.stop)
    house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))
    assert house.namespace.pending_removal()
    house.restart()
    while house.loop.do(house.namespace.pending_removal):
        house.ask(Method.PING, api.Empty())
    assert house.namespace.counts()["inodes"] == 1


def test_a_path_mounted_anew_shows_the_new_store(house: House, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write(data / "f", b"1")
    write(other / "f", b"22")
    house.mount("/lake", data)
    old = house.stat("/lake/f")
    house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))
    house.mount("/lake", other)
    new = house.stat("/lake/f")
    assert (old.size, new.size) == (1, 2)
    assert old.content != new.content


def test_options_merge_on_update_and_an_empty_value_removes_one(house: House) -> None:
    opened: list[dict[str, str]] = []
    with_bucket(house, Bucket(), opened)
    mount_s3(house)
    update = api.MountUpdateRequest("/s3", {"region": "eu-west-1"}, readonly=True, sync_interval_s=5.0)
    info = house.ask(Method.MOUNT_UPDATE, update)
    assert (info.readonly, info.sync_interval_s) == (True, 5.0)
    assert info.options == {"endpoint": S3["endpoint"], "region": "eu-west-1"} | (
        {"access_key": S3["access_key"]} if "access_key" in info.options else {}
    )
    assert "secret_key" in info.secrets
    assert opened[-1] == S3 | {"region": "eu-west-1"}
    info = house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/s3", {"region": ""}))
    assert "region" not in info.options
    would_be = house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/s3", {}, replace=True, dry_run=True))
    assert (would_be.options, would_be.secrets) == ({}, [])
    assert mounts(house)[0].options["endpoint"] == S3["endpoint"]
    info = house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/s3", {}, replace=True))
    assert (info.options, info.secrets, info.readonly) == ({}, [], True)


def test_an_update_the_store_refuses_changes_nothing(house: House) -> None:
    bucket = Bucket()
    with_bucket(house, bucket)
    mount_s3(house)
    before = mounts(house)
    bucket.error = UfsDenied("the secret key is wrong")
    with pytest.raises(UfsDenied, match="wrong"):
        house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/s3", {"secret_key": "other"}))
    with pytest.raises(UfsDenied):
        house.ask(Method.MOUNT_TEST, api.MountTestRequest("/s3"))
    assert mounts(house) == before
    bucket.error = None
    assert house.ask(Method.MOUNT_TEST, api.MountTestRequest("/s3")).path == "/s3"
    with pytest.raises(MountNotFound):
        house.ask(Method.MOUNT_TEST, api.MountTestRequest("/none"))


def test_testing_a_mount_tells_its_state_and_ends_the_pause_of_a_store_that_is_back(house: House) -> None:
    bucket = Bucket()
    with_bucket(house, bucket)
    mount_s3(house)
    bucket.error = UfsUnreachable("no connection")
    with pytest.raises(UfsUnreachable):
        house.ask(Method.MOUNT_TEST, api.MountTestRequest("/s3"))
    (shown,) = house.ask(Method.MOUNT_LIST, api.Empty()).mounts
    assert (shown.state, shown.error) == ("unavailable", "no connection")
    bucket.error = None
    assert house.ask(Method.MOUNT_TEST, api.MountTestRequest("/s3")).state == "ok"
    assert house.list("/s3", 0) == []
    assert bucket.asked[-1] == "list", "asked at once, not after the pause"


def test_secrets_are_in_no_answer_no_log_and_no_byte_on_disk(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bucket = Bucket()
    with_bucket(house, bucket)
    answers: list[Any] = [mount_s3(house)]
    bucket.error = UfsDenied("no")
    with pytest.raises(UfsDenied):
        house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/s3", {"secret_key": SECRET_KEY + "2"}))
    bucket.error = None
    answers.append(house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/s3", {"secret_key": SECRET_KEY + "3"})))
    with pytest.raises(NotFound):
        house.stat("/s3/none")
    answers += [
        house.ask(Method.MOUNT_LIST, api.Empty()),
        house.ask(Method.REPORT, api.ReportRequest()),
        house.ask(Method.WHY, api.StatRequest("/s3")),
        house.ask(Method.CLUSTER, api.ClusterRequest()),
    ]
    house.restart()
    needle = SECRET_KEY.encode()
    assert all(SECRET_KEY not in repr(answer) for answer in answers)
    formatter = JsonFormatter()
    assert all(SECRET_KEY not in formatter.format(record) for record in caplog.records)
    files = [path for path in house.directory.rglob("*") if path.is_file()]
    assert len(files) >= 2
    assert all(needle not in path.read_bytes() for path in files)
    assert any(b"s3://bucket/lake" in path.read_bytes() for path in files)


def test_after_a_restart_secrets_are_opened_again(house: House) -> None:
    with_bucket(house, Bucket())
    mount_s3(house)
    house.restart()
    opened: list[dict[str, str]] = []
    with_bucket(house, Bucket(), opened)
    with pytest.raises(NotFound):
        house.stat("/s3/none")
    assert opened == [S3]


def test_a_mount_whose_secrets_cannot_be_opened_is_shown_and_left_out_and_an_update_mends_it(
    house: House, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_bucket(house, Bucket())
    mount_s3(house)
    house.mount("/lake", data)
    vault = house.master.members._vault
    honest = vault.open
    broken = next(mount for _, mount in house.namespace.mounts() if mount.path == "/s3")
    damaged = msgspec.structs.replace(broken, sealed=broken.sealed[:-1] + bytes((broken.sealed[-1] ^ 1,)))
    monkeypatch.setattr(
        vault, "open", lambda mount: honest(damaged if mount.changed_index == broken.changed_index else mount)
    )
    house.loop.do(house.master._stores.keep_only, set())
    registered = house.ask(Method.REGISTER, api.RegisterRequest(b"w" * 16, "a:1", "", "", 0, 0, 0))
    assert [grant.uri for grant in registered.mounts] == [f"file://{data}"]
    news = house.ask(Method.HEARTBEAT, api.HeartbeatRequest(registered.worker, 0, 0, 0, 0))
    assert [grant.uri for grant in news.mounts] == [f"file://{data}"]
    assert caplog.text.count("workers are not told of a mount") == 1
    lake, s3 = house.ask(Method.MOUNT_LIST, api.Empty()).mounts
    assert (lake.state, s3.state, s3.secrets) == ("ok", "unavailable", [])
    assert "monofs mount update" in s3.error
    house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/s3", S3))
    lake, s3 = house.ask(Method.MOUNT_LIST, api.Empty()).mounts
    assert (s3.state, bool(s3.secrets)) == ("ok", True)
    news = house.ask(Method.HEARTBEAT, api.HeartbeatRequest(registered.worker, 0, 0, 0, news.mounts_index))
    assert sorted(grant.uri for grant in news.mounts) == sorted([f"file://{data}", s3.uri])


def test_a_file_system_unmounted_while_the_node_was_stopped_takes_no_file_from_the_tree(
    house: House, data: Path
) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "none", data], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs more rights than these tests have")
    try:
        write(data / "f", b"1")
        assert house.mount("/lake", data).options == {"own_file_system": "true"}
        assert house.list("/lake") == ["f"]
        house.stop()
    finally:
        subprocess.run(["umount", data], check=True)
    house.start()
    house.now_s += 1000
    with pytest.raises(UfsUnreachable, match="mounted"):
        house.list("/lake", 0)
    with pytest.raises(UfsUnreachable, match="mounted"):
        house.stat("/lake/f", 0)
    assert house.list("/lake") == ["f"]
    assert house.stat("/lake/f").size == 1
    own = house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/lake", {"own_file_system": "false"}))
    assert own.options == {"own_file_system": "false"}
    assert house.list("/lake", 0) == []
    assert house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/lake", {"own_file_system": ""})).options == {}


def test_a_wrong_cluster_secret_at_start_is_told_clearly(house: House) -> None:
    house.stop()
    house.secret = b"another cluster's secret"
    with pytest.raises(HomeUnusable, match=r"put the original cluster\.secret back"):
        house.start()
    house.secret = b"the cluster secret of these tests"
    house.start()


def test_only_an_administrator_mounts_and_the_audit_log_tells_who_tried(
    house: House, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=AUDIT_LOGGER)
    user = Principal("ada", uid=1000, rights=Right.READ | Right.WRITE)
    uri = f"file://{data}"
    for method, request in (
        (Method.MOUNT_ADD, api.MountAddRequest("/lake", uri)),
        (Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake")),
        (Method.MOUNT_UPDATE, api.MountUpdateRequest("/lake")),
        (Method.FSCK, api.Empty()),
    ):
        with pytest.raises(PermissionDenied, match="admin"):
            house.ask(method, request, user)
    house.mount("/lake", data, dry_run=True)
    house.mount("/lake", data)
    records = [record.fields for record in caplog.records if record.name == AUDIT_LOGGER]
    assert [(one["principal"], one["command"], one["allowed"], one["succeeded"]) for one in records] == [
        ("ada", "mount add", False, False),
        ("ada", "mount rm", False, False),
        ("ada", "mount update", False, False),
        ("node", "mount add, tried only", True, True),
        ("node", "mount add", True, True),
    ]
    assert records[0]["source"] == "/lake"
    assert records[0]["target"] == uri


def test_reading_one_object_after_another_turns_into_listing_their_directory(house: House) -> None:
    bucket = Bucket()
    bucket.entries = [UfsEntry(b"f%04d" % number, False, 1, 1, f"e:{number}") for number in range(2500)]
    with_bucket(house, bucket)
    mount_s3(house)
    for number in range(2000):
        assert house.stat(f"/s3/f{number:04d}").size == 1
    assert bucket.asked.count("list") == 2
    assert bucket.asked.count("head") <= 16


def test_many_masters_requests_for_one_mount_are_bounded(make_house: Callable[..., House], data: Path) -> None:
    from dataclasses import replace
    from threading import Event

    from monofs.config.schema import Config
    from monofs.model.errors import Overloaded

    config = Config()
    house = make_house(replace(config, master=replace(config.master, list_threads=1, store_queue=2)))
    house.mount("/lake", data)
    house.watch.gate = Event()
    waiting = [house.begin(Method.STAT, api.StatRequest(f"/lake/f{number}")) for number in range(4)]
    with pytest.raises(Overloaded, match="calls wait for the store of mount /lake"):
        waiting[3]()
    house.watch.gate.set()
    for wait in waiting[:3]:
        with pytest.raises(NotFound):
            wait()


def test_a_look_on_its_way_while_its_mount_is_updated_asks_the_new_store(house: House) -> None:
    """The old options may name another store: nothing it says may be taken over once they were replaced."""
    old, new = Bucket(), Bucket()
    old.entries = [UfsEntry(b"f", False, 3, 1, "e:old")]
    new.entries = [UfsEntry(b"f", False, 5, 1, "e:new")]
    old.gate = threading.Event()
    with_bucket(house, old)
    mount_s3(house)
    wait_stat = house.begin(Method.STAT, api.StatRequest("/s3/f"))
    wait_list = house.begin(Method.LIST, api.ListRequest("/s3"))
    while len(old.asked) < 2:
        house.loop.do(lambda: None)
    with_bucket(house, new)
    house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/s3", {"endpoint": "http://127.0.0.1:2"}))
    old.gate.set()
    wait_stat()
    wait_list()
    assert house.stat("/s3/f", -1).fingerprint == "e:new"
    assert new.asked.count("list") == 1


class Slow(Bucket):
    """A bucket whose answers, true when they were made, arrive when the gate of their kind opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = {"head": threading.Event(), "list": threading.Event()}

    def status(self, key: bytes) -> tuple[UfsEntry | None, UfsEntry | None]:
        answer = super().status(key)
        assert self.gates["head"].wait(30)
        return answer

    def list(self, key: bytes, *, after: bytes = b"", limit: int = 1000) -> UfsPage:
        answer = super().list(key, after=after, limit=limit)
        assert self.gates["list"].wait(30)
        return answer


@pytest.mark.parametrize("first", ["head", "list"])
def test_what_a_look_saw_and_another_one_kept_it_from_taking_over_is_looked_at_again(house: House, first: str) -> None:
    second = "list" if first == "head" else "head"
    bucket = Slow()
    with_bucket(house, bucket)
    mount_s3(house)
    ask = {
        "head": (Method.STAT, api.StatRequest("/s3/f")),
        "list": (Method.LIST, api.ListRequest("/s3")),
    }
    waits = []
    for kind, entry in ((first, UfsEntry(b"f", False, 1, 1, "e:old")), (second, UfsEntry(b"f", False, 2, 2, "e:new"))):
        bucket.entries = [entry]
        waits.append(house.begin(*ask[kind]))
        while kind not in bucket.asked:
            house.loop.do(lambda: None)
        house.now_s += 40
    for kind, wait in zip((first, second), waits, strict=True):
        bucket.gates[kind].set()
        wait()
    assert house.stat("/s3/f").fingerprint == "e:new"
