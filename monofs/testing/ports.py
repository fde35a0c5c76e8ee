"""TCP ports for servers that are told where to listen, and that are found there again after a restart.

Below the range the kernel gives to outgoing connections, so that a port stays free while its server is down; from the share of this process
among those that run the suite, one after the other, so that none is given out again soon.
"""

from __future__ import annotations

import itertools
import os
import random
import socket

LOWEST_PORT, HIGHEST_PORT = 20_000, 29_600
SHARES = 8
_WIDTH = (HIGHEST_PORT - LOWEST_PORT) // SHARES
_turn = itertools.count(random.SystemRandom().randrange(_WIDTH))


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, on any address."""
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
    ports: list[int] = []
    while len(ports) < count:
        port = LOWEST_PORT + share * _WIDTH + next(_turn) % _WIDTH
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
        ports.append(port)
    return ports


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
