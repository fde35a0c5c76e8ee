"""All benchmarks one after another, as one report: about fifteen minutes.

    python benchmarks/run.py [--only NAME[,NAME]] [> report.txt]

Each prints its own reference from the same run. Nothing else should run on the machine meanwhile: the load average is printed before
and after each, so that a disturbed figure can be told.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from monofs.testing.masters import Masters
from monofs.testing.nodes import ServedNode

HERE = os.path.dirname(os.path.abspath(__file__))
TIMEOUT_S = 600.0
SCRIPTS: dict[str, list[str]] = {
    "read_local": ["read_local.py", "--rounds", "5", "--megabytes", "256"],
    "stream": ["stream.py", "--rounds", "7"],
    "scaling": ["scaling.py"],
    "node": ["node.py"],
    "cold": ["cold.py", "--rounds", "3", "--megabytes", "512"],
    "cold_memory": ["cold.py", "--rounds", "3", "--megabytes", "128", "--directory", "/dev/shm"],
    "ufs": ["ufs.py", "--seconds", "1", "--rounds", "3", "--megabytes", "512"],
    "rpc": ["rpc.py", "--seconds", "1"],
    "http_door": ["http_door.py"],
    "connections": ["connections.py"],
    "placement": ["placement.py"],
    "journal": ["journal.py", "--rounds", "3", "--seconds", "1"],
    "metadata_store": ["metadata_store.py", "--files", "300000"],
    "tiering": ["tiering.py", "--groups", "5000", "--open-groups", "200000"],
    "write": ["write.py", "--rounds", "3"],
    "write_far": ["write.py", "--rounds", "3", "--delay-ms", "30"],
    "write_radosgw": ["write.py", "--rounds", "3", "--radosgw", "--megabytes", "256"],
    "trees": ["trees.py", "--keys", "1000000"],
    "keys": ["keys.py", "--radosgw"],
    "failover": ["failover.py", "--kills", "100"],
}


def metadata() -> int:
    """`monofs bench metadata` against a node of its own, on the disk of the temporary directory."""
    with tempfile.TemporaryDirectory(prefix="monofs-bench-") as directory, ServedNode(f"{directory}/home") as node:
        done = node.cli("bench", "metadata", timeout_s=TIMEOUT_S)
        print(done.stdout + done.stderr, end="", flush=True)
        return done.returncode


def masters() -> int:
    """`monofs bench metadata` against three masters that share the cores with it."""
    with tempfile.TemporaryDirectory(prefix="monofs-bench-") as directory, Masters(directory) as group:
        reach = ["--masters", group.addresses, "--cluster-secret-file", group.secret]
        command = [sys.executable, "-m", "monofs", *reach, "bench", "metadata", "--directory-size", "20000"]
        return subprocess.run(command, timeout=TIMEOUT_S, check=False).returncode


WITHIN: dict[str, Callable[[], int]] = {"metadata": metadata, "masters": masters}


def script(words: list[str]) -> int:
    """One script in a process of its own."""
    try:
        return subprocess.run(
            [sys.executable, f"{HERE}/{words[0]}", *words[1:]], timeout=TIMEOUT_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"did not finish within {TIMEOUT_S:.0f} s")
        return 1


def main() -> int:
    """Run them; the exit code says whether all finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"some of {', '.join([*WITHIN, *SCRIPTS])}")
    wanted = [name for name in parser.parse_args().only.split(",") if name]
    failed = []
    for name in [*WITHIN, *SCRIPTS]:
        if wanted and name not in wanted:
            continue
        print(f"\n=== {name}  (load {os.getloadavg()[0]:.1f})", flush=True)
        began = time.monotonic()
        if WITHIN[name]() if name in WITHIN else script(SCRIPTS[name]):
            failed.append(name)
        print(f"--- {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
