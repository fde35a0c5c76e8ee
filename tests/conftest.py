"""Servers and nodes that several suites use: servers are started once per run, and only when a test asks for one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from monofs.testing import ceph as ceph_server
from monofs.testing import moto as moto_server
from monofs.testing import processes
from monofs.testing.buckets import Bucket, Buckets
from monofs.testing.nodes import ServedNode

LONG_FIRST = (
    "test_fsspec_abstract",
    "test_node_kill",
    "test_write_kill",
    "test_write_model",
    "test_simulation",
    "test_write_faults",
    "test_masters",
    "test_journal_kill",
)
"""Files that take longest: they begin first, so that the processes end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See above; within a file, and among the others, the order stays."""
    rank = {name: place for place, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


IN_CI = bool(os.environ.get("CI"))
"""There every run tries the same examples and seeds, so that what fails is what was changed; everywhere else new ones."""
if IN_CI:
    os.environ.setdefault("TEST_SEED", "20261129")
settings.register_profile(  # no test is about time
    "monofs", deadline=None, derandomize=IN_CI, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("monofs")


@pytest.fixture(scope="session", autouse=True)
def warm() -> Iterator[None]:
    """Nodes and commands are forked from interpreters that have imported monofs: a node's start costs a tenth, a command a third.

    Cold on purpose: test_serve and test_wheel, which are about starting; whatever is interrupted or looks at a terminal; what runs in a
    network of its own; the torture, a program of its own.
    """
    with processes.kept_warm():
        yield


@pytest.fixture(scope="module")
def cold(warm: None) -> Iterator[None]:
    """For a file whose nodes and commands start as users start them."""
    with processes.cold():
        yield


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ceph_server.Ceph]:
    """A real, signature-checking S3 server (radosgw)."""
    reason = ceph_server.missing()
    if reason:
        pytest.skip(f"radosgw cannot run here: {reason}")
    with ceph_server.Ceph(str(tmp_path_factory.mktemp("ceph"))) as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[moto_server.Moto]:
    """A quick S3 server that believes any signature."""
    reason = moto_server.missing()
    if reason:
        pytest.skip(reason)
    with moto_server.Moto() as server:
        yield server


@pytest.fixture(scope="session")
def make_bucket(ceph: ceph_server.Ceph) -> Iterator[Callable[[], Bucket]]:
    """Makes fresh buckets at ``ceph``."""
    buckets = Buckets(ceph)
    yield buckets.make
    buckets.close()


@pytest.fixture
def bucket(make_bucket: Callable[[], Bucket]) -> Bucket:
    """One fresh bucket."""
    return make_bucket()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ServedNode]]:
    """Starts nodes for the tests of one file: ``serve("section.key=value", ...)``; they end with it."""
    with contextlib.ExitStack() as nodes:

        def start(*sets: str) -> ServedNode:
            return nodes.enter_context(ServedNode(str(tmp_path_factory.mktemp("node") / "home"), sets=[*sets]))

        yield start


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServedNode]:
    """A node of one test's own, started."""
    with ServedNode(str(tmp_path / "home")) as served:
        yield served
