"""Loads whose store is down when they begin: they wait, say so and until when, are stopped meanwhile, and go on when the store is back."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monofs.cli.loading import _in_namespace
from monofs.model.errors import NoMaster
from monofs.testing.buckets import Bucket, Buckets
from monofs.testing.masters import wait_until
from monofs.testing.moto import Moto
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import StoreProxy

MIB = 1 << 20
LONGER_S = 8.0
"""Than all tries of a request to a store that is there."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    with ServedNode(str(tmp_path_factory.mktemp("node") / "home"), sets=["namespace.sync_interval_s=0"]) as served:
        yield served


@pytest.fixture(scope="module")
def buckets(moto: Moto) -> Iterator[Buckets]:
    made = Buckets(moto)
    yield made
    made.close()


@pytest.fixture
def bucket(buckets: Buckets) -> Bucket:
    return buckets.make()


@pytest.fixture
def proxy(moto: Moto) -> Iterator[StoreProxy]:
    with StoreProxy(moto.endpoint) as running:
        yield running


@pytest.fixture
def mounted(bucket: Bucket, proxy: StoreProxy) -> Callable[[ServedNode], str]:
    def mount(at: ServedNode) -> str:
        bucket.put_all({f"d/f{number}": os.urandom(MIB) for number in range(3)})
        bucket.endpoint = proxy.endpoint
        path = f"/{bucket.name}"
        done = at.cli("mount", "add", path, bucket.uri, *bucket.words())
        assert done.returncode == 0, done.stderr
        return path

    return mount


def test_a_load_begun_while_its_store_is_down_goes_on_when_it_is_back(
    node: ServedNode, mounted: Callable[[ServedNode], str], proxy: StoreProxy
) -> None:
    path = mounted(node)
    proxy.stop()
    begun = time.monotonic()
    command = [sys.executable, "-m", "monofs", "--masters", node.doors["rpc"], "fs", "load", f"{path}/d"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        assert load.stderr is not None
        told = load.stderr.readline()
        assert "waits: the store does not answer, until 20" in told
        assert "UTC it is waited for: " in told
        with node.connect() as fs:
            number = fs.jobs()[0].number
            wait_until(lambda: time.monotonic() > begun + LONGER_S or fs.job(number).state != "running", "longer")
            assert fs.job(number).state == "running"
        assert " waiting " in node.cli("job", "ls").stdout
        proxy.start()
        done, _ = load.communicate(timeout=60)
    assert (load.returncode, done[:14]) == (0, "loaded 3 files")


def test_a_load_that_waits_for_its_store_is_stopped(
    node: ServedNode, mounted: Callable[[ServedNode], str], proxy: StoreProxy
) -> None:
    path = mounted(node)
    proxy.stop()
    with node.connect() as fs:
        number = fs.start_job("load", path).number
        wait_until(lambda: "does not answer" in fs.job(number).error, "it waits")
        assert fs.steer_job(number, "stop").state == "stopped"
        assert fs.wait_job(number, timeout_s=10).state == "stopped"


def test_a_load_waits_for_its_store_no_longer_than_it_is_told(
    tmp_path: Path, mounted: Callable[[ServedNode], str], proxy: StoreProxy
) -> None:
    with ServedNode(str(tmp_path / "home"), sets=["master.job_patience_s=1"]) as node, node.connect() as fs:
        path = mounted(node)
        proxy.stop()
        job = fs.load(f"{path}/d")
        assert job.state == "failed"
        assert "connection" in job.error


def test_a_list_stays_while_a_job_reads_it_and_goes_with_it(
    node: ServedNode, mounted: Callable[[ServedNode], str], proxy: StoreProxy
) -> None:
    path = mounted(node)
    proxy.stop()
    with node.connect() as fs:
        session: Any = SimpleNamespace(fs=fs)
        lists: list[str] = []

        def given_up_by(problem: BaseException) -> int:
            with pytest.raises(type(problem)), _in_namespace(session, io.BytesIO(b"d/f0\nd/f1\n")) as index:
                lists.append(index)
                number = int(fs.start_job("load", path, index=index).number)
                wait_until(lambda: "does not answer" in fs.job(number).error, "it waits")
                raise problem
            return number

        number = given_up_by(NoMaster("no master answers"))
        assert fs.exists(lists[0])
        fs.set_ttl(lists[0], 0, "delete")
        stopped = given_up_by(KeyboardInterrupt())
        fs.steer_job(stopped, "stop")
        fs.set_ttl(lists[1], 0, "delete")
        wait_until(lambda: not fs.exists(lists[1]), "no job reads it")
        assert fs.exists(lists[0]), "its time has passed, but it is read"
        proxy.start()
        assert fs.wait_job(number).state == "done"
        assert fs.job(number).done == 2
        wait_until(lambda: not fs.exists(lists[0]), "its time has passed")
        with _in_namespace(session, io.BytesIO(b"d/f2\n")) as index:
            assert fs.wait_job(fs.start_job("load", path, index=index).number).state == "done"
        assert not fs.exists(index)
    assert json.loads(node.cli("admin", "fsck", "--json").stdout.splitlines()[-1])["broken"] == 0
