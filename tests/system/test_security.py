"""A master and a worker that speak TLS and ask everybody: tokens by command, reads past the Unix socket, and what a removed token still does."""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import monofs
from monofs.cli.main import main
from monofs.model.errors import MonofsError, NotReady, PermissionDenied, Unauthenticated
from monofs.model.principal import Principal, Right
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.handshake import Credential
from monofs.rpc.sync import Pool
from monofs.rpc.tls import ClientTls
from monofs.testing.certificates import Authority
from monofs.testing.masters import Masters, wait_until
from monofs.testing.nodes import ServedNode

MIB = 1 << 20
DATA = os.urandom(3 * MIB + 17)
PATIENCE_S = 30.0


class Cluster:
    """One master and one worker as processes, under TLS, with authentication required."""

    def __init__(self, directory: Path, nodes: ExitStack) -> None:
        self.directory = directory
        authority = Authority(str(directory))
        self.ca = authority.ca
        files = authority.issue("node", "127.0.0.1")
        shared = [
            "security.authentication=required",
            f"security.tls_certificate={files.certificate}",
            f"security.tls_key={files.key}",
            f"security.tls_ca={self.ca}",
        ]
        master = ServedNode(str(directory / "master"), sets=["node.role=master", *shared])
        self.master = nodes.enter_context(master)
        self.secret = os.path.join(self.master.home, "cluster.secret")
        joins = [f"worker.masters={self.address}", f"security.cluster_secret_file={self.secret}"]
        worker = ServedNode(str(directory / "worker"), sets=["node.role=worker", *joins, *shared])
        self.worker = nodes.enter_context(worker)
        (directory / "lake").mkdir()
        (directory / "lake" / "data.bin").write_bytes(DATA)
        (directory / "lake" / "small.txt").write_bytes(b"small")
        self.ok("mount", "add", "/lake", f"file://{directory}/lake")

    @property
    def address(self) -> str:
        address: str = self.master.doors["rpc"]
        return address

    def run(self, *words: str, **environment: str) -> Result:
        """One command, by the environment given alone; in this process, which starts no interpreter for it."""
        clean = {name: None for name in os.environ if name.startswith("MONOFS_")}
        return CliRunner().invoke(main, words, env=clean | {"MONOFS_MASTERS": self.address} | environment)

    def ok(self, *words: str) -> str:
        """One command of the administrator."""
        done = self.run("--cluster-secret-file", self.secret, "--tls-ca", self.ca, *words)
        assert done.exit_code == 0, (words, done.stdout, done.stderr, done.exception)
        return done.stdout

    def issue(self, name: str, rights: str = "read", *words: str) -> str:
        """A file with a new token."""
        path = self.directory / f"{name}.token"
        path.write_text(self.ok("token", "add", name, "--rights", rights, *words))
        return str(path)

    def connect(self, token_file: str, **options: Any) -> monofs.FileSystem:
        return monofs.connect(self.address, token_file=token_file, tls_ca=self.ca, **options)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as nodes:
        yield Cluster(tmp_path_factory.mktemp("cluster"), nodes)


def test_a_token_is_shown_once_and_lets_its_holder_do_what_it_says(cluster: Cluster) -> None:
    file = cluster.issue("reports", "read", "--expires", "1h")
    text = Path(file).read_text()
    assert text.startswith("mft1.")
    assert text.count("\n") == 1
    (row,) = [json.loads(line) for line in cluster.ok("token", "ls", "--json").splitlines()]
    assert (row["name"], row["rights"], row["issuer"]) == ("reports", "read", "node")
    listing = cluster.ok("token", "ls")
    assert "reports" in listing
    assert text.strip() not in listing + str(row)
    assert text.split(".")[2].strip() not in listing + str(row)

    def reader(*words: str) -> Result:
        return cluster.run(*words, MONOFS_TOKEN_FILE=file, MONOFS_TLS_CA=cluster.ca)

    assert reader("fs", "ls", "/lake").stdout == "data.bin\nsmall.txt\n"
    assert cluster.run("--token-file", file, "--tls-ca", cluster.ca, "fs", "cat", "/lake/small.txt").stdout == "small"
    for words in (("fs", "mkdir", "/new"), ("token", "ls"), ("mount", "rm", "/lake"), ("fs", "rm", "/lake/small.txt")):
        refused = reader(*words)
        assert refused.exit_code == 5, refused
        assert "reports has no" in refused.stderr
    cluster.ok("token", "rm", "reports")
    gone = reader("fs", "ls", "/lake")
    assert gone.exit_code == 5
    assert "reports was removed" in gone.stderr
    assert cluster.ok("token", "ls", "--json") == ""
    missing = cluster.run("--cluster-secret-file", cluster.secret, "--tls-ca", cluster.ca, "token", "rm", "reports")
    assert (missing.exit_code, "no token or S3 key reports" in missing.stderr) == (3, True)


def test_who_shows_nothing_or_speaks_in_clear_is_told_what_to_do(cluster: Cluster) -> None:
    nothing = cluster.run("fs", "ls", "/", MONOFS_TLS_CA=cluster.ca)
    assert (nothing.exit_code, "token" in nothing.stderr) == (5, True)
    clear = cluster.run("--cluster-secret-file", cluster.secret, "fs", "ls", "/")
    assert (clear.exit_code, "--tls-ca" in clear.stderr) == (5, True)
    file = cluster.issue("both")
    both = cluster.run("--cluster-secret-file", cluster.secret, "--token-file", file, "fs", "ls", "/")
    assert (both.exit_code, "not several" in both.stderr) == (2, True)
    stranger = cluster.run("fs", "ls", "/", MONOFS_TLS_CA=Authority(str(cluster.directory), "stranger").ca)
    assert (stranger.exit_code, "certificate of 127.0.0.1 is not accepted" in stranger.stderr) == (5, True)


def test_bytes_come_from_the_worker_over_tcp_under_tls(cluster: Cluster) -> None:
    """Past the Unix socket, as from another machine; large pieces, small ones, a whole batch, and a write."""
    socket = os.path.join(cluster.worker.home, "worker.sock")
    os.rename(socket, socket + ".away")
    try:
        with cluster.connect(cluster.issue("writer", "write")) as fs:
            assert fs.read("/lake/data.bin") == DATA
            with fs.open("/lake/data.bin") as file:
                assert file.pread(MIB - 50, 100) == DATA[MIB - 50 : MIB + 50]
            pieces = [("/lake/data.bin", at, 4096) for at in range(0, 3 * MIB, 200_000)]
            assert fs.read_many(pieces) == [DATA[at : at + 4096] for _, at, _ in pieces]
            fs.write("/lake/back.bin", DATA)
            assert (cluster.directory / "lake" / "back.bin").read_bytes() == DATA
            (link,) = fs._session().cluster.links()
            assert not link.is_local
            with pytest.raises(PermissionDenied):
                fs.token_list()
            os.unlink(cluster.directory / "lake" / "back.bin")
    finally:
        os.rename(socket + ".away", socket)


def test_removing_a_token_cuts_what_came_in_by_it_at_master_and_worker(cluster: Cluster) -> None:
    file = cluster.issue("doomed", "write")
    credential, tls = Credential.from_token_file(file), ClientTls(cluster.ca)
    with (
        cluster.connect(cluster.issue("stays")) as other,
        Pool(cluster.address, credential, tls=tls) as master,
        Pool(cluster.worker.doors["worker"], credential, tls=tls) as worker,
        Pool(os.path.join(cluster.worker.home, "worker.sock"), credential) as local,
        cluster.connect(file) as fs,
        fs.open("/lake/data.bin") as reading,
    ):
        assert reading.pread(0, 10) == DATA[:10]
        talks = []
        for pool in (master, worker, local):
            pool.call(Method.PING, api.Empty(), api.Pong)
            talks += pool.conversations._open
        assert [talk.welcome.principal for talk in talks] == ["doomed"] * 3
        cluster.ok("token", "rm", "doomed")
        for talk in talks:
            assert select.select([talk._sock], [], [], PATIENCE_S)[0], "the server has said something, or closed"
            assert not talk.is_usable()
        for pool in (master, worker, local):
            with pytest.raises(Unauthenticated, match="doomed was removed"):
                pool.call(Method.PING, api.Empty(), api.Pong)
        with pytest.raises(PermissionError):
            fs.stat("/lake/small.txt")
        assert other.read("/lake/small.txt") == b"small"


def test_a_write_under_way_ends_with_its_token_and_leaves_nothing(cluster: Cluster) -> None:
    with cluster.connect(cluster.issue("cut", "write")) as fs:
        writer = fs.open("/lake/half.bin", "wb")
        writer.write(DATA * 4)
        cluster.ok("token", "rm", "cut")
        with pytest.raises(PermissionError):
            writer.write(DATA * 8)
            writer.close()
        with pytest.raises(OSError):
            writer.close()
    assert "half.bin" not in os.listdir(cluster.directory / "lake")


def test_an_expired_token_lets_nobody_in_and_cuts_who_is_in(cluster: Cluster) -> None:
    file = cluster.issue("brief", "read", "--expires", "2s")
    with Pool(cluster.address, Credential.from_token_file(file), tls=ClientTls(cluster.ca)) as pool:
        pool.call(Method.PING, api.Empty(), api.Pong)
        (talk,) = pool.conversations._open
        assert select.select([talk._sock], [], [], PATIENCE_S)[0]
        with pytest.raises(Unauthenticated, match="brief has expired"):
            pool.call(Method.PING, api.Empty(), api.Pong)
    assert "expired" in cluster.ok("token", "ls")
    cluster.issue("brief", "read")


def test_many_threads_share_a_client_under_tls(cluster: Cluster) -> None:
    wrong: list[object] = []
    with cluster.connect(cluster.issue("threads")) as fs:

        def read(seed: int) -> None:
            try:
                for at in range(seed, 3 * MIB, 300_000):
                    with fs.open("/lake/data.bin") as file:
                        assert file.pread(at, 5000) == DATA[at : at + 5000]
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert wrong == []


def test_the_secret_of_no_token_is_in_any_file_of_the_nodes(cluster: Cluster) -> None:
    """Journal, database, logs and audit: read as they are while the nodes serve."""
    texts = [Path(cluster.issue(f"quiet{n}")).read_text().strip() for n in range(3)]
    cluster.ok("token", "rm", "quiet0", "quiet1")
    secrets = [text.split(".")[2].encode() for text in texts]
    for home in (cluster.master.home, cluster.worker.home):
        for path in Path(home).rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert not any(secret in content for secret in secrets), path
    audit = (Path(cluster.master.home) / "audit.log").read_text()
    assert '"token add"' in audit
    assert "quiet0" in audit


def test_an_s3_key_is_printed_once_replaced_and_removed(cluster: Cluster) -> None:
    added = cluster.ok("token", "s3", "add", "--user", "reports", "--read-only", "--prefix", "/lake").split()
    shown = dict(line.split("=", 1) for line in added)
    key, secret = shown["AWS_ACCESS_KEY_ID"], shown["AWS_SECRET_ACCESS_KEY"]
    rows = cluster.ok("token", "s3", "ls")
    assert key in rows
    assert secret not in rows
    assert "/lake" in rows
    assert key not in cluster.ok("token", "ls")
    new = json.loads(cluster.ok("token", "s3", "rotate", key, "--keep", "1h", "--json"))
    assert new["access_key_id"] != key
    assert cluster.ok("token", "s3", "ls").count("reports") == 2
    cluster.ok("s3", "bucket", "add", "quarterly", "/lake")
    assert "/lake" in cluster.ok("s3", "bucket", "ls")
    cluster.ok("s3", "bucket", "rm", "quarterly")
    assert "/lake" not in cluster.ok("s3", "bucket", "ls")
    cluster.ok("token", "s3", "rm", key, new["access_key_id"])
    assert "reports" not in cluster.ok("token", "s3", "ls")
    gone = cluster.run("--cluster-secret-file", cluster.secret, "--tls-ca", cluster.ca, "token", "s3", "rm", key)
    assert gone.exit_code == 3
    assert "`monofs token s3 ls`" in gone.stderr
    for home in (cluster.master.home, cluster.worker.home):
        for path in Path(home).rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_a_node_acts_for_somebody_with_his_rights_only(cluster: Cluster) -> None:
    secret = Credential.from_file(cluster.secret)
    tls = ClientTls(cluster.ca)
    for rights, may_write in ((Right.READ, False), (Right.READ | Right.WRITE, True)):
        ada = Principal("ada", 7, (8,), rights)
        with Pool(cluster.address, secret.for_principal(ada), tls=tls) as pool:
            pool.call(Method.STAT, api.StatRequest("/lake"), api.StatAnswer, 20.0)
            made = api.MakeDirectoryRequest(f"/made-{may_write}")
            if may_write:
                pool.call(Method.MAKE_DIRECTORY, made, api.InodeAnswer, 20.0)
            else:
                with pytest.raises(PermissionDenied, match="ada"):
                    pool.call(Method.MAKE_DIRECTORY, made, api.InodeAnswer, 20.0)
            with pytest.raises(PermissionDenied, match="ada"):
                pool.call(Method.TOKEN_LIST, api.Empty(), api.TokenListAnswer, 20.0)
    lines = (Path(cluster.master.home) / "audit.log").read_text().splitlines()
    told = [each for each in map(json.loads, lines) if each.get("source") == "/made-True"]
    assert [(each["principal"], each["by"]) for each in told] == [("ada", "node")]


def test_every_master_of_a_group_honours_and_forgets_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three masters whose journal and RPC doors all speak TLS: followers learn of tokens by what they apply."""
    authority = Authority(str(tmp_path))
    files = authority.issue("master", "127.0.0.1")
    monkeypatch.setenv("MONOFS_TLS_CA", authority.ca)
    sets = [
        "security.authentication=required",
        f"security.tls_certificate={files.certificate}",
        f"security.tls_key={files.key}",
        f"security.tls_ca={authority.ca}",
    ]
    tls = ClientTls(authority.ca)
    with Masters(str(tmp_path / "group"), 3, sets=sets) as group, group.connect() as fs, ExitStack() as open_pools:
        credential = Credential(token=fs.token_add("everywhere", "read").token)
        talks = []
        for name in group.nodes:
            pool = open_pools.enter_context(Pool(f"127.0.0.1:{group.rpc_ports[name]}", credential, tls=tls))
            wait_until(lambda pool=pool: is_honoured(pool), f"{name} never heard of the token")
            talks += pool.conversations._open
        door = Pool(f"127.0.0.1:{group.journal_ports['m1']}", credential, tls=tls)
        with door, pytest.raises(MonofsError):
            door.server()
        fs.token_remove("everywhere")
        assert len(talks) == 3
        for talk in talks:
            assert select.select([talk._sock], [], [], PATIENCE_S)[0], "the server has said something, or closed"
            assert not talk.is_usable()


def is_honoured(pool: Pool) -> bool:
    try:
        return pool.server().principal == "everywhere"
    except NotReady:
        return False
