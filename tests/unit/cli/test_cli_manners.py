"""What the commands say to whoever mistypes, asks twice, or runs out of room."""

import json
import os
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from monofs.cli.dev import Trial
from monofs.cli.listing import _after_its_children
from monofs.cli.main import main
from monofs.cli.steering import residency, told
from monofs.model.errors import Unreachable

MONOFS = os.path.join(os.path.dirname(sys.executable), "monofs")
ANY_PORTS = [word for door in ("master", "worker", "console", "s3") for word in ("--set", f"{door}.port=0")]


def run(*words):
    return CliRunner().invoke(main, words)


def ask(node, *words):
    """A command of a running node, in this process: an interpreter for each takes longer than all they do."""
    return run("--masters", node.doors["rpc"], *words)


@pytest.fixture
def lake(node, tmp_path):
    files = tmp_path / "files"
    for name in ("b/c/one", "b-d/two", "top.csv"):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text("12345")
    with node.connect() as fs:
        fs.mount_add("/lake", f"file://{files}")
        yield files
        fs.mount_remove("/lake")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("ls", "`monofs fs ls`"),
        ("lss", "`monofs fs ls`"),
        ("mont", "`monofs mount`"),
        ("status", "`monofs cache status`"),
    ],
)
def test_a_command_that_does_not_exist_gets_a_suggestion_with_its_group(word, told):
    done = run(word)
    assert done.exit_code == 2
    assert f"No such command '{word}'. Did you mean {told}" in done.output


def test_a_word_like_no_command_gets_no_suggestion():
    assert run("xyzzy").output.strip().endswith("No such command 'xyzzy'.")


def test_version_is_a_flag_too():
    assert run("--version").output == run("version").output


@pytest.mark.parametrize("command", ["head", "tail"])
def test_bytes_and_lines_at_once_are_wrong_usage(command):
    done = run("fs", command, "-c", "5", "-n", "2", "/x")
    assert done.exit_code == 2
    assert "give -c or -n, not both" in done.output


def test_a_full_output_disk_has_the_exit_code_of_no_room():
    with open("/dev/full", "w") as full:
        done = subprocess.run([MONOFS, "version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 10
    assert "No space left on device" in done.stderr


def test_du_tells_directories_behind_what_they_hold():
    paths = ["/", "/a", "/a/b", "/a/b/c", "/a-b", "/z"]
    assert sorted(paths, key=_after_its_children) == ["/a/b/c", "/a/b", "/a", "/a-b", "/z", "/"]


def test_why_for_people_hides_what_says_nothing_and_explains_flags():
    facts = {"flags": ["persisted"], "store_error": "", "stale_served": False, "age_s": None, "size": 2048}
    assert dict(told(facts)) == {
        "flags": ["persisted (the store holds it)"],
        "last looked at": "not since the master started",
        "size": "2048 bytes (2.0 KiB)",
    }
    assert dict(told({"store_error": "refused", "stale_served": True, "sync_interval_s": 0.0})) == {
        "error of the store": "refused",
        "served although older": "yes",
        "may be as old as": "looked at each time",
    }


def test_a_worker_that_does_not_answer_is_lost_where_the_master_has_not_heard_it_either():
    facts = residency({"a:1": Unreachable("refused"), "b:1": Unreachable("away")}, {"a:1": 130.0})
    assert facts["cached"] == [
        {"worker": "a:1", "error": "refused", "silent_s": 130.0},
        {"worker": "b:1", "error": "away"},
    ]
    assert dict(told(facts))["cached"] == [
        "worker a:1 is lost: the master has not heard it for 2 min 10 s (refused)",
        {"worker": "b:1", "error": "away"},
    ]


def test_a_directory_is_summed_up_in_the_order_of_du(node, lake):
    lines = node.cli("fs", "du", "/lake").stdout.splitlines()
    assert [line.split("\t") for line in lines] == [
        ["5", "/lake/b/c"],
        ["5", "/lake/b"],
        ["5", "/lake/b-d"],
        ["15", "/lake"],
    ]


def test_a_pattern_where_a_path_belongs_is_pointed_to_find(node, lake):
    done = node.cli("fs", "ls", "/lake/*.csv")
    assert done.returncode == 3
    assert "monofs fs find" in done.stderr


def test_a_download_onto_a_file_that_exists_says_so_by_its_exit_code(node, lake, tmp_path):
    (tmp_path / "here").write_text("mine")
    done = node.cli("fs", "download", "/lake/top.csv", str(tmp_path / "here"))
    assert done.returncode == 4
    assert (tmp_path / "here").read_text() == "mine"
    assert node.cli("fs", "download", "-f", "/lake/top.csv", str(tmp_path / "here")).returncode == 0


def test_mounts_show_their_mode_and_an_update_what_it_changes(node, lake):
    assert node.cli("mount", "add", "/twice", f"file://{lake}", "--shared").returncode == 0
    try:
        rows = {line.split()[0]: line.split() for line in node.cli("mount", "ls").stdout.splitlines()}
        assert (rows["/lake"][3], rows["/twice"][3]) == ("rw", "rw,shared")
        assert (
            "sync interval: as the node says -> 5 min"
            in node.cli("mount", "update", "/twice", "--sync-interval", "5m").stdout
        )
        assert node.cli("mount", "update", "/twice", "--sync-interval", "5m").stdout == "nothing to change at /twice\n"
        assert "/twice" in node.cli("mount", "ls").stdout
    finally:
        node.cli("mount", "rm", "/twice")


def test_settings_that_have_their_default_are_left_out_of_json_too(node):
    few, every = (node.cli("admin", "conf", "--json", *more).stdout.splitlines() for more in ((), ("--all",)))
    assert 0 < len(few) < len(every)
    assert all('"source": "default"' not in line for line in few)


def test_a_port_in_use_is_told_with_the_setting_that_names_it(node, tmp_path):
    port = node.doors["rpc"].rpartition(":")[2]
    words = ["serve", "--home", str(tmp_path / "second"), *ANY_PORTS, "--set", f"master.port={port}"]
    done = subprocess.run([MONOFS, *words], capture_output=True, text=True, check=False, timeout=60)
    assert "Address already in use; see master.host and master.port" in done.stderr
    console = node.doors["console"].rpartition(":")[2]
    words = ["serve", "--home", str(tmp_path / "third"), "--set", "master.port=0", "--set", "worker.port=0"]
    words += ["--set", f"console.port={console}"]
    done = subprocess.run([MONOFS, *words], capture_output=True, text=True, check=False, timeout=60)
    assert f":{console}: Address already in use; see console.host and console.port" in done.stderr


# ---- what fingers type by themselves ------------------------------------------------------------------------------------


def test_ls_takes_the_flags_of_everyday(node, lake):
    os.utime(lake / "b-d/two", (1_000_000_000,) * 2)
    (lake / "small").write_text("1")
    os.utime(lake / "top.csv", (1_100_000_000,) * 2)
    assert ask(node, "fs", "ls", "--sync", "-1", "/lake").stdout.split() == ["b-d/", "b/", "small", "top.csv"]
    assert ask(node, "fs", "ls", "-la", "/lake").stdout == ask(node, "fs", "ls", "-l", "/lake").stdout
    assert [n for n in ask(node, "fs", "ls", "-S", "/lake").stdout.split() if n[-1] != "/"] == ["top.csv", "small"]
    files = [n for n in ask(node, "fs", "ls", "-t", "/lake").stdout.split() if n[-1] != "/"]
    assert files == ["small", "top.csv"]
    newest_last = [n for n in ask(node, "fs", "ls", "-tr", "/lake").stdout.split() if n[-1] != "/"]
    assert newest_last == files[::-1]


def test_find_takes_its_tests_with_one_dash_too(node, lake):
    assert ask(node, "fs", "find", "/lake", "-name", "*.csv", "-type", "f").stdout.split() == ["/lake/top.csv"]


@pytest.mark.parametrize(("command", "line"), [("head", "1"), ("tail", "5")])
def test_head_and_tail_take_a_number_of_lines_as_a_flag(node, lake, command, line):
    (lake / "lines").write_text("1\n2\n3\n4\n5\n")
    assert ask(node, "fs", "ls", "--sync", "/lake").exit_code == 0
    assert ask(node, "fs", command, "-1", "/lake/lines").stdout == f"{line}\n"


def test_count_takes_several_paths_and_sizes_for_people(node, lake):
    (lake / "kib").write_bytes(bytes(2048))
    assert ask(node, "fs", "ls", "--sync", "/lake").exit_code == 0
    lines = ask(node, "fs", "count", "-h", "/lake/kib", "/lake/b").stdout.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "1", "2.0", "KiB", "/lake/kib"],
        ["1", "1", "5", "B", "/lake/b"],
    ]


@pytest.mark.parametrize("words", [("help",), ("fs", "help"), ("help", "fs", "ls"), ("fs", "help", "ls")])
def test_help_is_a_command_too(words):
    done = run(*words)
    assert done.exit_code == 0
    assert done.output.startswith("Usage: ")
    assert ("Ask the store first" in done.output) == ("ls" in words)


@pytest.mark.parametrize("words", [(), ("fs",), ("mount",), ("token", "s3"), ("admin", "quorum")])
def test_a_list_of_commands_tells_each_sentence_to_its_end(words):
    listed = run(*words, "--help").output.partition("Commands:")[2]
    assert listed
    assert "..." not in listed


@pytest.mark.parametrize("command", ["ls", "cat", "stat", "checksum", "du", "count", "pin", "unpin", "needs-sync"])
def test_a_path_that_fails_does_not_keep_the_others_from_being_done(node, lake, command):
    """As with the Unix commands: who names three files wants the two that can be had."""
    done = ask(node, "fs", command, "/lake/top.csv", "/lake/missing", "/lake/b/c/one")
    alone = ask(node, "fs", command, "/lake/missing")
    assert done.exit_code == alone.exit_code
    assert alone.stderr in done.stderr
    if command == "cat":
        assert done.stdout == "12345" * 2
    elif command != "needs-sync":
        assert "/lake/b/c/one" in done.stdout


def test_listings_know_the_mount_and_the_pin_of_the_directory_they_list(node, lake):
    assert ask(node, "fs", "pin", "/lake/b").exit_code == 0
    mount = json.loads(ask(node, "fs", "stat", "--json", "/lake").stdout)["mount_id"]
    for words in (("ls", "--json", "-R"), ("find", "--json")):
        found = [json.loads(line) for line in ask(node, "fs", *words, "/lake").stdout.splitlines()]
        assert {each["path"]: (each["mount_id"], each["pinned"]) for each in found} == {
            "/lake/b": (mount, True),
            "/lake/b/c": (mount, True),
            "/lake/b/c/one": (mount, True),
            "/lake/b-d": (mount, False),
            "/lake/b-d/two": (mount, False),
            "/lake/top.csv": (mount, False),
        }
    (only,) = ask(node, "fs", "ls", "-l", "/lake/b/c").stdout.splitlines()
    assert only.split()[0] == "-rw-r--r--p"


@pytest.mark.parametrize("command", ["cat", "rm", "stat"])
def test_a_pattern_is_pointed_to_find_by_every_command(node, lake, command):
    done = ask(node, "fs", command, "/lake/*.csv")
    assert done.exit_code == 3
    assert "monofs fs find" in done.stderr


def test_a_ready_file_that_cannot_be_written_is_named(tmp_path):
    done = subprocess.run(
        [MONOFS, "serve", "--home", tmp_path / "home", "--ready-file", tmp_path / "none" / "ready", *ANY_PORTS]
        + [word for door in ("master", "worker", "console") for word in ("--set", f"{door}.port=0")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"{tmp_path}/none/ready" in done.stderr
    assert "No such file or directory" in done.stderr


def test_links_out_of_a_directory_are_put_when_asked(node, tmp_path):
    (tmp_path / "far").write_text("far")
    (tmp_path / "top").mkdir()
    (tmp_path / "top/link").symlink_to(tmp_path / "far")
    done = ask(node, "fs", "put", "-r", str(tmp_path / "top"), "/links")
    assert done.exit_code == 1
    assert "--follow-symlinks" in done.stderr
    assert ask(node, "fs", "put", "-R", "-L", str(tmp_path / "top"), "/links").exit_code == 0
    assert ask(node, "fs", "cat", "/links/link").stdout == "far"


def test_loads_are_watched_and_stopped_by_their_path(node, tmp_path):
    for flag, how in (("--stop", "open"), ("--progress", "remembered")):
        none = node.cli("fs", "load", flag, "/shut")
        assert (none.returncode, f"no load of /shut is {how}" in none.stderr) == (3, True)
    for words in (["--progress", "--stop"], ["--stop", "--detach"]):
        assert node.cli("cache", "load", *words, "/shut").returncode == 2
    assert node.cli("mount", "add", "/shut", f"file://{tmp_path}", "--ufs-mode", "noAccess").returncode == 0
    try:
        begun = json.loads(node.cli("fs", "load", "--detach", "--json", "/shut").stdout)
        command = [sys.executable, "-m", "monofs", "--masters", node.doors["rpc"], "fs", "load", "--progress", "/shut/"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            assert re.match(rf"job {begun['number']} waits: .*noAccess", watching.stderr.readline())
            stopped = node.cli("cache", "load", "--stop", "/shut")
            assert stopped.stdout == f"job {begun['number']}: stopped\n"
            done, _ = watching.communicate(timeout=60)
            assert (watching.returncode, "stopped" in done) == (1, True)
        assert "no load of /shut is open" in node.cli("fs", "load", "--stop", "/shut").stderr
        assert node.cli("fs", "load", "/shut/none").returncode == 5, "its store may not be asked"
    finally:
        node.cli("mount", "rm", "/shut")


@pytest.mark.parametrize("flags", [("--workers", "0"), ("--workers", "-5"), ("--interval", "0"), ("--seconds", "-1")])
def test_a_bench_of_nothing_is_wrong_usage(flags):
    done = run("bench", "cluster", *flags)
    assert done.exit_code == 2
    assert flags[0] in done.output


def test_a_trial_keeps_its_ports_and_its_workers_share_the_disk(tmp_path):
    def sets(trial, name):
        words = trial.commands[name]
        return dict(words[at + 1].split("=", 1) for at, word in enumerate(words) if word == "--set")

    first, again = Trial(str(tmp_path), 3, 2), Trial(str(tmp_path), 3, 4)
    assert again.masters == first.masters
    assert {name: again.consoles[name] for name in first.consoles} == first.consoles
    assert len(set(again.consoles.values())) == 7
    assert {sets(again, name)["console.port"] for name in again.commands} == {
        str(each) for each in again.consoles.values()
    }
    assert (sets(first, "w2")["worker.quota"], sets(again, "w2")["worker.quota"]) == ("40%", "20%")
    with pytest.raises(click.UsageError, match="another number of masters"):
        Trial(str(tmp_path), 1, 2)


def test_a_trial_whose_masters_are_down_says_so_in_few_words(tmp_path):
    assert Trial(str(tmp_path), 3, 0)._status(None) == (None, "no leader: no master answers | ")


def test_a_trial_of_an_earlier_release_starts_with_its_ports(tmp_path):
    (tmp_path / "ports").write_text("7001 7002 7003 7004 7005 7006\n")  # of journals, then of masters' doors
    trial = Trial(str(tmp_path), 3, 1)
    assert trial.masters == "127.0.0.1:7004,127.0.0.1:7005,127.0.0.1:7006"
    assert len(set(trial.consoles.values())) == 4
    again = Trial(str(tmp_path), 3, 1)
    assert (again.masters, again.consoles) == (trial.masters, trial.consoles)
