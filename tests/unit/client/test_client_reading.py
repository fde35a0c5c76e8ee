"""Files read as the files they cache, byte for byte, whichever way the bytes come."""

import io
import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monofs.client.descriptors import process_table
from monofs.rpc.api import Method

MIB = 1 << 20
FIXTURES = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None}
NEAR = st.sampled_from([0, 1, 4096, MIB - 1, MIB, 5 * MIB, 64 * MIB - 1, 64 * MIB, 66 * MIB, 66 * MIB + 6, 67 * MIB])
OFFSET = st.one_of(NEAR, st.integers(0, 67 * MIB))
LENGTH = st.one_of(st.integers(0, 9000), st.sampled_from([MIB, MIB + 1, 3 * MIB]))
STEP = st.one_of(
    st.tuples(st.just("seek"), OFFSET),
    st.tuples(st.just("read"), LENGTH),
    st.tuples(st.just("readinto"), LENGTH),
    st.tuples(st.just("pread"), st.tuples(OFFSET, LENGTH)),
    st.tuples(st.just("end"), st.integers(0, 100)),
)


def same_steps(plain, ours, steps):
    for name, argument in steps:
        if name == "seek":
            assert ours.seek(argument) == plain.seek(argument)
        elif name == "end":
            assert ours.seek(-argument, io.SEEK_END) == plain.seek(-argument, io.SEEK_END)
        elif name == "read":
            assert ours.read(argument) == plain.read(argument)
        elif name == "readinto":
            mine, theirs = bytearray(argument), bytearray(argument)
            assert ours.readinto(mine) == plain.readinto(theirs)
            assert mine == theirs
        else:
            offset, length = argument
            assert ours.pread(offset, length) == os.pread(plain.fileno(), length, offset)
        assert ours.tell() == plain.tell()


@settings(max_examples=25, **FIXTURES)
@given(steps=st.lists(STEP, max_size=12))
def test_any_seeks_and_reads_give_the_bytes_of_the_file_on_this_machine(fs, source, steps):
    with open(source / "groups.bin", "rb") as plain, fs.open("/data/groups.bin") as ours:
        same_steps(plain, ours, steps)


@settings(max_examples=25, **FIXTURES)
@given(steps=st.lists(STEP, max_size=12))
def test_any_seeks_and_reads_give_the_bytes_of_the_file_over_a_socket(remote, source, steps):
    with open(source / "groups.bin", "rb") as plain, remote.open("/data/groups.bin") as ours:
        same_steps(plain, ours, steps)
    assert process_table().get((remote._session().cluster.links()[0], ours.content, 0)) is None


@pytest.mark.parametrize("name", ["empty", "small.bin", "medium.bin", "groups.bin", "ünï cödé\nname"])
def test_a_whole_file_reads_the_same_by_every_method(fs, remote, source, name):
    expected = (source / name).read_bytes()
    for client in (fs, remote):
        with client.open(f"/data/{name}") as file:
            assert file.read() == expected
            assert file.read() == b""
            assert file.read(10) == b""
            assert file.pread(0) == expected
            buffer = bytearray(len(expected) + 10)
            assert file.pread_into(0, buffer) == len(expected)
            assert buffer[: len(expected)] == expected
            assert file.size == len(expected)
        assert client.read(f"/data/{name}") == expected


@pytest.mark.parametrize("read_type", ["NO_CACHE", "CACHE_PROMOTE"])
def test_every_read_type_gives_the_same_bytes(node, source, read_type):
    with node.connect(read_type=read_type) as client:
        assert client.read("/data/medium.bin") == (source / "medium.bin").read_bytes()
        with client.open("/data/medium.bin") as file:
            assert file.pread(MIB - 10, 20) == (source / "medium.bin").read_bytes()[MIB - 10 : MIB + 10]


def test_lines_are_those_of_a_plain_file(fs, source):
    with open(source / "lines.txt", "rb") as plain, fs.open("/data/lines.txt") as ours:
        assert [ours.readline(), ours.readline(), ours.readline(4)] == [
            plain.readline(),
            plain.readline(),
            plain.readline(4),
        ]
        assert list(ours) == list(plain)
    with open(source / "lines.txt", newline="") as plain, fs.open("/data/lines.txt", "r", newline="") as ours:
        assert ours.read() == plain.read()
    with open(source / "lines.txt", encoding="utf-8") as plain, fs.open("/data/lines.txt", "rt") as ours:
        assert ours.readlines() == plain.readlines()
    with fs.open("/data/groups.bin") as ours, open(source / "groups.bin", "rb") as plain:
        for _ in range(1000):
            assert ours.readline() == plain.readline()


def test_iterating_goes_on_from_where_the_caller_moved(fs, source):
    with open(source / "lines.txt", "rb") as plain, fs.open("/data/lines.txt") as ours:
        assert next(iter(ours)) == plain.readline()
        assert ours.tell() == plain.tell()
        lines = iter(ours)
        next(lines)
        ours.seek(0)
        assert next(lines) == b"line 0 \xc3\xa9\r\n"


def test_buffers_of_any_shape_are_filled(fs, source):
    expected = (source / "medium.bin").read_bytes()
    with fs.open("/data/medium.bin") as file:
        for _ in range(2):  # first through the worker, then straight from the descriptor
            wide = memoryview(bytearray(4096)).cast("I")
            assert file.pread_into(5, wide) == 4096
            assert wide.tobytes() == expected[5 : 5 + 4096]
            file.seek(MIB)
            array = memoryview(bytearray(24)).cast("B", (4, 6))
            assert file.readinto(array) == 24
            assert array.tobytes() == expected[MIB : MIB + 24]
            file.read()
        with pytest.raises((TypeError, BufferError)):
            file.readinto(b"not writable")


def test_a_file_is_a_raw_file_to_pythons_io(fs, source):
    with fs.open("/data/small.bin") as file:
        assert isinstance(file, io.RawIOBase)
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        buffered = io.BufferedReader(file, 777)
        assert buffered.read() == (source / "small.bin").read_bytes()
    assert file.closed
    for call in (file.read, file.tell, file.fileno, file.mmap, lambda: file.seek(0), lambda: file.pread(0, 1)):
        with pytest.raises(ValueError, match="closed"):
            call()
    with fs.open("/data/small.bin") as file:
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with pytest.raises(OSError, match="negative"):
            file.seek(-1)
        with pytest.raises(OSError, match="negative"):
            file.pread(-1, 5)


def test_a_complete_local_file_has_a_descriptor_and_a_mapping(fs, remote, source):
    expected = (source / "medium.bin").read_bytes()
    with fs.open("/data/medium.bin") as file, fs.open("/data/medium.bin") as other:
        file.read()
        number = file.fileno()
        assert os.pread(number, 100, 77) == expected[77:177]
        os.lseek(number, 1000, os.SEEK_SET)
        assert os.lseek(other.fileno(), 0, os.SEEK_CUR) == 0, "a descriptor shares its position with nobody"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(number, b"x")
        with file.mmap() as mapped:
            assert mapped[:] == expected
            with pytest.raises(TypeError):
                mapped[0] = 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pread(number, 1, 0)
    for path, why in (("/data/empty", "is empty"), ("/data/groups.bin", "larger than a block")):
        with fs.open(path) as file, pytest.raises(io.UnsupportedOperation, match=why):
            file.fileno()
    with remote.open("/data/medium.bin") as file:
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()
        with pytest.raises(io.UnsupportedOperation):
            file.mmap()


def test_arrays_lie_over_a_mapping_without_a_copy(fs, source):
    expected = (source / "medium.bin").read_bytes()
    with fs.open("/data/medium.bin") as file:
        mapped = file.mmap()
    array = np.frombuffer(memoryview(mapped), dtype=np.uint8)
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert array.tobytes() == expected, "the mapping outlives the file that made it"


def test_mmap_fetches_what_is_missing_and_fileno_does_not(fs, source):
    (source / "cold.bin").write_bytes(os.urandom(10 * MIB))
    with fs.open("/data/cold.bin") as file:
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()
        with file.mmap() as mapped:
            assert isinstance(mapped, mmap.mmap)
            assert mapped[:] == (source / "cold.bin").read_bytes()
        assert os.pread(file.fileno(), 5, 0) == (source / "cold.bin").read_bytes()[:5]


def test_opening_and_reading_a_cached_file_again_costs_one_request_to_the_master(fs, node):
    fs.read("/data/medium.bin")
    with fs.open("/data/medium.bin") as file:
        file.read()
    requests = count_requests(fs)
    with fs.open("/data/medium.bin") as file:
        file.read()
        for offset in range(0, 5 * MIB, 100_000):
            file.pread(offset, 4096)
    after = count_requests(fs)
    assert {method: after[method] - requests[method] for method in after if after[method] != requests[method]} == {
        "OPEN": 1
    }


def count_requests(fs):
    counters = next(iter(fs.worker_status().values())).counters
    ignored = {Method.CLUSTER.name, Method.WORKER_STATUS.name, Method.HEARTBEAT.name}
    counts = {}
    for name, value in counters.items():
        if name.startswith("monofs_rpc_requests"):
            method = name.partition("method=")[2].partition(",")[0]
            if method not in ignored:
                counts[method] = counts.get(method, 0) + value
    return counts


def test_threads_share_one_file_with_pread(fs, remote, source):
    expected = (source / "groups.bin").read_bytes()
    for client in (fs, remote):
        with client.open("/data/groups.bin") as file, ThreadPoolExecutor(8) as pool:

            def check(seed, file=file):
                for i in range(60):
                    offset = (seed * 7_919_993 + i * 1_300_007) % len(expected)
                    assert file.pread(offset, 5000) == expected[offset : offset + 5000]
                return True

            assert all(pool.map(check, range(16)))


def test_threads_share_one_file_system(fs, source):
    names = ["small.bin", "medium.bin", "lines.txt", "deep/side.csv"]
    expected = {name: (source / name).read_bytes() for name in names}
    failures = []

    def hammer(seed):
        try:
            for i in range(25):
                name = names[(seed + i) % len(names)]
                with fs.open(f"/data/{name}") as file:
                    assert file.read() == expected[name]
                assert fs.stat(f"/data/{name}").size == len(expected[name])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=hammer, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


def test_read_many_gives_each_piece_or_its_error_in_order(fs, remote, source):
    small, groups = (source / "small.bin").read_bytes(), (source / "groups.bin").read_bytes()
    pieces = [
        ("/data/small.bin", 0, 10),
        ("/data/missing", 0, 1),
        ("/data/small.bin", -10, None),
        ("/data/groups.bin", 64 * MIB - 5, 10),
        ("/data/groups.bin", 3, 2 * MIB),
        ("/data/empty", 0, None),
        ("/data", 0, 1),
        ("/data/small.bin", 70_000, 500),
        ("/data/small.bin", 80_000, 500),
        ("/data/small.bin", 5, 0),
    ]
    for client in (fs, remote):
        result = client.read_many(pieces, on_error="return")
        assert isinstance(result[1], FileNotFoundError)
        assert isinstance(result[6], IsADirectoryError)
        assert [result[i] for i in (0, 2, 3, 4, 5, 7, 8, 9)] == [
            small[:10],
            small[-10:],
            groups[64 * MIB - 5 : 64 * MIB + 5],
            groups[3 : 3 + 2 * MIB],
            b"",
            small[70_000:],
            b"",
            b"",
        ]
        with pytest.raises(FileNotFoundError):
            client.read_many(pieces)


@settings(max_examples=15, **FIXTURES)
@given(
    pieces=st.lists(
        st.tuples(
            st.sampled_from(["small.bin", "medium.bin", "groups.bin", "lines.txt", "empty"]),
            st.integers(-100_000, 67 * MIB),
            st.one_of(st.none(), st.integers(0, 300_000)),
        ),
        max_size=40,
    )
)
def test_any_pieces_are_those_of_the_files(fs, remote, source, pieces):
    pieces = [
        (name, offset, 1000 if name == "groups.bin" and length is None else length) for name, offset, length in pieces
    ]
    for client in (fs, remote):
        got = client.read_many([(f"/data/{name}", offset, length) for name, offset, length in pieces])
        for (name, offset, length), data in zip(pieces, got, strict=True):
            with open(source / name, "rb") as plain:
                size = os.fstat(plain.fileno()).st_size
                start = min(size, offset if offset >= 0 else max(0, size + offset))
                assert data == os.pread(plain.fileno(), size - start if length is None else length, start)


def test_thousands_of_pieces_travel_in_few_requests(remote, source):
    for number in range(1500):
        (source / "deep" / f"n{number}").write_bytes(b"%d" % number)
    before = count_requests(remote)
    pieces = [(f"/data/deep/n{number}", 0, None) for number in range(1500)]
    assert remote.read_many(pieces) == [b"%d" % number for number in range(1500)]
    after = count_requests(remote)
    assert after["OPEN_MANY"] - before["OPEN_MANY"] == 2
    assert after["READ_MANY"] - before["READ_MANY"] == 2
    assert after["READ"] == before["READ"]
