"""Opening a small file that is cached beside the master brings its bytes along: one request for its first byte."""

from __future__ import annotations

import os
import random

import pytest
from test_client_reading import count_requests

from monofs.rpc.api import Method, OpenAnswer, OpenRequest


def requests(fs, work):
    before = count_requests(fs)
    work()
    after = count_requests(fs)
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


@pytest.fixture
def small(fs, source):
    """(path, bytes) of a warm file of 9,000 bytes, and where the store keeps it."""
    file = source / f"opening-{random.randrange(1 << 40):x}"
    file.write_bytes(random.randbytes(9000))
    os.utime(file, ns=(1, 1))
    path = f"/data/{file.name}"
    assert fs.read(path) == file.read_bytes()
    return path, file.read_bytes(), file


def test_open_and_first_byte_of_a_small_warm_file_are_one_request(fs, remote, small):
    path, data, _ = small
    for client in (fs, remote):

        def first_byte(client=client):
            with client.open(path) as file:
                assert file.read(1) == data[:1]
                assert file.read() == data[1:]

        assert requests(fs, first_byte) == {"OPEN": 1}
        assert requests(fs, lambda client=client: client.read(path, -10)) == {"OPEN": 1}


def test_a_file_that_is_not_cached_takes_two(fs, small):
    path, data, _ = small
    fs.free(path)
    assert requests(fs, lambda: fs.read(path)) == {"OPEN": 1, "READ": 1}
    assert requests(fs, lambda: fs.read(path)) == {"OPEN": 1}
    assert fs.read(path) == data


def test_who_reads_past_the_cache_gets_nothing_with_the_answer(fs, small):
    path, data, _ = small
    buffer = bytearray(10)
    reader = fs.reader(path, read_type="STORE")
    assert requests(fs, lambda: reader.read_into(0, memoryview(buffer))) == {"READ": 1}
    assert buffer == data[:10]


def test_nobody_gets_bytes_who_did_not_ask_for_them_or_of_a_file_larger_than_asked(fs, small):
    path, data, _ = small

    def opened(size):
        return fs._session().ask(Method.OPEN, OpenRequest(path, data_bytes=size), OpenAnswer).data

    assert [opened(0), opened(-1), opened(len(data) - 1)] == [b"", b"", b""]
    assert opened(len(data)) == data


def test_a_closed_file_holds_no_bytes(fs, small):
    file = fs.open(small[0])
    assert file.read(3) == small[1][:3]
    reader = file._reader if hasattr(file, "_reader") else file.raw._reader
    file.close()
    assert (reader._buffered, reader.opened.data) == ((0, b""), b"")
