"""BEGIN_COPY: a file is to be copied to another path of the same mount, by its store.

Only the target is locked: a copy reads its source as a reader does, conditional on the version it was begun with.
"""

from __future__ import annotations

from monofs.metadata.draft import PERSISTED, Draft, existing
from monofs.metadata.entries import BeginCopy
from monofs.metadata.ops.guarding import check_may_begin, check_new_key, check_unlocked, new_intent_number
from monofs.metadata.ops.placing import check_target, spot_of
from monofs.metadata.ops.rename import check_one_mount
from monofs.metadata.tables import Intent, IntentKind
from monofs.model.errors import InvalidArgument, IsADirectory, NotSupported
from monofs.model.inode import Kind
from monofs.model.paths import format_path, parse_path


def begin_copy(draft: Draft, change: BeginCopy) -> bytes:
    """The intent. ``CrossMount`` between mounts; ``NotSupported`` where no store has the source: read it and write it then."""
    parts, onto = parse_path(change.source), parse_path(change.target)
    path, target_path = format_path(parts), format_path(onto)
    check_may_begin(draft, change.asker)
    source, target = draft.lookup(parts), draft.lookup(onto)
    inode = existing(source, path)
    if inode.kind != Kind.FILE:
        raise IsADirectory(f"{path} is a directory", path=path)
    if parts == onto:
        raise InvalidArgument(f"{path} cannot be copied onto itself", path=path)
    check_target(target, onto, target_path, parents=change.parents, exclusive=change.exclusive)
    check_one_mount(source, target, path, target_path)
    spot = spot_of(draft, target, onto, target_path)
    if source.located is None or not inode.flags & PERSISTED:
        raise NotSupported(f"no store has {path}: read it and write {target_path} instead", path=path)
    check_unlocked(draft, onto)
    check_new_key(draft, target, spot, target_path)
    number, name = new_intent_number(draft)
    asker = change.asker
    intent = Intent(
        number=number,
        kind=IntentKind.COPY,
        name=name,
        path=path,
        acting=True,
        mount=spot.mount,
        key=source.located.key,
        content=draft.new_content_id(inode.size),
        size=inode.size,
        replaced=inode.fingerprint,
        exclusive=change.exclusive,
        mode=inode.mode,
        uid=asker.uid,
        gid=asker.gid,
        target=target_path,
        target_key=spot.key,
        target_replaced=spot.replaced,
        client=asker.client,
        sequence=asker.sequence,
        lowest=asker.lowest,
        created_ns=draft.now_ns,
        principal=asker.principal,
        parents=change.parents,
    )
    return draft.open_intent(intent)
