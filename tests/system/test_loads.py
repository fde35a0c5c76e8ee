"""Loads over several workers: copies, lists, verification, a cache too small, a worker and a master that die meanwhile."""

from __future__ import annotations

import glob
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from test_slots import fetched, planned, settled

from monofs.model.errors import InvalidArgument
from monofs.testing.masters import wait_until
from monofs.testing.nodes import ServedNode

MIB = 1 << 20
FILES = 12
SIZE = MIB + 4321


class Cluster:
    """A master and two workers over one directory."""

    def __init__(self, stack: ExitStack, root: Path) -> None:
        self.root, self.lake = root, root / "lake"
        self.lake.mkdir()
        self.stack = stack
        self.master = stack.enter_context(ServedNode(str(root / "master"), sets=["node.role=master"]))
        self.workers = [self.worker(name) for name in ("w1", "w2")]
        self.fs = stack.enter_context(self.master.connect())
        self.fs.mount_add("/lake", f"file://{self.lake}")
        settled(self.fs, planned(self.fs, [1, 2]).epoch)

    def worker(self, name: str) -> ServedNode:
        sets = ["node.role=worker", f"worker.masters={self.master.doors['rpc']}"]
        sets.append(f"security.cluster_secret_file={self.master.home}/cluster.secret")
        return self.stack.enter_context(ServedNode(str(self.root / name), sets=sets))

    def put(self, directory: str, count: int = FILES, size: int = SIZE) -> list[str]:
        """Files of other bytes each; their paths."""
        (self.lake / directory).mkdir()
        for number in range(count):
            (self.lake / directory / f"f{number:02}").write_bytes(random.Random(f"{directory}{number}").randbytes(size))
        return [f"/lake/{directory}/f{number:02}" for number in range(count)]

    def copies(self, paths: list[str]) -> list[int]:
        """On how many workers each file is wholly cached."""
        size = self.fs.stat(paths[0]).size
        held = [0] * len(paths)
        for number, path in enumerate(paths):
            for answer in self.fs.cached_on(path).values():
                held[number] += sum(group.bytes for group in answer.groups) == size
        return held

    def page_files(self) -> dict[str, int]:
        """Files of cached pages and their sizes."""
        found = glob.glob(f"{self.root}/w?/worker/pages/**", recursive=True)
        return {path: os.path.getsize(path) for path in found if os.path.isfile(path)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(stack, tmp_path_factory.mktemp("cluster"))


def test_a_load_makes_as_many_copies_as_it_is_asked_for_and_the_store_is_asked_once(cluster: Cluster) -> None:
    paths, before = cluster.put("copies"), fetched(cluster.fs)
    once = cluster.fs.load("/lake/copies")
    assert (once.state, once.failed, once.done, once.bytes_done) == ("done", 0, FILES, FILES * SIZE)
    assert cluster.copies(paths) == [1] * FILES
    job = cluster.fs.load("/lake/copies", replicas=2)
    assert (job.state, job.failed) == ("done", 0)
    assert cluster.copies(paths) == [2] * FILES
    assert job.counts["copied_bytes"] == FILES * SIZE
    assert fetched(cluster.fs) - before == FILES
    with pytest.raises(InvalidArgument, match=r"namespace\.replicas"):
        cluster.fs.load("/lake/copies", replicas=3)


def test_a_policy_s_copies_are_made_by_loads_read_from_everywhere_and_made_again_where_one_is_lost(
    cluster: Cluster,
) -> None:
    paths, fs = cluster.put("twice"), cluster.fs
    told = cluster.master.cli("fs", "set-replication", "/lake/twice", "--min", "2")
    assert (told.returncode, told.stdout) == (0, "/lake/twice: replicas 2\n")
    assert fs.load("/lake/twice").failed == 0
    assert cluster.copies(paths) == [2] * FILES
    before = handed_out(cluster)
    for path in paths:
        assert fs.read(path) == (cluster.lake / path[6:]).read_bytes()
    assert all(after > was for after, was in zip(handed_out(cluster), before, strict=True)), "both serve"
    cluster.workers[1].kill()
    asked = fetched(fs)
    wait_until(lambda: [each["live"] for each in fs.report()["workers"].values()] == [True, False], "it lives on")
    for part in ("index", "pages"):
        shutil.rmtree(f"{cluster.root}/w2/worker/{part}")
    cluster.workers[1].start()
    wait_until(lambda: cluster.copies(paths) == [2] * FILES, "the copies are not made again")
    assert fetched(fs) == asked, "from the other worker, not from the store"
    assert cluster.master.cli("fs", "set-replication", "/lake/twice", "--min", "0").returncode == 0
    assert fs.policies() == []


def handed_out(cluster: Cluster) -> list[float]:
    """Descriptors given to readers, by worker."""
    return [
        sum(n for name, n in each.counters.items() if "method=DESCRIPTOR" in name and "outcome=ok" in name)
        for each in cluster.fs.worker_status().values()
        if not isinstance(each, Exception)
    ]


def test_a_list_on_this_machine_names_what_is_loaded_and_what_of_it_is_no_file(
    cluster: Cluster, tmp_path: Path
) -> None:
    paths = cluster.put("listed")
    wanted = paths[:5]
    lines = [wanted[0], "./f01", *(path.rpartition("/")[2] for path in wanted[2:]), "", "none", "/lake", "x" * 20_000]
    (tmp_path / "list").write_text("\n".join(lines))
    told = cluster.master.cli("fs", "load", "/lake/listed", "--files-from", str(tmp_path / "list"))
    assert told.returncode == 1
    assert "loaded 5 files" in told.stdout
    assert "3 failed" in told.stdout
    assert "/lake/listed/none" in told.stderr
    assert "lies outside of /lake/listed" in told.stderr
    assert "more than 8192 bytes" in told.stderr
    assert cluster.copies(paths) == [1] * 5 + [0] * (FILES - 5)
    number = str(cluster.fs.jobs()[0].number)
    failures = cluster.master.cli("job", "failures", number)
    assert failures.returncode == 1
    assert [line.partition("\t")[0] for line in failures.stdout.splitlines()][:1] == ["/lake/listed/none"]
    assert len(failures.stdout.splitlines()) == 3
    assert [name for name in cluster.fs.names("/") if "list" in name] == [], "the copy of the list is gone"


def test_a_list_in_the_namespace_may_end_its_paths_in_nul(cluster: Cluster) -> None:
    paths = cluster.put("nul")
    (cluster.lake / "nul" / "two\nlines").write_bytes(b"1")
    cluster.fs.write("/lists/these", "\0".join([*paths[3:5], "two\nlines"]).encode(), write_type="MUST_CACHE")
    told = cluster.master.cli("fs", "load", "/lake/nul", "--index-file", "/lists/these", "--null")
    assert (told.returncode, told.stderr) == (0, "")
    assert cluster.copies(paths) == [0] * 3 + [1] * 2 + [0] * (FILES - 5)
    assert cluster.copies(["/lake/nul/two\nlines"]) == [1]


def test_what_is_missing_or_differs_from_its_checksum_is_told_and_loaded_again(cluster: Cluster) -> None:
    before = cluster.page_files()
    paths = cluster.put("verified")
    told = cluster.master.cli("fs", "load", "/lake/verified", "--verify-only")
    assert told.returncode == 1
    assert f"{FILES} failed" in told.stdout
    assert cluster.copies(paths) == [0] * FILES
    assert cluster.fs.load("/lake/verified").failed == 0
    assert cluster.fs.load("/lake/verified", verify="only").failed == 0
    spoilt = next(path for path in cluster.page_files() if path not in before)
    with open(spoilt, "r+b") as file:
        file.seek(7)
        file.write(b"rotten")
    found = cluster.fs.load("/lake/verified", verify="only")
    assert (found.state, found.failed) == ("done", 1)
    assert found.counts["not_cached_bytes"] == MIB
    for path in paths:
        cluster.fs.free(path)
    cluster.fs.load("/lake/verified")
    spoilt = next(path for path in cluster.page_files() if path not in before)
    with open(spoilt, "r+b") as file:
        file.write(b"rotten")
    mended = cluster.fs.load("/lake/verified", verify="after")
    assert (mended.state, mended.failed, mended.counts["loaded_again_bytes"]) == ("done", 0, MIB)
    assert cluster.copies(paths) == [1] * FILES


def test_a_load_of_more_than_the_cache_holds_says_so_and_names_files(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    for number in range(12):
        (tmp_path / "lake" / f"f{number:02}").write_bytes(bytes(2 * MIB))
    with ServedNode(str(tmp_path / "home"), sets=["worker.quota=8MiB"]) as node, node.connect() as fs:
        fs.mount_add("/lake", f"file://{tmp_path}/lake")
        told = node.cli("fs", "load", "/lake")
        assert told.returncode == 1
        assert "not all of it is cached" in told.stderr
        job = fs.jobs()[0]
        assert job.state == "done"
        assert 8 <= job.failed <= 10, job
        cached = sum(group.bytes for n in range(12) for group in fs.cached([f"/lake/f{n:02}"])[f"/lake/f{n:02}"])
        assert job.counts["not_cached_bytes"] + cached == 24 * MIB, "what is told is how it is at the end"
        assert all("no room" in error for _, error in job.failures)


def test_a_load_goes_on_when_a_worker_and_the_master_are_killed_and_what_died_is_loaded_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = Cluster(stack, tmp_path)
        paths, fs = cluster.put("long", 40), cluster.fs
        number = fs.start_job("load", "/lake/long", bandwidth=8 * MIB).number
        wait_until(lambda: fs.job(number).bytes_done > 5 * SIZE, "it does not begin")
        cluster.workers[1].kill()
        cluster.master.kill()
        cluster.master.start()

        def job() -> Any:
            with cluster.master.connect() as other:
                return other.job(number)

        wait_until(lambda: job().state != "running", "it does not end")
        assert (job().state, job().failed, job().done) == ("done", 0, 40)
        assert job().bytes_done == 40 * SIZE, "what the restart repeated counts once"
        with cluster.master.connect() as other:
            cluster.fs = other
            short = other.load("/lake/long", replicas=2)
            assert short.failed == 40
            assert all("do not live" in error for _, error in short.failures)
            compared = other.load("/lake/long", replicas=2, verify="after")
            assert compared.failed == 40
            assert all("do not live" in error for _, error in compared.failures)
            assert "loaded_again_bytes" not in compared.counts, "what no worker is there for was not loaded again"
            assert all(
                sum(group.bytes for group in answer.groups) == SIZE
                for path in paths
                for answer in other.cached_on(path).values()
                if not isinstance(answer, Exception)
            )
