"""A worker that stands still: what another has cached is taken from there, and everything else goes round it."""

import os
import signal
import time

import pytest
from test_client_workers import wait_for_slots

from monofs.client.info import Opened
from monofs.rpc.api import Method, OpenRequest, ReadRequest
from monofs.testing.nodes import ServedNode

FILES = 24
MOST_S = 5.0
"""No call hangs for longer because one worker of several stands still; it takes 1.6 s here."""


@pytest.fixture
def pair(tmp_path):
    """(node with master and worker, worker, bytes by path), both workers with slots; at the end both go on."""
    (tmp_path / "source").mkdir()
    expected = {f"/f/{n}": os.urandom(100_000 + n) for n in range(FILES)}
    for path, content in expected.items():
        (tmp_path / "source" / path[3:]).write_bytes(content)
    with ServedNode(str(tmp_path / "first")) as first, first.connect() as fs:
        secret = os.path.join(first.home, "cluster.secret")
        sets = ["node.role=worker", f"worker.masters={first.doors['rpc']}", f"security.cluster_secret_file={secret}"]
        with ServedNode(str(tmp_path / "second"), sets=sets) as second:
            fs.mount_add("/f", f"file://{tmp_path}/source")
            wait_for_slots(fs)
            try:
                yield first, second, expected
            finally:
                os.kill(second.process.pid, signal.SIGCONT)


def stop(node):
    os.kill(node.process.pid, signal.SIGSTOP)


def warm_everywhere(fs, paths):
    """Each worker keeps a copy of all."""
    for path in paths:
        opened = fs._session().ask(Method.OPEN, OpenRequest(path), Opened)
        for link in fs._session().cluster.links():
            request = ReadRequest(opened.capability, 0, opened.inode.size)
            link.pool().read_into(Method.READ, request, bytearray(opened.inode.size))


@pytest.fixture
def far(monkeypatch):
    """Reads as from another machine: over TCP, without descriptors."""
    monkeypatch.setattr("monofs.client.cluster.host_id", lambda: "another machine")


@pytest.mark.usefixtures("far")
def test_reads_are_hedged_to_a_worker_that_has_the_bytes(pair):
    first, second, expected = pair
    with first.connect() as fs:
        warm_everywhere(fs, expected)
        for _ in range(2):  # it learns how long a read takes, and saves up for some that take longer
            assert {path: fs.read(path) for path in expected} == expected
        before = fs._session()._hedging[Method.READ].won
        stop(second)
        assert {path: fs.read(path) for path in expected} == expected
        assert fs._session()._hedging[Method.READ].won > before


@pytest.mark.usefixtures("far")
def test_batches_are_hedged_to_a_worker_that_has_the_bytes(pair):
    first, second, expected = pair
    pieces = [(path, 5, 1000) for path in expected]
    with first.connect() as fs:
        warm_everywhere(fs, expected)
        for _ in range(20):
            assert fs.read_many(pieces) == [data[5:1005] for data in expected.values()]
        before = fs._session()._hedging[Method.READ_MANY].won
        stop(second)
        assert fs.read_many(pieces) == [data[5:1005] for data in expected.values()]
        assert fs._session()._hedging[Method.READ_MANY].won > before


def test_a_worker_that_stands_still_is_passed_by_when_nobody_else_has_the_bytes(pair):
    first, second, expected = pair
    with first.connect(timeout_s=30) as fs:
        assert {path: fs.read(path) for path in expected} == expected
        stop(second)
        assert {path: fs.read(path) for path in expected} == expected
    with first.connect(timeout_s=30) as fs, fs.open("/f/0") as file:
        assert file.read() == expected["/f/0"]
        assert fs.read_many([(path, 0, None) for path in expected]) == list(expected.values())


def requests(node, method):
    """How many of a method this node has answered."""
    with node.connect() as fs:
        status = next(iter(fs.worker_status(1).values()))
    return sum(n for name, n in status.counters.items() if name.startswith(f"monofs_rpc_requests{{method={method},"))


def test_pieces_of_a_worker_that_stands_still_are_asked_of_another_together(pair):
    first, second, expected = pair
    pieces = [(path, 0, None) for path in expected]
    with first.connect(timeout_s=30) as fs:
        assert fs.read_many(pieces) == list(expected.values())
        stop(second)
        alone, together = requests(first, "READ"), requests(first, "READ_MANY")
        began_s = time.monotonic()
        assert fs.read_many(pieces) == list(expected.values())
        assert time.monotonic() - began_s < MOST_S
        assert requests(first, "READ") == alone, "one by one each would wait for what the others find out"
        assert requests(first, "READ_MANY") == together + 3, (
            "its own, what it has cached of the other's, and the other's"
        )
