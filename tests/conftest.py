"""Servers that several suites use: started once per run, only when a test asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monofs.testing import ceph as ceph_server
from monofs.testing import moto as moto_server


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
