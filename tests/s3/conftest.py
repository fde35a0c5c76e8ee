"""The endpoints: monofs with keys under no mount, over a mounted directory, over a mounted bucket of radosgw; and radosgw itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from s3_differences import reason_of
from s3_endpoints import Endpoint
from s3_world import new_key

from monofs.testing.ceph import Ceph
from monofs.testing.nodes import ServedNode

HERE = Path(__file__).parent
ALL = ("monofs", "directory", "store", "radosgw")
_keys = count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that asks for an endpoint runs at all, or at those that its file names in ``ENDPOINTS``."""
    if "endpoint" in metafunc.fixturenames:
        names = getattr(metafunc.module, "ENDPOINTS", ALL)
        marks = {"store": pytest.mark.ceph, "radosgw": pytest.mark.ceph}
        cases = [pytest.param(name, marks=marks.get(name, ()), id=name) for name in names]
        metafunc.parametrize("endpoint", cases, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Expect, or leave out, what the table of differences says."""
    left_out = []
    for item in items:
        if item.path.parent != HERE or not isinstance(item, pytest.Function) or "endpoint" not in item.fixturenames:
            continue
        endpoint = item.callspec.params["endpoint"]
        case = "-".join(part for part in item.callspec.id.split("-") if part != endpoint)
        reason = reason_of(item.originalname, case, endpoint)
        if reason and endpoint == "radosgw" and not os.environ.get("S3_DIFFERENCES"):
            left_out.append(item)
        elif reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=endpoint != "radosgw"))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session")
def s3_node(tmp_path_factory: pytest.TempPathFactory, warm: None) -> Iterator[ServedNode]:
    """A node whose S3 door is open."""
    with ServedNode(str(tmp_path_factory.mktemp("s3") / "home"), sets=["s3.domains=s3.example"]) as node:
        yield node


@pytest.fixture(scope="session")
def endpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """One of ``ALL``."""
    name = request.param
    if name == "radosgw":
        ceph: Ceph = request.getfixturevalue("ceph")
        other = ceph.other_access_key, ceph.other_secret_key
        yield Endpoint(name, ceph.endpoint, ceph.access_key, ceph.secret_key, other=other)
        return
    node: ServedNode = request.getfixturevalue("s3_node")
    made = Endpoint(name, node.doors["s3"], *new_key(node, f"user-of-{name}"))
    made.other = new_key(node, f"other-of-{name}")
    with node.connect() as client:
        if name == "directory":
            top: Path = tmp_path_factory.mktemp("stores")

            def mount_directory(bucket: str) -> None:
                (top / bucket).mkdir()
                client.mount_add(f"/{bucket}", f"file://{top / bucket}")

            made.make = mount_directory
        elif name == "store":
            make_bucket = request.getfixturevalue("make_bucket")

            def mount_bucket(bucket: str) -> None:
                behind = make_bucket()
                client.mount_add(f"/{bucket}", behind.uri, behind.options)

            made.make = mount_bucket
        yield made


@pytest.fixture(scope="session")
def bucket(endpoint: Endpoint) -> str:
    """A bucket that the tests of an endpoint share: for what concerns one key."""
    return endpoint.make_bucket()


@pytest.fixture
def fresh(endpoint: Endpoint) -> str:
    """An empty bucket of one test's own: for what concerns all keys."""
    return endpoint.make_bucket()


@pytest.fixture
def key() -> str:
    """A key that nobody had."""
    return f"key-{next(_keys):05}"
