"""What the commands that change things refuse before they ask anybody, and how they tell of jobs, policies and differences."""

import click
import pytest
from click.testing import CliRunner

from monofs.cli.job import summary, told
from monofs.cli.main import main
from monofs.cli.output import exit_code
from monofs.cli.policy import Layout, policy_words
from monofs.cli.syncing import show_difference
from monofs.model.errors import (
    Busy,
    MountPoint,
    QuotaExceeded,
    ReadOnly,
    UfsNoAccess,
    UfsNotEmpty,
    UfsOption,
    UfsUnknown,
    WouldLose,
)
from monofs.rpc.api import Difference, JobInfo, PolicyInfo


def run(*words):
    """A command that must not get as far as asking: nobody listens there."""
    return CliRunner().invoke(main, ["--masters", "127.0.0.1:1", *words])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fs", "put", "-f", "-n", "/etc/hostname", "/x"], "give -f or -n, not both"),
        (["fs", "put", "-", "/x/"], "standard input goes to one file"),
        (["fs", "put", "-", "/etc/hostname", "/x"], "standard input goes to one file"),
        (["fs", "put", "--write-type", "SOMETIMES", "/etc/hostname", "/x"], "CACHE_THROUGH"),
        (["fs", "sync", "--detach", "/x"], "--detach goes with -R"),
        (["fs", "set-ttl", "/x", "soon"], "is not a duration"),
        (["fs", "set-ttl", "--", "/x", "-5"], "a time from now"),
        (["fs", "set-ttl", "--action", "delete", "/x", "1d"], "add --yes"),
        (["policy", "add", "/x"], "give at least one of"),
        (["policy", "add", "/x", "--quota", "much"], "is not a size"),
        (["policy", "add", "/x", "--priority", "ASAP"], "HIGH"),
        (["job", "show", "0"], "NUMBER"),
    ],
)
def test_wrong_usage_is_told_before_anybody_is_asked(words, told):
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert told.lower() in " ".join(done.output.lower().split())


def job(**fields):
    plain = {
        "number": 7, "kind": "load", "state": "running", "path": "/lake", "target": "", "created_ns": 10**18, "changed_ns": 10**18,
        "ended_ns": 0, "user": "ann", "done": 3, "total": 12, "bytes_done": 3 << 20, "failed": 0, "failures": [], "error": "",
    }  # fmt: skip
    return JobInfo(**(plain | fields))


def test_a_job_is_told_with_its_speed_what_is_left_and_what_failed():
    each = job(rate=2.5, eta_s=90.0, failed=1, failures=[("/lake/a\nb", "denied")])
    facts = list(told(each))
    assert ("job", "7: load /lake") in facts
    assert ("done", "3 of 12 files, 3.0 MiB") in facts
    assert ("speed", "2.5 files a second") in facts
    assert ("left", "1 min 30 s") in facts
    assert facts[-1] == ("", "/lake/a\\nb: denied")


def test_a_job_that_has_ended_is_summed_up_in_one_line():
    assert summary(job(state="done", done=12)) == "loaded 12 files, 3.0 MiB"
    counts = {"directories": 2, "changed": 1}
    assert (
        summary(job(kind="sync", state="done", bytes_done=0, counts=counts))
        == "compared 3 names, 2 directories, 1 changed"
    )
    assert summary(job(state="done", counts={"fetched_bytes": 1 << 20})) == "loaded 3 files, 3.0 MiB, 1.0 MiB fetched"
    assert summary(job(kind="delete", state="done", done=0, bytes_done=0)) == "deleted /lake"
    ended = job(kind="delete", state="stopped", error="no room", bytes_done=0, failed=2)
    assert summary(ended) == "deleted 3 objects; 2 failed; stopped: no room"


def test_a_policy_is_told_in_the_words_it_was_given_in():
    given = PolicyInfo("/x", -1.0, "THROUGH", 1 << 30, "LOW", 86400, layout=255)
    words = ["sync never", "write-type THROUGH", "quota 1.0 GiB", "priority LOW", "ttl 1 d"]
    assert policy_words(given) == [*words, "layout whole"]
    assert policy_words(PolicyInfo("/x", layout=28, replicas=2)) == ["layout 256 MiB", "replicas 2"]
    assert policy_words(PolicyInfo("/x")) == []


def test_layouts_are_read_as_sizes_of_blocks():
    read = lambda text: Layout().convert(text, None, None)  # noqa: E731
    assert [read(text) for text in ("whole", "default", "64MiB", "1GiB", "0.25GiB")] == [255, 26, 26, 30, 28]
    for text in ("65MiB", "wide", "100000"):
        with pytest.raises(click.BadParameter):
            read(text)


def test_a_difference_is_one_line(capsys):
    show_difference(Difference("/x/a\tb", "other size", "3", "4"), as_json=False)
    assert capsys.readouterr().out == "/x/a\\tb: other size (here 3, store 4)\n"


def test_failures_of_changes_have_exit_codes_a_script_can_tell_apart():
    codes = [
        exit_code(error()) for error in (Busy, QuotaExceeded, UfsNotEmpty, UfsOption, UfsUnknown, MountPoint, WouldLose)
    ]
    assert codes == [9, 10, 4, 2, 7, 4, 4]
    assert exit_code(UfsNoAccess()) == exit_code(ReadOnly()) == 5
    assert [error.retry for error in (Busy, MountPoint, UfsNoAccess)] == [True, False, False]
