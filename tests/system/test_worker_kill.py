"""Workers that are killed under readers: no wrong byte, no hang, and what they had is there again when they are back."""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from monofs.model.errors import NoMaster, NoWorker
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import Fault, StoreProxy

pytestmark = pytest.mark.system

MIB = 1 << 20
FILES, FILE_BYTES = 40, 300_000
WAIT_S = 30.0


def test_a_short_siege_gives_no_wrong_byte_and_no_hang(tmp_path):
    words = [
        sys.executable,
        "-m",
        "monofs.testing.siege",
        "--minutes",
        "0.25",
        "--seed",
        "5",
        "--readers",
        "2",
        "--hang",
        "30",
    ]
    done = subprocess.run([*words, "--directory", str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^wrong +0$", done.stdout, re.MULTILINE)
    assert re.search(r"^kill +[1-9]", done.stdout, re.MULTILINE), "nothing was done"
    assert int(re.search(r"^reads compared +(\d+)$", done.stdout, re.MULTILINE)[1]) > 100


@pytest.fixture
def cluster(tmp_path):
    """A master, three workers, and a store with files."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(FILES):
        (source / f"f{number}").write_bytes(os.urandom(FILE_BYTES))
    nodes = [ServedNode(str(tmp_path / "master"), sets=["node.role=master"]).start()]
    try:
        for number in range(3):
            worker = ServedNode(str(tmp_path / f"w{number}"))
            worker.sets += ["node.role=worker", f"worker.masters={nodes[0].doors['rpc']}"]
            worker.sets += [f"security.cluster_secret_file={tmp_path}/master/cluster.secret"]
            nodes.append(worker.start())
        with nodes[0].connect() as fs:
            fs.mount_add("/tree", f"file://{source}")
        yield nodes
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.ceph
def test_a_read_whose_worker_dies_goes_on_elsewhere_from_where_it_was(cluster, bucket, ceph, monkeypatch):
    monkeypatch.setattr("monofs.client.cluster.host_id", lambda: "another machine")
    data, come = os.urandom(6 * MIB), 3 * MIB
    bucket.put("f", data)
    proxy = StoreProxy(ceph.endpoint)
    proxy.start()
    try:
        with cluster[0].connect(timeout_s=60) as fs, ThreadPoolExecutor(1) as threads:
            fs.mount_add("/slow", bucket.uri, {**bucket.options, "endpoint": proxy.endpoint})
            fs.stat("/slow/f")
            proxy.add(Fault(kind="get", key=b"f", times=1, cut="hang", after_bytes=come + 5))
            got = bytearray(len(data))
            with fs.open("/slow/f") as file:
                reading = threads.submit(file.readinto, got)
                until(lambda: got[:MIB] == data[:MIB], "what has come is not given")
                assert not reading.done()
                holders = [each for each, told in fs.cached_on("/slow/f").items() if told.groups]
                assert 0 < len(holders) < 3, "its owner, and whom the client asked while it did not know the slots"
                for worker in cluster[1:]:
                    if worker.doors["worker"] in holders:
                        worker.kill()
                assert reading.result(WAIT_S) == len(data)
        assert got == data
        begins = [int(re.match(r"bytes=(\d+)-", each.range)[1]) for each in proxy.seen("get", b"f")]
        assert begins[:2] == [0, 0], "the look at the store when it was mounted, and the worker that died"
        assert begins[2:]
        assert min(begins[2:]) >= MIB, "what had come was not fetched again"
    finally:
        proxy.stop()


def contents(source):
    return {f"/tree/{name}": (source / name).read_bytes() for name in os.listdir(source)}


def until(true, words):
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, words
        time.sleep(0.05)


def fetched(fs):
    """Requests for bytes that workers sent to the store since they were started."""
    return sum(
        count
        for status in fs.worker_status().values()
        for name, count in status.counters.items()
        if name.startswith("monofs_store_requests{") and "kind=get" in name
    )


def held(fs):
    return sum(tier.groups for status in fs.worker_status().values() for tier in status.tiers)


def unsaved(fs):
    return sum(status.counters["monofs_index_queued"] for status in fs.worker_status().values())


def test_killed_workers_come_back_warm(cluster, tmp_path):
    master, *workers = cluster
    wanted = contents(tmp_path / "source")
    with master.connect() as fs:
        assert {path: fs.read(path) for path in wanted} == wanted
        until(lambda: held(fs) == FILES, "the files do not stay in the cache")
        until(lambda: not unsaved(fs), "the index of what is cached is not saved")
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.start()
        until(lambda: all(hasattr(status, "counters") for status in fs.worker_status().values()), "no worker is back")
        assert {path: fs.read(path) for path in wanted} == wanted
        assert held(fs) == FILES
        assert fetched(fs) == 0, "what was cached before the kill was fetched again"


def test_open_files_are_read_while_the_master_is_away_and_all_workers_dead_is_said(cluster, tmp_path):
    master, *workers = cluster
    wanted = contents(tmp_path / "source")
    with master.connect(timeout_s=3.0) as fs:
        assert {path: fs.read(path) for path in wanted} == wanted
        files = {path: fs.open(path) for path in wanted}
        master.kill()
        assert {path: file.read() for path, file in files.items()} == wanted
        for file in files.values():
            file.seek(0)
        workers[0].kill()
        master.start()
        assert {path: file.read() for path, file in files.items()} == wanted
        for worker in workers[1:]:
            worker.kill()
        assert {path: fs.read(path) for path in wanted} == wanted, "descriptors of this program outlive the workers"
    with master.connect(timeout_s=3.0) as fs, pytest.raises(NoWorker, match="no worker answers"):
        fs.read(next(iter(wanted)))


def test_what_was_opened_lately_is_opened_while_the_master_is_away_by_who_takes_answers_of_that_age(cluster, tmp_path):
    master, *_ = cluster
    wanted = contents(tmp_path / "source")
    unseen, *paths = wanted
    with master.connect(consistency="bounded:600", timeout_s=2.0) as fs, master.connect(timeout_s=2.0) as strict:
        for path in paths:
            assert fs.read(path) == wanted[path]
            assert strict.read(path, 0, 1) == wanted[path][:1]
        master.kill()
        for path in paths:
            with fs.open(path) as file:
                assert file.read() == wanted[path]
        assert fs.read_many([(path, 0, None) for path in paths]) == [wanted[path] for path in paths]
        for reader, path in ((fs, unseen), (strict, paths[0])):
            with pytest.raises(NoMaster):
                reader.read(path)
        with pytest.raises(NoMaster):
            fs.read_many([(path, 0, None) for path in wanted])
        master.start()
        assert fs.read(unseen) == wanted[unseen]
        assert strict.read(unseen) == wanted[unseen]


def test_a_file_whose_worker_dies_in_mid_write_is_written_by_another(cluster, tmp_path):
    master, *workers = cluster
    data = os.urandom(64 << 20)
    (tmp_path / "big").write_bytes(data)
    killed = []

    def kill(progress):
        if progress.bytes and not killed:
            address = fs.report()["workers"][str(fs.intents()[0].worker)]["address"]
            killed.append(next(each for each in workers if each.doors["worker"] == address))
            killed[0].kill()

    with master.connect(timeout_s=60.0) as fs:
        fs.upload(str(tmp_path / "big"), "/tree/big", progress=kill)
        assert killed
        assert fs.read("/tree/big") == data
        assert fs.intents() == []
    assert (tmp_path / "source" / "big").read_bytes() == data
