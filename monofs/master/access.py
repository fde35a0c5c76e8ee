"""Who may: the one function every handler asks before it looks at anything.

Rights (read, write, admin, node) are always enforced. POSIX modes are enforced when ``security.permissions`` is on; the
caller then hands over the chain of records from the root to the object, and search permission is needed on each directory
above it. uid 0 passes every mode, as on any Unix. ACLs are not evaluated here yet: the ``acl`` field of records is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from monofs.model.errors import PermissionDenied
from monofs.model.inode import Inode
from monofs.model.principal import Principal, Right, check_right

R_OK, W_OK, X_OK = 4, 2, 1


def check_access(principal: Principal, right: Right, chain: Sequence[Inode] = (), want: int = 0) -> None:
    """Raise ``PermissionDenied`` unless ``principal`` has ``right``, may search all of ``chain`` but its last record, and has the
    mode bits ``want`` on that last one. An empty chain checks the right alone."""
    check_right(principal, right)
    if not chain or principal.uid == 0:
        return
    for inode in chain[:-1]:
        if not _granted(principal, inode) & X_OK:
            raise PermissionDenied(f"{principal.name} may not search a directory of this path")
    if want & ~_granted(principal, chain[-1]):
        raise PermissionDenied(f"{principal.name} has no permission for this on the path: its mode forbids it")


def _granted(principal: Principal, inode: Inode) -> int:
    """The rwx bits of the class (owner, group, others) the principal falls into."""
    if principal.uid == inode.uid:
        return inode.mode >> 6 & 7
    if inode.gid in principal.groups:
        return inode.mode >> 3 & 7
    return inode.mode & 7
