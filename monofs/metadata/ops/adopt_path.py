"""ADOPT_PATH: take over what a store showed for one path."""

from __future__ import annotations

from monofs.metadata.draft import EXPLICIT, Draft
from monofs.metadata.entries import AdoptPath, Found
from monofs.metadata.ops.adopt_page import check_key
from monofs.metadata.ops.adoption import Adoption, Effect
from monofs.metadata.state import present
from monofs.model.errors import InvalidArgument, NotFound
from monofs.model.inode import Inode
from monofs.model.paths import Parts, parse_path

_Place = tuple[int, bytes]


def adopt_path(draft: Draft, change: AdoptPath) -> bytes | NotFound:
    """The directory's record if there is one now, else the file's, else ``NotFound`` *returned*: that nothing is there is news too,
    and the names it removes stay removed. Errors raised change nothing, as everywhere."""
    path = change.path
    parts = parse_path(path)
    if (change.file is not None and change.file.is_directory) or (
        change.directory is not None and not change.directory.is_directory
    ):
        raise InvalidArgument("a file was found where a directory is told, or the reverse")
    found = draft.lookup(parts)
    check_key(found.located, change.key, parts)
    covering = None if found.located is None else found.located.mount
    adoption = Adoption(draft, covering, change.mount, change.read_index, pinned=found.pinned)
    mount_parts = parse_path(present(covering, "the path is covered, or adoption would have refused").path)
    if parts == mount_parts:
        return present(found.raw, "a mount has its mount point")
    point = present(draft.lookup(mount_parts).inode, "a mount has its mount point")
    something = change.file is not None or change.directory is not None
    parent, passed = _descend(draft, adoption, point.id, parts[:-1], len(mount_parts), make=something)
    if parent is not None:
        if adoption.needs_path:
            adoption.enter(parts[:-1], looked=present(found.located, "the path is covered").key)
        effects = _settle(draft, adoption, parent, parts[-1], change)
        if Effect.ADDED in effects:
            _confirm(draft, passed)
        raw = _now(draft, parent, parts[-1] + b"/") or _now(draft, parent, parts[-1])
        if raw is not None:
            return raw
    return NotFound(f"{path} does not exist", path=path)


def _descend(
    draft: Draft, adoption: Adoption, parent: int, parts: Parts, depth: int, *, make: bool
) -> tuple[int | None, list[tuple[Inode, _Place]]]:
    """The id of the directory at ``parts``, beginning with ``parent`` at ``depth``, making what is missing when asked, and the existing
    ones on the way.

    A file of the same name as a missing directory stays: its own look or listing judges it.
    """
    passed: list[tuple[Inode, _Place]] = []
    made = False
    for at in range(depth, len(parts)):
        name = parts[at]
        place = parent, name + b"/"
        if adoption.needs_path:
            adoption.enter(parts[:at])
        inode = None if made else draft.state.get_inode(*place)
        if inode is not None:
            passed.append((inode, place))
            parent = inode.id
        elif make and adoption.settle(*place, None, Found(name, is_directory=True)) is Effect.ADDED:
            made = True
            parent = draft.meta.last_inode
        else:
            return None, passed
    return parent, passed


def _settle(draft: Draft, adoption: Adoption, parent: int, name: bytes, change: AdoptPath) -> tuple[Effect, Effect]:
    get = draft.state.get_inode
    return (
        adoption.settle(parent, name, get(parent, name), change.file),
        adoption.settle(parent, name + b"/", get(parent, name + b"/"), change.directory),
    )


def _confirm(draft: Draft, passed: list[tuple[Inode, _Place]]) -> None:
    """Something new lies below these directories, so they exist: a listing read before this must not remove them."""
    for inode, place in passed:
        if not inode.flags & EXPLICIT:
            draft.put_inode(*place, draft.changed(inode))


def _now(draft: Draft, parent: int, key: bytes) -> bytes | None:
    """The record of a name as this draft leaves it."""
    for space, changed, value in reversed(draft.changes):
        if space == parent and changed == key:
            return value
    return draft.state.store.get(parent, key)
