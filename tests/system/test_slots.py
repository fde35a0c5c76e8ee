"""A master and its workers as processes: slots move no more than they must, reads go on, and the table outlives the master."""

import os
import time
from contextlib import ExitStack

from monofs.client.filesystem import FileSystem
from monofs.model.block import SLOTS
from monofs.model.slots import EMPTY, SlotTable, follow
from monofs.rpc.api import ClusterAnswer, ClusterRequest, Method, SlotsKnown, WorkerStatusAnswer
from monofs.testing.nodes import ServedNode

FILES = 60
WAIT_S = 60.0


def table_of(fs: FileSystem) -> SlotTable:
    answer = fs._session().ask(Method.CLUSTER, ClusterRequest(SlotsKnown()), ClusterAnswer)
    return follow(EMPTY, answer.news.deltas)


def planned(fs: FileSystem, workers: list[int]) -> SlotTable:
    """The table, once it is of these workers."""
    end = time.monotonic() + WAIT_S
    while (table := table_of(fs)).workers() != workers:
        assert time.monotonic() < end, f"slots are of {table.workers()}, not of {workers}"
        time.sleep(0.05)
    return table


def fetched(fs: FileSystem) -> int:
    """Requests for bytes that the stores have had."""
    counters = [each.counters for each in fs.worker_status().values() if isinstance(each, WorkerStatusAnswer)]
    return int(
        sum(
            each[name]
            for each in counters
            for name in each
            if name.startswith("monofs_store_requests{") and "kind=get" in name
        )
    )


def settled(fs: FileSystem, epoch: int) -> None:
    """All workers follow this table, and have handed over what is not theirs."""
    end = time.monotonic() + WAIT_S
    while True:
        counters = [status.counters for status in fs.worker_status().values() if isinstance(status, WorkerStatusAnswer)]
        if all(each["monofs_slots_epoch"] >= epoch and not each["monofs_handing"] for each in counters):
            assert sum(each["monofs_foreign_groups"] for each in counters) == 0
            return
        assert time.monotonic() < end, "the workers do not settle"
        time.sleep(0.05)


def moved(before: SlotTable, after: SlotTable) -> int:
    return sum(before.owners(slot)[0] != after.owners(slot)[0] for slot in range(SLOTS))


def test_slots_follow_workers_that_come_and_go_and_reads_go_on(tmp_path):
    (tmp_path / "source").mkdir()
    contents = {f"/f/{n}": os.urandom(50_000 + n) for n in range(FILES)}
    for path, content in contents.items():
        (tmp_path / "source" / path[3:]).write_bytes(content)

    def check(fs: FileSystem) -> None:
        assert {path: fs.read(path) for path in contents} == contents

    with ExitStack() as stack:
        home = str(tmp_path / "master")
        sets = ["node.role=master", "namespace.replan_after_s=12"]
        master = stack.enter_context(ServedNode(home, sets=sets))
        secret = os.path.join(home, "cluster.secret")

        def worker(name: str) -> ServedNode:
            sets = ["node.role=worker", f"worker.masters={master.doors['rpc']}", f"worker.zone={name}"]
            sets.append(f"security.cluster_secret_file={secret}")
            return stack.enter_context(ServedNode(str(tmp_path / name), sets=sets))

        workers = [worker(name) for name in ("w1", "w2", "w3")]
        fs = stack.enter_context(master.connect())
        fs.mount_add("/f", f"file://{tmp_path}/source")
        three = planned(fs, [1, 2, 3])
        assert three.replicas == 2
        settled(fs, three.epoch)
        check(fs)
        held = [sum(tier.groups for tier in status.tiers) for status in fs.worker_status().values()]
        assert sum(held) == FILES, "each block is at its owner alone"
        assert min(held) > 0

        workers.append(worker("w4"))
        four = planned(fs, [1, 2, 3, 4])
        assert moved(three, four) <= 1.05 * SLOTS / 4
        settled(fs, four.epoch)
        check(fs)
        assert fetched(fs) == FILES, "what moved was taken from its former owner"

        master.stop()
        master.start()
        assert table_of(fs) == four
        check(fs)

        told = master.cli("admin", "decommission", "4")
        assert told.returncode == 0, told.stderr
        assert "stop it" in told.stdout
        settled(fs, planned(fs, [1, 2, 3]).epoch)
        statuses = {status.worker: status for status in fs.worker_status().values()}
        assert sum(tier.groups for tier in statuses[4].tiers) == 0
        check(fs)
        assert fetched(fs) == FILES, "nothing was fetched twice, whoever came and went"
        assert master.cli("admin", "decommission", "4", "--undo").returncode == 0
        four = planned(fs, [1, 2, 3, 4])
        workers[1].kill()
        check(fs)
        with master.connect() as other:
            check(other)
        left = planned(fs, [1, 3, 4])
        assert master.cli("admin", "decommission", "99").returncode == 3
        assert left.epoch > four.epoch
        assert moved(four, left) <= 1.05 * SLOTS / 4
        check(fs)
        assert fs.fsck().checks["slots-are-of-workers"] == []
