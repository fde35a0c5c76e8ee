"""Three masters as processes: what is acknowledged stays, what is old is not told, members come and go."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from copy import copy
from pathlib import Path

import lmdb
import msgspec
import pytest
from test_poison_entry import poison

from monofs.client.info import Changed, Found
from monofs.metadata.snapshot import META_KEY, open_databases, read_meta
from monofs.metadata.tables import LEVEL, Table, encode_record
from monofs.model.errors import AlreadyExists, MonofsError, NotFound, NotLeader, QuorumRefused
from monofs.rpc.api import (
    DeleteRequest,
    Empty,
    MakeDirectoryRequest,
    MayWriteRequest,
    Method,
    RenameRequest,
    RequestId,
    StatRequest,
)
from monofs.rpc.handshake import Credential
from monofs.rpc.sync import Pool
from monofs.testing.masters import Masters, wait_until
from monofs.testing.nodes import NodeFailed, ServedNode
from monofs.testing.processes import begin, cold, run

pytestmark = pytest.mark.system

SMALL = [
    "journal.segment_bytes=65536",
    "journal.keep_bytes=131072",
    "journal.retain_bytes=524288",
    "namespace.flush_interval_s=0.1",
]
"""Entries of a member that was away for a few hundred changes are gone."""


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A group for tests that leave it whole."""
    with Masters(str(tmp_path_factory.mktemp("group"))) as masters:
        yield masters


def others(masters, name):
    return [each for each in masters.nodes if each != name]


def have_converged(masters):
    """All have applied the same entries with the same result."""
    told = set()
    for name in masters.nodes:
        try:
            with masters.connect(name, timeout_s=2.0) as fs:
                answer = fs.quorum()
        except (MonofsError, OSError):
            return False
        told.add((answer.applied_index, answer.crc))
    return len(told) == 1


def installs(node):
    with open(f"{node.home}/monofs.log") as log:
        return log.read().count("installing the state")


class Writer(threading.Thread):
    """Makes one directory after the other; ``done`` are those acknowledged."""

    def __init__(self, masters, directory):
        super().__init__(daemon=True)
        self.masters, self.directory = masters, directory
        self.done, self.errors = [], []
        self.stopping = threading.Event()

    def run(self):
        with self.masters.connect() as fs:
            fs.make_directory(self.directory)
            number = 0
            while not self.stopping.is_set():
                number += 1
                path = f"{self.directory}/{number}"
                try:
                    fs.make_directory(path)
                    self.done.append(path)
                except Exception as error:
                    self.errors.append(error)

    def wait_for(self, more):
        """Until so many more were acknowledged."""
        goal = len(self.done) + more
        wait_until(lambda: len(self.done) >= goal or self.errors, f"not {more} changes were acknowledged")

    def end(self):
        self.stopping.set()
        self.join(60)
        assert not self.is_alive()


def test_the_leader_warns_when_one_more_loss_would_stop_the_group_and_says_when_it_is_mended(group):
    leader = group.leader()
    silent = others(group, leader)[0]
    log = Path(group.nodes[leader].home, "monofs.log")

    def told(event):
        return [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == event]

    group.signal(silent, signal.SIGSTOP)
    try:
        wait_until(lambda: told("the loss of one more voter would stop the group"), "the leader does not warn")
        with group.connect(leader) as fs:
            journal = fs.report()["journal"]
            assert (journal["leader"], journal["leader_address"]) == (leader, group.rpc(leader))
    finally:
        group.signal(silent, signal.SIGCONT)
    wait_until(lambda: told("the group bears a loss again"), "the leader does not say that it is mended")
    (warning,) = told("the loss of one more voter would stop the group")
    assert (warning["voters"], warning["heard"], warning["needed"], warning["silent"]) == (3, 2, 2, silent)
    assert [line["master"] for line in told("a master is not heard") + told("a master is heard again")] == [silent] * 2


def test_writing_goes_on_without_the_leader_and_nothing_acknowledged_is_lost(group):
    writer = Writer(group, "/killed")
    writer.start()
    writer.wait_for(20)
    for _ in range(2):
        leader = group.leader()
        group.nodes[leader].kill()
        writer.wait_for(20)
        group.nodes[leader].start()
    writer.end()
    assert not writer.errors
    with group.connect() as fs:
        found = {info.path for info in fs.list("/killed")}
    assert found >= set(writer.done)
    wait_until(lambda: have_converged(group), "the masters do not converge")


def test_a_leader_that_was_paused_tells_nothing_old_and_acknowledges_nothing(group):
    a_paused_leader_tells_nothing_old(group)


def test_a_lease_does_not_outlive_a_pause_and_is_the_same_for_all(tmp_path):
    with Masters(str(tmp_path), sets=["journal.read_lease=true"]) as masters:
        a_paused_leader_tells_nothing_old(masters)
        odd = others(masters, masters.leader())[0]
        node = masters.nodes[odd]
        node.stop()
        node.sets.append("journal.read_lease=false")
        node.start()
        log = Path(node.home, "monofs.log")
        wait_until(lambda: "another read lease" in log.read_text(), "the odd one does not say why it hears nobody")
        with masters.connect(*others(masters, odd)) as fs:
            fs.make_directory("/without-it")
            assert fs.is_dir("/without-it")
        node.kill()
        node.sets.pop()
        node.start()
        wait_until(lambda: have_converged(masters), "the masters do not converge")


def a_paused_leader_tells_nothing_old(group):
    with group.connect() as fs:
        fs.make_directory("/paused")
        fs.make_directory("/paused/old")
        leader = group.leader()
        with Pool(group.rpc(leader), Credential.from_file(group.secret)) as pool:
            asked, told = pool.pipeline(), pool.pipeline()
            group.signal(leader, signal.SIGSTOP)
            try:
                group.leader(among=others(group, leader))
                fs.delete("/paused/old")
                read = msgspec.msgpack.encode(StatRequest("/paused/old"))
                change = msgspec.msgpack.encode(MakeDirectoryRequest("/paused/new"))
                asked.send(Method.STAT, [read], 60.0)
                told.send(Method.MAKE_DIRECTORY, [change], 60.0)  # both wait in its sockets now
            finally:
                group.signal(leader, signal.SIGCONT)
            _, answer = asked.receive(Found, 60.0)
            assert isinstance(answer, MonofsError), "it told of a directory that is gone"
            _, changed = told.receive(Changed, 60.0)
            asked.close()
            told.close()
        if not isinstance(changed, MonofsError):  # it may have been elected again meanwhile
            assert fs.is_dir("/paused/new")
    wait_until(lambda: have_converged(group), "the masters do not converge")


def test_a_leader_without_a_majority_neither_writes_nor_reads(group):
    leader = group.leader()
    with group.connect(leader, timeout_s=2.0) as fs, group.connect() as patient:
        patient.make_directory("/minority")
        for name in others(group, leader):
            group.signal(name, signal.SIGSTOP)
        try:
            with pytest.raises(OSError, match=r"."):
                fs.make_directory("/minority/refused")
            with pytest.raises(OSError, match=r"."):
                fs.stat("/minority")
            status, told = ask_console(group.nodes[leader], "/health")
            assert (status, told["ready"]) == (503, False)
            assert "no master leads" in told["reason"]
            assert ask_console(group.nodes[leader], "/live") == (200, {"live": True})
        finally:
            for name in others(group, leader):
                group.signal(name, signal.SIGCONT)
        patient.make_directory("/minority/taken")
        wait_until(
            lambda: all(ask_console(node, "/health")[0] == 200 for node in group.nodes.values()),
            "a master that knows its leader is not healthy",
        )
    wait_until(lambda: have_converged(group), "the masters do not converge")


def ask_console(node, page):
    """Status and JSON body."""
    try:
        with urllib.request.urlopen(node.doors["console"] + page, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_workers_of_all_masters_register_with_the_one_that_leads(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "file").write_bytes(b"bytes")
    with Masters(str(tmp_path / "group"), role="all") as masters, masters.connect() as fs:
        wait_until(lambda: len(fs.worker_status()) == 3, "not all three workers are known")
        fs.mount_add("/lake", f"file://{tmp_path}/store")
        masters.nodes[masters.leader()].kill()
        with masters.connect() as other:
            assert other.read("/lake/file") == b"bytes"


def test_workers_leave_a_silent_leader_before_their_readers_lose_patience(group, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (store / "file").write_bytes(b"bytes")
    worker = ServedNode(str(tmp_path / "worker"), sets=[f"worker.masters={group.addresses}"])
    worker.flags = ["--role", "worker", "--cluster-secret-file", group.secret]
    with worker, group.connect(timeout_s=8.0) as fs:
        fs.mount_add("/silent", f"file://{store}")
        assert fs.read("/silent/file") == b"bytes"
        leader = group.leader()
        group.signal(leader, signal.SIGSTOP)
        try:
            with group.connect(*others(group, leader), timeout_s=8.0) as newcomer:
                assert newcomer.read("/silent/file") == b"bytes"
        finally:
            group.signal(leader, signal.SIGCONT)
        fs.mount_remove("/silent")


def test_a_retry_at_the_next_leader_gets_the_first_answer(group):
    request = MakeDirectoryRequest("/once", request=RequestId(b"0123456789abcdef", 1, 1))
    credential = Credential.from_file(group.secret)
    with Pool(group.addresses, credential) as pool:
        first = pool.call(Method.MAKE_DIRECTORY, request, Changed)
        leader = group.leader()
        group.nodes[leader].kill()
        group.leader(among=others(group, leader))
        rest = [group.rpc(name) for name in others(group, leader)]
        with Pool(rest, credential) as there:
            again = there.call(Method.MAKE_DIRECTORY, request, Changed)
            assert again == first
            with pytest.raises(AlreadyExists):
                there.call(Method.MAKE_DIRECTORY, MakeDirectoryRequest("/once"), Changed)
    group.nodes[leader].start()


def test_only_the_leader_refuses_a_change(group):
    """A refusal is a read: that of a follower would be decided by what it knew a while ago."""
    leader = group.leader()
    for name in others(group, leader):
        with Pool(group.rpc(name), Credential.from_file(group.secret)) as pool:
            line = pool.pipeline()
            for method, request in (
                (Method.DELETE, DeleteRequest("/missing")),
                (Method.RENAME, RenameRequest("/missing", "/elsewhere")),
                (Method.MAY_WRITE, MayWriteRequest("/missing/file")),
            ):
                line.send(method, [msgspec.msgpack.encode(request)], 30.0)
                _, answer = line.receive(Empty, 30.0)
                assert isinstance(answer, NotLeader)
            line.close()


def test_leadership_is_handed_over_while_clients_write(group):
    writer = Writer(group, "/handed")
    writer.start()
    writer.wait_for(5)
    for _ in range(2):
        target = others(group, group.leader())[0]
        group.hand_over(target)
        assert group.leader() == target
        writer.wait_for(5)
    writer.end()
    assert not writer.errors


def lives_alone(fs, worker):
    """A worker of an earlier test, that ended, counts as alive until its lease is over."""
    return [each.address for each in fs.cluster().workers if each.live] == [worker.doors["worker"]]


def test_bytes_are_written_and_read_across_the_death_of_a_leader(group, tmp_path):
    worker = ServedNode(str(tmp_path / "w1"), sets=[f"worker.masters={group.addresses}"])
    worker.flags = ["--role", "worker", "--cluster-secret-file", group.secret]
    with worker, group.connect() as fs:
        wait_until(
            lambda: lives_alone(fs, worker), "the worker does not register, or another of these masters lives on"
        )
        fs.write("/bytes/before", b"before")
        leader = group.leader()
        group.nodes[leader].kill()
        fs.write("/bytes/after", b"after")
        assert [fs.read(f"/bytes/{name}") for name in ("before", "after")] == [b"before", b"after"]
        group.nodes[leader].start()


def test_a_member_that_was_away_gets_entries_or_the_whole_state(tmp_path):
    with Masters(str(tmp_path), sets=SMALL) as masters, masters.connect() as fs:
        away = others(masters, masters.leader())[0]
        node = masters.nodes[away]
        fs.make_directory("/away")
        node.kill()
        for number in range(5):
            fs.make_directory(f"/away/few-{number}")
        node.start()
        wait_until(lambda: have_converged(masters), "a member that was away does not catch up")
        assert installs(node) == 0
        node.kill()
        for number in range(300):
            fs.make_directory(f"/away/many-{number}")
        node.start()
        pid = node.process.pid
        wait_until(lambda: have_converged(masters), "a member whose entries are gone does not catch up")
        assert installs(node) == 1
        assert node.process.poll() is None
        assert node.process.pid == pid, "it began anew under the same process id"
        masters.nodes[others(masters, away)[0]].kill()
        fs.make_directory("/away/without")  # it has a voice again: with it two are enough
        assert len(list(fs.list("/away"))) == 306


def test_a_machine_with_an_empty_disk_takes_the_place_of_a_removed_member(tmp_path):
    with Masters(str(tmp_path)) as masters, masters.connect() as fs:
        lost = others(masters, masters.leader())[0]
        node = masters.nodes[lost]
        fs.make_directory("/kept")
        node.kill()
        shutil.rmtree(node.home)
        node.launch()
        wait_until(lambda: "not a member" in log_of(node), "it does not say that it waits to be added")
        with pytest.raises(QuorumRefused, match="another disk"):
            fs.change_quorum("add", lost, masters.journal(lost))
        fs.change_quorum("remove", lost)
        with pytest.raises(NotFound):
            fs.change_quorum("promote", lost)
        fs.change_quorum("add", lost, masters.journal(lost))
        fs.promote_when_ready(lost)
        node.wait_ready()
        wait_until(lambda: have_converged(masters), "the new member does not catch up")
        third = others(masters, lost)[0]
        masters.nodes[third].kill()
        fs.make_directory("/without")
        assert [info.name for info in fs.list("/")] == ["kept", "without"]


def test_a_master_that_was_removed_while_it_was_down_finds_out_and_keeps_quiet(tmp_path):
    with Masters(str(tmp_path)) as masters, masters.connect() as fs:
        name = others(masters, masters.leader())[0]
        node = masters.nodes[name]
        node.stop()
        fs.change_quorum("remove", name)
        term = fs.quorum().term
        node.start()
        wait_until(lambda: "was removed from the group" in node.output(), "it does not find out that it was removed")
        status, told = ask_console(node, "/health")
        assert (status, told["ready"]) == (503, False)
        advice = f"`monofs admin quorum add {name}={masters.journal(name)} --promote`"
        assert "start it on an empty home" in told["reason"]
        assert told["reason"].endswith(advice)
        assert "removed from the group" in log_of(node)
        with masters.connect(name, timeout_s=0.5) as lonely:
            with pytest.raises(OSError, match="was removed from the group"):
                lonely.make_directory("/refused")
            with pytest.raises(OSError, match="was removed from the group"):
                lonely.stat("/")
        assert advice in node.cli("--cluster-secret-file", masters.secret, "admin", "quorum", "info").stdout
        fs.make_directory("/undisturbed")
        assert fs.quorum().term == term
        assert node.stop() == 0


def log_of(node):
    try:
        with open(f"{node.home}/monofs.log") as log:
            return log.read()
    except FileNotFoundError:
        return ""


def test_a_master_alone_gets_company_leads_on_and_may_leave(tmp_path):
    """Its database, flushed late here, says nothing of members yet: who got only that would make a group of its own."""
    masters = Masters(str(tmp_path), 1, sets=["namespace.flush_interval_s=3"])
    alone = masters.nodes["m1"]
    flags, alone.flags = alone.flags, ["--role", "master", "--cluster-secret-file", masters.secret]
    with alone, alone.connect() as fs:
        fs.make_directory("/before")
    alone.flags = flags
    with masters:
        with masters.connect() as fs:
            assert fs.is_dir("/before")
            for name in ("m2", "m3"):
                node = masters.add(name)
                node.launch()
                wait_until(lambda name=name: added(fs, name, masters.journal(name)), f"{name} cannot be added")
                fs.promote_when_ready(name)
                node.wait_ready()
        with masters.connect() as fs:
            assert sorted(each.name for each in fs.quorum().members if each.voter) == ["m1", "m2", "m3"]
            masters.hand_over("m2")
            wait_until(lambda: removed(fs, "m1"), "the new leader does not let the old one go")
            alone.kill()
            fs.make_directory("/after")
            assert fs.is_dir("/before")


def test_promoting_says_how_far_a_learner_is_and_may_be_interrupted(tmp_path):
    with Masters(str(tmp_path), 1) as masters, masters.connect() as fs:
        node = masters.add("m2")
        node.launch()
        wait_until(lambda: added(fs, "m2", masters.journal("m2")), "m2 cannot be added")
        node.kill()
        wait_until(lambda: any(each.heard_s > 2 for each in fs.quorum().members), "m2 is heard")
        words = [
            sys.executable,
            "-m",
            "monofs",
            "--masters",
            masters.rpc("m1"),
            "--cluster-secret-file",
            masters.secret,
        ]
        words += ["admin", "quorum", "promote", "--wait", "m2"]
        with begin(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as waiting:
            assert re.match(rf"m2 is not heard for \d.* {masters.journal('m2')}\?\n", waiting.stderr.readline())
            waiting.send_signal(signal.SIGINT)
            assert "`monofs admin quorum promote --wait m2` goes on" in waiting.stderr.read()
        assert waiting.returncode == 130
        assert [each.voter for each in fs.quorum().members if each.name == "m2"] == [False]
        node.start()
        with pytest.raises(QuorumRefused, match=r"in the group already.*promote --wait m2"):
            fs.change_quorum("add", "m2", masters.journal("m2"))
        done = run(words, timeout_s=60, text=True)
        assert (done.returncode, done.stdout) == (0, "m2 votes now\n"), done.stderr


def removed(fs, name):
    """Whether it is out: a new leader refuses until it has heard the others."""
    try:
        fs.change_quorum("remove", name)
    except QuorumRefused:
        return False
    return True


def added(fs, name, address):
    """Whether it is in the group: its door may not be open yet."""
    try:
        fs.change_quorum("add", name, address)
    except QuorumRefused as refusal:
        return "already" in str(refusal)
    except (MonofsError, OSError):
        return False
    return True


def test_a_rolling_upgrade_raises_the_entry_level_when_the_last_master_has_it(tmp_path):
    with (
        Masters(str(tmp_path)) as masters,
        masters.connect() as fs,
        cold(),
    ):  # a warm interpreter has imported this release
        for number, (name, node) in enumerate(masters.nodes.items()):
            wait_until(lambda: fs.report()["cluster"]["level"] == LEVEL, "the level is not what all know")
            node.stop()
            node.program = "monofs.testing.newer"
            node.start()
            fs.make_directory(f"/made-after-{number}")
            wait_until(lambda: have_converged(masters), f"{name} does not come back")
        wait_until(lambda: fs.report()["cluster"]["level"] == LEVEL + 1, "the level is not raised")
        wait_until(lambda: have_converged(masters), "the masters do not converge")
        name = others(masters, masters.leader())[0]
        older = masters.nodes[name]
        older.stop()
        older.program = "monofs"
        with pytest.raises(NodeFailed, match=f"has entry level {LEVEL + 1}"):
            older.start()
        fs.make_directory("/without-the-older-one")


def test_a_member_whose_state_differs_stops_itself(tmp_path):
    with Masters(str(tmp_path), sets=SMALL) as masters:
        leader = masters.leader()
        name = others(masters, leader)[0]
        node = masters.nodes[name]
        node.stop()
        spoil(node.home)
        node.start()
        with Pool(masters.rpc(leader), Credential.from_file(masters.secret)) as pool:
            while node.process.poll() is None:
                requests = [MakeDirectoryRequest(f"/n{number}", exist_ok=True) for number in range(500)]
                answers = pool.call_many(Method.MAKE_DIRECTORY, requests, Changed, 60.0)
                assert not any(isinstance(answer, MonofsError) for answer in answers)
        assert node.process.wait() == 70
        assert "differs from the leader's at entry 10000" in node.output()
        with masters.connect() as fs:
            assert fs.is_dir("/n499"), "the others go on"


def spoil(home):
    """Change the running CRC in the database of a stopped node, as a bug or a broken disk would in the end."""
    environment = lmdb.open(f"{home}/namespace", max_dbs=32, map_size=1 << 40)
    database = open_databases(environment, create=False)[Table.META]
    with environment.begin(write=True) as transaction:
        meta = copy(read_meta(transaction.get(META_KEY, db=database)))
        meta.crc ^= 1
        transaction.put(META_KEY, encode_record(meta), db=database)
    environment.close()


def test_an_entry_that_no_member_can_apply_stops_all_and_is_passed_over_by_each(tmp_path):
    masters = Masters(str(tmp_path))
    with masters, masters.connect() as fs:
        fs.make_directory("/before")
        wait_until(lambda: have_converged(masters), "the masters do not converge")
        for name in masters.nodes:
            masters.signal(name, signal.SIGKILL)  # at once: nobody leads after another
        for node in masters.nodes.values():
            node.kill()
        (index,) = {poison(f"{node.home}/journal") for node in masters.nodes.values()}
        for node in masters.nodes.values():
            node.launch()

        def stopped():
            return [node for node in masters.nodes.values() if node.process.poll() == 70]

        wait_until(
            lambda: len(stopped()) >= 2, "members apply what nobody can"
        )  # the third may not learn that it is committed
        for node in stopped():
            assert f"entry {index} of the journal" in node.output()
        for node in masters.nodes.values():
            node.kill()
            node.flags += ["--skip-entry", str(index)]
        masters.launch()
        assert fs.is_dir("/before")
        fs.make_directory("/after")
        wait_until(lambda: have_converged(masters), "the masters do not converge")


def test_a_short_torture_loses_nothing(tmp_path):
    words = [sys.executable, "-m", "monofs.testing.torture", "--minutes", "0.3", "--seed", "7", "--clients", "4"]
    done = subprocess.run([*words, "--directory", str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^lost or wrong +0$", done.stdout, re.MULTILINE)
