"""What a store does behind our back: new bytes after the interval, never a mix, and no more requests than needed."""

import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import monofs
from monofs.model.errors import ContentChanged
from monofs.testing.storeproxy import StoreProxy

pytestmark = pytest.mark.ceph

MIB = 1 << 20


@pytest.fixture(scope="module")
def node(serve):
    return serve()


@pytest.fixture
def place(node, bucket, request):
    """A path where ``bucket`` is mounted."""
    path = f"/{bucket.name}"
    with node.connect() as fs:
        fs.mount_add(path, bucket.uri, bucket.options)
    return path


@pytest.fixture
def fs(node):
    with node.connect() as connected:
        yield connected


def seen(ceph, bucket):
    """Requests for ``bucket`` so far by kind: GETs of objects, HEADs, listings."""
    kinds = {"get": 0, "head": 0, "list": 0}
    for access in ceph.accesses():
        path, _, query = access.path.partition("?")
        if path.strip("/").split("/")[0] == bucket.name and access.method in ("GET", "HEAD"):
            listing = path.strip("/") == bucket.name
            kinds["list" if listing else access.method.lower()] += 1
            assert not query or listing, access
    return kinds


def until(condition, what, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def test_new_bytes_come_with_a_new_content_id_after_the_interval_and_not_before(node, bucket, fs):
    fs.mount_add("/interval", bucket.uri, bucket.options, sync_interval_s=1.5)
    bucket.put("f", b"old" * 1000)
    began = time.monotonic()
    assert fs.read("/interval/f") == b"old" * 1000
    before = fs.stat("/interval/f")
    bucket.put("f", b"newer" * 1000)
    if fs.stat("/interval/f").content == before.content:
        assert fs.read("/interval/f") == b"old" * 1000
    else:
        assert time.monotonic() - began > 1.4, "the store was asked again within the interval"
    until(lambda: fs.stat("/interval/f").content != before.content, "the interval to end")
    assert fs.read("/interval/f") == b"newer" * 1000
    after = fs.stat("/interval/f")
    assert after.size == 5000
    assert after.fingerprint != before.fingerprint
    fs.mount_remove("/interval")


def test_a_look_now_sees_what_changed_went_and_came(place, bucket, node):
    bucket.put_all({"changes": b"1", "goes": b"2", "dir/goes-too": b"3"})
    with node.connect() as patient, node.connect(sync_interval_s=0) as eager:
        names = {info.name: info.content for info in patient.list(place)}
        assert set(names) == {"changes", "goes", "dir"}
        bucket.put("changes", b"other")
        bucket.delete("goes", "dir/goes-too")
        bucket.put("comes", b"4")
        assert eager.read(f"{place}/changes") == b"other"
        assert not eager.exists(f"{place}/goes")
        assert not eager.exists(f"{place}/dir")
        assert eager.read(f"{place}/comes") == b"4"
        listed = {info.name: info.content for info in eager.list(place)}
        assert set(listed) == {"changes", "comes"}
        assert listed["changes"] != names["changes"]
        assert {info.name for info in patient.list(place)} == set(listed), "what one learned all know"


def test_an_object_that_takes_a_directorys_name_and_back(place, bucket, node):
    with node.connect(sync_interval_s=0) as fs:
        bucket.put("x", b"file")
        assert fs.read(f"{place}/x") == b"file"
        bucket.delete("x")
        bucket.put("x/y", b"below")
        assert fs.read(f"{place}/x/y") == b"below"
        assert fs.stat(f"{place}/x").is_dir
        bucket.delete("x/y")
        bucket.put("x", b"file again")
        assert fs.read(f"{place}/x") == b"file again"
        assert not fs.exists(f"{place}/x/y")


def test_readers_of_an_object_that_flips_see_one_whole_version_or_are_told(place, bucket, node):
    versions = {b"A": os.urandom(2 * MIB + 17), b"B": os.urandom(2 * MIB + 17), b"C": os.urandom(MIB + 1)}
    whole = set(versions.values())
    bucket.put("flip", versions[b"A"])
    over = threading.Event()
    reads, told = [], []

    def read(number):
        with node.connect(sync_interval_s=0) as fs:
            while not over.is_set():
                try:
                    if number % 2:
                        data = fs.read(f"{place}/flip")
                    else:
                        with fs.open(f"{place}/flip") as file:
                            parts = iter(lambda: file.read(300_000), b"")
                            data = b"".join(parts)
                except ContentChanged as error:
                    told.append(error)
                else:
                    assert data in whole, "a mix, or a part"
                    reads.append(data)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(read, number) for number in range(4)]
        try:
            for turn in range(40):
                bucket.put("flip", versions[b"ABC"[turn % 3 : turn % 3 + 1]])
                if turn % 10 == 0:  # now and then it rests until somebody has read it whole
                    before = len(reads)
                    until(lambda before=before: len(reads) > before, "a read to end")
        finally:
            over.set()
        for each in running:
            each.result(60)
    assert len(set(reads)) >= 2, "the readers did see it change"
    with node.connect(sync_interval_s=0) as fs:
        assert fs.read(f"{place}/flip") == versions[b"A"]


def test_a_batch_over_a_flipping_object_is_of_one_version_each(place, bucket, node):
    bodies = [bytes([n]) * 900_000 for n in range(4)]
    bucket.put("flip", bodies[0])
    over = threading.Event()

    def flip():
        turn = 0
        while not over.is_set():
            turn += 1
            bucket.put("flip", bodies[turn % 4])

    with ThreadPoolExecutor(1) as pool, node.connect(sync_interval_s=0) as fs:
        flipping = pool.submit(flip)
        try:
            for _ in range(60):
                pieces = fs.read_many([(f"{place}/flip", at, 1000) for at in (0, 450_000, 899_000)], on_error="return")
                good = [piece for piece in pieces if isinstance(piece, bytes)]
                assert len(set(good)) <= 1, "pieces of two versions"
                assert all(isinstance(piece, (bytes, ContentChanged)) for piece in pieces)
        finally:
            over.set()
        flipping.result(30)


# ---- requests ---------------------------------------------------------------------------------------------------------------


def test_the_second_read_asks_the_store_for_nothing(place, bucket, ceph, node):
    bucket.put("big", os.urandom(9 * MIB))
    first = node.cli("fs", "checksum", f"{place}/big").stdout
    asked = seen(ceph, bucket)
    assert asked["get"] == 2, "nine pages in ranges of eight"
    assert node.cli("fs", "checksum", f"{place}/big").stdout == first
    assert seen(ceph, bucket) == asked
    node.stop()
    node.start()
    assert node.cli("fs", "checksum", f"{place}/big").stdout == first
    assert seen(ceph, bucket)["get"] == 2, "nor after a restart"


def test_reading_n_files_costs_n_gets_and_a_listing(place, bucket, ceph, fs):
    bodies = {f"d/{n:03d}": os.urandom(5000) for n in range(120)}
    bucket.put_all(bodies)
    before = seen(ceph, bucket)
    paths = [info.path for info in fs.list(f"{place}/d")]
    assert len(paths) == 120
    listed = seen(ceph, bucket)
    assert listed["get"] == before["get"]
    assert listed["list"] - before["list"] <= 2
    assert fs.read_many([(path, 0, None) for path in paths]) == list(bodies.values())
    after = seen(ceph, bucket)
    assert after["get"] - listed["get"] == 120
    assert after["head"] == listed["head"], "no HEAD a file after a listing"
    assert after["list"] == listed["list"]
    for path in paths[:20]:
        fs.read(path)
    assert seen(ceph, bucket) == after


def read_one(address, path, offset, together, results):
    """One process of many: opens, waits for the others, reads a hundred bytes."""
    with monofs.connect(address) as fs, fs.open(path) as file:
        together.wait(60)
        results.put(sum(file.pread(offset, 100)))


def test_a_hundred_readers_in_many_processes_missing_one_page_are_one_get(place, bucket, ceph, node):
    data = os.urandom(MIB)
    bucket.put("page", data)
    with StoreProxy(ceph.endpoint, latency_s=0.3) as slow:
        with node.connect() as fs:
            fs.mount_update(place, {"endpoint": slow.endpoint})
        slow.forget()  # the check of the mount reads a byte
        fork = multiprocessing.get_context("fork")
        together, results = fork.Barrier(100), fork.Queue()
        processes = [
            fork.Process(target=read_one, args=(node.doors["rpc"], f"{place}/page", n * 100, together, results))
            for n in range(100)
        ]
        for process in processes:
            process.start()
        sums = sorted(results.get(timeout=60) for _ in processes)
        for process in processes:
            process.join(30)
            assert process.exitcode == 0
        assert sums == sorted(sum(data[n * 100 : n * 100 + 100]) for n in range(100))
        assert [one.range for one in slow.seen("get", b"page")] == [f"bytes=0-{MIB - 1}"]


def test_a_hundred_threads_statting_one_unknown_path_ask_once(place, bucket, ceph, node):
    bucket.put("deep/er/f", b"x")
    with StoreProxy(ceph.endpoint, latency_s=0.3) as slow, node.connect() as fs:
        fs.mount_update(place, {"endpoint": slow.endpoint})
        slow.forget()
        with ThreadPoolExecutor(100) as pool:
            infos = list(pool.map(lambda _: fs.stat(f"{place}/deep/er/f"), range(100)))
        assert {info.size for info in infos} == {1}
        assert slow.count() <= 3, [one.kind for one in slow.seen()]
        slow.forget()
        with ThreadPoolExecutor(50) as pool:
            assert not any(pool.map(lambda _: fs.exists(f"{place}/deep/none"), range(100)))
        assert slow.count() <= 3
        slow.forget()
        assert not fs.exists(f"{place}/deep/none")
        assert slow.count() == 0, "a missing path is remembered as missing"
