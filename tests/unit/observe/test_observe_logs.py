"""Log files: what a line holds, who may read it, what happens at every bound and on a disk that fails."""

import ast
import gc
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import Logger

import monofs
from monofs.model.errors import Internal, NotFound, UfsThrottled
from monofs.observe import metrics
from monofs.observe.bridge import bridge_logs
from monofs.observe.logfile import LINES_MAX, OLD_FILES, FileLog, Sparing
from monofs.observe.logs import close_logs, logger, set_up_logs
from monofs.observe.tracing import current_trace, new_trace, show_trace, stamp, tracing


@pytest.fixture
def journal(tmp_path):
    """(log, path, lines) of a log file of its own."""
    path = tmp_path / "node.log"
    handler = set_up_logs("info", str(path), 1 << 20, name="monofs.tested")

    def lines():
        return [json.loads(line) for line in path.read_text().splitlines()]

    yield logger("monofs.tested.part"), path, lines
    close_logs(handler, name="monofs.tested")


def test_a_line_is_one_json_object_with_its_fields(journal):
    log, _, lines = journal
    log.info("mounted", path="/lake\n", key=b"a\xff", absent=None, mount=7)
    (line,) = lines()
    assert {name: line[name] for name in ("level", "logger", "event", "path", "key", "mount")} == {
        "level": "info", "logger": "monofs.tested.part", "event": "mounted", "path": "/lake\n", "key": "a\\xff", "mount": 7,
    }  # fmt: skip
    assert "absent" not in line
    assert line["time"].endswith("Z")


def test_no_field_takes_the_place_of_what_every_line_has():
    taken = []
    for path in Path(monofs.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value) == "log"
            ):
                names = {each.arg for each in node.keywords} & {"time", "level", "logger", "event"}
                taken += [f"{path}:{node.lineno}: {name}" for name in sorted(names, key=str)]
    assert taken == []


def test_secrets_and_endless_values_are_never_written(journal):
    log, path, lines = journal
    log.info("opened", secret_key="hunter2", long="x" * 100_000)
    assert "hunter2" not in path.read_text()
    assert len(lines()[0]["long"]) == 2001


def test_a_line_names_the_request_it_was_written_for(journal):
    log, _, lines = journal
    with tracing(0xABC):
        log.info("inside")
        log.info("of another", trace="0000000000000001")
    log.info("outside")
    assert [line.get("trace") for line in lines()] == ["0000000000000abc", "0000000000000001", None]


def test_only_the_owner_may_read_a_log_even_one_that_was_open_to_all(tmp_path):
    path = tmp_path / "old.log"
    path.write_text("")
    path.chmod(0o644)
    FileLog(str(path), 1000, spare=True).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_is_rotated_while_it_is_written_and_keeps_a_bounded_number(tmp_path):
    path = tmp_path / "node.log"
    handler = set_up_logs("info", str(path), 500, name="monofs.rotated")
    log = logger("monofs.rotated")
    for number in range(60):
        log.info("tick", number=number)
    close_logs(handler, name="monofs.rotated")
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "node.log",
        *(f"node.log.{n + 1}" for n in range(OLD_FILES)),
    ]
    assert all(each.stat().st_size <= 500 and each.stat().st_mode & 0o777 == 0o600 for each in tmp_path.iterdir())
    files = [tmp_path / f"node.log.{number}" for number in range(OLD_FILES, 0, -1)]
    kept = [json.loads(line)["number"] for each in files for line in each.read_text().splitlines()]
    assert kept == list(range(kept[0], kept[0] + len(kept)))


def test_a_log_that_was_moved_away_is_begun_anew(journal, tmp_path):
    log, path, lines = journal
    log.info("before")
    path.rename(tmp_path / "moved.log")
    (handler,) = [each for each in logging.getLogger("monofs.tested").handlers if isinstance(each, FileLog)]
    handler._looked_s = 0.0
    log.info("after")
    assert [line["event"] for line in lines()] == ["after"]


def test_a_full_disk_loses_lines_and_nothing_else(capsys):
    lost = metrics.LOG_LOST("failed").value
    handler = set_up_logs("info", "/dev/full", 1000, name="monofs.full")
    for number in range(3):
        logger("monofs.full").info("tick", number=number)
    close_logs(handler, name="monofs.full")
    assert metrics.LOG_LOST("failed").value == lost + 3
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_a_value_nobody_can_show_loses_its_line_only(journal):
    class Rude:
        def __str__(self):
            raise ValueError("no")

    log, _, lines = journal
    log.info("rude", value=Rude())
    log.info("polite")
    assert [line["event"] for line in lines()] == ["polite"]


def test_a_flood_of_one_event_is_bounded_and_counted():
    sparing = Sparing()
    written = [sparing.check("a", "flood", 1) for _ in range(LINES_MAX + 40)]
    assert written.count(-1) == 40
    assert sparing.check("a", "other", 1) == 0, "other events are not held back"
    assert sparing.check("a", "flood", 2) == 40, "the next line tells how many were left out"
    assert sparing.check("a", "flood", 2) == 0


def test_an_unhandled_error_of_twisted_reaches_the_log_with_its_traceback(caplog):
    end = bridge_logs(logging.NullHandler())
    try:
        deferred = Deferred()
        deferred.errback(RuntimeError("lost in a deferred"))
        del deferred
        gc.collect()
        Logger("other").info("only at debug")
    finally:
        end()
    found = [record for record in caplog.records if record.name == "monofs.twisted" and record.levelno == logging.ERROR]
    assert any(record.exc_info and "lost in a deferred" in str(record.exc_info[1]) for record in found)
    assert not [record for record in caplog.records if "only at debug" in str(getattr(record, "fields", ""))]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_uncaught_exception_of_a_thread_reaches_the_log(caplog):
    end = bridge_logs(logging.NullHandler())
    try:
        thread = threading.Thread(target=lambda: 1 // 0, name="digger")
        thread.start()
        thread.join()
    finally:
        end()
    (record,) = [each for each in caplog.records if each.name == "monofs.threads"]
    assert record.fields == {"thread": "digger"}


def test_a_warning_of_a_library_reaches_the_log(tmp_path):
    handler = set_up_logs("info", str(tmp_path / "node.log"), 1 << 20, name="monofs.bridged")
    end = bridge_logs(handler)
    try:
        logging.getLogger("urllib3.connectionpool").warning("pool of %s is full", "host")
    finally:
        end()
        close_logs(handler, name="monofs.bridged")
    line = json.loads((tmp_path / "node.log").read_text())
    assert (line["logger"], line["level"], line["event"]) == (
        "urllib3.connectionpool",
        "warning",
        "pool of host is full",
    )


# ---- request ids ----


def test_request_ids_differ_and_are_never_zero():
    drawn = {new_trace() for _ in range(1000)}
    assert len(drawn) == 1000
    assert 0 not in drawn
    assert all(len(show_trace(each)) == 16 for each in drawn)


def test_a_child_of_fork_draws_other_request_ids():
    reader, writer = os.pipe()
    mine = new_trace()
    child = os.fork()
    if child == 0:
        os.write(writer, str(new_trace()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    assert abs(theirs - mine) > 1000


def test_two_processes_draw_other_request_ids():
    ask = [sys.executable, "-c", "from monofs.observe.tracing import new_trace; print(new_trace())"]
    assert abs(int(subprocess.check_output(ask)) - int(subprocess.check_output(ask))) > 1000


def test_unusual_errors_carry_the_request_id_and_everyday_ones_do_not():
    assert str(stamp(Internal("it broke"), 0xAB)) == "it broke (request id 00000000000000ab)"
    assert str(stamp(NotFound("not there"), 0xAB)) == "not there"
    assert stamp(stamp(UfsThrottled("slow"), 1), 2).detail["trace"] == show_trace(1), "the first one stays"
    assert stamp(Internal("of no request"), 0).detail == {}


def test_a_block_works_for_its_request_only():
    with tracing(5):
        with tracing(6):
            assert current_trace() == 6
        assert current_trace() == 5
    assert current_trace() == 0
