"""Free TCP ports for test servers that cannot be told to take port 0.

The port is free when it is handed out; another process may take it before the server binds. Ports handed out by this process
are not handed out again.
"""

from __future__ import annotations

import socket
import threading

_given: set[int] = set()
_lock = threading.Lock()


def free_port() -> int:
    """A loopback port nobody listens on."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        with _lock:
            if port not in _given:
                _given.add(port)
                return port
