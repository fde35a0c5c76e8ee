"""The last lines of a log: bounded, in order, numbered, and one call for a storm of them."""

import logging
import threading

from hypothesis import given
from hypothesis import strategies as st

from monofs.observe.logs import close_logs, logger, set_up_logs
from monofs.observe.recent import Recent


def test_the_last_lines_are_given_oldest_first_with_the_number_of_the_first():
    recent = Recent(lines=3)
    assert recent.tail(10) == (1, [])
    for number in range(1, 6):
        recent.put(b"%d" % number)
    assert recent.tail(10) == (3, [b"3", b"4", b"5"])
    assert recent.tail(1) == (5, [b"5"])
    assert recent.tail(0) == (6, [])


@given(st.lists(st.binary(max_size=40), max_size=60))
def test_memory_is_bounded_by_lines_and_by_bytes_and_no_number_is_used_twice(lines):
    recent = Recent(lines=10, size_bytes=100)
    for line in lines:
        recent.put(line)
        first, kept = recent.tail(1000)
        assert len(kept) <= 10
        assert sum(map(len, kept)) <= 100
        assert kept[-1] == line
        assert first + len(kept) == lines.index(line) + 2 or lines.count(line) > 1
    assert recent.tail(1000)[0] + len(recent.tail(1000)[1]) == len(lines) + 1


def test_a_line_longer_than_all_room_is_counted_and_named():
    recent = Recent(lines=10, size_bytes=100)
    recent.put(b"x" * 101)
    first, (line,) = recent.tail(10)
    assert first == 1
    assert b"too long" in line


def test_who_waits_is_called_once_for_a_storm_and_again_only_after_it_asked():
    recent, calls = Recent(), []
    recent.on_line = lambda: calls.append(1)
    recent.put(b"nobody waits")
    recent.await_line()
    for _ in range(100):
        recent.put(b"line")
    assert len(calls) == 1
    recent.await_line()
    recent.put(b"line")
    assert len(calls) == 2


def test_lines_of_many_threads_are_all_there():
    recent = Recent(lines=4000)
    threads = [threading.Thread(target=lambda: [recent.put(b"x") for _ in range(400)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, kept = recent.tail(5000)
    assert (first, len(kept)) == (1, 3200)


def test_what_a_log_writes_is_kept_as_it_was_written_without_its_secrets(tmp_path):
    recent = Recent()
    handler = set_up_logs("info", str(tmp_path / "log"), 1 << 20, name="monofs.kept", recent=recent)
    try:
        logger("monofs.kept").info("shown", path="/a", token="SECRETVALUE")
        logger("monofs.kept").debug("not shown")
    finally:
        close_logs(handler, name="monofs.kept")
        logging.getLogger("monofs.kept").propagate = True
    _, lines = recent.tail(10)
    assert b"\n".join(lines) + b"\n" == (tmp_path / "log").read_bytes()
    assert len(lines) == 1
    assert b"SECRETVALUE" not in lines[0]
