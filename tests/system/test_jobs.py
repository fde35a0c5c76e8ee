"""Jobs of a served node: loads that bring files into the cache, and jobs that go on when the node is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monofs.testing.buckets import Bucket
from monofs.testing.nodes import ServedNode

MIB = 1 << 20


def finished(fs: Any, number: int) -> Any:
    """A job once it has ended well."""
    job = fs.wait_job(number)
    assert (job.state, job.failed) == ("done", 0), job
    return job


def test_a_load_makes_everything_warm_that_lay_in_the_store_only(node: ServedNode, bucket: Bucket) -> None:
    bucket.put_all({f"d/{number % 5}/f{number}": b"%05d" % number * 2000 for number in range(40)})
    bucket.put("d/large", b"x" * (70 * MIB))
    bucket.put("d/empty", b"")
    with node.connect() as fs:
        fs.mount_add("/lake", bucket.uri, bucket.options)
        job = finished(fs, fs.start_job("load", "/lake/d").number)
        assert (job.done, job.total) == (42, 42)
        assert job.bytes_done == 40 * 10_000 + 70 * MIB
        assert job.counts["fetched_bytes"] == job.bytes_done
        cached = fs.cached(["/lake/d/large", "/lake/d/3/f3"])
        assert sum(group.bytes for group in cached["/lake/d/large"]) == 70 * MIB
        assert cached["/lake/d/3/f3"]
        again = finished(fs, fs.start_job("load", "/lake/d").number)
        assert again.counts.get("fetched_bytes", 0) == 0, "what is warm is not fetched again"


def test_a_file_that_cannot_be_loaded_is_named_and_the_others_are_loaded(node: ServedNode, tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    for number in range(10):
        (tmp_path / "lake" / f"f{number}").write_bytes(b"data")
    with node.connect() as fs:
        fs.mount_add("/lake", f"file://{tmp_path / 'lake'}", sync_interval_s=-1)
        fs.sync("/lake")
        (tmp_path / "lake" / "f3").unlink()
        (tmp_path / "lake" / "f4").write_bytes(b"other data")
        job = fs.wait_job(fs.start_job("load", "/lake").number)
        assert (job.state, job.done, job.failed) == ("done", 10, 0)
        assert fs.stat("/lake/f4").size == 10
        assert not fs.exists("/lake/f3")


@pytest.mark.parametrize("kind", ["sync", "delete", "move"])
def test_a_job_survives_the_death_of_its_node(node: ServedNode, bucket: Bucket, kind: str) -> None:
    names = [f"d/{number % 7}/f{number:04}" for number in range(700)]
    bucket.put_all(dict.fromkeys(names, b"1"))
    with node.connect() as fs:
        fs.mount_add("/lake", bucket.uri, bucket.options)
        number = fs.sync("/lake", recursive=True).number
        if kind != "sync":
            # what the tree does not know and the store wrote within the second, by whole seconds, may be newer than the change
            finished(fs, number)
            fs.remove_tree("/lake/d") if kind == "delete" else fs.rename("/lake/d", "/lake/e")
            number = fs.jobs()[0].number
    node.kill()
    node.start()
    with node.connect() as fs:
        finished(fs, number)
        left = {"sync": names, "delete": [], "move": ["e" + name[1:] for name in names]}[kind]
        assert bucket.keys() == sorted(left)
        assert sum(len(list(fs.list(f"/lake/{left[0][0]}/{n}"))) for n in range(7) if left) == len(left)
