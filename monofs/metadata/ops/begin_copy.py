"""BEGIN_COPY: a file is to be copied to another path of the same mount, by its store.

Only the target is locked: a copy reads its source as a reader does, conditional on the version it was begun with.
"""

from __future__ import annotations

from monofs.metadata.draft import PERSISTED, Draft, existing
from monofs.metadata.intent_entries import BeginCopy
from monofs.metadata.ops.guarding import check_content, check_may_begin, check_new_key, check_unlocked
from monofs.metadata.ops.opening import new_intent_number, open_for
from monofs.metadata.ops.placing import check_target, spot_of
from monofs.metadata.ops.rename import check_one_mount
from monofs.metadata.tables import Intent, IntentKind
from monofs.model.attributes import Attributes, check_attributes
from monofs.model.errors import ConditionFailed, InvalidArgument, IsADirectory, NotSupported
from monofs.model.ids import NO_CONTENT
from monofs.model.inode import Kind
from monofs.model.paths import format_path, parse_path


def begin_copy(draft: Draft, change: BeginCopy) -> bytes:
    """The intent. ``CrossMount`` between mounts; ``NotSupported`` where no store has the source: read it and write it then."""
    parts, onto = parse_path(change.source), parse_path(change.target)
    path, target_path = format_path(parts), format_path(onto)
    check_may_begin(draft, change.asker)
    source, target = (draft.lookup_key(each, as_key=change.as_key) for each in (parts, onto))
    inode = existing(source, path)
    if inode.kind != Kind.FILE:
        raise IsADirectory(f"{path} is a directory", path=path)
    check_content(inode, path, change.if_content)
    itself = parts == onto
    if itself and (change.expected < 0 or change.attributes is None):
        raise InvalidArgument(f"{path} cannot be copied onto itself", path=path)
    if itself and (inode.attributes or 0) != change.expected:
        raise ConditionFailed(f"what is kept with {path} was changed meanwhile", path=path)
    check_target(target, onto, target_path, parents=change.parents, exclusive=change.exclusive)
    check_one_mount(source, target, path, target_path)
    if change.attributes is not None:
        check_attributes(change.attributes)
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
        content=NO_CONTENT if itself else draft.new_content_id(inode.size),
        size=inode.size,
        replaced=inode.fingerprint,
        exclusive=change.exclusive,
        mode=inode.mode,
        uid=asker.uid,
        gid=asker.gid,
        target=target_path,
        target_key=spot.key,
        target_replaced=spot.replaced,
        parents=change.parents,
        attributes=draft.state.attributes(inode) if change.attributes is None else change.attributes,
        etag=inode.etag,
        as_key=change.as_key,
        tags_only=itself and _is_retagged(draft.state.attributes(inode), change.attributes),
    )
    return open_for(draft, change.asker, intent)


def _is_retagged(known: Attributes | None, wanted: Attributes | None) -> bool:
    """Whether a store that keeps both has to be told of tags only."""
    before, after = known or Attributes(), wanted or Attributes()
    return (before.headers, before.user) == (after.headers, after.user)
