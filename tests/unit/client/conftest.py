import os
import random

import pytest

import monofs
from monofs.testing.nodes import ServedNode

MIB = 1 << 20


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    with ServedNode(str(tmp_path_factory.mktemp("client") / "home")) as served:
        yield served


@pytest.fixture(scope="session")
def source(node, tmp_path_factory):
    """A directory of files, mounted at /data."""
    directory = tmp_path_factory.mktemp("source")
    seeded = random.Random(1)
    (directory / "empty").write_bytes(b"")
    (directory / "small.bin").write_bytes(seeded.randbytes(70_001))
    (directory / "medium.bin").write_bytes(seeded.randbytes(5 * MIB + 123))
    (directory / "groups.bin").write_bytes(seeded.randbytes(66 * MIB + 7))
    (directory / "lines.txt").write_bytes(b"".join(b"line %d \xc3\xa9\r\n" % i for i in range(30_000)) + b"no newline")
    (directory / "deep" / "er").mkdir(parents=True)
    (directory / "deep" / "er" / "leaf.csv").write_text("a,b\n1,2\n")
    (directory / "deep" / "side.csv").write_text("a,b\n3,4\n")
    (directory / "ünï cödé\nname").write_bytes(b"odd but allowed")
    with monofs.connect(node.doors["rpc"]) as fs:
        fs.mount_add("/data", f"file://{directory}", sync_interval_s=0.0)
    return directory


@pytest.fixture
def fs(node, source):
    with monofs.connect(node.doors["rpc"]) as connected:
        yield connected


@pytest.fixture
def remote(node, source):
    """A client that finds no Unix socket to connect to: everything goes over TCP."""
    with monofs.connect(node.doors["rpc"]) as connected:
        for link in connected._session().cluster.links():
            link.info = type(link.info)(
                **{f: getattr(link.info, f) for f in link.info.__struct_fields__} | {"host": ""}
            )
            link.retry_socket()
        yield connected


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))
