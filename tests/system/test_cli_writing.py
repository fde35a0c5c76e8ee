"""Every command that changes things, as its users type it, on a directory, on a bucket of a real S3 server, and under no mount."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from write_world import Directory, Prefix, converged, disagreements, until

from monofs.cli.main import main

pytestmark = pytest.mark.ceph

MIB = 1 << 20


class At:
    """A fresh mount, the place in the store behind it, and the commands on it."""

    def __init__(self, node, path, place):
        self.node, self.path, self.place = node, path, place

    def __truediv__(self, name):
        return f"{self.path}/{name}"


@pytest.fixture(scope="module")
def node(serve):
    return serve("namespace.sync_interval_s=-1", "master.busy_wait_s=2")


@pytest.fixture(scope="module")
def buckets(make_bucket):
    return make_bucket()


@pytest.fixture(params=["local", "s3"])
def at(request, node, tmp_path, buckets):
    """A fresh mount of each kind of store."""
    at.count = getattr(at, "count", 0) + 1
    if request.param == "local":
        place = Directory(str(tmp_path / "store"))
    else:
        place = Prefix(buckets, f"p{at.count}")
    words = [word for name, value in place.options.items() for word in ("--option", f"{name}={value}")]
    path = f"/{request.param}{at.count}"
    ok(node, "mount", "add", path, place.uri, *words)
    yield At(node, path, place)
    with node.connect() as fs:
        converged(fs)
        assert disagreements(fs, path, place) == []
    ok(node, "mount", "rm", "--discard", path)


@pytest.fixture
def local(tmp_path):
    """Local files to put: a tree with an empty file, an empty directory, and one of several parts."""
    top = tmp_path / "local"
    for name, data in {"a.txt": b"one", "deep/er/b.bin": os.urandom(20 * MIB + 3), "deep/empty": b""}.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    (top / "hollow").mkdir()
    return top


class Done:
    """What a command left: its exit code and the bytes it printed."""

    def __init__(self, result):
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.returncode, self.stdout, self.stderr = result.exit_code, result.stdout_bytes, result.stderr_bytes


def run(node, *words, data=b""):
    """One command, in this process: starting an interpreter for each of three hundred takes longer than all they do."""
    return Done(CliRunner().invoke(main, ["--masters", node.doors["rpc"], *map(str, words)], input=data))


def ok(node, *words, data=b""):
    done = run(node, *words, data=data)
    assert done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout.decode()


def rows(node, *words):
    return [json.loads(line) for line in ok(node, *words, "--json").splitlines()]


def cat(node, path):
    return run(node, "fs", "cat", path).stdout


# ---- put ----------------------------------------------------------------------------------------------------------------


def test_a_tree_that_was_put_is_in_the_store_and_reads_back(at, local, tmp_path):
    told = ok(at.node, "fs", "put", "-r", local, at / "up")
    assert told == f"{at / 'up'}: 3 files, 20.0 MiB\n", "directories are no files"
    down = tmp_path / "down"
    assert ok(at.node, "fs", "download", "-r", at / "up", down) == f"{down}: 3 files, 20.0 MiB\n"
    assert (down / "hollow").is_dir()
    there = at.place.files()
    assert {name: len(data) for name, data in there.items()} == {
        "up/a.txt": 3,
        "up/deep/er/b.bin": 20 * MIB + 3,
        "up/deep/empty": 0,
    }
    assert there["up/deep/er/b.bin"] == (local / "deep/er/b.bin").read_bytes()
    assert cat(at.node, at / "up/deep/er/b.bin") == there["up/deep/er/b.bin"]
    assert "up/hollow" in at.place.directories()
    assert ok(at.node, "fs", "ls", at / "up") == "a.txt\ndeep/\nhollow/\n"


def test_what_was_put_is_warm(at, local):
    ok(at.node, "fs", "put", local / "deep/er/b.bin", at / "b")
    pages = [group["pages"] for group in json.loads(ok(at.node, "fs", "why", at / "b", "--json"))["cached"]]
    assert sum(pages) == 21


def test_a_directory_receives_files_under_their_own_names(at, local):
    ok(at.node, "fs", "mkdir", at / "d")
    ok(at.node, "fs", "put", local / "a.txt", at / "d")
    ok(at.node, "fs", "upload", local / "a.txt", at / "new/")
    ok(at.node, "fs", "copyFromLocal", "-f", local / "a.txt", local / "deep/empty", f"{at / 'd'}/")
    assert sorted(at.place.files()) == ["d/a.txt", "d/empty", "new/a.txt"]
    many = run(at.node, "fs", "put", local / "a.txt", local / "deep/empty", at / "nowhere")
    assert many.returncode == 2
    assert b"is no directory" in many.stderr


def test_what_exists_is_replaced_only_when_asked(at, local):
    at.place.put("x", b"theirs")
    refused = run(at.node, "fs", "put", local / "a.txt", at / "x")
    assert refused.returncode == 4
    assert b"-f replaces it" in refused.stderr
    assert ok(at.node, "fs", "put", "-n", local / "a.txt", at / "x") == ""
    assert at.place.files()["x"] == b"theirs"
    ok(at.node, "fs", "put", "-f", local / "a.txt", at / "x")
    assert at.place.files()["x"] == b"one" == cat(at.node, at / "x")


def test_putting_a_tree_again_names_how_many_were_left(at, local):
    ok(at.node, "fs", "put", "-r", local, at / "up")
    again = run(at.node, "fs", "put", "-rT", local, at / "up", "-n", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["skipped"] == 3
    inside = run(at.node, "fs", "put", "-r", local, f"{at.path}/", "--json")
    assert json.loads(inside.stdout)["path"] == at / "local"
    refused = run(at.node, "fs", "put", "-r", local, f"{at.path}/")
    assert refused.returncode == 4
    assert b"-f replaces files that exist" in refused.stderr


def test_standard_input_is_one_file(at):
    ok(at.node, "fs", "put", "-", at / "in", data=b"from a pipe")
    assert at.place.files()["in"] == b"from a pipe"
    assert run(at.node, "fs", "put", "-", at / "in", data=b"again").returncode == 4
    ok(at.node, "fs", "put", "-n", "-", at / "in", data=b"again")
    ok(at.node, "fs", "put", "-f", "-", at / "in", data=b"x" * (9 * MIB))
    assert len(at.place.files()["in"]) == 9 * MIB


def test_a_local_directory_without_r_and_a_missing_local_file_are_errors(at, local):
    refused = run(at.node, "fs", "put", local, at / "up")
    assert refused.returncode == 2
    assert b"add -r" in refused.stderr
    missing = run(at.node, "fs", "put", local / "none", local / "a.txt", f"{at.path}/")
    assert missing.returncode == 3
    assert b"none: No such file or directory" in missing.stderr
    assert at.place.files() == {"a.txt": b"one"}, "the others are put all the same"


def test_write_types_say_where_the_bytes_are(at, local):
    ok(at.node, "fs", "put", "--write-type", "MUST_CACHE", local / "a.txt", at / "kept")
    ok(at.node, "fs", "put", "--write-type", "through", local / "a.txt", at / "cold")
    ok(at.node, "fs", "put", local / "a.txt", at / "both")
    assert sorted(at.place.files()) == ["both", "cold"]
    assert cat(at.node, at / "kept") == b"one"
    kept, cold, both = (rows(at.node, "fs", "stat", at / name)[0] for name in ("kept", "cold", "both"))
    assert [each["persistence"] for each in (kept, cold, both)] == ["cache-only", "persisted", "persisted"]
    cached = {
        name: json.loads(ok(at.node, "fs", "why", at / name, "--json"))["cached"] for name in ("kept", "cold", "both")
    }
    assert [bool(cached[name]) for name in ("kept", "cold", "both")] == [True, False, True]
    marks = {line.split()[-1]: line[10:12] for line in ok(at.node, "fs", "ls", "-l", at.path).splitlines()}
    assert marks == {"kept": " c", "cold": "  ", "both": "  "}
    refused = run(at.node, "fs", "rm", "--cache-only", at / "kept")
    assert refused.returncode == 2
    assert b"in the cache only" in refused.stderr
    unmounting = run(at.node, "mount", "rm", at.path)
    assert unmounting.returncode == 4
    assert (
        f"1 file below {at.path} is in no store (MUST_CACHE) and would be lost: {at / 'kept'}".encode()
        in unmounting.stderr
    )
    ok(at.node, "fs", "rm", at / "kept")


def test_what_no_store_has_is_lost_with_its_mount_only_when_told_to(node, local, tmp_path):
    place = Directory(str(tmp_path / "store"))
    ok(node, "mount", "add", "/given-up", place.uri)
    ok(node, "fs", "put", "--write-type", "MUST_CACHE", local / "a.txt", "/given-up/d/kept")
    done = run(node, "mount", "rm", "--discard", "/given-up")
    assert (done.returncode, done.stderr) == (0, b"lost: /given-up/d/kept\n")
    assert run(node, "fs", "ls", "/given-up").returncode == 3


# ---- mkdir, touch, rm -----------------------------------------------------------------------------------------------------


def test_directories_are_made_as_mkdir_makes_them(at):
    assert run(at.node, "fs", "mkdir", at / "a/b").returncode == 3
    ok(at.node, "fs", "mkdir", "-p", at / "a/b")
    ok(at.node, "fs", "mkdir", "-p", at / "a/b")
    assert run(at.node, "fs", "mkdir", at / "a/b").returncode == 4
    assert "a/b" in at.place.directories()
    both = run(at.node, "fs", "mkdir", at / "a/b", at / "c")
    assert both.returncode == 4
    assert "c" in at.place.directories(), "the others are made all the same"


def test_touch_makes_empty_files_and_keeps_others(at, local):
    at.place.put("old", b"bytes")
    done = run(at.node, "fs", "touch", at / "old", at / "new")
    assert done.returncode == 1
    assert b"its time is that of its store" in done.stderr
    assert at.place.files() == {"new": b"", "old": b"bytes"}, "the others are made all the same"
    ok(at.node, "fs", "put", local / "a.txt", "/touched")
    before = rows(at.node, "fs", "stat", "/touched")[0]
    ok(at.node, "fs", "touch", "/touched")
    after = rows(at.node, "fs", "stat", "/touched")[0]
    assert after["mtime_ns"] > before["mtime_ns"]
    assert cat(at.node, "/touched") == b"one"
    ok(at.node, "fs", "rm", "/touched")


def test_rm_refuses_directories_without_r_and_takes_the_others(at):
    for name in ("d/x", "d/y", "f"):
        at.place.put(name, b"1")
    refused = run(at.node, "fs", "rm", at / "d", at / "f")
    assert refused.returncode == 2
    assert b"add -r" in refused.stderr
    assert sorted(at.place.files()) == ["d/x", "d/y"]
    assert run(at.node, "fs", "rm", at / "none").returncode == 3
    ok(at.node, "fs", "rm", "-f", at / "none")
    ok(at.node, "fs", "mkdir", at / "e")
    assert run(at.node, "fs", "rm", "-d", at / "d").returncode == 4
    ok(at.node, "fs", "rm", "-d", at / "e")
    assert "e" not in at.place.directories()


def test_rm_r_is_done_in_the_tree_at_once_and_with_wait_in_the_store_too(at):
    for number in range(50):
        at.place.put(f"d/{number % 5}/{number}", b"1")
    ok(at.node, "fs", "sync", "-R", at.path)
    told = ok(at.node, "fs", "rm", "-r", at / "d/0")
    assert run(at.node, "fs", "test", "-e", at / "d/0").returncode == 1
    number = re.search(r"job (\d+) deletes its objects in the store", told)
    if number:
        ok(at.node, "job", "wait", number.group(1))
    assert not any(name.startswith("d/0/") for name in at.place.files())
    ok(at.node, "fs", "rm", "-r", "--wait", at / "d")
    assert at.place.files() == {}
    ok(at.node, "fs", "put", "-", at / "d/1/again", data=b"new")
    assert at.place.files() == {"d/1/again": b"new"}


def test_rm_cache_only_leaves_the_store_alone(at, local):
    ok(at.node, "fs", "put", local / "a.txt", at / "x")
    at.place.put("x", b"two")
    assert "1 files dropped" in ok(at.node, "fs", "rm", "--cache-only", at / "x")
    assert cat(at.node, at / "x") == b"two"


# ---- cp, mv ---------------------------------------------------------------------------------------------------------------


def test_cp_copies_files_and_trees_as_cp_does(at, local):
    ok(at.node, "fs", "put", "-r", local, at / "up")
    ok(at.node, "fs", "cp", at / "up/a.txt", at / "copy")
    assert run(at.node, "fs", "cp", at / "up", at / "tree").returncode == 2
    ok(at.node, "fs", "cp", "-r", at / "up", at / "tree")
    ok(at.node, "fs", "cp", "-r", at / "up/deep", at / "tree")
    there = at.place.files()
    assert there["copy"] == b"one"
    assert there["tree/deep/er/b.bin"] == there["up/deep/er/b.bin"]
    assert "tree/hollow" in at.place.directories()
    ok(at.node, "fs", "put", "-f", "-", at / "copy", data=b"two")
    ok(at.node, "fs", "cp", "-n", at / "up/a.txt", at / "copy")
    assert at.place.files()["copy"] == b"two"
    ok(at.node, "fs", "cp", at / "up/a.txt", at / "copy")
    assert at.place.files()["copy"] == b"one"
    assert run(at.node, "fs", "cp", "-r", at / "up", at / "up/in").returncode == 2


def test_mv_renames_files_and_directories(at, local):
    ok(at.node, "fs", "put", "-r", local, at / "tmp")
    told = ok(at.node, "fs", "mv", at / "tmp", at / "final")
    assert ok(at.node, "fs", "ls", at / "final") == "a.txt\ndeep/\nhollow/\n"
    assert cat(at.node, at / "final/deep/er/b.bin") == (local / "deep/er/b.bin").read_bytes()
    number = re.search(r"job (\d+) moves its objects in the store", told)
    if number:
        ok(at.node, "job", "wait", number.group(1))
    assert sorted(at.place.files()) == ["final/a.txt", "final/deep/empty", "final/deep/er/b.bin"]
    ok(at.node, "fs", "mv", "--wait", at / "final/deep", at / "final/hollow")
    ok(at.node, "fs", "mv", at / "final/a.txt", at / "b.txt")
    assert sorted(at.place.files()) == ["b.txt", "final/hollow/deep/empty", "final/hollow/deep/er/b.bin"]
    ok(at.node, "fs", "put", "-", at / "c.txt", data=b"other")
    ok(at.node, "fs", "mv", "-n", at / "c.txt", at / "b.txt")
    assert at.place.files()["b.txt"] == b"one"
    ok(at.node, "fs", "mv", at / "c.txt", at / "b.txt")
    assert at.place.files()["b.txt"] == b"other"


def test_a_file_put_where_a_directory_was_renamed_from_stays_there(at):
    for number in range(20):
        at.place.put(f"d/{number}", b"old")
    ok(at.node, "fs", "ls", at / "d")
    with at.node.connect() as fs:
        number = fs.rename(at / "d", at / "moved")
        if number:  # at once, before its objects have followed
            assert fs.steer_job(number, "pause").state == "paused"
    ok(at.node, "fs", "put", "-", at / "d/new", data=b"new")
    ok(at.node, "fs", "put", "-", at / "d/3", data=b"another")
    if number:
        where = rows(at.node, "fs", "stat", at / "moved/5")[0]
        assert where["store"].endswith("/d/5")
        assert where["moves_to"].endswith("/moved/5")
        assert where["job"]["number"] == number
        busy = run(at.node, "fs", "rm", "-r", at / "moved")
        assert busy.returncode == 9
        assert f"job {number} moves".encode() in busy.stderr
        stopped = run(at.node, "job", "stop", number)
        assert stopped.returncode == 1
        assert b"only paused" in stopped.stderr
        ok(at.node, "job", "resume", number)
        ok(at.node, "job", "wait", number)
    expected = {f"moved/{number}": b"old" for number in range(20)} | {"d/new": b"new", "d/3": b"another"}
    assert at.place.files() == expected
    assert ok(at.node, "fs", "ls", at / "d") == "3\nnew\n"


def test_mv_between_stores_says_that_it_copies_and_leaves_nothing_behind(at, local):
    ok(at.node, "fs", "put", "-r", local, "/plain/tree")
    done = run(at.node, "fs", "mv", "/plain/tree", at / "tree")
    assert done.returncode == 0, done.stderr
    assert b"lie on different stores: copying, comparing, then deleting the old ones" in done.stderr
    assert run(at.node, "fs", "test", "-e", "/plain/tree").returncode == 1
    assert at.place.files()["tree/deep/er/b.bin"] == (local / "deep/er/b.bin").read_bytes()
    assert "tree/hollow" in at.place.directories()
    ok(at.node, "fs", "mv", at / "tree/a.txt", "/plain/")
    assert cat(at.node, "/plain/a.txt") == b"one"
    assert "tree/a.txt" not in at.place.files()
    ok(at.node, "fs", "rm", "-r", "/plain")


# ---- tree and store -------------------------------------------------------------------------------------------------------


def test_sync_takes_over_what_others_did(at):
    at.place.put("d/one", b"1")
    assert ok(at.node, "fs", "sync", at.path) == ""
    assert ok(at.node, "fs", "ls", at.path) == "d/\n"
    ok(at.node, "fs", "ls", "-R", at.path)
    at.place.put("d/two", b"2")
    at.place.delete("d/one")
    told = ok(at.node, "fs", "sync", "-R", at.path)
    assert re.fullmatch(r"compared \d+ names(, \d+ (directories|changed)){2}\n", told)
    assert ok(at.node, "fs", "ls", at / "d") == "two\n"
    begun = rows(at.node, "fs", "sync", "-R", "--detach", at.path)[0]
    assert (begun["kind"], begun["path"]) == ("sync", at.path)
    ok(at.node, "job", "wait", begun["number"])


def test_needs_sync_makes_the_next_look_ask_the_store(at):
    at.place.put("x", b"1")
    assert cat(at.node, at / "x") == b"1"
    at.place.put("x", b"22")
    assert cat(at.node, at / "x") == b"1"
    ok(at.node, "fs", "needs-sync", at.path)
    assert cat(at.node, at / "x") == b"22"


def test_check_consistency_lists_differences_and_repairs_them(at, local):
    ok(at.node, "fs", "put", "-r", local, at / "up")
    ok(at.node, "fs", "put", "--write-type", "MUST_CACHE", local / "a.txt", at / "up/kept")
    assert ok(at.node, "fs", "check-consistency", "-r", "--checksum", at.path).endswith(": 0 differences\n")
    at.place.put("up/a.txt", b"changed")
    at.place.put("up/more", b"more")
    at.place.delete("up/deep/empty")
    found = run(at.node, "fs", "check-consistency", "-r", "--json", at.path)
    assert found.returncode == 1
    names = {json.loads(line)["path"] for line in found.stdout.splitlines()}
    assert names == {at / "up/a.txt", at / "up/more", at / "up/deep/empty"}
    repaired = ok(at.node, "fs", "check-consistency", "-r", "--repair", at.path)
    assert repaired.endswith("3 differences, 3 repaired\n")
    assert cat(at.node, at / "up/a.txt") == b"changed"
    assert cat(at.node, at / "up/kept") == b"one"
    assert run(at.node, "fs", "test", "-e", at / "up/deep/empty").returncode == 1


def test_a_time_to_live_frees_or_deletes(at, local):
    for name in ("free", "gone", "stays"):
        ok(at.node, "fs", "put", local / "a.txt", at / name)
    told = ok(at.node, "fs", "set-ttl", "--action", "delete", "--dry-run", at / "gone", "1s")
    assert "DELETES, here and in the store" in told
    assert "now 1 files of 3 B" in told
    assert run(at.node, "fs", "set-ttl", "--action", "delete", at / "gone", "1s").returncode == 2
    ok(at.node, "fs", "set-ttl", at / "stays", "1h", "--action", "delete", "--yes")
    assert re.search(r"ttl +delete in (1 h|59 min)", ok(at.node, "fs", "stat", at / "stays"))
    ok(at.node, "fs", "unset-ttl", at / "stays")
    assert rows(at.node, "fs", "stat", at / "stays")[0]["ttl"] is None
    ok(at.node, "fs", "set-ttl", at / "free", "1s")
    ok(at.node, "fs", "set-ttl", at / "gone", "1s", "--action", "delete", "--yes")
    until(lambda: "gone" not in (at.place.keys() if at.place.flat else at.place.files()), "the file to be deleted")
    with at.node.connect() as fs:
        until(lambda: not fs.cached([at / "free"])[at / "free"], "the pages to be freed")
    assert sorted(at.place.files()) == ["free", "stays"]


# ---- jobs and policies ----------------------------------------------------------------------------------------------------


def test_loading_and_freeing_are_jobs_that_can_be_followed_and_left(at):
    for number in range(20):
        at.place.put(f"d/{number}", b"x" * 1000)
    assert ok(at.node, "cache", "load", at / "d").startswith("loaded 20 files, 19.5 KiB")
    ended = rows(at.node, "cache", "free", "-R", at / "d")[0]
    assert (ended["kind"], ended["state"], ended["done"]) == ("free", "done", 20)
    gone = json.loads(ok(at.node, "fs", "why", at / "d/7", "--json"))
    assert gone["cached"] == []
    assert [each["why"] for each in gone["left_the_cache"]] == ["freed by command or time to live"]
    assert "left the cache, so that the next read misses" in ok(at.node, "fs", "why", at / "d/7")
    begun = rows(at.node, "cache", "load", "--detach", at / "d")[0]
    assert begun["kind"] == "load"
    waited = rows(at.node, "job", "wait", begun["number"])[0]
    assert (waited["state"], waited["done"], waited["failed"]) == ("done", 20, 0)
    assert any(job["number"] == begun["number"] for job in rows(at.node, "job", "ls"))
    shown = ok(at.node, "job", "show", begun["number"])
    assert f"{begun['number']}: load {at / 'd'}" in shown
    assert "20 of 20 files" in shown
    assert run(at.node, "job", "show", 10**6).returncode == 3
    with at.node.connect() as fs:
        assert all(fs.cached([at / f"d/{n}"])[at / f"d/{n}"] for n in range(20))


def test_a_policy_is_set_changed_and_removed(at, local):
    told = ok(at.node, "policy", "add", at.path, "--sync", "never", "--write-type", "THROUGH", "--quota", "1GiB")
    assert told == f"{at.path}: sync never write-type THROUGH quota 1.0 GiB\n"
    told = ok(at.node, "policy", "add", at.path, "--quota", "none", "--priority", "low", "--ttl", "1d12h")
    assert told == f"{at.path}: sync never write-type THROUGH priority LOW ttl 1 d 12 h\n"
    mine = next(row for row in rows(at.node, "policy", "ls") if row["path"] == at.path)
    assert (mine["sync_interval_s"], mine["quota_bytes"], mine["ttl_s"]) == (-1, None, 129600)
    ok(at.node, "fs", "put", local / "a.txt", at / "x")
    assert json.loads(ok(at.node, "fs", "why", at / "x", "--json"))["cached"] == []
    ok(at.node, "policy", "rm", at.path)
    assert not any(row["path"] == at.path for row in rows(at.node, "policy", "ls"))
    assert run(at.node, "policy", "rm", at.path).returncode == 3


def test_mount_points_and_the_root_are_refused_as_what_they_are_not_as_busy(at):
    for words in (["rm", "-r", at.path], ["rm", "-r", "/"], ["rm", "-d", at.path], ["mv", at.path, "/elsewhere"]):
        refused = run(at.node, "fs", *words)
        assert refused.returncode == 4, (words, refused.stderr)
        assert b"a mount point or the root" in refused.stderr


def test_mounts_that_may_not_be_changed_refuse_before_anything_happens(at, local):
    at.place.put("x", b"1")
    for mode in ("readOnly", "noAccess"):
        ok(at.node, "mount", "update", at.path, "--ufs-mode", mode)
        assert mode in ok(at.node, "mount", "ls")
        for words in (
            ["put", local / "a.txt", at / "y"],
            ["rm", at / "x"],
            ["mkdir", at / "d"],
            ["mv", at / "x", at / "y"],
        ):
            refused = run(at.node, "fs", *words)
            assert refused.returncode == 5, (words, refused.stderr)
    ok(at.node, "mount", "update", at.path, "--ufs-mode", "readWrite", "--readonly")
    assert run(at.node, "fs", "touch", at / "y").returncode == 5
    ok(at.node, "mount", "update", at.path, "--writable")
    assert at.place.files() == {"x": b"1"}


def test_ctrl_c_ends_the_watching_and_not_the_job(node, tmp_path):
    place = Directory(str(tmp_path / "many"))
    for number in range(3000):
        place.put(f"{number % 30}/{number}", b"x" * 2000)
    ok(node, "mount", "add", "/many", place.uri)
    command = [sys.executable, "-m", "monofs", "--masters", node.doors["rpc"], "cache", "load", "/many"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with node.connect() as fs:
        until(lambda: any(job.path == "/many" for job in fs.jobs()), "the job to begin")
        watching.send_signal(signal.SIGINT)
        _, told = watching.communicate(timeout=60)
        number = next(job.number for job in fs.jobs() if job.path == "/many")
        if watching.returncode == 130:
            followed = f"job {number} goes on: `monofs job wait {number}`".encode() in told
            assert followed or b"go on: `monofs job ls` shows them" in told
            assert not followed or f"`monofs job stop {number}` ends it".encode() in told
        else:
            assert watching.returncode == 0, told  # the job was quicker
        assert fs.wait_job(number).done == 3000
    ok(node, "mount", "rm", "/many")


def test_open_changes_are_listed_with_what_they_wait_for(node):
    assert ok(node, "admin", "intents", "--json") == ""
    with node.connect() as fs, fs.open("/plain/long", "wb") as file:
        file.write(b"x" * (9 * MIB))
        intent = rows(node, "admin", "intents")[0]
        assert (intent["kind"], intent["path"]) == ("write", "/plain/long")
        assert "/plain/long" in ok(node, "admin", "intents")
    assert ok(node, "admin", "intents", "--json") == ""
    ok(node, "fs", "rm", "-r", "/plain")
