"""Many connections to one master: memory for each, and the share of a core that 10,000 heartbeats a second take.

    python benchmarks/connections.py [--connections 15000] [--rate 10000] [--seconds 5]

A heartbeat is a PING on the next connection in turn: the cheapest request there is, through the whole of the RPC. The load comes from this
process. Memory is the growth of the server's private memory over the number of connections (kernel buffers are not in it).
"""

from __future__ import annotations

import argparse
import resource
import select
import tempfile
import time

import msgspec
from machine import cpu_s, machine

from monofs.rpc.api import Empty, Method
from monofs.rpc.conversation import Conversation
from monofs.rpc.frames import Kind, pack
from monofs.rpc.handshake import Credential
from monofs.testing.nodes import ServedNode

TURN_S = 0.01


def private_bytes(pid: int) -> int:
    """Anonymous resident memory of a process."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise SystemExit("this kernel does not tell RssAnon")


def main() -> None:
    """Print one line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=15_000)
    parser.add_argument("--rate", type=int, default=10_000, help="heartbeats a second over all connections")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    count = min(options.connections, limit - 500)
    with tempfile.TemporaryDirectory() as directory, ServedNode(f"{directory}/home") as node:
        pid = node.doors["pid"]
        before = private_bytes(pid)
        begin = time.perf_counter()
        talks = [Conversation(node.doors["rpc"], Credential(), time.monotonic() + 60) for _ in range(count)]
        opened = time.perf_counter() - begin
        each = (private_bytes(pid) - before) / count
        print(machine())
        print(
            f"{count} connections opened in {opened:.1f} s ({count / opened:,.0f}/s), {each / 1024:.2f} KiB each (target 2)"
        )
        sent, share, late = beat(talks, pid, options.rate, options.seconds)
        print(
            f"{sent:,.0f} heartbeats/s take {100 * share:.0f} % of a core (target 30 % at 10,000/s); {late} not answered in time"
        )
        for talk in talks:
            talk.close()


def beat(talks: list[Conversation], pid: int, rate: int, seconds: float) -> tuple[float, float, int]:
    """Send ``rate`` PINGs a second in turn; (answers a second, share of a core at the server, answers missing)."""
    socks = [talk._sock for talk in talks]
    epoll = select.epoll()
    for sock in socks:
        sock.setblocking(False)
        epoll.register(sock.fileno(), select.EPOLLIN)
    by_fd = {sock.fileno(): sock for sock in socks}
    ping = pack(Kind.REQUEST, Method.PING, 1, msgspec.msgpack.encode(Empty()))
    asked = answered = 0
    cpu, begin = cpu_s(pid), time.perf_counter()
    while (now := time.perf_counter()) - begin < seconds:
        for _ in range(int((now - begin) * rate) - asked):
            socks[asked % len(socks)].send(ping)
            asked += 1
        for fd, _event in epoll.poll(TURN_S, 4096):
            by_fd[fd].recv(4096)
            answered += 1
    elapsed = time.perf_counter() - begin
    used = cpu_s(pid) - cpu
    deadline = time.perf_counter() + 2
    while answered < asked and time.perf_counter() < deadline:
        answered += len([by_fd[fd].recv(4096) for fd, _event in epoll.poll(0.1, 4096)])
    epoll.close()
    return answered / elapsed, used / elapsed, asked - answered


if __name__ == "__main__":
    main()
