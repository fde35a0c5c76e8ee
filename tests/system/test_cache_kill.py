"""kill -9 of a process that fills, evicts, drops and keeps: never a wrong page, never a broken invariant, and never a loss of what no store has,
at any moment, many times."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

KILLS = 80
WRITER = Path(__file__).with_name("cache_writer.py")


def test_a_cache_killed_again_and_again_never_has_a_wrong_page(tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    found: list[int] = []
    safe: set[str] = set()
    kept_ever = 0
    with subprocess.Popen([sys.executable, str(WRITER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        lines = Lines(writer.stdout.fileno())
        try:
            for life in range(KILLS):
                writer.stdin.write(f"live {tmp_path} {seed + life}\n".encode())
                writer.stdin.flush()
                pid, pages = None, None
                while pid is None or pages is None:  # both say it, in any order
                    word, _, rest = lines.next().partition(" ")
                    assert word in ("pid", "found", "keeps"), f"life {life}: {word} {rest}"
                    if word == "keeps":
                        assert safe <= set(rest.split(",")), f"life {life}: of {safe} only {rest} came back"
                    else:
                        pid, pages = (int(rest), pages) if word == "pid" else (pid, int(rest))
                found.append(pages)
                for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):  # let it work until it has said so much
                    kept_ever += hear(lines.next(), safe)
                time.sleep(chance.random() ** 2 * 0.1)  # and a little longer
                os.kill(pid, signal.SIGKILL)
                while (line := lines.next()) != "dead":
                    kept_ever += hear(line, safe)
        finally:
            writer.stdin.close()
            writer.wait(10)
    assert len(found) == KILLS
    assert max(found) > 10  # there was something to lose
    assert kept_ever > KILLS // 2


def hear(line: str, safe: set[str]) -> bool:
    """What the child says of a content no store has: whether it is safe from now on."""
    word, _, content = line.partition(" ")
    assert word in ("kept", "retired"), line
    (safe.add if word == "kept" else safe.discard)(content)
    return word == "kept"


class Lines:
    """Lines of a pipe, each awaited for at most a minute."""

    def __init__(self, fd: int) -> None:
        self.fd, self.rest = fd, b""

    def next(self) -> str:
        deadline = time.monotonic() + 60
        while b"\n" not in self.rest:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the writer says nothing"
            got = os.read(self.fd, 65536)
            assert got, "the writer has ended"
            self.rest += got
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()
