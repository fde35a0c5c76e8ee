"""Names and addresses of a group's members, as they travel with its membership; and how an operator writes them.

Invariant: names and ids are unique in a book. Not here: who votes (raft), who answers at an address (master/peers.py).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from monofs.journal.raft.messages import NodeId
from monofs.model.errors import ConfigError, JournalCorrupt

MEMBERS_MAX = 15
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Seat(NamedTuple):
    """One member: its id, its name, and the address of its journal door."""

    id: NodeId
    name: str
    address: str


def encode_book(seats: list[Seat]) -> bytes:
    """Sorted by id, so that equal books are equal bytes."""
    return msgspec.msgpack.encode([list(seat) for seat in sorted(seats)])


def decode_book(book: bytes) -> list[Seat]:
    """The seats. Raises ``JournalCorrupt`` for bytes that are none."""
    if not book:
        return []
    try:
        rows = msgspec.msgpack.decode(book, type=list[tuple[int, str, str]])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise JournalCorrupt(f"the journal's book of members cannot be read: {error}") from None
    return [Seat(NodeId(number), name, address) for number, name, address in rows]


def check_name(name: str) -> str:
    """``name``, or ``ConfigError``."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"a master's name has letters, digits, dots and dashes, at most 63, not {name!r}")
    return name


def parse_peers(text: str) -> dict[str, str]:
    """``m1=host:19200,m2=…`` as name → address. Raises ``ConfigError``."""
    peers: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, equals, address = part.partition("=")
        host, colon, port = address.rpartition(":")
        if not equals or not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigError(f"journal.peers is name=host:port,..., and {part!r} is not that")
        if check_name(name) in peers:
            raise ConfigError(f"journal.peers names {name} twice")
        if address in peers.values():
            raise ConfigError(f"journal.peers names {address} twice: each master has a journal door of its own")
        peers[name] = address
    if len(peers) > MEMBERS_MAX:
        raise ConfigError(f"journal.peers names {len(peers)} masters; at most {MEMBERS_MAX}")
    return peers
