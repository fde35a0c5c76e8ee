"""What a writer sends, keeps and gives up, and what it does when the other side fails, against a far side that does what it is told."""

import contextlib
import io
import multiprocessing
import os
import pickle
import random
import threading

import pytest
from far_side import FarSide, hang_up, once, refuse, times
from hypothesis import given, settings
from hypothesis import strategies as st

import monofs
from monofs.client import Writer, staging
from monofs.model.errors import (
    AlreadyExists,
    CapabilityExpired,
    ConditionFailed,
    NotReady,
    OutcomeUnknown,
    UfsChanged,
    UfsDenied,
    WriteLost,
)

MIB = 1 << 20


@pytest.fixture(scope="module")
def far():
    side = FarSide()
    yield side
    side.stop()


@pytest.fixture
def side(far):
    far.files.clear()
    for noted in (far.begun, far.writes, far.asked, far.aborted):
        noted.clear()
    far.renewed = 0
    far.on_write = lambda request, call: False
    far.forget()
    return far


@pytest.fixture
def fs(side):
    with monofs.FileSystem(side.address, timeout_s=10.0) as connected:
        yield connected


def blob(seed, size):
    return random.Random(seed).randbytes(size)


# ---- what is sent --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, 5 * MIB + 3, 8 * MIB])
def test_a_file_of_up_to_a_part_is_begun_at_its_end_with_its_size(fs, side, size):
    data = blob(size, size)
    with fs.open("/new", "wb") as file:
        assert isinstance(file, Writer)
        assert file.write(data) == size
        assert file.tell() == size
        assert side.begun == []
        assert side.files == {}
    assert side.files == {"/new": data}
    assert [request.size for request in side.begun] == [size]
    assert (file.info.path, file.info.size) == ("/new", size)
    assert [request.path for request in side.asked] == ["/new"]


def test_a_longer_file_streams_and_is_visible_only_when_closed(fs, side):
    data = blob(1, 20 * MIB + 17)
    with fs.open("/long", "wb") as file:
        for start in range(0, len(data), 700_001):
            file.write(data[start : start + 700_001])
        assert side.begun[0].size == -1
        assert len(side.writes) >= 14
        assert side.files == {}
    assert side.files["/long"] == data
    assert all(offset % MIB == 0 for _, offset, _ in side.writes)


@given(st.lists(st.integers(0, 3 * MIB), max_size=12), st.sampled_from([bytes, bytearray, memoryview]))
@settings(max_examples=25, deadline=None)
def test_bytes_arrive_as_they_were_given_however_they_are_cut(far, cuts, kind):
    with monofs.FileSystem(far.address) as fs:
        expected = bytearray()
        with fs.open("/cut", "wb") as file:
            for number, size in enumerate(cuts):
                piece = bytearray(blob(number, size))
                expected += piece
                file.write(kind(piece))
                piece[:] = bytes(size)  # the caller may use its memory again
        assert far.files["/cut"] == expected


def test_arrays_are_written_as_their_bytes_and_text_is_refused(fs, side):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(300_000, dtype="<i8").reshape(3, -1)
    with fs.open("/array", "wb") as file:
        assert file.write(array) == array.nbytes
        with pytest.raises(TypeError):
            file.write("text")
    assert side.files["/array"] == array.tobytes()
    assert fs.write("/whole", array).size == array.nbytes
    assert side.files["/whole"] == array.tobytes()


def test_whole_writes_skip_the_question_at_open_and_carry_their_options(fs, side):
    fs.write("/a", b"1", write_type="THROUGH", if_match="e:x", parents=False, mode=0o600)
    assert side.asked == []
    request = side.begun[0]
    assert (request.write_type, request.if_match, request.parents, request.mode) == ("THROUGH", "e:x", False, 0o600)
    with pytest.raises(FileExistsError):
        fs.write("/a", b"2", exclusive=True)
    assert side.files["/a"] == b"1"
    with pytest.raises(FileExistsError):
        fs.open("/a", "xb")
    with pytest.raises(OSError, match="write_type"):
        fs.write("/a", b"", write_type="ASYNC")


def test_text_is_encoded_and_published_on_close(fs, side):
    with fs.open("/text", "w", newline="\r\n") as file:
        file.write("größe\n" * 1000)
    assert side.files["/text"] == "größe\r\n".encode() * 1000


# ---- files, as Python has them -------------------------------------------------------------------------------------------


def test_modes_that_cannot_be_say_what_to_do_instead(fs):
    for mode in ("ab", "a", "a+b"):
        with pytest.raises(io.UnsupportedOperation, match="not appended to"):
            fs.open("/f", mode)
    for mode in ("r+", "r+b", "w+b", "x+"):
        with pytest.raises(io.UnsupportedOperation, match="not changed in place"):
            fs.open("/f", mode)
    for mode in ("q", "rw", "b", "", "wbt", "wwb"):
        with pytest.raises(OSError, match="is none of"):
            fs.open("/f", mode)


def test_a_writer_only_goes_forward(fs, side):
    with fs.open("/f", "wb") as file:
        file.write(b"12345")
        assert (file.readable(), file.writable(), file.seekable(), file.seek(5), file.truncate()) == (
            False,
            True,
            False,
            5,
            5,
        )
        for refused in (lambda: file.seek(0), lambda: file.read(1), lambda: file.truncate(2), file.fileno):
            with pytest.raises(io.UnsupportedOperation):
                refused()
        file.flush()
        assert side.files == {}
    assert file.close().size == 5
    with pytest.raises(ValueError, match="closed"):
        file.write(b"6")


def test_an_exception_inside_with_leaves_nothing(fs, side):
    for mode, data in (("wb", b"half"), ("w", "half"), ("wb", bytes(10 * MIB))):
        with pytest.raises(ZeroDivisionError), fs.open("/f", mode) as file:
            file.write(data)
            raise ZeroDivisionError
        assert file.closed
    assert side.files == {}
    assert len(side.aborted) == 1, "the streaming one was begun"


def drop(file, data):
    file.write(data)
    del file


def test_abort_and_a_file_nobody_closed_leave_nothing(fs, side):
    file = fs.open("/f", "wb")
    file.write(bytes(9 * MIB))
    file.abort()
    file.abort()
    assert file.close() is None
    assert len(side.aborted) == 1
    for mode, data in (("wb", b"x"), ("w", "x")):
        with pytest.warns(ResourceWarning, match="never closed: not written"):
            drop(fs.open("/g", mode), data)
    assert side.files == {}


def test_a_staged_file_waits_for_commit(fs, side):
    for size in (5, 10 * MIB):
        data = blob(size, size)
        kept, dropped = (fs.writer(path, staged=True) for path in ("/kept", "/dropped"))
        for file in (kept, dropped):
            file.write(data)
            file.close()
            assert side.files == {}
        assert kept.commit().size == size
        dropped.discard()
        assert side.files.pop("/kept") == data
        assert side.files == {}


def temporary_files():
    held = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one of the listing itself
            held.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in held if "/monofs-" in name and name.endswith("(deleted)")]


def test_staged_files_over_the_bound_wait_in_one_temporary_file(fs, side, monkeypatch):
    monkeypatch.setattr(staging, "MEMORY_BYTES", 3 * MIB)
    data = [blob(number, 2 * MIB + number) for number in range(20)]
    files = [fs.writer(f"/{number}", staged=True) for number in range(20)]
    for file, each in zip(files, data, strict=True):
        file.write(each)
        file.close()
    assert len(temporary_files()) == 1
    for file in files[10:]:
        file.discard()
    for file in files[:10]:
        file.commit()
    assert side.files == {f"/{number}": data[number] for number in range(10)}
    assert staging.process_staging()._memory_bytes == 0
    assert temporary_files() == []


def test_threads_may_share_a_writer(fs, side):
    with fs.open("/shared", "wb") as file:

        def work(number):
            for _ in range(300):
                file.write(bytes([number]) * 10_000)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    data = side.files["/shared"]
    assert len(data) == 12_000_000
    assert all(len(set(data[start : start + 10_000])) == 1 for start in range(0, len(data), 10_000))


def _use_in_child(file, answers):
    try:
        file.write(b"child")
        answers.send("written")
    except OSError as error:
        answers.send(str(error))
    file.close()
    os._exit(0)


def test_a_writer_belongs_to_its_process(fs, side):
    file = fs.open("/mine", "wb")
    file.write(bytes(9 * MIB))
    with pytest.raises(io.UnsupportedOperation, match="belongs to this process"):
        pickle.dumps(file)
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_use_in_child, args=(file, theirs))
    child.start()
    assert "another process" in ours.recv()
    child.join()
    file.write(b"parent")
    file.close()
    assert side.files["/mine"] == bytes(9 * MIB) + b"parent"


# ---- what fails ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True])
def test_a_broken_connection_is_made_again_and_nothing_is_sent_twice(fs, side, last):
    data = blob(2, 15 * MIB + 1)
    side.on_write = once(hang_up, lambda request: request.last == last and request.offset >= 6 * MIB)
    with fs.open("/f", "wb") as file:
        file.write(data)
    assert side.files["/f"] == data
    assert len(side.begun) == 1


def test_an_answer_that_was_lost_is_asked_for_again(fs, side):
    def answer_is_lost(request, call):
        side.take(request)
        return hang_up(request, call)

    side.on_write = once(answer_is_lost, lambda request: request.last)
    assert fs.write("/f", b"once", exclusive=True).size == 4
    assert side.files == {"/f": b"once"}
    assert len(side.begun) == 1


def test_a_worker_that_is_not_ready_is_waited_for(fs, side):
    side.on_write = times(3, refuse(NotReady("starting")), lambda request: True)
    data = blob(3, 6 * MIB)
    fs.write("/f", data)
    assert side.files["/f"] == data


def test_a_capability_that_ends_is_renewed(fs, side):
    side.on_write = once(refuse(CapabilityExpired("old")), lambda request: request.offset == 11 * MIB)
    data = blob(4, 13 * MIB)
    with fs.open("/f", "wb") as file:
        file.write(data)
    assert side.files["/f"] == data
    assert side.renewed == 1


def test_what_is_at_hand_is_begun_again_when_a_worker_forgets_it_or_the_store_changed(fs, side):
    def forgets(request, call):
        side.forget()
        return False

    data = blob(5, 12 * MIB)
    for fault in (forgets, refuse(UfsChanged("other etag"))):
        side.begun.clear()
        side.on_write = times(2, fault, lambda request: request.last)
        assert fs.write("/f", data).size == len(data)
        assert side.files.pop("/f") == data
        assert len(side.begun) == 3
        side.begun.clear()
        side.on_write = times(2, fault, lambda request: request.last)
        with fs.open("/f", "wb") as file:
            file.write(data[: 8 * MIB])
        assert side.files.pop("/f") == data[: 8 * MIB]
        assert len(side.begun) == 3
    side.on_write = times(3, refuse(UfsChanged("other etag")), lambda request: request.last)
    with pytest.raises(UfsChanged):
        fs.write("/f", data)


def test_a_stream_cannot_be_begun_again_and_says_so(fs, side):
    def forgets(request, call):
        side.forget()
        return False

    for fault, error, words in (
        (forgets, WriteLost, "again"),
        (refuse(UfsChanged("other etag")), UfsChanged, "write it again"),
    ):
        side.on_write = once(fault, lambda request: request.last)
        file = fs.open("/f", "wb")
        file.write(bytes(12 * MIB))
        with pytest.raises(error) as caught:
            file.close()
        assert words in str(caught.value) or words in error.hint
        assert file.closed
        assert side.files == {}
        file.close()


def test_conditions_that_do_not_hold_are_told_by_their_names(fs, side):
    side.on_write = times(3, refuse(UfsChanged("412")), lambda request: request.last)
    with pytest.raises(ConditionFailed):
        fs.write("/f", b"x", if_match="e:1")
    with pytest.raises(AlreadyExists):
        fs.write("/f", b"x", exclusive=True)
    with pytest.raises(AlreadyExists), fs.open("/f", "xb") as file:
        file.write(bytes(9 * MIB))
    assert len(side.begun) == 3


def test_a_conditional_write_that_may_have_happened_is_not_tried_again(fs, side):
    def publishes_and_dies(request, call):
        side.take(request)
        side.forget()
        return hang_up(request, call)

    side.on_write = once(publishes_and_dies, lambda request: request.last)
    with pytest.raises(OutcomeUnknown):
        fs.write("/f", b"x", exclusive=True)
    side.on_write = once(publishes_and_dies, lambda request: request.last)
    assert fs.write("/f", b"y").size == 1


def test_an_error_in_the_middle_is_told_at_once_and_ever_after(fs, side):
    side.on_write = times(1, refuse(UfsDenied("no")), lambda request: request.offset == 2 * MIB)
    file = fs.open("/f", "wb")
    with pytest.raises(PermissionError):
        for _ in range(30):
            file.write(bytes(MIB))
    for again in (lambda: file.write(b"x"), file.close):
        with pytest.raises(PermissionError):
            again()
    assert file.closed
    assert side.files == {}
    assert len(side.aborted) == 1
