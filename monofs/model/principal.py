"""Who asks: the principal every handler gets from the first frame on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from monofs.model.errors import PermissionDenied


class Right(IntFlag):
    """What a principal may do at most; POSIX modes narrow it further when permissions are enforced."""

    READ = 1
    WRITE = 2
    ADMIN = 4
    NODE = 8
    """Speak as a worker or master of this cluster."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A name, POSIX ids and rights."""

    name: str
    uid: int = 0
    groups: tuple[int, ...] = ()
    rights: Right = Right.READ | Right.WRITE | Right.ADMIN
    by: str = ""
    """Who speaks for it, having checked its credential itself: a node of the cluster; empty: it speaks itself."""


ANONYMOUS = Principal("anonymous")
"""Loopback and Unix-socket callers without a credential, where `security.authentication` allows them."""
NODE = Principal("node", rights=Right.READ | Right.WRITE | Right.ADMIN | Right.NODE)
"""Holders of the cluster secret, and services of the same process."""


def check_right(principal: Principal, right: Right) -> None:
    """Raise ``PermissionDenied`` unless ``principal`` has ``right``."""
    if not principal.rights & right:
        name = str(right.name).lower()
        raise PermissionDenied(f"{principal.name} has no {name} right here: use a credential that grants it")
