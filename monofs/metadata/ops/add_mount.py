"""ADD_MOUNT: show a store at a path."""

from __future__ import annotations

from monofs.metadata.draft import EXPLICIT, LOADED, MADE, MOUNT, Draft, parent_directory, place_of
from monofs.metadata.entries import AddMount
from monofs.metadata.ops.guarding import check_no_tree_job, check_unlocked
from monofs.metadata.state import Lookup, present
from monofs.metadata.tables import ABOVE_ROOT, MOUNTS, MOUNTS_MAX, ROOT_KEY, encode_record, pack_id
from monofs.model.errors import AlreadyExists, InvalidArgument, MountExists, NotEmpty, Overloaded
from monofs.model.ids import MountId
from monofs.model.inode import Inode, Kind, decode_inode
from monofs.model.mount import Mount
from monofs.model.options import UfsMode
from monofs.model.paths import Parts, format_path, is_prefix, parse_path

_MODES = frozenset(UfsMode)


def add_mount(draft: Draft, change: AddMount) -> Mount:
    """The mount point and its ancestors become explicit directories, so that no sync takes them away. An existing directory must be
    empty, except for other mount points and what leads to them."""
    parts = parse_path(change.path)
    path = format_path(parts)
    mounts = draft.state.mounts()
    if any(at == parts for at, _ in mounts):
        raise MountExists(f"something is mounted at {path} already: unmount it, or update the mount", path=path)
    if len(mounts) >= MOUNTS_MAX:
        raise Overloaded(f"there are {MOUNTS_MAX} mounts already")
    found = draft.lookup(parts)
    _check_free(draft, path, parts, found, mounts)
    check_ufs_mode(change.ufs_mode)
    check_unlocked(draft, parts)
    check_no_tree_job(draft, parts)
    keep_ancestors(draft, parts[: found.depth + 1])
    if found.inode is None:
        _make_mount_point(draft, parts, found)
    else:
        flags = (found.inode.flags | EXPLICIT | MOUNT) & ~LOADED
        draft.put_inode(*place_of(found, parts), draft.changed(found.inode, flags=flags))
    meta = draft.meta
    meta.last_mount += 1
    meta.mounts_index = draft.index
    mount = Mount(
        id=MountId(meta.last_mount),
        path=path,
        uri=change.uri,
        options=change.options,
        sealed=change.sealed,
        readonly=change.readonly,
        shared=change.shared,
        created_ns=draft.now_ns,
        changed_index=draft.index,
        sync_interval_ms=change.sync_interval_ms,
        ufs_mode=change.ufs_mode,
    )
    draft.changes.append((MOUNTS, pack_id(mount.id), encode_record(mount)))
    return mount


def check_ufs_mode(mode: str) -> None:
    """Raise unless this is a mode a mount can be in."""
    if mode not in _MODES:
        raise InvalidArgument(f"{mode} is no mode of a mount: give one of {', '.join(UfsMode)}")


def _check_free(draft: Draft, path: str, parts: Parts, found: Lookup, mounts: list[tuple[Parts, Mount]]) -> None:
    inode = found.inode
    if inode is None:
        parent_directory(found, path)
    elif inode.kind != Kind.DIRECTORY:
        raise AlreadyExists(f"{path} is a file", path=path)
    elif not _leads_only_to_mounts(draft, inode.id, parts, [at for at, _ in mounts if is_prefix(parts, at)]):
        raise NotEmpty(f"{path} is not empty: mount at an empty directory or at a new path", path=path)


def _leads_only_to_mounts(draft: Draft, directory: int, parts: Parts, below: list[Parts]) -> bool:
    """Whether everything below a directory is a mount point in ``below`` or an ancestor of one."""
    depth = len(parts)
    wanted = {at[depth] for at in below}
    children = draft.state.children(directory, b"", len(wanted) + 1)
    for key, raw in children:
        name = key[:-1]
        if not key.endswith(b"/") or name not in wanted:
            return False
        child = decode_inode(raw)
        if not child.flags & MOUNT:
            further = [at for at in below if at[depth] == name]
            if not _leads_only_to_mounts(draft, child.id, (*parts, name), further):
                return False
    return True


def _make_mount_point(draft: Draft, parts: Parts, found: Lookup) -> None:
    parent = present(found.parent, "a missing path has an existing ancestor").id
    *between, name = parts[found.depth :]
    if between:
        last, _ = draft.make_directories(parent, tuple(between), mode=0o755, uid=0, gid=0, flags=EXPLICIT | MADE)
        parent = last.id
    draft.make_directories(parent, (name,), mode=0o755, uid=0, gid=0, flags=EXPLICIT | MOUNT | MADE)


def keep_ancestors(draft: Draft, parts: Parts) -> None:
    """Make every directory above ``parts`` explicit; all of them exist."""
    for directory, place in chain(draft, parts):
        if not directory.flags & EXPLICIT:
            draft.put_inode(*place, draft.changed(directory, flags=directory.flags | EXPLICIT))


def chain(draft: Draft, parts: Parts) -> list[tuple[Inode, tuple[int, bytes]]]:
    """The directories above ``parts`` (the path's own record not included), root first, each with its place; all of them exist."""
    place = (ABOVE_ROOT, ROOT_KEY)
    found: list[tuple[Inode, tuple[int, bytes]]] = []
    for name in parts:
        directory = present(draft.state.get_inode(*place), "the ancestors of an existing directory exist")
        found.append((directory, place))
        place = directory.id, name + b"/"
    return found
