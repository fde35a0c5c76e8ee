"""Jobs, policies, times to live, FORGET and TOUCH."""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from typing import Any

import pytest
from metadata_home import Home, directory, file, refused

from monofs.metadata.entries import AddJob, Forget, RemoveMount, SetLevel, SetPolicy, SetTtl, Touch, UpdateMount
from monofs.metadata.known_jobs import KnownJobs
from monofs.metadata.known_policies import NO_POLICY
from monofs.metadata.ops import guarding
from monofs.metadata.tables import HISTORY_LEVEL, JOBS_MAX, JobKind, JobState, Ttl
from monofs.model.errors import Busy, ConditionFailed, InvalidArgument, MountPoint, NotFound, NotSupported, Overloaded
from monofs.model.inode import Flag, decode_inode
from monofs.model.paths import parse_path


@pytest.fixture
def lake(home: Home) -> Home:
    """A mount at /m with a directory and two files."""
    home.mount("/m")
    home.adopt("/m", [directory("d"), file("f")])
    home.adopt("/m/d", [file("g")])
    return home


def add(home: Home, kind: int = JobKind.LOAD, path: str = "/m/d", **arguments: str) -> Any:
    return home.apply(AddJob(home.stamp(), kind, path, arguments, "ann"))


def end(home: Home, number: int, **said: Any) -> int:
    home.update_job(number, state=JobState.DONE, **said)
    return number


def remembered(home: Home) -> list[int]:
    """Newest first; as those that begin again know it, too."""
    numbers = [job.number for job in home.namespace.known_jobs.before(0)]
    again = KnownJobs(home.store)
    known = home.namespace.known_jobs
    assert [job.number for job in again.before(0)] == numbers
    assert (again.open, again.counts, again.ended_bytes) == (known.open, +known.counts, known.ended_bytes)
    assert list(again.first_ended()) == list(known.first_ended())
    return numbers


# ---- jobs -----------------------------------------------------------------------------------------------------------


def test_a_job_is_remembered_with_all_it_was_told(lake: Home) -> None:
    number = add(lake, path="/m/d/", recursive="true")
    lake.update_job(
        number, state=JobState.PAUSED, cursor=b"x", done=3, total=9, bytes_done=4, failed=1, error="waits",
        failures=[("/m/d/g", "gone")], counts={"kept": 2},
    )  # fmt: skip
    job = lake.namespace.job(number)
    assert job is not None
    assert (job.kind, job.path, job.arguments, job.user) == (JobKind.LOAD, "/m/d", {"recursive": "true"}, "ann")
    assert (job.state, job.cursor, job.done, job.total, job.bytes_done) == (JobState.PAUSED, b"x", 3, 9, 4)
    assert (job.failed, job.failures, job.error, job.counts) == (1, [("/m/d/g", "gone")], "waits", {"kept": 2})
    lake.update_job(number, done=4)
    lake.lose_memory()
    lake.open()
    again = lake.namespace.job(number)
    assert again is not None
    assert (again.done, again.total, again.state) == (4, 9, JobState.PAUSED)


def test_an_ended_job_stays_as_it_is(lake: Home) -> None:
    number = add(lake)
    lake.update_job(number, state=JobState.FAILED, error="no room")
    ended = lake.namespace.job(number)
    assert ended is not None
    assert (ended.ended_ns, ended.ended_index) == (lake.clock_ns, len(lake.log))
    assert lake.update_job(number, state=JobState.RUNNING, done=5) is None
    assert lake.namespace.job(number) == ended
    assert refused(lake.update_job(99), NotFound)


def test_jobs_that_owe_a_store_something_end_only_when_it_is_done(lake: Home) -> None:
    deleting = lake.remove_tree("/m/d")
    lake.adopt("/m", [directory("e"), file("f")])
    moving, _ = lake.rename_tree("/m/e", "/m/x")
    for number in (deleting, moving):
        for state in (JobState.STOPPED, JobState.FAILED, 9):
            assert refused(lake.update_job(number, state=state), InvalidArgument)
        lake.update_job(number, state=JobState.PAUSED)
        lake.update_job(number, state=JobState.RUNNING)
    assert refused(lake.update_job(moving, state=JobState.DONE), InvalidArgument)
    index = lake.namespace.meta.jobs_index
    lake.update_job(deleting, state=JobState.DONE)
    assert lake.namespace.meta.jobs_index > index
    assert lake.namespace.pending_removal()
    lake.finish_move(moving)
    assert lake.namespace.open_tree_jobs() == []


def test_what_a_job_says_is_bounded(lake: Home) -> None:
    assert refused(add(lake, JobKind.DELETE), InvalidArgument)
    assert refused(add(lake, 99), InvalidArgument)
    assert refused(add(lake, **{f"a{n}": "" for n in range(33)}), InvalidArgument)
    assert refused(add(lake, a="x" * 1001), InvalidArgument)
    number = add(lake)
    assert refused(lake.update_job(number, cursor=b"x" * 65_537), InvalidArgument)
    assert refused(lake.update_job(number, doomed=["x"] * 2001), InvalidArgument)
    assert refused(lake.update_job(number, counts={str(n): n for n in range(33)}), InvalidArgument)
    lake.update_job(number, error="e" * 5000, failures=[(f"{n}" + "k" * 5000, "e" * 5000) for n in range(150)])
    job = lake.namespace.job(number)
    assert job is not None
    assert len(job.error) == 1000
    assert [key[:3] for key, _ in job.failures] == [f"{n}"[:3].ljust(3, "k") for n in range(50, 150)]
    assert max(len(text) for failure in job.failures for text in failure) == 1000


def test_the_oldest_ended_job_falls_out_and_open_ones_never(lake: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "JOBS_OPEN_MAX", 3)
    numbers = [add(lake) for _ in range(3)]
    assert refused(add(lake), Overloaded)
    assert refused(lake.remove_tree("/m/d"), Overloaded)
    assert lake.exists("/m/d")
    lake.update_job(numbers[1], state=JobState.DONE)
    lake.update_job(numbers[0], state=JobState.STOPPED)
    newest = add(lake)
    assert remembered(lake) == [newest, numbers[2], numbers[0]]
    assert lake.namespace.job(numbers[1]) is None
    lake.update_job(newest, state=JobState.DONE)
    assert [job.number for job in lake.namespace.known_jobs.last_ended(9)] == [numbers[0], newest]
    assert [job.number for job in lake.namespace.known_jobs.last_ended(1)] == [newest]


def test_from_level_5_on_more_are_remembered_than_may_be_open(lake: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "JOBS_OPEN_MAX", 2)
    monkeypatch.setattr(guarding, "JOBS_MAX", 4)
    lake.apply(SetLevel(lake.stamp(), HISTORY_LEVEL))
    numbers = [end(lake, add(lake)) for _ in range(6)]
    assert remembered(lake) == numbers[:1:-1]
    numbers += [add(lake), add(lake)]
    assert refused(add(lake), Overloaded)
    assert remembered(lake) == numbers[:3:-1]


def test_jobs_that_tell_much_are_remembered_for_a_shorter_time(lake: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "JOBS_BYTES_MAX", 10_000)
    lake.apply(SetLevel(lake.stamp(), HISTORY_LEVEL))
    numbers = [end(lake, add(lake), failures=[(f"/m/{n}", "e" * 900)] * 5) for n in range(5)]
    assert remembered(lake) == numbers[:1:-1], "of 4.5 KB each, after the last began there was room for two"
    assert lake.namespace.known_jobs.ended_bytes < 15_000
    add(lake)
    assert lake.namespace.known_jobs.ended_bytes < 10_000
    assert lake.findings() == {}


def test_ten_thousand_jobs_are_remembered_within_a_few_megabytes_of_memory(home: Home) -> None:
    home.apply(SetLevel(home.stamp(), HISTORY_LEVEL))
    failures = [("/lake/file", "the store answered 503. " * 40)]
    for number in range(1, JOBS_MAX + 1):
        assert add(home, path=f"/lake/table-{number}", bandwidth="1000000") == number
        end(home, number, failures=failures)
    tracemalloc.start()
    known = KnownJobs(home.store)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(known) == JOBS_MAX
    assert held_bytes < 600 * JOBS_MAX < known.ended_bytes
    assert remembered(home) == list(range(JOBS_MAX, 0, -1))
    assert +home.namespace.known_jobs.counts == Counter({(JobKind.LOAD, JobState.DONE): JOBS_MAX})
    assert home.namespace.job(17).failures == failures
    assert add(home) == JOBS_MAX + 1
    assert len(home.namespace.known_jobs) == JOBS_MAX
    assert home.namespace.job(1) is None
    assert home.findings() == {}


def test_what_was_read_before_a_forgotten_tree_job_ended_is_refused(
    lake: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarding, "JOBS_OPEN_MAX", 1)
    number = lake.remove_tree("/m/d")
    during = len(lake.log)
    lake.update_job(number, state=JobState.DONE)
    add(lake)
    assert refused(lake.adopt("/m", [directory("d"), file("f")], read_index=during), ConditionFailed)
    assert lake.adopt("/m", [file("f")]) == (0, 0, 0)


def test_covers_are_told_by_natural_key(lake: Home) -> None:
    number = lake.remove_tree("/m/d")
    namespace = lake.namespace
    covering = [namespace.covering_job(1, key) for key in ("d", "d/", "d/g", "dd/g", "f")]
    assert [job and job.number for job in covering] == [None, number, number, None, None]
    assert namespace.covering_job(2, "d/g") is None


def test_a_job_of_a_mount_that_is_given_up_is_stopped(lake: Home) -> None:
    number, _ = lake.rename_tree("/m/d", "/m/e")
    index = lake.covering("/m").changed_index
    lake.apply(UpdateMount(lake.stamp(), "/m", index, {}, b"", False, None, "noAccess"))
    lake.apply(RemoveMount(lake.stamp(), "/m"))
    job = lake.namespace.job(number)
    assert job is not None
    assert job.state == JobState.STOPPED
    assert "/m" in job.error


# ---- policies -------------------------------------------------------------------------------------------------------


def policy(home: Home, path: str, **fields: Any) -> Any:
    return home.apply(SetPolicy(home.stamp(), path, **fields))


def test_the_deepest_policy_that_says_something_wins_per_field(home: Home) -> None:
    of = lambda path: home.namespace.policy_for(parse_path(path))  # noqa: E731
    assert of("/a") == NO_POLICY
    assert policy(home, "/", sync_interval_ms=60_000, priority="LOW") == 1
    assert policy(home, "/a/b/", quota_bytes=5, priority="HIGH") == 2
    assert policy(home, "/a/b/c/d", ttl_s=9, sync_interval_ms=-1000) == 3
    assert (of("/").id, of("/a").id, of("/a/b").id, of("/a/b/c").id, of("/a/b/c/d/e/f").id) == (1, 1, 2, 2, 3)
    deepest = of("/a/b/c/d/e/f")
    assert (deepest.path, deepest.sync_interval_ms, deepest.quota_bytes, deepest.priority, deepest.ttl_s) == (
        "/a/b/c/d",
        -1000,
        5,
        "HIGH",
        9,
    )
    assert deepest.write_type is None
    home.lose_memory()
    home.open()
    assert home.namespace.policy_for(parse_path("/a/b/c/d/e")) == deepest
    assert policy(home, "/a/b", write_type="THROUGH") == 2, "set anew it keeps its id"
    assert (of("/a/b/c/d").write_type, of("/a/b/c/d").quota_bytes) == ("THROUGH", None)
    assert policy(home, "/a/b") == 0
    assert policy(home, "/none") == 0
    assert of("/a/b/c").id == 1
    assert [each.path for each in home.namespace.policies()] == ["/", "/a/b/c/d"]
    assert policy(home, "/a/b", ttl_s=1) == 4
    assert home.namespace.meta.policies_index == len(home.log)


@pytest.mark.parametrize(
    "fields",
    [
        {"sync_interval_ms": -1},
        {"write_type": "ASYNC_THROUGH"},
        {"priority": "URGENT"},
        {"quota_bytes": -1},
        {"ttl_s": 1 << 63},
        {"layout": 25},
        {"layout": 41},
        {"replicas": 0},
        {"replicas": 9},
    ],
)
def test_policies_that_mean_nothing_are_refused(home: Home, fields: dict[str, Any]) -> None:
    assert refused(policy(home, "/a", **fields), InvalidArgument)


def test_a_content_begins_with_the_layout_its_path_has_and_keeps_it(home: Home) -> None:
    home.mount("/m")
    layout = lambda path: home.inode(path).layout  # noqa: E731
    home.adopt("/m", [file("before"), file("changes"), directory("d")])
    policy(home, "/m", layout=255)
    policy(home, "/m/d", layout=28)
    policy(home, "/m/d/own", layout=26)
    home.adopt("/m", [file("before"), file("changes", "2"), file("new"), directory("d")])
    home.adopt("/m/d", [file("f"), file("own")])
    home.adopt_path("/m/e/deep", file("deep"))
    home.write("/m/d/written")
    home.keep("/cache-only")
    assert [layout(f"/m/{name}") for name in ("before", "changes", "new", "e/deep")] == [26, 255, 255, 255]
    assert [layout(f"/m/d/{name}") for name in ("f", "own", "written")] == [28, 26, 28]
    assert layout("/cache-only") == 26
    policy(home, "/m", layout=27)
    home.adopt("/m", [file("before"), file("changes", "2", mtime_ns=5 * 10**18), file("new"), directory("d")])
    assert [layout(f"/m/{name}") for name in ("before", "changes", "new")] == [26, 255, 255], (
        "not the same bytes elsewhere"
    )
    assert home.rename_tree("/m/d", "/m/other") is not None
    assert layout("/m/other/f") == 28


def test_policies_are_bounded(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["monofs.metadata.ops.set_policy"], "POLICIES_MAX", 1)
    policy(home, "/a", ttl_s=1)
    assert refused(policy(home, "/b", ttl_s=1), Overloaded)
    assert policy(home, "/a", ttl_s=2) == 1


# ---- times to live --------------------------------------------------------------------------------------------------


def ttl(home: Home, path: str, expires_ns: int, action: str = "free", expected_ns: int = 0) -> Any:
    return home.apply(SetTtl(home.stamp(), path, expires_ns, action, expected_ns))


def test_paths_expire_in_the_order_of_their_times(lake: Home) -> None:
    ttl(lake, "/m/f", 300)
    ttl(lake, "/m/d", 100, "delete")
    ttl(lake, "/m/d/g", 200, "delete_cache_metadata")
    paths = lambda now, limit=10: [each.path for each in lake.namespace.expired(now, limit)]  # noqa: E731
    assert paths(99) == []
    assert paths(100) == ["/m/d"]
    assert paths(1000) == ["/m/d", "/m/d/g", "/m/f"]
    assert paths(1000, 2) == ["/m/d", "/m/d/g"]
    ttl(lake, "/m/d", 400, "free")
    assert paths(1000) == ["/m/d/g", "/m/f", "/m/d"]
    assert lake.namespace.ttl_of("/m/d") == Ttl(lake.inode("/m/d").id, 400, "free", "/m/d")
    ttl(lake, "/m/d", 0, expected_ns=399)
    assert lake.namespace.ttl_of("/m/d") is not None
    ttl(lake, "/m/d", 0, expected_ns=400)
    ttl(lake, "/m/f", 0)
    ttl(lake, "/m/none", 0)
    assert paths(1000) == ["/m/d/g"]
    assert lake.namespace.meta.ttls == 1


def test_times_to_live_go_with_what_is_renamed_and_end_with_what_is_deleted(lake: Home) -> None:
    long = "/c/" + "n" * 250 + "/" + "n" * 250
    lake.mkdir(long, parents=True)
    for path in ("/m/f", "/m/d", "/m/d/g", "/c", long):
        ttl(lake, path, 100)
    lake.end(lake.begin_rename("/m/f", "/m/e"), file("e"))
    lake.rename_tree("/m/d", "/m/x")
    lake.rename("/c", "/b")
    assert sorted(each.path for each in lake.namespace.expired(100, 10)) == sorted(
        ["/m/e", "/m/x", "/m/x/g", "/b", "/b" + long[2:]]
    )
    lake.end(lake.begin_delete("/m/e"), None)
    lake.delete("/b" + long[2:])
    lake.remove_tree("/b")
    assert [each.path for each in lake.namespace.expired(100, 10)] == ["/m/x", "/m/x/g"]
    assert lake.namespace.meta.ttls == 2


def test_times_to_live_that_cannot_be_are_refused(lake: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(ttl(lake, "/m/none", 100), NotFound)
    assert refused(ttl(lake, "/m/f", 100, "explode"), InvalidArgument)
    assert refused(ttl(lake, "/m/f", -1), InvalidArgument)
    assert refused(ttl(lake, "/m", 100, "delete"), InvalidArgument)
    assert refused(ttl(lake, "/", 100, "delete_cache_metadata"), InvalidArgument)
    assert ttl(lake, "/m", 100) is None
    monkeypatch.setattr(sys.modules["monofs.metadata.ops.set_ttl"], "TTLS_MAX", 1)
    assert refused(ttl(lake, "/m/f", 100), Overloaded)
    assert ttl(lake, "/m", 200) is None


# ---- forgetting, touching -------------------------------------------------------------------------------------------


def forget(home: Home, path: str) -> Any:
    return home.apply(Forget(home.stamp(), path))


def test_what_is_forgotten_is_found_again_at_the_next_look_and_not_before(lake: Home) -> None:
    old = lake.inode("/m/f").content
    slow = len(lake.log)
    assert lake.inode("/m").flags & Flag.LOADED
    assert forget(lake, "/m/f") is None
    assert not lake.exists("/m/f")
    assert not lake.inode("/m").flags & Flag.LOADED
    assert [contents for _, _, contents in lake.namespace.feed(0, 10)] == [[old]]
    assert lake.adopt("/m", [directory("d"), file("f")], read_index=slow) == (0, 0, 0)
    assert forget(lake, "/m/d") is None
    assert lake.namespace.pending_removal()
    assert lake.adopt("/m", [directory("d"), file("f")]) == (2, 0, 0)


def test_what_would_be_lost_is_not_forgotten(lake: Home) -> None:
    lake.keep("/m/d/scratch")
    lake.keep("/plain")
    for path in ("/m/d", "/m/d/scratch", "/plain"):
        assert refused(forget(lake, path), InvalidArgument)
    assert refused(forget(lake, "/m"), MountPoint)
    assert refused(forget(lake, "/m/none"), NotFound)
    intent = lake.begin_write("/m/f")
    assert refused(forget(lake, "/m/f"), Busy)
    lake.end(intent, file("f", "2"))
    assert forget(lake, "/m/d/g") is None


def test_a_touch_sets_the_time_of_what_is_under_no_mount(lake: Home) -> None:
    lake.create("/plain")
    before = lake.inode("/plain").mtime_ns
    record = decode_inode(lake.apply(Touch(lake.stamp(), "/plain")))
    assert record == lake.inode("/plain")
    assert record.mtime_ns == lake.clock_ns > before
    assert refused(lake.apply(Touch(lake.stamp(), "/none")), NotFound)
    assert refused(lake.apply(Touch(lake.stamp(), "/m/f")), NotSupported)
