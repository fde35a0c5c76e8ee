"""The built wheel, installed in an environment of its own, is the whole program."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    where = tmp_path_factory.mktemp("wheel")
    run = {"check": True, "capture_output": True, "text": True, "cwd": where}
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", where / "dist", str(ROOT)], **run)
    (wheel,) = (where / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", where / "venv"], **run)
    binaries = where / "venv/bin"
    subprocess.run([binaries / "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)], **run)
    return binaries


def test_the_wheel_serves_mounts_and_reads(installed, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/hello.txt").write_bytes(b"hello\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MONOFS_", "PYTHON"))}
    ready = tmp_path / "ready.json"
    arguments = ["serve", "--home", tmp_path / "home", "--ready-file", ready]
    ports = [word for door in ("master", "worker", "console", "s3") for word in ("--set", f"{door}.port=0")]
    with subprocess.Popen([installed / "monofs", *arguments, *ports], cwd=tmp_path, env=environment) as node:
        try:
            deadline = time.monotonic() + 60
            while not ready.exists():
                assert node.poll() is None, "the node ended before it was ready"
                assert time.monotonic() < deadline
                with pytest.raises(subprocess.TimeoutExpired):
                    node.wait(0.05)
            environment["MONOFS_MASTERS"] = json.loads(ready.read_text())["rpc"]

            def monofs(*words):
                done = subprocess.run(
                    [installed / "monofs", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
                return done.stdout

            monofs("mount", "add", "/d", f"file://{tmp_path}/data")
            assert monofs("fs", "cat", "/d/hello.txt") == "hello\n"
            assert "clean" in monofs("admin", "fsck")
            code = "import fsspec; print(fsspec.open('monofs:///d/hello.txt').open().read())"
            done = subprocess.run(
                [installed / "python", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.stdout == "b'hello\\n'\n", done.stderr
        finally:
            node.send_signal(signal.SIGTERM)
        assert node.wait(30) == 0
