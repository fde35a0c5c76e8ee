"""Mounting stores through the real command line: what is refused and how it is said, what survives, what stays secret."""

import json
import os
import pty
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from monofs.model.errors import ContentChanged
from monofs.testing.nodes import ServedNode
from monofs.testing.ports import free_port

pytestmark = pytest.mark.ceph

SECRET = "s3cr3t-Zq7+/never=shown"
GROUP_BYTES = 64 << 20


@pytest.fixture(scope="module")
def served(serve):
    return serve()


@pytest.fixture
def clean(served):
    """The module's node without mounts."""
    with served.connect() as fs:
        for info in sorted(fs.mount_list(), key=lambda info: -len(info.path)):
            fs.mount_remove(info.path)
    return served


def ok(done):
    assert done.returncode == 0, (done.args, done.returncode, done.stdout, done.stderr)
    return done.stdout


def mounts(node):
    return [json.loads(line) for line in ok(node.cli("mount", "ls", "--json")).splitlines()]


def refused(node, code, *named, words):
    """The command fails with this exit code, one line that names these, and nothing else has changed."""
    before = mounts(node)
    done = node.cli(*words)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    assert done.stderr.startswith("monofs: ")
    assert all(line.startswith("  ") for line in done.stderr.splitlines()[1:]), done.stderr
    for each in named:
        assert each in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert mounts(node) == before
    return done.stderr


def test_a_bucket_is_mounted_listed_tested_updated_and_removed(clean, bucket):
    bucket.put("docs/a.txt", b"alpha")
    assert ok(clean.cli("mount", "add", "/lake", bucket.uri, *bucket.words())) == f"mounted {bucket.uri} at /lake\n"
    assert ok(clean.cli("fs", "cat", "/lake/docs/a.txt")) == "alpha"
    table = ok(clean.cli("mount", "ls"))
    assert bucket.uri in table
    assert "secret_key=***" in table
    (row,) = mounts(clean)
    assert (row["path"], row["uri"], row["state"], row["secrets"]) == ("/lake", bucket.uri, "ok", ["secret_key"])
    assert ok(clean.cli("mount", "test", "/lake")) == f"/lake: {bucket.uri} answers\n"
    ok(clean.cli("mount", "rm", "/lake"))
    assert mounts(clean) == []
    assert clean.cli("fs", "ls", "/lake").returncode == 3, "the directory that was made for it went with it"
    assert bucket.keys() == ["docs/a.txt"], "the store is not touched"
    ok(clean.cli("mount", "add", "/lake", bucket.uri, *bucket.words()))
    assert ok(clean.cli("fs", "cat", "/lake/docs/a.txt")) == "alpha"


def test_an_empty_tree_says_on_a_terminal_what_to_do_next_and_nothing_in_a_pipe(node):
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    command = [sys.executable, "-m", "monofs", "--masters", node.doors["rpc"]]
    for words in (("fs", "ls"), ("mount", "ls")):
        done = node.cli(*words)
        assert (done.returncode, done.stderr) == (0, "")
        subprocess.run([*command, *words], stdout=subprocess.PIPE, stderr=theirs, check=True, timeout=60)
        assert b"`monofs mount add PATH URI` mounts a store" in os.read(ours, 1000)
    os.close(ours)
    os.close(theirs)


def test_each_wrong_mount_is_refused_with_its_own_sentence(clean, bucket, ceph):
    add = ["mount", "add", "/m"]
    said = [
        refused(clean, 7, "secret_key", ceph.access_key, words=[*add, bucket.uri, *bucket.words(secret_key=SECRET)]),
        refused(clean, 7, "NOBODY", "access_key", words=[*add, bucket.uri, *bucket.words(access_key="NOBODY")]),
        refused(clean, 7, "no-such-bucket", "does not exist", words=[*add, "s3://no-such-bucket", *bucket.words()]),
        refused(
            clean, 7, "refused access", "lack the right",
            words=[*add, bucket.uri, *bucket.words(access_key=ceph.other_access_key, secret_key=ceph.other_secret_key)],
        ),
        refused(
            clean, 7, "no connection", "Connection refused",
            words=[*add, bucket.uri, *bucket.words(endpoint=f"http://127.0.0.1:{free_port()}")],
        ),
        refused(clean, 2, "s3://, file://", words=[*add, "ftp://host/dir"]),
        refused(clean, 2, "s3://bucket/prefix", words=[*add, "s3://"]),
        refused(clean, 2, "endpoint: 'localhost'", words=[*add, bucket.uri, *bucket.words(endpoint="localhost")]),
        refused(clean, 2, "'colour'", "list_page", words=[*add, bucket.uri, *bucket.words(colour="red")]),
        refused(clean, 2, "belong together", words=[*add, bucket.uri, *bucket.words(secret_key="")]),
        refused(clean, 2, "from 1 to 1000", words=[*add, bucket.uri, *bucket.words(list_page="many")]),
        refused(clean, 7, "/no/such/dir", words=[*add, "file:///no/such/dir"]),
        refused(clean, 2, "start with '/'", words=["mount", "add", "m", bucket.uri, *bucket.words()]),
        refused(clean, 2, "NAME=VALUE", words=[*add, bucket.uri, "--option", SECRET]),
    ]  # fmt: skip
    assert len(set(said)) == len(said)
    assert not any(SECRET in each for each in said)
    assert clean.cli("fs", "test", "-e", "/m").returncode == 1, "no directory is left behind"


def test_a_taken_path_and_a_store_mounted_twice_are_refused(clean, bucket, make_bucket):
    other = make_bucket()
    ok(clean.cli("mount", "add", "/m", bucket.uri, *bucket.words()))
    refused(clean, 4, "/m already", words=["mount", "add", "/m", other.uri, *other.words()])
    refused(clean, 4, "/m already", "--shared", words=["mount", "add", "/n", bucket.uri, *bucket.words()])
    ok(clean.cli("mount", "add", "/n", bucket.uri, *bucket.words(), "--shared"))
    refused(clean, 3, "nothing is mounted at /x", words=["mount", "rm", "/x"])
    refused(clean, 3, "nothing is mounted at /x", words=["mount", "test", "/x"])
    refused(clean, 3, "nothing is mounted at /x", words=["mount", "update", "/x", "--readonly"])
    refused(clean, 3, "nothing is mounted at /m/below", words=["mount", "rm", "/m/below"])


def test_a_file_in_the_way_of_a_mount_is_told(clean, bucket, make_bucket):
    other = make_bucket()
    bucket.put("file", b"x")
    ok(clean.cli("mount", "add", "/m", bucket.uri, *bucket.words()))
    ok(clean.cli("fs", "ls", "/m"))
    with clean.connect() as fs:
        fs.make_directory("/plain", exist_ok=True)
        if not fs.exists("/plain/file"):
            fs.create("/plain/file")
    refused(clean, 4, "/plain/file", words=["mount", "add", "/plain/file", other.uri, *other.words()])
    refused(clean, 2, "/plain/file", words=["mount", "add", "/plain/file/x", other.uri, *other.words()])


def test_a_dry_run_asks_the_store_and_mounts_nothing(clean, bucket):
    words = ["mount", "add", "/dry", bucket.uri, "--dry-run"]
    assert ok(clean.cli(*words, *bucket.words())) == f"would mount {bucket.uri} at /dry\n"
    assert mounts(clean) == []
    assert clean.cli("fs", "test", "-e", "/dry").returncode == 1
    refused(clean, 7, "secret_key", words=[*words, *bucket.words(secret_key="wrong")])


def test_mounts_nest_in_each_other_whatever_their_stores(clean, bucket, make_bucket, tmp_path):
    inner = make_bucket()
    (tmp_path / "sub").mkdir()
    (tmp_path / "local.txt").write_text("local")
    (tmp_path / "sub" / "covered.txt").write_text("covered")
    bucket.put("in/bucket.txt", b"bucket")
    inner.put("deep.txt", b"deep")
    ok(clean.cli("mount", "add", "/files", f"file://{tmp_path}"))
    ok(clean.cli("mount", "add", "/files/sub", bucket.uri, *bucket.words()))
    ok(clean.cli("mount", "add", "/files/sub/in/deeper", inner.uri, *inner.words()))
    ok(clean.cli("mount", "add", "/files/sub/in/dir", f"file://{tmp_path / 'sub'}", "--readonly"))
    assert ok(clean.cli("fs", "cat", "/files/local.txt", "/files/sub/in/bucket.txt")) == "localbucket"
    assert ok(clean.cli("fs", "cat", "/files/sub/in/deeper/deep.txt", "/files/sub/in/dir/covered.txt")) == "deepcovered"
    assert ok(clean.cli("fs", "find", "/files")).splitlines() == [
        "/files/local.txt", "/files/sub", "/files/sub/in", "/files/sub/in/bucket.txt", "/files/sub/in/deeper",
        "/files/sub/in/deeper/deep.txt", "/files/sub/in/dir", "/files/sub/in/dir/covered.txt",
    ]  # fmt: skip
    refused(clean, 4, "other mounts lie below /files", words=["mount", "rm", "/files"])
    for path in ("/files/sub/in/dir", "/files/sub/in/deeper", "/files/sub"):
        ok(clean.cli("mount", "rm", path))
    assert ok(clean.cli("fs", "cat", "/files/sub/covered.txt")) == "covered"


def test_a_readonly_mount_says_so_and_refuses_changes(clean, bucket):
    ok(clean.cli("mount", "add", "/ro", bucket.uri, *bucket.words(), "--readonly"))
    assert mounts(clean)[0]["readonly"] is True
    assert "readonly" in ok(clean.cli("mount", "ls"))
    assert "readonly: True -> False" in ok(clean.cli("mount", "update", "/ro", "--writable"))
    assert mounts(clean)[0]["readonly"] is False


def test_an_update_merges_shows_the_difference_and_is_proven_first(clean, bucket):
    ok(clean.cli("mount", "add", "/m", bucket.uri, *bucket.words()))
    before = mounts(clean)
    said = ok(clean.cli("mount", "update", "/m", "--option", "list_page=7", "--dry-run"))
    assert said == "list_page: (not set) -> 7\nwould update /m\n"
    assert mounts(clean) == before
    assert (
        ok(clean.cli("mount", "update", "/m", "--option", "list_page=7")) == "list_page: (not set) -> 7\nupdated /m\n"
    )
    (row,) = mounts(clean)
    assert row["options"] == {**before[0]["options"], "list_page": "7"}
    assert row["secrets"] == ["secret_key"], "options not named stay"
    said = refused(clean, 7, "secret_key", words=["mount", "update", "/m", "--option", f"secret_key={SECRET}"])
    assert SECRET not in said
    assert ok(clean.cli("mount", "update", "/m", "--option", "list_page=")).startswith("list_page: 7 -> (not set)")
    refused(clean, 7, "", words=["mount", "update", "/m", "--replace", "--option", f"endpoint={bucket.endpoint}",
                                 "--option", "anonymous=true"])  # fmt: skip
    replaced = ok(clean.cli("mount", "update", "/m", "--replace", *bucket.words(region="eu-1")))
    assert "region: (not set) -> eu-1" in replaced
    assert "secret_key: *** -> ***" in replaced, "a secret that was given is named as changed, and not shown"
    assert "sync interval: as the node says -> 5 s" in ok(clean.cli("mount", "update", "/m", "--sync-interval", "5s"))


def test_a_mount_whose_store_went_away_is_listed_as_such_and_comes_back(clean, bucket, ceph):
    ok(clean.cli("mount", "add", "/m", bucket.uri, *bucket.words()))
    assert clean.cli("fs", "ls", "-f", "/m").returncode == 0
    ceph.stop_gateway()
    try:
        done = clean.cli("mount", "test", "/m")
        assert (done.returncode, done.stdout) == (7, "")
        clean.cli("fs", "ls", "-f", "/m")
        assert mounts(clean)[0]["state"] == "unavailable"
        assert "unavailable" in ok(clean.cli("mount", "ls"))
    finally:
        ceph.start_gateway()
    ok(clean.cli("mount", "test", "/m"))
    assert mounts(clean)[0]["state"] == "ok"


def test_an_unmount_under_open_readers_ends_them_or_lets_them_finish_never_mixes(clean, bucket):
    body = os.urandom(3 << 20)
    bucket.put("f", body)
    with clean.connect() as fs:
        fs.mount_add("/m", bucket.uri, bucket.options)
        cached, cold = fs.open("/m/f"), None
        assert cached.read() == body
        bucket.put("cold", body)
        cold = fs.open("/m/cold")
        fs.mount_remove("/m")
        cached.seek(0)
        assert cached.read() == body, "what is cached and open is read to its end"
        with pytest.raises((ContentChanged, FileNotFoundError, OSError)):
            cold.read()
        assert not fs.exists("/m/f")
        cached.close()
        cold.close()


def test_credentials_survive_restarts_and_crashes_and_are_in_no_file(tmp_path, bucket, ceph):
    key = "AKIAROTATED"
    node = ServedNode(str(tmp_path / "home"), sets=["log.level=debug"]).start()
    try:
        secret = bucket.options["secret_key"]
        bucket.put("a", b"alpha")
        printed = [node.cli("mount", "add", "/bad", bucket.uri, *bucket.words(access_key=key, secret_key=SECRET))]
        printed += [node.cli("mount", "add", "/m", bucket.uri, *bucket.words())]
        printed += [node.cli("mount", "update", "/m", "--option", f"secret_key={SECRET}")]
        printed += [node.cli("fs", "cat", "/m/a"), node.cli("mount", "ls", "--json"), node.cli("mount", "ls")]
        printed += [node.cli("fs", "why", "/m/a", "--json"), node.cli("admin", "report", "--json")]
        printed += [node.cli("admin", "conf", "--json", "--all"), node.cli("cache", "status", "--json")]
        assert [done.returncode for done in printed] == [7, 0, 7, *[0] * 7]
        with urllib.request.urlopen(node.doors["console"] + "/metrics", timeout=10) as answer:
            shown = answer.read().decode()
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
        node.start()
        bucket.put("b", b"beta")
        assert ok(node.cli("fs", "cat", "/m/b")) == "beta", "read with the credentials found again"
        node.stop()
        node.start()
        ok(node.cli("mount", "test", "/m"))
        shown += node.output() + "".join(done.stdout + done.stderr for done in printed)
        node.stop()
        for word in (secret, SECRET):
            assert word not in shown
            for file in (path for path in Path(node.home).rglob("*") if path.is_file()):
                assert word.encode() not in file.read_bytes(), file
    finally:
        node.kill()


def test_what_was_refused_leaves_nothing_a_restart_could_find(tmp_path, bucket):
    with ServedNode(str(tmp_path / "home")) as node:
        refused(node, 7, "", words=["mount", "add", "/m", "s3://no-such-bucket", *bucket.words()])
        ok(node.cli("mount", "add", "/ok", bucket.uri, *bucket.words()))
        node.kill()
        node.start()
        assert [row["path"] for row in mounts(node)] == ["/ok"]
        assert "clean" in ok(node.cli("admin", "fsck", "--pages"))
