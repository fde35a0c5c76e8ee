"""Reads that are begun and waited for later: futures, asyncio, open files, a closed file system, a fork."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from concurrent.futures import Future, wait

import pytest
from test_client_opening import requests
from test_client_processes import in_child

import monofs
from monofs.client.ahead import CALLS_MAX, THREADS, Promised
from monofs.model.errors import Closed, ContentChanged, NotFound, Overloaded

MIB = 1 << 20
PATIENCE_S = 30.0


def pieces_of(source, name, count, seed=1):
    """(pieces, expected bytes) at random places."""
    data, chance = (source / name).read_bytes(), random.Random(seed)
    pieces = [(f"/data/{name}", chance.randrange(len(data)), chance.randrange(5000)) for _ in range(count)]
    return pieces, [data[offset : offset + length] for _, offset, length in pieces]


def test_each_piece_has_a_future_of_its_bytes_or_its_error(fs, remote, source):
    for client in (fs, remote):
        pieces, expected = pieces_of(source, "groups.bin", 300)
        more, also = pieces_of(source, "small.bin", 50)
        futures = client.submit_many([*pieces, ("/data/none", 0, 10), *more])
        assert len(futures) == 351
        with pytest.raises(FileNotFoundError):
            futures[300].result(PATIENCE_S)
        assert [future.result(PATIENCE_S) for future in futures[:300]] == expected
        assert [future.result(PATIENCE_S) for future in futures[301:]] == also


def test_several_calls_are_on_their_way_at_a_time(fs, source):
    calls = [pieces_of(source, "groups.bin", 64, seed) for seed in range(20)]
    begun = [fs.submit_many(pieces) for pieces, _ in calls]
    for futures, (_, expected) in zip(begun, calls, strict=True):
        assert [future.result(PATIENCE_S) for future in futures] == expected


def test_asyncio_goes_on_while_pieces_come(fs, source):
    pieces, expected = pieces_of(source, "groups.bin", 100)

    async def work():
        several = [fs.read_many_async(pieces) for _ in range(5)]
        turned = asyncio.ensure_future(asyncio.sleep(0))
        return await asyncio.gather(*several), turned.done()

    results, turned = asyncio.run(work())
    assert turned
    assert results == [expected] * 5

    async def missing(on_error):
        return await fs.read_many_async([("/data/none", 0, 1), ("/data/small.bin", 0, 2)], on_error=on_error)

    with pytest.raises(FileNotFoundError):
        asyncio.run(missing("raise"))
    error, data = asyncio.run(missing("return"))
    assert isinstance(error, FileNotFoundError)
    assert data == (source / "small.bin").read_bytes()[:2]


def test_pieces_of_open_files_ask_the_master_nothing(remote, source):
    data = (source / "groups.bin").read_bytes()
    with remote.open("/data/groups.bin") as file:
        file.pread(0, 1)
        places = [random.Random(n).randrange(60 * MIB) for n in range(64)]
        read = []
        asked = requests(remote, lambda: read.extend(remote.read_many([(file, at, 4096) for at in places])))
        assert read == [data[at : at + 4096] for at in places]
        assert asked == {"READ_MANY": 1}
        assert remote.submit_many([(file, -5, None)])[0].result(PATIENCE_S) == data[-5:]
    with pytest.raises(ValueError, match="closed"):
        remote.read_many([(file, 0, 1)])


def test_an_open_file_stays_what_it_is_when_its_path_changes(fs, source):
    target = source / "turning.bin"
    target.write_bytes(b"old" * 100)
    os.utime(target, ns=(1, 1))
    with fs.open("/data/turning.bin") as file:
        assert fs.read_many([(file, 0, 3)]) == [b"old"]
        target.write_bytes(b"new" * 200)
        assert fs.read("/data/turning.bin") == b"new" * 200
        try:
            assert file.read() == b"old" * 100
        except ContentChanged:
            pass  # its pages are gone: an error, and never a mixture


def test_pieces_of_one_path_end_together_and_none_before_all_are_of_one_content():
    promised = Promised(["/a", "/a", "/b"])
    promised[0] = b"old"
    promised[2] = b"b"
    assert [future.done() for future in promised.futures] == [False, False, True]
    promised[1] = ContentChanged("/a changed")
    assert not promised.futures[0].done(), "it is read once more"
    promised[0], promised[1] = b"new", b"er"
    assert [future.result(0) for future in promised.futures] == [b"new", b"er", b"b"]


def test_what_stays_changed_is_told_in_the_end():
    promised = Promised(["/a", "/a"])
    promised[0] = b"old"
    promised[1] = ContentChanged("/a changed")
    promised.finish(None)
    assert promised.futures[0].result(0) == b"old"
    assert isinstance(promised.futures[1].exception(0), ContentChanged)


def test_a_future_that_was_cancelled_disturbs_no_other(fs, source):
    pieces, expected = pieces_of(source, "groups.bin", 20)
    futures = fs.submit_many(pieces)
    cancelled = [future.cancel() for future in futures[::2]]
    assert [future.result(PATIENCE_S) for future in futures[1::2]] == expected[1::2]
    for future, was, data in zip(futures[::2], cancelled, expected[::2], strict=True):
        assert future.cancelled() if was else future.result(PATIENCE_S) == data


@pytest.fixture
def busy(node, source):
    """(a file system whose threads are all busy until the event is set, the event)."""
    release = threading.Event()
    with monofs.connect(node.doors["rpc"]) as connected:
        begun = threading.Semaphore(0)

        def hold() -> None:
            begun.release()
            release.wait(PATIENCE_S)

        for _ in range(THREADS):
            connected._session().ahead.submit(hold)
        for _ in range(THREADS):
            assert begun.acquire(timeout=PATIENCE_S)
        yield connected, release
        release.set()


def test_too_many_calls_are_refused_and_taken_again_later(busy):
    fs, release = busy
    futures = [fs.submit_many([("/data/small.bin", 0, 1)])[0] for _ in range(CALLS_MAX - THREADS)]
    with pytest.raises(Overloaded):
        fs.submit_many([("/data/small.bin", 0, 1)])
    release.set()
    assert len(wait(futures, PATIENCE_S).done) == len(futures)
    assert len(fs.submit_many([("/data/small.bin", 0, 1)])[0].result(PATIENCE_S)) == 1


def test_closing_ends_what_has_not_begun(busy):
    fs, _ = busy
    futures = fs.submit_many([("/data/small.bin", 0, 1), ("/data/none", 0, 1)])

    async def work() -> None:
        waiting = asyncio.ensure_future(fs.read_many_async([("/data/small.bin", 0, 1)]))
        await asyncio.sleep(0)
        fs.close()
        await waiting

    with pytest.raises(Closed):
        asyncio.run(work())
    for future in futures:
        assert isinstance(future.exception(PATIENCE_S), Closed)
    with pytest.raises(Closed):
        fs.submit_many([])


def test_a_child_forked_in_the_middle_reads_by_itself(fs, source):
    pieces, expected = pieces_of(source, "groups.bin", 200)
    before: list[Future[bytes]] = fs.submit_many(pieces)

    def child():
        futures = fs.submit_many(pieces)
        assert [future.result(PATIENCE_S) for future in futures] == expected
        assert fs.read_many(pieces) == expected

    for _ in range(3):
        in_child(child)
    assert [future.result(PATIENCE_S) for future in before] == expected


def test_an_error_of_the_whole_call_is_every_pieces(fs):
    fs.close()
    with pytest.raises(Closed):
        fs.submit_many([("/data/small.bin", 0, 1)])
    promised = Promised(["/a", "/b"])
    promised.finish(NotFound("no"))
    assert all(isinstance(future.exception(0), FileNotFoundError) for future in promised.futures)
