"""A group of real master processes on loopback: started, killed, paused, cut off, restarted. For tests, benchmarks and long trials."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable
from typing import Any

import monofs
from monofs.model.errors import DeadlineExceeded, MonofsError
from monofs.testing.netlab import Lab
from monofs.testing.nodes import ServedNode
from monofs.testing.ports import free_ports

PATIENCE_S = 60.0


class Masters:
    """``count`` masters named m1, m2, … with one secret below one directory; :meth:`add` makes another that is not in the group yet.

    ``lab``: each on the host of its name there, and clients of the thread that entered it. ``program``: what is run in the place of
    ``python -m monofs``.
    """

    def __init__(
        self,
        directory: str,
        count: int = 3,
        *,
        sets: list[str] | None = None,
        role: str = "master",
        lab: Lab | None = None,
        program: str = "monofs",
    ) -> None:
        os.makedirs(directory, exist_ok=True)
        self.directory, self._sets, self._role = directory, sets or [], role
        self.lab, self._program = lab, program
        self.secret = os.path.join(directory, "cluster.secret")
        with open(os.open(self.secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        self.journal_ports: dict[str, int] = {}
        self.rpc_ports: dict[str, int] = {}
        self.nodes: dict[str, ServedNode] = {}
        for number in range(count):
            self.add(f"m{number + 1}")

    def add(self, name: str, home: str = "") -> ServedNode:
        """A further master, not started; all names so far are its peers."""
        if name not in self.journal_ports:
            self.journal_ports[name], self.rpc_ports[name] = free_ports(2)
        node = ServedNode(os.path.join(self.directory, home or name), program=self._program)
        if self.lab is not None:
            node.before = self.lab.inside(name)
        self.nodes[name] = node
        for each, served in self.nodes.items():
            served.sets = [
                f"master.host={self.host(each)}",
                f"master.port={self.rpc_ports[each]}",
                f"journal.host={self.host(each)}",
                f"journal.port={self.journal_ports[each]}",
                "console.port=0",
                "s3.port=0",
                "worker.port=0",
                *self._sets,
            ]
            served.flags = ["--role", self._role, "--id", each, "--peers", self.peers]
            served.flags += ["--cluster-secret-file", self.secret]
        return node

    def host(self, name: str) -> str:
        """The address a master listens on."""
        return self.lab.addresses[name] if self.lab is not None else "127.0.0.1"

    def rpc(self, name: str) -> str:
        """Where clients reach one master."""
        return f"{self.host(name)}:{self.rpc_ports[name]}"

    def journal(self, name: str) -> str:
        """Where the other masters reach one."""
        return f"{self.host(name)}:{self.journal_ports[name]}"

    @property
    def peers(self) -> str:
        """As ``--peers`` wants it."""
        return ",".join(f"{name}={self.journal(name)}" for name in self.journal_ports)

    @property
    def addresses(self) -> str:
        """As clients want it."""
        return ",".join(map(self.rpc, self.nodes))

    def launch(self) -> Masters:
        """Start all processes, then wait until every one is ready: none is before a majority is there."""
        try:
            for node in self.nodes.values():
                node.launch()
            for node in self.nodes.values():
                node.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def connect(self, *names: str, **options: Any) -> Any:
        """A client of these masters, or of all."""
        addresses = ",".join(map(self.rpc, names)) or self.addresses
        return monofs.connect(addresses, cluster_secret_file=self.secret, **options)

    def leader(self, *, among: list[str] | None = None) -> str:
        """The name of the master that leads, once one does."""
        found: list[str] = []

        def look() -> bool:
            for name in among or list(self.nodes):
                process = self.nodes[name].process
                if process is None or process.poll() is not None:
                    continue
                with self.connect(name, timeout_s=1.0) as fs:
                    try:
                        answer = fs.quorum()
                    except (MonofsError, OSError):
                        continue
                if answer.role == "leader":
                    found.append(name)
                    return True
            return False

        wait_until(look, "no master leads")
        return found[-1]

    def hand_over(self, target: str) -> None:
        """Let one master lead; asked again, as the message of a failure says to, while the machine is too busy for an election."""

        def ask() -> bool:
            try:
                fs.change_quorum("transfer", target)
            except DeadlineExceeded:
                return False
            return True

        with self.connect() as fs:
            wait_until(ask, f"{target} does not take over")

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one master, such as SIGSTOP and SIGCONT."""
        process = self.nodes[name].process
        assert process is not None
        process.send_signal(number)

    def __enter__(self) -> Masters:
        return self.launch()

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
                node.process.send_signal(signal.SIGTERM)
        for node in self.nodes.values():
            node.kill()


def wait_until(condition: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S) -> None:
    """Look again and again. Raises ``AssertionError``."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} after {patience_s} s"
        time.sleep(0.02)
