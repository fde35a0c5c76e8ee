"""A program that writes checkpoints the usual way (into a temporary directory, renamed when whole), killed at random, and its node too.

The newest checkpoint that was acknowledged is always there and whole, and no checkpoint is ever half. Seed and rounds: TEST_SEED,
MONOFS_TEST_ROUNDS.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from write_world import Directory, Place, Prefix, broken, converged, disagreements, synced

from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system
ROUNDS = int(os.environ.get("MONOFS_TEST_ROUNDS", "8"))

WRITER = """
import hashlib, itertools, json, random, sys
import monofs
from monofs.model.errors import MonofsError

address, top, seed, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance = random.Random(seed)
fs = monofs.connect(address, timeout_s=60)

def fill(directory, step):
    if fs.exists(directory):
        fs.remove_tree(directory)
    sums = {}
    for name in ("weights", "optimizer/state", "empty"):
        data = chance.randbytes({"weights": 300_000, "empty": 0}.get(name, 9_000_000 if step % 4 == 0 else 2_000))
        sums[name] = hashlib.sha256(data).hexdigest()
        with fs.open(f"{directory}/{name}", "wb") as stream:
            for start in range(0, len(data), 100_000):
                stream.write(data[start : start + 100_000])
    fs.write(f"{directory}/manifest", json.dumps(sums).encode())

for step in itertools.count(first):
    for left in reversed(range(5)):
        try:
            fill(f"{top}/tmp-{step}", step)
            break
        except MonofsError:  # the node died with a part of a file: from its beginning, as programs do
            if not left:
                raise
    print("writing", step, flush=True)
    fs.rename(f"{top}/tmp-{step}", f"{top}/step-{step}")
    fs.write(f"{top}/latest.tmp", str(step).encode())
    fs.rename(f"{top}/latest.tmp", f"{top}/latest")
    print("wrote", step, flush=True)
    if fs.exists(f"{top}/step-{step - 3}"):
        fs.remove_tree(f"{top}/step-{step - 3}")
"""


class Loop:
    """The writer, and what it said."""

    def __init__(self, node: ServedNode, top: str, seed: int, first: int) -> None:
        words = [sys.executable, "-c", WRITER, node.doors["rpc"], top, str(seed), str(first)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def take(self, lines: int) -> list[tuple[str, int]]:
        """The next lines; all until its end with -1."""
        said: list[tuple[str, int]] = []
        assert self.process.stdout is not None
        while lines < 0 or len(said) < lines:
            line = self.process.stdout.readline()
            if not line:
                break
            word, _, step = line.partition(" ")
            said.append((word, int(step)))
        return said

    def end(self) -> tuple[list[tuple[str, int]], str]:
        self.process.kill()
        said = self.take(-1)
        assert self.process.stderr is not None
        complaint = self.process.stderr.read()
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]
        self.process.stderr.close()
        return said, complaint


def check_whole(fs: Any, directory: str) -> None:
    sums = json.loads(fs.read(f"{directory}/manifest"))
    assert {name: hashlib.sha256(fs.read(f"{directory}/{name}")).hexdigest() for name in sums} == sums
    assert {info.path[len(directory) + 1 :] for info in fs.walk(directory) if info.is_file} == {*sums, "manifest"}


def run(node: ServedNode, place: Place, top: str) -> None:
    seed = int(os.environ.get("TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}: TEST_SEED={seed} repeats it")
    chance = random.Random(seed)
    with node.connect(timeout_s=60) as fs:
        fs.mount_add(top, place.uri, place.options)
        wrote, begun = 0, 0
        for turn in range(ROUNDS):
            loop = Loop(node, top, seed + turn, begun + 1)
            try:
                said = loop.take(chance.randrange(2, 8))
                victim = chance.choice(["writer", "node", "node while it goes on"])
                if victim != "writer":
                    node.kill()
                    node.start()
                if victim == "node while it goes on":
                    said += loop.take(chance.randrange(2, 6))
            finally:
                rest, complaint = loop.end()
            assert not complaint or victim == "writer", complaint
            for word, step in said + rest:
                wrote = max(wrote, step) if word == "wrote" else wrote
                begun = max(begun, step)
            assert wrote, "the writer came nowhere"
            latest = int(fs.read(f"{top}/latest"))
            assert wrote <= latest <= begun
            for info in list(fs.list(top)):
                if info.name.startswith("step-") and int(info.name[5:]) >= latest - 2:
                    check_whole(fs, info.path)
            assert fs.exists(f"{top}/step-{latest}")
        converged(fs, top, 120)
        check_whole(fs, f"{top}/step-{int(fs.read(f'{top}/latest'))}")
        assert not disagreements(fs, top, place)
        synced(fs, top)
        assert not disagreements(fs, top, place)
        assert not broken(fs)


def test_checkpoints_over_a_directory_are_whole_whoever_is_killed(
    serve: Callable[..., ServedNode], tmp_path: Path
) -> None:
    run(serve(), Directory(str(tmp_path / "store")), "/ck")


@pytest.mark.ceph
def test_checkpoints_over_an_s3_server_are_whole_whoever_is_killed(
    serve: Callable[..., ServedNode], bucket: Any
) -> None:
    run(serve(), Prefix(bucket, "p"), "/ck")
