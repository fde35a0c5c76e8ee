"""Policies, times to live, distrust, comparing, and what stores tell by events: what the leader does without being asked each time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lakes import Lake, directory_lake, ended, start, tree
from master_house import House, write
from scribe import Scribe

from monofs.config.schema import Config
from monofs.master import events as master_events
from monofs.master.policies import group_specs
from monofs.metadata.tables import LAYOUT_LEVEL, REPLICAS_LEVEL
from monofs.model.errors import InvalidArgument, NotFound, NotReady, PermissionDenied, ReadOnly, UfsDenied
from monofs.model.principal import Principal, Right
from monofs.observe.audit import AUDIT_LOGGER
from monofs.observe.metrics import EVENTS
from monofs.rpc import api
from monofs.rpc.api import Method, PolicyInfo

HOUR_NS = 3600 * 10**9


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return directory_lake(tmp_path)


@pytest.fixture
def house(make_house: Callable[..., House], lake: Lake) -> House:
    made = make_house(Config())
    lake.mount(made)
    return made


def set_policy(house: House, path: str, **says: Any) -> PolicyInfo:
    told: PolicyInfo = house.ask(Method.POLICY_SET, api.PolicySetRequest(PolicyInfo(path, **says)))
    return told


# ---- policies ------------------------------------------------------------------------------------------------------------


def test_a_layout_is_refused_while_a_master_does_not_know_of_it(house: House) -> None:
    house.namespace.meta.level = LAYOUT_LEVEL - 1
    with pytest.raises(NotReady, match="every master"):
        set_policy(house, "/lake", layout=255)
    set_policy(house, "/lake", ttl_s=1)
    house.namespace.meta.level = LAYOUT_LEVEL
    assert set_policy(house, "/lake", layout=255).layout == 255


def test_replicas_are_refused_while_a_master_does_not_know_of_them(house: House) -> None:
    house.namespace.meta.level = REPLICAS_LEVEL - 1
    with pytest.raises(NotReady, match="every master"):
        set_policy(house, "/lake", replicas=2)
    house.namespace.meta.level = REPLICAS_LEVEL
    assert set_policy(house, "/lake", replicas=2).replicas == 2
    set_policy(house, "/lake/d", ttl_s=5)
    assert [spec.replicas for spec in group_specs(house.namespace)] == [2, 2], "what is below has as many"


def test_the_deepest_policy_says_how_old_a_path_may_be(house: House, lake: Lake) -> None:
    for key in ("a/f", "a/b/f"):
        lake.put(key, b"1")
        house.stat(f"/lake/{key}")
    set_policy(house, "/lake/a", sync_interval_s=-1.0)
    set_policy(house, "/lake/a/b", sync_interval_s=5.0)
    for key in ("a/f", "a/b/f"):
        lake.put(key, b"22")
    house.now_s += 4
    assert [house.stat(f"/lake/{key}").size for key in ("a/f", "a/b/f")] == [1, 1]
    house.now_s += 2
    assert [house.stat(f"/lake/{key}").size for key in ("a/f", "a/b/f")] == [1, 2]
    assert house.stat("/lake/a/f", 0).size == 2, "what a request says comes first"


def test_policies_are_listed_replaced_and_removed_and_outlive_a_restart(house: House) -> None:
    first = set_policy(house, "/lake/a", sync_interval_s=60.0, quota_bytes=1 << 30, priority="HIGH")
    set_policy(house, "/lake/a/b", write_type="THROUGH", ttl_s=60)
    house.restart()
    listed = house.ask(Method.POLICY_LIST, api.Empty()).policies
    assert [(each.path, each.quota_bytes, each.ttl_s) for each in listed] == [
        ("/lake/a", 1 << 30, None),
        ("/lake/a/b", None, 60),
    ]
    changed = set_policy(house, "/lake/a", quota_bytes=5)
    assert (changed.id, changed.quota_bytes, changed.sync_interval_s) == (first.id, 5, None)
    set_policy(house, "/lake/a/b")
    assert [each.path for each in house.ask(Method.POLICY_LIST, api.Empty()).policies] == ["/lake/a"]


def test_workers_are_told_of_cache_groups_as_merged(house: House) -> None:
    scribe = Scribe(house)
    before = house.namespace.meta.policies_index
    above = set_policy(house, "/lake/a", quota_bytes=100, priority="LOW")
    below = set_policy(house, "/lake/a/b", ttl_s=60)
    told = [(each.id, each.quota_bytes, each.priority, each.ttl_s) for each in group_specs(house.namespace)]
    assert told == [(above.id, 100, "LOW", 0), (below.id, 100, "LOW", 60)]
    beat = api.HeartbeatRequest(
        scribe.number, 10**9, 1, 1, 10**9, 0.0, policies_index=before, group_bytes={above.id: 7}
    )
    answer = house.ask(Method.HEARTBEAT, beat)
    assert [each.id for each in answer.groups] == [above.id, below.id]
    beat = api.HeartbeatRequest(scribe.number, 10**9, 1, 1, 10**9, 0.0, policies_index=answer.policies_index)
    assert house.ask(Method.HEARTBEAT, beat).groups is None


def test_what_workers_have_cached_of_a_group_is_told(house: House) -> None:
    scribe = Scribe(house)
    policy = set_policy(house, "/lake/a", quota_bytes=100)
    house.ask(Method.HEARTBEAT, api.HeartbeatRequest(scribe.number, 10**9, 1, 1, 0, 0.0, group_bytes={policy.id: 42}))
    assert house.ask(Method.POLICY_LIST, api.Empty()).policies[0].used_bytes == 42


def test_more_copies_than_slots_list_are_refused_with_what_to_set_but_what_was_set_before_stays(house: House) -> None:
    assert house.config.namespace.replicas == 2
    with pytest.raises(InvalidArgument, match="replicas to 3 on every master"):
        set_policy(house, "/lake", replicas=3)
    assert set_policy(house, "/lake", replicas=2).replicas == 2
    house.config = replace(house.config, namespace=replace(house.config.namespace, replicas=1))
    house.restart()
    assert set_policy(house, "/lake", replicas=2, ttl_s=60).ttl_s == 60
    with pytest.raises(InvalidArgument):
        set_policy(house, "/lake/other", replicas=2)


def test_policies_are_set_by_administrators_and_make_sense(house: House) -> None:
    writer = Principal("writer", rights=Right.READ | Right.WRITE)
    with pytest.raises(PermissionDenied):
        house.ask(Method.POLICY_SET, api.PolicySetRequest(PolicyInfo("/lake", ttl_s=1)), writer)
    for bad in ({"sync_interval_s": -3.0}, {"write_type": "LATER"}, {"priority": "HIGHEST"}, {"quota_bytes": -1}):
        with pytest.raises(InvalidArgument):
            set_policy(house, "/lake", **bad)


# ---- time to live --------------------------------------------------------------------------------------------------------


def set_ttl(house: House, path: str, duration_s: float | None, action: str = "free") -> None:
    house.ask(Method.SET_TTL, api.SetTtlRequest(path, duration_s, action))


def pass_time(house: House, seconds: float) -> None:
    """Let time pass, and the duty act on it."""
    house.later_ns += round(seconds * 1e9)
    house.now_s += seconds
    house.loop.do(house.master._duties.expire_paths)


def test_an_expired_file_is_freed_once(house: House, lake: Lake) -> None:
    lake.put("f")
    content = house.stat("/lake/f").content
    set_ttl(house, "/lake/f", 60)
    newest = house.namespace.feed_bounds()[1]
    pass_time(house, 59)
    assert house.namespace.feed(newest, 10) == []
    pass_time(house, 2)
    assert [(kind, contents) for _, kind, contents in house.namespace.feed(newest, 10)] == [(2, [content])]
    assert house.namespace.ttl_of("/lake/f") is None
    pass_time(house, 3600)
    assert len(house.namespace.feed(newest, 10)) == 1


def test_an_expired_directory_is_freed_by_a_job_but_for_what_is_pinned(house: House, lake: Lake) -> None:
    lake.put("d/f")
    lake.put("d/g")
    tree(house, "/lake")
    house.ask(Method.SET_PIN, api.SetPinRequest("/lake/d/g", True))
    set_ttl(house, "/lake/d", 60)
    pass_time(house, 61)
    jobs = house.ask(Method.JOB_LIST, api.JobListRequest()).jobs
    assert [(each.kind, each.path, each.user) for each in jobs] == [("free", "/lake/d", "ttl")]
    done = ended(house, jobs[0].number)
    assert (done.done, done.counts["pinned"]) == (1, 1)


def test_expired_metadata_is_forgotten_and_looked_at_again(house: House, lake: Lake) -> None:
    lake.put("d/f")
    tree(house, "/lake")
    set_ttl(house, "/lake/d", 60, "delete_cache_metadata")
    pass_time(house, 61)
    with pytest.raises(NotFound):
        house.stat("/lake/d/f", load="NEVER")
    assert lake.listed() == ["d/f"]
    assert house.stat("/lake/d/f").size == 4


def test_an_expired_path_is_deleted_in_the_store_and_audited(
    house: House, lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=AUDIT_LOGGER)
    for key in ("f", "d/f", "stays"):
        lake.put(key)
    tree(house, "/lake")
    set_ttl(house, "/lake/f", 60, "delete")
    set_ttl(house, "/lake/d", 60, "delete")
    pass_time(house, 61)
    for each in house.ask(Method.JOB_LIST, api.JobListRequest()).jobs:
        ended(house, each.number)
    assert lake.listed() == ["stays"]
    records = [record.__dict__["fields"] for record in caplog.records if record.name == AUDIT_LOGGER]
    shown = sorted((one["command"], one["source"]) for one in records if one["principal"] == "ttl")
    assert shown == [("delete", "/lake/f"), ("delete -r", "/lake/d")]


def test_a_deletion_in_time_that_fails_is_tried_again(house: House, lake: Lake) -> None:
    lake.put("f")
    house.stat("/lake/f")
    set_ttl(house, "/lake/f", 60, "delete")
    refusals = 1

    def refuse() -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise UfsDenied("not now")

    house.watch.before["delete"] = refuse
    pass_time(house, 61)
    assert lake.listed() == ["f"]
    assert house.namespace.ttl_of("/lake/f") is not None
    pass_time(house, 0.1)
    assert lake.listed() == ["f"], "not before the pause is over"
    pass_time(house, 5)
    assert lake.listed() == []


def test_an_upload_in_parts_that_was_left_without_a_time_to_live_goes_a_week_after_its_last_change(
    house: House,
) -> None:
    scribe, day = Scribe(house), 86400
    for path in ("left/upload", "left/1", "kept/upload"):
        scribe.write(f"/.monofs-uploads/{path}", b"1")
    set_ttl(house, "/.monofs-uploads/kept", 30 * day, "delete")

    def end_uploads() -> list[str]:
        house.loop.do(house.master._duties.end_uploads)
        pass_time(house, 1)
        return house.list("/.monofs-uploads", 0)

    pass_time(house, 6 * day)
    assert end_uploads() == ["kept/", "left/"]
    scribe.write("/.monofs-uploads/left/2", b"1")
    pass_time(house, 6 * day)
    assert end_uploads() == ["kept/", "left/"]
    pass_time(house, 2 * day)
    assert end_uploads() == ["kept/"]
    assert house.stat("/.monofs-uploads/kept/upload").size == 1


def test_a_time_to_live_does_not_outlive_its_file(house: House) -> None:
    scribe = Scribe(house)
    scribe.write("/s/f", b"1")
    set_ttl(house, "/s/f", 60, "delete")
    house.ask(Method.DELETE, api.DeleteRequest("/s/f"))
    scribe.write("/s/f", b"2")
    pass_time(house, 61)
    assert house.stat("/s/f").size == 1


@pytest.mark.parametrize("path", ["/s/f", "/lake/f"])
def test_a_time_to_live_ends_with_the_file_it_was_set_for_when_another_takes_its_name(
    house: House, lake: Lake, path: str
) -> None:
    scribe = Scribe(house)
    scribe.write(path, b"1")
    set_ttl(house, path, 60, "delete")
    scribe.write(path, b"other")
    assert house.namespace.ttl_of(path) is None
    pass_time(house, 61)
    assert house.stat(path).size == 5


def test_a_file_and_a_directory_of_one_name_have_each_its_own_time(house: House) -> None:
    scribe = Scribe(house)
    scribe.write("/s/a", b"1")
    set_ttl(house, "/s/a", 60, "delete")
    scribe.write("/s/a/b", b"2", as_key=True)
    pass_time(house, 61)
    assert [each.decode() for each in house.ask(Method.LIST_KEYS, api.ListKeysRequest("/s")).keys] == ["a/b"]
    set_ttl(house, "/s/a", 60, "delete")
    for _ in range(2):
        scribe.write("/s/a", b"3", as_key=True)
    house.ask(Method.DELETE, api.DeleteRequest("/s/a", as_key=True))
    pass_time(house, 61)
    assert house.list("/") == ["lake/", "s/"]
    assert house.list("/s") == []


def test_a_time_to_live_set_anew_or_removed_counts_from_then(house: House, lake: Lake) -> None:
    lake.put("f")
    lake.put("g")
    for path in ("/lake/f", "/lake/g"):
        set_ttl(house, path, 60, "delete")
    pass_time(house, 50)
    set_ttl(house, "/lake/f", 60, "delete")
    set_ttl(house, "/lake/g", None)
    pass_time(house, 20)
    assert lake.listed() == ["f", "g"]
    pass_time(house, 50)
    assert lake.listed() == ["g"]


def test_times_to_live_that_make_no_sense_are_refused(house: House, lake: Lake, tmp_path: Path) -> None:
    lake.put("f")
    (tmp_path / "fixed").mkdir()
    write(tmp_path / "fixed" / "f", b"1")
    house.mount("/fixed", tmp_path / "fixed", readonly=True)
    with pytest.raises(NotFound):
        set_ttl(house, "/lake/none", 60)
    with pytest.raises(InvalidArgument):
        set_ttl(house, "/lake/f", -1)
    with pytest.raises(InvalidArgument):
        set_ttl(house, "/lake/f", 60, "burn")
    with pytest.raises(ReadOnly):
        set_ttl(house, "/fixed/f", 60, "delete")
    with pytest.raises(PermissionDenied):
        house.ask(Method.SET_TTL, api.SetTtlRequest("/lake/f", 60), Principal("reader", rights=Right.READ))


# ---- distrust ------------------------------------------------------------------------------------------------------------


def needs_sync(house: House, path: str) -> None:
    house.ask(Method.NEEDS_SYNC, api.NeedsSyncRequest(path))


def test_what_needs_sync_is_looked_at_once_more_whatever_its_interval(house: House, lake: Lake) -> None:
    for key in ("d/f", "e/f"):
        lake.put(key, b"1")
        house.stat(f"/lake/{key}")
        house.list(f"/lake/{key[0]}")
        lake.put(key, b"22")
    house.now_s += 1
    needs_sync(house, "/lake/d")
    assert house.stat("/lake/e/f", -1.0).size == 1
    assert house.stat("/lake/d/f", -1.0).size == 2
    house.asked()
    assert house.stat("/lake/d/f", -1.0).size == 2
    assert house.asked() == []
    with pytest.raises(NotFound):
        house.stat("/lake/d/none", -1.0)
    assert house.asked() != [], "what was known to be missing is looked for"


def test_a_listing_that_needs_sync_is_asked_for_again(house: House, lake: Lake) -> None:
    lake.put("d/f")
    house.list("/lake/d", -1.0)
    lake.put("d/g")
    house.now_s += 1
    needs_sync(house, "/")
    assert house.list("/lake/d", -1.0) == ["f", "g"]
    house.asked()
    assert house.list("/lake/d", -1.0) == ["f", "g"]
    assert house.asked() == []


# ---- comparing -----------------------------------------------------------------------------------------------------------


def compare(house: House, path: str) -> tuple[list[tuple[str, str]], list[str], int, int]:
    """(path, problem) of all pages; directories; files; unpersisted."""
    found: list[tuple[str, str]] = []
    directories: list[str] = []
    files = unpersisted = 0
    after: bytes | None = b""
    while after is not None:
        page = house.ask(Method.COMPARE, api.CompareRequest(path, after))
        found += [(each.path, each.problem) for each in page.differences]
        directories += page.directories
        files, unpersisted, after = files + page.files, unpersisted + page.unpersisted, page.next
    return found, directories, files, unpersisted


def test_a_comparison_names_every_difference_and_changes_nothing(house: House, lake: Lake) -> None:
    for key in ("same", "gone", "grown", "touched", "kind", "dir/f", "lost/f"):
        lake.put(key, b"1")
    ended(house, start(house, "sync", "/lake"))
    assert lake.directory is not None
    assert compare(house, "/lake") == ([], ["/lake/dir", "/lake/lost"], 5, 0)
    for name in ("gone", "kind", "lost/f"):
        (lake.directory / name).unlink()
    (lake.directory / "lost").rmdir()
    lake.put("grown", b"22")
    lake.put("touched", b"2")
    lake.put("kind/f")
    lake.put("new")
    index = house.namespace.applied_index
    found, directories, files, unpersisted = compare(house, "/lake")
    assert sorted(found) == [
        ("/lake/gone", "missing in store"),
        ("/lake/grown", "other size"),
        ("/lake/kind", "other kind"),
        ("/lake/lost", "missing in store"),
        ("/lake/new", "unknown here"),
        ("/lake/touched", "other version"),
    ]
    assert (directories, files, unpersisted) == (["/lake/dir"], 5, 0)
    assert compare(house, "/lake/grown")[0] == [("/lake/grown", "other size")]
    assert house.namespace.applied_index == index


def test_a_comparison_pages_through_large_directories(house: House, lake: Lake) -> None:
    for number in range(1500):
        lake.put(f"d/{number:05}")
    house.list("/lake/d")
    lake.put("d/00700x")
    assert lake.directory is not None
    (lake.directory / "d" / "01200").unlink()
    found, _, files, _ = compare(house, "/lake/d")
    assert found == [("/lake/d/00700x", "unknown here"), ("/lake/d/01200", "missing in store")]
    assert files == 1500


def test_files_no_store_should_have_and_directories_never_listed_are_no_differences(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    house.list("/lake")
    scribe.write("/lake/kept", b"1", write_type="MUST_CACHE")
    lake.put("d/f")
    lake.put("d/g")
    house.stat("/lake/d/f", 0)
    assert compare(house, "/lake")[:1] + compare(house, "/lake")[2:] == ([], 1, 1)
    assert compare(house, "/lake/d") == ([], [], 1, 0)
    begun = scribe.begin("/lake/d/h", 1)
    assert compare(house, "/lake/d")[0] == []
    scribe.end(begun, scribe.put(begun, b"1"), 1)
    with pytest.raises(NotFound):
        compare(house, "/lake/none")


def test_under_no_mount_there_is_nothing_to_compare_with(house: House) -> None:
    Scribe(house).write("/s/d/f", b"1")
    assert compare(house, "/s") == ([], ["/s/d"], 0, 0)
    assert compare(house, "/s/d") == ([], [], 1, 1)


# ---- events --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def objects(bucket: Any) -> Lake:
    return Lake(None, bucket)


@pytest.fixture
def object_house(make_house: Callable[..., House], objects: Lake) -> House:
    made = make_house(Config())
    objects.mount(made)
    return made


def take(house: House, *events: tuple[str, str, str]) -> dict[str, float]:
    """Hand events over and wait until all were looked at; how the counters moved."""
    before = {outcome: EVENTS(outcome).value for outcome in ("looked", "ignored", "distrusted", "failed")}
    assert house.loop.do(lambda: house.master.take_events(events))
    handled = house.master._background.events
    while house.loop.do(lambda: bool(handled._waiting or handled._looking)):
        continue
    return {name: EVENTS(name).value - value for name, value in before.items() if EVENTS(name).value != value}


def test_an_event_has_its_path_looked_at(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    assert lake.bucket is not None
    lake.put("d/f", b"1")
    house.stat("/lake/d/f")
    house.list("/lake/d")
    lake.put("d/f", b"22")
    lake.put("d/new", b"1")
    assert house.stat("/lake/d/f").size == 1
    name = lake.bucket.name
    assert take(house, (name, "d/f", "x"), (name, "d/new", "y"), (name, "d/f", "x")) == {"looked": 3}
    assert house.stat("/lake/d/f", -1.0).size == 2
    assert house.stat("/lake/d/new", -1.0).size == 1
    lake.bucket.delete("d/f")
    assert take(house, (name, "d/f", "")) == {"looked": 1}
    with pytest.raises(NotFound):
        house.stat("/lake/d/f", -1.0)


def test_events_of_what_is_known_or_in_no_mount_cost_nothing(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    assert lake.bucket is not None
    lake.put("f", b"1")
    etag = house.stat("/lake/f").fingerprint.removeprefix("e:")
    house.asked()
    name = lake.bucket.name
    assert take(house, (name, "f", etag), ("other", "f", "x"), (name, "a//b", "x")) == {"ignored": 3}
    assert house.asked() == []


def test_beyond_the_bound_the_mount_is_distrusted(
    object_house: House, objects: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, lake = object_house, objects
    assert lake.bucket is not None
    monkeypatch.setattr(master_events, "WAITING_MAX", 2)
    lake.put("f2", b"1")
    house.stat("/lake/f2")
    lake.put("f2", b"22")
    house.now_s += 1
    events = [(lake.bucket.name, f"f{number}", "x") for number in range(5)]
    assert take(house, *events) == {"looked": 2, "distrusted": 3}
    assert house.stat("/lake/f2", -1.0).size == 2


def test_a_look_that_fails_leaves_the_path_distrusted(object_house: House, objects: Lake) -> None:
    house, lake = object_house, objects
    assert lake.bucket is not None
    lake.put("f", b"1")
    house.stat("/lake/f")
    lake.put("f", b"22")
    house.now_s += 1
    house.watch.error = UfsDenied("not now")
    assert take(house, (lake.bucket.name, "f", "x")) == {"failed": 1}
    house.watch.error = None
    assert house.stat("/lake/f", -1.0).size == 2
