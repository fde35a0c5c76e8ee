"""A small network on this machine: one kernel namespace for each of several hosts, on one bridge, so that single directions can be cut.

Every namespace is held by a process that dies with this one, so interfaces and rules end however it ends; the machine's own network
is never touched, and no packet leaves the bridge. A cut drops packets at their target: the sender learns nothing, as on a broken
line. Needs root, iproute2 and iptables; :func:`why_not` says what is missing.

Not here: delay, loss and bandwidth.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from monofs.testing.orphans import die_with_parent

NETWORK = "10.77.0"
HUB = 254
HUB_ADDRESS = f"{NETWORK}.{HUB}"
"""Where hosts reach what runs in the hub."""
HOLD_S = 10.0
_CLONE_NEWNET = 0x40000000


class Lab:
    """Hosts by name, each with an address of its own. A context manager; the hub is where clients are (:meth:`enter`)."""

    def __init__(self, names: Sequence[str]) -> None:
        self.addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, 1)}
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self.cuts: set[tuple[str, str]] = set()
        """(source, target) of every direction that is cut."""

    def open(self) -> Lab:
        """Make the network. Raises ``OSError`` when the kernel refuses."""
        try:
            for name in ("", *self.addresses):
                self._holders[name] = self._hold()
                self._run(name, "ip", "link", "set", "lo", "up")
            self._run("", "ip", "link", "add", "br0", "type", "bridge")
            self._run("", "ip", "address", "add", f"{HUB_ADDRESS}/24", "dev", "br0")
            self._run("", "ip", "link", "set", "br0", "up")
            for number, (name, address) in enumerate(self.addresses.items(), 1):
                hub, host = str(self._holders[""].pid), str(self._holders[name].pid)
                self._run("", "ip", "link", "add", f"e{number}", "netns", hub, "type", "veth", "peer", "name", "eth0",
                          "netns", host)  # fmt: skip
                self._run("", "ip", "link", "set", f"e{number}", "master", "br0", "up")
                self._run(name, "ip", "address", "add", f"{address}/24", "dev", "eth0")
                self._run(name, "ip", "link", "set", "eth0", "up")
                self._run(name, "iptables", "-w", "-F", "INPUT")
        except BaseException:
            self.close()
            raise
        return self

    @staticmethod
    def _hold() -> subprocess.Popen[bytes]:
        holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"], preexec_fn=die_with_parent())
        deadline = time.monotonic() + HOLD_S
        while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            if holder.poll() is not None or time.monotonic() > deadline:
                holder.kill()
                holder.wait()
                raise OSError("no network namespace can be made here")
            time.sleep(0.005)
        return holder

    def close(self) -> None:
        """End the network: nothing of it stays."""
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
        self._holders.clear()

    def inside(self, name: str) -> list[str]:
        """What to put before a command so that it runs on the host ``name``, under the same process id."""
        return ["nsenter", "--target", str(self._holders[name].pid), "--net", "--"]

    def enter(self) -> None:
        """Move this thread, and the threads it starts from now on, to the hub: from there every host is reached."""
        with open(f"/proc/{self._holders[''].pid}/ns/net", "rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))

    def cut(self, source: str, target: str) -> None:
        """No packet from ``source`` reaches ``target`` any more; the other direction stays."""
        if (source, target) not in self.cuts:
            self.cuts.add((source, target))
            self._run(target, "iptables", "-w", "-A", "INPUT", "-s", self.addresses[source], "-j", "DROP")

    def heal(self) -> None:
        """All packets pass again."""
        for target in {target for _, target in self.cuts}:
            self._run(target, "iptables", "-w", "-F", "INPUT")
        self.cuts.clear()

    def _run(self, name: str, *command: str) -> None:
        done = subprocess.run([*self.inside(name), *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")

    def __enter__(self) -> Lab:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()


def why_not() -> str:
    """Why there can be no such network here; empty when there can."""
    if not sys.platform.startswith("linux"):
        return "only Linux has network namespaces"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "iptables", "nsenter", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} missing (Debian: iproute2, iptables, util-linux)"
    try:
        with Lab(["probe"]) as lab:
            lab.cut("probe", "probe")
    except OSError as error:
        return str(error)
    return ""
