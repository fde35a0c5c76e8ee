"""`monofs dev`: a whole cluster of real processes on this machine, to try things on."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import ExitStack
from itertools import chain
from typing import Any

import click

import monofs
from monofs.cli.group import Group
from monofs.model.errors import MonofsError

STOP_S = 20.0
LOOK_S = 1.0
DISK_PERCENT = 80
"""Of what the disk has free, for all workers together: what one worker takes by default."""
LOWEST_PORT, SPREAD = 20_000, 10_000
"""Below the range the kernel gives to outgoing connections: a port drawn here is free when its process is started again."""


@click.group(cls=Group)
def dev() -> None:
    """Try monofs on this machine."""


@dev.command()
@click.option("--masters", "masters", type=click.IntRange(1, 9), default=3, show_default=True, help="How many masters.")
@click.option("--workers", type=click.IntRange(0, 32), default=2, show_default=True, help="How many workers.")
@click.option(
    "--home", metavar="DIR", help="Keep everything there; without it, in a temporary directory that goes at the end."
)
def cluster(masters: int, workers: int, home: str | None) -> None:
    """Run several masters and workers as processes of their own on loopback; Ctrl-C stops them all.

    Kill one of them and watch: its line says so, and the command that starts it again is printed first.
    """
    with ExitStack() as stack:
        directory = (
            os.path.abspath(home) if home else stack.enter_context(tempfile.TemporaryDirectory(prefix="monofs-"))
        )
        trial = Trial(directory, masters, workers)
        stack.callback(trial.stop)
        trial.start()
        trial.watch()


class Trial:
    """The processes of one trial. Ports and the secret are drawn once for a directory, so that it can be started again."""

    def __init__(self, directory: str, masters: int, workers: int) -> None:
        self.directory = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.secret = os.path.join(directory, "cluster.secret")
        ports, worker_consoles, s3_doors = self._ports(3 * masters, workers)
        names = [f"m{number + 1}" for number in range(masters)]
        journals, rpcs, consoles = ports[:masters], ports[masters : 2 * masters], ports[2 * masters :]
        self.consoles = dict(zip(names, consoles, strict=True))
        peers = ",".join(f"{name}=127.0.0.1:{port}" for name, port in zip(names, journals, strict=True))
        self.masters = ",".join(f"127.0.0.1:{port}" for port in rpcs)
        self.commands: dict[str, list[str]] = {}
        for name, journal, rpc in zip(names, journals, rpcs, strict=True):
            sets = [f"journal.port={journal}", f"master.port={rpc}", f"console.port={self.consoles[name]}"]
            self.commands[name] = self._serve(name, "master", ["--id", name, "--peers", peers], sets)
        self.s3_doors: dict[str, int] = {}
        for number, (console, s3) in enumerate(zip(worker_consoles, s3_doors, strict=True)):
            name, quota = f"w{number + 1}", f"{DISK_PERCENT / workers:.3g}%"  # of the one disk they all lie on
            sets = [
                f"worker.masters={self.masters}",
                "worker.port=0",
                f"worker.quota={quota}",
                f"console.port={console}",
                f"s3.port={s3}",
            ]
            self.commands[name] = self._serve(name, "worker", [], sets)
            self.consoles[name], self.s3_doors[name] = console, s3
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.new = [name for name in self.commands if name[0] == "w" and not os.path.exists(self._identity(name))]
        """Workers that no master has numbered yet, in order: they begin one after the other, so that w1 is worker 1 everywhere."""

    def _identity(self, name: str) -> str:
        return os.path.join(self.directory, name, "worker", "identity")

    def _serve(self, name: str, role: str, words: list[str], sets: list[str]) -> list[str]:
        home = os.path.join(self.directory, name)
        flags = [word for each in sets for word in ("--set", each)]
        serve = [sys.executable, "-m", "monofs", "serve", "--role", role, "--home", home]
        return [*serve, "--cluster-secret-file", self.secret, *words, *flags]

    def _ports(self, of_masters: int, of_workers: int) -> list[list[int]]:
        """Of masters, a line in the file ``ports``; and of workers, who may become more or fewer, one for consoles and one for S3 doors."""
        path = os.path.join(self.directory, "ports")
        lines: list[list[int]] = [[], [], []]
        if is_old := os.path.exists(path):
            with open(path) as file:
                lines = [[int(word) for word in line.split()] for line in file][:3]
            if len(lines) == 2:
                lines.append([])  # there were no S3 doors then
            if len(lines) == 1 and 3 * len(lines[0]) == 2 * of_masters:
                lines += [
                    [],
                    [],
                ]  # consoles had no ports of their own then: they are drawn now, behind those of masters
            elif len(lines) != 3 or len(lines[0]) != of_masters:
                raise click.UsageError(f"{self.directory} holds a cluster with another number of masters")
        port = max(chain(*lines), default=LOWEST_PORT + secrets.randbelow(SPREAD)) + 1
        for ports, count in zip(lines, (of_masters, of_workers, of_workers), strict=True):
            while len(ports) < count:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)):
                        ports.append(port)
                port += 1
        with open(path, "w") as file:
            file.writelines(" ".join(map(str, ports)) + "\n" for ports in lines)
        if not is_old:
            self._draw_secret()
        return [lines[0], lines[1][:of_workers], lines[2][:of_workers]]

    def _draw_secret(self) -> None:
        fd = os.open(self.secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "w") as file:
            file.write(secrets.token_hex(32) + "\n")

    def start(self) -> None:
        """Start everything, and say how to reach it and how to start each part again."""
        for name in self.commands:
            if name not in self.new:
                self._begin(name)
        click.echo(f"a cluster in {self.directory}; in another terminal:\n")
        click.echo(
            f"  export MONOFS_MASTERS={self.masters} MONOFS_SECURITY_CLUSTER_SECRET_FILE={shlex.quote(self.secret)}"
        )
        consoles = "  ".join(f"{name} http://127.0.0.1:{port}" for name, port in self.consoles.items())
        doors = "  ".join(f"{name} http://127.0.0.1:{port}" for name, port in self.s3_doors.items())
        click.echo(
            f"  monofs admin quorum info\n\n  web console: {consoles}\n  S3: {doors}\n\nTo start one again that you stopped:\n"
        )
        for name, command in self.commands.items():
            click.echo(f"  {name}: {shlex.join(command)}")
        click.echo()

    def _begin(self, name: str) -> None:
        with open(os.path.join(self.directory, f"{name}.out"), "ab") as out:
            self.processes[name] = subprocess.Popen(  # noqa: S603 - this very program
                self.commands[name], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def _begin_next(self, workers: Collection[int]) -> None:
        """Begin the next new worker, once the one before has its number, or has ended."""
        before = int(self.new[0][1:]) - 1 if self.new else 0
        if self.new and (not before or before in workers or self.processes[f"w{before}"].poll() is not None):
            self._begin(self.new.pop(0))

    def watch(self) -> None:
        """A line of status a second, until Ctrl-C."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        shown, fs = "", None
        try:
            while True:
                fs, line = self._status(fs)
                if sys.stdout.isatty():
                    click.echo(f"\r\033[K{line}", nl=False)
                elif line != shown:
                    click.echo(line)
                shown = line
                time.sleep(LOOK_S)
        except KeyboardInterrupt:
            click.echo("\nstopping")
        finally:
            if fs is not None:
                fs.close()

    def _status(self, fs: Any) -> tuple[Any, str]:
        """A client, once a master answered one, and the line."""
        parts = []
        for name, process in self.processes.items():
            code = process.poll()
            parts.append(f"{name} {process.pid}" if code is None else f"{name} ended ({code}, see {name}.out)")
        try:
            fs = fs or monofs.connect(self.masters, cluster_secret_file=self.secret, timeout_s=LOOK_S)
            quorum = fs.quorum(of_leader=True)
            names = {each.id: each.name for each in quorum.members}
            told = f"{names.get(quorum.leader, 'the only master')} leads, term {quorum.term}"
            workers = fs.cluster().workers
            told += f", {sum(worker.live for worker in workers)} workers"
            self._begin_next([worker.id for worker in workers])
        except (MonofsError, OSError) as error:
            told = f"no leader: {str(error).partition(' (')[0]}"
        return fs, f"{told} | {'  '.join(parts)}"

    def stop(self) -> None:
        """End what runs."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in self.processes.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
