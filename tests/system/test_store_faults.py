"""A store that throttles, stalls, lies or goes away, as the command line meets it: typed errors in time, right bytes or none, and
a node that goes on by itself when the store is back."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from monofs.model.errors import ContentChanged, MonofsError
from monofs.testing import processes
from monofs.testing.storeproxy import Fault, StoreProxy

pytestmark = pytest.mark.ceph

MIB = 1 << 20
TIMEOUT_S = 3
SETTINGS = [f"worker.store_timeout_s={TIMEOUT_S}", f"master.store_timeout_s={TIMEOUT_S}", "worker.fetch_retries=2"]
BOUND_S = 30
"""Far over every retry the settings below allow, far under hanging."""


@pytest.fixture(scope="module")
def node(serve):
    return serve(*SETTINGS)


@pytest.fixture
def proxy(ceph):
    with StoreProxy(ceph.endpoint) as running:
        yield running


@pytest.fixture
def at(node, bucket, proxy):
    """The path where ``bucket`` is mounted through ``proxy``; afterwards nothing unverified may be in the cache."""
    bucket.endpoint = proxy.endpoint
    path = f"/{bucket.name}"
    ok(node.cli("mount", "add", path, bucket.uri, *bucket.words(), "--sync-interval", "200ms"))
    yield path
    proxy.clear()
    checked = json.loads(ok(node.cli("admin", "fsck", "--pages", "--json")))
    assert checked["broken"] == 0
    ok(node.cli("mount", "rm", path))


def ok(done):
    assert done.returncode == 0, (done.args, done.returncode, done.stdout[:500], done.stderr)
    return done.stdout


def fails(node, code, *words, family=6):
    """Fails in bounded time with this exit code and one clean line, which is returned."""
    done = node.cli(*words, timeout_s=BOUND_S)
    assert done.returncode == code, (words, done.returncode, done.stdout[:200], done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("monofs: ")
    return done.stderr


def outdate(node, path):
    """Wait until what is known of ``path`` is older than its interval."""
    deadline = time.monotonic() + BOUND_S
    while (facts := why(node, path))["age_s"] <= facts["sync_interval_s"]:
        assert time.monotonic() < deadline
        if facts["store_error"]:
            return


def why(node, path):
    return json.loads(ok(node.cli("fs", "why", "--json", path)))


def checksum(node, path):
    return ok(node.cli("fs", "checksum", path)).split()[0]


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def cached(node, path):
    return sum(group["bytes"] for group in why(node, path)["cached"])


def error_code(node, path):
    """The code an SDK user meets."""
    with node.connect() as fs, pytest.raises(MonofsError) as caught:
        fs.read(path)
    return caught.value.code


def test_a_storm_of_503_is_waited_out_in_reads_and_listings(node, at, bucket, proxy):
    data = os.urandom(3 * MIB)
    bucket.put_all({"d/f": data, "d/g": b"g"})
    proxy.add(Fault(status=503, times=2))
    assert ok(node.cli("fs", "ls", f"{at}/d")) == "f\ng\n"
    proxy.add(Fault(kind="get", status=503, times=1))
    assert checksum(node, f"{at}/d/f") == md5(data)


def test_a_storm_of_503_without_end_is_told_as_the_stores(node, at, bucket, proxy):
    bucket.put("f", os.urandom(MIB))
    ok(node.cli("fs", "ls", at))
    proxy.add(Fault(kind="get", status=503))
    said = fails(node, 7, "fs", "cat", f"{at}/f")
    assert "slow down" in said
    assert (said.count(bucket.endpoint), said.count(bucket.uri)) == (1, 1), "each is told once"
    assert error_code(node, f"{at}/f") == 6005
    assert cached(node, f"{at}/f") == 0
    proxy.clear()
    assert len(ok(node.cli("fs", "checksum", f"{at}/f")).split()[0]) == 32


def test_a_slow_store_is_slow_and_nothing_worse(node, at, bucket, proxy):
    data = os.urandom(2 * MIB)
    bucket.put("f", data)
    proxy.latency_s = TIMEOUT_S * 0.4
    try:
        assert checksum(node, f"{at}/f") == md5(data)
    finally:
        proxy.latency_s = 0


@pytest.mark.parametrize("after_bytes", [-1, 100])
def test_a_store_that_stops_talking_is_given_up_in_time(node, at, bucket, proxy, after_bytes):
    data = os.urandom(4 * MIB)
    bucket.put("f", data)
    ok(node.cli("fs", "ls", at))
    hang = proxy.add(Fault(kind="get", key=b"f", cut="hang", after_bytes=after_bytes))
    said = fails(node, 7, "fs", "checksum", f"{at}/f")
    assert hang.used >= 1
    assert "in time" in said or "silent" in said or "cut short" in said, said
    proxy.clear()
    assert checksum(node, f"{at}/f") == md5(data)


def test_a_page_that_came_before_each_silence_brings_a_read_to_its_end(node, at, bucket, proxy):
    data = os.urandom(4 * MIB)
    bucket.put("f", data)
    hang = proxy.add(Fault(kind="get", key=b"f", cut="hang", after_bytes=MIB + 100))
    assert checksum(node, f"{at}/f") == md5(data)
    assert hang.used >= 3


def test_a_directory_is_downloaded_several_files_at_a_time(node, at, bucket, proxy, tmp_path):
    files = {f"f{n}": os.urandom(1000 + n) for n in range(8)}
    bucket.put_all(files)
    gate = threading.Barrier(3)

    def meet():
        gate.wait(BOUND_S)  # for a second and a third file: one after another would never come here together

    faults = [proxy.add(Fault(kind="get", key=name.encode(), times=1, call=meet)) for name in ("f0", "f1", "f2")]
    done = node.cli("fs", "download", "-r", at, str(tmp_path / "copy"), timeout_s=2 * BOUND_S)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'copy'}: 8 files, 7.8 KiB\n"), done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == files
    assert [fault.used for fault in faults] == [1, 1, 1]
    assert not gate.broken


@pytest.mark.parametrize("command", ["cat", "load"])
def test_ctrl_c_does_not_wait_for_a_store_that_hangs(node, at, bucket, proxy, command):
    bucket.put_all({f"f{n}": os.urandom(MIB) for n in range(20)})
    ok(node.cli("fs", "ls", at))
    ok(node.cli("mount", "update", at, "--sync-interval", "1h"))
    hang = proxy.add(Fault(kind="get", cut="hang", after_bytes=-1))
    words = ["fs", command, at if command == "load" else f"{at}/f0"]
    with subprocess.Popen(
        [sys.executable, "-m", "monofs", "--masters", node.doors["rpc"], *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        deadline = time.monotonic() + BOUND_S
        while not hang.used:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=BOUND_S)
    told = errors.splitlines()
    assert (running.returncode, told[-1], len(told)) == (130, b"monofs: interrupted", 2 if command == "load" else 1)
    if command == "load":
        ok(node.cli("fs", "load", "--stop", at))
    assert node.process.poll() is None


def test_a_listing_that_hangs_leaves_what_is_known(node, at, bucket, proxy):
    bucket.put_all({"known/a": b"1", "unknown/b": b"2"})
    assert ok(node.cli("fs", "ls", f"{at}/known")) == "a\n"
    proxy.add(Fault(kind="list", cut="hang", after_bytes=-1))
    proxy.add(Fault(kind="head", cut="hang", after_bytes=-1))
    outdate(node, f"{at}/known")
    assert ok(node.cli("fs", "ls", f"{at}/known")) == "a\n", "stale, and better than nothing"
    fails(node, 7, "fs", "ls", "-f", f"{at}/known")
    fails(node, 7, "fs", "ls", f"{at}/unknown")
    proxy.clear()
    deadline = time.monotonic() + BOUND_S
    while node.cli("fs", "ls", f"{at}/unknown").returncode:
        assert time.monotonic() < deadline, "it never came back"
    assert ok(node.cli("fs", "ls", f"{at}/unknown")) == "b\n"


def test_a_command_out_of_time_says_which_store_and_path_it_waited_for(node, at, bucket, proxy):
    bucket.put("d/f", b"12345")
    ok(node.cli("fs", "ls", f"{at}/d"))
    proxy.add(Fault(kind="get", cut="hang", after_bytes=-1))
    told = fails(node, 9, "--timeout", "1s", "fs", "cat", f"{at}/d/f")
    assert f"{at}/d/f: the " in told
    assert "ran out while waiting for the store s3://" in told
    assert " to send d/f" in told
    proxy.add(Fault(kind="list", cut="hang", after_bytes=-1))
    told = fails(node, 9, "--timeout", "1s", "fs", "ls", "-f", f"{at}/d")
    assert "ran out while waiting for the store s3://" in told
    assert f" to tell about {at}/d" in told


def test_a_reset_or_short_body_in_mid_file_is_taken_up_again(node, at, bucket, proxy):
    data = os.urandom(12 * MIB + 5)
    bucket.put("f", data)
    for cut in ("reset", "close"):
        fault = proxy.add(Fault(kind="get", key=b"f", times=1, cut=cut, after_bytes=2 * MIB + 77))
        assert checksum(node, f"{at}/f") == md5(data)
        assert fault.used == 1
        ok(node.cli("fs", "free", f"{at}/f"))


def test_bodies_that_are_always_short_are_an_error_and_never_a_short_file(node, at, bucket, proxy):
    data = os.urandom(3 * MIB)
    bucket.put("f", data)
    ok(node.cli("fs", "ls", at))
    proxy.add(Fault(kind="get", key=b"f", cut="close", after_bytes=100_000))
    target = f"{node.home}-download"
    fails(node, 7, "fs", "download", f"{at}/f", target)
    assert not os.path.exists(target)
    assert error_code(node, f"{at}/f") == 6007
    assert cached(node, f"{at}/f") == 0
    proxy.clear()
    assert checksum(node, f"{at}/f") == md5(data)


def test_a_wrong_etag_in_mid_file_gives_no_byte_of_it(node, at, bucket, proxy):
    data = os.urandom(20 * MIB)
    bucket.put("f", data)
    ok(node.cli("fs", "head", "-c", "1MiB", f"{at}/f"))
    proxy.add(Fault(kind="get", key=b"f", headers={"ETag": '"00000000000000000000000000000bad"'}))
    done = cat(node, f"{at}/f")
    assert done.returncode == 8, done.stderr
    assert b"open the file again" in done.stderr
    assert data.startswith(done.stdout)
    assert cached(node, f"{at}/f") <= 8 * MIB
    proxy.clear()
    assert checksum(node, f"{at}/f") == md5(data)


def cat(node, path):
    command = [sys.executable, "-m", "monofs", "--masters", node.doors["rpc"], "fs", "cat", path]
    return processes.run(command, timeout_s=BOUND_S)


def test_an_object_replaced_during_a_large_read_ends_it_and_the_next_read_is_new(node, at, bucket, proxy):
    old, new = os.urandom(100 * MIB), os.urandom(10 * MIB)
    bucket.put("f", old)
    ok(node.cli("fs", "ls", at))
    proxy.add(Fault(kind="get", key=b"f", times=1, after_bytes=MIB, call=lambda: bucket.put("f", new) and None))
    with node.connect() as fs, fs.open(f"{at}/f") as file:
        got = bytearray()
        with pytest.raises(ContentChanged):
            while block := file.read(MIB):
                got += block
        assert len(got) >= MIB
        assert old.startswith(got), "nothing but old bytes before the error"
    with node.connect(sync_interval_s=0) as fs:
        assert fs.read(f"{at}/f") == new
    assert checksum(node, f"{at}/f") == md5(new)


def test_with_the_store_gone_what_is_cached_is_read_and_what_is_known_is_listed(node, at, bucket, proxy):
    warm, cold = os.urandom(2 * MIB), os.urandom(2 * MIB)
    bucket.put_all({"warm": warm, "cold": cold, "dir/inner": b"inner"})
    assert checksum(node, f"{at}/warm") == md5(warm)
    listing = ok(node.cli("fs", "ls", "-lR", at))
    proxy.stop()
    outdate(node, f"{at}/warm")
    assert checksum(node, f"{at}/warm") == md5(warm)
    assert ok(node.cli("fs", "ls", "-lR", at)) == listing
    assert "no connection" in fails(node, 7, "fs", "ls", "-f", at), "asked for nothing but fresh"
    assert "no connection" in fails(node, 7, "fs", "cat", f"{at}/cold")
    assert error_code(node, f"{at}/cold") in (6001, 6014), "the worker may have broken off by now"
    assert "no connection" in fails(node, 7, "mount", "test", at)
    assert "unavailable" in ok(node.cli("mount", "ls"))
    facts = why(node, f"{at}/warm")
    assert facts["store_state"] == "unavailable"
    assert "no connection" in facts["store_error"]
    command = [sys.executable, "-m", "monofs", "--masters", node.doors["rpc"], "fs", "load", at]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        assert "waits: " in load.stderr.readline()
        proxy.start()
        done, _ = load.communicate(timeout=BOUND_S)
        assert (load.returncode, done[:14]) == (0, "loaded 3 files")
    ok(node.cli("mount", "test", at))
    assert checksum(node, f"{at}/cold") == md5(cold), "no restart needed"
    assert "unavailable" not in ok(node.cli("mount", "ls"))


def test_a_node_restarted_while_its_store_is_gone_serves_what_it_has(serve, bucket, proxy):
    data = os.urandom(2 * MIB)
    bucket.put_all({"f": data, "g": b"not read"})
    node = serve(*SETTINGS)
    bucket.endpoint = proxy.endpoint
    ok(node.cli("mount", "add", "/s", bucket.uri, *bucket.words()))
    assert checksum(node, "/s/f") == md5(data)
    ok(node.cli("fs", "ls", "/s"))
    proxy.stop()
    node.stop()
    node.start()
    assert checksum(node, "/s/f") == md5(data)
    assert ok(node.cli("fs", "ls", "/s")) == "f\ng\n"
    fails(node, 7, "fs", "cat", "/s/g")
    proxy.start()
    ok(node.cli("mount", "test", "/s"))
    assert ok(node.cli("fs", "cat", "/s/g")) == "not read"
