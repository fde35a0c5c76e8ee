"""Copies of the database: made while it changes, proved byte by byte, installed so that a crash leaves the old state or the new one."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import lmdb
import pytest
from metadata_home import Home, directory

from monofs.metadata import copying
from monofs.metadata.copyfile import (
    CHUNK_BYTES,
    HEAD_BYTES,
    MEMBERS_MAX_BYTES,
    Checker,
    CopyHead,
    pack_head,
    read_copy,
    read_head,
    unpack_head,
)
from monofs.metadata.copying import (
    COPY_PREFIX,
    DatabaseCopy,
    begin_anew,
    copy_database,
    end_install,
    install_database,
    is_installed,
    settle_install,
)
from monofs.metadata.store import COPY_INTERVALS
from monofs.metadata.tables import JobState
from monofs.model.errors import Busy, CopyDamaged, DiskFull, HomeUnusable, InvalidArgument, NotReady, NotSupported

STEPS = ["begun", "unpacked", "synced", "noted", "renamed"]
"""Failpoints of an install, in order; after the last the new database is in place."""


def copy(home: Home, path: Path) -> DatabaseCopy:
    return copy_database(home.store, str(path), software="1", now_ns=7)


def write_form(made: DatabaseCopy, path: Path) -> str:
    """The file form."""
    path.write_bytes(b"".join(bytes(made.read(number)) for number in range(-1, made.head.chunks)))
    return str(path)


def backup(home: Home, path: Path) -> str:
    """The file form of what a home holds now."""
    home.flush()
    made = copy(home, path.with_suffix(".copy"))
    try:
        return write_form(made, path)
    finally:
        made.remove()


def synthetic(path: Path, size: int) -> DatabaseCopy:
    """A copy of bytes that are no database: the form does not care."""
    data = random.Random(size).randbytes(size)
    path.write_bytes(data)
    digest = hashlib.sha256(data).digest()
    return DatabaseCopy(str(path), CopyHead(9, 2, b"m", b"c" * 16, 3, 1, size, digest, 5, 4, b"d", b"k", 7, "1"))


# ---- making ---------------------------------------------------------------------------------------------------------


def test_a_copy_made_while_entries_are_applied_and_flushed_is_the_state_at_its_index(
    home: Home, tmp_path: Path
) -> None:
    home.flush()
    crcs = {home.namespace.applied_index: home.namespace.crc}
    copies: list[DatabaseCopy] = []
    done, flushed = threading.Event(), threading.Semaphore(0)

    def make() -> None:
        try:
            for number in range(12):
                assert flushed.acquire(timeout=30)
                copies.append(copy(home, tmp_path / f"copy{number}"))
        finally:
            done.set()

    thread = threading.Thread(target=make)
    thread.start()
    while not done.is_set():
        number = len(home.log)
        home.create(f"/f{number}")
        if number % 3 == 0:
            home.delete(f"/f{number - 1}")
        crcs[home.namespace.applied_index] = home.namespace.crc
        if number % 50 == 0:
            home.flush()
            flushed.release()
    thread.join()
    assert len(copies) == 12
    assert len({made.head.index for made in copies}) > 1
    for number, made in enumerate(copies):
        head = made.head
        assert head.crc == crcs[head.index]
        (tmp_path / f"opened{number}").mkdir()
        os.rename(made.path, tmp_path / f"opened{number}" / "data.mdb")
        opened = Home(tmp_path / f"opened{number}")
        assert (opened.namespace.applied_index, opened.namespace.crc) == (head.index, head.crc)
        assert opened.findings() == {}
        assert len(opened.tree()) == head.inodes
        opened.close()


def test_a_copy_names_what_it_is_of(tmp_path: Path) -> None:
    home = Home(tmp_path / "db")
    home.initialize(incarnation=5)
    home.mkdir("/a")
    home.flush()
    home.mkdir("/not flushed")
    made = copy(home, tmp_path / "copy")
    head = made.head
    assert (head.index, head.term, head.cluster, head.incarnation, head.inodes) == (2, 1, b"c" * 16, 5, 2)
    assert (head.data_key, head.capability_key, head.created_ns) == (b"data key", b"capability key", 7)
    assert head.size_bytes == os.path.getsize(made.path)
    assert head.sha256 == hashlib.sha256(Path(made.path).read_bytes()).digest()
    made.remove()
    made.remove()
    assert not os.path.exists(made.path)
    home.close()


def test_a_copy_holds_nothing_of_what_was_deleted(home: Home, tmp_path: Path) -> None:
    for number in range(3000):
        home.create(f"/{number:0200d}")
    home.flush()
    for number in range(3000):
        home.delete(f"/{number:0200d}")
    home.flush()
    made = copy(home, tmp_path / "copy")
    assert made.head.size_bytes < os.path.getsize(os.path.join(home.directory, "data.mdb")) / 2


def test_flushes_are_rarer_while_a_copy_is_made(tmp_path: Path) -> None:
    home = Home(tmp_path / "db", flush_interval_s=10.0, flush_changes=100)
    home.initialize()
    store = home.store
    began = store._flush_began
    with store._copying:  # as long as somebody copies
        assert not store.maybe_flush(began + 10 * COPY_INTERVALS - 1)
        assert store.maybe_flush(began + 10 * COPY_INTERVALS)
        home.settle()
        for number in range(150):
            store.write([(5, b"%d" % number, b"")])
        store.meta.applied_index += 1
        assert not store.flush_if_full()
        with pytest.raises(Busy, match="copied already"):
            copy(home, tmp_path / "second")
    assert not os.path.exists(tmp_path / "second")
    assert store.flush_if_full()
    home.settle()
    home.close()
    with pytest.raises(NotReady):
        copy(home, tmp_path / "third")
    assert not os.path.exists(tmp_path / "third")


def test_a_copy_is_refused_where_it_would_leave_no_room(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    copying.check_room(home.store)
    monkeypatch.setattr(copying, "ROOM_LEFT_BYTES", 1 << 60)
    with pytest.raises(DiskFull, match="are free in"):
        copying.check_room(home.store)


# ---- the file form --------------------------------------------------------------------------------------------------


def test_the_file_form_gives_the_database_back_and_may_be_read_on_from_any_border(tmp_path: Path) -> None:
    made = synthetic(tmp_path / "copy", 2 * CHUNK_BYTES + 1234)
    whole = Path(write_form(made, tmp_path / "form")).read_bytes()
    assert len(whole) == made.head.total_bytes
    data = bytearray()
    assert read_copy(str(tmp_path / "form"), data.extend) == made.head == read_head(str(tmp_path / "form"))
    assert data == Path(made.path).read_bytes()
    borders = [0, *(HEAD_BYTES + number * (CHUNK_BYTES + 4) for number in range(3)), len(whole)]
    checker = Checker(made.head, "it")
    for position, offset in enumerate(borders):
        first = made.head.border(offset)
        assert first == position - 1
        assert b"".join(bytes(made.read(n)) for n in range(first, made.head.chunks)) == whole[offset:]
        if offset:
            assert checker.offset == offset
            if first < made.head.chunks:
                checker.take(made.read(first))
    checker.finish()
    for offset in (1, HEAD_BYTES - 1, HEAD_BYTES + 1, HEAD_BYTES + CHUNK_BYTES, len(whole) - 1, len(whole) + 1, -1):
        with pytest.raises(InvalidArgument, match="no border"):
            made.head.border(offset)


def test_every_byte_flipped_is_found(tmp_path: Path) -> None:
    path = tmp_path / "form"
    write_form(synthetic(tmp_path / "copy", 300), path)
    whole = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for position, byte in enumerate(whole):
            os.pwrite(file.fileno(), bytes([byte ^ 0x10]), position)
            with pytest.raises(CopyDamaged):
                read_copy(str(path))
            os.pwrite(file.fileno(), bytes([byte]), position)
    read_copy(str(path))


def test_a_file_cut_or_lengthened_anywhere_near_a_border_is_found(tmp_path: Path) -> None:
    path = tmp_path / "form"
    made = synthetic(tmp_path / "copy", 2 * CHUNK_BYTES + 10)
    whole = Path(write_form(made, path)).read_bytes()
    borders = [0, *(HEAD_BYTES + number * (CHUNK_BYTES + 4) for number in range(3)), len(whole)]
    for cut in {border + by for border in borders for by in (-1, 0, 1)} - {-1, len(whole)}:
        path.write_bytes(whole[:cut] + bytes(cut > len(whole)))
        with pytest.raises(CopyDamaged):
            read_copy(str(path))


def test_chunks_that_changed_places_or_are_of_another_copy_are_found(tmp_path: Path) -> None:
    one, other = synthetic(tmp_path / "1", 2 * CHUNK_BYTES), synthetic(tmp_path / "2", 2 * CHUNK_BYTES + 1)
    with pytest.raises(CopyDamaged, match="chunk 0 of 2"):
        Checker(one.head, "it").take(one.read(1))
    mixed = Checker(one.head, "it")
    mixed.take(one.read(0))
    mixed.take(other.read(1))
    with pytest.raises(CopyDamaged, match="not those of one copy"):
        mixed.finish()
    with pytest.raises(CopyDamaged, match="goes on"):
        mixed.take(one.read(1))


def test_a_head_of_a_newer_release_and_other_files_are_refused_by_name(tmp_path: Path) -> None:
    head = synthetic(tmp_path / "copy", 10).head
    newer = bytearray(pack_head(head))
    newer[11] = 2
    newer[-4:] = zlib.crc32(newer[:-4]).to_bytes(4, "big")
    with pytest.raises(NotSupported, match="format 2"):
        unpack_head(newer, "it")
    for other in (b"", b"x", b"SQLite format 3\0" * 1000):
        (tmp_path / "other").write_bytes(other)
        with pytest.raises(CopyDamaged, match="is no backup of monofs"):
            read_copy(str(tmp_path / "other"))
    with pytest.raises(InvalidArgument, match="membership"):
        pack_head(CopyHead(1, 1, bytes(MEMBERS_MAX_BYTES + 1), b"", 1, 1, 0, b"", 0, 0, b"", b"", 0, ""))


# ---- installing -----------------------------------------------------------------------------------------------------


def filled(at: Path, names: int) -> Home:
    home = Home(at)
    home.initialize()
    for number in range(names):
        home.mkdir(f"/d{number}")
    return home


def state(at: Path) -> tuple[int, int, bool]:
    """Index, running CRC, and whether the journal may be discarded, as a start would find it."""
    noted = settle_install(str(at))
    home = Home(at)
    found = home.namespace.applied_index, home.namespace.crc, is_installed(home.store, noted)
    assert home.findings() == {}
    home.close()
    assert set(os.listdir(at)) <= {"data.mdb", "lock.mdb", "installed"}
    return found


def killed_at(step: str, at: Path, form: str) -> None:
    """Begin an install in another process, which dies at a step."""
    program = "import sys; from monofs.metadata.copying import install_database as i; i(sys.argv[1], sys.argv[2])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(at), form],
        env=os.environ | {"MONOFS_FAILPOINTS": f"install.{step}=kill"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def test_an_install_takes_the_place_of_the_database_once(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", 20)
    form = backup(source, tmp_path / "form")
    expected = source.namespace.applied_index, source.namespace.crc
    source.close()
    filled(tmp_path / "db", 3).close()
    advanced: list[int] = []
    head = install_database(str(tmp_path / "db"), form, advance=advanced.append)
    assert sum(advanced) == head.size_bytes
    assert state(tmp_path / "db") == (*expected, True)
    assert state(tmp_path / "db") == (*expected, True), "until the journal has begun"
    end_install(str(tmp_path / "db"))
    end_install(str(tmp_path / "db"))
    assert state(tmp_path / "db") == (*expected, False)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_of_an_install_the_old_state_or_the_new_one_is_there(tmp_path: Path, step: str) -> None:
    source = filled(tmp_path / "source", 20)
    form = backup(source, tmp_path / "form")
    new = source.namespace.applied_index, source.namespace.crc
    source.close()
    home = filled(tmp_path / "db", 3)
    old = home.namespace.applied_index, home.namespace.crc
    home.close()
    killed_at(step, tmp_path / "db", form)
    assert state(tmp_path / "db") == ((*new, True) if step == "renamed" else (*old, False))
    install_database(str(tmp_path / "db"), form)
    assert state(tmp_path / "db") == (*new, True)


def test_a_copy_of_the_very_state_that_is_there_never_costs_the_journal_behind_it(tmp_path: Path) -> None:
    """The note of an install that was cut short names a database that did not come, even if it is at the same index."""
    home = filled(tmp_path / "db", 3)
    form = backup(home, tmp_path / "form")
    index, crc = home.namespace.applied_index, home.namespace.crc
    home.close()

    killed_at("noted", tmp_path / "db", form)
    assert os.path.exists(tmp_path / "db" / "installed")
    assert state(tmp_path / "db") == (index, crc, False)


def test_an_install_cut_short_over_another_does_not_take_back_what_that_one_allowed(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", 20)
    form = backup(source, tmp_path / "form")
    expected = source.namespace.applied_index, source.namespace.crc
    source.close()
    install_database(str(tmp_path / "db"), form)
    killed_at("noted", tmp_path / "db", form)
    assert state(tmp_path / "db") == (*expected, True)


def test_what_is_damaged_or_refused_leaves_the_old_state(tmp_path: Path) -> None:
    home = filled(tmp_path / "db", 3)
    form = backup(home, tmp_path / "form")
    index, crc = home.namespace.applied_index, home.namespace.crc
    home.close()
    raw = bytearray(Path(form).read_bytes())
    raw[-100] ^= 1
    (tmp_path / "bad").write_bytes(raw)
    with pytest.raises(CopyDamaged):
        install_database(str(tmp_path / "db"), str(tmp_path / "bad"))

    def refuse(_: str) -> None:
        raise HomeUnusable("no")

    with pytest.raises(HomeUnusable):
        install_database(str(tmp_path / "db"), form, prepare=refuse)
    assert not os.path.exists(tmp_path / "db" / "db.new")
    assert state(tmp_path / "db") == (index, crc, False)


def test_copies_of_a_process_that_is_gone_are_removed_at_start(tmp_path: Path) -> None:
    home = filled(tmp_path / "db", 1)
    copy(home, tmp_path / "db" / f"{COPY_PREFIX}0123")
    home.close()
    assert settle_install(str(tmp_path / "db")) == []
    assert settle_install(str(tmp_path / "nothing")) == []
    assert sorted(os.listdir(tmp_path / "db")) == ["data.mdb", "lock.mdb"]
    (tmp_path / "db" / "installed").write_bytes(b"\xc1")
    with pytest.raises(HomeUnusable, match="is damaged"):
        settle_install(str(tmp_path / "db"))


def test_another_life_begins_in_a_higher_incarnation_with_one_voter(tmp_path: Path) -> None:
    home = filled(tmp_path / "db", 1)
    home.store.meta.members = b"three"
    home.mkdir("/more")
    home.close()
    path = str(tmp_path / "db" / "data.mdb")
    for wrong in (0, 1, 65536):
        with pytest.raises(HomeUnusable, match="above 1"):
            begin_anew(path, wrong)
    assert begin_anew(path, 2) == 0
    again = Home(tmp_path / "db")
    assert (again.namespace.incarnation, again.store.meta.members) == (2, b"")
    assert again.findings() == {}
    again.create("/f")
    again.close()
    lmdb.open(str(tmp_path / "empty"), subdir=False, lock=False).close()
    with pytest.raises(HomeUnusable, match="lacks tables"):
        begin_anew(str(tmp_path / "empty"), 2)


def test_another_life_begins_with_the_jobs_paused_that_would_change_stores(tmp_path: Path) -> None:
    home = filled(tmp_path / "db", 0)
    home.mount("/lake")
    home.adopt("/lake", [directory("a"), directory("b"), directory("c")])
    removing, moving = home.remove_tree("/lake/a"), home.rename_tree("/lake/b", "/lake/d")
    home.update_job(1, state=JobState.PAUSED)
    assert [job.state for job in home.namespace.open_tree_jobs()] == [JobState.PAUSED, JobState.RUNNING], (
        removing,
        moving,
    )
    home.close()
    assert begin_anew(str(tmp_path / "db" / "data.mdb"), 2) == 1
    again = Home(tmp_path / "db")
    assert [job.state for job in again.namespace.open_tree_jobs()] == [JobState.PAUSED, JobState.PAUSED]
    assert again.findings() == {}
    again.close()
