"""`monofs serve` as a user meets it: ready lines, doors, signals, homes, ports, settings."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from monofs.testing.nodes import NodeFailed, ServedNode

pytestmark = pytest.mark.usefixtures("cold")


@pytest.fixture
def node(tmp_path):
    with ServedNode(str(tmp_path / "home")) as served:
        yield served


def run(*words, **environment):
    base = {k: v for k, v in os.environ.items() if not k.startswith("MONOFS_")}
    return subprocess.run(
        [sys.executable, "-m", "monofs", *words], capture_output=True, text=True, timeout=60, env=base | environment
    )


def test_a_node_says_its_doors_and_stops_cleanly_on_sigterm_and_sigint(tmp_path):
    for number in (signal.SIGTERM, signal.SIGINT):
        node = ServedNode(str(tmp_path / "home")).start()
        assert set(node.doors) == {"rpc", "worker", "console", "s3", "pid"}
        assert node.doors["pid"] == node.process.pid
        for door in ("rpc", "worker", "console"):
            assert node.doors[door].removeprefix("http://") in node.output()
        node.process.send_signal(number)
        assert node.process.wait(30) == 0
        assert not os.path.exists(node.ready_file), "the ready file goes with the node"
        assert "Traceback" not in node.output()


def test_a_home_in_use_is_refused_with_a_sentence(node, tmp_path):
    second = ServedNode(str(tmp_path / "home"))
    second.home = node.home
    done = run("serve", "--home", node.home, "--set", "master.port=0")
    assert done.returncode == 4
    assert f"in use by process {node.process.pid}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_newer_home_is_refused_naming_the_release(tmp_path):
    home = tmp_path / "home"
    with ServedNode(str(home)):
        pass
    (home / "format").write_text('{"format": 2, "software": "7.5", "created_ns": 0}')
    done = run("serve", "--home", str(home))
    assert done.returncode == 1
    assert "install monofs 7.5 or newer" in done.stderr


OTHERS = [word for door in ("worker", "console", "s3") for word in ("--set", f"{door}.port=0")]


def test_a_port_in_use_is_named_and_nothing_is_left_behind(node, tmp_path):
    port = node.doors["rpc"].rpartition(":")[2]
    done = run("serve", "--home", str(tmp_path / "other"), "--set", f"master.port={port}", *OTHERS)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    with ServedNode(str(tmp_path / "other")):
        pass


def test_a_door_open_to_the_world_needs_a_secret_and_a_console_an_exception(tmp_path):
    done = run(
        "serve",
        "--home",
        str(tmp_path / "h"),
        "--set",
        "console.host=0.0.0.0",
        "--set",
        "master.port=0",
        "--set",
        "worker.port=0",
    )
    assert done.returncode == 2
    assert "security.insecure=true" in done.stderr
    sets = ["master.host=0.0.0.0", "security.authentication=required"]
    with ServedNode(str(tmp_path / "h"), sets=sets) as node:
        port = node.doors["rpc"].rpartition(":")[2]
        done = run("--masters", f"127.0.0.1:{port}", "fs", "ls")
        assert done.returncode == 5, done.stderr
        assert "cluster-secret-file" in done.stderr
        done = run("--masters", f"127.0.0.1:{port}", "--cluster-secret-file", f"{node.home}/cluster.secret", "fs", "ls")
        assert done.returncode == 0, done.stderr


def test_settings_tell_where_they_came_from(tmp_path):
    file = tmp_path / "monofs.toml"
    file.write_text("[namespace]\nsync_interval_s = 7\n[worker]\nfetch_threads = 3\n")
    with ServedNode(
        str(tmp_path / "home"),
        sets=["log.level=debug"],
        environment={"MONOFS_CONFIG": str(file), "MONOFS_WORKER_FETCH_THREADS": "5"},
    ) as node:
        rows = [json.loads(line) for line in node.cli("admin", "conf", "--json", "--all").stdout.splitlines()]
    by_name = {row["name"]: row for row in rows}
    assert by_name["namespace.sync_interval_s"]["source"] == str(file)
    assert (by_name["worker.fetch_threads"]["value"], by_name["worker.fetch_threads"]["source"]) == (
        "5",
        "environment MONOFS_WORKER_FETCH_THREADS",
    )
    assert by_name["log.level"]["source"] == "command line"
    assert by_name["master.host"]["source"] == "default"


def test_wrong_settings_are_usage_errors(tmp_path):
    for words, named in (
        (("--set", "master.prot=1"), "master.prot"),
        (("--set", "worker.tiers=[{"), "worker.tiers"),
        (("--set", "worker.quota=lots"), "lots"),
        (("--config", str(tmp_path / "none.toml")), "cannot read"),
    ):
        done = run("serve", "--home", str(tmp_path / "h"), *words)
        assert done.returncode == 2, (words, done.stderr)
        assert named in done.stderr
        assert "Traceback" not in done.stderr


def test_the_console_port_serves_metrics_and_health(node):
    with urllib.request.urlopen(node.doors["console"] + "/health", timeout=10) as answer:
        assert json.load(answer)["ready"] is True
    node.cli("fs", "ls", "/")
    with urllib.request.urlopen(node.doors["console"] + "/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'monofs_rpc_requests_total{method="LIST",outcome="ok"} 1.0' in text
    assert "monofs_tier_capacity_bytes" in text
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(node.doors["console"] + "/etc/passwd", timeout=10)
    assert caught.value.code == 404
    caught.value.close()


def test_the_home_is_private_and_the_secret_is_nowhere_else(node):
    assert stat.S_IMODE(os.stat(node.home).st_mode) == 0o700
    secret = Path(node.home, "cluster.secret").read_text().strip()
    assert secret not in node.output()
    assert secret not in Path(node.home, "monofs.log").read_text()


def test_a_node_that_cannot_write_its_home_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    node = ServedNode(str(tmp_path / "file/home"))
    node.home = str(tmp_path / "file" / "home")
    done = run("serve", "--home", node.home)
    assert done.returncode != 0
    assert "cannot be used" in done.stderr


def test_no_node_no_traceback(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    done = run("--masters", f"127.0.0.1:{port}", "--timeout", "3s", "fs", "ls")
    assert done.returncode == 6, done.stderr
    assert "monofs serve" in done.stderr
    assert "Traceback" not in done.stderr


def test_failed_starts_tell_why(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "other.txt").write_text("x")
    with pytest.raises(NodeFailed, match=r"other\.txt"):
        ServedNode(str(home)).start()
