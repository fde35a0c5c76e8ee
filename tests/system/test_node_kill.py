"""kill -9 at any moment under load, again and again on one home: nothing acknowledged is lost, no page is wrong, fsck is clean.

A child process changes the namespace and reads files all the while, telling through a pipe what was acknowledged; it reconnects and retries under
the same request ids, so it also proves that a retry applies once. The node is killed after a random number of acknowledged facts and started
again on its home and ports. Seed and rounds: TEST_SEED, MONOFS_TEST_KILLS.
"""

import json
import os
import random
import subprocess
import sys

from monofs.client import FileInfo
from monofs.testing.nodes import ServedNode

KILLS = int(os.environ.get("MONOFS_TEST_KILLS", "100"))
FILES = 40

LOAD = """
import itertools, json, os, random, sys, threading
import monofs
from monofs.model.errors import MonofsError

address, directory, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
random.seed(seed)
done = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
fs = monofs.connect(address, timeout_s=60)
say = lambda *fact: print(json.dumps(fact), flush=True)
for number in itertools.count():
    if done.is_set():
        break
    name = f"/n/{number}"
    fs.make_directory(name, parents=True)
    say("made", name)
    fs.create(name + "/file")
    say("made", name + "/file")
    if number % 3 == 0:
        say("trying", name + "/file", name + "/moved")
        fs.rename(name + "/file", name + "/moved")
        say("moved", name + "/file", name + "/moved")
    if number % 5 == 0:
        fs.make_directory(name + "/gone")
        fs.delete(name + "/gone")
        say("gone", name + "/gone")
    if number % 7 == 0:
        fs.mount_add(f"/m/{number}", f"file://{directory}/{number % 10}", {}, shared=True)
        say("made", f"/m/{number}")
    file = random.choice(os.listdir(directory + "/files"))
    with open(f"{directory}/files/{file}", "rb") as truth:
        say("read" if fs.read(f"/data/files/{file}") == truth.read() else "WRONG", file)
"""


def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path):
    seed = int(os.environ.get("TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}: TEST_SEED={seed} repeats it")
    chance = random.Random(seed)
    directory = tmp_path / "store"
    make_store(directory, chance)
    node = ServedNode(str(tmp_path / "home")).start()
    with node.connect() as fs:
        fs.mount_add("/data", f"file://{directory}", {})
    there: dict[str, bool] = {}
    acknowledged = 0
    words = [sys.executable, "-c", LOAD, node.doors["rpc"], str(directory), str(seed)]
    load = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with load:
            for kill in range(KILLS):
                for _ in range(chance.randrange(1, 80)):
                    line = load.stdout.readline()
                    assert line, load.stderr.read()
                    acknowledged += take(json.loads(line), there)
                node.kill()
                node.start()
                if kill % 20 == 19:
                    free(node)
            load.stdin.close()
            for line in load.stdout:
                acknowledged += take(json.loads(line), there)
            assert load.wait(60) == 0, load.stderr.read()
        check(node, there, directory)
    finally:
        load.kill()
        node.kill()
    print(f"{acknowledged} acknowledged changes over {KILLS} kills")
    assert acknowledged > KILLS


def make_store(directory, chance):
    """Ten directories to mount, and files of every interesting size."""
    for number in range(10):
        (directory / str(number)).mkdir(parents=True)
    (directory / "files").mkdir()
    for number in range(FILES):
        size = chance.choice([0, 1, 4096, 100_000, 1 << 20, (1 << 20) + 1, 3_000_000])
        (directory / "files" / f"f{number}").write_bytes(chance.randbytes(size))


def free(node):
    """Drop cached pages, so that fetches go on happening."""
    done = node.cli("fs", "free", "-R", "/data")
    assert done.returncode == 0, done.stderr


def take(fact, there):
    """Note one acknowledged fact; returns 1 when it is a change."""
    kind = fact[0]
    assert kind != "WRONG", f"a page of {fact[1]} was wrong"
    if kind == "made":
        there[fact[1]] = True
    elif kind == "moved":
        there[fact[1]], there[fact[2]] = False, True
    elif kind == "gone":
        there[fact[1]] = False
    elif kind == "trying":  # until it is acknowledged either outcome is right
        for path in fact[1:]:
            there.pop(path, None)
    return int(kind not in ("read", "trying"))


def check(node, there, directory):
    """Everything acknowledged is as it was acknowledged; every file reads as the store has it; fsck is clean."""
    with node.connect() as fs:
        paths = list(there)
        for start in range(0, len(paths), 500):
            some = paths[start : start + 500]
            found = fs.stat_many(some)
            wrong = [path for path, info in zip(some, found, strict=True) if isinstance(info, FileInfo) != there[path]]
            assert not wrong
        for file in os.listdir(directory / "files"):
            assert fs.read(f"/data/files/{file}") == (directory / "files" / file).read_bytes()
    done = node.cli("admin", "fsck", "--pages")
    assert done.returncode == 0, done.stdout + done.stderr
