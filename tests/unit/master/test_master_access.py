"""Who may: rights always, POSIX modes where a chain is given."""

from __future__ import annotations

import pytest

from monofs.master.access import R_OK, W_OK, X_OK, check_access
from monofs.model.errors import PermissionDenied
from monofs.model.ids import InodeId
from monofs.model.inode import Inode, Kind
from monofs.model.principal import Principal, Right

USER = Principal("ada", uid=1000, groups=(100, 200))


def directory(mode: int, uid: int = 0, gid: int = 0) -> Inode:
    return Inode(Kind.DIRECTORY, InodeId(1), mode=mode, uid=uid, gid=gid)


@pytest.mark.parametrize("right", [Right.READ, Right.WRITE, Right.ADMIN, Right.NODE])
def test_a_right_that_was_not_granted_is_refused_by_name(right: Right) -> None:
    everything = Right.READ | Right.WRITE | Right.ADMIN | Right.NODE
    check_access(Principal("ada", rights=everything), right)
    with pytest.raises(PermissionDenied, match=f"ada has no {str(right.name).lower()} right"):
        check_access(Principal("ada", rights=everything & ~right), right)


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "want", "allowed"),
    [
        (0o400, 1000, 0, R_OK, True),
        (0o077, 1000, 100, R_OK, False),
        (0o040, 0, 200, R_OK, True),
        (0o004, 0, 200, R_OK, False),
        (0o004, 0, 0, R_OK, True),
        (0o040, 0, 0, R_OK, False),
        (0o300, 1000, 0, W_OK | X_OK, True),
        (0o200, 1000, 0, W_OK | X_OK, False),
    ],
)
def test_the_class_of_the_asker_decides_alone(mode: int, uid: int, gid: int, want: int, allowed: bool) -> None:
    chain = [directory(0o755), directory(mode, uid, gid)]
    if allowed:
        check_access(USER, Right.READ, chain, want)
        return
    with pytest.raises(PermissionDenied):
        check_access(USER, Right.READ, chain, want)


def test_every_directory_above_must_be_searchable() -> None:
    with pytest.raises(PermissionDenied, match="search"):
        check_access(USER, Right.READ, [directory(0o755), directory(0o644), directory(0o777)], R_OK)


def test_uid_0_passes_every_mode_but_no_right() -> None:
    check_access(Principal("root", uid=0), Right.READ, [directory(0)], R_OK)
    with pytest.raises(PermissionDenied):
        check_access(Principal("root", uid=0, rights=Right.READ), Right.WRITE, [directory(0o777)], W_OK)
