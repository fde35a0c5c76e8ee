"""Workers that are killed under readers: no wrong byte, no hang, and what they had is there again when they are back."""

import os
import random
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_client_workers import wait_for_slots

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


def counted(fs, name, label=""):
    """The sum of a counter at the workers that answer; each counts from its start."""
    return sum(
        count
        for status in fs.worker_status().values()
        for key, count in getattr(status, "counters", {}).items()
        if key.partition("{")[0] == name and label in key
    )


def met(fs):
    """Requests for bytes that workers have sent to the store, pages that readers missed, and pages they met in the cache."""
    return [
        counted(fs, "monofs_store_requests", "kind=get"),
        counted(fs, "monofs_page_misses"),
        counted(fs, "monofs_page_hits"),
    ]


def held(fs):
    return sum(tier.groups for status in fs.worker_status().values() for tier in status.tiers)


def warmed(fs, wanted):
    """All files are cached, each at the owner of its block, and the index knows of it."""
    wait_for_slots(fs)
    assert {path: fs.read(path) for path in wanted} == wanted
    until(lambda: held(fs) == FILES, "the files do not stay in the cache")
    until(lambda: not counted(fs, "monofs_index_queued"), "the index of what is cached is not saved")


def are_back(fs):
    """Whether all workers answer and follow the same table."""
    counters = [getattr(status, "counters", {}) for status in fs.worker_status().values()]
    return all(counters) and len({each["monofs_slots_epoch"] for each in counters}) == 1


@pytest.fixture
def far(monkeypatch):
    """Programs on other machines: those here would hold descriptors, which outlive the workers."""
    monkeypatch.setattr("monofs.client.cluster.host_id", lambda: "another machine")


@pytest.mark.usefixtures("far")
def test_killed_workers_come_back_warm(cluster, tmp_path):
    master, *workers = cluster
    wanted = contents(tmp_path / "source")
    with master.connect() as fs:
        warmed(fs, wanted)
        for _ in range(3):
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.start()
            until(lambda: are_back(fs), "the workers are not back")
            with master.connect() as other:
                assert {path: other.read(path) for path in wanted} == wanted
            assert held(fs) == FILES
            fetched, missed, hit = met(fs)
            assert (fetched, missed) == (0, 0), "since the kill all was in the cache"
            assert hit >= FILES, "more where a second worker was asked, too"


@pytest.mark.usefixtures("far")
def test_workers_killed_one_after_the_other_under_readers_come_back_with_what_they_had(cluster, tmp_path):
    master, *workers = cluster
    wanted = contents(tmp_path / "source")
    with master.connect() as fs:
        warmed(fs, wanted)
        for worker in workers * 2:
            with Readers(master, wanted) as readers:
                readers.wait_for(20)
                worker.kill()
                readers.wait_for(20)
            before = met(fs)  # of the other two; what was the dead one's they have fetched
            worker.start()
            until(lambda: are_back(fs), "the worker is not back")
            with master.connect() as other:
                assert {path: other.read(path) for path in wanted} == wanted
            after = met(fs)
            assert after[:2] == before[:2], "nothing had to be fetched"
            assert after[2] >= before[2] + FILES


class Readers:
    """Programs that read any files, all the time, and compare."""

    def __init__(self, master, wanted):
        self.master, self.wanted = master, wanted
        self.reads, self.over = 0, threading.Event()
        self.threads = ThreadPoolExecutor(2)

    def __enter__(self):
        self.running = [self.threads.submit(self.read, seed) for seed in range(2)]
        return self

    def read(self, seed):
        paths = list(self.wanted)
        chance = random.Random(seed)
        with self.master.connect(timeout_s=WAIT_S) as fs:
            while not self.over.is_set():
                path = chance.choice(paths)
                assert fs.read(path) == self.wanted[path]
                self.reads += 1

    def wait_for(self, more):
        goal = self.reads + more
        until(lambda: self.reads >= goal or any(each.done() for each in self.running), "reads do not go on")

    def __exit__(self, *_):
        self.over.set()
        for each in self.running:
            each.result(WAIT_S)
        self.threads.shutdown()


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
