"""What goes wrong underneath a reader: nodes die, files change, capabilities end, sockets are missing."""

import errno
import os
import random
import signal
import sys
import threading

import pytest

import monofs
from monofs.model.errors import ContentChanged, MonofsError, NoMaster, NotFound, WriteLost
from monofs.testing.nodes import ServedNode

MIB = 1 << 20
NO_ROOM = "there is no room to cache /full/big.bin: free or unpin something, or raise a quota"

EXPIRED_AT_BIRTH = """
import monofs.master.issuing as issuing
from monofs.cli.main import main
issue = issuing.Issuer.issue
def expired(self, *words, **options):
    issuing.LIFE_S, life = -5, issuing.LIFE_S
    try:
        return issue(self, *words, **options)
    finally:
        issuing.LIFE_S = life
issuing.Issuer.issue = expired
main()
"""


class NodeOfExpired(ServedNode):
    """Its capabilities are 5 s past their life when they are handed out; renewed ones are good."""

    @property
    def command(self):
        return [sys.executable, "-c", EXPIRED_AT_BIRTH, *super().command[3:]]


@pytest.fixture(scope="module")
def expired_node(tmp_path_factory):
    with NodeOfExpired(str(tmp_path_factory.mktemp("expired") / "home")) as served:
        yield served


@pytest.fixture
def changing(fs, source):
    """A client that looks at the store each time, and how to change a file behind its back."""

    def change(name, data):
        temporary = source / f".{name}.new"
        temporary.write_bytes(data)
        temporary.rename(source / name)

    return change


def blob(seed, size=3 * MIB):
    return random.Random(seed).randbytes(size)


def test_a_reader_in_flight_never_sees_two_versions(fs, remote, changing):
    for number, client in enumerate((fs, remote)):
        name = f"flight{number}.bin"
        changing(name, blob(1))
        with client.open(f"/data/{name}") as file:
            assert file.read(MIB) == blob(1)[:MIB]
            changing(name, blob(2))
            with pytest.raises(ContentChanged) as caught:
                file.pread(2 * MIB, 100)
            assert isinstance(caught.value, OSError)
            assert caught.value.errno == errno.ESTALE
            assert file.pread(10, 100) == blob(1)[10:110], "what is cached of the old version can still be read"
        with client.open(f"/data/{name}") as file:
            assert file.read() == blob(2)


def test_a_file_that_changed_before_its_first_byte_is_opened_again_by_itself(fs, remote, changing):
    for number, client in enumerate((fs, remote)):
        name = f"early{number}.bin"
        changing(name, blob(3))
        with client.open(f"/data/{name}") as file:
            changing(name, blob(4, 2 * MIB + 5))
            assert file.read() == blob(4, 2 * MIB + 5)
            changing(name, blob(5))
            assert file.pread(0, 10) == blob(4, 2 * MIB + 5)[:10]


def test_a_load_of_a_file_that_changed_fetches_what_is_there_now(fs, changing):
    changing("swap.bin", blob(20, MIB))
    reader = fs.reader("/data/swap.bin")
    changing("swap.bin", blob(21, 2 * MIB))
    reader.fetch_all()
    assert [group.bytes for group in fs.cached(["/data/swap.bin"])["/data/swap.bin"]] == [2 * MIB]
    assert fs.read("/data/swap.bin") == blob(21, 2 * MIB)
    changing("kept.bin", blob(22, 9 * MIB))
    reader = fs.reader("/data/kept.bin")
    reader.read_into(0, memoryview(bytearray(10)))
    changing("kept.bin", blob(23, 9 * MIB))
    with pytest.raises(ContentChanged):  # bytes of the first version were told
        reader.fetch_all()


def test_a_size_that_was_told_is_not_taken_back(fs, changing):
    changing("told.bin", blob(6))
    with fs.open("/data/told.bin") as file:
        assert file.seek(0, 2) == 3 * MIB
        changing("told.bin", blob(7, MIB))
        with pytest.raises(ContentChanged):
            file.pread(0, 10)
    with fs.open("/data/told.bin") as file:
        assert file.size == MIB
        changing("told.bin", blob(8, MIB))
        assert file.read() == blob(8, MIB), "the same size: nothing told was wrong"


def test_all_pieces_of_a_file_in_one_call_are_of_one_version(fs, remote, changing):
    for number, client in enumerate((fs, remote)):
        name = f"pieces{number}.bin"
        changing(name, blob(9, 8 * MIB))
        assert client.read(f"/data/{name}", 0, 10) == blob(9, 8 * MIB)[:10]
        changing(name, blob(10, 8 * MIB))
        pieces = [(f"/data/{name}", offset * MIB, 1000) for offset in range(8)]
        got = client.read_many(pieces)
        assert got == [blob(10, 8 * MIB)[offset * MIB : offset * MIB + 1000] for offset in range(8)]


def test_a_removed_file_is_gone_and_its_open_reader_is_told(fs, source, changing):
    changing("gone.bin", blob(11))
    with fs.open("/data/gone.bin") as file:
        assert file.read(10) == blob(11)[:10]
        os.unlink(source / "gone.bin")
        with pytest.raises(ContentChanged):
            file.pread(2 * MIB, 10)
    with pytest.raises(FileNotFoundError):
        fs.stat("/data/gone.bin", sync_interval_s=0.0)
    changing("gone.bin", blob(12))
    fs.stat("/data/gone.bin", sync_interval_s=0.0)
    with fs.open("/data/gone.bin") as file:
        os.unlink(source / "gone.bin")
        with pytest.raises(NotFound):
            file.read(10)


def test_expired_capabilities_are_renewed_under_the_reader(expired_node, tmp_path):
    (tmp_path / "a.bin").write_bytes(blob(13))
    (tmp_path / "b.bin").write_bytes(blob(14))
    with expired_node.connect() as fs:
        fs.mount_add("/x", f"file://{tmp_path}")
        with fs.open("/x/a.bin") as file:
            assert file.read() == blob(13)
        assert fs.read_many([("/x/a.bin", 0, 5), ("/x/b.bin", MIB, 5)]) == [blob(13)[:5], blob(14)[MIB : MIB + 5]]


def test_a_retired_capability_reads_what_is_held_and_then_says_the_file_changed(expired_node, tmp_path):
    path = tmp_path / "c.bin"
    path.write_bytes(blob(15))
    with expired_node.connect() as fs:
        fs.mount_add("/retired", f"file://{tmp_path}")
        with fs.open("/retired/c.bin") as file, fs.open("/retired/c.bin") as untouched:
            assert file.read(MIB) == blob(15)[:MIB]
            (tmp_path / "new").write_bytes(blob(16))
            (tmp_path / "new").rename(path)
            fs.stat("/retired/c.bin", sync_interval_s=0.0)
            assert file.pread(5, 10) == blob(15)[5:15]
            with pytest.raises(ContentChanged):
                file.pread(2 * MIB, 10)
            assert untouched.read() == blob(16)


@pytest.mark.parametrize("local", [True, False], ids=["descriptors", "sockets"])
def test_a_killed_node_is_ridden_out_in_the_middle_of_a_file(tmp_path, local):
    expected = blob(17, 40 * MIB)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "big.bin").write_bytes(expected)
    served = ServedNode(str(tmp_path / "home")).start()
    try:
        with served.connect(timeout_s=60.0) as fs:
            fs.mount_add("/k", f"file://{tmp_path}/source")
            if not local:
                os.unlink(os.path.join(served.home, "worker.sock"))
            with fs.open("/k/big.bin") as file:
                got = bytearray(file.read(7 * MIB + 3))
                served.kill()
                restart = threading.Thread(target=served.start)
                restart.start()
                while piece := file.read(300_000):
                    got += piece
                restart.join(60)
                assert got == expected
            assert fs.read("/k/big.bin", -5, None) == expected[-5:]
            assert fs.stat("/k/big.bin").size == len(expected)
    finally:
        served.stop()


def test_cached_local_files_are_read_while_the_node_is_down(tmp_path):
    (tmp_path / "a.bin").write_bytes(blob(18))
    served = ServedNode(str(tmp_path / "home")).start()
    try:
        with served.connect(timeout_s=2.0) as fs:
            fs.mount_add("/a", f"file://{tmp_path}")
            with fs.open("/a/a.bin") as file:
                file.read()
                served.kill()
                assert file.pread(0) == blob(18)
            with pytest.raises(OSError, match="no master answers"):
                fs.stat("/a/a.bin")
    finally:
        served.kill()


def test_a_node_that_hangs_ends_in_a_timeout_and_is_used_again_when_it_goes_on(tmp_path):
    (tmp_path / "a.bin").write_bytes(blob(20))
    with ServedNode(str(tmp_path / "home")) as served, served.connect(timeout_s=1.0) as fs:
        fs.mount_add("/a", f"file://{tmp_path}")
        file = fs.open("/a/a.bin")
        served.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError) as caught:
                fs.stat("/a")
            assert isinstance(caught.value, MonofsError)
            with pytest.raises(NoMaster):
                file.read(10)
        finally:
            served.process.send_signal(signal.SIGCONT)
        assert file.read() == blob(20)
        file.close()


def test_what_is_cached_is_read_while_the_store_is_gone(node, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    for name in ("warm.bin", "cold.bin"):
        (store / name).write_bytes(blob(21))
    with node.connect(sync_interval_s=-1.0, timeout_s=5.0) as fs:
        fs.mount_add("/store", f"file://{store}")
        fs.load("/store/warm.bin")
        cold = fs.open("/store/cold.bin")
        store.rename(tmp_path / "away")
        assert fs.read("/store/warm.bin") == blob(21)
        results = fs.read_many([("/store/cold.bin", 0, 10), ("/store/warm.bin", 5, 10)], on_error="return")
        assert isinstance(results[0], MonofsError)
        assert results[1] == blob(21)[5:15]
        with pytest.raises(MonofsError):
            cold.read(10)
        (tmp_path / "away").rename(store)
        with fs.open("/store/cold.bin") as file:
            assert file.read() == blob(21)
        cold.close()
        fs.mount_remove("/store")


def test_a_cache_too_small_for_a_file_still_gives_its_bytes_and_load_says_so(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "big.bin").write_bytes(blob(22, 12 * MIB + 5))
    (tmp_path / "source" / "small.bin").write_bytes(blob(23, MIB))
    with ServedNode(str(tmp_path / "home"), sets=["worker.quota=4MiB"]) as served, served.connect() as fs:
        fs.mount_add("/full", f"file://{tmp_path}/source")
        with fs.open("/full/big.bin") as file:
            assert file.read() == blob(22, 12 * MIB + 5)
            assert file.pread(11 * MIB, 100) == blob(22, 12 * MIB + 5)[11 * MIB : 11 * MIB + 100]
        assert fs.read("/full/big.bin", -100, None) == blob(22, 12 * MIB + 5)[-100:]
        assert fs.read("/full/small.bin") == blob(23, MIB)
        result = fs.load("/full")
        assert result.failures == [("/full/big.bin", NO_ROOM)]
        done = served.cli("fs", "load", "/full")
        assert (done.returncode, done.stdout[:15]) == (1, "loaded 1 files,")
        assert "not all of it is cached" in done.stderr
        assert done.stderr.endswith(f"failed: /full/big.bin: {NO_ROOM}\n")
        with fs.open("/full/big.bin") as file:
            assert b"".join(iter(lambda: file.read(700_000), b"")) == blob(22, 12 * MIB + 5)


def test_a_socket_that_does_not_connect_is_left_for_tcp(tmp_path):
    (tmp_path / "a.bin").write_bytes(blob(19))
    with ServedNode(str(tmp_path / "home")) as served:
        os.unlink(os.path.join(served.home, "worker.sock"))
        with served.connect() as fs:
            fs.mount_add("/a", f"file://{tmp_path}")
            with fs.open("/a/a.bin") as file:
                assert file.read() == blob(19)
            assert not fs._session().cluster.links()[0].is_local


def test_no_master_is_told_at_once_and_what_to_do():
    with pytest.raises(NoMaster, match="monofs serve") as caught:
        monofs.connect("127.0.0.1:1", timeout_s=30.0)
    assert isinstance(caught.value, OSError)
    with pytest.raises(OSError, match="is not an address"):
        monofs.connect("nonsense")


def test_whoever_waits_for_a_load_is_told_when_no_master_answers_any_more(tmp_path):
    directory = tmp_path / "many"
    directory.mkdir()
    for n in range(40):
        (directory / f"{n}.bin").write_bytes(b"x" * 1000)
    with ServedNode(str(tmp_path / "home")) as node, node.connect(timeout_s=1.0) as fs:
        fs.mount_add("/many", f"file://{directory}")
        with pytest.raises(NoMaster):
            fs.load("/many", progress=lambda _: node.kill())


def test_whole_writes_ride_out_killed_nodes_and_streams_say_that_they_cannot(tmp_path):
    (tmp_path / "store").mkdir()
    served = ServedNode(str(tmp_path / "home")).start()
    try:
        with served.connect(timeout_s=60.0) as fs:
            fs.mount_add("/w", f"file://{tmp_path}/store")
            stream = fs.open("/w/stream", "wb")
            stream.write(blob(31, 12 * MIB))
            at_hand = fs.open("/w/at-hand", "wb")
            at_hand.write(blob(32))
            written = []

            def write():
                for number in range(60):
                    fs.write(f"/w/{number}", blob(number, 200_000))
                    written.append(number)

            writer = threading.Thread(target=write)
            writer.start()
            for passed in (10, 30):
                while len(written) < passed and writer.is_alive():
                    writer.join(0.01)
                served.kill()
                served.start()
            writer.join()
            assert written == list(range(60))
            at_hand.close()
            with pytest.raises(WriteLost):
                stream.close()
            names = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
            assert names == {str(n): blob(n, 200_000) for n in range(60)} | {"at-hand": blob(32)}
    finally:
        served.stop()
