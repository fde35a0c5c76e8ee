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
from contextlib import ExitStack
from typing import Any

import click

import monofs
from monofs.model.errors import MonofsError

STOP_S = 20.0
LOOK_S = 1.0
LOWEST_PORT, SPREAD = 20_000, 10_000
"""Below the range the kernel gives to outgoing connections: a port drawn here is free when its process is started again."""


@click.group()
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
        ports = self._ports(2 * masters)
        names = [f"m{number + 1}" for number in range(masters)]
        journals, rpcs = ports[:masters], ports[masters:]
        peers = ",".join(f"{name}=127.0.0.1:{port}" for name, port in zip(names, journals, strict=True))
        self.masters = ",".join(f"127.0.0.1:{port}" for port in rpcs)
        self.commands: dict[str, list[str]] = {}
        for name, journal, rpc in zip(names, journals, rpcs, strict=True):
            sets = [f"journal.port={journal}", f"master.port={rpc}", "console.port=0"]
            self.commands[name] = self._serve(name, "master", ["--id", name, "--peers", peers], sets)
        for number in range(workers):
            sets = [f"worker.masters={self.masters}", "worker.port=0", "console.port=0"]
            self.commands[f"w{number + 1}"] = self._serve(f"w{number + 1}", "worker", [], sets)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def _serve(self, name: str, role: str, words: list[str], sets: list[str]) -> list[str]:
        home = os.path.join(self.directory, name)
        flags = [word for each in sets for word in ("--set", each)]
        serve = [sys.executable, "-m", "monofs", "serve", "--role", role, "--home", home]
        return [*serve, "--cluster-secret-file", self.secret, *words, *flags]

    def _ports(self, count: int) -> list[int]:
        path = os.path.join(self.directory, "ports")
        if os.path.exists(path):
            with open(path) as file:
                ports = [int(word) for word in file.read().split()]
            if len(ports) == count:
                return ports
            raise click.UsageError(f"{self.directory} holds a cluster of {len(ports) // 2} masters")
        ports = []
        port = LOWEST_PORT + secrets.randbelow(SPREAD)
        while len(ports) < count:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)):
                    ports.append(port)
            port += 1
        with open(path, "w") as file:
            file.write(" ".join(map(str, ports)) + "\n")
        fd = os.open(self.secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        return ports

    def start(self) -> None:
        """Start everything, and say how to reach it and how to start each part again."""
        for name, command in self.commands.items():
            with open(os.path.join(self.directory, f"{name}.out"), "ab") as out:
                self.processes[name] = subprocess.Popen(  # noqa: S603 - this very program
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
                )
        click.echo(f"a cluster in {self.directory}; in another terminal:\n")
        click.echo(
            f"  export MONOFS_MASTERS={self.masters} MONOFS_SECURITY_CLUSTER_SECRET_FILE={shlex.quote(self.secret)}"
        )
        click.echo("  monofs admin quorum info\n\nTo start one again that you stopped:\n")
        for name, command in self.commands.items():
            click.echo(f"  {name}: {shlex.join(command)}")
        click.echo()

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
            told += f", {sum(worker.live for worker in fs.cluster().workers)} workers"
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
