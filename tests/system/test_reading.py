"""Every `monofs fs` and `monofs cache` command as its users type it, on a bucket of a real S3 server."""

import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest

from monofs.testing import processes
from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.ceph

MIB = 1 << 20
LINES = b"".join(b"line %d\n" % n for n in range(5000))
ODD = "new\nline \x07 and ünï"
TREE = {
    "docs/readme.txt": LINES,
    "docs/deep/er/leaf.bin": os.urandom(3 * MIB + 7),
    "docs/deep/two words.txt": b"two words",
    "docs/empty": b"",
    f"docs/{ODD}": b"odd",
    "docs/ünïcode/日本.txt": b"unicode",
    "top.bin": bytes(range(256)) * 16,
}


@pytest.fixture(scope="module")
def node(serve, make_bucket):
    """A node with ``TREE`` mounted at /s3."""
    bucket = make_bucket()
    bucket.put_all(TREE)
    served = serve()
    ok(served.cli("mount", "add", "/s3", bucket.uri, *bucket.words()))
    served.bucket = bucket
    return served


def ok(done):
    assert done.returncode == 0, (done.args, done.returncode, done.stdout, done.stderr)
    return done.stdout


def out(node, *words):
    return ok(node.cli(*words))


def rows(node, *words):
    return [json.loads(line) for line in out(node, *words, "--json").splitlines()]


def raw(node, *words):
    """Standard output as bytes."""
    command = [sys.executable, "-m", "monofs", "--masters", node.doors["rpc"], *words]
    done = processes.run(command, timeout_s=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start(node, *words, **options):
    command = [sys.executable, "-m", "monofs", "--masters", node.doors["rpc"], *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def wait_until(condition, what, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.01)


# ---- looking ------------------------------------------------------------------------------------------------------------


def test_ls_lists_names_in_order_and_escapes_those_a_line_cannot_hold(node):
    assert out(node, "fs", "ls") == "s3/\n"
    assert out(node, "fs", "ls", "/s3") == "docs/\ntop.bin\n"
    shown = out(node, "fs", "ls", "/s3/docs").splitlines()
    assert shown == ["deep/", "empty", "new\\nline \\x07 and ünï", "readme.txt", "ünïcode/"]
    assert [row["path"] for row in rows(node, "fs", "ls", "/s3/docs")][2] == f"/s3/docs/{ODD}"


def test_ls_takes_the_flags_of_ls(node):
    long = out(node, "fs", "ls", "-l", "/s3")
    assert re.search(r"^drwxr-xr-x +\d+ +\d+ +0 .* docs/$", long, re.MULTILINE)
    assert re.search(r"^-rw-r--r-- +\d+ +\d+ +4096 \d{4}-\d\d-\d\d \d\d:\d\d top.bin$", long, re.MULTILINE)
    assert "4.0 KiB" in out(node, "fs", "ls", "-lh", "/s3")
    assert out(node, "fs", "ls", "-d", "/s3/docs") == "/s3/docs/\n"
    assert out(node, "fs", "ls", "/s3/top.bin") == "/s3/top.bin\n"
    assert len(out(node, "fs", "ls", "-R", "/s3").splitlines()) == len(TREE) + 4
    by_size = out(node, "fs", "ls", "--sort", "size", "/s3/docs").splitlines()
    assert by_size[0] == "readme.txt"
    assert out(node, "fs", "ls", "--sort", "size", "-r", "/s3/docs").splitlines() == by_size[::-1]
    assert out(node, "fs", "ls", "-r", "/s3") == "top.bin\ndocs/\n"
    assert set(out(node, "fs", "ls", "--sort", "time", "/s3/docs").splitlines()) == set(by_size)
    two = out(node, "fs", "ls", "/s3/docs/deep", "/s3/docs/ünïcode")
    assert two == "/s3/docs/deep:\ner/\ntwo words.txt\n\n/s3/docs/ünïcode:\n日本.txt\n"


def test_ls_f_sees_a_change_at_once(node):
    assert "late.txt" not in out(node, "fs", "ls", "/s3/docs")
    node.bucket.put("docs/late.txt", b"1")
    assert "late.txt" not in out(node, "fs", "ls", "/s3/docs"), "known for a minute"
    assert "late.txt" in out(node, "fs", "ls", "-f", "/s3/docs")
    node.bucket.delete("docs/late.txt")
    assert "late.txt" not in out(node, "fs", "ls", "-f", "/s3/docs")


def test_stat_tells_what_is_known(node):
    (row,) = rows(node, "fs", "stat", "/s3/top.bin")
    etag = hashlib.md5(TREE["top.bin"], usedforsecurity=False).hexdigest()
    assert (row["type"], row["size"], row["fingerprint"]) == ("file", 4096, f"e:{etag}")
    assert out(node, "fs", "stat", "-f", "%n|%s|%y|%m|%u|%g|%c", "/s3/top.bin") == (
        f"/s3/top.bin|4096|file|{int(row['mode'], 8):o}|{row['uid']}|{row['gid']}|{row['content']}\n"
    )
    assert abs(int(out(node, "fs", "stat", "-f", "%Y", "/s3/top.bin")) - row["mtime_ns"] // 10**9) <= 1
    plain = out(node, "fs", "stat", "/s3/top.bin", "/s3/docs")
    assert re.search(r"^size +4096$", plain, re.MULTILINE)
    assert re.search(r"^type +directory$", plain, re.MULTILINE)


def test_find_filters_by_name_type_size_and_age(node):
    def find(*words):
        return out(node, "fs", "find", "/s3", *words).splitlines()

    assert find("--name", "*.txt", "--type", "f") == [
        "/s3/docs/deep/two words.txt", "/s3/docs/readme.txt", "/s3/docs/ünïcode/日本.txt"
    ]  # fmt: skip
    assert find("--type", "d") == ["/s3/docs", "/s3/docs/deep", "/s3/docs/deep/er", "/s3/docs/ünïcode"]
    assert find("--size", "+1MiB") == ["/s3/docs/deep/er/leaf.bin"]
    assert find("--size", "-1", "--type", "f") == ["/s3/docs/empty"]
    assert find("--size", "4KiB") == ["/s3/top.bin"]
    assert len(find("--newer", "1h", "--type", "f")) == len(TREE)
    assert find("--newer", "0s", "--type", "f") == []
    assert {row["path"] for row in rows(node, "fs", "find", "/s3", "--name", "new*")} == {f"/s3/docs/{ODD}"}


def test_du_count_and_tree_agree(node):
    total = sum(len(body) for body in TREE.values())
    docs = total - 4096
    assert out(node, "fs", "du", "-s", "/s3") == f"{total}\t/s3\n"
    sizes = {row["path"]: row["bytes"] for row in rows(node, "fs", "du", "/s3")}
    assert sizes["/s3"] == total
    assert sizes["/s3/docs"] == docs
    assert sizes["/s3/docs/deep/er"] == 3 * MIB + 7
    assert out(node, "fs", "du", "-sh", "/s3/docs/deep/er") == "3.0 MiB\t/s3/docs/deep/er\n"
    assert rows(node, "fs", "count", "/s3") == [{"path": "/s3", "directories": 4, "files": len(TREE), "bytes": total}]
    drawn = out(node, "fs", "tree", "/s3")
    assert drawn.endswith(f"\n4 directories, {len(TREE)} files\n")
    assert "│   ├── deep/\n│   │   ├── er/\n│   │   │   └── leaf.bin\n" in drawn
    assert "└── top.bin" in drawn
    assert "readme" not in out(node, "fs", "tree", "-L", "1", "/s3")


def test_test_answers_by_exit_code(node):
    file, directory, empty, none = "/s3/top.bin", "/s3/docs", "/s3/docs/empty", "/s3/none"
    yes = [("-e", file), ("-e", directory), ("-f", file), ("-d", directory), ("-s", file), ("-z", empty), ("-f", empty)]
    no = [("-e", none), ("-f", directory), ("-d", file), ("-s", empty), ("-z", file), ("-s", directory), ("-d", none)]
    for expected, cases in ((0, yes), (1, no)):
        for flag, path in cases:
            done = node.cli("fs", "test", flag, path)
            assert (done.returncode, done.stdout, done.stderr) == (expected, "", ""), (flag, path)


# ---- reading ------------------------------------------------------------------------------------------------------------


def test_cat_head_and_tail_give_the_very_bytes(node):
    leaf = TREE["docs/deep/er/leaf.bin"]
    assert raw(node, "fs", "cat", "/s3/docs/deep/er/leaf.bin") == leaf
    assert raw(node, "fs", "cat", f"/s3/docs/{ODD}", "/s3/docs/ünïcode/日本.txt", "/s3/docs/empty") == b"oddunicode"
    assert raw(node, "fs", "head", "/s3/docs/deep/er/leaf.bin") == leaf[:1024]
    assert raw(node, "fs", "head", "-c", "2MiB", "/s3/docs/deep/er/leaf.bin") == leaf[: 2 * MIB]
    assert raw(node, "fs", "head", "-n", "3", "/s3/docs/readme.txt") == b"line 0\nline 1\nline 2\n"
    assert raw(node, "fs", "head", "-n", "9999", "/s3/docs/readme.txt") == LINES
    assert raw(node, "fs", "head", "-n", "0", "/s3/docs/readme.txt") == b""
    assert raw(node, "fs", "tail", "-c", "1234567", "/s3/docs/deep/er/leaf.bin") == leaf[-1234567:]
    assert raw(node, "fs", "tail", "-c", "1GiB", "/s3/docs/readme.txt") == LINES
    assert raw(node, "fs", "tail", "-n", "2", "/s3/docs/readme.txt") == b"line 4998\nline 4999\n"
    assert raw(node, "fs", "tail", "-n", "4500", "/s3/docs/readme.txt") == b"".join(LINES.splitlines(True)[-4500:])
    assert raw(node, "fs", "tail", "/s3/docs/empty") == b""
    odd_ends = b"a\rb\n" + b"x" * 70_000 + b"\nlast"
    node.bucket.put("docs/ends", odd_ends)
    ok(node.cli("fs", "ls", "-f", "/s3/docs"))
    assert raw(node, "fs", "head", "-n", "2", "/s3/docs/ends") == odd_ends[: -len(b"last")]
    assert raw(node, "fs", "tail", "-n", "2", "/s3/docs/ends") == odd_ends[4:]
    node.bucket.delete("docs/ends")
    ok(node.cli("fs", "ls", "-f", "/s3/docs"))


def test_checksums_are_those_of_the_bytes(node):
    body = TREE["docs/deep/er/leaf.bin"]
    path = "/s3/docs/deep/er/leaf.bin"
    assert out(node, "fs", "checksum", path) == f"{hashlib.md5(body, usedforsecurity=False).hexdigest()}  {path}\n"
    (row,) = rows(node, "fs", "checksum", "--algorithm", "sha256", path)
    assert row["checksum"] == hashlib.sha256(body).hexdigest()
    assert out(node, "fs", "checksum", "--algorithm", "crc32", path).startswith(f"{zlib.crc32(body):08x} ")


def test_download_copies_files_and_trees_whole_or_not(node, tmp_path):
    target = tmp_path / "out"
    ok(node.cli("fs", "download", "-r", "/s3", str(target)))
    assert {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()} == TREE
    ok(node.cli("fs", "download", "/s3/top.bin", str(tmp_path)))
    assert (tmp_path / "top.bin").read_bytes() == TREE["top.bin"]
    mtime_ns = rows(node, "fs", "stat", "/s3/top.bin")[0]["mtime_ns"]
    assert (tmp_path / "top.bin").stat().st_mtime_ns == mtime_ns
    done = node.cli("fs", "download", "/s3/top.bin", str(tmp_path))
    assert (done.returncode, "add -f" in done.stderr) == (4, True)
    ok(node.cli("fs", "download", "-f", "/s3/top.bin", str(tmp_path)))
    assert node.cli("fs", "download", "/s3/docs", str(tmp_path)).returncode == 2, "needs -r"
    done = node.cli("fs", "download", "/s3/none", str(tmp_path / "none"))
    assert done.returncode == 3
    assert not (tmp_path / "none").exists()
    assert node.cli("fs", "download", "/s3/top.bin", str(tmp_path / "no/dir/file")).returncode == 3


def test_a_download_goes_on_after_a_file_that_fails_and_says_so(node, tmp_path):
    (tmp_path / "docs" / "readme.txt").mkdir(parents=True)
    done = node.cli("fs", "download", "-r", "-f", "/s3/docs", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("failed: /s3/docs/readme.txt: ")
    assert done.stdout.endswith("; 1 failed\n")
    assert (tmp_path / "docs" / "deep" / "two words.txt").read_bytes() == b"two words"
    assert [p.name for p in tmp_path.rglob(".monofs-*")] == []
    again = node.cli("fs", "download", "-r", "/s3/docs", str(tmp_path))
    assert (again.returncode, "exist already" in again.stdout) == (4, True)
    assert node.cli("fs", "download", "-r", "-n", "/s3/docs/deep", str(tmp_path / "docs")).returncode == 0


def test_failures_have_their_exit_code_and_one_clear_line(node):
    cases = [
        (3, ("fs", "cat", "/s3/none"), "/s3/none: no such file"),
        (3, ("fs", "ls", "/none"), "/none"),
        (2, ("fs", "cat", "/s3/docs"), "is a directory"),
        (2, ("fs", "cat", "/s3/top.bin/x"), "top.bin"),
        (2, ("fs", "cat", "relative"), "must start with '/'"),
        (2, ("fs", "cat", "/s3/../x"), ".."),
        (2, ("fs", "stat", "/" + "x" * 300), "255"),
        (2, ("fs", "cat"), "Missing argument"),
        (2, ("fs", "dance"), "dance"),
        (2, ("fs", "head", "-c", "lots", "/s3/top.bin"), "'lots' is not a size"),
        (2, ("fs", "free", "/s3/docs"), "-R"),
        (2, ("fs", "find", "/s3", "--newer", "soon"), "'soon' is not a duration"),
        (3, ("fs", "load", "/s3/none"), "/s3/none"),
        (3, ("fs", "pin", "/s3/none"), "/s3/none"),
        (3, ("fs", "free", "/s3/none"), "/s3/none"),
        (2, ("--masters", "nonsense", "fs", "ls"), "nonsense"),
    ]
    for code, words, said in cases:
        done = node.cli(*words)
        assert done.returncode == code, (words, done.returncode, done.stderr)
        assert said in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_without_a_master_the_way_out_is_told_once(node):
    done = node.cli("--masters", "127.0.0.1:1", "--timeout", "2s", "fs", "ls")
    assert done.returncode == 6
    assert done.stderr.count("monofs serve") == 1, done.stderr


# ---- as part of a pipeline, and interrupted ------------------------------------------------------------------------------


def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(node):
    for words in (("fs", "cat", "/s3/docs/deep/er/leaf.bin"), ("fs", "ls", "-R", "/"), ("fs", "tree", "/")):
        with start(node, *words) as running:
            if words[1] == "cat":
                assert running.stdout.read(10) == TREE["docs/deep/er/leaf.bin"][:10]
            running.stdout.close()
            errors = running.stderr.read()
            assert running.wait(30) in (0, 141), (words, errors)
            assert errors == b"", words


def test_ctrl_c_ends_a_long_cat_with_130(node):
    with start(node, "fs", "cat", *["/s3/docs/deep/er/leaf.bin"] * 50) as running:
        running.stdout.read(100)  # it is under way, and waits for us to take more
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
        assert running.returncode == 130, errors
        assert errors == b"monofs: interrupted\n"


def test_ctrl_c_ends_the_watching_of_a_load_and_the_load_goes_on(node, ceph):
    node.bucket.put_all({f"many/{n:03d}": os.urandom(8 << 10) for n in range(2000)})
    ok(node.cli("fs", "ls", "-f", "/s3"))
    gets = ceph.gets(node.bucket.name)
    with start(node, "fs", "load", "/s3/many") as running:
        wait_until(lambda: ceph.gets(node.bucket.name) > gets or running.poll() is not None, "the load to begin")
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
        assert running.returncode == 130, errors
        assert re.fullmatch(
            rb"job \d+ goes on: `monofs job wait \d+` shows .* ends it\nmonofs: interrupted\n", errors
        ), errors
    assert out(node, "fs", "load", "--progress", "/s3/many").startswith("loaded 2000 files")
    assert ceph.gets(node.bucket.name) - gets == 2000


# ---- the cache ------------------------------------------------------------------------------------------------------------


def cached_bytes(node, path):
    return sum(group["bytes"] for group in rows(node, "fs", "why", path)[0]["cached"])


def test_load_tells_what_it_fetched_and_what_was_there(node):
    size = 3 * MIB + 7
    ok(node.cli("fs", "free", "-R", "/s3"))
    assert out(node, "fs", "load", "/s3/docs/deep/er/leaf.bin") == ("loaded 1 files, 3.0 MiB, 3.0 MiB fetched\n")
    (row,) = rows(node, "fs", "load", "/s3/docs")
    docs = sum(len(body) for name, body in TREE.items() if name.startswith("docs/"))
    assert (row["done"], row["bytes_done"], row["counts"]["fetched_bytes"]) == (6, docs, docs - size)
    assert (row["state"], row["failed"], row["failures"]) == ("done", 0, [])
    assert cached_bytes(node, "/s3/docs/deep/er/leaf.bin") == size


def test_load_shows_a_bar_on_a_terminal_and_nothing_elsewhere(node):
    ok(node.cli("fs", "free", "-R", "/s3/docs"))
    assert node.cli("fs", "load", "/s3/docs").stderr == ""
    ok(node.cli("fs", "free", "-R", "/s3/docs"))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "monofs", "--masters", node.doors["rpc"], "fs", "load", "/s3/docs"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    shown = bytearray()

    def watch():
        try:
            while block := os.read(ours, 1 << 16):
                shown.extend(block)
        except OSError:
            pass  # EIO: the other side was closed

    watcher = threading.Thread(target=watch)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as running:
        os.close(theirs)
        watcher.start()
        printed = running.stdout.read()
        assert running.wait(30) == 0
    watcher.join()
    os.close(ours)
    assert printed.startswith(b"loaded 6 files"), "results stay on standard output"
    assert "load" in shown.decode()
    assert "━" in shown.decode()
    assert "6 of 6" in shown.decode()


def test_free_drops_pages_and_pins_hold_them(node):
    path = "/s3/docs/readme.txt"
    assert out(node, "fs", "pin", "--load", path).startswith(f"pinned {path}\nloaded 1 files")
    (row,) = rows(node, "fs", "free", path)
    assert (row["files"], row["pinned"]) == (0, 1)
    assert "1 pinned kept (-f frees them)" in out(node, "fs", "free", "-R", "/s3/docs")
    assert cached_bytes(node, path) == len(LINES)
    assert rows(node, "fs", "stat", path)[0]["pinned"] is True
    assert out(node, "fs", "free", "-f", path) == "freed 1 files\n"
    assert cached_bytes(node, path) == 0
    assert out(node, "fs", "unpin", path) == f"unpinned {path}\n"
    ok(node.cli("fs", "load", path))
    assert out(node, "fs", "free", path) == "freed 1 files\n"
    assert node.bucket.keys().count("docs/readme.txt") == 1, "the store is not touched"


def test_why_tells_where_a_path_lives_and_what_is_cached(node):
    path = "/s3/docs/deep/er/leaf.bin"
    ok(node.cli("fs", "free", path))
    assert rows(node, "fs", "why", path)[0]["cached"] == []
    ok(node.cli("fs", "head", "-c", "1", path))
    (facts,) = rows(node, "fs", "why", path)
    assert (facts["mount"], facts["store"]) == ("/s3", f"{node.bucket.uri}/docs/deep/er/leaf.bin")
    assert facts["content"] == rows(node, "fs", "stat", path)[0]["content"]
    assert facts["age_s"] < facts["sync_interval_s"] == 60
    assert [(group["group"], group["pages"], group["bytes"]) for group in facts["cached"]] == [(0, 1, MIB)]
    plain = out(node, "fs", "why", path)
    assert f"store: {node.bucket.uri}/docs/deep/er/leaf.bin" in plain
    assert "pages 1, bytes 1048576" in plain
    assert "cache-only" in out(node, "fs", "why", "/")
    assert rows(node, "fs", "why", "/s3/none")[0]["exists"] is False


def test_cache_status_counts_what_readers_met(serve, make_bucket):
    node, bucket = serve(), make_bucket()
    bucket.put_all({f"small/{n:03d}": os.urandom(50_000) for n in range(60)})
    with node.connect() as fs:
        fs.mount_add("/s", bucket.uri, bucket.options)
        pieces = [(info.path, 0, None) for info in fs.list("/s/small")]
        fs.read_many(pieces)
        cold = rows(node, "cache", "status")[0]["counters"]
        fs.read_many(pieces)
        warm = rows(node, "cache", "status")[0]["counters"]
    hits, misses = "monofs_page_hits{mount=1}", "monofs_page_misses{mount=1}"
    store, cache = "monofs_served_bytes{source=store,way=unix}", "monofs_served_bytes{source=cache,way=unix}"
    assert (cold.get(hits, 0), cold[misses], cold[store], cold.get(cache, 0)) == (0, 60, 3_000_000, 0)
    assert (warm[hits], warm[misses], warm[store], warm[cache]) == (60, 60, 3_000_000, 3_000_000)
    shown = out(node, "cache", "status")
    assert "pages asked for: 60 cached, 60 missing, hit ratio 50.0%" in shown
    assert "served to readers: 2.9 MiB from the cache, 2.9 MiB that had to be fetched" in shown
    assert "fetched from stores: 2.9 MiB in 60 requests" in shown
    (tier,) = rows(node, "cache", "status")[0]["tiers"]
    assert (tier["used_bytes"], tier["groups"], tier["state"]) == (3_000_000, 60, "ok")


def test_a_load_cut_short_by_kill_9_is_continued_where_it_was(tmp_path, bucket, ceph):
    bodies = {f"f/{n:03d}": os.urandom(16 << 10) for n in range(1500)}
    bucket.put_all(bodies)
    with ServedNode(str(tmp_path / "home"), sets=["worker.fetch_threads=1"]) as node:
        ok(node.cli("mount", "add", "/s", bucket.uri, *bucket.words()))
        with start(node, "--timeout", "2s", "fs", "load", "/s/f") as loading:
            wait_until(lambda: ceph.gets(bucket.name) >= 20, "the load to be under way")
            node.kill()
            _, errors = loading.communicate(timeout=60)
            assert loading.returncode == 6, errors
            assert re.search(rb"job \d+ goes on when the master is back", errors)
            assert b"Traceback" not in errors
        node.start()
        (row,) = rows(node, "fs", "load", "--progress", "/s/f")
        assert (row["state"], row["failed"], row["total"]) == ("done", 0, 1500)
        assert ceph.gets(bucket.name) < 3000, "most was not fetched twice"
        assert "clean" in out(node, "admin", "fsck", "--pages")
        with node.connect() as fs:
            assert fs.read_many([(f"/s/{name}", 0, None) for name in bodies]) == list(bodies.values())


# ---- administration -------------------------------------------------------------------------------------------------------


def test_the_report_is_made_for_people(node):
    ok(node.cli("fs", "cat", "/s3/top.bin"))
    text = out(node, "admin", "report")
    titles = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert titles[:5] == ["Cluster", "Mounts", "Workers", "Namespace", "Journal"]
    assert not re.search(r"[{}']", text), "no Python in it"
    assert re.search(rf"^  /s3 +{node.bucket.uri} +no +ok$", text, re.MULTILINE)
    assert re.search(r"^  size +64.0 MiB$", text, re.MULTILINE)
    assert re.search(r"^  up for +[\d.]+ (ms|s|min)", text, re.MULTILINE)
    sections = json.loads(out(node, "admin", "report", "--json"))
    assert sections["mounts"]["/s3"]["uri"] == node.bucket.uri


def test_conf_tells_settings_of_the_server_or_of_what_would_start(node, tmp_path):
    shown = out(node, "admin", "conf")
    assert re.search(r"^master.port +\d+ +command line$", shown, re.MULTILINE)
    assert "settings have their default" in shown
    assert "journal.segment_bytes" in out(node, "admin", "conf", "--all")
    file = tmp_path / "m.toml"
    file.write_text("[worker]\nfetch_threads = 3\n")
    assert re.search(r"^worker.fetch_threads +3 +", out(node, "admin", "conf", "--config", str(file)), re.MULTILINE)
    assert re.search(
        r"^log.level +debug +command line$", out(node, "admin", "conf", "--set", "log.level=debug"), re.MULTILINE
    )


def test_fsck_checks_running_and_stopped_nodes_alike(tmp_path, bucket):
    bucket.put("a", b"a" * 100_000)
    home = str(tmp_path / "home")
    with ServedNode(home) as node:
        ok(node.cli("mount", "add", "/s", bucket.uri, *bucket.words()))
        ok(node.cli("fs", "load", "/s"))
        running = json.loads(out(node, "admin", "fsck", "--pages", "--json"))
        assert running["broken"] == 0
        assert any("1 pages" in name for name in running["checks"])
        in_use = node.cli("admin", "fsck", "--home", home)
        assert (in_use.returncode, "in use" in in_use.stderr) == (4, True)
        node.stop()
        stopped = json.loads(out(node, "admin", "fsck", "--home", home, "--pages", "--json"))
        assert stopped["broken"] == 0
        assert len(stopped["checks"]) > len(running["checks"])
        (page,) = (
            path for path in Path(home, "worker/pages").rglob("*") if path.is_file() and path.stat().st_size > 4096
        )
        with open(page, "r+b") as file:
            file.seek(page.stat().st_size - 10)
            file.write(b"#")
        bad = node.cli("admin", "fsck", "--home", home, "--pages")
        assert bad.returncode == 1, bad.stdout
        assert "BROKEN" in bad.stdout
        assert node.cli("admin", "fsck", "--home", str(tmp_path)).returncode == 1
