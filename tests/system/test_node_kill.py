"""kill -9 at any moment under load, again and again on one home: nothing acknowledged is lost, no page is wrong, fsck is clean.

Each round a child process changes the namespace and reads files, telling through a pipe what was acknowledged; the node is killed at a random
moment, started again, and everything acknowledged so far is looked for. The seed is printed first.
"""

import json
import os
import random
import subprocess
import sys

from monofs.testing.nodes import ServedNode

ROUNDS = 120
FILES = 40

LOAD = """
import json, os, random, sys
import monofs
from monofs.model.errors import MonofsError

address, directory, first, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
random.seed(seed)
fs = monofs.connect(address, timeout_s=20)
say = lambda *fact: print(json.dumps(fact), flush=True)
number = first
try:
    while True:
        name = f"/n/{number}"
        fs.make_directory(name, parents=True)
        say("made", name)
        fs.create(name + "/file")
        say("made", name + "/file")
        if number % 3 == 0:
            fs.rename(name + "/file", name + "/moved")
            say("moved", name + "/file", name + "/moved")
        if number % 5 == 0:
            fs.make_directory(name + "/gone")
            fs.delete(name + "/gone")
            say("gone", name + "/gone")
        if number % 7 == 0:
            fs.mount_add(f"/m/{number}", f"file://{directory}/{number % 10}", {}, shared=True)
            say("mounted", f"/m/{number}")
        file = random.choice(os.listdir(directory + "/files"))
        body = fs.read(f"/data/files/{file}")
        with open(f"{directory}/files/{file}", "rb") as truth:
            if body != truth.read():
                say("WRONG", file)
        number += 1
except (MonofsError, OSError) as error:
    say("stopped", number, type(error).__name__)
"""


def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path):
    seed = int(os.environ.get("MONOFS_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}: MONOFS_TEST_SEED={seed} repeats it")
    chance = random.Random(seed)
    directory = tmp_path / "store"
    for number in range(10):
        (directory / str(number)).mkdir(parents=True)
    (directory / "files").mkdir()
    for number in range(FILES):
        size = chance.choice([0, 1, 4096, 100_000, 1 << 20, (1 << 20) + 1, 3_000_000])
        (directory / "files" / f"f{number}").write_bytes(chance.randbytes(size))
    node = ServedNode(str(tmp_path / "home")).start()
    fs = node.connect()
    fs.mount_add("/data", f"file://{directory}", {})
    fs.close()
    there: dict[str, bool] = {}
    next_number, acknowledged = 0, 0
    try:
        for round_ in range(ROUNDS):
            words = [sys.executable, "-c", LOAD, node.doors["rpc"], str(directory), str(next_number), str(seed + round_)]
            with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
                kill_after = chance.randrange(1, 60)
                for count, line in enumerate(load.stdout, 1):
                    fact = json.loads(line)
                    acknowledged += take(fact, there)
                    if fact[0] == "stopped":
                        next_number = fact[1] + 1
                        break
                    if count == kill_after:
                        node.kill()
                assert load.wait(60) == 0, load.stderr.read()
            node.kill()
            node.start()
            if round_ % 10 == 0 or round_ == ROUNDS - 1:
                check(node, there, directory)
    finally:
        node.kill()
    print(f"{acknowledged} acknowledged changes over {ROUNDS} kills")
    assert acknowledged > ROUNDS


def take(fact, there):
    """Note one acknowledged fact; returns 1 when it is a change."""
    kind = fact[0]
    assert kind != "WRONG", f"a page of {fact[1]} was wrong"
    if kind in ("made", "mounted"):
        there[fact[1]] = True
    elif kind == "moved":
        there[fact[1]], there[fact[2]] = False, True
    elif kind == "gone":
        there[fact[1]] = False
    return int(kind != "stopped")


def check(node, there, directory):
    """Everything acknowledged is as it was acknowledged; every file reads as the store has it; fsck is clean."""
    with node.connect() as fs:
        paths = list(there)
        for start in range(0, len(paths), 500):
            some = paths[start : start + 500]
            found = fs.stat_many(some)
            wrong = [path for path, info in zip(some, found, strict=True) if (info is not None) != there[path]]
            assert not wrong
        for file in os.listdir(directory / "files"):
            assert fs.read(f"/data/files/{file}") == (directory / "files" / file).read_bytes()
    done = node.cli("admin", "fsck", "--pages")
    assert done.returncode == 0, done.stdout + done.stderr
