"""fsspec's own abstract suite, whole, over a mounted directory and over a bucket of a real S3 server."""

import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from monofs.fsspec import MonofsFileSystem
from monofs.testing.nodes import ServedNode


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with ServedNode(str(tmp_path_factory.mktemp("abstract") / "home")) as node:
        yield node
        MonofsFileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def local_mount(served, tmp_path_factory):
    with served.connect() as client:
        client.mount_add("/local", f"file://{tmp_path_factory.mktemp('store')}", sync_interval_s=0.0)
    return "/local"


@pytest.fixture(scope="module")
def bucket_mount(served, make_bucket):
    bucket = make_bucket()
    with served.connect() as client:
        client.mount_add("/bucket", bucket.uri, bucket.options)
    return "/bucket"


class Fixtures(AbstractFixtures):
    @pytest.fixture
    def fs(self, served):
        fs = MonofsFileSystem(served.doors["rpc"], skip_instance_cache=True)
        yield fs
        fs.client.close()


class OnLocal(Fixtures):
    @pytest.fixture
    def fs_path(self, local_mount):
        return local_mount


class OnBucket(Fixtures):
    @pytest.fixture
    def fs_path(self, bucket_mount):
        return bucket_mount


class OnCache(Fixtures):
    @pytest.fixture
    def fs_path(self, fs):
        fs.makedirs("/cached", exist_ok=True)
        return "/cached"


class TestCopyOnLocal(AbstractCopyTests, OnLocal):
    pass


class TestGetOnLocal(AbstractGetTests, OnLocal):
    pass


class TestPutOnLocal(AbstractPutTests, OnLocal):
    pass


class TestOpenOnLocal(AbstractOpenTests, OnLocal):
    pass


class TestPipeOnLocal(AbstractPipeTests, OnLocal):
    pass


class TestCopyOnBucket(AbstractCopyTests, OnBucket):
    pass


class TestGetOnBucket(AbstractGetTests, OnBucket):
    pass


class TestPutOnBucket(AbstractPutTests, OnBucket):
    pass


class TestOpenOnBucket(AbstractOpenTests, OnBucket):
    pass


class TestPipeOnBucket(AbstractPipeTests, OnBucket):
    pass


class TestOpenOnCache(AbstractOpenTests, OnCache):
    pass


class TestPipeOnCache(AbstractPipeTests, OnCache):
    pass
