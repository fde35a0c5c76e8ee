"""One file system object in many processes: fork, forkserver, spawn, pickles, and the descriptors each process holds."""

import gc
import io
import multiprocessing
import os
import pickle
import threading
import time

import pytest

import monofs
from monofs.client.descriptors import DESCRIPTORS_MAX, process_table

MIB = 1 << 20


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def in_child(work):
    """Run ``work`` in a forked child; its exception's text comes back."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os.write(writer, b"ok")
        except BaseException as error:
            os.write(writer, repr(error).encode()[:4000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said == b"ok", said


def read_in_process(fs, path, offset, length, results):
    with fs.open(path) as file:
        results.put((file.pread(offset, length), fs.stat(path).size, fs.read(path, 0, 10)))


def read_inherited(file, results):
    results.put(file.read(1000))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_of_every_start_method_read(fs, source, method):
    expected = (source / "groups.bin").read_bytes()
    fs.read("/data/groups.bin", 64 * MIB, 100)
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    child = context.Process(target=read_in_process, args=(fs, "/data/groups.bin", 64 * MIB, 1000, results))
    child.start()
    assert results.get() == (expected[64 * MIB : 64 * MIB + 1000], len(expected), expected[:10])
    child.join(30)
    assert child.exitcode == 0


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_an_open_file_goes_on_at_its_position_in_another_process(fs, source, method):
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    with fs.open("/data/small.bin") as file:
        file.seek(500)
        child = context.Process(target=read_inherited, args=(file, results))
        child.start()
        assert results.get() == (source / "small.bin").read_bytes()[500:1500]
        assert file.tell() == 500
    child.join(30)


def test_a_file_open_at_a_fork_goes_on_in_both_with_a_position_each(fs, remote, source):
    expected = (source / "medium.bin").read_bytes()
    for client in (fs, remote):
        with client.open("/data/medium.bin") as file:
            file.read(MIB)

            def work(file=file):
                assert file.tell() == MIB
                assert file.read() == expected[MIB:]
                file.close()

            in_child(work)
            assert file.tell() == MIB
            assert file.read(100) == expected[MIB : MIB + 100]


def test_a_child_uses_nothing_of_its_parent_and_the_parent_keeps_its_own(fs, source):
    fs.read("/data/medium.bin", 0, MIB + 1)
    with fs.open("/data/medium.bin") as file:
        file.read()
        assert process_table().open_count() > 0
        before = open_descriptors()
        leases = descriptors_out(fs)

        def work():
            assert process_table().open_count() == 0
            assert fs._live is None
            with fs.open("/data/medium.bin") as other:
                assert other.read(10) == (source / "medium.bin").read_bytes()[:10]
            fs.close()

        in_child(work)
        assert open_descriptors() == before
        assert file.pread(5, 10) == (source / "medium.bin").read_bytes()[5:15]
        assert descriptors_out(fs) >= leases, "the child gave back what was its parent's"


def descriptors_out(fs):
    return next(iter(fs.worker_status().values())).counters["monofs_descriptors_out"]


def test_forking_while_other_threads_read_harms_neither_side(fs, remote, source):
    expected = (source / "groups.bin").read_bytes()
    stop, failures = threading.Event(), []

    def read_on(client, seed):
        try:
            i = seed
            with client.open("/data/groups.bin") as file:
                while not stop.is_set():
                    i += 1
                    offset = i * 1_300_007 % len(expected)
                    assert file.pread(offset, 9000) == expected[offset : offset + 9000]
                    if i % 5 == 0:
                        assert client.read("/data/small.bin", 10, 10) == (source / "small.bin").read_bytes()[10:20]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read_on, args=(client, n)) for n, client in enumerate((fs, fs, remote, remote))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            in_child(lambda: read_both(fs, remote, expected))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not failures


def read_both(fs, remote, expected):
    for client in (fs, remote):
        with client.open("/data/groups.bin") as file:
            assert file.pread(65 * MIB, 100) == expected[65 * MIB : 65 * MIB + 100]


def test_a_pickle_holds_addresses_and_options_only(fs, node):
    fs.read("/data/small.bin")
    data = pickle.dumps(fs)
    assert len(data) < 500
    with pickle.loads(data) as other:
        assert other.stat("/data").is_dir
        assert repr(other) == repr(fs)
    with monofs.connect(node.doors["rpc"], read_type="NO_CACHE", sync_interval_s=0.0, timeout_s=7.0) as odd:
        copy = pickle.loads(pickle.dumps(odd))
        assert copy._options == odd._options or copy._options.read_type == "NO_CACHE"
        copy.close()


def test_a_pickled_file_whose_content_changed_says_so(fs, source):
    (source / "pickled.bin").write_bytes(b"one")
    with fs.open("/data/pickled.bin") as file:
        assert file.read() == b"one"
        data = pickle.dumps(file)
    (source / "pickled.bin").write_bytes(b"other")
    fs.stat("/data/pickled.bin", sync_interval_s=0.0)
    with pytest.raises(OSError, match="changed since") as caught:
        pickle.loads(data)
    assert type(caught.value).__name__ == "ContentChanged"


def test_a_process_never_holds_more_descriptors_than_its_bound(fs, source):
    count = DESCRIPTORS_MAX + 60
    for number in range(count):
        (source / "deep" / f"d{number}").write_bytes(b"%d" % number * 100)
    files = [fs.open(f"/data/deep/d{number}") for number in range(count)]
    try:
        for _ in range(2):
            for number, file in enumerate(files):
                assert file.pread(0, 10) == (b"%d" % number * 100)[:10]
                assert process_table().open_count() <= DESCRIPTORS_MAX
        pinned = 0
        for number, file in enumerate(files):
            try:
                assert os.pread(file.fileno(), 5, 0) == (b"%d" % number * 100)[:5]
                pinned += 1
            except io.UnsupportedOperation:
                assert file.read(5) == (b"%d" % number * 100)[:5], "past the bound, bytes come over the socket"
        assert 0 < pinned <= DESCRIPTORS_MAX
        assert process_table().open_count() <= DESCRIPTORS_MAX
    finally:
        for file in files:
            file.close()


def test_opening_reading_and_closing_leaks_nothing(fs, remote, node):
    for client in (fs, remote):
        client.read("/data/small.bin")
        with client.open("/data/small.bin") as file:
            file.read()
        gc.collect()
        before = open_descriptors()
        for _ in range(100):
            with client.open("/data/small.bin") as file:
                file.read()
                file.mmap().close() if client is fs else None
        client.open("/data/small.bin").read(10)
        gc.collect()
        assert open_descriptors() == before
    before = open_descriptors()
    with monofs.connect(node.doors["rpc"]) as third:
        third.read("/data/medium.bin")
        with third.open("/data/medium.bin") as file:
            file.read()
        assert open_descriptors() > before
    assert open_descriptors() == before


def test_leases_go_back_to_the_worker_when_a_file_system_closes(fs, node, source):
    before = descriptors_out(fs)
    with monofs.connect(node.doors["rpc"]) as other:
        with other.open("/data/medium.bin") as file:
            file.read()
        assert descriptors_out(fs) > before
    deadline_rounds = 200
    while descriptors_out(fs) > before and deadline_rounds:
        deadline_rounds -= 1  # the worker sees the closed connection on its next turns
    assert descriptors_out(fs) == before


def test_a_program_that_reads_on_gives_back_what_a_full_worker_wants(tmp_path, monkeypatch):
    """Its descriptor holds the room of a file that is gone; the program goes on reading meanwhile, and never a wrong byte."""
    import monofs.client.descriptors as descriptors
    from monofs.testing.nodes import ServedNode

    monkeypatch.setattr(descriptors, "_table", descriptors.DescriptorTable(idle_s=0.1))
    (tmp_path / "store").mkdir()
    data = os.urandom(2 * MIB)
    (tmp_path / "store" / "f").write_bytes(data)
    with ServedNode(str(tmp_path / "home"), sets=["worker.quota=8MiB"]) as node, node.connect() as fs:
        fs.mount_add("/s", f"file://{tmp_path}/store", sync_interval_s=-1.0)
        with fs.open("/s/f") as file:
            assert file.pread(0, 2 * MIB) == data

            def tier():
                return next(iter(fs.worker_status().values())).tiers[0]

            fs.free("/s/f", force=True)
            assert tier().held_bytes == 2 * MIB
            end = time.monotonic() + 30
            while tier().held_bytes:
                assert time.monotonic() < end, "the descriptor was not given back"
                assert file.pread(MIB, 4096) == data[MIB : MIB + 4096]
            assert file.pread(0, 2 * MIB) == data
