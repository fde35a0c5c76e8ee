"""Damage and loss in the home of a node: it starts with all that was acknowledged, or refuses with a sentence that says what to do; never less.

Damage is done to the files of a killed node: journal, metadata database, cache index; and a home on a file system without room.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disks import Outside, fill, small_disk

from monofs.journal.frames import BLOCK_BYTES
from monofs.model.errors import DiskFull, MonofsError, Overloaded
from monofs.testing.nodes import NodeFailed, ServedNode

pytestmark = pytest.mark.system
MADE = 300
NEVER_FLUSH = ["namespace.flush_interval_s=3600"]
"""So that a killed node's acknowledged changes are in its journal only."""


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[ServedNode]:
    """A node that was killed after it acknowledged directories ``/d0`` to ``/d299``, none of them flushed."""
    node = ServedNode(str(tmp_path / "home"), sets=NEVER_FLUSH).start()
    make(node, 0, MADE)
    node.kill()
    yield node
    node.kill()


def make(node: ServedNode, first: int, last: int) -> None:
    with node.connect() as fs:
        for number in range(first, last):
            fs.make_directory(f"/d{number}")


def check_whole(node: ServedNode, count: int = MADE) -> None:
    """All that was acknowledged is there, and every invariant holds."""
    with node.connect() as fs:
        assert sorted(fs.names("/")) == sorted(f"d{number}/" for number in range(count))
    done = node.cli("admin", "fsck")
    assert done.returncode == 0, done.stdout


def refusal(node: ServedNode, code: int = 1) -> str:
    """What a node says that will not start: one sentence, no traceback, an exit code, and nothing serves."""
    said_before = len(node.output())
    with pytest.raises(NodeFailed):
        node.start()
    assert node.process is not None
    assert node.process.returncode == code
    said = node.output()[said_before:]
    assert said.startswith("monofs: ")
    assert "Traceback" not in said
    return said


def segments(node: ServedNode) -> list[str]:
    directory = os.path.join(node.home, "journal")
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(".segment")]


def end_of_log(path: str) -> int:
    """Where the zeros begin."""
    with open(path, "rb") as stream:
        return -(-len(stream.read().rstrip(b"\0")) // BLOCK_BYTES) * BLOCK_BYTES


def overwrite(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as stream:
        stream.seek(offset)
        stream.write(data)


# ---- the journal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", ["garbage", "half a frame", "an announced frame"])
def test_a_torn_tail_is_cut_and_all_acknowledged_is_there(killed: ServedNode, torn: str) -> None:
    path = segments(killed)[0]
    end = end_of_log(path)
    with open(path, "rb") as stream:
        stream.seek(end - BLOCK_BYTES)
        last = stream.read(BLOCK_BYTES)
    if torn == "garbage":
        overwrite(path, end, os.urandom(3 * BLOCK_BYTES))
    elif torn == "half a frame":
        overwrite(path, end, last[:100])
    else:
        overwrite(path, end, last[:32] + struct.pack(">I", 1 << 20) + last[36:])
    killed.start()
    check_whole(killed)
    make(killed, MADE, MADE + 5)
    killed.kill()
    killed.start()
    check_whole(killed, MADE + 5)


def test_a_tail_torn_in_its_last_frame_loses_that_frame_and_no_other(killed: ServedNode) -> None:
    """As if the last write, never acknowledged, had been cut by the power."""
    path = segments(killed)[0]
    overwrite(path, end_of_log(path) - BLOCK_BYTES + 40, b"\xff" * 8)
    killed.start()
    check_whole(killed, MADE - 1)


def test_damage_in_the_middle_is_refused_with_the_remedy_and_the_remedy_works(killed: ServedNode) -> None:
    path = segments(killed)[0]
    overwrite(path, end_of_log(path) // 2 // BLOCK_BYTES * BLOCK_BYTES + 60, b"\xff" * 16)
    said = refusal(killed)
    assert "backup" in said
    assert "monofs admin journal verify" in said
    assert refusal(killed) == said  # nothing was changed by the first try
    found = killed.cli("admin", "journal", "verify", killed.home)
    assert found.returncode == 1
    last = found.stdout.split(" whole")[0].rpartition(" ")[2]
    assert killed.cli("admin", "journal", "cut", killed.home, "--after", last).returncode == 0
    killed.start()
    with killed.connect() as fs:
        kept = list(fs.names("/"))
        assert 0 < len(kept) < MADE
    assert killed.cli("admin", "fsck").returncode == 0


def test_a_journal_that_is_gone_while_the_database_stays_is_refused(tmp_path: Path) -> None:
    """The database may lack the last acknowledged changes: nobody can tell any more."""
    with ServedNode(str(tmp_path / "home")) as node:
        make(node, 0, 10)
        assert node.cli("admin", "fsck").returncode == 0  # which flushes
        node.kill()
        shutil.move(os.path.join(node.home, "journal"), tmp_path / "journal")
        for _ in range(2):
            said = refusal(node)
            assert "journal" in said
            assert "backup" in said
        done = node.cli("admin", "fsck", "--home", node.home)
        assert done.returncode == 1
        assert "journal" in done.stderr
        shutil.rmtree(os.path.join(node.home, "journal"), ignore_errors=True)
        shutil.move(tmp_path / "journal", os.path.join(node.home, "journal"))
        node.start()
        check_whole(node, 10)


def test_an_older_journal_than_the_database_is_refused(tmp_path: Path) -> None:
    with ServedNode(str(tmp_path / "home")) as node:
        make(node, 0, 10)
        node.kill()
        shutil.copytree(os.path.join(node.home, "journal"), tmp_path / "older")
        node.start()
        make(node, 10, 20)
        assert node.stop() == 0
        shutil.rmtree(os.path.join(node.home, "journal"))
        shutil.copytree(tmp_path / "older", os.path.join(node.home, "journal"))
        assert "journal" in refusal(node)


# ---- the database -----------------------------------------------------------------------------------------------------


def test_a_lost_database_is_built_again_from_a_whole_journal(killed: ServedNode) -> None:
    shutil.rmtree(os.path.join(killed.home, "namespace"))
    killed.start()
    check_whole(killed)


def test_a_lost_database_whose_journal_was_trimmed_is_refused(tmp_path: Path) -> None:
    sets = ["journal.segment_bytes=65536", "namespace.flush_interval_s=0.1"]
    with ServedNode(str(tmp_path / "home"), sets=sets) as node:
        make(node, 0, 100)
        assert node.cli("admin", "fsck").returncode == 0
        make(node, 100, 120)
        node.kill()
        shutil.move(os.path.join(node.home, "namespace"), tmp_path / "namespace")
        for _ in range(2):
            assert "backup" in refusal(node)
        shutil.rmtree(os.path.join(node.home, "namespace"))
        shutil.move(tmp_path / "namespace", os.path.join(node.home, "namespace"))
        node.start()
        check_whole(node, 120)


def test_a_home_that_lost_journal_and_database_does_not_begin_anew(killed: ServedNode) -> None:
    for name in ("journal", "namespace"):
        shutil.rmtree(os.path.join(killed.home, name))
    for _ in range(2):
        said = refusal(killed)
        assert "backup" in said
        assert "--home" in said


def test_the_namespace_of_another_home_is_refused(killed: ServedNode, tmp_path: Path) -> None:
    with ServedNode(str(tmp_path / "other")) as other:
        other.stop()
    for name in ("journal", "namespace"):
        shutil.rmtree(os.path.join(killed.home, name))
        shutil.copytree(os.path.join(other.home, name), os.path.join(killed.home, name))
    assert "cluster" in refusal(killed)


def test_a_garbled_database_is_refused_not_crashed_on(killed: ServedNode) -> None:
    path = os.path.join(killed.home, "namespace", "data.mdb")
    overwrite(path, 0, os.urandom(8192))
    assert "namespace" in refusal(killed)


def test_another_secret_is_refused(killed: ServedNode) -> None:
    path = os.path.join(killed.home, "cluster.secret")
    with open(path, "w") as stream:
        stream.write("0" * 64)
    assert "secret" in refusal(killed)


def test_a_damaged_format_is_refused(killed: ServedNode) -> None:
    with open(os.path.join(killed.home, "format"), "wb") as stream:
        stream.write(b"\0" * 40)
    assert "damaged" in refusal(killed)


# ---- a disk without room ----------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "24m") as place:
        yield place


def test_a_full_disk_refuses_changes_or_stops_the_node_and_loses_nothing(disk: Path) -> None:
    sets = ["journal.segment_bytes=262144", "journal.retain_bytes=1048576", "worker.quota=1MiB"]
    node = Outside(str(disk / "home"), sets=sets)
    made: list[str] = []
    try:
        node.start()
        with node.connect(timeout_s=5) as fs:
            fs.make_directory("/d")
            fill(disk)
            error: MonofsError | None = None
            for number in range(3000):
                name = f"/d/{number:0250}"
                try:
                    fs.make_directory(name)
                except MonofsError as raised:
                    error = raised
                    break
                made.append(name)
            assert error is not None
            if node.process is not None and node._wait(3.0):
                assert node.process.returncode == 70
                assert "stopped to protect data" in node.output()
                assert "full" in node.output()
                assert "space" in refusal(node, 10)
            else:
                assert isinstance(error, DiskFull | Overloaded), error
                assert fs.stat("/d").is_dir
            assert "Traceback" not in node.output()
        (disk / "filler").unlink()
        if node.process is not None and node.process.poll() is not None:
            node.start()
        with node.connect() as fs:
            fs.make_directory("/after", exist_ok=True)
            there = {info.path for info in fs.list("/d")}
            assert not set(made) - there
            assert len(there) <= len(made) + 1
        assert node.cli("admin", "fsck").returncode == 0
    finally:
        node.kill()
