"""Two workers: clients read each block from its owner, and from the other when the owner dies."""

import os
import random
import time

from test_slots import planned

from monofs.testing.nodes import ServedNode

SIZE = 200_000


def wait_for_slots(fs):
    """Both workers own slots, and know it: one that does not yet takes a block from the other, and keeps a copy."""

    def are_known():
        report, statuses = fs.report(), fs.worker_status().values()
        epochs = {status.counters["monofs_slots_epoch"] for status in statuses}
        return all(each["slots"] for each in report["workers"].values()) and epochs == {report["cluster"]["epoch"]}

    end = time.monotonic() + 60
    while not are_known():
        assert time.monotonic() < end, "no plan was made for both workers"
        time.sleep(0.02)


def test_blocks_are_read_from_their_owners_and_a_dead_worker_is_passed_by(tmp_path):
    data = random.Random(5).randbytes(SIZE + 40_000)
    expected = {f"/f/{n}": data[n * 1000 : n * 1000 + SIZE] for n in range(40)}
    (tmp_path / "source").mkdir()
    for path, content in expected.items():
        (tmp_path / "source" / path[3:]).write_bytes(content)
    with ServedNode(str(tmp_path / "first")) as first, first.connect() as fs:
        secret = os.path.join(first.home, "cluster.secret")
        sets = ["node.role=worker", f"worker.masters={first.doors['rpc']}", f"security.cluster_secret_file={secret}"]
        second = ServedNode(str(tmp_path / "second"), sets=sets).start()
        try:
            fs.mount_add("/f", f"file://{tmp_path}/source")
            wait_for_slots(fs)
            assert fs.load("/f").failed == 0
            held = {
                address: sum(tier.groups for tier in status.tiers) for address, status in fs.worker_status().items()
            }
            assert sum(held.values()) == 40
            assert min(held.values()) > 0, "each has the blocks it owns"
            paths = list(expected)
            opened = [fs.open(path) for path in paths]
            assert [file.pread(100, 1000) for file in opened] == [expected[path][100:1100] for path in paths]
            assert fs.read_many([(path, -50, None) for path in paths]) == [expected[path][-50:] for path in paths]
        finally:
            second.kill()
        with first.connect() as other:
            for path in paths:
                with other.open(path) as file:
                    assert file.read() == expected[path]
            assert other.read_many([(path, 7, 20) for path in paths]) == [expected[path][7:27] for path in paths]
            result = other.load("/f")
            assert (result.done, result.failed) == (40, 0)
        for file, path in zip(opened, paths, strict=True):
            assert file.read() == expected[path]
            file.close()


def test_files_are_written_through_the_others_when_a_worker_has_just_died(tmp_path):
    """Its lease still runs: the master does not know yet, and gives its name to writers."""
    (tmp_path / "store").mkdir()
    with ServedNode(str(tmp_path / "first")) as first, first.connect(timeout_s=5.0) as fs:
        secret = os.path.join(first.home, "cluster.secret")
        sets = ["node.role=worker", f"worker.masters={first.doors['rpc']}", f"security.cluster_secret_file={secret}"]
        second = ServedNode(str(tmp_path / "second"), sets=sets).start()
        fs.mount_add("/f", f"file://{tmp_path}/store")
        planned(fs, [1, 2])
        fs.write("/f/large", random.Random(1).randbytes(9 << 20))
        second.kill()
        for number in range(20):
            fs.write(f"/f/{number}", b"%d" % number)
        fs.write("/f/large", random.Random(2).randbytes(9 << 20))
        assert {number: fs.read(f"/f/{number}") for number in range(20)} == {n: b"%d" % n for n in range(20)}
        assert fs.intents() == []
    assert (tmp_path / "store" / "large").read_bytes() == random.Random(2).randbytes(9 << 20)
