"""A backup of the home of a stopped master, when no majority is left that could make one."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path

import pytest

from monofs.config.schema import JournalConfig, NamespaceConfig
from monofs.journal.face import Entry
from monofs.journal.frames import RECORD_BYTES
from monofs.journal.log_files import LogFiles
from monofs.journal.raft.messages import EntryType, HardState, LogEntry, Membership, NodeId, Persist, Position
from monofs.master.secrets import make_keys
from monofs.metadata.entries import Initialize, MakeDirectory, Stamp
from monofs.metadata.entry_kinds import encode_entry
from monofs.metadata.namespace import Namespace
from monofs.metadata.snapshot import open_offline
from monofs.metadata.store import Store
from monofs.model.errors import AlreadyExists, HomeInUse, HomeUnusable
from monofs.node.forming import load_identity
from monofs.node.home import open_home
from monofs.node.restoring import restore_home
from monofs.node.salvaging import back_up_home

SECRET = "0123456789abcdef0123456789abcdef"
CLUSTER = b"c" * 16


def make(path: str) -> Entry:
    return encode_entry(MakeDirectory(Stamp(2), path, 0o755, 0, 0, False, False))


def entry(index: int, term: int, change: Entry | None) -> LogEntry:
    sort = EntryType.EMPTY if change is None else EntryType.NORMAL
    return LogEntry(term, index, sort, change, RECORD_BYTES + (0 if change is None else len(change.body)))


@pytest.fixture
def member(tmp_path: Path) -> str:
    """The home of one of three masters, killed: its database has the first entry only, and of its journal a later leader took one back."""
    home = open_home(str(tmp_path / "home"), software="0", now_ns=1)
    load_identity(home, "m1", has_log=False)
    keys = make_keys(SECRET.encode(), CLUSTER)
    first = encode_entry(Initialize(Stamp(1), CLUSTER, 1, keys.data, keys.capability))
    waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    store = Store(
        home.path("namespace"), NamespaceConfig(), call_soon=waiting.put, on_flushed=int, on_failure=pytest.fail
    )
    Namespace(store).apply(1, 1, first)
    store.close()
    log = LogFiles(home.path("journal"), JournalConfig(segment_bytes=1 << 20))
    log.open(Position(0, 0), Membership((NodeId(1), NodeId(2), NodeId(3))), may_discard=False)
    log.persist(
        Persist(
            HardState(1, NodeId(2)), None, [entry(1, 1, first), entry(2, 1, make("/kept")), entry(3, 1, make("/lost"))]
        )
    )
    log.persist(Persist(HardState(2, NodeId(3)), 3, [entry(3, 2, None), entry(4, 2, make("/last"))]))
    log.close()
    home.close()
    return home.directory


def contents(directory: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


def test_what_a_master_holds_is_backed_up_to_its_last_entry_and_its_home_stays_as_it_was(
    member: str, tmp_path: Path
) -> None:
    before = {name: data for name, data in contents(member).items() if not name.endswith("lock")}
    file = str(tmp_path / "backup")
    assert back_up_home(member, file, overwrite=False).index == 4
    assert {name: data for name, data in contents(member).items() if not name.endswith("lock")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "home"]
    with pytest.raises(AlreadyExists):
        back_up_home(member, file, overwrite=False)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    restore_home(file, str(tmp_path / "new"), secret_file=str(secret))
    with open_offline(str(tmp_path / "new" / "namespace" / "data.mdb")) as snapshot:
        names = {name for parent in snapshot.parents(-1, 9) for name, _ in snapshot.scan(parent, b"", 9)}
    assert {b"kept/", b"last/"} <= names
    assert b"lost/" not in names


def test_only_a_home_of_a_master_that_nobody_serves_is_backed_up(member: str, tmp_path: Path) -> None:
    with pytest.raises(HomeUnusable, match="not the home of a master"):
        back_up_home(str(tmp_path), str(tmp_path / "backup"), overwrite=False)
    home = open_home(member, software="0", now_ns=1)
    with pytest.raises(HomeInUse):
        back_up_home(member, str(tmp_path / "backup"), overwrite=False)
    home.close()
