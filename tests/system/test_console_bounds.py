"""What hangs, a store or a worker, holds up those who ask it, and nobody else; and is named."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

import boto3
import pytest

from monofs.testing.masters import wait_until
from monofs.testing.moto import Moto
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import Fault, StoreProxy
from monofs.testing.visitors import Visitor
from monofs.web.routes import PREFIX
from monofs.web.threads import THREADS

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def store(moto: Moto) -> Iterator[StoreProxy]:
    """A store that can be made to hang."""
    with StoreProxy(moto.endpoint) as proxy:
        yield proxy
        proxy.clear()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, moto: Moto, store: StoreProxy) -> Iterator[ServedNode]:
    home = tmp_path_factory.mktemp("bounds")
    (home / "lake").mkdir()
    for number in range(3):
        (home / "lake" / f"f{number}").write_bytes(b"x")
    with ServedNode(str(home / "home"), sets=["namespace.sync_interval_s=0"]) as served:
        with served.connect() as fs:
            fs.mount_add("/lake", f"file://{home}/lake")
            keys = {"access_key": moto.access_key, "secret_key": moto.secret_key, "region": "us-east-1"}
            aws = {"aws_access_key_id": moto.access_key, "aws_secret_access_key": moto.secret_key}
            boto3.client("s3", endpoint_url=moto.endpoint, region_name="us-east-1", **aws).create_bucket(
                Bucket="bounds"
            )
            fs.mount_add("/slow", "s3://bounds", {"endpoint": store.endpoint, **keys})
            fs.write("/slow/f", b"x")
        yield served


class Asking(threading.Thread):
    """Asks once."""

    def __init__(self, node: ServedNode, method: str, path: str, body: object = None) -> None:
        super().__init__(daemon=True)
        self.visitor = Visitor(node.doors["console"]).enter()
        self.asked = (method, PREFIX + path, body)
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):  # its patience is over
            self.visitor.change(*self.asked)


def test_a_store_that_hangs_does_not_keep_others_from_browsing_nor_the_console_from_being_live(node, store):
    visitor = Visitor(node.doors["console"]).enter()
    page = visitor.watch("overview", "mounts", "file:/slow", "file:/lake")
    page.until("file:/lake", is_right=lambda value: len(value["entries"]) == 3)
    store.add(Fault(cut="hang", early=True))
    stuck = [Asking(node, "GET", f"/files?path=/slow/{number}") for number in range(2 * THREADS)]
    stuck += [Asking(node, "POST", "/mounts/test", {"path": "/slow"}) for _ in range(THREADS)]
    try:
        wait_until(lambda: len(store.seen()) > 0, "nothing is asked of the store")
        for path in ("/files?path=/lake", "/files/known?path=/lake/f0", "/files/download?path=/lake/f1", "/overview"):
            assert visitor.ask("GET", PREFIX + path).status == 200
            assert any(each.is_alive() for each in stuck), f"{path} waited for a store that is none of its own"
        for topic in ("overview", "mounts", "file:/lake"):
            page.order(leave=topic)
            page.order(watch=topic)
            page.until(topic)
        assert any(each.is_alive() for each in stuck), "what is live waited for it"
    finally:
        store.clear()
        page.close()
    for each in stuck:
        each.join(60)
    assert visitor.ask("GET", PREFIX + "/files?path=/slow").status == 200


def test_workers_that_hang_are_named_and_the_others_counted_in_bounded_time(node, tmp_path):
    secret = f"security.cluster_secret_file={node.home}/cluster.secret"
    masters = f"worker.masters={node.doors['rpc']}"
    second = ServedNode(str(tmp_path / "second"), sets=["node.role=worker", masters, secret])
    visitor = Visitor(node.doors["console"]).enter()
    with second, node.connect() as fs:
        wait_until(lambda: fs.report("all_workers")["all_workers"]["live"] == 2, "the second worker does not live")
        for path in ("/cache", "/mounts/use"):
            assert visitor.ask("GET", PREFIX + path).json()["missing"] == []
        assert second.process is not None
        second.process.send_signal(signal.SIGSTOP)
        try:
            cache = visitor.ask("GET", PREFIX + "/cache").json()
            assert (cache["missing"], cache["unanswered"]) == ([second.doors["worker"]], 1)
            assert cache["workers"] == 1
            asking = [Asking(node, "GET", "/cache") for _ in range(THREADS)]
            assert visitor.ask("GET", PREFIX + "/overview").status == 200
            assert any(each.is_alive() for each in asking), "what asks no workers waited for them"
        finally:
            second.process.send_signal(signal.SIGCONT)
        for each in asking:
            each.join(60)
