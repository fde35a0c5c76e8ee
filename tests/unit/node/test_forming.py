"""Who a master is: an id names a disk, not a machine or a name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from monofs.config.loader import load_config
from monofs.journal.raft.messages import Membership, NodeId, Position
from monofs.journal.wire import encode_membership
from monofs.model.errors import ConfigError, HomeUnusable
from monofs.node.forming import FIRST, IDENTITY, load_identity, proves_removal
from monofs.node.home import Home, open_home
from monofs.node.node import Node
from monofs.rpc.api import WhoAnswer


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = open_home(str(tmp_path / "home"), software="0", now_ns=1)
    yield home
    home.close()


def test_an_identity_is_drawn_with_the_home_and_stays(home: Home, tmp_path: Path) -> None:
    first = load_identity(home, "m1", has_log=False)
    assert load_identity(home, "m1", has_log=True) == first
    other = open_home(str(tmp_path / "other"), software="0", now_ns=1)
    assert load_identity(other, "m1", has_log=False).id not in (first.id, FIRST)
    other.close()


def test_a_home_is_not_started_under_another_name(home: Home) -> None:
    load_identity(home, "m1", has_log=False)
    with pytest.raises(HomeUnusable, match="that of master m1, not m2"):
        load_identity(home, "m2", has_log=False)


def test_a_master_that_began_alone_keeps_its_seat(home: Home) -> None:
    assert load_identity(home, "m1", has_log=True).id == FIRST


def test_a_damaged_identity_is_refused(home: Home) -> None:
    Path(home.path(IDENTITY)).write_text("{")
    with pytest.raises(HomeUnusable, match="damaged"):
        load_identity(home, "m1", has_log=True)


CLUSTER = b"cluster-0123456!"
LAST = Position(40, 7)
"""Where the log of master 3 ends."""


def who(*voters: int, index: int, term: int, cluster: bytes = CLUSTER) -> WhoAnswer:
    """What master 1 says of its group."""
    return WhoAnswer("m1", 1, "", cluster, encode_membership(Membership(voters)), index, term)


@pytest.mark.parametrize("answer", [who(1, 2, index=41, term=7), who(1, 2, index=9, term=8)])
def test_what_was_committed_after_all_a_master_knows_proves_that_it_was_removed(answer: WhoAnswer) -> None:
    assert proves_removal(answer, NodeId(3), CLUSTER, LAST)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(who(1, 2, index=40, term=7), id="not after what it knows"),
        pytest.param(who(1, 2, index=900, term=6), id="of a leader before that"),
        pytest.param(who(1, 2, index=0, term=0), id="not committed, or of an older release"),
        pytest.param(who(1, 2, 3, index=41, term=7), id="it is a member"),
        pytest.param(who(1, 2, index=41, term=7, cluster=b"another-cluster!"), id="of another cluster"),
        pytest.param(WhoAnswer("m1", 1, "", CLUSTER, b"", 41, 7), id="of no group"),
    ],
)
def test_a_mere_suspicion_removes_nobody(answer: WhoAnswer) -> None:
    assert not proves_removal(answer, NodeId(3), CLUSTER, LAST)


def test_a_member_of_a_group_is_never_started_alone(home: Home) -> None:
    load_identity(home, "m1", has_log=False)
    home.close()
    node = Node(load_config(sets=[f"node.home={home.directory}"], environ={}), None, on_fatal=pytest.fail)
    with pytest.raises(HomeUnusable, match="--id and --peers"):
        node.open()


def test_doors_on_every_address_are_told_by_a_name_that_others_can_use() -> None:
    def told(*sets: str) -> str:
        loaded = load_config(sets=list(sets), environ={})
        return Node(loaded, None, on_fatal=pytest.fail)._advertised("0.0.0.0", "0.0.0.0:19998")

    peers = ["journal.id=m2", "journal.peers=m1=h1:19200,m2=[fd00::2]:19200"]
    assert told(*peers) == "[fd00::2]:19998"
    assert told(*peers, "node.advertise=master-2") == "master-2:19998"
    assert not told().startswith("0.0.0.0")
    node = Node(load_config(environ={}), None, on_fatal=pytest.fail)
    assert node._advertised("127.0.0.1", "127.0.0.1:1") == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["journal.id=m9", "journal.peers=m1=a:1,m2=b:1"], "names m1, m2, and not this master, m9"),
        (["journal.id=m1"], "list them all with --peers"),
        (["journal.peers=m1=a:1"], "with --id"),
        (["journal.id=m1", "journal.peers=m1=a:1,m2=a:1"], "names a:1 twice"),
        (["journal.id=m1", "journal.peers=m1=a:1,m2=b:99999"], "'m2=b:99999' is not that"),
    ],
)
def test_a_list_of_masters_that_cannot_be_is_told_at_the_start_and_leaves_the_home_free(
    tmp_path: Path, sets: list[str], told: str
) -> None:
    home = tmp_path / "new"
    secret = tmp_path / "secret"
    secret.write_text("s" * 32)
    secret.chmod(0o600)
    given = [f"node.home={home}", "node.role=master", f"security.cluster_secret_file={secret}"]
    node = Node(load_config(sets=[*given, *sets], environ={}), None, on_fatal=pytest.fail)
    with pytest.raises(ConfigError, match=re.escape(told)):
        node.open()
    assert not (home / IDENTITY).exists()


@pytest.mark.parametrize("sets", [["node.role=worker"], ["journal.id=m1", "journal.peers=m1=a:1,m2=b:1"]])
def test_a_node_among_others_never_draws_a_secret_of_its_own(tmp_path: Path, sets: list[str]) -> None:
    node = Node(load_config(sets=[f"node.home={tmp_path / 'new'}", *sets], environ={}), None, on_fatal=pytest.fail)
    with pytest.raises(ConfigError, match="--cluster-secret-file"):
        node.open()
    assert not (tmp_path / "new" / "cluster.secret").exists()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("worker.quota=1000", "at least a page"),
        ("worker.eviction=random", "worker.eviction"),
        ("worker.allocation=anywhere", "worker.allocation"),
        ("worker.watermark=0", "worker.watermark"),
        (
            'worker.tiers=[{"name":"A","dir":"/a","quota":"1GiB"},{"name":"B","dir":"/a/b","quota":"1GiB"}]',
            "inside of /a",
        ),
    ],
)
def test_a_cache_that_cannot_be_is_told_before_anything_is_made(tmp_path: Path, setting: str, told: str) -> None:
    home = tmp_path / "new"
    node = Node(load_config(sets=[f"node.home={home}", setting], environ={}), None, on_fatal=pytest.fail)
    with pytest.raises(ConfigError, match=told):
        node.open()
    assert not (home / "journal").exists()
    assert not (home / "namespace").exists()
    assert not (home / "cluster.secret").exists()
