"""No worker lives: programs that were given access to the stores read there, others get a clear error within their patience."""

import json
import os
import pickle
import time

import fsspec
import pytest

import monofs
from monofs.model.errors import ContentChanged, InvalidArgument, InvalidPath, NoWorker, UfsOption
from monofs.testing.masters import wait_until
from monofs.testing.nodes import ServedNode

MIB = 1 << 20


@pytest.fixture
def cluster(tmp_path):
    """(master, worker, source directory mounted at /f)"""
    source = tmp_path / "source"
    source.mkdir()
    with ServedNode(str(tmp_path / "master"), sets=["node.role=master"]) as master:
        secret = os.path.join(master.home, "cluster.secret")
        sets = ["node.role=worker", f"worker.masters={master.doors['rpc']}", f"security.cluster_secret_file={secret}"]
        with ServedNode(str(tmp_path / "worker"), sets=sets) as worker, master.connect() as fs:
            fs.mount_add("/f", f"file://{source}")
            yield master, worker, source


def connect(master, source, **options):
    stores = {"/f": {"uri": f"file://{source}"}}
    return monofs.connect(master.doors["rpc"], stores=stores, **options)


def test_files_are_read_from_the_store_and_cached_ones_again_when_a_worker_is_back(cluster):
    master, worker, source = cluster
    expected = {f"/f/d/{n}": os.urandom(size) for n, size in enumerate((0, 1, 70_000, 3 * MIB + 5, 70 * MIB))}
    (source / "d").mkdir()
    for path, data in expected.items():
        (source / path[3:]).write_bytes(data)
    with connect(master, source) as fs:
        with fs.open("/f/d/4") as file:
            assert file.pread(5, 1000) == expected["/f/d/4"][5:1005]
            worker.kill()
            assert file.pread(0, 70 * MIB) == expected["/f/d/4"], "goes on in mid-file"
        assert {path: fs.read(path) for path in expected} == expected
        assert fs.read_many([(path, 7, 100) for path in expected]) == [data[7:107] for data in expected.values()]
        with fs.open("/f/d/3") as file:
            assert b"".join(iter(lambda: file.read(4096), b"")) == expected["/f/d/3"]
        other = pickle.loads(pickle.dumps(fs))
        assert other.read("/f/d/2") == expected["/f/d/2"]
        worker.start()
        end = time.monotonic() + 60
        with master.connect() as observer:
            while not observer.cached(["/f/d/3"])["/f/d/3"]:
                assert time.monotonic() < end, "the worker is not asked again"
                assert fs.read("/f/d/3") == expected["/f/d/3"]
                time.sleep(0.1)


def test_why_says_since_when_the_worker_that_has_a_file_is_lost(cluster):
    master, worker, source = cluster
    (source / "a").write_bytes(b"12345")
    with master.connect() as fs:
        assert fs.read("/f/a") == b"12345"
    assert " is lost: " not in master.cli("fs", "why", "/f/a").stdout
    worker.kill()
    wait_until(
        lambda: " is lost: the master has not heard it for " in master.cli("fs", "why", "/f/a").stdout,
        "it is not said to be lost",
    )
    (lost,) = json.loads(master.cli("fs", "why", "--json", "/f/a").stdout)["cached"]
    assert lost["silent_s"] > 5
    assert "cannot connect" in lost["error"]
    worker.start()
    wait_until(lambda: "silent_s" not in master.cli("fs", "why", "--json", "/f/a").stdout, "it is still lost")


def test_libraries_read_on_when_they_were_given_the_stores(cluster):
    master, worker, source = cluster
    data = os.urandom(3 * MIB + 5)
    (source / "a").write_bytes(data)
    options = {"stores": {"/f": {"uri": f"file://{source}"}}, "timeout_s": 10.0}
    fs, path = fsspec.url_to_fs(f"monofs://{master.doors['rpc']}/f/a", **options)
    assert fs.cat_file(path, 0, 100) == data[:100]
    worker.kill()
    other = pickle.loads(pickle.dumps(fs))
    for each in (fs, other):
        assert each.cat_file(path) == data
        assert each.cat_ranges([path, path], [5, 2 * MIB], [100, 2 * MIB + 9]) == [data[5:100], data[2 * MIB :][:9]]
        with each.open(path) as file:
            assert file.read() == data
    fs.client.close()
    other.client.close()
    with pytest.raises(InvalidArgument, match="uri"):
        fsspec.filesystem("monofs", stores={"/f": {"access_key": "k"}})


def test_no_other_version_is_ever_mixed_in(cluster):
    master, worker, source = cluster
    old, new = os.urandom(2 * MIB), os.urandom(2 * MIB)
    (source / "a").write_bytes(old)
    with connect(master, source, sync_interval_s=3600) as fs, fs.open("/f/a") as file:
        worker.kill()
        assert file.read(MIB) == old[:MIB]
        (source / "new").write_bytes(new)
        os.replace(source / "new", source / "a")
        with pytest.raises(ContentChanged):
            file.pread(MIB, MIB)
        assert fs.read("/f/a") == new, "opened again, since nothing of it was told"


def test_what_the_store_does_not_have_under_that_name_is_not_read_there(cluster, tmp_path):
    master, worker, source = cluster
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "x").write_bytes(b"inner")
    (source / "x").write_bytes(b"outer")
    with connect(master, source, timeout_s=2) as fs:
        fs.mount_add("/f/below", f"file://{tmp_path}/inner")
        fs.write("/kept", b"only in the cache", write_type="MUST_CACHE")
        worker.kill()
        for path in ("/f/below/x", "/kept"):
            with pytest.raises(NoWorker):
                fs.read(path)
        assert fs.read("/f/x") == b"outer"


def test_without_the_option_the_error_is_clear_and_within_the_client_s_patience(cluster):
    master, worker, source = cluster
    (source / "a").write_bytes(b"a")
    worker.kill()
    with master.connect(timeout_s=2) as fs, pytest.raises(NoWorker, match="no worker answers"):
        fs.read("/f/a")


def test_access_that_makes_no_sense_is_refused_and_secrets_are_not_shown():
    for stores, error in (
        ({"/f": {"access_key": "k"}}, InvalidArgument),
        ({"/f": "s3://bucket"}, InvalidArgument),
        ({"f": {"uri": "s3://bucket"}}, InvalidPath),
        ({"/f": {"uri": "ftp://b"}}, UfsOption),
        ({"/f": {"uri": "s3://bucket", "secret_key": "geheim"}}, UfsOption),
    ):
        with pytest.raises(error) as told:
            monofs.FileSystem("127.0.0.1:1", stores=stores)
        assert "geheim" not in str(told.value)
    fs = monofs.FileSystem(
        "127.0.0.1:1", stores={"/f": {"uri": "s3://bucket", "access_key": "k", "secret_key": "geheim", "region": "r"}}
    )
    assert "geheim" not in repr(fs) + repr(fs._options) + repr(fs._session().fallback)
