"""SET_BUCKET: a path becomes a bucket under a name of its own, or is one no more."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import SetBucket
from monofs.metadata.tables import BUCKETS_MAX, Bucket
from monofs.model.bucket import check_bucket_name
from monofs.model.errors import AlreadyExists, NotFound, Overloaded
from monofs.model.paths import format_path, parse_path


def set_bucket(draft: Draft, change: SetBucket) -> None:
    """An empty path removes. The path itself is not asked for: it may lie below a store that was not looked at."""
    known = draft.state.known_buckets.by_name
    name = change.name
    if not change.path:
        if name not in known:
            raise NotFound(f"there is no bucket {name} that was given a path: `monofs s3 bucket ls` lists them")
        draft.put_bucket(name, None)
        return
    check_bucket_name(name)
    path = format_path(parse_path(change.path))
    if name in known:
        if known[name].path == path:
            return
        raise AlreadyExists(f"the bucket {name} is {known[name].path}: remove it first, or choose another name")
    root = draft.lookup((name.encode(),))
    if root.inode is not None and root.inode.is_directory:
        raise AlreadyExists(f"/{name} is a directory, and so a bucket already: choose another name")
    if len(known) >= BUCKETS_MAX:
        raise Overloaded(f"{BUCKETS_MAX} buckets were given a path already: remove some")
    draft.put_bucket(name, Bucket(path, draft.now_ns, change.issuer))
