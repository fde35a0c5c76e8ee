"""Addresses of doors: ``host:port``, ``[v6]:port``, or the path of a Unix socket (anything with a ``/``, or ``unix:path``)."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from monofs.model.errors import InvalidArgument

_UNIX_PATH_MAX = 107


def parse_address(address: str) -> tuple[str, int] | str:
    """(host, port), or a Unix socket's path. Raises InvalidArgument."""
    if address.startswith("unix:"):
        return address[5:]
    if "://" in address:
        raise InvalidArgument(f"{address!r} is a URL, not an address; write host:port or the path of a Unix socket")
    if "/" in address:
        return address
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"{address!r} is not an address; write host:port or the path of a Unix socket")
    return host, int(port)


def split_addresses(addresses: str | Sequence[str]) -> tuple[str, ...]:
    """A comma-separated list or a sequence of addresses, each checked. Raises InvalidArgument, also for none at all."""
    parts = addresses.split(",") if isinstance(addresses, str) else addresses
    found = tuple(part.strip() for part in parts if part.strip())
    if not found:
        raise InvalidArgument("no address given; write host:port[,host:port...]")
    for address in found:
        parse_address(address)
    return found


def format_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a numeric address, or the name ``localhost``, can only be this machine. Other names count as not."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def is_wildcard(host: str) -> bool:
    """Whether listening there means every address of the machine."""
    return host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not listened on


@contextmanager
def unix_name(path: str) -> Iterator[str]:
    """A name for ``path`` that fits a socket address: paths over 107 bytes go through a descriptor of their directory."""
    if len(os.fsencode(path)) <= _UNIX_PATH_MAX:
        yield path
        return
    directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


def tune(sock: socket.socket) -> None:
    """Options every connection wants: no delay and keep-alive on TCP, a 4 MiB send buffer on Unix sockets."""
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)


@cache
def host_id() -> str:
    """This machine's boot id: a Unix socket of a node that tells the same one can be reached from here. '': not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
