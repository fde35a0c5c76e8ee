"""Restoring a backup: refused before anything is written, killed at any step and run again, and what it makes is a home that starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest
from click.testing import CliRunner, Result

from monofs.cli.main import main
from monofs.config.schema import NamespaceConfig
from monofs.master.secrets import make_keys
from monofs.metadata.copyfile import read_head
from monofs.metadata.copying import copy_database, end_install
from monofs.metadata.entries import Initialize, MakeDirectory, Stamp
from monofs.metadata.entry_kinds import encode_entry
from monofs.metadata.namespace import Namespace
from monofs.metadata.store import Store
from monofs.metadata.tables import TREE_NAME
from monofs.model.errors import ConfigError, CopyDamaged, HomeUnusable
from monofs.node.home import open_home
from monofs.node.offline import check_home
from monofs.node.restoring import choose_incarnation, rehearse, restore_home

SECRET = "0123456789abcdef0123456789abcdef"
CLUSTER = b"c" * 16
STEPS = ["begun", "unpacked", "synced", "noted", "renamed"]


def make_backup(directory: Path, *, incarnation: int = 1, broken: bool = False) -> str:
    """A backup of a namespace with one directory, whose keys ``SECRET`` wraps."""
    keys = make_keys(SECRET.encode(), CLUSTER)
    calls: list[object] = []
    store = Store(
        str(directory / "source"),
        NamespaceConfig(),
        call_soon=calls.append,
        on_flushed=lambda _: None,
        on_failure=lambda _: None,
    )
    namespace = Namespace(store)
    namespace.apply(1, 4, encode_entry(Initialize(Stamp(1), CLUSTER, incarnation, keys.data, keys.capability)))
    namespace.apply(2, 4, encode_entry(MakeDirectory(Stamp(2), "/kept", 0o755, 0, 0, False, False)))
    store.close()
    if broken:
        with lmdb.open(str(directory / "source"), max_dbs=32, map_size=1 << 30) as environment:
            tree = environment.open_db(TREE_NAME)
            with environment.begin(write=True) as transaction:
                transaction.delete(transaction.cursor(tree).iternext().__next__()[0], db=tree)
    again = Store(
        str(directory / "source"),
        NamespaceConfig(),
        call_soon=calls.append,
        on_flushed=lambda _: None,
        on_failure=lambda _: None,
    )
    made = copy_database(again, str(directory / "copy"), software="1", now_ns=5)
    again.close()
    form = directory / "backup"
    form.write_bytes(b"".join(bytes(made.read(number)) for number in range(-1, made.head.chunks)))
    return str(form)


@pytest.fixture
def backup(tmp_path: Path) -> str:
    return make_backup(tmp_path)


@pytest.fixture
def secret(tmp_path: Path) -> str:
    return write_secret(tmp_path / "secret")


def write_secret(path: Path, text: str = SECRET) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def check_restored(directory: Path, incarnation: int | None = None) -> None:
    """It starts as a node would start it, is sound, and holds what was backed up."""
    findings = check_home(str(directory))
    assert findings
    assert not any(findings.values())
    store = Store(
        str(directory / "namespace"),
        NamespaceConfig(),
        call_soon=lambda _: None,
        on_flushed=lambda _: None,
        on_failure=lambda _: None,
    )
    try:
        meta = store.meta
        assert (meta.cluster, meta.applied_index, meta.inodes) == (CLUSTER, 2, 2)
        assert meta.incarnation > 1 if incarnation is None else meta.incarnation == incarnation
    finally:
        store.close()
    assert (directory / "cluster.secret").read_text().strip() == SECRET
    assert (directory / "cluster.secret").stat().st_mode & 0o777 == 0o600


def test_a_restored_home_is_sound_in_another_incarnation_and_may_be_checked_and_started_again(
    tmp_path: Path, backup: str, secret: str
) -> None:
    home = tmp_path / "new" / "home"
    home.parent.mkdir()
    restored = restore_home(backup, str(home), secret_file=secret, incarnation=9)
    assert (restored.head, restored.incarnation) == (read_head(backup), 9)
    for _ in range(2):
        check_restored(home, 9)
    assert not (home / "namespace" / "installed").exists()


def test_settings_and_secret_may_wait_in_the_new_home(tmp_path: Path, backup: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "monofs.toml").write_text("")
    write_secret(home / "cluster.secret")
    restore_home(backup, str(home), secret_file=None)
    check_restored(home)


def test_without_the_secret_or_with_another_nothing_is_written(tmp_path: Path, backup: str) -> None:
    home = tmp_path / "home"
    with pytest.raises(ConfigError, match=r"cluster secret that was in use.*nothing was written"):
        restore_home(backup, str(home), secret_file=None)
    with pytest.raises(ConfigError, match="nothing was written"):
        restore_home(backup, str(home), secret_file=str(tmp_path / "missing"))
    with pytest.raises(HomeUnusable, match="is not the cluster secret this backup was made under"):
        restore_home(backup, str(home), secret_file=write_secret(tmp_path / "other", "another secret, long enough"))
    assert not home.exists()


@pytest.mark.parametrize("name", ["worker", "journal", "a-file", "namespace/data.mdb"])
def test_a_home_that_holds_something_is_refused_and_left_alone(
    tmp_path: Path, backup: str, secret: str, name: str
) -> None:
    home = tmp_path / "home"
    (home / name).parent.mkdir(parents=True)
    (home / name).write_text("mine")
    with pytest.raises(HomeUnusable, match="is not empty"):
        restore_home(backup, str(home), secret_file=secret)
    assert (home / name).read_text() == "mine"
    assert not (home / "format").exists()


def test_the_home_of_another_cluster_is_refused(tmp_path: Path, backup: str, secret: str) -> None:
    home = open_home(str(tmp_path / "home"), software="1", now_ns=1)
    home.note_cluster(b"other" * 3 + b"!")
    home.close()
    with pytest.raises(HomeUnusable, match="that of another cluster"):
        restore_home(backup, str(tmp_path / "home"), secret_file=secret)


def test_a_damaged_backup_leaves_a_home_that_begins_nothing(tmp_path: Path, backup: str, secret: str) -> None:
    raw = bytearray(Path(backup).read_bytes())
    raw[-100] ^= 1
    (tmp_path / "bad").write_bytes(raw)
    with pytest.raises(CopyDamaged, match="damaged in chunk"):
        restore_home(str(tmp_path / "bad"), str(tmp_path / "home"), secret_file=secret)
    with pytest.raises(HomeUnusable, match="held the namespace of cluster"):
        check_home(str(tmp_path / "home"))
    restore_home(backup, str(tmp_path / "home"), secret_file=secret)
    check_restored(tmp_path / "home")


def test_a_namespace_that_is_not_sound_is_not_taken(tmp_path: Path, secret: str) -> None:
    with pytest.raises(CopyDamaged, match=r"whole, but not sound: .+"):
        restore_home(make_backup(tmp_path, broken=True), str(tmp_path / "home"), secret_file=secret)
    assert os.listdir(tmp_path / "home" / "namespace") == []


def test_an_incarnation_lies_above_the_backup_s(tmp_path: Path, secret: str) -> None:
    backup = make_backup(tmp_path, incarnation=7)
    for wrong in (1, 7, 65536):
        with pytest.raises(HomeUnusable, match="above the backup's, 7"):
            restore_home(backup, str(tmp_path / "home"), secret_file=secret, incarnation=wrong)
    assert not (tmp_path / "home").exists()
    for present in (1, 1000, 65519, 65534):
        assert all(present < choose_incarnation(present) <= 65535 for _ in range(200))


def test_a_rehearsal_compares_everything_and_writes_nothing(tmp_path: Path, backup: str, secret: str) -> None:
    before = sorted(os.listdir(tmp_path))
    assert rehearse(backup, None, secret_file=None).head.index == 2
    rehearse(backup, str(tmp_path / "home"), secret_file=secret)
    with pytest.raises(ConfigError):
        rehearse(backup, str(tmp_path / "home"), secret_file=None)
    with pytest.raises(HomeUnusable, match="is not empty"):
        rehearse(backup, str(tmp_path), secret_file=secret)
    assert sorted(os.listdir(tmp_path)) == before
    with open(backup, "r+b") as file:
        file.truncate(os.path.getsize(backup) - 1)
    with pytest.raises(CopyDamaged, match="cut short"):
        rehearse(backup, None, secret_file=None)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_a_restore_may_be_run_again_and_no_home_begins_a_cluster_of_its_own(
    tmp_path: Path, backup: str, secret: str, step: str
) -> None:
    home = tmp_path / "home"
    program = "import sys; from monofs.node.restoring import restore_home as r; r(sys.argv[1], sys.argv[2], secret_file=sys.argv[3])"
    done = subprocess.run(
        [sys.executable, "-c", program, backup, str(home), secret],
        env=os.environ | {"MONOFS_FAILPOINTS": f"install.{step}=kill"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    if step == "renamed":
        with pytest.raises(HomeUnusable, match="is not empty"):
            restore_home(backup, str(home), secret_file=secret)
    else:
        with pytest.raises(HomeUnusable, match="held the namespace of cluster"):
            check_home(str(home))
        restore_home(backup, str(home), secret_file=secret)
    check_restored(home)


@pytest.mark.parametrize("step", ["journal-begun", "ended"])
def test_killed_while_the_journal_begins_the_next_start_goes_on(
    tmp_path: Path, backup: str, secret: str, step: str
) -> None:
    home = tmp_path / "home"
    restore_home(backup, str(home), secret_file=secret)
    done = subprocess.run(
        [sys.executable, "-c", f"from monofs.node.offline import check_home; check_home({str(home)!r})"],
        env=os.environ | {"MONOFS_FAILPOINTS": f"install.{step}=kill"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert (home / "namespace" / "installed").exists() == (step == "journal-begun")
    check_restored(home)


def test_a_journal_that_is_lost_later_is_still_refused(tmp_path: Path, backup: str, secret: str) -> None:
    """Only an install allows a database without its journal, and only once."""
    home = tmp_path / "home"
    restore_home(backup, str(home), secret_file=secret)
    end_install(str(home / "namespace"))
    with pytest.raises(Exception, match="its end is gone"):
        check_home(str(home))


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["admin", "restore", *words])


def test_the_command_says_what_is_in_a_backup_and_where_it_went(tmp_path: Path, backup: str) -> None:
    assert run(backup).exit_code == 2
    looked = run(backup, "--dry-run")
    assert looked.exit_code == 0
    assert f"cluster {CLUSTER.hex()} at index 2, 2 inodes" in looked.output
    assert "nothing was written" in looked.output
    home = tmp_path / "home"
    refused = run(backup, "--home", str(home))
    assert (refused.exit_code, home.exists()) == (2, False)
    assert "--cluster-secret-file" in refused.output
    home.mkdir()
    write_secret(home / "cluster.secret")
    done = run(backup, "--home", str(home), "--incarnation", "3", "--json")
    assert done.exit_code == 0
    told = json.loads(done.output)
    assert (told["index"], told["incarnation"], told["restored"], told["paused_jobs"]) == (2, 3, True, 0)
    again = run(backup, "--home", str(home))
    assert again.exit_code == 1
    assert "is not empty" in again.output
    check_restored(home, 3)
