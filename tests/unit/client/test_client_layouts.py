"""Files that are one block: however large, a program on the worker's machine has one descriptor of them."""

import io
import itertools
import os
import random

import pytest
from test_client_reading import count_requests

from monofs.client.descriptors import process_table
from monofs.model.block import LAYOUT_WHOLE

MIB = 1 << 20
SIZE = 200 * MIB + 13
_names = itertools.count()


@pytest.fixture
def whole(fs, source):
    """A file below a path whose files are one block; (path, bytes)."""
    fs.set_policy("/data/whole", layout=LAYOUT_WHOLE)
    (source / "whole").mkdir(exist_ok=True)
    data = random.Random(7).randbytes(1 << 16) * (SIZE // (1 << 16) + 1)
    data = bytearray(data[:SIZE])
    for at in range(0, SIZE - 8, MIB // 2):  # no two pages are the same
        data[at : at + 8] = at.to_bytes(8, "big")
    name = f"large-{next(_names)}.bin"
    (source / "whole" / name).write_bytes(data)
    yield f"/data/whole/{name}", bytes(data)
    (source / "whole" / name).unlink()
    fs.sync("/data/whole")


def same(file, data, *, pieces=40):
    draw = random.Random(3)
    for _ in range(pieces):
        offset = draw.randrange(SIZE)
        assert file.pread(offset, 70_000) == data[offset : offset + 70_000]
    for border in (64 * MIB, 128 * MIB, 192 * MIB, SIZE):
        assert file.pread(border - 9, 20) == data[border - 9 : border + 11]


def test_a_large_file_of_one_block_is_read_through_one_descriptor(fs, whole):
    path, data = whole
    before = process_table().open_count()
    with fs.open(path) as file:
        assert file._reader.opened.inode.layout == LAYOUT_WHOLE
        same(file, data)
        assert file.read() == data
        assert process_table().open_count() == before + 1
        requests = count_requests(fs)
        same(file, data)
        buffer = bytearray(MIB)
        file.seek(64 * MIB - 5)
        assert file.readinto(buffer) == MIB
        assert buffer == data[64 * MIB - 5 : 65 * MIB - 5], "a read is not cut where a group ends"
        assert count_requests(fs) == requests, "no worker is asked for bytes that are here"
        assert os.fstat(file.fileno()).st_size == SIZE
        with file.mmap() as mapped:
            assert mapped[127 * MIB : 129 * MIB] == data[127 * MIB : 129 * MIB]
            assert len(mapped) == SIZE


def test_what_is_not_there_yet_is_never_read_from_the_file(fs, whole):
    path, data = whole
    with fs.open(path) as file:
        file.pread(130 * MIB, 1)
        assert file.pread(63 * MIB, 3 * MIB) == data[63 * MIB : 66 * MIB]
        with pytest.raises(io.UnsupportedOperation, match="not one complete"):
            file.fileno()
        same(file, data)


def test_it_is_read_over_a_socket_freed_and_loaded_like_any_other(fs, remote, whole):
    path, data = whole
    assert remote.read(path) == data
    with fs.open(path) as file:
        same(file, data)
        fs.free(path)
        same(file, data)
        assert file.pread(0, SIZE) == data
    fs.free(path)
    fs.load(path)
    with fs.open(path) as file:
        assert os.pread(file.fileno(), 9, 150 * MIB) == data[150 * MIB : 150 * MIB + 9]


@pytest.mark.parametrize("path", ["/data/whole/written.bin", "/only-here/written.bin"])
def test_what_is_written_lies_in_one_file_at_once(fs, whole, path):
    _, data = whole
    fs.set_policy("/only-here", layout=LAYOUT_WHOLE)
    with fs.open(path, "wb") as file:
        for at in range(0, SIZE, 16 * MIB):
            file.write(data[at : at + 16 * MIB])
    with fs.open(path) as file:
        assert os.fstat(file.fileno()).st_size == SIZE
        same(file, data)
