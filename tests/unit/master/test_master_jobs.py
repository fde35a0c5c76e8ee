"""Jobs: syncs that look at everything, loads, frees, how they are steered, and what of them a restart finds again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lakes import Lake, directory_lake, ended, job, start, steer, tree
from master_house import Held, House
from twisted.internet.defer import Deferred

from monofs.config.schema import Config, MasterConfig
from monofs.master.job_run import left_s
from monofs.model.errors import InvalidArgument, NotFound, PermissionDenied, UfsDenied
from monofs.model.principal import Principal, Right
from monofs.observe.metrics import JOBS
from monofs.rpc import api
from monofs.rpc.api import Method


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return directory_lake(tmp_path)


@pytest.fixture
def house(make_house: Callable[..., House], lake: Lake) -> House:
    made = make_house(Config(master=MasterConfig(job_requests=3)))
    lake.mount(made)
    return made


def forest(lake: Lake, width: int = 4, files: int = 3) -> list[str]:
    """A tree of four levels; its paths."""
    paths = []
    for first in range(width):
        for second in range(width):
            for number in range(files):
                key = f"{first}/{second}.x/{second}/f{number}"
                lake.put(key)
                paths.append(f"/lake/{key}")
    return paths


def files(house: House, path: str) -> list[str]:
    """What the tree knows, the store unasked."""
    return sorted(each for each in tree(house, path, load="NEVER") if not each.endswith("/"))


# ---- sync ----------------------------------------------------------------------------------------------------------------


def test_a_sync_finds_everything_and_tells_how_much_it_met(house: House, lake: Lake) -> None:
    paths = forest(lake)
    done = ended(house, start(house, "sync", "/lake"))
    assert (done.state, done.failed, done.counts["directories"], done.done) == ("done", 0, 37, 84)
    assert done.counts["changed"] == 84
    house.asked()
    assert files(house, "/lake") == sorted(paths)
    assert house.asked() == []


def test_a_second_sync_changes_nothing_and_one_after_changes_takes_them_over(house: House, lake: Lake) -> None:
    paths = forest(lake)
    ended(house, start(house, "sync", "/lake"))
    index = house.namespace.applied_index
    again = ended(house, start(house, "sync", "/lake"))
    assert again.counts.get("changed", 0) == 0
    assert house.namespace.applied_index - index < 10, "no page was adopted"
    assert lake.directory is not None
    shutil.rmtree(lake.directory / "1")
    (lake.directory / "2" / "0.x" / "0" / "f0").unlink()
    lake.put("3/new/f")
    lake.put("0/0.x/0/f0", b"grown")
    ended(house, start(house, "sync", "/lake"))
    gone = [path for path in paths if path.startswith("/lake/1/")] + ["/lake/2/0.x/0/f0"]
    assert files(house, "/lake") == sorted({*paths, "/lake/3/new/f"} - {*gone})
    assert house.stat("/lake/0/0.x/0/f0", -1.0).size == 5


def test_a_sync_begins_at_its_path_and_looks_nowhere_else(house: House, lake: Lake) -> None:
    forest(lake)
    ended(house, start(house, "sync", "/lake/2"))
    assert {path.split("/")[2] for path in files(house, "/lake/2")} == {"2"}
    assert len(files(house, "/lake/2")) == 12
    with pytest.raises(NotFound):
        house.stat("/lake/1/0.x/0/f0", load="NEVER")


def test_a_sync_of_a_file_looks_at_it(house: House, lake: Lake) -> None:
    lake.put("f", b"1")
    house.stat("/lake/f")
    lake.put("f", b"22")
    done = ended(house, start(house, "sync", "/lake/f"))
    assert (done.state, done.done) == ("done", 1)
    assert house.stat("/lake/f", -1.0).size == 2


def test_a_sync_of_what_is_not_there_fails_and_says_so(house: House) -> None:
    done = ended(house, start(house, "sync", "/lake/none"))
    assert done.state == "failed"
    assert "/lake/none" in done.error


def test_a_sync_of_the_root_looks_at_all_mounts_at_once(house: House, lake: Lake, tmp_path: Path) -> None:
    forest(lake)
    other = Lake(tmp_path / "other", None)
    other.put("a/b")
    other.mount(house, "/deep/other")
    done = ended(house, start(house, "sync", "/"))
    assert done.done == 84 + 2
    assert files(house, "/deep") == ["/deep/other/a/b"]
    assert len(files(house, "/lake")) == 48


def test_a_mount_below_another_is_synced_by_its_own_walk(house: House, lake: Lake, tmp_path: Path) -> None:
    lake.put("a/f")
    inner = Lake(tmp_path / "inner", None)
    inner.put("g/h")
    inner.mount(house, "/lake/a/inner")
    lake.put("a/inner/hidden")
    ended(house, start(house, "sync", "/lake"))
    assert files(house, "/lake") == ["/lake/a/f", "/lake/a/inner/g/h"]


def test_a_directory_that_cannot_be_listed_is_named_and_the_others_are_synced(house: House, lake: Lake) -> None:
    paths = forest(lake)
    asked = 0

    def refuse() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise UfsDenied("no permission to list here")

    house.watch.before["list"] = refuse
    done = ended(house, start(house, "sync", "/lake"))
    assert (done.state, done.failed, len(done.failures)) == ("done", 1, 1)
    assert "no permission" in done.failures[0][1]
    lost = done.failures[0][0]
    assert files(house, "/lake") == sorted(path for path in paths if not path.startswith(lost + "/"))


def test_a_sync_goes_on_after_a_restart_where_it_was(house: House, lake: Lake) -> None:
    paths = forest(lake, width=6)
    held = Held()
    asked = 0

    def hold() -> None:
        nonlocal asked
        asked += 1
        if asked == 40:
            held()

    house.watch.before["list"] = hold
    number = start(house, "sync", "/lake")
    held.wait_until_there()
    run, _ = house.master._background.jobs._runs[number]
    house.loop.do(lambda: Deferred.fromCoroutine(run.save()))
    held.release()
    house.watch.before.clear()
    house.restart()
    house.asked()
    assert ended(house, number).counts["directories"] >= 79
    assert len(house.asked()) < 60, "most of 79 directories were not listed again"
    assert files(house, "/lake") == sorted(paths)


def test_a_stopped_sync_stays_stopped_and_a_paused_one_goes_on(house: House, lake: Lake) -> None:
    paths = forest(lake)
    held = house.hold("list")
    first, second = start(house, "sync", "/lake"), start(house, "sync", "/lake")
    held.wait_until_there()
    assert steer(house, first, "stop").state == "stopped"
    assert steer(house, second, "pause").state == "paused"
    held.release()
    with pytest.raises(InvalidArgument, match="has ended"):
        steer(house, first, "resume")
    assert steer(house, second, "resume").state in ("running", "done")
    ended(house, second)
    assert job(house, first).state == "stopped"
    assert files(house, "/lake") == sorted(paths)


def test_a_page_with_many_directories_is_walked_whole(house: House, lake: Lake) -> None:
    for number in range(1100):
        lake.put(f"{number:04}/f")
    done = ended(house, start(house, "sync", "/lake"))
    assert (done.counts["directories"], done.done) == (1101, 2200)
    assert len(files(house, "/lake")) == 1100


# ---- free, load ----------------------------------------------------------------------------------------------------------


def test_a_free_of_a_directory_orders_what_is_not_pinned(house: House, lake: Lake) -> None:
    forest(lake)
    ended(house, start(house, "sync", "/lake"))
    house.ask(Method.SET_PIN, api.SetPinRequest("/lake/1", True))
    oldest = house.namespace.feed_bounds()[1]
    done = ended(house, start(house, "free", "/lake"))
    assert (done.done, done.counts["pinned"]) == (36, 12)
    freed = [content for _, kind, contents in house.namespace.feed(oldest, 100) if kind == 2 for content in contents]
    assert len(set(freed)) == 36
    assert ended(house, start(house, "free", "/lake", force="true")).done == 48


def silent_worker(house: House) -> int:
    """A worker that was heard once, and follows no order."""
    request = api.RegisterRequest(b"w" * 16, "127.0.0.1:1", "", "", 1 << 30, 0, 0)
    number: int = house.ask(Method.REGISTER, request).worker
    return number


def test_a_free_names_the_workers_that_did_not_follow(
    house: House, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.master.job_free.PASSED_WAIT_S", 0.01)
    monkeypatch.setattr("monofs.master.job_free.LOOK_S", 0.005)
    forest(lake)
    ended(house, start(house, "sync", "/lake"))
    worker = silent_worker(house)
    done = ended(house, start(house, "free", "/lake"))
    assert (done.state, done.done, done.total, done.failed) == ("done", 48, 48, 1)
    assert done.failures[0][0] == f"worker {worker}"


def test_a_free_that_waits_can_be_stopped_and_after_a_restart_waits_on(
    house: House, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monofs.master.job_free.TOLD_AFTER_S", 0.0)
    forest(lake)
    ended(house, start(house, "sync", "/lake"))
    silent_worker(house)
    first, second = start(house, "free", "/lake"), start(house, "free", "/lake")
    for number in (first, second):
        until(house, lambda number=number: "have not followed" in job(house, number).error)
    assert steer(house, first, "stop").state == "stopped"
    index = house.namespace.feed_bounds()[1]
    run, _ = house.master._background.jobs._runs[second]
    house.loop.do(lambda: Deferred.fromCoroutine(run.save()))
    house.restart()
    assert ended(house, second).done == 48, "a worker the new master has not heard of holds up nobody"
    assert house.namespace.feed_bounds()[1] == index, "nothing was ordered twice"


def test_a_load_of_metadata_only_fetches_nothing(house: House, lake: Lake) -> None:
    paths = forest(lake)
    done = ended(house, start(house, "load", "/lake", metadata_only="true"))
    assert (done.state, done.bytes_done) == ("done", 0)
    assert files(house, "/lake") == sorted(paths)


def test_a_load_without_workers_waits_and_says_why(house: House, lake: Lake) -> None:
    lake.put("f")
    number = start(house, "load", "/lake")

    def waits() -> bool:
        return "no worker" in job(house, number).error

    until(house, waits)
    assert job(house, number).state == "running"
    steer(house, number, "stop")


def until(house: House, is_so: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if is_so():
            return
        house.loop.do(lambda: None)
    raise AssertionError("it never came to be so")


# ---- handlers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("delete", {}),
        ("load", {"recursive": "true"}),
        ("load", {"metadata_only": "perhaps"}),
        ("sync", {"force": "true"}),
    ],
)
def test_jobs_that_make_no_sense_are_refused(house: House, kind: str, arguments: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        start(house, kind, "/lake", **arguments)


def test_who_may_only_read_can_load_but_not_free_or_steer(house: House, lake: Lake) -> None:
    reader = Principal("reader", rights=Right.READ)
    lake.put("f")
    number = house.ask(Method.JOB_ADD, api.JobAddRequest("sync", "/lake"), reader).jobs[0].number
    for method, request in (
        (Method.JOB_ADD, api.JobAddRequest("free", "/lake")),
        (Method.JOB_STEER, api.JobSteerRequest(number, "stop")),
    ):
        with pytest.raises(PermissionDenied):
            house.ask(method, request, reader)
    assert ended(house, number).user == "reader"


def test_a_retried_request_adds_one_job(house: House) -> None:
    request = api.JobAddRequest("sync", "/lake", {}, api.RequestId(b"c" * 16, 1, 1))
    first, second = (house.ask(Method.JOB_ADD, request).jobs[0].number for _ in range(2))
    assert first == second
    ended(house, first)


def test_open_jobs_are_measured(house: House) -> None:
    held = house.hold("list")
    number = start(house, "sync", "/lake")
    held.wait_until_there()
    assert JOBS("sync", "running").value == 1
    held.release()
    ended(house, number)
    assert house.loop.do(lambda: JOBS("sync", "done").value) == 1


def test_the_time_left_is_told_by_files_and_bytes_together() -> None:
    """Twenty large files of 3,010 took six seconds, and held a quarter of all bytes: the others, small ones, took twelve, not twelve minutes."""
    assert left_s(6, done=25, left=2985, done_bytes=354 << 20, left_bytes=1094 << 20) == pytest.approx(30, abs=3)
    assert left_s(6, done=2000, left=1000, done_bytes=10 << 20, left_bytes=5 << 20) == pytest.approx(3)
    assert left_s(6, done=20, left=10, done_bytes=0, left_bytes=0) == pytest.approx(3)
    assert left_s(6, done=0, left=10, done_bytes=10, left_bytes=0) is not None, (
        "large files show before the first is through"
    )
    assert left_s(6, done=0, left=10, done_bytes=0, left_bytes=10) is None
    assert left_s(6, done=5, left=-6, done_bytes=0, left_bytes=0) is None, "how many there are is not known"
