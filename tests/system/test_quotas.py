"""The quota of a path holds over all workers together, whoever reads, comes, leaves, is killed and comes back meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from monofs.client.filesystem import FileSystem
from monofs.model.slots import EMPTY, SlotTable, follow
from monofs.rpc.api import ClusterAnswer, ClusterRequest, Method, SlotsKnown, WorkerStatusAnswer
from monofs.testing.nodes import ServedNode
from monofs.worker.parts import QUOTA_INVARIANT

MIB = 1 << 20
FILES = 30
QUOTA = 12 * MIB
WAIT_S = 40.0


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def table_of(fs: FileSystem) -> SlotTable:
    answer = fs._session().ask(Method.CLUSTER, ClusterRequest(SlotsKnown()), ClusterAnswer)
    return follow(EMPTY, answer.news.deltas)


def used(fs: FileSystem) -> int:
    return next(policy.used_bytes for policy in fs.policies() if policy.path == "/q")


def on_disk(fs: FileSystem) -> int:
    statuses = [each for each in fs.worker_status().values() if isinstance(each, WorkerStatusAnswer)]
    assert len(statuses) == 3
    return sum(tier.used_bytes for status in statuses for tier in status.tiers)


def test_a_quota_holds_over_all_workers_while_many_read_and_workers_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    contents = {f"/q/{n}": os.urandom(MIB) for n in range(FILES)}
    for path, content in contents.items():
        (tmp_path / "source" / path[3:]).write_bytes(content)
    over: list[int] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    with ExitStack() as stack:
        home = str(tmp_path / "master")
        master = stack.enter_context(ServedNode(home, sets=["node.role=master", "namespace.replan_after_s=2"]))
        address, secret = master.doors["rpc"], os.path.join(home, "cluster.secret")

        def worker(name: str) -> ServedNode:
            sets = ["node.role=worker", f"worker.masters={address}", "worker.heartbeat_interval_s=0.2"]
            node = ServedNode(str(tmp_path / name), sets=[*sets, f"security.cluster_secret_file={secret}"])
            return stack.enter_context(node)

        fs = stack.enter_context(master.connect())
        fs.mount_add("/q", f"file://{tmp_path}/source")
        fs.set_policy("/q", quota_bytes=QUOTA)
        nodes = [worker("w1"), worker("w2")]

        def during(work: Callable[[Any], None]) -> None:
            try:
                with master.connect() as mine:
                    while not ended.is_set():
                        work(mine)
            except BaseException as error:
                errors.append(error)

        def read(mine: Any) -> None:
            for path, content in contents.items():
                assert mine.read(path) == content
                if ended.is_set():
                    return

        def keep_open(mine: Any) -> None:
            """By descriptors, so that their pages cannot go."""
            with ExitStack() as opened:
                files = [(opened.enter_context(mine.open(path)), content) for path, content in contents.items()]
                while not ended.wait(0.1):
                    for file, content in files:
                        file.seek(0)
                        assert file.read(9) == content[:9]

        def look(mine: Any) -> None:
            now = used(mine)
            if now > QUOTA:
                over.append(now)
            time.sleep(0.01)

        threads = [threading.Thread(target=during, args=(work,)) for work in (read, read, keep_open, look)]
        for thread in threads:
            thread.start()
        try:

            def filled(workers: int) -> None:
                def is_so() -> bool:
                    assert not errors
                    return len(table_of(fs).workers()) == workers and used(fs) >= 0.8 * QUOTA

                until(is_so, f"{workers} workers do not fill the quota: {used(fs)} of {QUOTA}")

            filled(2)
            nodes.append(worker("w3"))
            filled(3)
            nodes[0].kill()
            nodes[0].start()
            filled(3)
            assert master.cli("admin", "decommission", "2").returncode == 0
            filled(2)
        finally:
            ended.set()
            for thread in threads:
                thread.join(WAIT_S)
        assert not errors
        assert not over, f"{QUOTA_INVARIANT}: {max(over)} of {QUOTA}"
        # what was handed over while it was lent lies there until the worker has heard that its reader is gone
        until(lambda: 0 < on_disk(fs) <= QUOTA, f"{on_disk(fs)} bytes lie in three workers' tiers, of {QUOTA}")
