"""`monofs admin journal` shows what a journal holds, finds damage, changes nothing unless told to."""

import json
import os

import pytest
from click.testing import CliRunner

from monofs.cli.main import main
from monofs.config.schema import JournalConfig
from monofs.journal.face import Entry
from monofs.journal.log_files import LogFiles
from monofs.journal.raft.messages import EntryType, HardState, LogEntry, Membership, Persist, Position
from monofs.metadata.entry_kinds import EntryKind

GROUP = Membership((1, 2, 3), (), (4,), b"addresses")


def entry(index, term, kind=EntryKind.CREATE, size=5):
    return LogEntry(term, index, EntryType.NORMAL, Entry(kind, 1, bytes(size)), size + 25)


@pytest.fixture
def home(tmp_path):
    log = LogFiles(f"{tmp_path}/journal", JournalConfig(segment_bytes=64 << 10))
    log.open(Position(0, 0), GROUP, may_discard=False)
    log.persist(Persist(HardState(4, 2), None, [LogEntry(4, 1, EntryType.EMPTY, None, 25), entry(2, 4), entry(3, 4)]))
    log.persist(Persist(HardState(5, 0), 3, [LogEntry(5, 3, EntryType.MEMBERSHIP, GROUP, 90), entry(4, 5, 999)]))
    log.persist(Persist(None, None, [entry(5, 5, EntryKind.RENAME, 50_000)]))
    log.close()
    return str(tmp_path)


def admin(*words, fails=0):
    done = CliRunner().invoke(main, ["admin", "journal", *words])
    assert done.exit_code == fails, done.output
    return done.output


def image(home):
    files = {}
    for name in sorted(os.listdir(f"{home}/journal")):
        with open(f"{home}/journal/{name}", "rb") as file:
            files[name] = file.read()
    return files


def damage(home, name, offset):
    with open(f"{home}/journal/{name}", "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 8)


def test_dump_tells_every_segment_frame_and_entry(home):
    lines = admin("dump", home).splitlines()
    assert "entries from 1 on, begins the log; term 0, vote 0; voters 1 2 3; learners 4" in lines[0]
    assert lines[1] == "  at 4096: 4096 bytes, term 4, vote 2"
    assert lines[2].split() == ["1", "term", "4", "EMPTY", "0", "bytes"]
    assert lines[3].split() == ["2", "term", "4", "CREATE", "5", "bytes"]
    assert lines[5] == "  at 8192: 4096 bytes, entries 3 to 3 are discarded, term 5, vote 0"
    assert lines[6].split()[3] == "MEMBERSHIP"
    assert lines[7].split()[3] == "999"
    assert lines[9].split() == ["5", "term", "5", "RENAME", "50000", "bytes"]
    assert admin("dump", f"{home}/journal").splitlines() == lines


def test_dump_for_programs_is_one_object_a_line(home):
    first, *frames = map(json.loads, admin("dump", home, "--json").splitlines())
    assert (first["segment"], first["version"], first["starts_chain"]) == ("000000.segment", 2, True)
    assert first["membership"] == {"voters": [1, 2, 3], "outgoing": [], "learners": [4], "book_bytes": 9}
    assert [each["offset"] for each in frames] == [4096, 8192, 12288]
    assert frames[1]["cut"] == {"first": 3, "last": 3}
    assert frames[1]["hard_state"] == {"term": 5, "vote": 0}
    assert frames[1]["entries"][1] == {"index": 4, "term": 5, "kind": "999", "version": 1, "bytes": 5}


def test_a_whole_journal_is_clean_and_nothing_is_changed(home):
    before = image(home)
    told = admin("verify", home)
    assert "entries 1 to 5 whole, up to byte" in told
    assert told.endswith("clean\n")
    assert json.loads(admin("verify", home, "--json"))["damage"] is None
    admin("dump", home)
    assert image(home) == before


def test_a_torn_tail_is_told_and_is_no_damage(home):
    end = json.loads(admin("verify", home, "--json"))["segments"][0]["end"]
    damage(home, "000000.segment", 12288 + 4096)
    before = image(home)
    assert "a write that never ended stands at byte 12288" in admin("verify", home)
    assert json.loads(admin("verify", home, "--json"))["torn_at"] == 12288
    assert end > 12288
    assert image(home) == before


def test_damage_is_told_with_a_remedy_that_works(home):
    damage(home, "000000.segment", 8192 + 40)
    before = image(home)
    told = admin("verify", home, fails=1)
    assert "entries 1 to 3 whole, up to byte 8192" in told
    assert "damaged: " in told
    assert "monofs admin journal cut" in told
    assert json.loads(admin("verify", home, "--json", fails=1))["damage"]
    admin("cut", home, "--after", "5", fails=2)
    assert image(home) == before
    assert "ends with entry 3" in admin("cut", home, "--after", "3")
    assert admin("verify", home).endswith("clean\n")


def test_a_cut_goes_back_to_where_the_log_last_ended_with_that_entry(home):
    """Entry 3 was written twice; the log never ended with the second one."""
    admin("cut", home, "--after", "4")
    log = LogFiles(f"{home}/journal", JournalConfig(segment_bytes=64 << 10))
    assert [(e.index, e.term) for e in log.open(Position(0, 0), GROUP, may_discard=False).entries][2:] == [
        (3, 5),
        (4, 5),
    ]
    log.close()
    admin("cut", home, "--after", "3")
    opened = log.open(Position(0, 0), GROUP, may_discard=False)
    assert [(e.index, e.term) for e in opened.entries] == [(1, 4), (2, 4), (3, 4)]
    log.close()


def test_a_member_of_a_group_is_not_cut(home):
    with open(f"{home}/member", "w") as file:
        file.write('{"name": "m1", "id": 1}')
    before = image(home)
    assert "master among several" in admin("cut", home, "--after", "2", fails=4)
    assert "master among several" in admin("cut", f"{home}/journal/", "--after", "2", fails=4)
    assert image(home) == before


def test_a_home_without_a_journal_is_not_called_clean(tmp_path):
    (tmp_path / "format").write_text("{}")
    assert "without a journal" in admin("verify", str(tmp_path), fails=3)


def test_a_segment_that_is_discarded_or_holds_nothing_is_told(home):
    log = LogFiles(f"{home}/journal", JournalConfig(segment_bytes=64 << 10))
    log.open(Position(0, 0), GROUP, may_discard=False)
    log.reset(Position(90, 6), GROUP)
    while log.prepare(1 << 20):
        pass
    log.close()
    told = admin("verify", home)
    assert "entries 1 to 5 whole" in told
    assert "discarded: not part of the log" in told
    assert "ends with entry 90 whole" in told


def test_a_journal_in_use_or_none_at_all_is_refused(home, tmp_path):
    log = LogFiles(f"{home}/journal", JournalConfig(segment_bytes=64 << 10))
    log.open(Position(0, 0), GROUP, may_discard=False)
    for command in (["dump"], ["verify"], ["cut", "--after", "1"]):
        assert "another process" in admin(command[0], home, *command[1:], fails=4)
    log.close()
    assert "no directory of a journal" in admin("dump", f"{tmp_path}/nowhere", fails=3)
    assert not os.path.exists(f"{tmp_path}/nowhere")
