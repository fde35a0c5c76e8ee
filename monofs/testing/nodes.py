"""Real nodes as processes: started, killed, restarted, on free ports that they keep. For tests, the demo and benchmarks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import monofs
from monofs.testing.orphans import die_with_parent
from monofs.testing.ports import free_ports
from monofs.testing.processes import begin, run

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


class NodeFailed(Exception):
    """The process ended before it was ready; the message holds what it printed."""


class ServedNode:
    """One `monofs serve` process on a home of its own.

    ``doors`` is what the ready file says: ``rpc``, ``worker``, ``console`` and ``pid``. Restarting on the same home is :meth:`start` again.
    """

    def __init__(
        self,
        home: str,
        *,
        sets: list[str] | None = None,
        environment: dict[str, str] | None = None,
        program: str = "monofs",
    ) -> None:
        self.home = home
        self.program = program
        """The module that is run."""
        self.before: list[str] = []
        """Words before the command, such as those of ``Lab.inside``."""
        ports = zip(("master", "worker", "console", "s3"), free_ports(4), strict=True)
        self.sets = [f"{door}.port={port}" for door, port in ports] + (sets or [])
        self.environment = environment or {}
        self.flags: list[str] = []
        """More words for `serve`, such as `--skip-entry`."""
        self.process: subprocess.Popen[bytes] | None = None
        self._printed = 0
        """By earlier starts."""
        self.doors: dict[str, Any] = {}

    @property
    def command(self) -> list[str]:
        """What is run; ``python -m monofs`` so that the checkout under test is what serves."""
        sets = [word for each in self.sets for word in ("--set", each)]
        serve = [*self.before, sys.executable, "-m", self.program, "serve", "--home", self.home]
        return [*serve, "--ready-file", self.ready_file, *sets, *self.flags]

    @property
    def ready_file(self) -> str:
        """Beside the home, so that a home may be anything."""
        return self.home.rstrip("/") + ".ready.json"

    @property
    def output_file(self) -> str:
        """Standard output and error of every start, appended."""
        return self.home.rstrip("/") + ".out"

    def output(self) -> str:
        """Everything printed so far."""
        with open(self.output_file, errors="replace") as stream:
            return stream.read()

    def start(self, *, timeout_s: float = START_TIMEOUT_S) -> ServedNode:
        """Start the process and wait until its doors are open. Raises ``NodeFailed``."""
        self.launch()
        return self.wait_ready(timeout_s=timeout_s)

    def launch(self) -> None:
        """Start the process, and do not wait."""
        if os.path.exists(self.ready_file):
            os.unlink(self.ready_file)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MONOFS_")} | self.environment
        with open(self.output_file, "ab") as out:
            self._printed = out.tell()
            self.process = begin(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True,
                preexec_fn=die_with_parent(),
            )  # fmt: skip

    def wait_ready(self, *, timeout_s: float = START_TIMEOUT_S) -> ServedNode:
        """Wait until the doors are open. Raises ``NodeFailed``."""
        deadline = time.monotonic() + timeout_s
        while not os.path.exists(self.ready_file):
            if self._wait(0.02) or time.monotonic() > deadline:
                self.kill()
                raise NodeFailed(self.output()[self._printed :])
        with open(self.ready_file) as stream:
            self.doors = json.load(stream)
        return self

    def _wait(self, seconds: float) -> bool:
        """Whether the process ended within ``seconds``."""
        assert self.process is not None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> int:
        """SIGTERM and wait; returns the exit code. A node that does not stop in time is killed and reported."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            if not self._wait(STOP_TIMEOUT_S):
                self.kill()
                raise NodeFailed(f"did not stop within {STOP_TIMEOUT_S} s:\n{self.output()}")
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL and reap."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()

    def connect(self, **options: Any) -> Any:
        """A client of this node."""
        return monofs.connect(self.doors["rpc"], **options)

    def cli(self, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run one `monofs` command against this node."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MONOFS_")}
        masters = ["--masters", self.doors["rpc"]] if self.doors else []
        words = [sys.executable, "-m", "monofs", *masters, *arguments]
        return run(words, timeout_s=timeout_s, text=True, errors="surrogateescape", env=environment)

    def memory_bytes(self) -> int:
        """Resident memory now."""
        assert self.process is not None
        with open(f"/proc/{self.process.pid}/statm") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> ServedNode:
        return self.start()

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.kill()
