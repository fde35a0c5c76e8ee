"""Where a change below a mount goes: the key it has in its store, and the directories that lead to its name.

Invariant: the effective key of a record is the key its object has. A new name has the *natural* key, what its path says; below a directory
whose objects are still being moved that is not where the directory lies, so the record says so itself (``store_path``).
"""

from __future__ import annotations

from typing import NamedTuple

from monofs.metadata.draft import EXPLICIT, IMPLIED, KEPT, MOUNT, PERSISTED, Draft, check_writable, parent_directory
from monofs.metadata.state import Lookup, join_key, present
from monofs.metadata.tables import ABOVE_ROOT, IMPLIED_LEVEL, ROOT_KEY
from monofs.model.errors import AlreadyExists, IsADirectory, NotFound
from monofs.model.inode import ANY_VERSION, Inode, Kind
from monofs.model.paths import Parts


class Spot(NamedTuple):
    """Where an object is made: mount (0: under none), store key, and the fingerprint of what it replaces there, '' for nothing."""

    mount: int
    key: str
    replaced: str


def check_target(found: Lookup, parts: Parts, path: str, *, parents: bool, exclusive: bool) -> None:
    """Raise unless a file may be made at ``path``, replacing one there if not ``exclusive``."""
    inode = found.inode
    if inode is not None:
        if exclusive:
            raise AlreadyExists(f"{path} exists already", path=path)
        if inode.kind == Kind.DIRECTORY:
            raise IsADirectory(f"{path} is a directory", path=path)
        return
    parent_directory(found, path)
    if found.depth < len(parts) - 1 and not parents:
        raise NotFound(f"the directory that should hold {path} does not exist", path=path)


def spot_of(draft: Draft, found: Lookup, parts: Parts, path: str) -> Spot:
    """Where an object for ``path`` is made. Raises ``ReadOnly``."""
    located = found.located
    if located is None:
        return Spot(0, "", "")
    check_writable(located, path)
    if found.inode is None:
        located = present(draft.state.natural_key(parts), "a path below a mount has a natural key")
        return Spot(located.mount.id, located.key, "")
    return Spot(located.mount.id, located.key, version_of(found.inode) or ANY_VERSION)


def version_of(inode: Inode) -> str:
    """The fingerprint the store has of a record; '' where it has none."""
    return inode.fingerprint if inode.flags & PERSISTED else ""


class Way(NamedTuple):
    """The directory that holds a name: its id, and its effective key."""

    parent: int
    key: str

    def own_path(self, name: bytes, key: str) -> str | None:
        """What ``store_path`` a record has whose object lies at ``key``."""
        return None if join_key(self.key, (name,)) == key else key


def way_to(draft: Draft, parts: Parts, *, kept: bool, uid: int = 0, gid: int = 0, mode: int = 0o755) -> Way:
    """Descend to the directory of a path, making what is missing. A file of the same name as a missing directory stays beside it: the
    store has both.

    ``kept``: what is being made is in no store, so everything down from the mount point becomes EXPLICIT, and no listing removes it. Else
    the directories passed are confirmed: something new lies below them, so a listing read before must not remove them.
    """
    mounted = draft.state.natural_key(parts)
    if kept and mounted is not None:
        draft.meta.kept_index = draft.index
    depth = len(parts) if mounted is None else len(parts) - (mounted.key.count("/") + 1 if mounted.key else 0)
    flags = EXPLICIT if mounted is None else EXPLICIT | KEPT if kept else PERSISTED
    if draft.meta.level >= IMPLIED_LEVEL:
        flags |= IMPLIED
    inode = present(draft.lookup(()).inode, "an initialised namespace has a root")
    place = ABOVE_ROOT, ROOT_KEY
    key = ""
    names = parts[:-1]
    for at, name in enumerate(names):
        below = draft.state.get_directory(inode.id, name)
        if below is None:
            if mounted is None:
                draft.touch(inode, place)
            elif at > depth:
                _confirm(draft, inode, place, kept=kept)
            natural = join_key("", parts[depth : at + 1])
            own = None if mounted is None or join_key(key, (name,)) == natural else natural
            last, _ = draft.make_directories(
                inode.id, names[at:], mode=mode, uid=uid, gid=gid, flags=flags, store_path=own
            )
            return Way(last.id, join_key("", parts[depth:-1]))
        if at > depth:
            _confirm(draft, inode, place, kept=kept)
        place, inode = (inode.id, name + b"/"), below
        if at >= depth:
            key = inode.store_path or join_key(key, (name,))
    if mounted is None:
        draft.touch(inode, place)
    elif len(names) > depth:
        _confirm(draft, inode, place, kept=kept)
    return Way(inode.id, key)


def _confirm(draft: Draft, inode: Inode, place: tuple[int, bytes], *, kept: bool) -> None:
    flags = inode.flags
    if flags & MOUNT or (flags & EXPLICIT and (flags & KEPT or not kept)):
        return
    draft.put_inode(*place, draft.changed(inode, flags=flags | EXPLICIT | KEPT if kept else None))
