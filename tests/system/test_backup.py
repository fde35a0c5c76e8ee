"""Backups of nodes in use: consistent at one index, over connections that break, and restored into a new home that takes the old one's place."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from write_world import until

import monofs
from monofs.metadata.copyfile import CHUNK_BYTES, HEAD_BYTES, read_copy
from monofs.model.errors import AlreadyExists
from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system


class Writer:
    """A client that makes ``/w/0``, ``/w/1``, … one after the other."""

    def __init__(self, node: ServedNode) -> None:
        self._fs = node.connect()
        self._fs.make_directory("/w")
        self.acknowledged = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            self._fs.make_directory(f"/w/{self.acknowledged}")
            self.acknowledged += 1

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._fs.close()


class Relay:
    """A way to a server that breaks off each connection after so many bytes of what the server says."""

    def __init__(self, address: str, most_bytes: int) -> None:
        host, _, port = address.rpartition(":")
        self._server, self._most = (host, int(port)), most_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:

            def forward() -> None:
                try:
                    while data := client.recv(1 << 16):
                        server.sendall(data)
                    server.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

            asking = threading.Thread(target=forward, daemon=True)
            asking.start()
            left = self._most
            try:
                while left > 0 and (data := server.recv(min(left, 1 << 16))):
                    client.sendall(data)
                    left -= len(data)
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            asking.join(10)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def restore(node: ServedNode, file: Path, home: Path, secret: str) -> dict[str, Any]:
    done = node.cli("--cluster-secret-file", secret, "admin", "restore", str(file), "--home", str(home), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "f").write_bytes(b"from the store" * 1000)
    return tmp_path / "store"


def test_a_backup_under_write_load_restores_to_a_moment_after_it_was_asked_for(
    tmp_path: Path, node: ServedNode, store: Path
) -> None:
    file = tmp_path / "backup"
    with node.connect() as fs:
        fs.mount_add("/m", f"file://{store}")
        assert fs.open("/m/f").read() == (store / "f").read_bytes()
    writer = Writer(node)
    try:
        until(lambda: writer.acknowledged > 200, "the writer")
        before = writer.acknowledged
        done = node.cli("admin", "backup", str(file), "--json")
        assert done.returncode == 0, done.stderr
        until(lambda: writer.acknowledged > before + 200, "the writer")
    finally:
        writer.stop()
    told = json.loads(done.stdout)
    assert (told["index"], told["bytes"]) == (read_copy(str(file)).index, os.path.getsize(file))
    assert file.stat().st_mode & 0o777 == 0o600
    again = node.cli("admin", "backup", str(file))
    assert again.returncode == 4
    assert "exists already" in again.stderr
    assert not any(name.startswith("copy-") for name in os.listdir(f"{node.home}/namespace"))
    with open(f"{node.home}/audit.log") as log:
        records = [json.loads(line) for line in log]
    assert [record["succeeded"] for record in records if record["event"] == "backup"] == [True]
    node.kill()
    restored = restore(node, file, tmp_path / "new", f"{node.home}/cluster.secret")
    assert restored["index"] == told["index"]
    with ServedNode(str(tmp_path / "new")) as new, new.connect() as fs:
        names = {int(name.rstrip("/")) for name in fs.names("/w")}
        assert names == set(range(len(names)))
        assert before <= len(names) <= writer.acknowledged
        assert fs.open("/m/f").read() == (store / "f").read_bytes()
        assert fs.cluster().incarnation == restored["incarnation"] > told["incarnation"]
        assert fs.cluster().cluster.hex() == told["cluster"]
        assert not any(fs.fsck().checks.values())
        fs.make_directory("/w/goes-on")


def cached(fs: Any) -> int:
    """Groups at the one worker; -1 while it does not answer."""
    answers = list(fs.worker_status().values())
    return (
        -1 if any(isinstance(each, Exception) for each in answers) else sum(t.groups for a in answers for t in a.tiers)
    )


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[tuple[ServedNode, ServedNode]]:
    """A master, and a worker in a process of its own that knows it by a lasting port."""
    secret = tmp_path / "secret"
    secret.write_text("a secret of these two nodes\n")
    secret.chmod(0o600)
    sets = [f"security.cluster_secret_file={secret}", "console.port=-1"]
    master = ServedNode(str(tmp_path / "master"), sets=["node.role=master", *sets]).start()
    worker = ServedNode(
        str(tmp_path / "worker"), sets=["node.role=worker", f"worker.masters={master.doors['rpc']}", *sets]
    ).start()
    yield master, worker
    worker.kill()
    master.kill()


def test_a_worker_drops_its_pages_for_a_restored_master_and_keeps_what_no_store_has(
    tmp_path: Path, apart: tuple[ServedNode, ServedNode], store: Path
) -> None:
    master, _ = apart
    with master.connect() as fs:
        fs.mount_add("/m", f"file://{store}")
        fs.open("/m/f").read()
        fs.write("/kept", b"only here" * 100)
        assert cached(fs) == 2
        fs.backup(str(tmp_path / "backup"))
        after = fs.write("/m/after", b"written after the backup").inode.content
        assert cached(fs) == 3
    master.stop()
    restored = restore(master, tmp_path / "backup", tmp_path / "new", str(tmp_path / "secret"))
    new = ServedNode(str(tmp_path / "new"), sets=master.sets)
    with new, new.connect() as fs:
        until(lambda: cached(fs) == 1, lambda: f"the worker to register again: {fs.worker_status()}")
        with fs.open("/m/f") as file:
            assert file.read() == (store / "f").read_bytes()
        assert fs.open("/kept").read() == b"only here" * 100
        assert fs.open("/m/after").read() == b"written after the backup", "found in the store"
        content = fs.write("/m/new", b"new bytes").inode.content
        assert content >> 48 == restored["incarnation"] > after >> 48
        assert fs.open("/m/new").read() == b"new bytes"
        assert not any(fs.fsck().checks.values())


def test_a_backup_goes_on_over_connections_that_break(tmp_path: Path, node: ServedNode) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(6_500):
        (source / f"{number:0250d}").touch()
    with node.connect() as fs:
        fs.mount_add("/many", f"file://{source}")
        assert sum(1 for _ in fs.names("/many")) == 6_500
        relay = Relay(node.doors["rpc"], CHUNK_BYTES + HEAD_BYTES + CHUNK_BYTES // 2)
        came: list[int] = []
        try:
            with monofs.connect(relay.address) as far:
                head = far.backup(str(tmp_path / "backup"), progress=lambda count, _: came.append(count))
        finally:
            relay.close()
        assert head.chunks >= 3
        assert relay.connections >= 3
        assert sum(came) == head.total_bytes == os.path.getsize(tmp_path / "backup")
        assert read_copy(str(tmp_path / "backup")) == head
        with pytest.raises(AlreadyExists):
            fs.backup(str(tmp_path / "backup"))
        assert fs.backup(str(tmp_path / "backup"), overwrite=True).sha256 != b""
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("backup")) == ["backup"]
