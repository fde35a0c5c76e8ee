"""A hundred clients that miss one page at the same time, on four workers: the store is asked once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from random import Random

import pytest
from test_slots import planned, settled

from monofs.client.filesystem import FileSystem
from monofs.client.info import Opened
from monofs.rpc.api import Method, OpenRequest, ReadRequest
from monofs.testing.buckets import Bucket, Buckets
from monofs.testing.masters import wait_until
from monofs.testing.moto import Moto
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import Fault, StoreProxy

pytestmark = pytest.mark.system
MIB = 1 << 20
WORKERS, CLIENTS = 4, 100
PATIENCE_S = 60


class Cluster:
    """A master, four workers that each own a quarter of all blocks, and a bucket behind a proxy that counts."""

    def __init__(self, master: ServedNode, proxy: StoreProxy, bucket: Bucket) -> None:
        self.master, self.proxy, self.bucket = master, proxy, bucket

    def connections(self, fs: FileSystem) -> float:
        """Open at the doors of all workers."""
        return sum(
            value
            for status in fs.worker_status().values()
            for name, value in status.counters.items()
            if name.startswith("monofs_rpc_connections")
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, moto: Moto) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        buckets = Buckets(moto)
        stack.callback(buckets.close)
        proxy = stack.enter_context(StoreProxy(moto.endpoint))
        bucket = buckets.make()
        bucket.endpoint = proxy.endpoint
        master = stack.enter_context(ServedNode(str(directory / "master"), sets=["node.role=master"]))
        sets = ["node.role=worker", f"worker.masters={master.doors['rpc']}"]
        sets.append(f"security.cluster_secret_file={master.home}/cluster.secret")
        for number in range(WORKERS):
            stack.enter_context(ServedNode(str(directory / f"w{number}"), sets=sets))
        with master.connect() as fs:
            fs.mount_add("/b", bucket.uri, bucket.options)
            settled(fs, planned(fs, list(range(1, WORKERS + 1))).epoch)
        yield Cluster(master, proxy, bucket)


def as_clients_do(fs: FileSystem, path: str, _: int) -> bytes:
    """From the owner, with whatever the client does while that has not begun to answer."""
    return fs.read(path, MIB, MIB)


def anywhere(fs: FileSystem, path: str, number: int) -> bytes:
    """From any worker, as a client asks that does not know the slots, or reads on a worker's machine."""
    opened = fs._session().ask(Method.OPEN, OpenRequest(path), Opened)
    data = bytearray(MIB)
    link = fs._session().cluster.links()[number % WORKERS]
    assert link.pool().read_into(Method.READ, ReadRequest(opened.capability, MIB, MIB), data, PATIENCE_S) == MIB
    return bytes(data)


@pytest.mark.parametrize("read", [as_clients_do, anywhere])
def test_a_page_that_a_hundred_clients_miss_is_asked_for_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, read: Callable[[FileSystem, str, int], bytes]
) -> None:
    monkeypatch.setattr("monofs.client.cluster.host_id", lambda: "another machine")
    key = read.__name__
    data = Random(key).randbytes(3 * MIB)
    cluster.bucket.put(key, data)
    together, all_asked = threading.Barrier(CLIENTS), threading.Event()

    def hold() -> None:
        all_asked.wait(PATIENCE_S)

    cluster.proxy.add(Fault(kind="get", key=key.encode(), call=hold))

    def one(number: int) -> bytes:
        with cluster.master.connect(timeout_s=PATIENCE_S) as fs:
            fs.stat(f"/b/{key}")
            together.wait(PATIENCE_S)
            return read(fs, f"/b/{key}", number)

    with cluster.master.connect() as fs, ThreadPoolExecutor(CLIENTS) as threads:
        fs.stat(f"/b/{key}")
        before = cluster.connections(fs)
        clients = [threads.submit(one, number) for number in range(CLIENTS)]
        try:
            wait_until(lambda: cluster.connections(fs) >= before + CLIENTS, "not all clients have come to a worker")
            assert not any(client.done() for client in clients)
        finally:
            all_asked.set()
        assert {client.result(PATIENCE_S) for client in clients} == {data[MIB : 2 * MIB]}
    assert [each.range for each in cluster.proxy.seen("get", key.encode())] == [f"bytes={MIB}-{2 * MIB - 1}"]
